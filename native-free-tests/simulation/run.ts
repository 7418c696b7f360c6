/** One run: operations of a seed, in their order, all of them or some. */

import { SimArena } from './arena.js';
import { SimFailure } from './failure.js';
import { operationAt } from './operations.js';
import { Player } from './player.js';
import { TraceHash } from './trace.js';

export interface RunResult {
  /** What was found to be wrong; null: nothing. */
  readonly failure: unknown;
  /** The number of the operation at which it was found; of all, if none was. */
  readonly operations: number;
  readonly answers: number;
  readonly hash: string;
}

export interface RunOptions {
  readonly trace?: string[];
  readonly liars?: (path: string) => boolean;
  readonly everyEffect?: boolean;
}

const arena = new SimArena();
const probeArena = new SimArena();

/** The operations with these numbers, of which the first makes a world. */
export async function run(
  seed: number,
  numbers: Iterable<number>,
  { trace, liars, everyEffect = false }: RunOptions = {},
): Promise<RunResult> {
  arena.takeBack();
  probeArena.takeBack();
  const hash = new TraceHash();
  const player = new Player({
    arena,
    probeArena,
    hash,
    trace: trace ?? null,
    liars: liars ?? (() => false),
    everyEffect,
  });
  let at = 0;
  let failure: unknown = null;
  try {
    for (const number of numbers) {
      at = number;
      await player.play(operationAt(seed, number));
    }
    await player.end();
  } catch (error) {
    failure = error;
  }
  return { failure, operations: at, answers: player.answers, hash: hash.value };
}

/** Numbers from 0 up to that. */
export function* upTo(count: number): Iterable<number> {
  for (let i = 0; i < count; i++) yield i;
}

export function describeFailure(failure: unknown): string {
  if (failure instanceof SimFailure) return failure.message;
  return failure instanceof Error ? (failure.stack ?? failure.message) : String(failure);
}
