/**
 * The least of a device: sends Ios to one target as the device layer does, in pieces that it wants
 * to see, and checks that each ends once. Offsets here count from the target's first byte.
 */

import type { Backing } from '../../src/backing/backing.js';
import { ExtentList } from '../../src/device/extent-list.js';
import {
  FLAG_HOLES_OK,
  FLAG_ONE,
  FLUSH,
  type Io,
  type IoOwner,
  type Operation,
  READ,
  STATUS,
  TRIM,
  WRITE,
  ZERO,
} from '../../src/device/io.js';
import { REMAPPED, type Target } from '../../src/target/target.js';
import type { TargetHarness } from './harness.js';

/** How an Io ended. */
export interface Ended {
  readonly errno: number;
  readonly allZero: boolean;
}

export interface ReadResult extends Ended {
  /** The buffer, which was full of `untouched` before. */
  readonly data: Buffer;
  /** Pairs of length and flags; empty if nothing was told. */
  readonly extents: readonly (readonly [number, number])[];
}

export const untouched = 0xee;

/** What an Io brings, apart from operation and range. */
export interface Extras {
  readonly flags?: number;
  readonly memory?: number;
  readonly extents?: ExtentList;
}

export class MiniDevice implements IoOwner {
  readonly target: Target;
  readonly beginBytes: number;
  readonly lengthBytes: number;
  readonly #harness: TargetHarness;
  readonly #underWay = new Map<Io, (ended: Ended) => void>();

  constructor(harness: TargetHarness, target: Target, beginSectors: number, lengthSectors: number) {
    this.#harness = harness;
    this.target = target;
    this.beginBytes = beginSectors * 512;
    this.lengthBytes = lengthSectors * 512;
  }

  get underWay(): number {
    return this.#underWay.size;
  }

  /** Sends one Io, which must be a piece that the target wants to see, and does not wait. */
  send(operation: Operation, offset: number, length: number, extras: Extras = {}): Promise<Ended> {
    const io = this.#harness.ios.take(operation, this.beginBytes + offset, length, this);
    io.flags = extras.flags ?? 0;
    io.memory = extras.memory ?? 0;
    io.extents = extras.extents ?? null;
    return new Promise((resolve) => {
      this.#underWay.set(io, resolve);
      const { target } = this;
      const own = operation === FLUSH && target.flush !== undefined;
      const result = own ? (target.flush as (io: Io) => number).call(target, io) : target.map(io);
      if (result === REMAPPED) (io.backing as Backing).submit(io);
      else if (result < 0) io.complete(-result);
    });
  }

  finished(io: Io): void {
    const resolve = this.#underWay.get(io);
    if (resolve === undefined) throw new Error('an io has ended that was not under way');
    this.#underWay.delete(io);
    const ended = { errno: io.error, allZero: io.allZero };
    this.#harness.ios.give(io);
    this.#harness.engine.promiseResolved();
    resolve(ended);
  }

  async read(offset: number, length: number, flags = 0): Promise<ReadResult> {
    const { arena } = this.#harness.engine;
    // Two bytes more, so that data before or behind the buffer shows.
    const block = arena.allocate(length + 2);
    const memory = block + 1;
    arena.bytes.fill(untouched, block, memory + length + 1);
    const extents = new ExtentList(16);
    const ended = await this.#run(READ, offset, length, { flags, memory, extents });
    const data = Buffer.from(arena.bytes.slice(memory, memory + length));
    if (arena.bytes[block] !== untouched || arena.bytes[memory + length] !== untouched) {
      throw new Error('a read has written outside of its buffer');
    }
    arena.free(block, length + 2);
    return { ...ended, data, extents: pairs(extents) };
  }

  /** Returns the errno, and throws if the client's buffer has changed. */
  async write(offset: number, data: Uint8Array, flags = 0): Promise<number> {
    const { arena } = this.#harness.engine;
    const memory = arena.allocate(data.length);
    arena.bytes.set(data, memory);
    const { errno } = await this.#run(WRITE, offset, data.length, { flags, memory });
    if (!Buffer.from(data).equals(arena.bytes.slice(memory, memory + data.length))) {
      throw new Error('a write has changed its buffer');
    }
    arena.free(memory, data.length);
    return errno;
  }

  async trim(offset: number, length: number, flags = 0): Promise<number> {
    return (await this.#run(TRIM, offset, length, { flags })).errno;
  }

  async zero(offset: number, length: number, flags = 0): Promise<number> {
    return (await this.#run(ZERO, offset, length, { flags })).errno;
  }

  /** As the device does it: the target's own way, or all its backings. */
  async flush(): Promise<number> {
    if (this.target.flush !== undefined) return (await this.#run(FLUSH, 0, 0, {})).errno;
    for (const backing of this.target.backings) {
      const io = this.#harness.ios.take(FLUSH, 0, 0, this);
      const ended = new Promise<Ended>((resolve) => this.#underWay.set(io, resolve));
      io.backing = backing;
      backing.submit(io);
      const { errno } = await this.#harness.wait(ended);
      if (errno !== 0) return errno;
    }
    return 0;
  }

  /** One STATUS after the other, as the device's split does, or one extent only. */
  async status(offset: number, length: number, flags = 0, capacity = 64): Promise<ReadResult> {
    const extents = new ExtentList(capacity);
    let ended: Ended = { errno: 0, allZero: false };
    for (const [at, bytes] of this.#pieces(offset, length)) {
      ended = await this.#harness.wait(this.send(STATUS, at, bytes, { flags, extents }));
      if (ended.errno !== 0 || extents.bytes < at + bytes - offset) break;
      if ((flags & FLAG_ONE) !== 0) break;
    }
    return { ...ended, data: Buffer.alloc(0), extents: pairs(extents) };
  }

  /** Sends all pieces at once and does not wait. The first error counts. */
  async start(
    operation: Operation,
    offset: number,
    length: number,
    extras: Extras,
  ): Promise<Ended> {
    const pieces = operation === FLUSH ? [[0, 0] as const] : this.#pieces(offset, length);
    if (pieces.length === 1) return this.send(operation, offset, length, extras);
    const parts = pieces.map(([at, bytes]) =>
      this.send(operation, at, bytes, {
        flags: (extras.flags ?? 0) & ~FLAG_HOLES_OK,
        memory: (extras.memory ?? 0) + at - offset,
      }),
    );
    const ended = await Promise.all(parts);
    this.#harness.engine.promiseResolved();
    return { errno: ended.find((each) => each.errno !== 0)?.errno ?? 0, allZero: false };
  }

  #run(operation: Operation, offset: number, length: number, extras: Extras): Promise<Ended> {
    return this.#harness.wait(this.start(operation, offset, length, extras));
  }

  #pieces(offset: number, length: number): (readonly [number, number])[] {
    if (offset < 0 || offset + length > this.lengthBytes) {
      throw new Error(`${length} bytes at ${offset}: the target has ${this.lengthBytes}`);
    }
    const most = this.target.maxIoSectors * 512;
    const pieces: [number, number][] = [];
    for (let at = offset; at < offset + length; ) {
      const room = most === 0 ? length : most - (at % most);
      const bytes = Math.min(room, offset + length - at);
      pieces.push([at, bytes]);
      at += bytes;
    }
    return pieces;
  }
}

function pairs(extents: ExtentList): (readonly [number, number])[] {
  return Array.from(
    { length: extents.count },
    (_, i) => [extents.lengths[i] as number, extents.flags[i] as number] as const,
  );
}
