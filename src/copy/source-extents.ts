/**
 * What a job knows of its source just ahead: where there is data and where zeroes. It is asked for
 * in pieces (STATUS), one at a time, as the job comes to the end of what it knows.
 */

import type { Backing } from '../backing/backing.js';
import { copyAheadBytes, copyExtents } from '../base/limits.js';
import { EXTENT_ZERO, ExtentList } from '../device/extent-list.js';
import { type Io, type IoOwner, type IoPool, STATUS } from '../device/io.js';
import type { CopyJob } from './job.js';
import type { Linked } from './list.js';

/** Who is told that more is known. */
export interface ExtentsOwner {
  extentsKnown(job: CopyJob): void;
}

export class SourceExtents implements IoOwner, Linked<SourceExtents> {
  /** The extent that was found last: where it ends, from the job's start, and what it is. */
  end = 0;
  zero = false;
  /** A question is under way. */
  asking = false;
  next: SourceExtents | null = null;
  readonly #list = new ExtentList(copyExtents);
  readonly #ios: IoPool;
  readonly #owner: ExtentsOwner;
  #job: CopyJob | null = null;
  #index = 0;

  constructor(ios: IoPool, owner: ExtentsOwner) {
    this.#ios = ios;
    this.#owner = owner;
  }

  begin(job: CopyJob): void {
    this.#job = job;
    this.#list.clear();
    this.#index = 0;
    this.end = 0;
  }

  /** Moves on to the extent that `position`, the end of the last, is in; false: not known yet. */
  advance(): boolean {
    const list = this.#list;
    if (this.#index === list.count) return false;
    this.end += list.lengths[this.#index] as number;
    this.zero = ((list.flags[this.#index] as number) & EXTENT_ZERO) !== 0;
    this.#index++;
    return true;
  }

  /** Asks for what lies behind the last extent; the owner is told, perhaps before this returns. */
  ask(): void {
    const job = this.#job as CopyJob;
    const source = job.source as Backing;
    const length = Math.min(copyAheadBytes, job.length - this.end);
    const io = this.#ios.take(STATUS, this.end, length, this);
    io.backingOffset = job.sourceOffset + this.end;
    this.#list.clear();
    this.#index = 0;
    io.extents = this.#list;
    this.asking = true;
    source.submit(io);
  }

  finished(io: Io): void {
    const length = io.length;
    const failed = io.error !== 0;
    this.#ios.give(io);
    this.asking = false;
    if (failed || this.#list.count === 0) {
      // Whoever cannot tell may still be read.
      this.#list.clear();
      this.#list.push(length, 0);
    }
    this.#owner.extentsKnown(this.#job as CopyJob);
  }
}
