/**
 * Makes a run that fails shorter: steps are left out as long as it fails in the same way. Each step
 * is what it is without the others, and so is what disks and network do from it on; so most of them
 * can go.
 */

import { kindOf } from './failure.js';
import { type RunOptions, run } from './run.js';
import { stepAt } from './steps.js';

export interface Shrunk {
  /** The steps that are left, by their numbers. */
  readonly numbers: readonly number[];
  readonly failure: unknown;
  /** Runs that it took. */
  readonly runs: number;
}

/** `last`: the step at which the run failed. Gives up after so many milliseconds. */
export async function shrink(
  seed: number,
  last: number,
  failure: unknown,
  milliseconds: number,
  options: RunOptions = {},
): Promise<Shrunk> {
  const kind = kindOf(failure);
  const deadline = performance.now() + milliseconds;
  let numbers = Array.from({ length: last + 1 }, (_, i) => i);
  let found = failure;
  let runs = 0;
  const attempt = async (candidate: number[]): Promise<boolean> => {
    if (performance.now() > deadline) return false;
    runs++;
    const result = await run(seed, candidate, options);
    if (result.failure === null || kindOf(result.failure) !== kind) return false;
    found = result.failure;
    numbers = candidate.slice(0, candidate.indexOf(result.last) + 1);
    return true;
  };
  const world = numbers.findLastIndex((number) => stepAt(seed, number).kind === 'world');
  if (world > 0) await attempt(numbers.slice(world));
  for (let size = Math.ceil(numbers.length / 2); size >= 1; size = Math.floor(size / 2)) {
    // From the end, so that what led to the failure goes last.
    for (let end = numbers.length - 1; end > 1; end -= size) {
      const begin = Math.max(1, end - size);
      await attempt([...numbers.slice(0, begin), ...numbers.slice(end)]);
      end = Math.min(end, numbers.length);
    }
  }
  return { numbers, failure: found, runs };
}
