import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import t from 'tap';
import { blockBytesMax, blockBytesMin } from '../../src/base/limits.js';
import { Arena } from '../../src/engine/arena.js';

const MiB = 1024 * 1024;
const arenaBytes = 4 * MiB;
const pageCount = arenaBytes / blockBytesMin;
/** The first block belongs to the zeroes. */
const firstPage = blockBytesMax / blockBytesMin;

/** Which pages are out, and the blocks that took them. */
class Model {
  readonly taken = new Uint8Array(pageCount);
  readonly blocks: { offset: number; bytes: number }[] = [];
  inUse = 0;

  isFree(page: number, pages: number): boolean {
    return !this.taken.subarray(page, page + pages).includes(1);
  }

  hasRoomFor(pages: number): boolean {
    for (let page = firstPage; page < pageCount; page += pages) {
      if (this.isFree(page, pages)) return true;
    }
    return false;
  }

  mark(offset: number, pages: number, value: number): void {
    const page = offset / blockBytesMin;
    this.taken.fill(value, page, page + pages);
    this.inUse += (value === 1 ? pages : -pages) * blockBytesMin;
  }
}

/** Pages of the block that so many bytes get: the next power of two. */
function pagesFor(bytes: number): number {
  let pages = 1;
  while (pages * blockBytesMin < bytes) pages *= 2;
  return pages;
}

class Allocate implements fc.Command<Model, Arena> {
  readonly bytes: number;

  constructor(bytes: number) {
    this.bytes = bytes;
  }

  check(): boolean {
    return true;
  }

  run(model: Model, arena: Arena): void {
    const pages = pagesFor(this.bytes);
    const offset = arena.allocate(this.bytes);
    if (offset < 0) {
      if (offset !== -1) throw new Error(`found ${offset}, wanted -1`);
      if (model.hasRoomFor(pages)) throw new Error(`no block, but there is room for ${pages}`);
      return;
    }
    if (offset < blockBytesMax || offset % (pages * blockBytesMin) !== 0) {
      throw new Error(`a block of ${pages} pages at ${offset}`);
    }
    const page = offset / blockBytesMin;
    if (!model.isFree(page, pages)) throw new Error(`the block at ${offset} was out already`);
    model.mark(offset, pages, 1);
    model.blocks.push({ offset, bytes: this.bytes });
    if (arena.inUse !== model.inUse) throw new Error(`in use: ${arena.inUse} of ${model.inUse}`);
  }

  toString(): string {
    return `allocate(${this.bytes})`;
  }
}

class Free implements fc.Command<Model, Arena> {
  readonly which: number;

  constructor(which: number) {
    this.which = which;
  }

  check(model: Readonly<Model>): boolean {
    return model.blocks.length > 0;
  }

  run(model: Model, arena: Arena): void {
    const [block] = model.blocks.splice(this.which % model.blocks.length, 1);
    const { offset, bytes } = block as { offset: number; bytes: number };
    arena.free(offset, bytes);
    model.mark(offset, pagesFor(bytes), 0);
    if (arena.inUse !== model.inUse) throw new Error(`in use: ${arena.inUse} of ${model.inUse}`);
  }

  toString(): string {
    return `free(${this.which})`;
  }
}

/** Every size there is, and often those on both sides of a power of two. */
const sizes = fc.oneof(
  fc.integer({ min: 1, max: blockBytesMax }),
  fc
    .tuple(fc.integer({ min: 12, max: 20 }), fc.integer({ min: -1, max: 1 }))
    .map(([power, beside]) => Math.min(blockBytesMax, 2 ** power + beside)),
);

t.test('gives and takes blocks as a map of pages does', async (t) => {
  const commands = fc.commands(
    [
      sizes.map((bytes) => new Allocate(bytes)),
      fc.integer({ min: 1, max: 3 * blockBytesMin }).map((bytes) => new Allocate(bytes)),
      fc.nat().map((which) => new Free(which)),
    ],
    { maxCommands: 400, size: 'max' },
  );
  fc.assert(
    fc.property(commands, (list) => {
      fc.modelRun(() => ({ model: new Model(), real: new Arena(arenaBytes) }), list);
    }),
    { numRuns: 60 },
  );
  t.pass('no block differs from the model');
});

t.test('joins what was cut up, whatever the order it comes back in', async (t) => {
  const arena = new Arena(arenaBytes);
  const largeBlocks = arenaBytes / blockBytesMax - 1;
  for (const order of ['first to last', 'last to first', 'every other one'] as const) {
    const pages: number[] = [];
    for (let page = arena.allocate(1); page >= 0; page = arena.allocate(1)) pages.push(page);
    t.equal(pages.length, pageCount - firstPage, 'every page but the zeroes');
    t.equal(new Set(pages).size, pages.length, 'each once');
    t.equal(arena.inUse, arenaBytes - blockBytesMax);
    if (order === 'last to first') pages.reverse();
    if (order === 'every other one') {
      pages.sort((a, b) => ((a / blockBytesMin) & 1) - ((b / blockBytesMin) & 1) || a - b);
    }
    const last = pages.pop() as number;
    for (const page of pages) arena.free(page, 1);
    const large = Array.from({ length: largeBlocks }, () => arena.allocate(blockBytesMax));
    t.equal(large.filter((block) => block >= 0).length, largeBlocks - 1, 'all but one block whole');
    t.equal(arena.allocate(blockBytesMax), -1, `exhausted (${order})`);
    arena.free(last, 1);
    const rest = arena.allocate(blockBytesMax);
    t.not(rest, -1, 'the last page makes the last block whole');
    for (const block of [...large, rest]) if (block >= 0) arena.free(block, blockBytesMax);
    t.equal(arena.inUse, 0);
  }
});

t.test('goes on failing, and recovers, when there is nothing left', async (t) => {
  const arena = new Arena(2 * blockBytesMax);
  const only = arena.allocate(blockBytesMax);
  for (let i = 0; i < 3; i++) t.equal(arena.allocate(1), -1);
  arena.free(only, blockBytesMax);
  t.not(arena.allocate(1), -1);
});

t.test('asserts that what comes back is what went out', async (t) => {
  const broken = { name: 'AssertionError' };
  const fresh = (): { arena: Arena; block: number; other: number } => {
    const arena = new Arena(arenaBytes);
    const block = arena.allocate(20_000);
    return { arena, block, other: arena.allocate(20_000) };
  };
  t.test('a block that comes back twice while others are out', async (t) => {
    const { arena, block } = fresh();
    arena.free(block, 20_000);
    t.throws(() => arena.free(block, 20_000), broken);
  });
  t.test('a block that comes back twice when nothing is out', async (t) => {
    const { arena, block, other } = fresh();
    arena.free(block, 20_000);
    arena.free(other, 20_000);
    t.throws(() => arena.free(block, 20_000), broken);
  });
  t.test('a block with another size', async (t) => {
    const { arena, block } = fresh();
    t.throws(() => arena.free(block, 4096), broken);
    t.throws(() => arena.free(block, 60_000), broken);
    arena.free(block, 30_000);
    t.pass('the size of its block is enough');
  });
  t.test('the middle of a block, the zeroes, and offsets that begin no block', async (t) => {
    const { arena, block } = fresh();
    t.throws(() => arena.free(block + 4096, 4096), broken);
    t.throws(() => arena.free(block + 1, 20_000), broken);
    t.throws(() => arena.free(0, 1), broken);
    t.throws(() => arena.free(-1, 1), broken);
  });
  t.test('sizes that no block has', async (t) => {
    const { arena, block } = fresh();
    for (const bytes of [0, -1, blockBytesMax + 1]) {
      t.throws(() => arena.allocate(bytes), broken);
      t.throws(() => arena.free(block, bytes), broken);
    }
    t.throws(() => new Arena(blockBytesMax), broken);
    t.throws(() => new Arena(2 * blockBytesMax + 4096), broken);
  });
});

for (const native of [false, true]) {
  const title = native ? 'with a native copy' : 'without a native copy';

  t.test(`copies and zeroes within the arena, ${title}`, async (t) => {
    const arena = new Arena(2 * blockBytesMax);
    const size = 300_000;
    const base = blockBytesMax;
    const expected = Buffer.alloc(size);
    for (let i = 0; i < size; i++) expected[i] = (i * 7 + (i >> 8) * 13) & 255;
    arena.bytes.set(expected, base);
    let nativeCalls = 0;
    if (native) {
      arena.useNativeCopy((target, source, length) => {
        // A memcpy: what overlaps is undefined, and must not come here.
        if (Math.abs(target - source) < length) throw new Error('ranges overlap');
        nativeCalls++;
        arena.bytes.set(arena.bytes.slice(source, source + length), target);
      });
    }
    const position = fc.nat(size - 1);
    const length = fc.oneof(fc.integer({ min: 1, max: 600 }), fc.integer({ min: 1, max: 200_000 }));
    const operation = fc.record({ a: position, b: position, length, zero: fc.boolean() });
    fc.assert(
      fc.property(operation, ({ a, b, length, zero }) => {
        const bytes = Math.min(length, size - Math.max(a, b));
        // Overlapping ranges are copied towards the beginning only.
        const [target, source] =
          Math.abs(a - b) >= bytes ? [a, b] : [Math.min(a, b), Math.max(a, b)];
        if (zero) {
          arena.zero(base + target, bytes);
          expected.fill(0, target, target + bytes);
        } else {
          arena.copy(base + target, base + source, bytes);
          expected.copyWithin(target, source, source + bytes);
        }
        const found = arena.bytes.subarray(base, base + size);
        if (expected.compare(found) !== 0) throw new Error('the arena differs from the copy');
      }),
      { numRuns: 300 },
    );
    t.equal(nativeCalls > 0, native, 'large copies are made natively, if that is possible');
    t.ok(
      arena.bytes.subarray(arena.zeroes, arena.zeroesBytes).every((byte) => byte === 0),
      'the zeroes are zero still',
    );
  });
}

t.test('zeroes more than a block, and nothing beside it', async (t) => {
  const arena = new Arena(arenaBytes);
  arena.bytes.fill(7, blockBytesMax);
  arena.zero(blockBytesMax + 3, 2 * blockBytesMax + 5);
  const zeroed = arena.bytes.subarray(blockBytesMax, arenaBytes);
  t.same([zeroed[0], zeroed[2], zeroed[3]], [7, 7, 0]);
  t.equal(zeroed.indexOf(7, 3), 3 + 2 * blockBytesMax + 5);
});
