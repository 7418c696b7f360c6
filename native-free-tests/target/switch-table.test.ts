/** The region table against a plain array, for entries of every size. */

import fc from 'fast-check';
import t from 'tap';
import { regionLeafSlots } from '../../src/base/limits.js';
import { entryBits, RegionTable, slotBytes } from '../../src/target/switch/region-table.js';
import type { RegionUpload } from '../../src/target/target.js';

/** Path counts at the edges of every size of entry. */
const pathCounts = [
  1,
  ...Array.from({ length: 16 }, (_, i) => 2 ** (i + 1)).flatMap((n) => [n - 1, n, n + 1]),
].filter((paths) => paths >= 1 && paths <= 65_536);

/** The entries of a plain array, bit by bit. */
function packed(entries: readonly number[], bits: number): bigint[] {
  const perSlot = Math.floor(64 / bits);
  const slots = new Array<bigint>(Math.ceil(entries.length / perSlot)).fill(0n);
  for (const [i, entry] of entries.entries()) {
    const slot = Math.floor(i / perSlot);
    slots[slot] = (slots[slot] as bigint) | (BigInt(entry) << BigInt((i % perSlot) * bits));
  }
  return slots;
}

function uploadOf(
  table: { regions: number; paths: number; bits: number },
  first: number,
  entries: readonly number[],
): RegionUpload {
  const { regions, paths, bits } = table;
  const slots = new SharedArrayBuffer(slotBytes(entries.length, bits));
  new BigUint64Array(slots).set(packed(entries, bits));
  const whole = first === 0 && entries.length === regions;
  return { whole, regions, regionSectors: 1, paths, bits, first, count: entries.length, slots };
}

function roundRobin(regions: number, paths: number): number[] {
  return Array.from({ length: regions }, (_, i) => i % paths);
}

function entriesOf(table: RegionTable): number[] {
  return Array.from({ length: table.regions }, (_, i) => table.get(i));
}

t.test('tells the size of an entry as the kernel does', async (t) => {
  for (const [paths, bits] of [
    [1, 1],
    [2, 1],
    [3, 2],
    [4, 2],
    [5, 3],
    [8, 3],
    [9, 4],
    [17, 5],
    [256, 8],
    [257, 9],
    [32_769, 16],
    [65_536, 16],
  ] as const) {
    t.equal(entryBits(paths), bits, `${paths} paths`);
  }
});

t.test('takes as many bytes as the kernel for 1572864 regions', async (t) => {
  for (const [paths, bytes] of [
    [2, 196_608],
    [4, 393_216],
    [8, 599_192],
    [16, 786_432],
    [32, 1_048_576],
    [256, 1_572_864],
  ] as const) {
    const table = new RegionTable(1_572_864, paths);
    t.ok(table.bytes < 4096, `${table.bytes} bytes when it is new (${paths} paths)`);
    for (let i = 0; i < table.regions; i++) table.set(i, (i + 1) % paths);
    const above = table.bytes - bytes;
    t.ok(above >= 0 && above < 4096, `${table.bytes} bytes when it is full (${paths} paths)`);
  }
});

t.test('holds what was set, and the default elsewhere', async (t) => {
  for (const paths of pathCounts) {
    const { bits } = new RegionTable(1, paths);
    const perLeaf = Math.floor(64 / bits) * regionLeafSlots;
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 2 * perLeaf + 100 }),
        fc.array(fc.tuple(fc.nat(), fc.nat(paths - 1)), { maxLength: 200 }),
        (regions, sets) => {
          const table = new RegionTable(regions, paths);
          const model = roundRobin(regions, paths);
          for (const [at, path] of sets) {
            table.set(at % regions, path);
            model[at % regions] = path;
          }
          for (let i = 0; i < regions; i++) if (table.get(i) !== model[i]) return false;
          return true;
        },
      ),
      { numRuns: 8 },
    );
  }
  t.pass(`${pathCounts.length} numbers of paths`);
});

/** A table and its model. */
function tables(paths: number): fc.Arbitrary<{ table: RegionTable; model: number[] }> {
  const { perSlot } = new RegionTable(1, paths);
  return fc
    .tuple(
      fc.integer({ min: 1, max: 2 * perSlot * regionLeafSlots + 3 * perSlot }),
      fc.array(fc.tuple(fc.nat(), fc.nat(paths - 1)), { maxLength: 60 }),
    )
    .map(([regions, sets]) => {
      const table = new RegionTable(regions, paths);
      const model = roundRobin(regions, paths);
      for (const [at, path] of sets) {
        table.set(at % regions, path);
        model[at % regions] = path;
      }
      return { table, model };
    });
}

t.test('gives and takes entries in packed slots', async (t) => {
  for (const paths of pathCounts) {
    fc.assert(
      fc.property(tables(paths), fc.nat(), fc.nat(), fc.nat(), (pair, a, b, seed) => {
        const { table, model } = pair;
        const first = a % table.regions;
        const count = 1 + (b % (table.regions - first));
        const down = table.download(first, count);
        const wanted = packed(model.slice(first, first + count), table.bits);
        const found = [...new BigUint64Array(down.slots)];
        if (found.some((slot, i) => slot !== wanted[i]) || found.length !== wanted.length) {
          throw new Error(`download of ${first}+${count} differs`);
        }
        // Other entries for the same place, from a place of their own in the upload.
        const entries = Array.from({ length: count }, (_, i) => (seed + i * 7) % paths);
        const from = seed % count;
        table.apply(uploadOf(table, first, entries), from);
        for (let i = from; i < count; i++) model[first + i] = entries[i] as number;
        const whole = table.download(0, table.regions);
        const copy = RegionTable.fromUpload(whole);
        for (let i = 0; i < table.regions; i++) {
          if (table.get(i) !== model[i]) throw new Error(`region ${i} after a segment`);
          if (copy.get(i) !== model[i]) throw new Error(`region ${i} of the copy`);
        }
      }),
      { numRuns: 8 },
    );
  }
  t.pass(`${pathCounts.length} numbers of paths`);
});

t.test('keeps the memory that a whole table came in', async (t) => {
  const source = new RegionTable(1_572_864, 4);
  const upload = source.download(0, source.regions);
  const table = RegionTable.fromUpload(upload);
  table.set(1_572_863, 1);
  t.equal(new Uint8Array(upload.slots).at(-1), 0b01_10_01_00);
  t.equal(source.get(1_572_863), 3, 'and no other');
});

t.test('keeps the path of every region that still exists', async (t) => {
  const count = fc.constantFrom(...pathCounts.filter((paths) => paths < 600));
  fc.assert(
    fc.property(
      fc.tuple(count, count).chain(([a, b]) => fc.tuple(tables(a), fc.constant(b))),
      fc.integer({ min: 1, max: 40_000 }),
      fc.boolean(),
      ([{ table, model }, otherPaths], otherRegions, same) => {
        const paths = same ? table.paths : otherPaths;
        const next = table.resized(otherRegions, paths);
        for (let i = 0; i < otherRegions; i++) {
          const before = model[i] ?? paths;
          const wanted = before < paths ? before : i % paths;
          if (next.get(i) !== wanted) throw new Error(`region ${i}: ${next.get(i)}, not ${wanted}`);
        }
        for (let i = 0; i < table.regions; i++) if (table.get(i) !== model[i]) return false;
        return next.bits === entryBits(paths);
      },
    ),
    { numRuns: 60 },
  );
  const fresh = new RegionTable(1_572_864, 4);
  t.ok(fresh.resized(3_000_000, 4).bytes < 4096, 'nothing is allocated for defaults');
});

t.test('takes a path that cannot be for the first', async (t) => {
  const upload = uploadOf({ regions: 4, paths: 3, bits: 2 }, 0, [3, 2, 3, 1]);
  t.strictSame(entriesOf(RegionTable.fromUpload(upload)), [0, 2, 0, 1]);
});
