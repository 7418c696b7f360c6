/**
 * Stamps blocks of a disk and remembers what each holds, as the pattern stomper of the device
 * mapper's own test suite does. The content of a block is made from the stamper's seed, the block's
 * number and a counter, and all of its bytes are compared. `fork` when a snapshot is taken: the
 * fork remembers the state of that moment, and stamps from there on for itself.
 *
 *   const before = stamper.fork();          the snapshot's
 *   await stamper.stamp(origin, 10);        the origin goes on
 *   await before.verify(snapshot);          the snapshot has not changed
 */

import { Buffer } from 'node:buffer';
import { random } from '../contract/pattern.js';

export const stampBytes = 4096;

/** A disk as the stamper sees it: a device, an NBD export. Both reject when an I/O fails. */
export interface StampedDisk {
  read(offset: number, length: number): Promise<Buffer>;
  write(offset: number, data: Buffer): Promise<void>;
}

const zeroes = Buffer.alloc(stampBytes);

/** Reads and writes at once. */
const depth = 16;
/** Blocks of one read, when all are looked at. */
const blocksPerRead = 32;

/** What all forks of one stamper share. */
interface Family {
  readonly seed: number;
  readonly next: (limit: number) => number;
  stamps: number;
}

export class Stamper {
  readonly bytes: number;
  readonly #family: Family;
  /** The stamp of each block; 0 are zeroes, which a new disk is full of. */
  readonly #stamps: Uint32Array;

  constructor(bytes: number, seed: number, parent?: Stamper) {
    this.bytes = bytes;
    this.#family = parent === undefined ? { seed, next: random(seed), stamps: 0 } : parent.#family;
    this.#stamps =
      parent === undefined
        ? new Uint32Array(Math.ceil(bytes / stampBytes))
        : parent.#stamps.slice();
  }

  get blocks(): number {
    return this.#stamps.length;
  }

  fork(): Stamper {
    return new Stamper(this.bytes, this.#family.seed, this);
  }

  /** What the block holds, as bytes. The last may be short. */
  expected(block: number): Buffer {
    return this.#content(block, this.#stamps[block] as number);
  }

  #content(block: number, stamp: number): Buffer {
    const length = Math.min(stampBytes, this.bytes - block * stampBytes);
    if (stamp === 0) return zeroes.subarray(0, length);
    const content = Buffer.alloc(length);
    let state = (this.#family.seed ^ Math.imul(block, 0x9e3779b1)) + Math.imul(stamp, 0x85ebca6b);
    state = (state | 0) === 0 ? 1 : state | 0;
    const words = new Int32Array(content.buffer, content.byteOffset, Math.floor(length / 4));
    for (let i = 0; i < words.length; i++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      words[i] = state;
    }
    return content;
  }

  /** Stamps so many of a hundred blocks, chosen at random, at least one. */
  async stamp(disk: StampedDisk, percent: number): Promise<void> {
    const wanted = Math.max(1, Math.round((this.blocks * percent) / 100));
    const chosen = new Set<number>();
    if (wanted >= this.blocks) for (let i = 0; i < this.blocks; i++) chosen.add(i);
    while (chosen.size < wanted) chosen.add(this.#family.next(this.blocks));
    await this.stampBlocks(disk, [...chosen]);
  }

  async stampBlocks(disk: StampedDisk, blocks: readonly number[]): Promise<void> {
    await eachOf(blocks, async (block) => {
      const stamp = ++this.#family.stamps;
      await disk.write(block * stampBytes, this.#content(block, stamp));
      this.#stamps[block] = stamp;
    });
  }

  /** Reads everything; throws, with the place, if a byte is not what it should be. */
  async verify(disk: StampedDisk, except: ReadonlySet<number> = new Set()): Promise<void> {
    const firsts = Array.from(
      { length: Math.ceil(this.blocks / blocksPerRead) },
      (_, i) => i * blocksPerRead,
    );
    await eachOf(firsts, async (first) => {
      const offset = first * stampBytes;
      const length = Math.min(blocksPerRead * stampBytes, this.bytes - offset);
      this.#check(first, await disk.read(offset, length), except);
    });
  }

  /** Data that was read, or found, from that block on. */
  #check(first: number, data: Buffer, except: ReadonlySet<number>): void {
    for (let at = 0; at < data.length; at += stampBytes) {
      const block = first + at / stampBytes;
      const wanted = this.expected(block);
      const found = data.subarray(at, at + wanted.length);
      if (found.equals(wanted) || except.has(block)) continue;
      const wrong = wanted.findIndex((byte, i) => found[i] !== byte);
      throw new Error(
        `block ${block} is not as remembered: ${this.#describe(block, found, wrong)}`,
      );
    }
  }

  /** Whose stamp it is, if it is one of this family's. */
  #describe(block: number, found: Buffer, wrong: number): string {
    const wanted = `wanted stamp ${this.#stamps[block]}`;
    for (let stamp = 0; stamp <= this.#family.stamps; stamp++) {
      if (this.#content(block, stamp).equals(found)) return `found stamp ${stamp}, ${wanted}`;
    }
    return `found other bytes from byte ${wrong} on, ${wanted}`;
  }
}

/** Runs `body` for all of them, some at a time. */
export async function eachOf<T>(
  all: readonly T[],
  body: (one: T) => Promise<void>,
  atOnce = depth,
): Promise<void> {
  let next = 0;
  const runner = async (): Promise<void> => {
    while (next < all.length) await body(all[next++] as T);
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, all.length) }, runner));
}
