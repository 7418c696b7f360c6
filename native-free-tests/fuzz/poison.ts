/**
 * An arena in which everything that nobody has written is full of one byte, so that memory which is
 * sent or stored without having been written shows. A block is filled again when it comes back.
 */

import { Buffer } from 'node:buffer';
import { blockBytesMax, blockBytesMin } from '../../src/base/limits.js';
import { Arena } from '../../src/engine/arena.js';
import { expect } from './subject.js';

export const poison = 0xdb;

/** So many of these in a row are no accident. */
const row = Buffer.alloc(8, poison);

export class PoisonedArena extends Arena {
  readonly #held = new Map<number, number>();

  constructor(bytes: number) {
    super(bytes);
    this.bytes.fill(poison, this.zeroesBytes);
  }

  override allocate(bytes: number): number {
    const offset = super.allocate(bytes);
    if (offset >= 0) this.#held.set(offset, bytes);
    return offset;
  }

  override free(offset: number, bytes: number): void {
    super.free(offset, bytes);
    this.#held.delete(offset);
    const rounded = Math.max(blockBytesMin, 2 ** (32 - Math.clz32(bytes - 1)));
    this.bytes.fill(poison, offset, offset + Math.min(rounded, blockBytesMax));
  }

  get blocksHeld(): number {
    return this.#held.size;
  }

  /** Nobody may write into the block that always reads as zeroes. */
  checkZeroes(): void {
    const { words } = this;
    const most = this.zeroesBytes / 4;
    for (let at = 0; at < most; at += 97) {
      expect(words[at] === 0, `the zeroes were written to at ${at * 4}`);
    }
  }
}

/** Throws if memory that nobody has written is in there. */
export function refusePoison(bytes: Uint8Array, what: string): void {
  const at = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).indexOf(row);
  expect(at < 0, `${what}: bytes that nobody has written, at ${at}`);
}
