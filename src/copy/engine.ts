/**
 * The copy engine: what kcopyd does for the kernel's targets. A job is carried out in slices, so
 * many at a time, each of which reads and then writes; jobs and slices end in any order, and none
 * waits for another unless memory is short.
 *
 *   start --> ready --> slice --> slice --> ... --> ended --> owner.copied --> pool
 *               ^  |
 *               |  +--> waiting (memory), sleeping (throttle), asking (holes)
 *               +-----------'
 *
 * Everything that follows from a completion is put into a list and taken from there by one loop
 * (`#work`), never called: so the stack stays flat however many operations complete at once, owners
 * are called one at a time, and may start jobs when they are. The loop stops after some work that
 * nobody had to wait for, and goes on in the next turn, so that the thread's clients get theirs.
 *
 * Nothing is allocated for a job, once the pools have filled.
 */

import type { Backing } from '../backing/backing.js';
import { assert } from '../base/assert.js';
import {
  blockBytesMin,
  copyCloneBytes,
  copyDestinations,
  copyMemoryBytes,
  copyMemoryMilliseconds,
  copySleepMilliseconds,
  copySliceBytes,
  copySlices,
  copyStepBytes,
  copyTurnBytes,
  copyZeroBytes,
} from '../base/limits.js';
import type { IoPool } from '../device/io.js';
import type { Arena } from '../engine/arena.js';
import type { Completion, Engine } from '../engine/engine.js';
import {
  COPY_HOLES,
  COPY_IGNORE_ERROR,
  COPY_INTO_ZEROES,
  COPY_OFFLOAD,
  COPY_WRITE_SEQ,
  COPY_ZEROES,
  CopyJob,
  type CopyOwner,
} from './job.js';
import { LinkedQueue } from './list.js';
import { Slice, type SliceHost } from './slice.js';
import { type ExtentsOwner, SourceExtents } from './source-extents.js';
import { ZeroFinder } from './zero-finder.js';

export class CopyEngine implements SliceHost, ExtentsOwner {
  readonly arena: Arena;
  readonly ios: IoPool;
  readonly zeroFinder: ZeroFinder;
  /** Jobs that have been started and not ended. */
  jobsUnderWay = 0;
  /** Arena memory that slices hold, in whole blocks. */
  memoryBytes = 0;

  readonly #engine: Engine;
  readonly #jobs = new LinkedQueue<CopyJob>();
  readonly #slices = new LinkedQueue<Slice>();
  readonly #extents = new LinkedQueue<SourceExtents>();

  /** Jobs that may begin a slice. */
  readonly #ready = new LinkedQueue<CopyJob>();
  /** Jobs that wait for memory, first come first served. */
  readonly #waiting = new LinkedQueue<CopyJob>();
  /** Jobs that sleep for their throttles, all for the same time, so in order. */
  readonly #sleeping = new LinkedQueue<CopyJob>();
  /** Jobs whose owners have to be told. */
  readonly #ended = new LinkedQueue<CopyJob>();
  /** Slices that go on: their turn to write has come, or others have had theirs. */
  readonly #goingOn = new LinkedQueue<Slice>();

  /** Somebody further up the stack works the lists off. */
  #running = false;
  /** What ends now has been started by the loop itself: nobody had to wait for it. */
  #dispatching = false;
  #turn = Number.NaN;
  #turnBytes = 0;
  /** Waiting jobs may try again. */
  #memoryCame = false;
  /** The next one may have memory beyond the bound: nothing came back for a while. */
  #overdraft = false;
  #memoryGivenBack = false;
  /** What `#allocate` gave. */
  #allocated = 0;
  #deferred = false;
  #memoryTimer = false;
  #sleepTimer = false;
  readonly #goOn: Completion = { done: () => this.#deferralOver() };
  readonly #askAgain: Completion = { done: () => this.#memoryTimerOver() };
  readonly #wakeUp: Completion = { done: () => this.#sleepTimerOver() };

  constructor(engine: Engine, ios: IoPool) {
    this.#engine = engine;
    this.arena = engine.arena;
    this.ios = ios;
    this.zeroFinder = new ZeroFinder(engine.arena);
  }

  /** A job to be filled in and started. It goes back to the pool when its owner has been told. */
  take(): CopyJob {
    return this.#jobs.shift() ?? new CopyJob();
  }

  /** The job's owner is told when it has ended, perhaps before this returns. */
  start(job: CopyJob): void {
    assert(job.owner !== null, 'a copy job has an owner');
    assert(!job.listed && job.cursor === 0, 'a copy job is started once');
    const { destinationCount: count } = job;
    assert(count > 0 && count <= copyDestinations, 'a copy job has one to eight destinations');
    if ((job.flags & COPY_WRITE_SEQ) !== 0) job.flags &= ~COPY_IGNORE_ERROR;
    if (job.source !== null && (job.flags & COPY_HOLES) !== 0 && job.source.features.extents) {
      job.extents = this.#extents.shift() ?? new SourceExtents(this.ios, this);
      job.extents.begin(job);
    }
    const without = COPY_ZEROES | COPY_WRITE_SEQ;
    job.offload = (job.flags & (COPY_OFFLOAD | without)) === COPY_OFFLOAD && isFile(job.source);
    this.jobsUnderWay++;
    job.listed = true;
    this.#ready.push(job);
    if (this.enter()) this.leave();
  }

  enter(): boolean {
    if (this.#running) return false;
    this.#running = true;
    return true;
  }

  leave(): void {
    this.#work();
    this.#running = false;
  }

  waitForTurn(slice: Slice): void {
    const job = slice.job as CopyJob;
    slice.next = job.inOrder;
    job.inOrder = slice;
  }

  sliceEnded(slice: Slice): void {
    const job = slice.job as CopyJob;
    if (this.#dispatching) this.#turnBytes += copyStepBytes + Math.max(0, slice.memoryLength);
    if (slice.arrived) job.doneBytes += slice.length;
    if (slice.memory >= 0) {
      this.arena.free(slice.memory, slice.memoryLength);
      this.memoryBytes -= blockBytesOf(slice.memoryLength);
      this.#memoryCame = true;
      this.#memoryGivenBack = true;
      slice.memory = -1;
      slice.memoryLength = 0;
    }
    job.throttle?.ended(this.#engine.clock());
    job.slicesUnderWay--;
    if ((job.flags & COPY_WRITE_SEQ) !== 0) this.#nextTurn(job);
    slice.job = null;
    this.#slices.push(slice);
    this.#lookAt(job);
  }

  willGoOn(slice: Slice): void {
    this.#goingOn.push(slice);
  }

  spent(bytes: number): void {
    this.#turnBytes += bytes;
  }

  extentsKnown(job: CopyJob): void {
    const outermost = this.enter();
    this.#lookAt(job);
    if (outermost) this.leave();
  }

  /** Something has happened to the job: it goes on, if it is not in a list already, or ends. */
  #lookAt(job: CopyJob): void {
    if (job.listed) return;
    job.listed = true;
    if (job.cursor === job.length || job.stopped) this.#rest(job);
    else this.#ready.push(job);
  }

  /** WRITE_SEQ: the slice behind the one that ended may write. */
  #nextTurn(job: CopyJob): void {
    job.writeTurn++;
    let before: Slice | null = null;
    for (let slice = job.inOrder; slice !== null; before = slice, slice = slice.next) {
      if (slice.number !== job.writeTurn) continue;
      if (before === null) job.inOrder = slice.next;
      else before.next = slice.next;
      this.#goingOn.push(slice);
      return;
    }
  }

  /** Works everything off that can be done now. */
  #work(): void {
    for (;;) {
      const ended = this.#ended.shift();
      if (ended !== null) {
        this.#tell(ended);
        continue;
      }
      if (this.#turnIsOver()) return;
      this.#dispatching = true;
      const more = this.#step();
      this.#dispatching = false;
      if (!more) return;
    }
  }

  /** One slice that goes on or one job that goes on. False: nothing to do. */
  #step(): boolean {
    const slice = this.#goingOn.shift();
    if (slice !== null) {
      slice.goOn();
      return true;
    }
    const waiting = this.#memoryCame ? this.#waiting.shift() : null;
    this.#memoryCame = waiting !== null;
    const job = waiting ?? this.#ready.shift();
    if (job === null) return false;
    this.#turnBytes += copyStepBytes;
    this.#advance(job, waiting !== null);
    return true;
  }

  /** Begins the job's next slice, or sees to what that needs. It is in no list now. */
  #advance(job: CopyJob, waited: boolean): void {
    const { source, extents, throttle } = job;
    if (job.stopped || job.cursor === job.length) {
      this.#rest(job);
      return;
    }
    if (job.slicesUnderWay === copySlices || extents?.asking === true) {
      job.listed = false;
      return;
    }
    let zero = source === null;
    let end = job.length;
    if (extents !== null) {
      if (extents.end === job.cursor && !extents.advance()) {
        job.listed = false;
        extents.ask();
        return;
      }
      end = Math.min(end, extents.end);
      zero = extents.zero;
      if (zero && (job.flags & COPY_INTO_ZEROES) !== 0) {
        this.#skip(job, end);
        return;
      }
    }
    const now = throttle === null ? 0 : this.#engine.clock();
    if (throttle?.mustSleep(now, job.sleeps) === true) {
      this.#sleep(job, now);
      return;
    }
    let length = end - job.cursor;
    let memory = -1;
    let memoryLength = 0;
    if (zero) {
      length = Math.min(length, copyZeroBytes);
    } else {
      memory = this.#allocate(Math.min(length, copySliceBytes), waited);
      if (memory < 0) {
        this.#wait(job, waited);
        return;
      }
      memoryLength = this.#allocated;
      length = job.cloning ? Math.min(length, copyCloneBytes) : memoryLength;
    }
    throttle?.started(now);
    this.#begin(job, length, memory, memoryLength);
  }

  #begin(job: CopyJob, length: number, memory: number, memoryLength: number): void {
    const slice = this.#slices.shift() ?? new Slice(this);
    slice.offset = job.cursor;
    slice.length = length;
    slice.memory = memory;
    slice.memoryLength = memoryLength;
    slice.number = job.slicesBegun++;
    job.cursor += length;
    job.slicesUnderWay++;
    job.sleeps = 0;
    slice.begin(job);
    if (job.cursor < job.length || job.slicesUnderWay === 0) this.#ready.push(job);
    else job.listed = false;
  }

  #skip(job: CopyJob, end: number): void {
    const length = end - job.cursor;
    job.cursor = end;
    job.doneBytes += length;
    job.skippedBytes += length;
    this.#ready.push(job);
  }

  /** No slice is to be begun any more: the job ends with the last one that is under way. */
  #rest(job: CopyJob): void {
    if (job.slicesUnderWay > 0 || job.extents?.asking === true) {
      job.listed = false;
      return;
    }
    if (job.extents !== null) this.#extents.push(job.extents);
    job.extents = null;
    this.#ended.push(job);
  }

  /**
   * Memory for a slice of at most `length` bytes, `#allocated` of them, or -1: the job must wait.
   * The bound gives way when nothing comes back, since the copies that have it all may be waiting
   * for this one (devices stand on one another); and if the arena has no such piece and nobody will
   * give one back, a small one does as well.
   */
  #allocate(length: number, waited: boolean): number {
    if (!waited && this.#waiting.first !== null) return -1;
    const desperate = this.#overdraft || this.memoryBytes === 0;
    if (this.memoryBytes + blockBytesOf(length) > copyMemoryBytes && !desperate) return -1;
    let bytes = length;
    let memory = this.arena.allocate(bytes);
    while (memory < 0 && desperate && bytes > blockBytesMin) {
      bytes = Math.max(blockBytesMin, Math.floor(bytes / 8 / blockBytesMin) * blockBytesMin);
      memory = this.arena.allocate(bytes);
    }
    if (memory < 0) return -1;
    this.#overdraft = false;
    this.#allocated = bytes;
    this.memoryBytes += blockBytesOf(bytes);
    return memory;
  }

  #wait(job: CopyJob, waited: boolean): void {
    if (waited) this.#waiting.unshift(job);
    else this.#waiting.push(job);
    // What comes back from now on is worth another try.
    this.#memoryCame = false;
    this.#startMemoryTimer();
  }

  #startMemoryTimer(): void {
    if (this.#memoryTimer) return;
    this.#memoryTimer = true;
    this.#memoryGivenBack = false;
    this.#engine.timer(copyMemoryMilliseconds, this.#askAgain);
  }

  #memoryTimerOver(): void {
    this.#memoryTimer = false;
    if (this.#waiting.first === null) return;
    this.#overdraft = !this.#memoryGivenBack;
    this.#memoryCame = true;
    this.#startMemoryTimer();
    if (this.enter()) this.leave();
  }

  #sleep(job: CopyJob, now: number): void {
    job.sleeps++;
    job.wakesAt = now + copySleepMilliseconds;
    this.#sleeping.push(job);
    this.#startSleepTimer(copySleepMilliseconds);
  }

  #startSleepTimer(milliseconds: number): void {
    if (this.#sleepTimer) return;
    this.#sleepTimer = true;
    this.#engine.timer(milliseconds, this.#wakeUp);
  }

  #sleepTimerOver(): void {
    this.#sleepTimer = false;
    const now = this.#engine.clock();
    for (;;) {
      const { first } = this.#sleeping;
      if (first === null) break;
      if (first.wakesAt > now && !first.stopped) {
        this.#startSleepTimer(first.wakesAt - now);
        break;
      }
      this.#sleeping.shift();
      this.#ready.push(first);
    }
    if (this.enter()) this.leave();
  }

  /** Whether enough was done in this turn; then a timer sees to the rest. */
  #turnIsOver(): boolean {
    const { now } = this.#engine;
    if (now !== this.#turn) {
      this.#turn = now;
      this.#turnBytes = 0;
    }
    if (this.#turnBytes < copyTurnBytes) return false;
    const waiting = this.#memoryCame && this.#waiting.first !== null;
    if (this.#ready.first === null && this.#goingOn.first === null && !waiting) return false;
    if (!this.#deferred) {
      this.#deferred = true;
      this.#engine.timer(0, this.#goOn);
    }
    return true;
  }

  #deferralOver(): void {
    this.#deferred = false;
    this.#turnBytes = 0;
    if (this.enter()) this.leave();
  }

  #tell(job: CopyJob): void {
    const owner = job.owner as CopyOwner;
    this.jobsUnderWay--;
    owner.copied(job);
    job.clear();
    job.listed = false;
    this.#jobs.push(job);
  }
}

function isFile(backing: Backing | null): boolean {
  return backing?.file !== undefined;
}

/** The arena's blocks are powers of two. */
function blockBytesOf(length: number): number {
  return length <= blockBytesMin ? blockBytesMin : 2 ** (32 - Math.clz32(length - 1));
}
