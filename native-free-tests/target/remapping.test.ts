/** Linear, striped, zero and error: where map sends an Io, or how it ends it. */

import fc from 'fast-check';
import t from 'tap';
import type { Backing } from '../../src/backing/backing.js';
import { EIO } from '../../src/base/errno.js';
import { ExtentList } from '../../src/device/extent-list.js';
import {
  FLAG_HOLES_OK,
  Io,
  type Operation,
  operationNames,
  READ,
  STATUS,
  TRIM,
  WRITE,
  ZERO,
} from '../../src/device/io.js';
import { error } from '../../src/target/error/target.js';
import { linear } from '../../src/target/linear/target.js';
import { striped } from '../../src/target/striped/target.js';
import { REMAPPED, SUBMITTED, type Target, type TargetContext } from '../../src/target/target.js';
import { zero } from '../../src/target/zero/target.js';
import { FakeHarness } from '../contract/fake-harness.js';
import { contextAt } from '../contract/harness.js';

const harness = new FakeHarness();

/** A backing of any size; it never carries anything out. */
function named(name: string): Backing {
  return { ...(opened as Backing), name, size: () => 2 ** 53, submit() {} };
}
const opened = harness.openBacking(harness.makeBacking('any', 1), 1);
const names = new Map<string, Backing>();

function context(beginSectors: number, lengthSectors: number): TargetContext {
  const openBacking = (word: string): Backing => {
    const backing = names.get(word) ?? named(word);
    names.set(word, backing);
    return backing;
  };
  return { ...contextAt(harness, beginSectors, lengthSectors), openBacking };
}

function make(operation: Operation, offset: number, length: number): Io {
  const io = new Io();
  io.operation = operation;
  io.offset = offset;
  io.length = length;
  io.owner = { finished() {} };
  return io;
}

t.test('linear sends every operation to the same place', async (t) => {
  const target = await linear.create(['a', '70'], context(1000, 50));
  for (const operation of [READ, WRITE, TRIM, ZERO, STATUS] as const) {
    const io = make(operation, 1000 * 512 + 3, 7);
    t.equal(target.map(io), REMAPPED, operationNames[operation]);
    t.equal(io.backing?.name, 'a');
    t.equal(io.backingOffset, 70 * 512 + 3);
    t.equal(io.offset, 1000 * 512 + 3, 'the device offset stays');
  }
});

t.test('linear reaches past 2^32 and before the begin of the target', async (t) => {
  const far = 2 ** 43;
  const target = await linear.create(['a', '1'], context(far, 50));
  const io = make(READ, (far + 49) * 512, 512);
  target.map(io);
  t.equal(io.backingOffset, 50 * 512);
  const back = await linear.create(['a', `${far}`], context(3, 50));
  const other = make(READ, 3 * 512 + 1, 511);
  back.map(other);
  t.equal(other.backingOffset, far * 512 + 1);
});

/** Walks the chunks one by one, in integers of any size. */
function stripedOracle(offset: number, stripes: number, chunkSectors: number): [number, number] {
  const chunkBytes = BigInt(chunkSectors) * 512n;
  const chunk = BigInt(offset) / chunkBytes;
  const row = chunk / BigInt(stripes);
  const within = BigInt(offset) % chunkBytes;
  return [Number(chunk % BigInt(stripes)), Number(row * chunkBytes + within)];
}

t.test('striped agrees with a slow oracle at any size', async (t) => {
  const sizes = fc.record({
    stripes: fc.integer({ min: 1, max: 17 }),
    chunkSectors: fc.oneof(
      fc.integer({ min: 1, max: 200 }),
      fc.integer({ min: 0, max: 20 }).map((bits) => 2 ** bits),
      fc.integer({ min: 1, max: 2 ** 32 - 1 }),
    ),
    rows: fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 2 ** 40 })),
    beginSectors: fc.oneof(fc.constant(0), fc.nat(2 ** 31 - 1)),
    at: fc.array(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), {
      minLength: 1,
      maxLength: 50,
    }),
  });
  await fc.assert(
    fc.asyncProperty(sizes, async ({ stripes, chunkSectors, rows, beginSectors, at }) => {
      const most = Math.floor((2 ** 44 - 2 ** 32) / (stripes * chunkSectors));
      const lengthSectors = Math.max(1, Math.min(rows, most)) * stripes * chunkSectors;
      const starts = Array.from({ length: stripes }, (_, i) => i * 1000);
      const args = [
        `${stripes}`,
        `${chunkSectors}`,
        ...starts.flatMap((s, i) => [`s${i}`, `${s}`]),
      ];
      const target = await striped.create(args, context(beginSectors, lengthSectors));
      const bytes = lengthSectors * 512;
      const chunkBytes = chunkSectors * 512;
      // Anywhere, and on both sides of a chunk's border, where a wrong rounding would show.
      const offsets = at.flatMap((share) => {
        const offset = Math.floor(share * bytes);
        const border = Math.ceil(offset / chunkBytes) * chunkBytes;
        return [offset, border - 1, border];
      });
      for (const offset of [...offsets, 0, bytes - 1]) {
        if (offset < 0 || offset >= bytes) continue;
        const io = make(WRITE, beginSectors * 512 + offset, 1);
        if (target.map(io) !== REMAPPED) throw new Error('not remapped');
        const [stripe, inStripe] = stripedOracle(offset, stripes, chunkSectors);
        const wanted = `s${stripe} ${(starts[stripe] as number) * 512 + inStripe}`;
        const found = `${io.backing?.name} ${io.backingOffset}`;
        if (found !== wanted) throw new Error(`${offset}: ${found}, wanted ${wanted}`);
      }
    }),
    { numRuns: 300 },
  );
  t.pass('no difference');
});

t.test('striped fills each stripe without gaps or overlaps', async (t) => {
  const [stripes, chunkSectors, lengthSectors] = [3, 5, 3 * 5 * 4];
  const args = ['3', '5', 'x', '7', 'y', '9', 'z', '11'];
  const target = await striped.create(args, context(2, lengthSectors));
  const seen = new Set<string>();
  for (let sector = 0; sector < lengthSectors; sector++) {
    const io = make(READ, (2 + sector) * 512, 512);
    target.map(io);
    seen.add(`${io.backing?.name} ${io.backingOffset / 512}`);
  }
  const wanted = new Set<string>();
  for (const [name, start] of [
    ['x', 7],
    ['y', 9],
    ['z', 11],
  ] as const) {
    for (let i = 0; i < lengthSectors / stripes; i++) wanted.add(`${name} ${start + i}`);
  }
  t.same(seen, wanted);
  t.equal(target.maxIoSectors, chunkSectors);
});

async function zeroTarget(): Promise<Target> {
  return await zero.create([], context(100, 50));
}

t.test('zero fills a buffer, or says that it need not be', async (t) => {
  const target = await zeroTarget();
  const { arena } = harness.engine;
  const memory = arena.allocate(4096);
  arena.bytes.fill(0xee, memory, memory + 4096);
  const io = make(READ, 100 * 512, 100);
  io.memory = memory + 5;
  t.equal(target.map(io), SUBMITTED);
  t.equal(io.error, 0);
  t.equal(io.allZero, false);
  t.same(
    [4, 5, 104, 105].map((at) => arena.bytes[memory + at]),
    [0xee, 0, 0, 0xee],
  );
  arena.bytes.fill(0xee, memory, memory + 4096);
  const sparse = make(READ, 100 * 512, 100);
  sparse.memory = memory;
  sparse.flags = FLAG_HOLES_OK;
  t.equal(target.map(sparse), SUBMITTED);
  t.equal(sparse.allZero, true);
  t.equal(arena.bytes[memory], 0xee, 'the buffer is untouched');
  arena.free(memory, 4096);
});

t.test('zero and error tell one extent for the whole range', async (t) => {
  for (const [target, flags] of [
    [await zeroTarget(), 3],
    [await error.create([], context(100, 50)), 0],
  ] as const) {
    const io = make(STATUS, 100 * 512 + 1, 3000);
    io.extents = new ExtentList(1);
    t.equal(target.map(io), SUBMITTED);
    t.equal(io.extents.count, 1);
    t.equal(io.extents.lengths[0], 3000);
    t.equal(io.extents.flags[0], flags);
  }
});

t.test('error answers EIO to everything else, and has no part in FLUSH', async (t) => {
  const target = await error.create([], context(100, 50));
  for (const operation of [READ, WRITE, TRIM, ZERO] as const) {
    t.equal(target.map(make(operation, 100 * 512, 1)), -EIO, operationNames[operation]);
  }
  t.equal(target.flush, undefined);
  t.same(target.backings, []);
});
