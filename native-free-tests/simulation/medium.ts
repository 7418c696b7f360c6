/**
 * The bytes of one file on a disk with a volatile cache. What a read finds and what is on the
 * platter for certain are two images; between them are versions of sectors, each made by one write:
 *
 *   platter    version 3        a flush that began before version 9 was answered
 *   cache      3, 7, 9, 12      makes 7 (or more) durable, not 9
 *
 * When the power fails each sector is found as any of its versions since the platter's, so that
 * writes are lost, kept, reordered and torn at the grain of a sector.
 */

import type { Random } from './random.js';
import { sectorBytes } from './stamps.js';

/** Space is allocated in blocks. */
export const blockBytes = 4096;
/** Older versions of a sector that are kept for a crash. */
const olderMax = 8;

interface Older {
  readonly version: number;
  readonly data: Uint8Array;
}

/** What a flush covers: versions before `end`, but for those of writes that were not answered. */
export interface FlushPoint {
  readonly end: number;
  readonly unanswered: readonly number[];
}

export class Medium {
  size: number;
  /** The size that is certain to be found after a crash. */
  durableSize = 0;
  /** Sectors with versions that are in the cache alone. */
  dirty: number[] = [];
  /** A byte for each block: whether it holds space. */
  allocated: Uint8Array;
  /** The cache's image, and behind it the platter's. */
  #bytes: Uint8Array;
  /** They are somebody else's until they are changed. */
  #shared = false;
  #capacity: number;
  #current: Float64Array;
  #durable: Float64Array;
  readonly #older = new Map<number, Older[]>();
  #versions = 0;
  /** Versions of writes under way. */
  readonly #unanswered: number[] = [];

  constructor(size: number) {
    this.size = size;
    this.#capacity = Math.max(1, Math.ceil(size / blockBytes)) * blockBytes;
    const sectors = this.#capacity / sectorBytes;
    this.#bytes = new Uint8Array(2 * this.#capacity);
    this.#current = new Float64Array(sectors);
    this.#durable = new Float64Array(sectors);
    this.allocated = new Uint8Array(this.#capacity / blockBytes);
  }

  /** What is there now; a view. */
  get contents(): Uint8Array {
    return this.#bytes.subarray(0, this.size);
  }

  read(offset: number, length: number, target: Uint8Array, at: number): void {
    target.set(this.#bytes.subarray(offset, offset + length), at);
  }

  /**
   * What a write does, at once: the range gets that data, or zeroes without a source. Returns the
   * version, which `answered` must be told of.
   */
  apply(offset: number, length: number, source: Uint8Array | null, at: number): number {
    this.#own();
    const version = ++this.#versions;
    const first = Math.floor(offset / sectorBytes);
    const last = Math.floor((offset + length - 1) / sectorBytes);
    for (let sector = first; sector <= last; sector++) this.#newVersion(sector, version);
    if (source === null) this.#bytes.fill(0, offset, offset + length);
    else this.#bytes.set(source.subarray(at, at + length), offset);
    this.#unanswered.push(version);
    return version;
  }

  #newVersion(sector: number, version: number): void {
    const before = this.#current[sector] as number;
    this.#current[sector] = version;
    if (before === this.#durable[sector]) {
      this.dirty.push(sector);
      return;
    }
    const start = sector * sectorBytes;
    const data = this.#bytes.slice(start, start + sectorBytes);
    const older = this.#older.get(sector);
    if (older === undefined) {
      this.#older.set(sector, [{ version: before, data }]);
    } else {
      if (older.length === olderMax) older.shift();
      older.push({ version: before, data });
    }
  }

  /** The write of that version has been answered; 0: it never came so far. */
  answered(version: number): void {
    if (version === 0) return;
    const at = this.#unanswered.indexOf(version);
    const last = this.#unanswered.pop() as number;
    if (at < this.#unanswered.length) this.#unanswered[at] = last;
  }

  flushPoint(): FlushPoint {
    return { end: this.#versions + 1, unanswered: this.#unanswered.slice() };
  }

  /** A flush has ended. */
  flushed({ end, unanswered }: FlushPoint): void {
    this.#harden((version) => version < end && !unanswered.includes(version));
  }

  /** A write with FUA has ended, whose versions these are. */
  written(first: number, second: number): void {
    this.#harden((version) => version === first || version === second);
  }

  /** Everything there is becomes durable. */
  harden(): void {
    this.#harden(() => true);
    this.durableSize = this.size;
  }

  #harden(covered: (version: number) => boolean): void {
    const { dirty } = this;
    if (dirty.length > 0) this.#own();
    let kept = 0;
    for (let i = 0; i < dirty.length; i++) {
      const sector = dirty[i] as number;
      if (!this.#hardenSector(sector, covered)) dirty[kept++] = sector;
    }
    dirty.length = kept;
  }

  /** True: the newest version is durable now. */
  #hardenSector(sector: number, covered: (version: number) => boolean): boolean {
    const start = sector * sectorBytes;
    const current = this.#current[sector] as number;
    if (covered(current)) {
      this.#bytes.copyWithin(this.#capacity + start, start, start + sectorBytes);
      this.#durable[sector] = current;
      this.#older.delete(sector);
      return true;
    }
    const older = this.#older.get(sector);
    if (older === undefined) return false;
    for (let i = older.length - 1; i >= 0; i--) {
      const { version, data } = older[i] as Older;
      if (!covered(version)) continue;
      this.#bytes.set(data, this.#capacity + start);
      this.#durable[sector] = version;
      older.splice(0, i + 1);
      break;
    }
    return false;
  }

  /** Whether some of the range holds no space yet. */
  needsSpace(offset: number, length: number): boolean {
    const last = Math.floor((offset + length - 1) / blockBytes);
    for (let block = Math.floor(offset / blockBytes); block <= last; block++) {
      if (this.allocated[block] === 0) return true;
    }
    return false;
  }

  allocate(offset: number, length: number): void {
    const end = Math.ceil((offset + length) / blockBytes);
    this.allocated.fill(1, Math.floor(offset / blockBytes), end);
  }

  /** Whole blocks give their space back. */
  release(offset: number, length: number): void {
    const end = Math.floor((offset + length) / blockBytes);
    this.allocated.fill(0, Math.ceil(offset / blockBytes), end);
  }

  /** Where the extent at that offset ends: negative for a hole, as of EngineFile.extentEnd. */
  extentEnd(offset: number): number {
    const blocks = Math.ceil(this.size / blockBytes);
    let block = Math.floor(offset / blockBytes);
    if (block >= blocks) return -this.size;
    const kind = this.allocated[block];
    do block++;
    while (block < blocks && this.allocated[block] === kind);
    const end = Math.min(this.size, block * blockBytes);
    return kind === 1 ? end : -end;
  }

  truncate(size: number): void {
    this.#own();
    if (size > this.#capacity) this.#grow(size);
    // What comes back after a cut and a growth reads as zeroes.
    if (size < this.size) this.answered(this.apply(size, this.size - size, null, 0));
    this.size = size;
  }

  #grow(size: number): void {
    const bigger = new Medium(size);
    bigger.#bytes.set(this.#bytes.subarray(0, this.#capacity));
    bigger.#bytes.set(this.#bytes.subarray(this.#capacity), bigger.#capacity);
    bigger.#current.set(this.#current);
    bigger.#durable.set(this.#durable);
    bigger.allocated.set(this.allocated);
    this.#bytes = bigger.#bytes;
    this.#current = bigger.#current;
    this.#durable = bigger.#durable;
    this.allocated = bigger.allocated;
    this.#capacity = bigger.#capacity;
  }

  /** The same bytes in the same state, for somebody who changes them while nobody changes these. */
  twin(): Medium {
    const twin = new Medium(0);
    twin.size = this.size;
    twin.durableSize = this.durableSize;
    twin.dirty = this.dirty.slice();
    twin.allocated = this.allocated.slice();
    twin.#bytes = this.#bytes;
    twin.#shared = true;
    twin.#capacity = this.#capacity;
    twin.#current = this.#current.slice();
    twin.#durable = this.#durable.slice();
    for (const [sector, older] of this.#older) twin.#older.set(sector, older.slice());
    twin.#versions = this.#versions;
    return twin;
  }

  #own(): void {
    if (!this.#shared) return;
    this.#bytes = this.#bytes.slice();
    this.#shared = false;
  }

  /** The power has failed: of what is in the cache alone, some is lost. */
  losePower(random: Random): void {
    if (this.size !== this.durableSize && random.chance(500)) this.#cutTo(this.durableSize);
    if (this.dirty.length > 0) {
      this.#own();
      this.#loseSome(random);
    }
    this.#older.clear();
    this.#unanswered.length = 0;
    this.durableSize = this.size;
  }

  #cutTo(size: number): void {
    this.#own();
    if (size > this.#capacity) this.#grow(size);
    this.#bytes.fill(0, Math.min(size, this.size), this.#capacity);
    this.size = size;
  }

  #loseSome(random: Random): void {
    const keeps = this.#whatIsKept(random);
    const words = new Int32Array(this.#bytes.buffer);
    for (const sector of this.dirty) {
      const start = sector * sectorBytes;
      if (start < this.size) this.#loseSector(sector, keeps);
      this.#bytes.copyWithin(this.#capacity + start, start, start + sectorBytes);
      this.#durable[sector] = this.#current[sector] as number;
      // A hole that was lost holds what it held before.
      const block = Math.floor(start / blockBytes);
      if (this.allocated[block] === 0 && holdsData(words, start / 4)) this.allocated[block] = 1;
    }
    this.dirty.length = 0;
  }

  #loseSector(sector: number, keeps: (version: number) => boolean): void {
    if (keeps(this.#current[sector] as number)) return;
    const start = sector * sectorBytes;
    const older = this.#older.get(sector)?.findLast(({ version }) => keeps(version));
    if (older !== undefined) this.#bytes.set(older.data, start);
    else
      this.#bytes.copyWithin(start, this.#capacity + start, this.#capacity + start + sectorBytes);
  }

  /** Disks differ in what they have written already: nothing, all, what came first, anything. */
  #whatIsKept(random: Random): (version: number) => boolean {
    const before = this.#versions - random.below(Math.min(this.#versions + 1, 64));
    const odds = random.bits();
    switch (random.below(6)) {
      case 0:
        return () => false;
      case 1:
        return () => true;
      case 2:
        return (version) => version <= before;
      case 3:
        return (version) => ((odds >>> (version & 31)) & 1) === 1;
      default:
        return () => random.chance(500);
    }
  }
}

/** Whether a sector that begins with that word is anything but zeroes. */
function holdsData(words: Int32Array, first: number): boolean {
  const end = first + sectorBytes / 4;
  for (let at = first; at < end; at++) if (words[at] !== 0) return true;
  return false;
}
