/**
 * The copies that people ask for, by number: a few run at once, the others wait for their turn, and
 * those that have ended stay listed for a while so that one can ask what became of them.
 */

import type { BackingUser } from '../backing/device.js';
import { Deferred } from '../base/deferred.js';
import { EBUSY, EINVAL, ENXIO, ESHUTDOWN } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import {
  copyJobsAtOnce,
  copyJobsEnded,
  copyJobsWaiting,
  copyJobWaitMilliseconds,
} from '../base/limits.js';
import type { IoPool } from '../device/io.js';
import type { Engine } from '../engine/engine.js';
import type { CopyJobInfo, CopyRequest } from '../queue/commands.js';
import { AskedCopy, type BackingSource } from './asked-copy.js';

export class CopyJobs {
  readonly #engine: Engine;
  readonly #ios: IoPool;
  readonly #backings: BackingSource;
  /** By number, in the order of asking. */
  readonly #all = new Map<number, AskedCopy>();
  #nextId = 1;
  #closed = false;

  constructor(engine: Engine, ios: IoPool, backings: BackingSource) {
    this.#engine = engine;
    this.#ios = ios;
    this.#backings = backings;
  }

  /** Bytes in a backing, if it can be read, or written. Throws MapperError. */
  sizeOf(word: string, writable = false): number {
    const user: BackingUser = { title: 'a copy', deviceRemoved() {} };
    const backing = this.#backings.openBacking(word, user, !writable);
    try {
      return backing.size();
    } finally {
      backing.close();
    }
  }

  /** Opens what it needs and starts it; the number. Throws MapperError. */
  start(request: CopyRequest): number {
    if (this.#closed) throw new MapperError(ESHUTDOWN, 'the daemon is shutting down');
    const unfinished = this.#count((copy) => !copy.over);
    if (unfinished >= copyJobsAtOnce + copyJobsWaiting) {
      throw new MapperError(EBUSY, `${unfinished} copies are under way, and that is the limit`);
    }
    const copy = new AskedCopy(this.#nextId, request, {
      engine: this.#engine,
      ios: this.#ios,
      backings: this.#backings,
      over: () => this.#goOn(),
    });
    this.#nextId++;
    this.#all.set(copy.id, copy);
    this.#goOn();
    return copy.id;
  }

  list(): CopyJobInfo[] {
    return [...this.#all.values()].map((copy) => copy.info());
  }

  /** What a job has come to when it has ended, or after that time. Throws MapperError ENXIO. */
  async ended(id: number, waitMilliseconds: number): Promise<CopyJobInfo> {
    const copy = this.#get(id);
    const wait = Math.min(waitMilliseconds, copyJobWaitMilliseconds);
    if (!copy.over && wait > 0) {
      const timeOver = new Deferred<void>(this.#engine);
      const timer = this.#engine.timer(wait, { done: () => timeOver.resolve() });
      await Promise.race([copy.ended, timeOver.promise]);
      this.#engine.cancelTimer(timer);
    }
    return copy.info();
  }

  cancel(id: number): void {
    const copy = this.#get(id);
    if (copy.over) throw new MapperError(EINVAL, `copy ${id} has ended already`);
    copy.cancel();
  }

  /** No more copies; those under way are cancelled and waited for. */
  async shutdown(): Promise<void> {
    this.#closed = true;
    const unfinished = [...this.#all.values()].filter((copy) => !copy.over);
    for (const copy of unfinished.reverse()) copy.cancel();
    await Promise.all(unfinished.map((copy) => copy.ended));
  }

  #get(id: number): AskedCopy {
    const copy = this.#all.get(id);
    if (copy === undefined) throw new MapperError(ENXIO, `no copy ${id}`);
    return copy;
  }

  #count(which: (copy: AskedCopy) => boolean): number {
    let count = 0;
    for (const copy of this.#all.values()) if (which(copy)) count++;
    return count;
  }

  /** Begins what waits, and forgets what ended long ago. */
  #goOn(): void {
    let running = this.#count((copy) => copy.running);
    for (const copy of this.#all.values()) {
      if (running >= copyJobsAtOnce) break;
      if (!copy.waiting) continue;
      running++;
      copy.begin();
    }
    let tooMany = this.#count((copy) => copy.over) - copyJobsEnded;
    for (const copy of this.#all.values()) {
      if (tooMany <= 0) break;
      if (!copy.over) continue;
      this.#all.delete(copy.id);
      tooMany--;
    }
  }
}
