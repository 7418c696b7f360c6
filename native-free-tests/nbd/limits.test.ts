import { Buffer } from 'node:buffer';
import t from 'tap';
import { EIO } from '../../src/base/errno.js';
import {
  arenaBytes,
  blockBytesMax,
  connectionBytesMax,
  connections as connectionsMax,
  largeReadBytes,
  payloadBytes,
  requestsPerConnection,
} from '../../src/base/limits.js';
import type { Disk } from '../backing/scripted-engine.js';
import { random } from '../contract/pattern.js';
import { pattern } from '../device/io-client.js';
import { CMD, simple } from './client.js';
import { type Client, Rig } from './rig.js';

const MiB = 2 ** 20;
const KiB = 2 ** 10;
/** What a connection may hold for replies, while they are few. */
const share = connectionBytesMax / 2;

interface Bench {
  readonly rig: Rig;
  readonly disk: Disk;
}

/** A device `it` over a disk that does not hold that many bytes, but fails with EIO where told. */
async function begin(deviceBytes = 512 * MiB, memory = arenaBytes): Promise<Bench> {
  const rig = new Rig(memory);
  const disk = rig.disk('/disk', deviceBytes / 512);
  await rig.create('it', `0 ${deviceBytes / 512} linear /disk 0`);
  return { rig, disk };
}

/** Ends what waits on the disk, one after the other, until there is nothing left. */
function drain({ rig, disk }: Bench, next = random(1)): void {
  for (;;) {
    rig.work();
    if (disk.held.length === 0) return;
    disk.letGo(next(disk.held.length));
  }
}

function leaveAll(rig: Rig): void {
  for (const client of rig.clients) if (!client.socket.closed) client.leave();
  // A timer for asking for memory again may run on behind its connection.
  rig.engine.advance(10);
  rig.atRest();
}

t.test('stops receiving when the reads of a connection hold its share, and goes on', async (t) => {
  const bench = await begin();
  const { rig, disk } = bench;
  disk.stuck = true;
  const client = rig.connect('it');
  const other = rig.connect('it');
  const count = share / MiB;
  for (let i = 0; i < count + 20; i++) client.read(i * MiB, MiB);
  rig.work();
  t.equal(disk.held.length, count);
  t.notOk(client.socket.isReceiving);
  other.read(0, MiB);
  rig.work();
  t.equal(disk.held.length, count + 1, 'another connection has a share of its own');
  disk.letGo(3);
  rig.work();
  t.equal(disk.held.length, count + 1);
  disk.letGo(disk.held.length - 2);
  rig.work();
  drain(bench);
  t.equal(client.unanswered + other.unanswered, 0);
  leaveAll(rig);
});

t.test('divides the memory among those who are there', async (t) => {
  const bench = await begin();
  const { rig, disk } = bench;
  disk.stuck = true;
  for (let i = 0; i < 64; i++) rig.connect('it');
  const [client] = rig.clients as [Client];
  const each = arenaBytes / 2 / 64 / 2;
  for (let i = 0; i < 100; i++) client.read(i * 256 * KiB, 256 * KiB);
  rig.work();
  t.equal(disk.held.length, each / (256 * KiB));
  drain(bench);
  t.equal(client.unanswered, 0);
  leaveAll(rig);
});

/** Large reads hold memory and no data: they fail. */
async function beginLarge(): Promise<Bench> {
  const bench = await begin();
  bench.disk.script = () => -EIO;
  bench.disk.stuck = true;
  return bench;
}

t.test('carries out large reads in the order in which they were asked for', async (t) => {
  const bench = await beginLarge();
  const { rig, disk } = bench;
  const most = Math.floor(largeReadBytes / payloadBytes);
  const clients = Array.from({ length: most + 3 }, () => rig.connect('it'));
  const lengths = clients.map((_, i) => (i === most + 1 ? share + MiB : payloadBytes));
  for (const [i, client] of clients.entries()) client.read(i * MiB, lengths[i] as number);
  rig.work();
  t.equal(
    disk.held.length,
    (most * payloadBytes) / blockBytesMax,
    'as many as there is memory for',
  );
  t.notOk(clients[most]?.socket.isReceiving);
  const small = clients[0]?.read(0, 4096);
  rig.work();
  t.equal(disk.held.length, (most * payloadBytes) / blockBytesMax + 1, 'others go on meanwhile');
  const order = (): number[] => {
    return clients.flatMap((client, i) => (client.unanswered === 0 ? [i] : []));
  };
  t.same(order(), []);
  // One after the other, the oldest operations first, so the reads end in their order.
  const ended: number[] = [];
  for (;;) {
    rig.work();
    for (const i of order()) if (!ended.includes(i)) ended.push(i);
    if (disk.held.length === 0) break;
    disk.letGo(0);
  }
  t.same(
    ended.filter((i) => i > 0),
    clients.map((_, i) => i).slice(1),
    'nobody overtakes, not even who needs less',
  );
  t.equal(clients[0]?.reply(small as number)?.error, 5);
  leaveAll(rig);
});

t.test('starves no large read, whatever becomes of those before it', async (t) => {
  /** A budget that is taken, one client that waits for its turn, and one behind it. */
  const wait = async (filler: number, length: number, others = 0) => {
    const bench = await beginLarge();
    const { rig } = bench;
    const holders = [0, 1, 2, 3].map(() => rig.connect('it'));
    const [first, second] = [rig.connect('it'), rig.connect('it')];
    const idle = Array.from({ length: others }, () => rig.connect('it'));
    for (const [i, holder] of holders.entries()) holder.read(0, i === 3 ? filler : payloadBytes);
    first.read(0, 512);
    const waiting = first.read(4 * MiB, length);
    rig.work();
    const behind = second.read(2 * MiB, payloadBytes);
    rig.work();
    return { ...bench, holders, first, second, waiting, behind, idle };
  };
  await t.test('one that waits leaves', async (t) => {
    const { first, second, behind, ...bench } = await wait(40 * MiB, payloadBytes);
    first.socket.end();
    drain(bench);
    t.ok(first.socket.closed);
    t.equal(second.reply(behind)?.error, 5);
    leaveAll(bench.rig);
  });
  await t.test('one that waits breaks', async (t) => {
    const { first, second, behind, ...bench } = await wait(40 * MiB, payloadBytes);
    first.socket.breakSends();
    drain(bench);
    t.ok(first.socket.closed);
    t.equal(second.reply(behind)?.error, 5);
    leaveAll(bench.rig);
  });
  await t.test('the table of one that waits becomes too small for it', async (t) => {
    const bench = await wait(40 * MiB, payloadBytes);
    const { rig, holders, first, second, waiting, behind } = bench;
    // What has been read keeps its memory until it is taken.
    for (const holder of holders) holder.socket.takeReplies(false);
    const suspended = rig.devices.suspend('it', true);
    await rig.settle();
    drain(bench);
    await rig.wait(suspended);
    t.equal(first.unanswered, 1, 'the large one');
    await rig.wait(rig.devices.load('it', `0 ${(2 * MiB + payloadBytes) / 512} linear /disk 0`));
    await rig.wait(rig.devices.resume('it'));
    drain(bench);
    for (const holder of holders) holder.socket.takeReplies(true);
    drain(bench);
    t.equal(first.reply(waiting)?.error, 22);
    t.equal(second.reply(behind)?.error, 5);
    leaveAll(rig);
  });
  await t.test('one that waits has enough in its own share, when others leave', async (t) => {
    const length = 10 * MiB;
    const bench = await wait(40 * MiB, length, 20);
    const { rig, disk, first, second, behind, idle } = bench;
    t.notOk(first.socket.isReceiving, 'it waits');
    for (const client of idle) client.leave();
    // Its small read ends, and it looks again: now the large one is none.
    disk.letGo(disk.calls.findIndex(({ length }) => length === 512));
    rig.work();
    const before = disk.held.length;
    t.ok(disk.calls.some(({ offset, length }) => offset === 4 * MiB && length === MiB));
    t.ok(before > 0);
    drain(bench);
    t.equal(first.unanswered, 0);
    t.equal(second.reply(behind)?.error, 5, 'who was behind it is next');
    leaveAll(rig);
  });
});

t.test('lets a client that takes no replies hold its share and no more', async (t) => {
  const bench = await begin(64 * MiB);
  const { rig, disk } = bench;
  const slow = rig.connect('it', simple);
  const other = rig.connect('it', simple);
  slow.socket.takeReplies(false);
  const next = random(5);
  for (let i = 0; i < 600; i++) {
    if (next(3) === 0) slow.write(next(32) * MiB, pattern(next(200_000) + 1, i));
    else slow.read(next(32) * MiB, next(2 * MiB) + 1);
  }
  rig.work();
  t.notOk(slow.socket.isReceiving);
  t.ok(rig.heldBytes < 2.5 * share, `${rig.heldBytes} bytes are held`);
  t.ok(slow.socket.unsentBytes > 0);
  const data = pattern(5000, 7);
  for (let i = 0; i < 50; i++) {
    t.equal(other.answer(other.write(40 * MiB, data)).error, 0);
    t.ok(other.answer(other.read(40 * MiB, 5000)).data.equals(data));
  }
  slow.socket.takeReplies(true);
  drain(bench);
  t.equal(slow.unanswered, 0);
  t.equal(disk.held.length, 0);
  leaveAll(rig);
});

t.test('lets CACHE hold no more than a share, even if nobody takes the answers', async (t) => {
  const bench = await begin(64 * MiB);
  const { rig, disk } = bench;
  const client = rig.connect('it', simple);
  client.socket.takeReplies(false);
  const before = rig.heldBytes;
  for (let i = 0; i < requestsPerConnection; i++) {
    client.ask(CMD.cache, { offset: i * 4096, length: 4096 });
  }
  rig.work();
  t.ok(rig.heldBytes - before <= share, `${rig.heldBytes - before} bytes are held`);
  client.socket.takeReplies(true);
  drain(bench);
  t.equal(client.unanswered, 0);
  disk.script = () => -EIO;
  t.equal(client.answer(client.read(0, share)).error, 5, 'all of the share is there again');
  leaveAll(rig);
});

/** Takes all memory but for some, as many connections would; gives it back. */
function takeMemory({ arena }: Rig['engine'], leave: number[]): () => void {
  const kept = leave.map((bytes) => [arena.allocate(bytes), bytes] as const);
  const taken: [number, number][] = [];
  for (let bytes = blockBytesMax; bytes >= 4096; bytes /= 2) {
    for (let block = arena.allocate(bytes); block >= 0; block = arena.allocate(bytes)) {
      taken.push([block, bytes]);
    }
  }
  for (const [block, bytes] of kept) arena.free(block, bytes);
  return () => {
    for (const [block, bytes] of taken) arena.free(block, bytes);
  };
}

t.test('waits for memory when there is none', async (t) => {
  await t.test('not even for a window', async (t) => {
    const { rig } = await begin(MiB, 4 * MiB);
    const giveBack = takeMemory(rig.engine, []);
    const client = rig.accept();
    rig.engine.advance(1000);
    t.equal(client.takeOutput().length, 0);
    t.ok(rig.engine.timers <= 3, `${rig.engine.timers} timers`);
    giveBack();
    rig.engine.advance(10);
    rig.work();
    t.equal(client.takeOutput().length, 18, 'the greeting');
    client.end();
    rig.work();
    t.ok(client.closed);
    t.equal(rig.heldBytes, 0);
  });
  await t.test('for half a batch of replies', async (t) => {
    const { rig } = await begin(MiB, 4 * MiB);
    // The headers' block is there, the vector is not.
    const giveBack = takeMemory(rig.engine, [16 * KiB]);
    const { inUse } = rig.engine.arena;
    const socket = rig.accept();
    rig.work();
    rig.engine.advance(100);
    giveBack();
    rig.engine.advance(10);
    rig.work();
    t.equal(socket.takeOutput().length, 18);
    socket.end();
    rig.work();
    t.equal(rig.heldBytes, 0);
    t.ok(inUse > 0);
  });
  await t.test('for a larger window: it does with the one it has', async (t) => {
    const { rig, disk } = await begin(4 * MiB, 8 * MiB);
    const client = rig.connect('it');
    const giveBack = takeMemory(rig.engine, []);
    const payload = pattern(2 * MiB, 3);
    t.equal(client.answer(client.write(1000, payload)).error, 0);
    t.ok(payload.equals(disk.bytes.subarray(1000, 1000 + 2 * MiB)));
    giveBack();
    leaveAll(rig);
  });
  await t.test('for the data of a read', async (t) => {
    const { rig } = await begin(4 * MiB, 8 * MiB);
    const client = rig.connect('it');
    const giveBack = takeMemory(rig.engine, [4096]);
    const cookies = [1, 2, 3, 4, 5].map((i) => client.read(i * 4096, 4096));
    rig.work();
    for (const cookie of cookies) t.equal(client.reply(cookie)?.error, 0, 'one after the other');
    t.match(client.answer(client.read(0, 8192)), { error: 12, text: 'no buffer memory left' });
    giveBack();
    t.equal(client.answer(client.read(0, 8192)).error, 0);
    leaveAll(rig);
  });
  await t.test('and sets one timer for it, however often it is asked', async (t) => {
    const { rig, disk } = await begin(4 * MiB, 8 * MiB);
    const client = rig.connect('it');
    disk.stuck = true;
    // A write holds the window, which is nearly full: the next one is needed, and there is none.
    const giveBack = takeMemory(rig.engine, []);
    for (let i = 0; i < 100; i++) client.ask(CMD.flush);
    client.write(0, pattern(13_000, 1));
    client.ask(CMD.flush);
    rig.work();
    for (let i = 0; i < 100; i++) {
      disk.letGo(0);
      rig.work();
    }
    t.equal(client.unanswered, 2);
    t.equal(rig.engine.timers, 1);
    giveBack();
    rig.engine.advance(10);
    disk.letGo();
    rig.work();
    t.equal(client.unanswered, 0);
    leaveAll(rig);
  });
  await t.test('for a large read, whose place in the queue it gives back', async (t) => {
    const { rig, disk } = await begin(128 * MiB, 8 * MiB);
    disk.script = () => -EIO;
    const client = rig.connect('it');
    for (let i = 0; i < 10; i++) t.equal(client.answer(client.read(0, payloadBytes)).error, 12);
    leaveAll(rig);
  });
});

t.test('refuses a connection too many, and only that', async (t) => {
  const { rig } = await begin(MiB);
  const sockets = Array.from({ length: connectionsMax }, () => rig.accept());
  rig.work();
  const refused = rig.accept();
  t.ok(refused.closed);
  t.match(rig.logged, [/refused, 1024 connections are open$/]);
  t.equal(sockets.filter(({ closed }) => closed).length, 0);
  sockets[5]?.end();
  rig.work();
  const next = rig.accept();
  rig.work();
  t.notOk(next.closed);
  t.equal(next.takeOutput().length, 18);
  for (const socket of [...sockets, next]) if (!socket.closed) socket.end();
  rig.work();
  rig.atRest();
  t.equal(Buffer.concat(sockets.map((socket) => socket.takeOutput())).length, 18 * connectionsMax);
});
