/**
 * Keeps copies to a part of the time, as the kernel's dm_kcopyd_throttle does: in what has passed
 * lately, the time during which at least one copy was under way must not be more than so many per
 * cent, or whoever wants to start another sleeps. Jobs that share a throttle are counted together.
 *
 * Both times are halved when they come to about a second, so that what was long ago weighs little.
 * Somebody who has slept ten times goes on in any case: a throttle slows down, it does not stop.
 */

import { assert } from '../base/assert.js';
import { copySleeps, copyThrottleMilliseconds } from '../base/limits.js';

export class Throttle {
  /** 100 and more: no throttle. It may be changed at any time. */
  percent: number;
  #underWay = 0;
  #busy = 0;
  #total = 0;
  #counted: number | null = null;

  constructor(percent = 100) {
    this.percent = percent;
  }

  /** Whether a copy must sleep before it starts, having slept so many times for this already. */
  mustSleep(now: number, slept: number): boolean {
    if (this.percent >= 100) return false;
    this.#count(now);
    return slept < copySleeps && this.#busy > (this.percent / 100) * this.#total;
  }

  started(now: number): void {
    this.#count(now);
    this.#underWay++;
  }

  ended(now: number): void {
    assert(this.#underWay > 0, 'a copy ends that has started');
    this.#count(now);
    this.#underWay--;
  }

  #count(now: number): void {
    const passed = Math.max(0, now - (this.#counted ?? now));
    this.#counted = now;
    this.#total += passed;
    if (this.#underWay > 0) this.#busy += passed;
    while (this.#total >= copyThrottleMilliseconds) {
      this.#total /= 2;
      this.#busy /= 2;
    }
  }
}
