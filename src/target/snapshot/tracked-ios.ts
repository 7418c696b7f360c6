/**
 * Ios that are under way in chunks, until they end, for those who have to wait for them: a write to
 * an origin may not overtake reads of a snapshot that were sent there before, and a merge may not
 * overtake writes to the COW.
 *
 * They are a doubly linked list, which is as long as clients' queues are deep.
 */

import type { Backing } from '../../backing/backing.js';
import { EIO } from '../../base/errno.js';
import type { Io, IoOwner, IoPool } from '../../device/io.js';

/** Waits for Ios to end; told of each one. */
export interface TrackedWaiter {
  ioEnded(): void;
}

class TrackedIo implements IoOwner {
  readonly #all: TrackedIos;
  firstChunk = 0;
  lastChunk = 0;
  previous: TrackedIo | null = null;
  next: TrackedIo | null = null;
  readonly waiters: TrackedWaiter[] = [];

  constructor(all: TrackedIos) {
    this.#all = all;
  }

  finished(child: Io): void {
    this.#all.ended(this, child);
  }
}

export class TrackedIos {
  /** What they read may have been changed under them: they fail. */
  broken = false;
  readonly #ios: IoPool;
  #first: TrackedIo | null = null;
  readonly #free: TrackedIo[] = [];

  constructor(ios: IoPool) {
    this.#ios = ios;
  }

  /** Sends an Io to its `backing` and `backingOffset`; chunks as it touches them. */
  submit(io: Io, firstChunk: number, lastChunk: number): void {
    const tracked = this.#free.pop() ?? new TrackedIo(this);
    tracked.firstChunk = firstChunk;
    tracked.lastChunk = lastChunk;
    tracked.next = this.#first;
    if (this.#first !== null) this.#first.previous = tracked;
    this.#first = tracked;
    const child = this.#ios.take(io.operation, io.offset, io.length, tracked);
    child.flags = io.flags;
    child.memory = io.memory;
    child.extents = io.extents;
    child.parent = io;
    child.backingOffset = io.backingOffset;
    (io.backing as Backing).submit(child);
  }

  /** How many are under way in those chunks; the waiter is told when each of them has ended. */
  await(firstChunk: number, lastChunk: number, waiter: TrackedWaiter): number {
    let count = 0;
    for (let tracked = this.#first; tracked !== null; tracked = tracked.next) {
      if (lastChunk < tracked.firstChunk || firstChunk > tracked.lastChunk) continue;
      tracked.waiters.push(waiter);
      count++;
    }
    return count;
  }

  ended(tracked: TrackedIo, child: Io): void {
    if (tracked.previous === null) this.#first = tracked.next;
    else tracked.previous.next = tracked.next;
    if (tracked.next !== null) tracked.next.previous = tracked.previous;
    tracked.next = null;
    tracked.previous = null;
    const io = child.parent as Io;
    const error = this.broken ? EIO : child.error;
    io.allZero = child.allZero;
    this.#ios.give(child);
    io.complete(error);
    const { waiters } = tracked;
    for (let i = 0; i < waiters.length; i++) (waiters[i] as TrackedWaiter).ioEnded();
    waiters.length = 0;
    this.#free.push(tracked);
  }
}
