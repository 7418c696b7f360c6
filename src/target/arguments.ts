/**
 * Reading the words of a table line behind the target's name. A number is a row of decimal digits
 * within bounds; the bounds carry the kernel's text for a number that is not, and every error is
 * that text followed by what was found and what was wanted:
 *
 *   Invalid device sector (found "8k", wanted a number from 0 to 17592186044415)
 */

import type { Backing } from '../backing/backing.js';
import { EINVAL } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { argumentTextLength, deviceBytes } from '../base/limits.js';
import type { TargetContext } from './target.js';

/** What a number may be, and the kernel's text for one that is not. */
export interface Bounds {
  readonly min: number;
  readonly max: number;
  readonly text: string;
}

/** The kernel's UINT_MAX, the upper bound of most arguments. */
export const uint32Max = 2 ** 32 - 1;

/** Where a target's range begins in its backing. */
export const deviceSector: Bounds = {
  min: 0,
  max: Math.floor(deviceBytes / 512),
  text: 'Invalid device sector',
};

/** The kernel's text, what was found and what was wanted, as EINVAL. */
export function badArgument(text: string, found: string, wanted: string): MapperError {
  return new MapperError(EINVAL, `${text} (found ${found}, wanted ${wanted})`);
}

/** Throws unless there are as many words as one of the counts says. */
export function checkCount(args: readonly string[], text: string, ...counts: number[]): void {
  if (counts.includes(args.length)) return;
  throw badArgument(text, plural(args.length, 'argument'), counts.join(' or '));
}

/** A decimal number within bounds. Throws MapperError. */
export function parseNumber(word: string | undefined, bounds: Bounds): number {
  const { min, max, text } = bounds;
  if (word !== undefined && /^[0-9]+$/.test(word)) {
    const value = Number(word);
    if (value >= min && value <= max) return value;
  }
  throw badArgument(text, quoted(word), `a number from ${min} to ${max}`);
}

/** Opens the backing a word names; the kernel's text goes before the reason why it cannot be. */
export function openDevice(
  context: TargetContext,
  word: string,
  sectorsNeeded: number,
  text = 'Device lookup failed',
  readOnly?: boolean,
): Backing {
  try {
    return context.openBacking(word, sectorsNeeded, readOnly);
  } catch (error) {
    throw error instanceof MapperError ? error.prefixed(text) : error;
  }
}

/** The words of a line, taken one after the other. */
export class ArgumentReader {
  readonly #words: readonly string[];
  #at = 0;

  constructor(words: readonly string[]) {
    this.#words = words;
  }

  /** Words not taken yet. */
  get left(): number {
    return this.#words.length - this.#at;
  }

  /** The next word, or undefined behind the last. */
  next(): string | undefined {
    return this.#words[this.#at++];
  }

  number(bounds: Bounds): number {
    return parseNumber(this.next(), bounds);
  }

  /** A number of words that follow; they must be there. */
  count(bounds: Bounds): number {
    const word = this.next();
    const count = parseNumber(word, bounds);
    if (count > this.left) {
      throw badArgument(bounds.text, quoted(word), `at most ${this.left}, all that follow`);
    }
    return count;
  }
}

/** `3 arguments`, `1 argument`. */
export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

/** The word in double quotes, cut to a readable length; or that there was none. */
export function quoted(word: string | undefined): string {
  if (word === undefined) return 'the end of the line';
  if (word.length <= argumentTextLength) return `"${word}"`;
  return `"${word.slice(0, argumentTextLength)}..."`;
}
