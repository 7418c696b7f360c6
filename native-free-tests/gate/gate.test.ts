/** The gate with real sockets and TLS: who is brought to the queue, as whom, and with what. */

import { Buffer } from 'node:buffer';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import t from 'tap';
import { connections, connectionsSpare } from '../../src/base/limits.js';
import { type Brought, type GateClient, option, Rig } from './rig.js';

const TLS_REQD = 0x8000_0005;

t.test('brings a client through TLS, of either version, and pipes both ways', async (t) => {
  for (const mode of ['on', 'require'] as const) {
    for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
      const rig = await Rig.open(t, { mode });
      const plain = await rig.client(3);
      const client = await plain.starttls({ minVersion: version, maxVersion: version });
      t.equal(client.socket.getProtocol(), version);
      const { preamble, socket, inbox } = await rig.queue.next();
      t.match(preamble, { peer: { host: '127.0.0.1', secure: true }, resume: { clientFlags: 3 } });
      t.match(preamble.peer.name, `127.0.0.1:${plain.socket.localPort}`);
      client.socket.write('to the queue');
      t.equal(String(await inbox.take(12)), 'to the queue');
      socket.write('to the client');
      t.equal(String(await client.inbox.take(13)), 'to the client');
      client.socket.end();
      t.equal((await inbox.rest()).length, 0);
      socket.end('bye');
      t.equal(String(await client.inbox.rest()), 'bye');
    }
  }
});

t.test('keeps plain clients out when tls is required', async (t) => {
  const rig = await Rig.open(t);
  const client = await rig.client();
  const { type, text } = await client.ask(option(3));
  t.equal(type, TLS_REQD);
  t.match(text, /^NBD_OPT_LIST: tls is required here/);
  client.socket.write(option(1, Buffer.from('vol0')));
  t.equal((await client.inbox.rest()).length, 0, 'EXPORT_NAME is dropped');
  t.equal(rig.queue.arrivals, 0, 'and the queue has heard of nobody');
  t.match(rig.log, [{ level: 'warn', text: /handshake failed: NBD_OPT_EXPORT_NAME/ }]);
});

t.test('brings a plain client to the queue with all that it has said', async (t) => {
  const rig = await Rig.open(t, { mode: 'on' });
  const client = await rig.client(1);
  client.socket.write(option(8));
  const { preamble, socket, inbox } = await rig.queue.next();
  t.match(preamble, { peer: { secure: false }, resume: { clientFlags: 1 } });
  t.strictSame(await inbox.take(16), option(8));
  socket.write('answer');
  t.equal(String(await client.inbox.take(6)), 'answer');
  const requests = Buffer.alloc(100_000, 0x25);
  client.socket.write(requests);
  t.strictSame(await inbox.take(requests.length), requests);
});

t.test('forgets what a client has agreed on before STARTTLS', async (t) => {
  const rig = await Rig.open(t, { mode: 'on' });
  const client = await rig.client(3);
  client.socket.write(option(8));
  const before = await rig.queue.next();
  t.strictSame(await before.inbox.take(16), option(8));
  // The client is still to get the answer to what came before, and then STARTTLS's.
  client.socket.write(option(5));
  t.equal((await before.inbox.rest()).length, 0, 'the queue hears of no STARTTLS');
  before.socket.end('answer to the first');
  t.equal(String(await client.inbox.take(19)), 'answer to the first');
  const secure = await client.begin();
  const after = await rig.queue.next();
  t.match(after.preamble, { peer: { secure: true }, resume: { clientFlags: 3 } });
  secure.socket.write(option(7));
  t.strictSame(await after.inbox.take(16), option(7), 'it begins anew, with nothing before it');
  t.equal(rig.queue.arrivals, 2);
});

t.test('carries out options that come in one segment with STARTTLS first', async (t) => {
  const rig = await Rig.open(t, { mode: 'on' });
  const client = await rig.silentClient();
  client.socket.write(Buffer.concat([Buffer.from([0, 0, 0, 3]), option(3), option(5)]));
  await client.inbox.take(18);
  const { inbox, socket } = await rig.queue.next();
  t.strictSame(await inbox.rest(), option(3));
  socket.end('list');
  t.equal(String(await client.inbox.take(4)), 'list');
  await client.begin();
  t.match((await rig.queue.next()).preamble.peer, { secure: true });
});

t.test('lets nothing that came in plain text into TLS', async (t) => {
  const behind = { 'an option': option(8), 'tls itself': Buffer.from('160301', 'hex') };
  for (const mode of ['on', 'require'] as const) {
    for (const [what, bytes] of Object.entries(behind)) {
      const rig = await Rig.open(t, { mode });
      const client = await rig.client();
      client.socket.write(Buffer.concat([option(5), bytes]));
      t.equal((await client.inbox.rest()).length, 0, `${mode}: ${what} in one segment: no ACK`);
      await rig.logged(/handshake failed: found bytes behind NBD_OPT_STARTTLS, wanted none/);
      const later = await rig.client();
      t.equal((await later.ask(option(5))).type, 1);
      later.socket.write(bytes);
      later.socket.write(option(8));
      await later.inbox.rest();
      await rig.logged(/handshake failed: tls: /);
      t.equal(rig.queue.arrivals, 0, `${mode}: the queue has heard of nobody`);
    }
  }
});

t.test('refuses wrong keys, unknown users and old versions, and says why', async (t) => {
  const rig = await Rig.open(t);
  const attempts = [
    { pskCallback: () => ({ identity: 'alice', psk: Buffer.alloc(16, 1) }) },
    { pskCallback: () => ({ identity: 'mallory', psk: Buffer.alloc(16, 1) }) },
    { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'ALL:PSK:@SECLEVEL=0' },
    { ciphers: 'PSK-AES128-GCM-SHA256', maxVersion: 'TLSv1.2' },
  ] as const;
  for (const attempt of attempts) {
    await t.rejects((await rig.client()).starttls(attempt));
  }
  const reasons = rig.log.map(({ text }) => text.replace(/^.*handshake failed: tls: /, ''));
  t.match(reasons, [
    /^binder does not verify$/,
    /^found user "mallory", who has no pre-shared key$/,
    /^unsupported protocol$/,
    /^no shared cipher$/,
  ]);
  t.notMatch(JSON.stringify(rig.log), /OpenSSL|SSL routines/i, 'in plain words');
  t.equal(rig.queue.arrivals, 0);
});

t.test('ends a handshake that takes too long, wherever it is', async (t) => {
  const rig = await Rig.open(t, {}, 150);
  const silent = await rig.silentClient();
  await silent.inbox.rest();
  const asks = await rig.client();
  // It is not to be ended for asking more often than it may.
  while (!asks.inbox.ended) {
    await asks.ask(option(3));
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const begins = await rig.client();
  await begins.ask(option(5));
  await begins.inbox.rest();
  const late = rig.log.filter(({ text }) => text.endsWith('not ended within 150 ms'));
  t.equal(late.length, 3);
  t.equal(rig.log.length, 3, 'and each is told once');
});

t.test('gives the queue what is left of the time', async (t) => {
  const rig = await Rig.open(t);
  const client = await rig.client();
  await new Promise((resolve) => setTimeout(resolve, 30));
  await client.starttls();
  const { preamble } = await rig.queue.next();
  t.ok((preamble.resume?.spentMilliseconds ?? 0) >= 29);
});

t.test('serves as long as it takes when there is no time limit', async (t) => {
  const rig = await Rig.open(t, {}, 0);
  const client = await rig.client();
  await client.starttls();
  t.match((await rig.queue.next()).preamble.peer, { secure: true });
});

t.test('refuses more clients than there may be', async (t) => {
  const rig = await Rig.open(t, { mode: 'on' });
  const brought = async (): Promise<Brought> => {
    const client = await rig.client();
    client.socket.write(option(3));
    return rig.queue.next();
  };
  // As many at once as need not make room for each other.
  const early = connections - connectionsSpare;
  await Promise.all(Array.from({ length: early }, brought));
  for (let i = early; i < connections - 1; i++) await brought();
  const last = await brought();
  const more = await rig.silentClient();
  t.equal((await more.inbox.rest()).length, 0, 'without a greeting');
  t.match(rig.log, [{ level: 'warn', text: /refused, 1024 are connected/ }]);
  last.socket.end();
  for (;;) {
    const next = await rig.silentClient();
    if ((await next.inbox.take(18)).length === 18) break;
    next.socket.destroy();
  }
  t.pass('when one has gone, another may come');
});

t.test('has those who do not begin make room, the oldest first', async (t) => {
  const rig = await Rig.open(t);
  const crowd: GateClient[] = [];
  for (let i = 0; i < 2 * connections; i++) crowd.push(await rig.client());
  await crowd[connections]?.inbox.rest();
  const late = await rig.client();
  await late.starttls();
  t.ok((await rig.queue.next()).preamble.peer.secure);
  const ended = crowd.filter(({ inbox }) => inbox.ended);
  t.strictSame(ended, crowd.slice(0, ended.length));
  t.match(rig.log[0]?.text, /handshake failed: not ended yet, and 1024 connections are the most$/);
  const warnings = rig.log.filter(({ level }) => level === 'warn');
  t.strictSame(
    warnings.filter(({ text }) => !text.endsWith('are the most')),
    [],
  );
});

const noProc = existsSync('/proc/self/fd') ? false : 'descriptors cannot be counted here';

t.test('gives every descriptor back', { skip: noProc }, async (t) => {
  // A client that is left over would stay for ever.
  const rig = await Rig.open(t, { mode: 'on' }, 0);
  const open = (): number => readdirSync('/proc/self/fd').length;
  const before = open();
  const ways: ((client: GateClient) => unknown)[] = [
    ({ socket }) => socket.destroy(),
    ({ socket }) => socket.end(),
    ({ socket }) => socket.end(option(5)),
    ({ socket }) => socket.write(Buffer.concat([option(5), option(5)])),
    async (client) => (await client.starttls()).socket.destroy(),
    async (client) => (await client.starttls()).socket.end(),
    (client) => client.starttls().then(() => client.socket.resetAndDestroy()),
    (client) => client.starttls({ pskCallback: () => null }).catch(() => {}),
    ({ socket }) => socket.end(option(3)),
    ({ socket }) => socket.write(option(3), () => socket.resetAndDestroy()),
  ];
  for (let round = 0; round < 3; round++) {
    for (const way of ways) {
      const client = await rig.client();
      await way(client);
      // A queue goes when its client has, and a client when the gate has.
      client.socket.once('end', () => client.socket.end());
    }
  }
  const deadline = Date.now() + 60_000;
  while (open() > before && Date.now() < deadline) {
    for (const socket of rig.queue.open) if (socket.readableEnded) socket.end();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  t.equal(open(), before);
  t.equal(rig.queue.open.size, 0);
});

t.test('listens on a unix socket that is closed to others', async (t) => {
  const rig = await Rig.open(t, { mode: 'on' });
  const path = join(rig.folder, 'nbd.sock');
  t.strictSame(await rig.gate.listen({ kind: 'unix', path }), { kind: 'unix', path });
  t.equal(statSync(path).mode & 0o777, 0o600);
  const socket = connect(path);
  socket.write(Buffer.concat([Buffer.from([0, 0, 0, 3]), option(3)]));
  const { preamble, socket: queue } = await rig.queue.next();
  t.strictSame(preamble.peer, { name: `unix:${path}#1`, host: null, secure: false });
  const closed = rig.gate.close();
  t.notOk(existsSync(path), 'and takes it away');
  queue.end();
  socket.end();
  await closed;
});

t.test('hides the way to the queue from others', async (t) => {
  const rig = await Rig.open(t);
  t.equal(statSync(dirname(rig.queue.path)).mode & 0o777, 0o700);
});

t.test('drops at the end those whom the queue has not met, and waits for the others', async (t) => {
  const rig = await Rig.open(t);
  const served = await (await rig.client()).starttls();
  const { socket } = await rig.queue.next();
  const haggling = await rig.client();
  await haggling.ask(option(3));
  const beginning = await rig.client();
  await beginning.ask(option(5));
  let isClosed = false;
  const closed = rig.gate.close().then(() => {
    isClosed = true;
  });
  await haggling.inbox.rest();
  await beginning.inbox.rest();
  socket.write('the last answer');
  t.equal(String(await served.inbox.take(15)), 'the last answer');
  t.notOk(isClosed);
  socket.end();
  t.equal((await served.inbox.rest()).length, 0);
  served.socket.end();
  await closed;
  t.notOk(existsSync(dirname(rig.queue.path)), 'the private folder has gone');
});
