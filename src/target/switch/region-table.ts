/**
 * The region table: for each region the number of its path, 1 to 16 bits each, as dm-switch has it
 * in memory. Slots of 64 bits hold `floor(64 / bits)` entries, the first in the lowest bits; an
 * entry never crosses slots, but it may cross the two halves in which a slot is kept here.
 *
 *   3 bits:  63 | 62..60    ...  32..30    ...  5..3    2..0
 *               | entry 20  ...  entry 10  ...  entry 1 entry 0
 *               |      high half     |      low half
 *
 * There are two levels. A leaf is 4096 slots in shared memory, and is allocated when an entry in it
 * first differs from the default, which is round robin: region i is on path i modulo paths. Leaves
 * of a table that came as a whole are views into what it came in.
 *
 * Halves are in the machine's order, which is little-endian wherever this runs.
 */

import { assert } from '../../base/assert.js';
import { regionLeafSlots, regionPaths } from '../../base/limits.js';
import type { RegionUpload } from '../target.js';

/** What the table itself says of an upload; the rest is the target's. */
export type RegionEntries = Omit<RegionUpload, 'regionSectors'>;

/** The smallest size of an entry that can tell so many paths apart, at least 1. */
export function entryBits(paths: number): number {
  return paths <= 2 ? 1 : 32 - Math.clz32(paths - 1);
}

/** Bytes of the slots that hold so many entries. */
export function slotBytes(count: number, bits: number): number {
  return Math.ceil(count / Math.floor(64 / bits)) * 8;
}

/** An entry of slots that are kept in halves. */
export function readEntry(halves: Uint32Array, slot: number, shift: number, mask: number): number {
  const at = slot * 2;
  if (shift >= 32) return ((halves[at + 1] as number) >>> (shift - 32)) & mask;
  const low = (halves[at] as number) >>> shift;
  // An entry has at most 16 bits: only from above 16 it may reach into the upper half.
  if (shift <= 16) return low & mask;
  return (low | ((halves[at + 1] as number) << (32 - shift))) & mask;
}

export function writeEntry(
  halves: Uint32Array,
  slot: number,
  shift: number,
  mask: number,
  value: number,
): void {
  const at = slot * 2;
  if (shift >= 32) {
    const by = shift - 32;
    halves[at + 1] = ((halves[at + 1] as number) & ~(mask << by)) | (value << by);
    return;
  }
  halves[at] = ((halves[at] as number) & ~(mask << shift)) | (value << shift);
  if (shift <= 16) return;
  const above = 32 - shift;
  halves[at + 1] = ((halves[at + 1] as number) & ~(mask >>> above)) | (value >>> above);
}

export class RegionTable {
  readonly regions: number;
  readonly paths: number;
  readonly bits: number;
  /** Entries in a slot. */
  readonly perSlot: number;
  // Plain fields: get is hot.
  private readonly perLeaf: number;
  private readonly mask: number;
  /** Null: the default for all of it. */
  private leaves: (Uint32Array | null)[];

  /** Everything as by default. `paths`: 1 to regionPaths. */
  constructor(regions: number, paths: number) {
    assert(paths >= 1 && paths <= regionPaths, `a region table has 1 to ${regionPaths} paths`);
    this.regions = regions;
    this.paths = paths;
    this.bits = entryBits(paths);
    this.perSlot = Math.floor(64 / this.bits);
    this.perLeaf = this.perSlot * regionLeafSlots;
    this.mask = 2 ** this.bits - 1;
    this.leaves = new Array<Uint32Array | null>(Math.ceil(regions / this.perLeaf)).fill(null);
  }

  /** A whole table that keeps the memory which the entries came in. */
  static fromUpload(upload: RegionEntries): RegionTable {
    const table = new RegionTable(upload.regions, upload.paths);
    assert(table.bits === upload.bits, 'the entries have the size that the paths ask for');
    assert(upload.first === 0 && upload.count === upload.regions, 'the table is whole');
    const slots = Math.ceil(upload.count / table.perSlot);
    assert(slots * 8 <= upload.slots.byteLength, 'there are as many slots as are needed');
    table.leaves = table.leaves.map((_, i) => {
      const first = i * regionLeafSlots;
      const count = Math.min(regionLeafSlots, slots - first);
      return new Uint32Array(upload.slots, first * 8, count * 2);
    });
    return table;
  }

  /** What it holds of memory, about. */
  get bytes(): number {
    let bytes = this.leaves.length * 8;
    for (const leaf of this.leaves) bytes += leaf?.byteLength ?? 0;
    return bytes;
  }

  /** The path of a region. */
  get(region: number): number {
    const index = (region / this.perLeaf) | 0;
    const leaf = this.leaves[index] as Uint32Array | null;
    if (leaf === null) return region % this.paths;
    const entry = region - index * this.perLeaf;
    const slot = (entry / this.perSlot) | 0;
    const shift = (entry - slot * this.perSlot) * this.bits;
    const path = readEntry(leaf, slot, shift, this.mask);
    // Nobody writes such a path; the kernel takes one for the first as well.
    return path < this.paths ? path : 0;
  }

  set(region: number, path: number): void {
    const index = (region / this.perLeaf) | 0;
    let leaf = this.leaves[index] as Uint32Array | null;
    if (leaf === null) {
      if (path === region % this.paths) return;
      leaf = this.#leaf(index);
    }
    const entry = region - index * this.perLeaf;
    const slot = (entry / this.perSlot) | 0;
    writeEntry(leaf, slot, (entry - slot * this.perSlot) * this.bits, this.mask, path);
  }

  /** Changes the entries that `upload` has, in place, or only so many of them from one on. */
  apply(upload: RegionEntries, from = 0, count = upload.count - from): void {
    assert(upload.bits === this.bits, 'the entries have the size that the paths ask for');
    assert(upload.first + upload.count <= this.regions, 'the entries are within the table');
    const halves = new Uint32Array(upload.slots);
    const { perSlot, bits } = this;
    const end = from + count;
    for (let at = from; at < end; ) {
      const slot = (at / perSlot) | 0;
      const region = upload.first + at;
      const whole = Math.floor((end - at) / perSlot);
      if (at === slot * perSlot && region % perSlot === 0 && whole > 0) {
        at += this.#copySlots(halves, slot, region, whole) * perSlot;
      } else {
        this.set(region, readEntry(halves, slot, (at - slot * perSlot) * bits, this.mask));
        at++;
      }
    }
  }

  /** The entries of so many regions, packed anew so that `first` is the first of its slot. */
  download(first: number, count: number): RegionEntries {
    assert(first + count <= this.regions, 'the entries are within the table');
    const { perSlot, bits, regions, paths } = this;
    const slots = new SharedArrayBuffer(slotBytes(count, bits));
    const halves = new Uint32Array(slots);
    const whole = first === 0 && count === regions;
    if (first % perSlot === 0) {
      this.#copyOut(first / perSlot, halves);
      const left = count % perSlot;
      // What stands behind the last entry is zero.
      if (left > 0) clearFrom(halves, halves.length / 2 - 1, left * bits);
    } else {
      for (let at = 0, slot = 0, shift = 0; at < count; at++) {
        writeEntry(halves, slot, shift, this.mask, this.get(first + at));
        shift += bits;
        if (shift + bits <= 64) continue;
        shift = 0;
        slot++;
      }
    }
    return { whole, regions, paths, bits, first, count, slots };
  }

  /**
   * A table of another size, or for another number of paths, in which every region that is in both
   * has the path it had, if there still is such a path, or else its default.
   */
  resized(regions: number, paths: number): RegionTable {
    const table = new RegionTable(regions, paths);
    table.keep(this, 0, Math.min(regions, this.regions));
    return table;
  }

  /** Takes the paths of regions `from` to `to` (exclusive) over from another table; see above. */
  keep(old: RegionTable, from: number, to: number): void {
    const { paths } = this;
    for (let region = from; region < to; ) {
      const index = (region / this.perLeaf) | 0;
      const end = Math.min(to, (index + 1) * this.perLeaf);
      if (paths === old.paths && (old.leaves[index] ?? null) === null) {
        // By default there, and so here.
        region = end;
        continue;
      }
      for (; region < end; region++) {
        const path = old.get(region);
        if (path < paths) this.set(region, path);
      }
    }
  }

  /** A leaf that holds the defaults. */
  #leaf(index: number): Uint32Array {
    const first = index * regionLeafSlots;
    const slots = Math.ceil(this.regions / this.perSlot);
    const count = Math.min(regionLeafSlots, slots - first);
    const leaf = new Uint32Array(new SharedArrayBuffer(count * 8));
    this.#fillDefault(leaf, first);
    this.leaves[index] = leaf;
    return leaf;
  }

  /** Slots from slot number `first` of the table on, as they are by default. */
  #fillDefault(halves: Uint32Array, first: number): void {
    const { perSlot, bits, paths } = this;
    const count = halves.length / 2;
    // After so many slots the same ones come again.
    const period = Math.min(count, paths / greatestCommonDivisor(paths, perSlot));
    let path = (first * perSlot) % paths;
    for (let slot = 0; slot < period; slot++) {
      for (let k = 0; k < perSlot; k++) {
        writeEntry(halves, slot, k * bits, this.mask, path);
        if (++path === paths) path = 0;
      }
    }
    for (let done = period; done < count; done *= 2) {
      halves.copyWithin(done * 2, 0, Math.min(done, count - done) * 2);
    }
    // Behind the last region there is nothing.
    const left = this.regions - (first + count - 1) * perSlot;
    if (left < perSlot) clearFrom(halves, count - 1, left * bits);
  }

  /** Whole slots into the leaf of `region`, which begins a slot; how many were copied. */
  #copySlots(halves: Uint32Array, slot: number, region: number, most: number): number {
    const index = (region / this.perLeaf) | 0;
    const leaf = this.leaves[index] ?? this.#leaf(index);
    const to = (region - index * this.perLeaf) / this.perSlot;
    const count = Math.min(most, leaf.length / 2 - to);
    leaf.set(halves.subarray(slot * 2, (slot + count) * 2), to * 2);
    return count;
  }

  /** The table's slots from number `slot` on. */
  #copyOut(slot: number, halves: Uint32Array): void {
    const end = slot + halves.length / 2;
    for (let at = slot; at < end; ) {
      const index = Math.floor(at / regionLeafSlots);
      const next = Math.min(end, (index + 1) * regionLeafSlots);
      const into = halves.subarray((at - slot) * 2, (next - slot) * 2);
      const leaf = this.leaves[index] as Uint32Array | null;
      const from = at - index * regionLeafSlots;
      if (leaf === null) this.#fillDefault(into, at);
      else into.set(leaf.subarray(from * 2, (from + next - at) * 2));
      at = next;
    }
  }
}

/** Bits of a slot from number `bit` on become zero. */
function clearFrom(halves: Uint32Array, slot: number, bit: number): void {
  const low = slot * 2;
  if (bit < 32) {
    halves[low] = (halves[low] as number) & ~(-1 << bit);
    halves[low + 1] = 0;
  } else if (bit < 64) {
    halves[low + 1] = (halves[low + 1] as number) & ~(-1 << (bit - 32));
  }
}

function greatestCommonDivisor(a: number, b: number): number {
  let [x, y] = [a, b];
  while (y !== 0) [x, y] = [y, x % y];
  return x;
}
