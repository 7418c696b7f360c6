/**
 * Plays inputs to a subject. The input of a number follows from that number and the seed alone, so
 * that it can be made again without those before it.
 */

import { mix } from '../simulation/random.js';
import type { Input } from './input.js';
import { minimise } from './minimise.js';
import { Random } from './random.js';
import type { Subject } from './subject.js';

export interface Failure {
  readonly number: number;
  readonly error: unknown;
  readonly input: Input;
  /** The same failure with less. */
  readonly small: Input;
  readonly smallError: unknown;
}

export interface RunResult {
  readonly inputs: number;
  readonly failure: Failure | null;
}

export function inputOf(subject: Subject, seed: number, number: number): Input {
  return subject.generate(new Random(mix(seed, number)));
}

/** What a check throws, or null. */
export async function failureOf(subject: Subject, input: Input): Promise<unknown> {
  try {
    // Most subjects have nothing to wait for, and a promise costs more than they do.
    const result = subject.check(input);
    if (result !== undefined) await result;
    return null;
  } catch (error) {
    return error ?? new Error('something empty was thrown');
  }
}

/** After the first failure it stops. `started` is told of each number. */
export async function run(
  make: () => Subject | Promise<Subject>,
  seed: number,
  inputs: number,
  first = 0,
  started: (number: number) => void = () => {},
): Promise<RunResult> {
  const subject = await make();
  for (let number = first; number < first + inputs; number++) {
    started(number);
    const input = inputOf(subject, seed, number);
    const error = await failureOf(subject, input);
    if (error === null) continue;
    const { small, smallError } = await smaller(make, input, error);
    return { inputs: number - first + 1, failure: { number, error, input, small, smallError } };
  }
  return { inputs, failure: null };
}

/** A subject that has failed may be of no use any more, so each attempt has one of its own. */
async function smaller(
  make: () => Subject | Promise<Subject>,
  input: Input,
  error: unknown,
): Promise<{ small: Input; smallError: unknown }> {
  let smallError: unknown = error;
  const kind = kindOf(error);
  const small = await minimise(input, async (candidate) => {
    const found = await failureOf(await make(), candidate);
    if (found === null || kindOf(found) !== kind) return false;
    smallError = found;
    return true;
  });
  return { small, smallError };
}

/** Failures that are told alike but for numbers, quoted words and bytes are one failure. */
function kindOf(error: unknown): string {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return text.replace(/"[^"]*"|\d+|0x[0-9a-f]+/g, '').slice(0, 60);
}
