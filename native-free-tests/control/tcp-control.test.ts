/** Control over TCP: who is let in, who is not and what they are told, and what is bounded. */

import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import {
  controlConnections,
  controlMessageBytes,
  refusalLogsPerSecond,
} from '../../src/base/limits.js';
import { parseTcpPlace, tcpPlaceText } from '../../src/control/control-address.js';
import { Rpc } from '../../src/control/rpc.js';
import { ControlServer } from '../../src/control/server.js';
import { parseOrigin, TcpAccess } from '../../src/control/tcp-access.js';
import { readToken, TokenCheck } from '../../src/control/token.js';
import { ControlClient } from '../../src/ctl/client.js';
import { QuietLog } from './quiet-log.js';

const token = 'q5vJ+0Zb/3xkqv0S9S2cJ0rI3nJrN9o1ekzA4m0TzVo=';
const page = 'https://dashboard.example:8443';

async function setUp(t: Test, host = '127.0.0.1') {
  const log = new QuietLog();
  const server = new ControlServer(new Rpc(new Map(), log), log, new TcpAccess(token, [page]));
  const place = await server.listenTcp({ host, port: 0 });
  t.teardown(() => server.close());
  return { log, server, place, uri: tcpPlaceText(place) };
}

interface Answer {
  status: number;
  text: string;
  authenticate: string | undefined;
}

/** Asks for a WebSocket; 101 if it is had. */
function ask(port: number, headers: Record<string, string>): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({
      port,
      host: '127.0.0.1',
      headers: {
        Connection: 'Upgrade',
        Upgrade: 'websocket',
        'Sec-WebSocket-Version': '13',
        'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==',
        ...headers,
      },
    });
    request.on('error', reject);
    request.on('upgrade', (response, socket) => {
      socket.destroy();
      resolve({ status: response.statusCode ?? 0, text: '', authenticate: undefined });
    });
    request.on('response', (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part: string) => (text += part));
      const authenticate = response.headers['www-authenticate'];
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text, authenticate }));
    });
    request.end();
  });
}

const bearer = { Authorization: `Bearer ${token}` };

t.test('takes whoever shows the token', async (t) => {
  const { uri, place } = await setUp(t);
  const client = await ControlClient.connect([uri], token);
  await t.rejects(client.call('ls', {}), { message: /no such method|unknown method|"ls"/ });
  await client.close();
  t.match(await ask(place.port, { Authorization: `bearer   ${token} ` }), { status: 101 });
});

t.test('refuses others, and says why', async (t) => {
  const { log, uri, place } = await setUp(t);
  const wrong = /refuses: found a wrong token, wanted the one in the daemon's token file$/;
  for (const bad of [token.slice(0, -1), `${token}x`, token.toLowerCase(), 'x']) {
    await t.rejects(ControlClient.connect([uri], bad), { code: 'EACCES', message: wrong });
  }
  await t.rejects(ControlClient.connect([uri]), {
    code: 'EACCES',
    message: `the daemon at "${uri}" refuses: found no token, wanted the one in the daemon's token file`,
  });
  const basic = await ask(place.port, { Authorization: `Basic ${token}` });
  t.match(basic, { status: 401, authenticate: 'Bearer' });
  t.notOk(JSON.stringify(log.texts).includes(token), 'what was shown is not logged');
});

t.test('logs so many refusals in a second, and no more', async (t) => {
  const { log, place } = await setUp(t);
  const began = performance.now();
  for (let n = 0; n < 60; n++) t.match(await ask(place.port, {}), { status: 401 });
  const seconds = Math.ceil((performance.now() - began) / 1000);
  t.ok(log.texts.length >= refusalLogsPerSecond);
  t.ok(log.texts.length <= refusalLogsPerSecond * (seconds + 1), `${log.texts.length} lines`);
});

t.test('refuses web pages that are not listed, even with the token', async (t) => {
  const { place } = await setUp(t);
  const other = { ...bearer, Origin: 'https://evil.example' };
  const answer = await ask(place.port, other);
  t.match(answer, { status: 403, text: /^origin "https:\/\/evil\.example" is not listed/ });
  t.match(await ask(place.port, { ...bearer, Origin: 'null' }), { status: 403 });
  t.match(await ask(place.port, { ...bearer, Origin: page }), { status: 101 });
  t.match(await ask(place.port, { Origin: page }), { status: 401 }, 'it needs the token, too');
});

t.test('refuses names that are not its own: they may be led here', async (t) => {
  const { place } = await setUp(t);
  const host = (name: string) => ask(place.port, { ...bearer, Host: name });
  t.match(await host(`evil.example:${place.port}`), { status: 421, text: /^host "evil/ });
  t.match(await host('127.0.0.1.evil.example'), { status: 421 });
  t.match(new TcpAccess(token, []).refusal({ ...bearer }), { status: 421 }, 'none at all');
  t.match(await host(`localhost:${place.port}`), { status: 101 });
  t.match(await host('[::1]:80'), { status: 101 });
  t.match(await host('dashboard.example'), { status: 101 }, 'the name of a listed page');
});

t.test('is bounded', async (t) => {
  const { place, uri, log } = await setUp(t);

  await t.test('in clients', async (t) => {
    const clients = await Promise.all(
      Array.from({ length: controlConnections }, () => ControlClient.connect([uri], token)),
    );
    await t.rejects(ControlClient.connect([uri], token), { message: /refuses: too many clients$/ });
    t.match(log.texts.at(-1), /too many clients$/);
    for (const client of clients) await client.close();
    const again = await ControlClient.connect([uri], token);
    await again.close();
  });

  await t.test('in connections that say nothing, and in their time', async () => {
    const sockets = await Promise.all(
      Array.from({ length: 2 * controlConnections }, () => connected(place.port)),
    );
    // One more is closed unread; the others are when their time is up.
    const more = await connected(place.port);
    await closed(more);
    await Promise.all(sockets.map(closed));
    const client = await ControlClient.connect([uri], token);
    await client.close();
  });

  await t.test('in headers and messages', async (t) => {
    const long = { ...bearer, 'X-Long': 'x'.repeat(100_000) };
    t.match(await ask(place.port, long), { status: 431 });
    const client = await ControlClient.connect([uri], token);
    const table = 'x'.repeat(controlMessageBytes);
    await t.rejects(client.call('create', { name: 'a', table }), { code: 'ECONNRESET' });
    await client.closed;
  });
});

function connected(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => resolve(socket));
    socket.once('error', reject);
  });
}

function closed(socket: Socket): Promise<void> {
  socket.resume();
  return new Promise((resolve) => {
    if (socket.closed) resolve();
    socket.on('error', () => {});
    socket.once('close', () => resolve());
  });
}

t.test('says where it cannot listen', async (t) => {
  const { place } = await setUp(t);
  const log = new QuietLog();
  const second = new ControlServer(new Rpc(new Map(), log), log, new TcpAccess(token, []));
  const text = new RegExp(`^listen on tcp://127.0.0.1:${place.port}: .*EADDRINUSE`);
  await t.rejects(second.listenTcp(place), { code: 'EADDRINUSE', message: text });
  const nobody = 'tcp://127.0.0.1:1';
  const nowhere = `no daemon answers at "${nobody}" (ECONNREFUSED)`;
  await t.rejects(ControlClient.connect([nobody], token), { message: nowhere });
});

t.test('a token is a word in a file that is closed to others', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'mapperd-token-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const file = (text: string, mode = 0o600): string => {
    const path = join(folder, `token-${Math.random()}`);
    writeFileSync(path, text);
    chmodSync(path, mode);
    return path;
  };
  t.equal(await readToken(file(`${token}\nanother line\n`)), token);
  await t.rejects(readToken(file(token, 0o644)), { code: 'EACCES', message: /mode 0644/ });
  await t.rejects(readToken(file(token, 0o604)), { code: 'EACCES', message: /others/ });
  await t.rejects(readToken(file('short')), { code: 'EINVAL', message: /found 5 characters/ });
  await t.rejects(readToken(file('')), { code: 'EINVAL', message: /found 0 characters/ });
  const long = { code: 'EINVAL', message: /found 2000 characters/ };
  await t.rejects(readToken(file('x'.repeat(2000))), long);
  const secret = `two words ${token}`;
  await t.rejects(readToken(file(secret)), { message: /found blanks(?!.*q5vJ)/ });
  await t.rejects(readToken(join(folder, 'none')), { code: 'ENOENT' });
  t.ok(new TokenCheck(token).accepts(`Bearer ${token}`));
  t.notOk(new TokenCheck(token).accepts('Bearer '));
  t.notOk(new TokenCheck(token).accepts(token));
});

t.test('places and origins have one form', async (t) => {
  t.equal(parseTcpPlace('/run/mapperd.sock'), null);
  t.same(parseTcpPlace('tcp://127.0.0.1:0'), { host: '127.0.0.1', port: 0 });
  t.same(parseTcpPlace('tcp://[::1]:5'), { host: '::1', port: 5 });
  t.equal(tcpPlaceText({ host: '::1', port: 5 }), 'tcp://[::1]:5');
  for (const bad of ['tcp://', 'tcp://a', 'tcp://a:', 'tcp://a:65536', 'tcp://::1:5', 'tcp://:5']) {
    t.throws(() => parseTcpPlace(bad), { code: 'EINVAL', message: /wanted tcp:\/\/HOST:PORT$/ });
  }
  t.equal(parseOrigin(page), page);
  for (const bad of ['', 'https://a/', 'https://a:443', 'a.example', 'https://A', '*', 'null']) {
    t.throws(() => parseOrigin(bad), { code: 'EINVAL' }, bad);
  }
});
