import { assert } from '../base/assert.js';

/** The bits of base:allocation. Data that may be anything is 0. */
export const EXTENT_HOLE = 1;
export const EXTENT_ZERO = 2;

/**
 * Consecutive extents: lengths in bytes and base:allocation flags, in the order of the device.
 * Neighbours with the same flags become one. A full list takes no more and says so.
 */
export class ExtentList {
  readonly capacity: number;
  readonly lengths: Float64Array;
  readonly flags: Uint8Array;
  count = 0;
  /** Sum of the lengths. */
  bytes = 0;

  constructor(capacity: number) {
    assert(capacity >= 1, 'an extent list holds at least one extent');
    this.capacity = capacity;
    this.lengths = new Float64Array(capacity);
    this.flags = new Uint8Array(capacity);
  }

  clear(): void {
    this.count = 0;
    this.bytes = 0;
  }

  /** False when the list is full: the extent was not added and none can be. */
  push(length: number, flags: number): boolean {
    assert(length > 0, 'an extent has a length');
    const last = this.count - 1;
    if (last >= 0 && this.flags[last] === flags) {
      this.lengths[last] = (this.lengths[last] as number) + length;
      this.bytes += length;
      return true;
    }
    if (this.count === this.capacity) return false;
    this.lengths[this.count] = length;
    this.flags[this.count] = flags;
    this.count++;
    this.bytes += length;
    return true;
  }
}
