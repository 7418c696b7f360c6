/**
 * Decides for one file whether its small reads and writes may be blocking calls. From and to the
 * page cache such a call takes a microsecond where a detour through another thread takes twenty;
 * but while it lasts, everything else on the thread waits. So a file that has held the thread up
 * longer than `stallMilliseconds` (a slow disk, writers being throttled) is served asynchronously
 * for a while, and then tried again: a short while after a stall that stands alone, which any
 * machine has, four times as long after each that follows soon. All times are milliseconds.
 *
 * There are two ways of measuring. Exactly: the caller reads the clock before and after a call, and
 * tells `took`. Cheaply, with one reading a call: the reading after one call serves as the reading
 * before the next, so that the code in between is counted in.
 *
 *   const start = guard.startOf(lastReading);
 *   ...the call...
 *   lastReading = guard.endOf(start);
 *
 * A call that seems too long this way may have been charged with other work. It only makes the
 * guard measure the next ones exactly for a while; those can convict.
 */

import {
  stallMilliseconds,
  stallPenaltyMilliseconds,
  stallPenaltyMillisecondsMin,
} from '../base/limits.js';

/** Calls measured exactly after one that seemed too long. Stalls come in bunches. */
const carefulCalls = 64;
/** How much longer the next penalty is when stalls follow one another. */
const penaltyGrowth = 4;

export class StallGuard {
  readonly #clock: () => number;
  #asynchronousUntil = Number.NEGATIVE_INFINITY;
  #penalty = stallPenaltyMillisecondsMin;
  #carefulCallsLeft = 0;

  /** The clock is the one that `now` and the readings are taken from. */
  constructor(clock: () => number = () => performance.now()) {
    this.#clock = clock;
  }

  /** Whether a blocking call may be made now. */
  mayBlock(now: number): boolean {
    return now >= this.#asynchronousUntil;
  }

  /** A blocking call ended at `now` and took that long. */
  took(milliseconds: number, now: number): void {
    if (milliseconds <= stallMilliseconds) return;
    const soon = now - this.#asynchronousUntil < stallPenaltyMilliseconds;
    this.#penalty = soon
      ? Math.min(stallPenaltyMilliseconds, this.#penalty * penaltyGrowth)
      : stallPenaltyMillisecondsMin;
    this.#asynchronousUntil = now + this.#penalty;
  }

  /** The start of a call, given any earlier reading of the clock. */
  startOf(lastReading: number): number {
    return this.#carefulCallsLeft === 0 ? lastReading : this.#clock();
  }

  /** The end of the call that `startOf` gave the start of; returns the clock's reading. */
  endOf(start: number): number {
    const now = this.#clock();
    if (this.#carefulCallsLeft > 0) {
      this.#carefulCallsLeft--;
      this.took(now - start, now);
    } else if (now - start > stallMilliseconds) {
      this.#carefulCallsLeft = carefulCalls;
    }
    return now;
  }
}
