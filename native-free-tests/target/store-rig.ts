/**
 * What the tests of exception stores need: a disk that records what reaches it and can be told when
 * operations end, the images that a crash at any moment may leave of it, and exceptions.
 */

import { Buffer } from 'node:buffer';
import type { Backing, Features } from '../../src/backing/backing.js';
import type { Log } from '../../src/base/log.js';
import {
  FLAG_FUA,
  FLUSH,
  type Io,
  type IoOwner,
  IoPool,
  READ,
  WRITE,
  ZERO,
} from '../../src/device/io.js';
import { PersistentStore } from '../../src/target/snapshot/persistent-store.js';
import type { Committable } from '../../src/target/snapshot/store.js';
import { FakeEngine } from '../contract/fake-engine.js';

export const engine = new FakeEngine();
export const ios = new IoPool();
export const logged: string[] = [];
const log = (_fields: object, text: string): void => void logged.push(text);
const quiet: Log = { debug() {}, info: log, warn: log, error: log };
export const context = { engine, ios, log: quiet };

/** Something that reached the disk; times count what was begun and what has ended. */
export interface Event {
  readonly what: 'write' | 'flush';
  readonly offset: number;
  readonly data: Buffer;
  readonly fua: boolean;
  readonly begun: number;
  ended: number;
}

/** Operations end in the next turn, or while they are submitted, or when the test says so. */
export type Pace = 'turn' | 'at once' | 'held';

export class StoreDisk implements Backing {
  readonly name = '/cow';
  readonly identity = {};
  readonly features: Features = {
    writable: true,
    trim: false,
    fastZero: false,
    extents: false,
    rotational: false,
    blockBytes: 1,
  };
  bytes: Buffer;
  pace: Pace = 'turn';
  readonly events: Event[] = [];
  readonly held: (() => void)[] = [];
  time = 0;
  reads = 0;
  /** The next operations of that kind fail with EIO. */
  failing: 'read' | 'write' | 'flush' | null = null;

  constructor(bytes: number | Buffer) {
    this.bytes = typeof bytes === 'number' ? Buffer.alloc(bytes) : Buffer.from(bytes);
  }

  size(): number {
    return this.bytes.length;
  }

  grow(bytes: number): void {
    this.bytes = Buffer.concat([this.bytes, Buffer.alloc(bytes - this.bytes.length, 0xdb)]);
  }

  submit(io: Io): void {
    const { backingOffset: offset, length } = io;
    if (io.operation !== FLUSH && (offset < 0 || offset + length > this.bytes.length)) {
      throw new Error(`${length} bytes at ${offset} are beyond the disk`);
    }
    const memory = engine.arena.bytes.subarray(io.memory, io.memory + length);
    const data = io.operation === WRITE ? Buffer.from(memory) : Buffer.alloc(length);
    let event: Event | null = null;
    if (io.operation === READ) {
      this.reads++;
    } else {
      const what = io.operation === FLUSH ? 'flush' : 'write';
      const fua = (io.flags & FLAG_FUA) !== 0;
      const ended = Number.POSITIVE_INFINITY;
      event = { what, offset, data, fua, begun: this.time++, ended };
      this.events.push(event);
    }
    const end = (): void => {
      const kind = io.operation === READ ? 'read' : io.operation === FLUSH ? 'flush' : 'write';
      if (this.failing === kind) {
        io.complete(5);
        return;
      }
      if (io.operation === READ) {
        memory.set(this.bytes.subarray(offset, offset + length));
      } else if (io.operation === WRITE || io.operation === ZERO) {
        if (io.operation === WRITE && !data.equals(memory)) {
          throw new Error('a buffer has changed while it was being written');
        }
        this.bytes.set(data, offset);
      }
      if (event !== null) event.ended = this.time++;
      io.complete(0);
    };
    if (this.pace === 'at once') end();
    else if (this.pace === 'held') this.held.push(end);
    else engine.start(() => 0, { done: end });
  }

  /** Ends one of the operations that are held. */
  release(index = 0): void {
    this.held.splice(index, 1)[0]?.();
  }

  /** What has reached the disk since `take` was last called: chunk numbers, flushes, FUA. */
  take(chunkBytes: number): string[] {
    return this.events.splice(0).map((event) => {
      if (event.what === 'flush') return 'flush';
      const chunk = Math.floor(event.offset / chunkBytes);
      const zero = event.data.every((byte) => byte === 0);
      return `${zero ? 'zero' : 'write'} ${chunk}${event.fua ? ' FUA' : ''}`;
    });
  }

  /**
   * What the disk may hold after a crash at that time. What was flushed, or written with FUA, is
   * there. Of everything else, any sectors may be.
   */
  crashed(initial: Buffer, time: number, next: (limit: number) => number): Buffer {
    const image = Buffer.from(initial);
    const flushes = this.events.filter((event) => event.what === 'flush' && event.ended <= time);
    for (const event of this.events) {
      if (event.what === 'flush' || event.begun > time) continue;
      const durable =
        (event.fua && event.ended <= time) || flushes.some((flush) => flush.begun > event.ended);
      const chance = durable ? 3 : next(4);
      for (let at = 0; at < event.data.length; at += 512) {
        const sector = event.data.subarray(at, at + 512);
        if (next(3) < chance) image.set(sector, event.offset + at);
      }
    }
    return image;
  }
}

/** An exception, and what it has been told. */
export class Exception implements Committable {
  readonly oldChunk: number;
  newChunk = -1;
  sequence = -1;
  arrived = false;
  ok = false;
  nextCommit: Committable | null = null;
  told: boolean | null = null;
  readonly #heard: (exception: Exception) => void;

  constructor(oldChunk: number, heard: (exception: Exception) => void = () => {}) {
    this.oldChunk = oldChunk;
    this.#heard = heard;
  }

  committed(ok: boolean): void {
    if (this.told !== null) throw new Error(`exception ${this.oldChunk} is told twice`);
    this.told = ok;
    this.#heard(this);
  }
}

export interface Opened {
  readonly store: PersistentStore;
  readonly valid: boolean;
  /** New chunks by their old ones. */
  readonly found: Map<number, number>;
}

/** Opens a store; the disk goes on as it is paced afterwards. */
export async function openOn(
  disk: StoreDisk,
  chunkSectors: number,
  originChunks = 2 ** 20,
): Promise<Opened> {
  const { pace } = disk;
  disk.pace = 'turn';
  const store = new PersistentStore(context, disk, chunkSectors, originChunks * chunkSectors);
  const found = new Map<number, number>();
  const valid = await wait(
    store.open((oldChunk, newChunk, count) => {
      for (let i = 0; i < count; i++) found.set(oldChunk + i, newChunk + i);
    }),
  );
  disk.pace = pace;
  return { store, valid, found };
}

/** Turns until nothing happens any more. */
export function settle(): void {
  while (engine.turn());
}

/** Works until the promise settles; throws if it never will. */
export async function wait<T>(promise: Promise<T>): Promise<T> {
  let settled = false;
  const settle = (): void => {
    settled = true;
  };
  promise.then(settle, settle);
  for (let idle = 0; !settled && idle < 3; idle++) {
    while (engine.turn()) idle = 0;
    await new Promise((resolve) => setImmediate(resolve));
  }
  if (!settled) throw new Error('an io is lost: nothing is under way, and somebody waits');
  return promise;
}

/** What a chunk of data holds: it tells which exception it is for. */
export function chunkData(bytes: number, oldChunk: number, newChunk: number, tag = 0): Buffer {
  const data = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at += 16) {
    data.writeUInt32LE(0xda7a_0000 + tag, at);
    data.writeUInt32LE(oldChunk, at + 4);
    data.writeUInt32LE(newChunk, at + 8);
    data.writeUInt32LE(at, at + 12);
  }
  return data;
}

/** Writes through the disk, as a copy would; calls `then` when that has ended. */
export function writeData(disk: StoreDisk, offset: number, data: Buffer, then: () => void): void {
  const memory = engine.arena.allocate(data.length);
  engine.arena.bytes.set(data, memory);
  const owner: IoOwner = {
    finished(io: Io): void {
      ios.give(io);
      engine.arena.free(memory, data.length);
      then();
    },
  };
  const io = ios.take(WRITE, 0, data.length, owner);
  io.memory = memory;
  io.backingOffset = offset;
  disk.submit(io);
}
