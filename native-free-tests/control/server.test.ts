import {
  existsSync,
  lstatSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { get } from 'node:http';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { WebSocket } from 'ws';
import {
  controlConnections,
  controlEventBytes,
  controlInputBytes,
  controlMessageBytes,
  controlRequestsInFlight,
  uploadBytes,
  uploadBytesInAll,
} from '../../src/base/limits.js';
import { listenOn, removeStaleSocket } from '../../src/base/unix-socket.js';
import { Catalogue } from '../../src/control/catalogue.js';
import { controlMethods } from '../../src/control/commands.js';
import type { EventParams } from '../../src/control/messages.js';
import { Regions } from '../../src/control/regions.js';
import { Rpc } from '../../src/control/rpc.js';
import { ControlServer } from '../../src/control/server.js';
import { Snapshots } from '../../src/control/snapshots.js';
import { StateLock } from '../../src/control/state-lock.js';
import { ControlClient } from '../../src/ctl/client.js';
import { FakeQueue } from './fake-queue.js';
import { QuietLog } from './quiet-log.js';
import { someVersion as version } from './some-version.js';

const directories: string[] = [];
function newDirectory(): string {
  const path = mkdtempSync(join(tmpdir(), 'mapperd-control-'));
  directories.push(path);
  return path;
}
t.teardown(() => {
  for (const path of directories) rmSync(path, { recursive: true });
});

/** A stale socket: bound, and nobody listens. */
async function leaveSocket(path: string): Promise<void> {
  const { spawnSync } = await import('node:child_process');
  const program = `
    const die = () => process.kill(process.pid, 'SIGKILL');
    require('net').createServer().listen(process.argv[1], die);
  `;
  spawnSync(process.execPath, ['-e', program, path]);
}

async function setUp(t: Test) {
  const path = join(newDirectory(), 'c.sock');
  const queue = new FakeQueue();
  const log = new QuietLog();
  const catalogue = new Catalogue(queue, null, log);
  const snapshots = new Snapshots(queue, catalogue, null, log);
  const regions = new Regions(queue, catalogue, log);
  const methods = controlMethods({ queue, catalogue, snapshots, regions, version });
  const server = new ControlServer(new Rpc(methods, log), log);
  await server.listen(path);
  const sockets: WebSocket[] = [];
  t.teardown(() => {
    server.close();
    for (const socket of sockets) socket.terminate();
  });
  const open = (): Promise<WebSocket> =>
    new Promise((resolve, reject) => {
      const socket = new WebSocket('ws://x/', { createConnection: () => connect(path) });
      sockets.push(socket);
      socket.once('open', () => resolve(socket)).once('error', reject);
    });
  return { path, queue, log, server, open };
}

const nextMessage = (socket: WebSocket): Promise<string> =>
  new Promise((resolve) => socket.once('message', (data) => resolve(data.toString())));
const nextClose = (socket: WebSocket): Promise<number> =>
  new Promise((resolve) => socket.once('close', (code) => resolve(code)));
const until = async (condition: () => boolean): Promise<void> => {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
};

t.test('the socket', async (t) => {
  t.test('has mode 0600, leaves nothing beside it, and goes with the server', async (t) => {
    const { path, server } = await setUp(t);
    t.equal(lstatSync(path).mode & 0o7777, 0o600);
    t.ok(lstatSync(path).isSocket());
    t.same(readdirSync(join(path, '..')), ['c.sock']);
    server.close();
    t.notOk(existsSync(path));
  });

  t.test('is refused where a live one is, which goes on', async (t) => {
    const { path, open } = await setUp(t);
    const second = createServer();
    const text = `socket "${path}" is in use by another process`;
    await t.rejects(listenOn(second, path), { code: 'EBUSY', message: text });
    await t.rejects(removeStaleSocket(path), { code: 'EBUSY' });
    const socket = await open();
    socket.send('{"jsonrpc":"2.0","id":1,"method":"ls"}');
    t.equal(await nextMessage(socket), '{"jsonrpc":"2.0","id":1,"result":[]}');
    t.same(readdirSync(join(path, '..')), ['c.sock']);
  });

  t.test('takes the place of a stale one, never of anything else', async (t) => {
    const path = join(newDirectory(), 's');
    await leaveSocket(path);
    t.ok(lstatSync(path).isSocket());
    const server = createServer();
    const owned = await listenOn(server, path);
    t.equal(lstatSync(path).mode & 0o7777, 0o600);
    owned.remove();
    server.close();
    writeFileSync(path, 'precious');
    const refused = {
      code: 'EINVAL',
      message: `"${path}" is there and is no socket: it is left alone`,
    };
    await t.rejects(listenOn(createServer(), path), refused);
    const linked = join(newDirectory(), 'link');
    symlinkSync(path, linked);
    await t.rejects(listenOn(createServer(), linked), { code: 'EINVAL' });
    t.equal(lstatSync(path).size, 8);
  });

  t.test('goes to one of many that start at once over a stale one', async (t) => {
    const path = join(newDirectory(), 's');
    await leaveSocket(path);
    const servers = Array.from({ length: 8 }, () => createServer());
    const outcomes = await Promise.allSettled(servers.map((server) => listenOn(server, path)));
    const winners = outcomes.filter((outcome) => outcome.status === 'fulfilled');
    t.equal(winners.length, 1);
    t.same(readdirSync(join(path, '..')), ['s']);
    for (const server of servers) server.close();
  });

  t.test('is not removed once another has taken its path', async (t) => {
    const path = join(newDirectory(), 's');
    const [first, second] = [createServer(), createServer()];
    const owned = await listenOn(first, path);
    rmSync(path);
    const other = await listenOn(second, path);
    owned.remove();
    t.ok(existsSync(path));
    other.remove();
    t.notOk(existsSync(path));
    first.close();
    second.close();
  });

  t.test('says what is wrong with its path', async (t) => {
    const nowhere = join(newDirectory(), 'none', 's');
    await t.rejects(listenOn(createServer(), nowhere), {
      code: 'ENOENT',
      message: /^listen on ".*none\/s": ENOENT/,
    });
    const long = join(newDirectory(), 'x'.repeat(100));
    await t.rejects(listenOn(createServer(), long), {
      code: 'EINVAL',
      message: /takes \d+ bytes, at most 107$/,
    });
  });
});

t.test('the lock of a state directory', async (t) => {
  const directory = newDirectory();
  await leaveSocket(join(directory, 'lock'));
  const lock = await StateLock.take(directory);
  await t.rejects(StateLock.take(directory), {
    code: 'EBUSY',
    message: `state directory "${directory}" is in use by process ${process.pid}`,
  });
  lock.release();
  const again = await StateLock.take(directory);
  again.release();
  t.same(readdirSync(directory), []);
});

t.test('a client', async (t) => {
  t.test('calls, hears refusals as errors, and hears the end', async (t) => {
    const { path, server } = await setUp(t);
    const client = await ControlClient.connect([join(newDirectory(), 'none'), path]);
    t.equal(await client.call('create', { name: 'a', table: '0 8 zero' }), null);
    t.match(await client.call('ls', {}), [{ name: 'a' }]);
    await t.rejects(client.call('remove', { name: 'b' }), {
      code: 'ENXIO',
      message: 'remove b: no device "b"',
    });
    await t.rejects(client.call('resume', { name: '' }), { message: /name is empty/ });
    server.close();
    await client.closed;
    await t.rejects(client.call('ls', {}), { code: 'ECONNRESET' });
  });

  t.test('that finds nobody is told where it looked', async (t) => {
    const [one, two] = [join(newDirectory(), 'one'), join(newDirectory(), 'two')];
    await leaveSocket(two);
    const text = `no daemon answers at "${one}" (ENOENT) or "${two}" (ECONNREFUSED)`;
    await t.rejects(ControlClient.connect([one, two]), { message: text });
  });

  t.test('subscribes to events and hears only those', async (t) => {
    const { path, server } = await setUp(t);
    const client = await ControlClient.connect([path]);
    const heard: EventParams[] = [];
    client.onEvent = (event) => heard.push(event);
    server.publish({ event: 'device', name: 'a', what: 'create' });
    await client.call('subscribe', {});
    server.publish({ event: 'device', name: 'b', what: 'suspend' });
    server.publish({ event: 'log', level: 'info', fields: {}, text: 'hello' });
    server.publish({ event: 'connection', what: 'open', peer: 'unix', device: 'b' });
    await client.call('unsubscribe', { topics: ['device'] });
    server.publish({ event: 'device', name: 'c', what: 'create' });
    await client.call('ls', {});
    t.match(heard, [
      { event: 'device', name: 'b', what: 'suspend', time: /^\d{4}-.*Z$/ },
      { event: 'connection', peer: 'unix', device: 'b' },
    ]);
    t.equal(heard.length, 2);
    await client.close();
  });
});

t.test('limits', async (t) => {
  t.test(
    'answers 503 to clients beyond the limit, and takes them when there is room',
    async (t) => {
      const { open, log } = await setUp(t);
      const sockets = await Promise.all(Array.from({ length: controlConnections }, open));
      await t.rejects(open(), { message: 'Unexpected server response: 503' });
      t.same(log.texts, ['control client refused: too many clients']);
      sockets[0]?.close();
      await nextClose(sockets[0] as WebSocket);
      for (let tries = 0; tries < 100; tries++) {
        if (
          await open().then(
            () => true,
            () => false,
          )
        )
          return;
      }
      t.fail('room was not given back');
    },
  );

  t.test('closes on messages that are too long, binary, or no WebSocket', async (t) => {
    const { path, open } = await setUp(t);
    const long = await open();
    long.send('x'.repeat(controlMessageBytes + 1));
    t.equal(await nextClose(long), 1009);
    const binary = await open();
    binary.send(Buffer.from('{}'));
    t.equal(await nextClose(binary), 1003);
    const status = await new Promise((resolve) => {
      get({ socketPath: path, path: '/' }, (response) => {
        response.resume();
        resolve(response.statusCode);
      });
    });
    t.equal(status, 426);
    const garbage = connect(path);
    garbage.write('\0\x01garbage\r\n\r\n');
    await new Promise((resolve) =>
      garbage
        .resume()
        .on('error', () => {})
        .once('close', resolve),
    );
    const next = await open();
    next.send('{"jsonrpc":"2.0","id":1,"method":"ls"}');
    t.match(await nextMessage(next), '"result":[]');
  });

  t.test('carries out only so many requests of a client at a time, and all of them', async (t) => {
    const { open, queue } = await setUp(t);
    let release = (): void => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    queue.before = () => held;
    const socket = await open();
    const replies: number[] = [];
    socket.on('message', (data) => replies.push(JSON.parse(data.toString()).id));
    const count = 3 * controlRequestsInFlight;
    for (let id = 0; id < count; id++) socket.send(`{"jsonrpc":"2.0","id":${id},"method":"ls"}`);
    await until(() => queue.calls.length === controlRequestsInFlight);
    // Whatever else has arrived by now waits.
    await new Promise((resolve) => setTimeout(resolve, 20));
    t.equal(queue.calls.length, controlRequestsInFlight);
    release();
    await until(() => replies.length === count);
    t.same(
      replies,
      Array.from({ length: count }, (_, id) => id),
    );
  });

  t.test('stops reading a client that does not take its replies', async (t) => {
    const { open, queue } = await setUp(t);
    const answer = 'x'.repeat(2 ** 20);
    queue.call = async () => {
      queue.calls.push('targets');
      return answer as never;
    };
    const socket = await open();
    socket.pause();
    for (let id = 0; id < 200; id++) socket.send(`{"jsonrpc":"2.0","id":${id},"method":"targets"}`);
    let before = -1;
    while (queue.calls.length !== before) {
      before = queue.calls.length;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    t.ok(queue.calls.length <= controlRequestsInFlight, `${queue.calls.length} were answered`);
    let replies = 0;
    socket.on('message', () => replies++);
    socket.resume();
    await until(() => replies === 200);
    t.equal(queue.calls.length, 200);
  });

  t.test('carries out requests of so many bytes at a time, and all of them', async (t) => {
    const { queue, open } = await setUp(t);
    let release = (): void => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    queue.before = () => held;
    const socket = await open();
    let answers = 0;
    socket.on('message', () => answers++);
    const table = `0 8 zero\n#${'x'.repeat(1_000_000)}`;
    const count = 20;
    let length = 0;
    for (let id = 1; id <= count; id++) {
      const params = { name: `device${id}`, table };
      const request = JSON.stringify({ jsonrpc: '2.0', id: 100 + id, method: 'create', params });
      length = request.length + 1;
      socket.send(request);
    }
    const most = Math.floor(controlInputBytes / length);
    await until(() => queue.calls.length === most);
    // Whatever else has arrived by now waits.
    await new Promise((resolve) => setTimeout(resolve, 20));
    t.equal(queue.calls.length, most);
    release();
    await until(() => answers === count);
    t.equal(queue.devices.size, count);
  });

  t.test('has room for so many bytes of uploads, of all clients together', async (t) => {
    const { open } = await setUp(t);
    const answersOf = async (): Promise<() => Promise<string>> => {
      const socket = await open();
      const params = { name: 'a', bytes: uploadBytes };
      socket.send(JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'upload', params }));
      // What is asked behind it is answered; then the upload has been heard.
      socket.send('{"jsonrpc":"2.0","id":2,"method":"ls"}');
      t.teardown(() => socket.terminate());
      const first = await nextMessage(socket);
      return async () => {
        if (first.includes('"id":1')) return first;
        const closed = nextClose(socket);
        socket.close();
        await closed;
        return '';
      };
    };
    const held = [];
    for (let n = 0; n < uploadBytesInAll / uploadBytes; n++) held.push(await answersOf());
    const beyond = await answersOf();
    t.match(await beyond(), /"code":"EBUSY"/);
    for (const end of held) t.equal(await end(), '', 'had room, and waits for its bytes');
    for (;;) {
      // The server hears of the end a little later.
      const again = await answersOf();
      if ((await again()) === '') break;
    }
  });

  t.test('drops a subscriber that does not take its events, not the others', async (t) => {
    const { path, open, server, log } = await setUp(t);
    const slow = await open();
    slow.send('{"jsonrpc":"2.0","id":1,"method":"subscribe","params":{"topics":["log"]}}');
    await nextMessage(slow);
    slow.pause();
    const quick = await ControlClient.connect([path]);
    let heard = 0;
    quick.onEvent = () => heard++;
    await quick.call('subscribe', { topics: ['log'] });
    const text = 'x'.repeat(controlEventBytes / 8);
    const most = 1000;
    let sent = 0;
    for (; sent < most && log.texts.length === 0; sent++) {
      server.publish({ event: 'log', level: 'info', fields: {}, text });
      await until(() => heard === sent + 1);
    }
    t.same(log.texts, ['control client too slow for its events: dropped']);
    server.publish({ event: 'log', level: 'info', fields: {}, text });
    await until(() => heard === sent + 1);
    await quick.close();
  });
});

t.test('a draining server answers what it has begun, and nothing more', async (t) => {
  const { path, open, queue, server } = await setUp(t);
  let release = (): void => {};
  const held = new Promise<void>((resolve) => (release = resolve));
  queue.before = () => held;
  const socket = await open();
  const replies: string[] = [];
  socket.on('message', (data) => replies.push(data.toString()));
  socket.send('{"jsonrpc":"2.0","id":1,"method":"ls"}');
  await until(() => queue.calls.length === 1);
  server.drain();
  t.notOk(existsSync(path));
  socket.send('{"jsonrpc":"2.0","id":2,"method":"ls"}');
  release();
  await until(() => replies.length === 1);
  server.close();
  t.equal(await nextClose(socket), 1001);
  t.same(replies, ['{"jsonrpc":"2.0","id":1,"result":[]}']);
});
