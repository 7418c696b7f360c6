import { Buffer } from 'node:buffer';
import t from 'tap';
import { EIO } from '../../src/base/errno.js';
import {
  arenaBytes,
  blockBytesMax,
  connectionBytesMax,
  connections as connectionsMax,
  connectionsSpare,
  payloadBytes,
  poolBytes,
  requestsPerConnection,
} from '../../src/base/limits.js';
import type { Disk } from '../backing/scripted-engine.js';
import { random } from '../contract/pattern.js';
import { pattern } from '../device/io-client.js';
import { CMD, CMD_FLAG, extended, type Mode, simple, structured } from './client.js';
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

/** Clients whose large reads never end, and one with a disk of its own behind them. */
async function besideHolders(mode: Mode, reads: readonly number[], diskBytes: number) {
  const bench = await begin();
  const { rig } = bench;
  bench.disk.stuck = true;
  const disk = rig.disk('/other', diskBytes / 512);
  await rig.create('other', `0 ${diskBytes / 512} linear /other 0`);
  for (const length of reads) rig.connect('it').read(0, length);
  const client = rig.connect('other', mode);
  rig.work();
  return { ...bench, other: disk, client };
}

/** Holds the pool but for 3 MiB, of which one more connection may have half. */
const nearlyAll = [payloadBytes, ...[48, 24, 12, 6, 3].map((size) => size * MiB)];

function end({ rig, disk }: Bench): void {
  disk.script = () => -EIO;
  disk.letGo();
  rig.work();
  leaveAll(rig);
}

t.test('answers reads piece after piece when others hold the memory', async (t) => {
  const length = 3 * MiB + 5000;
  const hole = Buffer.alloc(MiB);
  const content = Buffer.concat([pattern(MiB + 512, 1), hole, hole, pattern(MiB, 2)]);
  const whole = ['data 0+3150728'];
  const pieces = ['data 0+1048576', 'data 1048576+1048576', 'data 2097152+1048576'];
  const all = [...pieces, 'data 3145728+5000'];
  const ways: [string, Mode, number, string[]][] = [
    ['simple', simple, 0, []],
    ['structured', structured, 0, all],
    ['structured, unfragmented', structured, CMD_FLAG.df, whole],
    ['extended', extended, 0, all],
  ];
  for (const [title, mode, flags, chunks] of ways) {
    await t.test(`in ${title} replies`, async (t) => {
      const bench = await besideHolders(mode, nearlyAll, 8 * MiB);
      const { rig, other, client } = bench;
      other.bytes.set(content, 4096);
      other.takeCalls();
      const before = client.read(4096, 512);
      const long = client.read(4096, length, flags);
      const behind = client.read(8192, 512);
      t.ok(client.answer(long).data.equals(content.subarray(0, length)));
      t.same(client.reply(long)?.chunks, chunks);
      t.equal(client.reply(before)?.error, 0);
      t.ok(client.reply(behind)?.data.equals(content.subarray(4096, 4608)));
      const reads = other.takeCalls().filter((call) => !call.endsWith('+512'));
      t.equal(reads.length, 4, 'one for each piece');
      t.ok(rig.engine.arena.inUse < 190 * MiB);
      end(bench);
    });
  }
  await t.test('with holes where there are some', async (t) => {
    const bench = await besideHolders(structured, nearlyAll, 8 * MiB);
    const { rig, client } = bench;
    await rig.create('holes', '0 8192 zero');
    const other = rig.connect('holes', structured);
    const reply = other.answer(other.read(0, 3 * MiB));
    t.same(reply.chunks, ['hole 0+1048576', 'hole 1048576+1048576', 'hole 2097152+1048576']);
    t.equal(client.unanswered, 0);
    end(bench);
  });
});

t.test('ends a reply in pieces with an error where one occurs', async (t) => {
  const failing = async (mode: Mode, at: number) => {
    const bench = await besideHolders(mode, nearlyAll, 8 * MiB);
    bench.other.script = ({ offset }) => (offset === at ? -EIO : undefined);
    const { client } = bench;
    return { ...bench, cookie: client.read(0, 4 * MiB), behind: client.read(0, 512) };
  };
  await t.test('which a structured reply can tell', async (t) => {
    const { client, cookie, behind, ...bench } = await failing(structured, 2 * MiB);
    t.match(client.answer(cookie), { error: 5, chunks: ['data 0+1048576', /^data 1048576/] });
    t.equal(client.reply(behind)?.error, 0, 'it goes on');
    end(bench);
  });
  await t.test('which a simple reply can tell before its first byte', async (t) => {
    const { client, cookie, behind, ...bench } = await failing(simple, 0);
    t.match(client.answer(cookie), { error: 5 });
    t.equal(client.reply(behind)?.error, 5, 'at the same place');
    end(bench);
  });
  await t.test('and by the end of the connection where it has been promised', async (t) => {
    const { client, cookie, rig, ...bench } = await failing(simple, 2 * MiB);
    rig.work();
    t.equal(client.reply(cookie), undefined);
    t.ok(client.socket.closed);
    t.match(
      rig.logged.at(-1),
      /disconnecting: the rest of a reply cannot be sent: read of 4194304/,
    );
    end({ rig, ...bench });
  });
});

t.test('has memory for others, however many hold what they can get', async (t) => {
  const reads = Array.from({ length: 40 }, (_, i) => (i + 1) * MiB + payloadBytes / 4);
  const bench = await besideHolders(simple, reads, 32 * MiB);
  const { rig, other, client } = bench;
  other.bytes.set(pattern(32 * MiB, 4));
  t.ok(rig.engine.arena.inUse < poolBytes + 20 * MiB, `${rig.engine.arena.inUse} bytes`);
  const cookies = Array.from({ length: 32 }, (_, i) => client.read(i * MiB, 4096));
  cookies.push(client.read(0, 32 * MiB), client.read(MiB, MiB));
  for (const cookie of cookies) t.equal(client.answer(cookie).error, 0);
  t.ok(client.reply(cookies[32] as number)?.data.equals(other.bytes));
  const payload = pattern(8 * MiB, 9);
  t.equal(client.answer(client.write(5, payload)).error, 0);
  t.ok(payload.equals(other.bytes.subarray(5, 5 + payload.length)));
  end(bench);
});

t.test('gives up a reply in pieces when its client goes', async (t) => {
  for (const way of ['end', 'breakSends'] as const) {
    const bench = await besideHolders(simple, nearlyAll, 8 * MiB);
    const { rig, other, client } = bench;
    other.stuck = true;
    client.read(0, 4 * MiB);
    rig.work();
    other.letGo(0);
    rig.work();
    t.equal(other.held.length, 1, 'the second piece is being read');
    client.socket[way]();
    rig.work();
    other.letGo();
    rig.work();
    rig.engine.advance(10_000);
    t.ok(client.socket.closed);
    end(bench);
  }
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
    const long = client.read(0, 8192);
    rig.engine.advance(1000);
    t.equal(client.reply(long), undefined, 'others have all memory');
    t.ok(rig.engine.timers <= 1);
    giveBack();
    rig.engine.advance(10);
    t.equal(client.answer(long).error, 0);
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
  await t.test('for all of a large read, which is then answered in pieces', async (t) => {
    const { rig, disk } = await begin(128 * MiB, 8 * MiB);
    disk.script = () => -EIO;
    const client = rig.connect('it');
    for (let i = 0; i < 10; i++) t.equal(client.answer(client.read(0, payloadBytes)).error, 5);
    leaveAll(rig);
  });
});

t.test('refuses a connection too many, and only that', async (t) => {
  const { rig } = await begin(MiB);
  for (let i = 0; i < connectionsMax; i++) rig.connect('it');
  const refused = rig.accept();
  t.ok(refused.closed);
  t.match(rig.logged, [/refused, 1024 connections are open$/]);
  t.equal(rig.clients.filter(({ socket }) => socket.closed).length, 0);
  rig.clients[5]?.leave();
  rig.work();
  const next = rig.connect('it');
  next.read(0, 512);
  rig.work();
  t.equal(next.unanswered, 0);
  leaveAll(rig);
});

t.test('has handshakes that stall make room, the oldest first', async (t) => {
  const { rig } = await begin(MiB);
  const first = rig.connect('it');
  const most = connectionsMax - connectionsSpare - 1;
  const stalled = Array.from({ length: most }, () => rig.accept());
  rig.work();
  t.equal(stalled.filter(({ closed }) => closed).length, 0);
  for (let i = 0; i < 10; i++) rig.connect('it');
  rig.work();
  t.strictSame(
    stalled.filter(({ closed }) => closed),
    stalled.slice(0, 10),
  );
  t.match(rig.logged[0], /no export chosen yet, and 1024 connections are the most$/);
  // However many there come at once.
  const crowd = Array.from({ length: 2 * connectionsMax }, () => {
    const socket = rig.accept();
    rig.work();
    return socket;
  });
  const late = rig.connect('it');
  first.read(0, 512);
  late.read(0, 512);
  rig.work();
  t.equal(first.unanswered + late.unanswered, 0);
  t.notOk(crowd.at(-1)?.closed);
  for (const socket of [...stalled, ...crowd]) if (!socket.closed) socket.end();
  leaveAll(rig);
});
