/** Where a stream is cut into what is received at a time. */

import type { Buffer } from 'node:buffer';

/** Bytes cut at those places. */
export function cut(bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const pieces: Buffer[] = [];
  let from = 0;
  for (const at of [...cuts, bytes.length]) {
    if (at > from) pieces.push(bytes.subarray(from, at));
    from = Math.max(from, at);
  }
  return pieces;
}

/** Pieces of up to `longest` bytes. */
export function randomCuts(
  length: number,
  longest: number,
  next: (limit: number) => number,
): number[] {
  const cuts: number[] = [];
  for (let at = next(longest); at < length; at += 1 + next(longest)) cuts.push(at);
  return cuts;
}
