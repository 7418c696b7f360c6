/**
 * A reader of persistent COW files for tests, which shares nothing with the one it checks. Numbers
 * are little-endian; E is the number of exceptions in an area, chunk bytes / 16.
 *
 *   chunk 0            "SnAp", valid, version, chunk sectors: u32 each
 *   chunk 1 + a*(E+1)  area a: E times { u64 old chunk, u64 new chunk }, up to a new chunk of 0
 *   any other          data
 */

import type { Buffer } from 'node:buffer';

export interface CowImage {
  readonly valid: boolean;
  readonly chunkSectors: number;
  /** Old chunk to new chunk, in the order of the areas. */
  readonly exceptions: ReadonlyMap<number, number>;
}

/** Throws if the file is none, or if something is in it that cannot be. */
export function readCow(bytes: Buffer): CowImage {
  const header = [0, 4, 8, 12].map((at) => bytes.readUInt32LE(at));
  const [magic, valid, version, chunkSectors] = header as [number, number, number, number];
  if (magic !== 0x70416e53) throw new Error(`magic 0x${magic.toString(16)}`);
  if (version !== 1) throw new Error(`version ${version}`);
  if (valid > 1) throw new Error(`valid is ${valid}`);
  const chunkBytes = chunkSectors * 512;
  const perArea = chunkBytes / 16;
  const exceptions = new Map<number, number>();
  const used = new Set<number>();
  for (let area = 0; ; area++) {
    const begin = (1 + area * (perArea + 1)) * chunkBytes;
    if (begin + chunkBytes > bytes.length) break;
    let count = 0;
    for (; count < perArea; count++) {
      const oldChunk = Number(bytes.readBigUInt64LE(begin + count * 16));
      const newChunk = Number(bytes.readBigUInt64LE(begin + count * 16 + 8));
      if (newChunk === 0) break;
      if (newChunk % (perArea + 1) === 1) throw new Error(`chunk ${newChunk} is metadata`);
      if ((newChunk + 1) * chunkBytes > bytes.length)
        throw new Error(`chunk ${newChunk} is outside`);
      if (exceptions.has(oldChunk)) throw new Error(`chunk ${oldChunk} has two exceptions`);
      if (used.has(newChunk)) throw new Error(`chunk ${newChunk} is used twice`);
      used.add(newChunk);
      exceptions.set(oldChunk, newChunk);
    }
    if (count < perArea) break;
  }
  return { valid: valid === 1, chunkSectors, exceptions };
}
