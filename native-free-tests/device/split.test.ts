import fc from 'fast-check';
import t, { type Test } from 'tap';
import type { Backing } from '../../src/backing/backing.js';
import { EIO, ENOSPC } from '../../src/base/errno.js';
import { deviceBytes, splitParts, statusParts } from '../../src/base/limits.js';
import { Device } from '../../src/device/device.js';
import { EXTENT_HOLE, EXTENT_ZERO, type ExtentList } from '../../src/device/extent-list.js';
import {
  FLAG_FUA,
  FLAG_HOLES_OK,
  FLAG_ONE,
  FLUSH,
  type Io,
  READ,
  STATUS,
  TRIM,
  WRITE,
  ZERO,
} from '../../src/device/io.js';
import { SplitPool } from '../../src/device/split.js';
import type { OpenBacking, Table } from '../../src/device/table.js';
import { REMAPPED, SUBMITTED, type Target } from '../../src/target/target.js';
import { random } from '../contract/pattern.js';
import { type Ended, IoClient } from './io-client.js';
import { RecordingTarget, tableOf } from './recording-target.js';
import { World } from './world.js';

const hole = EXTENT_HOLE | EXTENT_ZERO;

class Bench extends World {
  readonly device: Device;
  readonly #client: IoClient;

  constructor(table: Table) {
    super();
    const context = {
      engine: this.engine,
      ios: this.ios,
      splits: new SplitPool(this.ios),
      log: this.log,
      event() {},
    };
    this.device = new Device('subject', false, context);
    this.device.live = table;
    this.#client = new IoClient(this.engine, this.ios, (io) => this.device.submit(io));
  }

  /** Starts an Io; what it ended with is in the list, once it has. */
  start(...[operation, offset, length, extras]: Parameters<IoClient['run']>): Ended[] {
    const ends: Ended[] = [];
    this.#client.send(operation, offset, length, extras ?? {}, (ended) => ends.push(ended));
    return ends;
  }
}

t.test('cuts a request at the targets and at what they want to see', async (t) => {
  const part = fc.record({
    sectors: fc.integer({ min: 1, max: 40 }),
    max: fc.constantFrom(0, 1, 3, 8),
  });
  const operation = fc.constantFrom(READ, WRITE, TRIM, ZERO);
  const property = fc.property(
    fc.array(part, { minLength: 1, maxLength: 9 }),
    operation,
    fc.nat(),
    fc.nat(),
    (parts, operation, at, size) => {
      const targets = parts.map(({ max }) => new RecordingTarget(max));
      const table = tableOf(parts.map(({ sectors }, i) => [sectors, targets[i] as Target]));
      const bench = new Bench(table);
      const offset = at % table.sizeBytes;
      const length = 1 + (size % (table.sizeBytes - offset));
      const seen: {
        io: Io;
        offset: number;
        length: number;
        flags: number;
        memory: number;
        on: Target;
      }[] = [];
      for (const target of targets) {
        target.answer = (io) => {
          const { offset, length, flags, memory } = io;
          seen.push({ io, offset, length, flags, memory, on: target });
          io.complete(0);
          return SUBMITTED;
        };
      }
      const flags = FLAG_FUA | FLAG_HOLES_OK;
      const [ended] = bench.start(operation, offset, length, { flags });
      if (ended?.errno !== 0) throw new Error('it has not ended');
      let position = offset;
      const memory = seen[0]?.memory ?? 0;
      for (const piece of seen) {
        const slot = table.slots.find(({ end }) => position < end);
        if (piece.offset !== position) throw new Error(`a piece at ${piece.offset}`);
        if (slot === undefined || piece.on !== slot.target) throw new Error('another target');
        const unit = slot.maxIoBytes === 0 ? slot.end - slot.begin : slot.maxIoBytes;
        const cut = slot.begin + (Math.floor((position - slot.begin) / unit) + 1) * unit;
        const end = Math.min(cut, slot.end, offset + length);
        if (piece.offset + piece.length !== end) throw new Error(`a piece ends not at ${end}`);
        const wanted = seen.length === 1 ? flags : FLAG_FUA;
        if (piece.flags !== wanted) throw new Error(`flags ${piece.flags}, wanted ${wanted}`);
        const buffer = memory + position - offset;
        if ((operation === READ || operation === WRITE) && piece.memory !== buffer) {
          throw new Error('another part of the buffer');
        }
        position = end;
      }
      if (position !== offset + length) throw new Error(`it was carried out up to ${position}`);
      bench.atRest();
    },
  );
  fc.assert(property, { numRuns: 300 });
  t.pass('every piece is where it belongs');
});

t.test('sends a request that needs no cutting as it is', async (t) => {
  const target = new RecordingTarget(8);
  const bench = new Bench(tableOf([[64, target]]));
  const made = bench.ios.made;
  bench.start(READ, 4096, 4096);
  t.equal(target.held.length, 1);
  t.equal(bench.ios.made, made + 1, 'no part was made');
  target.end(0);
  bench.atRest();
});

t.test('has so many parts under way and no more, however long the request is', async (t) => {
  const target = new RecordingTarget(2048);
  const bench = new Bench(tableOf([[deviceBytes / 512, target]]));
  const length = 2 ** 32 - 512;
  const next = random(3);
  const ends = bench.start(TRIM, 2 ** 40 + 512, length);
  let bytes = 0;
  let most = 0;
  let parts = 0;
  while (target.held.length > 0) {
    most = Math.max(most, target.held.length);
    const index = next(target.held.length);
    bytes += target.held[index]?.length ?? 0;
    parts++;
    target.end(index);
  }
  t.equal(most, splitParts);
  t.equal(bytes, length);
  t.equal(parts, 4096);
  t.equal(ends.length, 1);
  t.equal(ends[0]?.errno, 0);
  t.ok(bench.ios.made <= splitParts + 1, 'parts are used again');
  bench.atRest();
});

t.test('takes parts that end at once, however many there are', async (t) => {
  const target = new RecordingTarget(1);
  const bench = new Bench(tableOf([[2 ** 20, target]]));
  let count = 0;
  target.answer = (io) => {
    count++;
    io.complete(0);
    return SUBMITTED;
  };
  const ends = bench.start(ZERO, 0, 50_000 * 512);
  t.equal(count, 50_000);
  t.equal(ends[0]?.errno, 0);
  bench.atRest();
});

t.test('answers with the first error, after all that is under way has ended', async (t) => {
  await t.test('one that comes later', async (t) => {
    const target = new RecordingTarget(8);
    const bench = new Bench(tableOf([[100 * 8, target]]));
    const ends = bench.start(ZERO, 0, 100 * 4096);
    target.end(5, ENOSPC);
    target.end(0, EIO);
    t.equal(target.held.length, splitParts - 2, 'no part is sent any more');
    while (target.held.length > 0) {
      t.equal(ends.length, 0);
      target.end(0);
    }
    t.equal(ends[0]?.errno, ENOSPC);
    bench.atRest();
  });
  await t.test('one that map returns', async (t) => {
    const target = new RecordingTarget(8);
    const bench = new Bench(tableOf([[80, target]]));
    target.answer = (io) => (io.offset === 8192 ? -ENOSPC : SUBMITTED);
    const kept: Io[] = [];
    const answer = target.answer;
    target.answer = (io) => {
      const result = answer(io);
      if (result === SUBMITTED) kept.push(io);
      return result;
    };
    const ends = bench.start(ZERO, 0, 40_960);
    t.equal(kept.length, 2, 'those before it');
    for (const io of kept) io.complete(0);
    t.equal(ends[0]?.errno, ENOSPC);
    bench.atRest();
  });
  await t.test('a single one', async (t) => {
    const target = new RecordingTarget();
    const bench = new Bench(tableOf([[80, target]]));
    target.answer = () => -ENOSPC;
    t.equal(bench.start(READ, 0, 512)[0]?.errno, ENOSPC);
    bench.atRest();
  });
});

t.test('answers EIO behind the end and without a table', async (t) => {
  const target = new RecordingTarget();
  const bench = new Bench(tableOf([[16, target]]));
  for (const [offset, length] of [
    [8192, 512],
    [8191, 2],
    [0, 8193],
    [2 ** 52, 512],
  ] as const) {
    t.equal(bench.start(READ, offset, length)[0]?.errno, EIO, `${length} at ${offset}`);
  }
  t.equal(target.held.length, 0);
  bench.device.live = null;
  t.equal(bench.start(READ, 0, 512)[0]?.errno, EIO);
  t.equal(bench.start(FLUSH, 0, 0)[0]?.errno, EIO);
  bench.atRest();
});

type Extents = readonly (readonly [number, number])[];

/** A target at that place that describes its first `known` bytes, in extents of length and flags. */
function describing(begin: number, extents: Extents, known = Infinity): RecordingTarget {
  const target = new RecordingTarget();
  target.answer = (io) => {
    const offset = io.offset - begin;
    let at = 0;
    for (const [length, flags] of extents) {
      const from = Math.max(at, offset);
      const to = Math.min(at + length, offset + io.length, known);
      if (to > from && !(io.extents as ExtentList).push(to - from, flags)) break;
      if (to > from && (io.flags & FLAG_ONE) !== 0) break;
      at += length;
    }
    io.complete(0);
    return SUBMITTED;
  };
  return target;
}

t.test('describes the extents of several targets in their order', async (t) => {
  const KiB = 1024;
  const a = describing(0, [
    [8 * KiB, 0],
    [8 * KiB, hole],
  ]);
  const b = describing(16 * KiB, [
    [4 * KiB, hole],
    [12 * KiB, 0],
  ]);
  const c = describing(32 * KiB, [[16 * KiB, EXTENT_ZERO]]);
  const table = tableOf([
    [32, a],
    [32, b],
    [32, c],
  ]);
  const status = (offset: number, length: number, flags = 0, capacity = 64) => {
    const bench = new Bench(table);
    const [ended] = bench.start(STATUS, offset, length, { flags, capacity });
    t.equal(ended?.errno, 0);
    bench.atRest();
    return ended?.extents;
  };
  const all = [
    [8 * KiB, 0],
    [12 * KiB, hole],
    [12 * KiB, 0],
    [16 * KiB, EXTENT_ZERO],
  ];
  t.same(status(0, 48 * KiB), all, 'what meets and is alike is one');
  t.same(status(12 * KiB, 24 * KiB), [
    [8 * KiB, hole],
    [12 * KiB, 0],
    [4 * KiB, EXTENT_ZERO],
  ]);
  t.same(status(0, 48 * KiB, 0, 2), all.slice(0, 2), 'as many as the list holds');
  t.same(status(0, 48 * KiB, 0, 3), all.slice(0, 3));
  t.same(status(0, 48 * KiB, FLAG_ONE), all.slice(0, 1));
  t.same(status(28 * KiB, 8 * KiB, FLAG_ONE), [[4 * KiB, 0]]);
});

t.test('stops describing where a target does not know on', async (t) => {
  const whole: Extents = [
    [4096, 0],
    [4096, hole],
  ];
  const first = describing(0, whole, 6000);
  const second = describing(8192, whole);
  const bench = new Bench(
    tableOf([
      [16, first],
      [16, second],
    ]),
  );
  t.same(bench.start(STATUS, 0, 16_384)[0]?.extents, [
    [4096, 0],
    [1904, hole],
  ]);
  t.same(bench.start(STATUS, 7000, 9000)[0]?.extents, [], 'not even the beginning');
  bench.atRest();
});

t.test('describes so many parts and no more, so that nobody waits for it long', async (t) => {
  const target = describing(0, [[2 ** 40, 0]]);
  Object.assign(target, { maxIoSectors: 8 });
  const bench = new Bench(tableOf([[2 ** 23, target]]));
  const [ended] = bench.start(STATUS, 512, 2 ** 32 - 512);
  t.same(ended?.extents, [[statusParts * 4096 - 512, 0]]);
  const [next] = bench.start(STATUS, 8 * 2 ** 20, 2 ** 20);
  t.same(next?.extents, [[2 ** 20, 0]]);
  bench.atRest();
});

t.test('answers with the error of a target that cannot describe', async (t) => {
  const first = describing(0, [[8192, 0]]);
  const second = new RecordingTarget();
  const bench = new Bench(
    tableOf([
      [16, first],
      [16, second],
    ]),
  );
  const ends = bench.start(STATUS, 0, 16_384);
  second.end(0, EIO);
  t.equal(ends[0]?.errno, EIO);
  bench.atRest();
});

t.test('describes no more than it knows through devices over devices', async (t) => {
  // The list holds what the upper device's first target said when the lower device gets it.
  const world = new World();
  const sectors = 2 ** 26;
  const bytes = sectors * 512;
  world.disk('/data', 64).allocate(0, 32_768);
  // A memory target describes 16 GiB at a time, and this one has 32.
  await world.create('low', `0 ${sectors} memory\n${sectors} 64 linear /data 0`);
  const lines = [`0 ${sectors} zero`, `${sectors} ${sectors + 64} linear dm:low 0`];
  const client = world.client(await world.create('top', lines.join('\n')));
  const status = async (offset: number, length: number) => {
    return (await world.wait(client.run(STATUS, offset, length))).extents;
  };
  t.same(await status(0, 2 * bytes + 32_768), [[bytes + 2 ** 34, hole]], 'up to where it told');
  t.same(await status(2 * bytes - 4096, 20_000), [
    [4096, hole],
    [15_904, 0],
  ]);
  await world.wait(world.devices.shutdown());
  world.atRest();
});

t.test('flushes everything that a table stands on, each once', async (t) => {
  /** A backing that keeps what it is sent. */
  class Held implements OpenBacking {
    readonly name = 'held';
    readonly identity = this;
    readonly features = new RecordingTarget().features;
    readonly held: Io[] = [];
    size(): number {
      return 1 << 20;
    }
    submit(io: Io): void {
      this.held.push(io);
    }
    close(): void {}
  }
  class OwnFlush extends RecordingTarget {
    readonly flushed: Io[] = [];
    result: number = SUBMITTED;
    to: Backing | null = null;
    flush(io: Io): number {
      this.flushed.push(io);
      io.backing = this.to;
      return this.result;
    }
  }
  const flush = (t: Test, table: Table): { bench: Bench; ends: Ended[] } => {
    const bench = new Bench(table);
    const ends = bench.start(FLUSH, 0, 0);
    t.equal(ends.length, 0);
    return { bench, ends };
  };
  await t.test('no backing', async (t) => {
    const bench = new Bench(tableOf([[8, new RecordingTarget()]]));
    t.equal(bench.start(FLUSH, 0, 0)[0]?.errno, 0);
    bench.atRest();
  });
  await t.test('one backing of two targets', async (t) => {
    const one = new Held();
    const table = tableOf([
      [8, new RecordingTarget(0, [one])],
      [8, new RecordingTarget(0, [one])],
    ]);
    const { bench, ends } = flush(t, table);
    t.equal(one.held.length, 1);
    one.held[0]?.complete(ENOSPC);
    t.equal(ends[0]?.errno, ENOSPC);
    bench.atRest();
  });
  await t.test('several backings, and targets with ways of their own', async (t) => {
    const [one, two, three] = [new Held(), new Held(), new Held()];
    const own = new OwnFlush(0, [three]);
    const passing = new OwnFlush(0, [three]);
    passing.result = REMAPPED;
    passing.to = three;
    const failing = new OwnFlush();
    failing.result = -EIO;
    const table = tableOf([
      [8, new RecordingTarget(0, [one, two])],
      [8, own],
      [8, passing],
      [8, failing],
      [8, new RecordingTarget(0, [two])],
    ]);
    const { bench, ends } = flush(t, table);
    t.same([one.held.length, two.held.length, three.held.length], [1, 1, 1]);
    for (const io of [...one.held, ...two.held, ...three.held]) {
      io.complete(0);
      t.equal(ends.length, 0);
    }
    t.equal(own.flushed.length, 1);
    own.flushed[0]?.complete(0);
    t.equal(ends.length, 1);
    t.equal(ends[0]?.errno, EIO, 'the one that failed');
    bench.atRest();
  });
});
