/**
 * The merge itself: run after run of chunks goes from the COW to the origin, from the last
 * exception to the first. The order is what makes it safe to be cut off anywhere:
 *
 *   other snapshots copy what is going to be overwritten
 *   writes to the run wait from here on; those under way end
 *   COW -> origin, origin flushed
 *   the run's exceptions are cleared in the store, for good
 *   the chunks are the origin's; writes that waited go there
 *
 * Until its exceptions are cleared a run is read from the COW, so that a merge that is done twice
 * does no harm.
 */

import type { Backing } from '../../backing/backing.js';
import { Deferred } from '../../base/deferred.js';
import { EIO } from '../../base/errno.js';
import { MapperError, messageOf } from '../../base/errors.js';
import { mergeRunBytes } from '../../base/limits.js';
import type { CopyJob, CopyOwner } from '../../copy/job.js';
import { FLUSH, type Io, type IoOwner, WRITE } from '../../device/io.js';
import { IoQueue } from '../snapshot/io-queue.js';
import type { Snapshot } from '../snapshot/snapshot.js';
import type { MergeRun, StoreMerge } from '../snapshot/store.js';
import { TrackedIos } from '../snapshot/tracked-ios.js';
import type { TargetContext } from '../target.js';

export class Merge {
  failed = false;
  /** Writes to the COW. */
  readonly writes: TrackedIos;
  /** Writes to the run that is being merged. */
  readonly waiting = new IoQueue();
  readonly #snapshot: Snapshot;
  readonly #context: TargetContext;
  /** Chunks of the origin that are being merged now; none: -1. */
  #first = -1;
  #last = -1;
  #stopping = false;
  #pauses = 0;
  /** Resolves when nobody wants a pause any more. */
  #resumed: Deferred<void> | null = null;
  /** Those who wait for the run under way to end. */
  #betweenRuns: Deferred<void> | null = null;
  #running: Promise<void> | null = null;
  #inRun = false;

  constructor(snapshot: Snapshot, context: TargetContext) {
    this.#snapshot = snapshot;
    this.#context = context;
    this.writes = new TrackedIos(context.ios);
  }

  /** Whether one of the chunks is being merged now. */
  covers(first: number, last: number): boolean {
    return this.#first >= 0 && first <= this.#last && last >= this.#first;
  }

  start(): void {
    this.#stopping = false;
    if (this.failed || !this.#snapshot.valid) return;
    this.#running ??= this.#work().finally(() => {
      this.#running = null;
    });
  }

  /** The run under way is the last one for now. */
  stop(): void {
    this.#stopping = true;
    this.#resumed?.resolve();
    this.#resumed = null;
  }

  async stopped(): Promise<void> {
    await this.#running;
  }

  pause(): void {
    this.#pauses++;
  }

  /** Resolves when no run is under way. */
  async paused(): Promise<void> {
    if (!this.#inRun) return;
    this.#betweenRuns ??= new Deferred(this.#context.engine);
    await this.#betweenRuns.promise;
  }

  goOn(): void {
    if (--this.#pauses > 0) return;
    this.#resumed?.resolve();
    this.#resumed = null;
  }

  async #work(): Promise<void> {
    const context = this.#context;
    const { store } = this.#snapshot;
    try {
      for (;;) {
        while (this.#pauses > 0 && !this.#stopping) {
          this.#resumed ??= new Deferred(context.engine);
          await this.#resumed.promise;
        }
        if (this.#stopping) return;
        this.#inRun = true;
        const more = await this.#mergeLast(store.merge as StoreMerge);
        this.#endRun();
        if (!more) break;
      }
      context.log.info({ device: context.deviceName }, 'snapshot is merged');
      context.host.event({ what: 'merged' });
    } catch (error) {
      this.failed = true;
      context.log.error({ device: context.deviceName }, `Merge failed: ${messageOf(error)}`);
      this.#first = -1;
      for (let io = this.waiting.shift(); io !== null; io = this.waiting.shift()) io.complete(EIO);
      this.#endRun();
      context.host.event({ what: 'merge failed' });
    }
  }

  #endRun(): void {
    this.#inRun = false;
    this.#betweenRuns?.resolve();
    this.#betweenRuns = null;
  }

  /** False: nothing was left. */
  async #mergeLast(merge: StoreMerge): Promise<boolean> {
    const snapshot = this.#snapshot;
    const whole = await merge.lastRun();
    if (whole === null) return false;
    const run = lastPart(whole, Math.max(1, Math.floor(mergeRunBytes / snapshot.chunkBytes)));
    const offset = run.oldChunk * snapshot.chunkBytes;
    const origin = snapshot.originBacking;
    const length = Math.min(run.count * snapshot.chunkBytes, origin.size() - offset);
    await this.#copyOutOthers(offset, length);
    this.#first = run.oldChunk;
    this.#last = run.oldChunk + run.count - 1;
    await this.#drainWrites();
    await this.#copy(run, offset, length);
    await this.#flush(origin);
    await merge.forget(run);
    snapshot.table.remove(run.oldChunk, run.count);
    this.#first = -1;
    for (let io = this.waiting.shift(); io !== null; io = this.waiting.shift()) {
      snapshot.origin.write(io);
    }
    return true;
  }

  /** Sends a write to the origin that goes nowhere: it ends when all snapshots have copied. */
  async #copyOutOthers(offset: number, length: number): Promise<void> {
    const done = new Deferred<void>(this.#context.engine);
    const owner: IoOwner = {
      finished: (io) => {
        this.#context.ios.give(io);
        done.resolve();
      },
    };
    const io = this.#context.ios.take(WRITE, offset, length, owner);
    io.backing = nowhere;
    this.#snapshot.origin.write(io);
    await done.promise;
  }

  async #drainWrites(): Promise<void> {
    const done = new Deferred<void>(this.#context.engine);
    let left = this.writes.await(this.#first, this.#last, {
      ioEnded: () => {
        if (--left === 0) done.resolve();
      },
    });
    if (left > 0) await done.promise;
  }

  async #copy(run: MergeRun, offset: number, length: number): Promise<void> {
    const { copies, engine } = this.#context;
    const done = new Deferred<MapperError | null>(engine);
    const owner: CopyOwner = {
      copied: (ended: CopyJob) => {
        const errno = ended.readError || ended.writeError;
        const what = ended.readError !== 0 ? 'read the COW' : 'write the origin';
        done.resolve(ended.ok ? null : new MapperError(errno || EIO, `cannot ${what}`));
      },
    };
    const job = copies.take();
    job.source = this.#snapshot.cow;
    job.sourceOffset = run.newChunk * this.#snapshot.chunkBytes;
    job.length = length;
    job.addDestination(this.#snapshot.originBacking, offset);
    job.owner = owner;
    copies.start(job);
    const error = await done.promise;
    if (error !== null) throw error;
  }

  async #flush(backing: Backing): Promise<void> {
    const done = new Deferred<number>(this.#context.engine);
    const owner: IoOwner = {
      finished: (io: Io) => {
        const { error } = io;
        this.#context.ios.give(io);
        done.resolve(error);
      },
    };
    backing.submit(this.#context.ios.take(FLUSH, 0, 0, owner));
    const error = await done.promise;
    if (error !== 0) throw new MapperError(error, 'cannot flush the origin');
  }
}

/** Writes wait for a run, so that it may not be long. */
function lastPart(run: MergeRun, most: number): MergeRun {
  const skip = Math.max(0, run.count - most);
  return {
    oldChunk: run.oldChunk + skip,
    newChunk: run.newChunk + skip,
    count: run.count - skip,
  };
}

const nowhere: Backing = {
  name: 'nowhere',
  identity: {},
  features: {
    writable: true,
    trim: true,
    fastZero: true,
    extents: false,
    rotational: false,
    blockBytes: 1,
  },
  size: () => 0,
  submit: (io) => io.complete(0),
};
