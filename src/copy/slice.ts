/**
 * A slice of a copy job: a range that is read into memory of its own and then written to all
 * destinations at once, or a range of zeroes. Slices come from the copy engine's pool. A slice
 * never starts another; it tells the engine that it has ended, which sees what comes next.
 *
 *   read --> its turn to write? --> runs of data: WRITE     --> ended
 *                                   runs of zeroes: ZERO, or nothing
 *
 * With COPY_OFFLOAD the system is asked first, one destination after the other; what it does not do
 * is read and written, in pieces if the slice is longer than its memory.
 */

import type { Backing } from '../backing/backing.js';
import type { FileBacking } from '../backing/file.js';
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
import { COPY_BY_CLONE, COPY_BY_SYSTEM, type CopyWay } from '../engine/engine.js';
import {
  COPIED_BY_CLONE,
  COPIED_BY_ENGINE,
  COPIED_BY_SYSTEM,
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
  /** The slice waits for its turn to write; `goOn` is called when it has come. */
  waitForTurn(slice: Slice): void;
  /** `goOn` is to be called, when others have had theirs. */
  willGoOn(slice: Slice): void;
  /** So many bytes were copied without anybody's having to wait. */
  spent(bytes: number): void;
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
  memoryLength = 0;
  next: Slice | null = null;
  readonly #host: SliceHost;
  /** All of it is zeroes. */
  #zero = false;
  #sequential = false;
  #lookForZeroes = false;
  /** The piece that is being read and written, from the slice's start... */
  #start = 0;
  #end = 0;
  /** ...and how far it was looked at and sent. */
  #position = 0;
  /** The system is asked: for this destination, and it has copied so much. */
  #offloading = false;
  #destination = 0;
  #offloaded = 0;
  #way: CopyWay = COPY_BY_SYSTEM;
  /** Bit i: destination i still needs the data. */
  #wanting = 0;
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
    this.#start = 0;
    this.#position = 0;
    this.#failed = false;
    this.#wanting = 2 ** job.destinationCount - 1;
    this.#offloading = job.offload && !this.#zero;
    if (this.#offloading) {
      this.#destination = 0;
      this.#offloaded = 0;
      this.#offload(job);
    } else if (this.#zero) {
      this.#end = this.length;
      this.#writeInTurn(job);
    } else {
      this.#read(job);
    }
  }

  finished(io: Io): void {
    const outermost = this.#host.enter();
    const job = this.job as CopyJob;
    const { error, operation, allZero } = io;
    // `offset` is for devices, which see a child of this; here it is the destination's number.
    const destination = io.offset;
    const { progress } = io;
    this.#host.ios.give(io);
    if (this.#offloading) {
      this.#wasOffloaded(job, error, progress);
    } else if (operation === READ) {
      this.#wasRead(job, error, allZero);
    } else {
      if (error !== 0) this.#writeFailed(job, destination, error);
      this.#pending--;
      if (!this.#sending) this.#send(job);
    }
    if (outermost) this.#host.leave();
  }

  /** It is this slice's turn, after it waited. */
  goOn(): void {
    const job = this.job as CopyJob;
    if (this.#offloading) this.#offload(job);
    else if (this.#position === this.#end && this.#end < this.length) this.#read(job);
    else this.#write(job);
  }

  #write(job: CopyJob): void {
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
    this.#start = this.#position;
    const length = Math.min(this.length - this.#start, this.memoryLength);
    this.#end = this.#start + length;
    // A failed read leaves what was there, and that is somebody else's.
    if ((job.flags & COPY_IGNORE_ERROR) !== 0) arena.zero(this.memory, length);
    const io = ios.take(READ, 0, length, this);
    if ((job.flags & (COPY_HOLES | COPY_ZEROES)) !== 0) io.flags = FLAG_HOLES_OK;
    io.memory = this.memory;
    io.backingOffset = job.sourceOffset + this.offset + this.#start;
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
    } else {
      this.#zero = allZero;
    }
    this.#writeInTurn(job);
  }

  #writeInTurn(job: CopyJob): void {
    if (this.#sequential && job.writeTurn !== this.number) this.#host.waitForTurn(this);
    else this.#write(job);
  }

  #writeFailed(job: CopyJob, destination: number, error: number): void {
    this.#failed = true;
    job.writeErrors |= 1 << destination;
    if (job.writeError === 0) job.writeError = error;
  }

  /** Sends what is to be sent at once, and ends the slice when nothing is left. */
  #send(job: CopyJob): void {
    this.#sending = true;
    while (this.#position < this.#end && !(this.#sequential && this.#pending > 0)) {
      if (this.#failed && (job.flags & COPY_IGNORE_ERROR) === 0) break;
      this.#sendRun(job);
    }
    this.#sending = false;
    if (this.#pending > 0) return;
    if (this.#end < this.length && this.#position === this.#end && !job.stopped) {
      this.#host.willGoOn(this);
    } else {
      this.#host.sliceEnded(this);
    }
  }

  /** Sends the next stretch that is all data or all zeroes. */
  #sendRun(job: CopyJob): void {
    const start = this.#position;
    const memory = this.memory + (start - this.#start);
    let end = this.#end;
    let zero = this.#zero;
    if (!zero && this.#lookForZeroes) {
      const finder = this.#host.zeroFinder;
      zero = finder.isZero(memory, Math.min(copyBlockBytes, end - start));
      end = start + finder.runLength(memory, end - start, zero);
    }
    this.#position = end;
    if (zero && job.source !== null) {
      job.skippedBytes += end - start;
      if ((job.flags & COPY_INTO_ZEROES) !== 0) return;
    }
    const length = end - start;
    if (!zero) job.ways |= COPIED_BY_ENGINE;
    for (let i = 0; i < job.destinationCount; i++) {
      if ((this.#wanting & (1 << i)) === 0) continue;
      const io = this.#host.ios.take(zero ? ZERO : WRITE, i, length, this);
      if (!zero) io.memory = memory;
      io.backingOffset = (job.destinationOffsets[i] as number) + this.offset + start;
      this.#pending++;
      (job.destinations[i] as Backing).submit(io);
    }
  }

  /** Asks the system for the next piece; then the slice goes on. */
  #offload(job: CopyJob): void {
    const source = job.source?.file;
    for (; this.#destination < job.destinationCount && !job.stopped; this.#nextDestination()) {
      const to = (job.destinationOffsets[this.#destination] as number) + this.offset;
      const file = job.destinations[this.#destination]?.file;
      if (file === undefined || source === undefined) continue;
      const from = job.sourceOffset + this.offset;
      const length = this.length - this.#offloaded;
      const way = file.copyWay(source, from + this.#offloaded, to + this.#offloaded, length);
      if (way === null) continue;
      this.#way = way;
      const io = this.#host.ios.take(WRITE, this.#destination, length, this);
      io.backingOffset = to + this.#offloaded;
      file.copyFrom(io, source, from + this.#offloaded, way);
      return;
    }
    this.#offloading = false;
    if (this.#wanting === 0) {
      this.#position = this.length;
      job.offloadedBytes += this.length;
      this.#host.sliceEnded(this);
    } else if (job.stopped) {
      this.#host.sliceEnded(this);
    } else {
      this.#read(job);
    }
  }

  #nextDestination(): void {
    this.#destination++;
    this.#offloaded = 0;
  }

  #wasOffloaded(job: CopyJob, error: number, bytes: number): void {
    const way = this.#way;
    if (error === 0) {
      this.#offloaded += bytes;
      job.ways |= way === COPY_BY_CLONE ? COPIED_BY_CLONE : COPIED_BY_SYSTEM;
      this.#host.spent(bytes);
      if (this.#offloaded === this.length) {
        this.#wanting &= ~(1 << this.#destination);
        this.#nextDestination();
      }
    } else {
      const file = job.destinations[this.#destination]?.file as FileBacking;
      const source = job.source?.file as FileBacking;
      // There may be a lesser way.
      const at = this.offset + this.#offloaded;
      const to = (job.destinationOffsets[this.#destination] as number) + at;
      const left = this.length - this.#offloaded;
      const next = file.copyWay(source, job.sourceOffset + at, to, left);
      if (next === way) this.#nextDestination();
    }
    job.cloning = way === COPY_BY_CLONE && error === 0;
    this.#host.willGoOn(this);
  }
}
