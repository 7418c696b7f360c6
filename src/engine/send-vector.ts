/**
 * A send vector in arena memory, in the form the kernel takes: an array of struct iovec. An engine
 * that hands the array to the kernel gives the arena's address as base; one that does not gives 0
 * and reads the entries back.
 *
 *   0  u64  address: base + arena offset     in the machine's byte order, as two 32-bit words
 *   8  u64  length in bytes
 *  16  the next entry
 */

import { assert } from '../base/assert.js';
import { ENOMEM } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { blockBytesMax } from '../base/limits.js';
import type { Arena } from './arena.js';
import type { SendVector } from './engine.js';

const entryBytes = 16;
const wordsPerEntry = 4;
const wordBase = 2 ** 32;

export class ArenaSendVector implements SendVector {
  readonly memory: number;
  readonly capacity: number;
  count = 0;
  bytes = 0;
  readonly #words: Int32Array;
  readonly #firstWord: number;
  readonly #base: number;

  /** Throws MapperError with ENOMEM when the arena has no room for the entries. */
  constructor(arena: Arena, baseAddress: number, capacity: number) {
    const memoryBytes = capacity * entryBytes;
    assert(capacity >= 1 && memoryBytes <= blockBytesMax, 'a send vector has 1 to 65536 entries');
    assert(Number.isSafeInteger(baseAddress + arena.size), 'addresses are exact');
    const memory = arena.allocate(memoryBytes);
    if (memory < 0) {
      const text = `allocate a send vector: no ${memoryBytes} bytes left in the arena`;
      throw new MapperError(ENOMEM, text);
    }
    this.memory = memory;
    this.capacity = capacity;
    this.#words = arena.words;
    this.#firstWord = memory / 4;
    this.#base = baseAddress;
  }

  push(memory: number, length: number): void {
    const words = this.#words;
    const at = this.#firstWord + this.count * wordsPerEntry;
    const address = this.#base + memory;
    // Storing into an Int32Array keeps the low 32 bits of any integer.
    words[at] = address;
    words[at + 1] = Math.floor(address / wordBase);
    words[at + 2] = length;
    words[at + 3] = 0;
    this.count++;
    this.bytes += length;
  }

  extendLast(length: number): void {
    assert(this.count > 0, 'there is a last entry');
    const at = this.#firstWord + (this.count - 1) * wordsPerEntry + 2;
    this.#words[at] = (this.#words[at] as number) + length;
    this.bytes += length;
  }

  clear(): void {
    this.count = 0;
    this.bytes = 0;
  }

  /** Arena offset of entry `index`. */
  offsetOf(index: number): number {
    const at = this.#firstWord + index * wordsPerEntry;
    const low = (this.#words[at] as number) >>> 0;
    return (this.#words[at + 1] as number) * wordBase + low - this.#base;
  }

  lengthOf(index: number): number {
    return (this.#words[this.#firstWord + index * wordsPerEntry + 2] as number) >>> 0;
  }
}
