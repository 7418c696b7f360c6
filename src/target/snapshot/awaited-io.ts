/** I/O that a slow path awaits: opening a store, merging it. */

import type { Backing } from '../../backing/backing.js';
import { Deferred } from '../../base/deferred.js';
import { type Io, type IoOwner, type IoPool, type Operation, WRITE } from '../../device/io.js';
import type { Engine } from '../../engine/engine.js';

export class AwaitedIo implements IoOwner {
  readonly #engine: Engine;
  readonly #ios: IoPool;
  /** Operations under way. */
  underWay = 0;

  constructor(engine: Engine, ios: IoPool) {
    this.#engine = engine;
    this.#ios = ios;
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
    const io = this.#ios.take(operation, 0, length, this);
    const ended = new Deferred<number>(this.#engine);
    io.backingOffset = offset;
    io.memory = memory;
    io.flags = flags;
    io.holds = ended;
    this.underWay++;
    backing.submit(io);
    return ended.promise;
  }

  /** Makes the range read as zeroes, by writing. Resolves to 0 or an errno. */
  async writeZeroes(backing: Backing, offset: number, length: number): Promise<number> {
    const { zeroes, zeroesBytes } = this.#engine.arena;
    for (let done = 0; done < length; done += zeroesBytes) {
      const bytes = Math.min(length - done, zeroesBytes);
      const errno = await this.run(backing, WRITE, offset + done, bytes, zeroes);
      if (errno !== 0) return errno;
    }
    return 0;
  }

  finished(io: Io): void {
    const ended = io.holds as Deferred<number>;
    const { error } = io;
    this.#ios.give(io);
    this.underWay--;
    ended.resolve(error);
  }
}
