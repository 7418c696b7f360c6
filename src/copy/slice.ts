/**
 * A slice of a copy job: a range that is read into memory of its own and then written to all
 * destinations at once, or a range of zeroes. Slices come from the copy engine's pool. A slice
 * never starts another; it tells the engine that it has ended, which sees what comes next.
 *
 *   read --> its turn to write? --> runs of data: WRITE     --> ended
 *                                   runs of zeroes: ZERO, or nothing
 */

import type { Backing } from '../backing/backing.js';
import { copyBlockBytes } from '../base/limits.js';
import {
  FLAG_HOLES_OK,
  type Io,
  type IoOwner,
  type IoPool,
  READ,
  WRITE,
  ZERO,
} from '../device/io.js';
import type { Arena } from '../engine/arena.js';
import {
  COPY_HOLES,
  COPY_IGNORE_ERROR,
  COPY_INTO_ZEROES,
  COPY_WRITE_SEQ,
  COPY_ZEROES,
  type CopyJob,
} from './job.js';
import type { Linked } from './list.js';
import type { ZeroFinder } from './zero-finder.js';

/** The copy engine, as its slices see it. */
export interface SliceHost {
  readonly arena: Arena;
  readonly ios: IoPool;
  readonly zeroFinder: ZeroFinder;
  /** Something has completed: true if nobody further up handles completions already... */
  enter(): boolean;
  /** ...and then this is to be called when it has been handled. */
  leave(): void;
  /** The slice waits for its turn to write; `write` is called when it has come. */
  waitForTurn(slice: Slice): void;
  sliceEnded(slice: Slice): void;
}

export class Slice implements IoOwner, Linked<Slice> {
  job: CopyJob | null = null;
  /** From the job's start. */
  offset = 0;
  length = 0;
  /** Its place among the job's slices. */
  number = 0;
  /** An arena offset, or -1: a slice of zeroes has no memory. */
  memory = -1;
  next: Slice | null = null;
  readonly #host: SliceHost;
  /** All of it is zeroes. */
  #zero = false;
  #sequential = false;
  #lookForZeroes = false;
  /** What was looked at and sent, from the slice's start. */
  #position = 0;
  /** Operations under way. */
  #pending = 0;
  #sending = false;
  #failed = false;

  constructor(host: SliceHost) {
    this.#host = host;
  }

  /** Its range and memory are set. It may end before this returns. */
  begin(job: CopyJob): void {
    this.job = job;
    this.#zero = this.memory < 0;
    this.#sequential = (job.flags & COPY_WRITE_SEQ) !== 0;
    this.#lookForZeroes = (job.flags & COPY_ZEROES) !== 0;
    this.#position = 0;
    this.#failed = false;
    if (this.#zero) this.#writeInTurn(job);
    else this.#read(job);
  }

  finished(io: Io): void {
    const outermost = this.#host.enter();
    const job = this.job as CopyJob;
    const { error, operation, allZero } = io;
    // `offset` is for devices, which see a child of this; here it is the destination's number.
    const destination = io.offset;
    this.#host.ios.give(io);
    if (operation === READ) {
      this.#wasRead(job, error, allZero);
    } else {
      if (error !== 0) this.#writeFailed(job, destination, error);
      this.#pending--;
      if (!this.#sending) this.#send(job);
    }
    if (outermost) this.#host.leave();
  }

  /** It is this slice's turn. */
  write(): void {
    const job = this.job as CopyJob;
    // What comes behind a failure is not written.
    if (this.#sequential && (job.stopped || this.#failed)) this.#host.sliceEnded(this);
    else this.#send(job);
  }

  /** The range is done with: what could be written was, or was to be gone on with all the same. */
  get arrived(): boolean {
    if (this.#position < this.length) return false;
    return !this.#failed || ((this.job as CopyJob).flags & COPY_IGNORE_ERROR) !== 0;
  }

  #read(job: CopyJob): void {
    const { arena, ios } = this.#host;
    // A failed read leaves what was there, and that is somebody else's.
    if ((job.flags & COPY_IGNORE_ERROR) !== 0) arena.zero(this.memory, this.length);
    const io = ios.take(READ, 0, this.length, this);
    if ((job.flags & (COPY_HOLES | COPY_ZEROES)) !== 0) io.flags = FLAG_HOLES_OK;
    io.memory = this.memory;
    io.backingOffset = job.sourceOffset + this.offset;
    (job.source as Backing).submit(io);
  }

  #wasRead(job: CopyJob, error: number, allZero: boolean): void {
    if (error !== 0) {
      if (job.readError === 0) job.readError = error;
      this.#failed = true;
      if ((job.flags & COPY_IGNORE_ERROR) === 0 && !this.#sequential) {
        this.#host.sliceEnded(this);
        return;
      }
    } else if (allZero) {
      this.#zero = true;
    }
    this.#writeInTurn(job);
  }

  #writeInTurn(job: CopyJob): void {
    if (this.#sequential && job.writeTurn !== this.number) this.#host.waitForTurn(this);
    else this.write();
  }

  #writeFailed(job: CopyJob, destination: number, error: number): void {
    this.#failed = true;
    job.writeErrors |= 1 << destination;
    if (job.writeError === 0) job.writeError = error;
  }

  /** Sends what is to be sent at once, and ends the slice when nothing is left. */
  #send(job: CopyJob): void {
    this.#sending = true;
    while (this.#position < this.length && !(this.#sequential && this.#pending > 0)) {
      if (this.#failed && (job.flags & COPY_IGNORE_ERROR) === 0) break;
      this.#sendRun(job);
    }
    this.#sending = false;
    if (this.#pending === 0) this.#host.sliceEnded(this);
  }

  /** Sends the next stretch that is all data or all zeroes. */
  #sendRun(job: CopyJob): void {
    const start = this.#position;
    let end = this.length;
    let zero = this.#zero;
    if (!zero && this.#lookForZeroes) {
      const finder = this.#host.zeroFinder;
      zero = finder.isZero(this.memory + start, Math.min(copyBlockBytes, end - start));
      end = finder.runEnd(this.memory, start, end, zero);
    }
    this.#position = end;
    if (zero && job.source !== null) {
      job.skippedBytes += end - start;
      if ((job.flags & COPY_INTO_ZEROES) !== 0) return;
    }
    const length = end - start;
    for (let i = 0; i < job.destinationCount; i++) {
      const io = this.#host.ios.take(zero ? ZERO : WRITE, i, length, this);
      if (!zero) io.memory = this.memory + start;
      io.backingOffset = (job.destinationOffsets[i] as number) + this.offset + start;
      this.#pending++;
      (job.destinations[i] as Backing).submit(io);
    }
  }
}
