/** How long it takes to notice a deliberate bug. */

import type { Mutation } from './patch.js';
import { describeFailure, run, upTo } from './run.js';

export interface Caught {
  readonly seed: number;
  readonly operations: number;
  /** Of all seeds so far. */
  readonly operationsInAll: number;
  readonly milliseconds: number;
  readonly text: string;
}

/** Plays seed after seed with the bug until one fails; null: none of so many does. */
export async function catchMutation(
  mutation: Mutation,
  seeds: number,
  operations: number,
): Promise<Caught | null> {
  const undo = mutation.apply();
  const start = process.cpuUsage();
  let operationsInAll = 0;
  try {
    for (let seed = 1; seed <= seeds; seed++) {
      const result = await run(seed, upTo(operations));
      operationsInAll += result.operations;
      if (result.failure === null) continue;
      const { user, system } = process.cpuUsage(start);
      return {
        seed,
        operations: result.operations,
        operationsInAll,
        milliseconds: Math.round((user + system) / 1000),
        text: describeFailure(result.failure).split('\n')[0] ?? '',
      };
    }
    return null;
  } finally {
    undo();
  }
}
