/**
 * Writes (TRIM and ZERO too) that are under way while regions move. Each goes to one place or, if
 * its region is on both sides for the time being, to two, and ends when it has ended there. Whoever
 * moves a region has to know of them: what a write may have changed must be copied again, and the
 * last copy must have no write beside it.
 *
 * They are a doubly linked list, which is as long as clients' queues are deep.
 */

import type { Backing } from '../../backing/backing.js';
import { Deferred } from '../../base/deferred.js';
import type { Io, IoOwner, IoPool } from '../../device/io.js';
import type { Engine } from '../../engine/engine.js';

/** Told of each write that ends, before its owner is; offsets as the Ios have them. */
export interface WriteWatcher {
  wrote(offset: number, end: number): void;
  /** Its owner knows, too. */
  writeEnded(): void;
}

class MovingWrite implements IoOwner {
  readonly #all: MovingWrites;
  io: Io | null = null;
  offset = 0;
  end = 0;
  /** Places where it has not ended. */
  left = 0;
  error = 0;
  previous: MovingWrite | null = null;
  next: MovingWrite | null = null;
  readonly drains: Drain[] = [];

  constructor(all: MovingWrites) {
    this.#all = all;
  }

  finished(child: Io): void {
    this.#all.childEnded(this, child);
  }
}

/** Somebody who waits for so many writes. */
interface Drain {
  left: number;
  readonly over: Deferred<void>;
}

export class MovingWrites {
  readonly #engine: Engine;
  readonly #ios: IoPool;
  readonly #watcher: WriteWatcher;
  #first: MovingWrite | null = null;
  readonly #free: MovingWrite[] = [];

  constructor(engine: Engine, ios: IoPool, watcher: WriteWatcher) {
    this.#engine = engine;
    this.#ios = ios;
    this.#watcher = watcher;
  }

  /** Sends an Io to its `backing` and `backingOffset`, and to the other place if there is one. */
  submit(io: Io, other: Backing | null, otherOffset: number): void {
    const write = this.#free.pop() ?? new MovingWrite(this);
    write.io = io;
    write.offset = io.offset;
    write.end = io.offset + io.length;
    write.left = other === null ? 1 : 2;
    write.error = 0;
    write.next = this.#first;
    if (this.#first !== null) this.#first.previous = write;
    this.#first = write;
    const backing = io.backing as Backing;
    // The first child may end the Io before the second has been sent, unless that is made before.
    const second = other === null ? null : this.#child(write, io, otherOffset);
    backing.submit(this.#child(write, io, io.backingOffset));
    if (second !== null) (other as Backing).submit(second);
  }

  #child(write: MovingWrite, io: Io, backingOffset: number): Io {
    const child = this.#ios.take(io.operation, io.offset, io.length, write);
    child.flags = io.flags;
    child.memory = io.memory;
    child.backingOffset = backingOffset;
    return child;
  }

  /** Whether a write under way touches the range. */
  overlaps(offset: number, end: number): boolean {
    for (let write = this.#first; write !== null; write = write.next) {
      if (offset < write.end && end > write.offset) return true;
    }
    return false;
  }

  /** Resolves when the writes that touch the range now have ended. */
  async drain(offset: number, end: number): Promise<void> {
    const drain: Drain = { left: 0, over: new Deferred(this.#engine) };
    for (let write = this.#first; write !== null; write = write.next) {
      if (offset >= write.end || end <= write.offset) continue;
      write.drains.push(drain);
      drain.left++;
    }
    if (drain.left > 0) await drain.over.promise;
  }

  childEnded(write: MovingWrite, child: Io): void {
    if (child.error !== 0 && write.error === 0) write.error = child.error;
    this.#ios.give(child);
    if (--write.left > 0) return;
    if (write.previous === null) this.#first = write.next;
    else write.previous.next = write.next;
    if (write.next !== null) write.next.previous = write.previous;
    write.next = null;
    write.previous = null;
    const { drains, error, io } = write;
    this.#watcher.wrote(write.offset, write.end);
    for (let i = 0; i < drains.length; i++) {
      const drain = drains[i] as Drain;
      if (--drain.left === 0) drain.over.resolve();
    }
    drains.length = 0;
    write.io = null;
    this.#free.push(write);
    (io as Io).complete(error);
    this.#watcher.writeEnded();
  }
}
