/**
 * Sends single Ios to a device or a backing, each with a buffer of its own, and sees that each ends
 * once and writes nowhere but into its buffer.
 */

import { Buffer } from 'node:buffer';
import { ExtentList } from '../../src/device/extent-list.js';
import {
  type Io,
  type IoOwner,
  type IoPool,
  type Operation,
  READ,
  STATUS,
  WRITE,
} from '../../src/device/io.js';
import type { Engine } from '../../src/engine/engine.js';

export interface Extras {
  readonly flags?: number;
  /** WRITE: what is written. */
  readonly data?: Uint8Array;
  /** READ, STATUS: room in the list of extents. A READ has no list without it. */
  readonly capacity?: number;
  /** Where the buffer begins, counted from a page. */
  readonly skew?: number;
}

export interface Ended {
  readonly errno: number;
  readonly allZero: boolean;
  /** READ: the buffer, zeroes if `allZero`. */
  readonly data: Buffer;
  /** Pairs of length and flags. */
  readonly extents: readonly (readonly [number, number])[];
}

/** What is in a READ's buffer before, and in the bytes around it. */
export const untouched = 0xee;
const guardBytes = 8;

export class IoClient implements IoOwner {
  readonly #engine: Engine;
  readonly #ios: IoPool;
  readonly #submit: (io: Io) => void;
  readonly #underWay = new Map<Io, () => void>();

  constructor(engine: Engine, ios: IoPool, submit: (io: Io) => void) {
    this.#engine = engine;
    this.#ios = ios;
    this.#submit = submit;
  }

  get underWay(): number {
    return this.#underWay.size;
  }

  /** Sends an Io; `ended` is called when it has ended, perhaps before this returns. */
  send(
    operation: Operation,
    offset: number,
    length: number,
    extras: Extras,
    ended: (result: Ended) => void,
  ): void {
    const { arena } = this.#engine;
    const io = this.#ios.take(operation, offset, length, this);
    io.flags = extras.flags ?? 0;
    io.backingOffset = offset;
    const hasBuffer = operation === READ || operation === WRITE;
    const skew = extras.skew ?? 0;
    const blockBytes = skew + length + guardBytes;
    const block = hasBuffer ? arena.allocate(blockBytes) : 0;
    if (block < 0) throw new Error('no memory for a buffer');
    if (hasBuffer) {
      arena.bytes.fill(untouched, block, block + blockBytes);
      io.memory = block + skew;
      if (extras.data !== undefined) arena.bytes.set(extras.data, io.memory);
    }
    const list = new ExtentList(extras.capacity ?? 64);
    if (operation === STATUS || extras.capacity !== undefined) io.extents = list;
    this.#underWay.set(io, () => {
      const { allZero, memory } = io;
      let data = Buffer.alloc(0);
      if (hasBuffer) {
        const bytes = arena.bytes.slice(block, block + blockBytes);
        data = Buffer.from(bytes.subarray(memory - block, memory - block + length));
        bytes.fill(untouched, memory - block, memory - block + length);
        if (bytes.some((byte) => byte !== untouched))
          throw new Error('a byte beside the buffer changed');
        arena.free(block, blockBytes);
      }
      if (extras.data !== undefined && !data.equals(extras.data)) {
        throw new Error('a write changed its buffer');
      }
      if (allZero) {
        if (data.some((byte) => byte !== untouched)) throw new Error('allZero, but written to');
        data.fill(0);
      }
      const extents = Array.from(
        { length: list.count },
        (_, i) => [list.lengths[i] as number, list.flags[i] as number] as const,
      );
      const errno = io.error;
      this.#ios.give(io);
      ended({ errno, allZero, data, extents });
    });
    this.#submit(io);
  }

  finished(io: Io): void {
    const end = this.#underWay.get(io);
    if (end === undefined) throw new Error('an io has ended that was not under way');
    this.#underWay.delete(io);
    end();
  }

  run(operation: Operation, offset: number, length: number, extras: Extras = {}): Promise<Ended> {
    return new Promise((resolve) => {
      this.send(operation, offset, length, extras, (result) => {
        this.#engine.promiseResolved();
        resolve(result);
      });
    });
  }
}

/** Bytes that tell which write they are of; never zero. */
export function pattern(length: number, seed: number): Buffer {
  const data = Buffer.alloc(length, 1 + (seed % 255));
  for (let at = seed % 97; at < length; at += 97) data[at] = 1 + ((at + seed) % 255);
  return data;
}
