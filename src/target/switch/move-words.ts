/**
 * The words of the message `move_regions`, decimal:
 *
 *   move_regions <from> <to> [<first>-<last>]... [throttle <percent>]
 */

import { EINVAL } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { plural, quoted } from '../arguments.js';

/** Regions, the last one included. */
export interface RegionRange {
  first: number;
  last: number;
}

export interface MoveWords {
  readonly from: number;
  readonly to: number;
  /** Ascending, apart from one another. */
  readonly ranges: RegionRange[];
  /** 100: no throttle. */
  readonly percent: number;
}

/** Throws MapperError. */
export function parseMove(args: readonly string[], regions: number, paths: number): MoveWords {
  const words = args.slice(1);
  let percent = 100;
  if (words.at(-2)?.toLowerCase() === 'throttle') {
    percent = number(words.pop(), 1, 100, 'throttle');
    words.pop();
  }
  const from = number(words.shift(), 0, paths - 1, 'path');
  const to = number(words.shift(), 0, paths - 1, 'path');
  if (from === to) throw invalid(`path ${to}, wanted another than they come from`);
  const ranges = words.map((word) => parseRange(word, regions));
  if (ranges.length === 0) ranges.push({ first: 0, last: regions - 1 });
  return { from, to, ranges: joined(ranges), percent };
}

function parseRange(word: string, regions: number): RegionRange {
  const [a, b = a, ...rest] = word.split('-');
  if (rest.length > 0) throw invalid(`regions ${quoted(word)}, wanted <first>-<last>`);
  const first = number(a, 0, regions - 1, 'region');
  const last = number(b, 0, regions - 1, 'region');
  if (last < first) throw invalid(`regions ${quoted(word)}, wanted the lower one first`);
  return { first, last };
}

function number(word: string | undefined, min: number, max: number, what: string): number {
  const value = word !== undefined && /^[0-9]+$/.test(word) ? Number(word) : -1;
  if (value >= min && value <= max) return value;
  throw invalid(`${what} ${quoted(word)}, wanted a number from ${min} to ${max}`);
}

function joined(ranges: RegionRange[]): RegionRange[] {
  const all: RegionRange[] = [];
  for (const range of ranges.sort((a, b) => a.first - b.first)) {
    const before = all.at(-1);
    if (before === undefined || range.first > before.last + 1) all.push(range);
    else before.last = Math.max(before.last, range.last);
  }
  return all;
}

function invalid(what: string): MapperError {
  return new MapperError(EINVAL, `invalid move_regions ${what}`);
}

/** Words in a message that has none. */
export function refuseWords(args: readonly string[]): void {
  if (args.length === 1) return;
  const found = plural(args.length - 1, 'word');
  throw new MapperError(EINVAL, `invalid ${args[0]} arguments (found ${found}, wanted none)`);
}
