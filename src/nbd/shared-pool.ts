/**
 * Something that connections share beyond what each has for certain. Who takes must leave others as
 * much as it has itself then: the first may have half of all, the next a quarter, and whoever comes
 * later finds some, however many hold what they have and give nothing back.
 *
 *   held by one + wanted <= left when it has that
 */

import { assert } from '../base/assert.js';

export class SharedPool {
  readonly size: number;
  inUse = 0;

  constructor(size: number) {
    this.size = size;
  }

  /** `held`: what the one who asks has taken before. False: not now. */
  take(amount: number, held: number): boolean {
    if (held + amount > this.size - this.inUse - amount) return false;
    this.inUse += amount;
    return true;
  }

  give(amount: number): void {
    assert(amount <= this.inUse, 'no more comes back to a pool than went out');
    this.inUse -= amount;
  }
}
