/** What is fuzzed: something that makes inputs, and something that looks at what becomes of them. */

import { MapperError } from '../../src/base/errors.js';
import type { Input } from './input.js';
import type { Random } from './random.js';

export interface Subject {
  readonly name: string;
  generate(random: Random): Input;
  /** Throws when something is not as it must be, whatever the input. */
  check(input: Input): void | Promise<void>;
}

/** What a subject has that keeps something open: it is made for a run and closed behind it. */
export interface SubjectMaker {
  readonly name: string;
  /** Of about 200 inputs of a run over all subjects, so many are for this one: the cheap ones get more. */
  readonly share: number;
  make(): Subject | Promise<Subject>;
}

/** Something is not as it must be. */
export class Finding extends Error {
  override readonly name = 'Finding';
}

export function expect(condition: boolean, text: string | (() => string)): asserts condition {
  if (!condition) throw new Finding(typeof text === 'string' ? text : text());
}

/** Runs what may refuse: the refusal, or null. Whatever else is thrown goes on. */
export function refusalOf(run: () => void): MapperError | null {
  try {
    run();
    return null;
  } catch (error) {
    return reasonedRefusal(error);
  }
}

/** Anything that is no MapperError goes on. */
export function checkedRefusal(error: unknown): MapperError {
  if (!(error instanceof MapperError)) throw error;
  expect(error.message.length > 0 && error.message.length < 4096, () => {
    return `a refusal of ${error.message.length} characters: ${error.message.slice(0, 200)}`;
  });
  expect(error.errno > 0, () => `a refusal with errno ${error.errno}: "${error.message}"`);
  return error;
}

/** Words by which a text says what was found, and what was wanted. */
const reasons = new RegExp(
  [
    ...[
      'found',
      'wanted',
      'at most',
      'at least',
      'not ',
      'no ',
      'too ',
      'nvalid',
      'Gap',
      'unknown',
    ],
    ...['empty', 'is \\d', 'has \\d', 'zero-length', 'control character', 'earlier'],
  ].join('|'),
);

/** The same; what is refused is somebody's text or bytes, and the refusal says why. */
export function reasonedRefusal(error: unknown): MapperError {
  const refusal = checkedRefusal(error);
  expect(reasons.test(refusal.message), () => `a refusal without a reason: "${refusal.message}"`);
  return refusal;
}
