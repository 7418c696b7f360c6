/**
 * What is done in a simulation, one step after the other. Each is made from the run's seed and its
 * own number alone, so that it stays what it is when others are left out.
 */

import { mix, Random } from './random.js';

/** How many of so many steps are of each kind. */
const weights = {
  write: 1000,
  read: 700,
  fua: 120,
  flush: 140,
  zero: 90,
  trim: 60,
  status: 50,
  moments: 260,
  snapshot: 12,
  removeSnapshot: 8,
  merge: 8,
  reload: 10,
  suspend: 8,
  resume: 16,
  move: 8,
  lookAtMove: 20,
  map: 6,
  upload: 6,
  flip: 10,
  rename: 4,
  drop: 5,
  connect: 7,
  fault: 5,
  mend: 10,
  check: 3,
  probe: 2,
  kill: 3,
  power: 7,
  restart: 2,
  world: 1,
} as const;

export type StepKind = keyof typeof weights;

const kinds = Object.entries(weights) as [StepKind, number][];
const total = kinds.reduce((sum, [, weight]) => sum + weight, 0);

export interface Step {
  readonly index: number;
  readonly kind: StepKind;
  /** For what else there is to it. */
  readonly seed: number;
}

/** The first step of a run makes a world. */
export function stepAt(seed: number, index: number): Step {
  const own = mix(seed, index);
  if (index === 0) return { index, kind: 'world', seed: own };
  let left = new Random(own).below(total);
  for (const [kind, weight] of kinds) {
    if (left < weight) return { index, kind, seed: mix(own, 1) };
    left -= weight;
  }
  throw new Error('weights and their sum do not agree');
}
