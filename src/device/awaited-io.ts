/** I/O that a slow path awaits: flushing a device, opening a snapshot's store, merging it. */

import type { Backing } from '../backing/backing.js';
import { Deferred } from '../base/deferred.js';
import type { Engine } from '../engine/engine.js';
import {
  FLAG_NO_HOLE,
  FLUSH,
  type Io,
  type IoOwner,
  type IoPool,
  type Operation,
  WRITE,
  ZERO,
} from './io.js';

export class AwaitedIo implements IoOwner {
  readonly #engine: Engine;
  readonly #ios: IoPool;

  constructor(engine: Engine, ios: IoPool) {
    this.#engine = engine;
    this.#ios = ios;
  }

  /** An Io that the caller sends on its way, and what it will have ended with: 0 or an errno. */
  take(operation: Operation, offset: number, length: number): { io: Io; ended: Promise<number> } {
    const io = this.#ios.take(operation, offset, length, this);
    const ended = new Deferred<number>(this.#engine);
    io.holds = ended;
    return { io, ended: ended.promise };
  }

  /** Carries out one operation at `offset` of the backing; resolves to 0 or an errno. */
  run(
    backing: Backing,
    operation: Operation,
    offset: number,
    length: number,
    memory: number,
    flags = 0,
  ): Promise<number> {
    const { io, ended } = this.take(operation, 0, length);
    io.backingOffset = offset;
    io.memory = memory;
    io.flags = flags;
    backing.submit(io);
    return ended;
  }

  /** Makes what has been written there durable; resolves to 0 or an errno. */
  flush(backing: Backing): Promise<number> {
    return this.run(backing, FLUSH, 0, 0, 0);
  }

  /** Makes the range, which may be empty, read as zeroes. Resolves to 0 or an errno. */
  zero(backing: Backing, offset: number, length: number): Promise<number> {
    if (length === 0) return Promise.resolve(0);
    const { zeroes, zeroesBytes } = this.#engine.arena;
    if (length <= zeroesBytes) return this.run(backing, WRITE, offset, length, zeroes);
    return this.run(backing, ZERO, offset, length, 0, FLAG_NO_HOLE);
  }

  /** Lets others have the thread, even if no I/O has to be waited for. */
  pause(): Promise<void> {
    const over = new Deferred<void>(this.#engine);
    this.#engine.timer(0, { done: () => over.resolve() });
    return over.promise;
  }

  finished(io: Io): void {
    const ended = io.holds as Deferred<number>;
    const { error } = io;
    this.#ios.give(io);
    ended.resolve(error);
  }
}
