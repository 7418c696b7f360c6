import { Buffer } from 'node:buffer';
import t from 'tap';
import { ECONNRESET, EIO, ESHUTDOWN } from '../../src/base/errno.js';
import { disconnectMilliseconds, handshakeMilliseconds } from '../../src/base/limits.js';
import type { Disk } from '../backing/scripted-engine.js';
import { random } from '../contract/pattern.js';
import { pattern } from '../device/io-client.js';
import {
  CMD,
  CMD_FLAG,
  extended,
  hello,
  type Mode,
  type RequestFields,
  request,
  simple,
  statusPayload,
  structured,
} from './client.js';
import type { FakeSocket } from './fake-socket.js';
import { Rig } from './rig.js';

const MiB = 2 ** 20;

interface Bench {
  readonly rig: Rig;
  readonly disk: Disk;
}

async function begin(deviceBytes = 4 * MiB): Promise<Bench> {
  const rig = new Rig(64 * MiB);
  const disk = rig.disk('/disk', deviceBytes / 512);
  await rig.create('it', `0 ${deviceBytes / 512} linear /disk 0`);
  return { rig, disk };
}

function drain({ rig, disk }: Bench, next = random(1)): void {
  for (;;) {
    rig.work();
    if (disk.held.length === 0) return;
    disk.letGo(next(disk.held.length));
  }
}

/** A client's whole life in bytes. */
function life(mode: Mode): Buffer {
  const chosen = { payload: statusPayload(9000, 1), flags: CMD_FLAG.payloadLen };
  const requests: Omit<RequestFields, 'cookie'>[] = [
    ...(mode.extended ? [{ type: CMD.blockStatus, offset: 0, ...chosen }] : []),
    { type: CMD.read, offset: 0, length: 3000 },
    { type: CMD.write, offset: 8192, payload: pattern(700, 1) },
    { type: CMD.write, offset: 16_384, payload: pattern(300, 1), flags: 1 },
    { type: CMD.flush },
    { type: CMD.trim, offset: 4096, length: 4096 },
    { type: CMD.writeZeroes, offset: 4096, length: 4096 },
    { type: CMD.blockStatus, offset: 0, length: 9000 },
    { type: CMD.cache, offset: 0, length: 9000 },
    { type: CMD.write, offset: 8 * MiB, payload: pattern(200, 1) },
    { type: CMD.read, offset: 4096, length: 2 * MiB },
    { type: 77 },
    { type: CMD.disconnect },
  ];
  const bytes = requests.map((one, i) => request({ ...one, cookie: i + 1 }, mode.extended));
  return Buffer.concat([hello('it', mode), ...bytes]);
}

const endings: readonly (readonly [string, (socket: FakeSocket) => void])[] = [
  ['an ordinary end', (socket) => socket.end()],
  ['a reset', (socket) => socket.end(ECONNRESET)],
  [
    'a broken connection',
    (socket) => {
      socket.breakSends();
      socket.end(ECONNRESET);
    },
  ],
  [
    'an end of who takes no replies',
    (socket) => {
      socket.takeReplies(false);
      socket.end();
    },
  ],
];

t.test('gives everything back wherever a connection ends', async (t) => {
  const next = random(3);
  for (const [i, [title, end]] of endings.entries()) {
    const bytes = life(i % 2 === 0 ? structured : extended);
    const bench = await begin();
    const { rig, disk, engine } = { ...bench, engine: bench.rig.engine };
    engine.shuffle(next);
    for (let length = 0; length <= bytes.length; length += 1 + next(3)) {
      disk.stuck = next(2) === 0;
      const socket = rig.accept();
      const cut = next(length + 1);
      socket.push(bytes.subarray(0, cut));
      for (let turns = next(8); turns > 0; turns--) rig.turn();
      socket.push(bytes.subarray(cut, length));
      for (let turns = next(8); turns > 0; turns--) rig.turn();
      end(socket);
      for (let turns = next(8); turns > 0; turns--) rig.turn();
      drain(bench, next);
      // Replies that nobody takes are given up after a while; before GO is answered, nothing is
      // received meanwhile, so the end is not seen.
      if (!socket.closed) engine.advance(disconnectMilliseconds);
      rig.work();
      if (!socket.closed) socket.takeReplies(true);
      drain(bench, next);
      if (!socket.closed) throw new Error(`open after ${length} bytes and ${title}`);
      rig.atRest();
    }
    t.pass(title);
  }
});

t.test('answers everything that was asked before the client ended its side', async (t) => {
  const bench = await begin();
  const { rig, disk } = bench;
  disk.stuck = true;
  const client = rig.connect('it');
  const cookies = [client.read(0, 4096), client.write(0, pattern(5000, 1)), client.ask(CMD.flush)];
  client.socket.end();
  rig.work();
  t.notOk(client.socket.closed, 'while they are under way');
  drain(bench);
  for (const cookie of cookies) t.equal(client.reply(cookie)?.error, 0);
  t.ok(client.socket.closed);
  rig.atRest();
});

t.test(
  'answers a WRITE whose payload never came with an error, after what is under way',
  async (t) => {
    const bench = await begin();
    const { rig, disk } = bench;
    disk.stuck = true;
    const client = rig.connect('it', simple);
    const fields = { type: CMD.write, cookie: 9, offset: 0, payload: pattern(MiB, 1) };
    client.expect(fields);
    client.socket.push(request(fields).subarray(0, MiB / 2));
    rig.work();
    t.ok(disk.held.length > 0, 'the first pieces are being written');
    client.socket.end();
    rig.work();
    t.equal(client.reply(9), undefined);
    drain(bench);
    t.equal(client.reply(9)?.error, 5);
    t.ok(client.socket.closed);
    rig.atRest();
  },
);

t.test('waits for writes under way when the client is gone', async (t) => {
  for (const [title, end] of endings.slice(1, 3)) {
    const bench = await begin();
    const { rig, disk } = bench;
    disk.stuck = true;
    const client = rig.connect('it');
    const data = pattern(3000, 2);
    client.write(100, data);
    const flush = client.ask(CMD.flush);
    rig.work();
    end(client.socket);
    rig.work();
    disk.letGo(0);
    rig.work();
    t.ok(data.equals(disk.bytes.subarray(100, 3100)), title);
    t.notOk(client.socket.closed);
    drain(bench);
    t.ok(client.socket.closed);
    t.equal(client.reply(flush) === undefined, title === 'a broken connection');
    rig.atRest();
  }
});

t.test('forgets the answers that a broken connection cannot take', async (t) => {
  const { rig } = await begin();
  const client = rig.connect('it');
  client.socket.takeReplies(false);
  // One answer is being sent, the others wait for it.
  client.ask(CMD.flush);
  rig.work();
  client.read(0, 2 * MiB);
  for (let i = 0; i < 300; i++) client.read(i * 512, 8000);
  rig.work();
  client.socket.breakSends();
  rig.work();
  t.equal(client.unanswered, 302);
  t.ok(client.socket.closed);
  rig.atRest();
});

t.test('gives up a client that takes no replies when it is to go', async (t) => {
  const { rig } = await begin();
  const client = rig.connect('it');
  client.socket.takeReplies(false);
  client.read(0, MiB);
  client.ask(CMD.disconnect);
  rig.work();
  rig.engine.advance(disconnectMilliseconds - 1);
  t.notOk(client.socket.closed);
  rig.engine.advance(1);
  rig.work();
  t.ok(client.socket.closed);
  rig.atRest();
});

t.test('gives a handshake so long and no longer', async (t) => {
  const { rig } = await begin();
  const bytes = hello('it', simple);
  const slow = rig.accept();
  slow.push(bytes.subarray(0, 10));
  const stubborn = rig.accept();
  stubborn.takeReplies(false);
  const quick = rig.accept();
  quick.push(bytes);
  rig.work();
  rig.engine.advance(handshakeMilliseconds - 1);
  rig.work();
  t.notOk(slow.closed);
  rig.engine.advance(1);
  rig.work();
  t.ok(slow.closed);
  t.match(rig.logged, [/no export chosen within 10000 ms/, /no export chosen within 10000 ms/]);
  t.notOk(stubborn.closed, 'it has the greeting to take');
  rig.engine.advance(disconnectMilliseconds);
  rig.work();
  t.ok(stubborn.closed);
  rig.engine.advance(10 * handshakeMilliseconds);
  t.notOk(quick.closed, 'transmission has no such limit');
  quick.end();
  rig.work();
  rig.atRest();
});

t.test('takes a connection only as long as its export is there', async (t) => {
  const { rig } = await begin();
  await rig.create('empty');
  const refused = rig.accept();
  refused.push(hello('empty', simple));
  rig.work();
  t.match(refused.takeOutput().toString('latin1'), /found none of that name/);
  refused.end();
  rig.work();
  t.ok(refused.closed);
  rig.atRest();
});

t.test('sends clients of a removed device away, when what they asked is answered', async (t) => {
  const bench = await begin();
  const { rig, disk } = bench;
  const client = rig.connect('it', structured);
  const idle = rig.connect('it', structured);
  disk.stuck = true;
  const before = client.read(0, 4096);
  const fields = { type: CMD.write, cookie: 50, offset: 0, payload: pattern(8000, 1) };
  client.expect(fields);
  client.socket.push(request(fields).subarray(0, 4000));
  rig.work();
  await t.rejects(rig.wait(rig.devices.remove('it', false)), { message: /in use by 2 clients/ });
  const removed = rig.devices.remove('it', true);
  await rig.settle();
  rig.work();
  t.ok(idle.socket.closed);
  t.notOk(client.socket.closed);
  drain(bench);
  t.equal(client.reply(before)?.error, 0);
  t.equal(client.reply(50)?.error, 5);
  t.ok(client.socket.closed);
  disk.letGo();
  await rig.wait(removed);
  t.equal(disk.descriptors, 0);
  t.match(rig.logged, [/the device was removed/, /the device was removed/]);
  rig.atRest();
});

t.test(
  'shuts down: answers what is under way, ESHUTDOWN to what has come, and closes',
  async (t) => {
    const bench = await begin();
    const { rig, disk } = bench;
    const client = rig.connect('it', structured);
    const reading = rig.connect('it', simple);
    const greeted = rig.accept();
    const silent = rig.accept();
    silent.takeReplies(false);
    rig.work();
    disk.stuck = true;
    // The requests behind those that are under way wait in the window.
    const under = Array.from({ length: 256 }, (_, i) => client.read(i * 512, 512));
    const late = [client.read(0, 512), client.write(0, pattern(600, 1)), client.ask(CMD.flush)];
    const broken = { type: CMD.write, cookie: 9000, offset: 0, payload: pattern(600, 1) };
    client.expect(broken);
    client.socket.push(request(broken).subarray(0, 100));
    const slow = reading.read(0, 2 * MiB);
    rig.work();
    const down = rig.server.shutdown();
    rig.work();
    t.ok(greeted.closed, 'who is still haggling is sent away');
    t.notOk(client.socket.closed);
    disk.letGo();
    rig.work();
    for (const cookie of under) t.equal(client.reply(cookie)?.error, 0);
    t.equal(reading.reply(slow)?.error, 0);
    t.ok(reading.socket.closed);
    const answered = late.filter((cookie) => client.reply(cookie) !== undefined);
    for (const cookie of answered) t.equal(client.reply(cookie)?.error, ESHUTDOWN);
    t.ok(client.socket.closed);
    t.notOk(await rig.isSettled(down), 'one does not take its greeting');
    rig.engine.advance(disconnectMilliseconds);
    rig.work();
    t.ok(silent.closed);
    await rig.wait(down);
    rig.atRest();
  },
);

t.test('leaves simple requests that it has not begun to the next daemon', async (t) => {
  const bench = await begin();
  const { rig, disk } = bench;
  disk.stuck = true;
  const client = rig.connect('it', simple);
  const under = Array.from({ length: 8 }, (_, i) => client.read(i * 512, 2 * MiB));
  const late = [client.read(0, MiB), client.ask(CMD.flush), client.write(0, pattern(500, 1))];
  const broken = { type: CMD.write, cookie: 9000, offset: 0, payload: pattern(600, 1) };
  client.expect(broken);
  client.socket.push(request(broken).subarray(0, 100));
  rig.work();
  const down = rig.server.shutdown();
  drain(bench);
  for (const cookie of under) t.equal(client.reply(cookie)?.error, 0);
  for (const cookie of [...late, 9000]) t.equal(client.reply(cookie), undefined);
  t.ok(client.socket.closed);
  disk.letGo();
  await rig.wait(down);
  rig.atRest();
});

t.test('answers ESHUTDOWN to requests that were received and not taken', async (t) => {
  const bench = await begin();
  const { rig, disk } = bench;
  disk.stuck = true;
  const client = rig.connect('it', structured);
  // The share for reads is used up, so that what follows waits.
  const under = Array.from({ length: 8 }, (_, i) => client.read(i * 512, 2 * MiB));
  const fields = [
    { type: CMD.read, cookie: 101, offset: 0, length: MiB },
    { type: CMD.flush, cookie: 102 },
    { type: CMD.write, cookie: 103, offset: 0, payload: pattern(500, 1) },
  ];
  for (const each of fields) client.expect(each);
  client.socket.push(Buffer.concat(fields.map((one) => request(one))));
  rig.work();
  t.equal(client.unanswered, under.length + 3);
  const down = rig.server.shutdown();
  drain(bench);
  for (const cookie of under) t.equal(client.reply(cookie)?.error, 0);
  for (const { cookie } of fields) {
    t.match(client.reply(cookie), { error: ESHUTDOWN, text: 'the server is shutting down' });
  }
  t.ok(client.socket.closed);
  disk.letGo();
  await rig.wait(down);
  rig.atRest();
});

t.test('shuts down with nobody there', async (t) => {
  const { rig } = await begin();
  await rig.wait(rig.server.shutdown());
  rig.atRest();
  t.same(rig.events, []);
});

t.test('tells who comes and goes', async (t) => {
  const { rig } = await begin();
  const client = rig.connect('it');
  const socket = rig.accept();
  client.leave();
  socket.end();
  rig.work();
  t.same(rig.events, ['open peer0 it', 'close peer0 it']);
});

t.test('keeps nothing of ten thousand connections', async (t) => {
  const bench = await begin(MiB);
  const { rig, disk, engine } = { ...bench, engine: bench.rig.engine };
  const next = random(17);
  engine.shuffle(next);
  disk.script = () => (next(30) === 0 ? -EIO : undefined);
  const bytes = hello('it', simple);
  const open: FakeSocket[] = [];
  for (let i = 0; i < 10_000; i++) {
    const socket = rig.accept();
    const length = next(5) === 0 ? next(bytes.length) : bytes.length;
    socket.push(bytes.subarray(0, length));
    if (length === bytes.length) {
      const offset = next(1000) * 512;
      socket.push(
        request({ type: CMD.write, cookie: 1, offset, payload: pattern(next(3000) + 1, i) }),
      );
      socket.push(request({ type: CMD.read, cookie: 2, offset, length: next(20_000) + 1 }));
    }
    open.push(socket);
    while (open.length > 20) endings[next(3)]?.[1](open.splice(next(20), 1)[0] as FakeSocket);
    for (let turns = next(16); turns > 0; turns--) rig.turn();
  }
  for (const socket of open) socket.end();
  rig.work();
  t.notMatch(rig.logged.join(), /refused/, 'never too many at a time');
  rig.atRest();
  t.ok(rig.ios.made > 1 && rig.ios.made < 200, `${rig.ios.made} ios were made`);
  t.ok(rig.events.length > 4_000, `${rig.events.length / 2} connections began transmission`);
  t.ok(
    rig.traffic.mostSends > 1 && rig.traffic.mostSends < 50,
    `${rig.traffic.mostSends} batches were made`,
  );
  t.equal(rig.devices.info('it').inFlight, 0);
});
