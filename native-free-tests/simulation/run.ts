/** One run: steps of a seed, in their order, all of them or some. */

import { SimArena } from './arena.js';
import { SimFailure } from './failure.js';
import { Player } from './player.js';
import { stepAt } from './steps.js';
import { Tally } from './tally.js';
import { TraceHash } from './trace.js';

export interface RunResult {
  /** What was found to be wrong; null: nothing. */
  readonly failure: unknown;
  /** The number of the step at which it was found; of the last one, if nothing was. */
  readonly last: number;
  readonly tally: Tally;
  readonly hash: string;
}

export interface RunOptions {
  /** It ends after the step with which it has come to so many operations (tally.ts). */
  readonly operations?: number;
  readonly trace?: string[];
  readonly liars?: (path: string) => boolean;
  readonly everyEffect?: boolean;
}

const arena = new SimArena();
const probeArena = new SimArena();

/** The steps with these numbers, of which the first makes a world. */
export async function run(
  seed: number,
  numbers: Iterable<number>,
  { operations, trace, liars, everyEffect = false }: RunOptions = {},
): Promise<RunResult> {
  arena.takeBack();
  probeArena.takeBack();
  const hash = new TraceHash();
  const tally = new Tally();
  const player = new Player({
    arena,
    probeArena,
    hash,
    tally,
    trace: trace ?? null,
    liars: liars ?? (() => false),
    everyEffect,
  });
  const most = operations ?? Number.POSITIVE_INFINITY;
  let last = 0;
  let failure: unknown = null;
  try {
    for (const number of numbers) {
      last = number;
      await player.play(stepAt(seed, number));
      if (tally.operations >= most) break;
    }
    await player.end();
  } catch (error) {
    failure = error;
  }
  return { failure, last, tally, hash: hash.value };
}

/** Numbers from 0 up to that; without one, for ever. */
export function* upTo(count = Number.POSITIVE_INFINITY): Iterable<number> {
  for (let i = 0; i < count; i++) yield i;
}

/** So many operations of a seed, or a few more. */
export function play(
  seed: number,
  operations: number,
  options: RunOptions = {},
): Promise<RunResult> {
  return run(seed, upTo(), { ...options, operations });
}

export function describeFailure(failure: unknown): string {
  if (failure instanceof SimFailure) return failure.message;
  return failure instanceof Error ? (failure.stack ?? failure.message) : String(failure);
}
