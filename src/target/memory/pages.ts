/**
 * Sparse storage: pages of 64 KiB, in leaves of 1024 pages, in a map of leaves.
 *
 *   leaves  0 -> [page, null, page, zeroPage, ...]      64 MiB each
 *           7 -> [...]
 *
 * A page is a hole (null), allocated but never written (zeroPage, which all such pages share and
 * nobody writes to), or a buffer of its own. A leaf without pages is dropped, so that work on a
 * range is bounded by what is stored there. Allocated pages count against the budget; the last page
 * of the range may be short, and counts as what it is.
 */

import { ENOMEM, ENOSPC } from '../../base/errno.js';
import type { PageBudget } from './budget.js';

export const pageBytes = 65_536;
const leafPages = 1024;
const leafBytes = leafPages * pageBytes;

const zeroPage = Buffer.alloc(pageBytes);

export type PageState = 'hole' | 'zeroes' | 'data';

class Leaf {
  readonly pages = new Array<Buffer | null>(leafPages).fill(null);
  /** Pages that are not holes. */
  count = 0;
}

export class PageMap {
  readonly sizeBytes: number;
  allocatedBytes = 0;
  readonly #budget: PageBudget;
  readonly #leaves = new Map<number, Leaf>();

  constructor(sizeBytes: number, budget: PageBudget) {
    this.sizeBytes = sizeBytes;
    this.#budget = budget;
  }

  /** Leaves in memory: those that hold pages. */
  get leafCount(): number {
    return this.#leaves.size;
  }

  /** Copies the range into `target` at `targetAt`. */
  read(offset: number, length: number, target: Buffer, targetAt: number): void {
    const end = offset + length;
    let at = offset;
    while (at < end) {
      const page = Math.floor(at / pageBytes);
      const from = at - page * pageBytes;
      const to = Math.min(pageBytes, end - page * pageBytes);
      (this.#page(page) ?? zeroPage).copy(target, targetAt + (at - offset), from, to);
      at += to - from;
    }
  }

  /**
   * Copies from `source` into the range. Returns 0 or an errno: ENOSPC, and nothing changed, if the
   * budget is too small; ENOMEM if the process cannot have what the budget allows.
   */
  write(offset: number, length: number, source: Buffer, sourceAt: number): number {
    const end = offset + length;
    if (!this.#fits(offset, end)) return ENOSPC;
    let at = offset;
    while (at < end) {
      const page = Math.floor(at / pageBytes);
      const from = at - page * pageBytes;
      const to = Math.min(pageBytes, end - page * pageBytes);
      const copyFrom = sourceAt + (at - offset);
      const buffer = this.#writable(page, to - from === this.#bytesOf(page));
      if (buffer === null) return ENOMEM;
      source.copy(buffer, from, copyFrom, copyFrom + (to - from));
      at += to - from;
    }
    return 0;
  }

  /** Whole pages of the range become holes, the rest of it keeps its contents. */
  trim(offset: number, length: number): void {
    this.#free(offset, offset + length, false);
  }

  /** The range reads as zeroes; whole pages become holes. */
  zero(offset: number, length: number): void {
    this.#free(offset, offset + length, true);
  }

  /**
   * The range reads as zeroes and has its pages, so that writing there does not meet the budget's
   * end. Returns 0, or ENOSPC, and nothing changed, if the budget is too small.
   */
  zeroAllocated(offset: number, length: number): number {
    const end = offset + length;
    if (!this.#fits(offset, end)) return ENOSPC;
    let at = offset;
    while (at < end) {
      const page = Math.floor(at / pageBytes);
      const from = at - page * pageBytes;
      const to = Math.min(pageBytes, end - page * pageBytes);
      const buffer = this.#page(page);
      if (buffer === null || to - from === this.#bytesOf(page)) this.#set(page, zeroPage);
      else if (buffer !== zeroPage) buffer.fill(0, from, to);
      at += to - from;
    }
    return 0;
  }

  stateAt(offset: number): PageState {
    const page = this.#page(Math.floor(offset / pageBytes));
    if (page === null) return 'hole';
    return page === zeroPage ? 'zeroes' : 'data';
  }

  /** Where the pages in the state that `offset` is in end, at most `end`. */
  stateEnd(offset: number, end: number): number {
    const state = this.stateAt(offset);
    let at = offset;
    while (at < end && this.stateAt(at) === state) {
      const unit = this.#leaves.has(Math.floor(at / leafBytes)) ? pageBytes : leafBytes;
      at = (Math.floor(at / unit) + 1) * unit;
    }
    return Math.min(at, end);
  }

  clear(): void {
    this.#leaves.clear();
    this.#budget.usedBytes -= this.allocatedBytes;
    this.allocatedBytes = 0;
  }

  #page(page: number): Buffer | null {
    const leaf = this.#leaves.get(Math.floor(page / leafPages));
    return leaf === undefined ? null : (leaf.pages[page % leafPages] as Buffer | null);
  }

  /** What the page holds: all but the last hold `pageBytes`. */
  #bytesOf(page: number): number {
    return Math.min(pageBytes, this.sizeBytes - page * pageBytes);
  }

  /** Whether the budget allows for the holes in the range. */
  #fits(offset: number, end: number): boolean {
    const { leftBytes } = this.#budget;
    // A range this long has too many holes, wherever the pages are: no need to look at each.
    if (end - offset > leftBytes + this.allocatedBytes) return false;
    let missing = 0;
    for (let at = offset; at < end; ) {
      const page = Math.floor(at / pageBytes);
      if (this.#page(page) === null) missing += this.#bytesOf(page);
      at = (page + 1) * pageBytes;
    }
    return missing <= leftBytes;
  }

  /** The page's own buffer, made if need be; null if it cannot. `whole`: all is overwritten. */
  #writable(page: number, whole: boolean): Buffer | null {
    const found = this.#page(page);
    if (found !== null && found !== zeroPage) return found;
    const made = makePage(this.#bytesOf(page), whole);
    if (made !== null) this.#set(page, made);
    return made;
  }

  /** Puts a buffer in the page's place and counts it, if there was none. */
  #set(page: number, buffer: Buffer): void {
    const number = Math.floor(page / leafPages);
    let leaf = this.#leaves.get(number);
    if (leaf === undefined) {
      leaf = new Leaf();
      this.#leaves.set(number, leaf);
    }
    if (leaf.pages[page % leafPages] === null) {
      leaf.count++;
      this.#account(this.#bytesOf(page));
    }
    leaf.pages[page % leafPages] = buffer;
  }

  #account(bytes: number): void {
    this.allocatedBytes += bytes;
    this.#budget.usedBytes += bytes;
  }

  /** Frees what the range holds; walks over its leaves or over those there are, if that is less. */
  #free(offset: number, end: number, zero: boolean): void {
    const first = Math.floor(offset / leafBytes);
    const last = Math.floor((end - 1) / leafBytes);
    if (last - first < this.#leaves.size) {
      for (let number = first; number <= last; number++) this.#freeIn(number, offset, end, zero);
    } else {
      for (const number of this.#leaves.keys()) this.#freeIn(number, offset, end, zero);
    }
  }

  /** Frees the part of the range that lies in that leaf, if any does. */
  #freeIn(number: number, offset: number, end: number, zero: boolean): void {
    const leaf = this.#leaves.get(number);
    if (leaf === undefined) return;
    const stop = Math.min(end, (number + 1) * leafBytes);
    let at = Math.max(offset, number * leafBytes);
    while (at < stop) {
      const page = Math.floor(at / pageBytes);
      const from = at - page * pageBytes;
      const to = Math.min(pageBytes, stop - page * pageBytes);
      const buffer = leaf.pages[page % leafPages] as Buffer | null;
      if (buffer !== null && to - from === this.#bytesOf(page)) {
        leaf.pages[page % leafPages] = null;
        leaf.count--;
        this.#account(-this.#bytesOf(page));
      } else if (zero && buffer !== null && buffer !== zeroPage) {
        buffer.fill(0, from, to);
      }
      at += to - from;
    }
    if (leaf.count === 0) this.#leaves.delete(number);
  }
}

/** A page, of zeroes unless `whole`; null if the process is out of memory. */
function makePage(bytes: number, whole: boolean): Buffer | null {
  try {
    return whole ? Buffer.allocUnsafeSlow(bytes) : Buffer.alloc(bytes);
  } catch (error) {
    if (error instanceof RangeError) return null;
    throw error;
  }
}
