/**
 * Where a file is known to have holes, so that reads of them need no I/O. It learns from TRIM, from
 * ZERO and from BLOCK_STATUS, and forgets what is written. Ranges are sorted, disjoint and apart:
 *
 *   starts  [  0,  8192, 65536 ]
 *   ends    [4096, 12288, 131072 ]
 *
 * What it says must be true; what it does not say costs only time. A full cache learns no more. A
 * hole is only learnt when no write was under way while it was made or looked for, since nobody can
 * tell which of the two came last: `writes` and `writesStarted` are there to know.
 */

import { holesPerFile } from '../base/limits.js';
import { EXTENT_HOLE, EXTENT_ZERO, type ExtentList } from '../device/extent-list.js';

export class HoleCache {
  /** Ranges known; the fast path looks at this first. */
  count = 0;
  /** Writes to the file that are under way now, and all that were ever started. */
  writes = 0;
  writesStarted = 0;
  #starts: Float64Array | null = null;
  #ends: Float64Array | null = null;

  /** The range [start, end) is a hole. */
  add(start: number, end: number): void {
    this.#starts ??= new Float64Array(holesPerFile);
    this.#ends ??= new Float64Array(holesPerFile);
    // Everything that touches it becomes one range with it.
    const first = this.#firstEndingFrom(start);
    let last = first;
    while (last < this.count && (this.#starts[last] as number) <= end) last++;
    if (last > first) {
      start = Math.min(start, this.#starts[first] as number);
      end = Math.max(end, this.#ends[last - 1] as number);
    }
    if (!this.#replace(first, last, 1)) return;
    this.#starts[first] = start;
    this.#ends[first] = end;
  }

  /** The range is being written, or has been. */
  forget(start: number, end: number): void {
    if (this.count === 0) return;
    const starts = this.#starts as Float64Array;
    const ends = this.#ends as Float64Array;
    let at = this.#firstEndingFrom(start);
    if (at < this.count && ends[at] === start) at++;
    while (at < this.count && (starts[at] as number) < end) {
      const holeStart = starts[at] as number;
      const holeEnd = ends[at] as number;
      if (holeStart < start && holeEnd > end) {
        // Split in two; when there is no room, the part behind is forgotten too.
        ends[at] = start;
        if (this.#replace(at + 1, at + 1, 1)) {
          starts[at + 1] = end;
          ends[at + 1] = holeEnd;
        }
        return;
      }
      if (holeStart < start) {
        ends[at++] = start;
      } else if (holeEnd > end) {
        starts[at] = end;
        return;
      } else {
        this.#replace(at, at + 1, 0);
      }
    }
  }

  /** Whether all of the range is known to be a hole. */
  covers(start: number, end: number): boolean {
    const at = this.#firstEndingFrom(start + 1);
    return (
      at < this.count &&
      ((this.#starts as Float64Array)[at] as number) <= start &&
      ((this.#ends as Float64Array)[at] as number) >= end
    );
  }

  /** Fills an empty list with extents that cover the range, or leaves it empty: nothing known. */
  describe(start: number, end: number, list: ExtentList): void {
    let at = this.#firstEndingFrom(start + 1);
    let position = start;
    while (at < this.count) {
      const holeStart = Math.max(position, (this.#starts as Float64Array)[at] as number);
      const holeEnd = Math.min(end, (this.#ends as Float64Array)[at] as number);
      if (holeStart >= end) break;
      // Room is kept for the data behind the last hole.
      if (list.count + 3 > list.capacity) break;
      if (holeStart > position) list.push(holeStart - position, 0);
      list.push(holeEnd - holeStart, EXTENT_HOLE | EXTENT_ZERO);
      position = holeEnd;
      at++;
    }
    if (position > start && position < end) list.push(end - position, 0);
  }

  /** Index of the first range whose end is at or behind `position`. */
  #firstEndingFrom(position: number): number {
    let low = 0;
    let high = this.count;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (((this.#ends as Float64Array)[middle] as number) < position) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Makes the ranges [first, last) into `wanted` ones (0 or 1), to be filled in. */
  #replace(first: number, last: number, wanted: number): boolean {
    const change = wanted - (last - first);
    if (this.count + change > holesPerFile) return false;
    if (change !== 0) {
      this.#starts?.copyWithin(last + change, last, this.count);
      this.#ends?.copyWithin(last + change, last, this.count);
      this.count += change;
    }
    return true;
  }
}
