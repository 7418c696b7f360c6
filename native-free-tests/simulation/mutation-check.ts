/** Whether a deliberate bug is noticed, how soon, and that it is the bug that was. */

import type { Mutation } from './patch.js';
import { describeFailure, play, run, upTo } from './run.js';
import { Tally } from './tally.js';

export interface Caught {
  readonly seed: number;
  /** Of all seeds that were played. */
  readonly operations: number;
  readonly milliseconds: number;
  readonly text: string;
  /** What the same steps come to without the bug; null: nothing is wrong. */
  readonly without: unknown;
}

/**
 * Plays one seed after the other with the bug until one fails, and that again without the bug;
 * null: none does.
 */
export async function catchMutation(
  mutation: Mutation,
  seeds: Iterable<number>,
  operations: number,
): Promise<Caught | null> {
  const start = process.cpuUsage();
  const tally = new Tally();
  for (const seed of seeds) {
    const undo = mutation.apply();
    const { failure, last, tally: played } = await play(seed, operations).finally(undo);
    tally.add(played);
    if (failure === null) continue;
    const { user, system } = process.cpuUsage(start);
    const { failure: without } = await run(seed, upTo(last + 1));
    return {
      seed,
      operations: tally.operations,
      milliseconds: Math.round((user + system) / 1000),
      text: describeFailure(failure).split('\n')[0] ?? '',
      without,
    };
  }
  return null;
}
