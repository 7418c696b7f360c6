/** Memory: its pages against a plain array, its budget, its extents. */

import fc from 'fast-check';
import t from 'tap';
import { ENOSPC } from '../../src/base/errno.js';
import { FLAG_HOLES_OK, FLAG_NO_HOLE, FLAG_ONE } from '../../src/device/io.js';
import { memoryBudget, PageBudget } from '../../src/target/memory/budget.js';
import { PageMap, pageBytes } from '../../src/target/memory/pages.js';
import { createMemoryTarget, memory } from '../../src/target/memory/target.js';
import { FakeHarness } from '../contract/fake-harness.js';
import { contextAt } from '../contract/harness.js';
import { MiniDevice } from '../contract/mini-device.js';

const GiB = 2 ** 30;
const leafBytes = 1024 * pageBytes;

function device(sectors: number, budget = new PageBudget(GiB)): MiniDevice {
  const harness = new FakeHarness();
  const target = createMemoryTarget(contextAt(harness, 8, sectors), budget);
  return new MiniDevice(harness, target, 8, sectors);
}

/** A request of the property test; lengths of some pages, at any byte. */
const requests = (bytes: number) =>
  fc.array(
    fc.record({
      what: fc.constantFrom('write', 'trim', 'zero', 'zeroAllocated', 'read'),
      at: fc.oneof(
        fc.nat(bytes - 1),
        fc.nat(Math.floor((bytes - 1) / pageBytes)).map((n) => n * pageBytes),
      ),
      length: fc.oneof(
        fc.integer({ min: 1, max: 3 * pageBytes }),
        fc.integer({ min: 1, max: 3 }).map((n) => n * pageBytes),
      ),
      byte: fc.integer({ min: 1, max: 255 }),
    }),
    { minLength: 1, maxLength: 60 },
  );

t.test('agrees with a plain array under random requests', (t) => {
  // Across the border of two leaves, with a short last page.
  const bytes = 12 * pageBytes + 1536;
  const base = leafBytes - 5 * pageBytes;
  fc.assert(
    fc.property(requests(bytes), (list) => {
      const budget = new PageBudget(GiB);
      const pages = new PageMap(base + bytes, budget);
      const plain = new Uint8Array(bytes);
      // What a page must be: 0 hole, 1 zeroes or data, -1 either.
      const state = new Int8Array(Math.ceil(bytes / pageBytes));
      for (const { what, at, length: wanted, byte } of list) {
        const length = Math.min(wanted, bytes - at);
        const first = Math.ceil(at / pageBytes);
        const last = at + length === bytes ? state.length : Math.floor((at + length) / pageBytes);
        if (what === 'write') {
          const source = Buffer.alloc(length + 7, byte);
          if (pages.write(base + at, length, source, 7) !== 0) throw new Error('write');
          plain.fill(byte, at, at + length);
          state.fill(1, Math.floor(at / pageBytes), Math.ceil((at + length) / pageBytes));
        } else if (what === 'trim') {
          pages.trim(base + at, length);
          if (first < last) {
            plain.fill(0, first * pageBytes, last * pageBytes);
            state.fill(0, first, last);
          }
        } else if (what === 'zero') {
          pages.zero(base + at, length);
          plain.fill(0, at, at + length);
          if (first < last) state.fill(0, first, last);
        } else if (what === 'zeroAllocated') {
          if (pages.zeroAllocated(base + at, length) !== 0) throw new Error('zeroAllocated');
          plain.fill(0, at, at + length);
          state.fill(1, Math.floor(at / pageBytes), Math.ceil((at + length) / pageBytes));
        }
        checkPages(pages, base, plain, state);
      }
      const allocated = state.reduce((sum, one, page) => {
        return sum + (one === 1 ? Math.min(pageBytes, bytes - page * pageBytes) : 0);
      }, 0);
      if (pages.allocatedBytes !== allocated || budget.usedBytes !== allocated) {
        throw new Error(`${pages.allocatedBytes} bytes allocated, wanted ${allocated}`);
      }
      pages.clear();
      if (budget.usedBytes !== 0) throw new Error('clear leaves bytes in the budget');
    }),
    { numRuns: 60 },
  );
  t.pass('no difference');
  t.end();
});

function checkPages(pages: PageMap, base: number, plain: Uint8Array, state: Int8Array): void {
  const target = Buffer.alloc(plain.length + 3, 0xee);
  pages.read(base, plain.length, target, 3);
  if (Buffer.compare(target.subarray(3), plain) !== 0) throw new Error('contents differ');
  if (target[2] !== 0xee) throw new Error('read outside of its buffer');
  for (const [page, wanted] of state.entries()) {
    const found = pages.stateAt(base + page * pageBytes);
    if ((found === 'hole') !== (wanted === 0)) throw new Error(`page ${page} is ${found}`);
  }
  const end = base + plain.length;
  for (let at = base; at < end; ) {
    const next = pages.stateEnd(at, end);
    if (next <= at) throw new Error('a stretch has no length');
    for (let page = at; page < next; page += pageBytes) {
      if (pages.stateAt(page) !== pages.stateAt(at)) throw new Error('a stretch is of two states');
    }
    if (next < end && pages.stateAt(next) === pages.stateAt(at)) throw new Error('cut short');
    at = next;
  }
}

t.test('finds its way about huge sparse ranges', (t) => {
  const bytes = 2 ** 53 - 512;
  const pages = new PageMap(bytes, new PageBudget(GiB));
  const source = Buffer.alloc(10, 5);
  t.equal(pages.write(bytes - 10, 10, source, 0), 0);
  t.equal(pages.write(2 ** 40 - 5, 10, source, 0), 0);
  t.equal(pages.allocatedBytes, 2 * pageBytes + (pageBytes - 512));
  t.equal(pages.zeroAllocated(0, bytes), ENOSPC);
  t.equal(pages.stateAt(2 ** 40), 'data');
  t.equal(pages.stateEnd(2 ** 40, 2 ** 41), 2 ** 40 + pageBytes);
  t.equal(pages.stateEnd(2 ** 40 + pageBytes, 2 ** 41), 2 ** 41);
  t.equal(pages.leafCount, 3);
  pages.trim(2 ** 40, 2 ** 40);
  t.equal(pages.allocatedBytes, 2 * pageBytes - 512);
  t.equal(pages.leafCount, 2);
  pages.trim(1, bytes - 1);
  t.equal(pages.allocatedBytes, 0);
  t.equal(pages.leafCount, 0);
  t.equal(pages.stateAt(2 ** 40), 'hole');
  t.end();
});

t.test('answers ENOSPC beyond the budget, and changes nothing', async (t) => {
  const budget = new PageBudget(3 * pageBytes);
  const one = device(1024, budget);
  const two = device(1024, budget);
  t.equal(await one.write(0, Buffer.alloc(2 * pageBytes, 1)), 0);
  t.equal(await two.write(pageBytes - 1, Buffer.alloc(2, 2)), ENOSPC);
  t.equal(two.target.status(), '0/1024');
  t.equal((await two.read(pageBytes - 1, 2, FLAG_HOLES_OK)).allZero, true);
  t.equal(await two.zero(0, 2 * pageBytes, FLAG_NO_HOLE), ENOSPC);
  t.equal(await two.write(pageBytes - 1, Buffer.alloc(1, 2)), 0);
  t.equal(budget.leftBytes, 0);
  t.equal(await one.write(0, Buffer.alloc(2 * pageBytes, 3)), 0, 'pages that are there');
  t.equal(await one.write(2 * pageBytes, Buffer.alloc(1, 3)), ENOSPC);
  t.equal(await one.trim(0, pageBytes), 0);
  t.equal(await one.write(2 * pageBytes, Buffer.alloc(1, 3)), 0, 'a page that was freed');
  await two.target.destroy?.();
  t.equal(budget.leftBytes, pageBytes);
  await one.target.destroy?.();
  t.equal(budget.usedBytes, 0);
});

t.test('keeps the promise of ZERO with NO_HOLE', async (t) => {
  const budget = new PageBudget(2 * pageBytes);
  const one = device(1024, budget);
  const two = device(1024, budget);
  t.equal(await one.zero(100, 2 * pageBytes - 200, FLAG_NO_HOLE), 0);
  t.equal(one.target.status(), '256/1024');
  t.same((await one.status(0, 512 * 1024)).extents, [
    [2 * pageBytes, 2],
    [512 * 1024 - 2 * pageBytes, 3],
  ]);
  t.equal((await one.read(0, 2 * pageBytes, FLAG_HOLES_OK)).allZero, true);
  t.equal(await two.write(0, Buffer.alloc(1)), ENOSPC);
  t.equal(await one.write(pageBytes - 1, Buffer.alloc(2, 7)), 0);
  const { data } = await one.read(pageBytes - 2, 4);
  t.same([...data], [0, 7, 7, 0]);
  t.equal(budget.leftBytes, 0);
});

t.test('tells extents by the page', async (t) => {
  const one = device(1024);
  await one.write(pageBytes + 5, Buffer.alloc(1, 1));
  await one.write(4 * pageBytes, Buffer.alloc(1, 1));
  t.same((await one.status(0, 5 * pageBytes)).extents, [
    [pageBytes, 3],
    [pageBytes, 0],
    [2 * pageBytes, 3],
    [pageBytes, 0],
  ]);
  t.same((await one.status(10, 5 * pageBytes, FLAG_ONE)).extents, [[pageBytes - 10, 3]]);
  t.same((await one.status(0, 5 * pageBytes, 0, 2)).extents, [
    [pageBytes, 3],
    [pageBytes, 0],
  ]);
  const mixed = await one.read(pageBytes - 3, pageBytes + 8, FLAG_HOLES_OK);
  t.equal(mixed.allZero, false);
  t.same(mixed.extents, [
    [3, 3],
    [pageBytes, 0],
    [5, 3],
  ]);
  t.same((await one.read(pageBytes - 3, 10)).extents, [], 'only if the reader asks');
});

t.test('says nothing of extents that do not fit the list of a READ', async (t) => {
  const one = device(4096);
  for (let page = 1; page < 24; page += 2) {
    await one.write(page * pageBytes, Buffer.alloc(1, page));
  }
  // MiniDevice's list holds 16 extents.
  const { allZero, data, extents } = await one.read(1, 16 * pageBytes - 2, FLAG_HOLES_OK);
  t.equal(allZero, false);
  t.equal(extents.length, 16);
  t.equal(data[15 * pageBytes - 1], 15);
  const full = await one.read(pageBytes - 1, 15 * pageBytes + 2, FLAG_HOLES_OK);
  t.equal(full.extents.length, 0);
  t.equal(full.data[1], 1, 'the buffer is filled all the same');
});

t.test('takes its pages out of one budget, by its table line', async (t) => {
  const harness = new FakeHarness();
  const before = memoryBudget.usedBytes;
  const target = await memory.create([], contextAt(harness, 0, 200));
  const one = new MiniDevice(harness, target, 0, 200);
  await one.write(100 * 512, Buffer.alloc(512, 1));
  t.equal(target.status(), '128/200');
  t.equal(memoryBudget.usedBytes, before + pageBytes);
  await one.write(199 * 512, Buffer.alloc(512, 1));
  t.equal(target.status(), '200/200');
  await target.destroy?.();
  t.equal(memoryBudget.usedBytes, before);
});
