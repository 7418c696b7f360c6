/** What kinds of machines there are: fast and slow ones, ones that end everything at once. */

import type { Machine } from './engine.js';
import type { Random } from './random.js';

export function anyMachine(random: Random): Machine {
  return {
    atOncePerThousand: random.pick([0, 0, 100, 500, 950]),
    diskMilliseconds: random.pick([0.02, 0.2, 2, 20]),
    slowPerThousand: random.pick([0, 5, 50, 150]),
    momentMilliseconds: random.pick([0, 0.005, 0.05]),
    hooksAtOnce: random.chance(500),
    canTrim: random.chance(700),
    canZero: random.chance(600),
    canExtents: random.chance(700),
    canCopy: random.chance(300),
  };
}
