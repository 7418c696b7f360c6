/**
 * The merge itself: batch after batch of chunks goes from the COW to the origin, from the last
 * exception to the first. The order is what makes it safe to be cut off anywhere:
 *
 *   other snapshots copy what is going to be overwritten
 *   writes to the batch wait from here on; those under way end
 *   COW -> origin, origin flushed
 *   the batch's exceptions are cleared in the store, for good
 *   the chunks are the origin's; writes that waited go there
 *
 * Until its exceptions are cleared a chunk is read from the COW, so that merging it twice does no
 * harm. The kernel merges one run of consecutive chunks at a time, which may be a single chunk; a
 * batch has many, so that they share the two flushes.
 */

import type { Backing } from '../../backing/backing.js';
import { Deferred } from '../../base/deferred.js';
import { EIO } from '../../base/errno.js';
import { MapperError, messageOf } from '../../base/errors.js';
import { mergeBytes } from '../../base/limits.js';
import type { CopyJob, CopyOwner } from '../../copy/job.js';
import { AwaitedIo } from '../../device/awaited-io.js';
import { WRITE } from '../../device/io.js';
import { IoQueue } from '../snapshot/io-queue.js';
import type { Snapshot } from '../snapshot/snapshot.js';
import type { MergeRun, StoreMerge } from '../snapshot/store.js';
import { TrackedIos } from '../snapshot/tracked-ios.js';
import type { TargetContext } from '../target.js';

export class Merge {
  failed = false;
  /** Writes to the COW. */
  readonly writes: TrackedIos;
  /** Writes to what is being merged. */
  readonly waiting = new IoQueue();
  readonly #snapshot: Snapshot;
  readonly #context: TargetContext;
  readonly #io: AwaitedIo;
  /** Chunks of the origin that are being merged now. */
  readonly #chunks = new Set<number>();
  #stopping = false;
  #pauses = 0;
  /** Resolves when nobody wants a pause any more. */
  #resumed: Deferred<void> | null = null;
  /** Those who wait for the batch under way to end. */
  #betweenBatches: Deferred<void> | null = null;
  #running: Promise<void> | null = null;
  #inBatch = false;

  constructor(snapshot: Snapshot, context: TargetContext) {
    this.#snapshot = snapshot;
    this.#context = context;
    this.#io = new AwaitedIo(context.engine, context.ios);
    this.writes = new TrackedIos(context.ios);
  }

  /** Whether the chunk is being merged now. */
  covers(chunk: number): boolean {
    return this.#chunks.has(chunk);
  }

  start(): void {
    this.#stopping = false;
    if (this.failed || !this.#snapshot.valid) return;
    this.#running ??= this.#work().finally(() => {
      this.#running = null;
    });
  }

  /** The batch under way is the last one for now. */
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

  /** Resolves when no batch is under way. */
  async paused(): Promise<void> {
    if (!this.#inBatch) return;
    this.#betweenBatches ??= new Deferred(this.#context.engine);
    await this.#betweenBatches.promise;
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
        this.#inBatch = true;
        const more = await this.#mergeLast(store.merge as StoreMerge);
        this.#endBatch();
        if (!more) break;
      }
      context.log.info({ device: context.host.name }, 'snapshot is merged');
      context.host.event({ what: 'merged' });
    } catch (error) {
      this.failed = true;
      context.log.error({ device: context.host.name }, `Merge failed: ${messageOf(error)}`);
      this.#chunks.clear();
      for (let io = this.waiting.shift(); io !== null; io = this.waiting.shift()) io.complete(EIO);
      this.#endBatch();
      context.host.event({ what: 'merge failed' });
    }
  }

  #endBatch(): void {
    this.#inBatch = false;
    this.#betweenBatches?.resolve();
    this.#betweenBatches = null;
  }

  /** False: nothing was left. */
  async #mergeLast(merge: StoreMerge): Promise<boolean> {
    const snapshot = this.#snapshot;
    const { chunkBytes, table, originBacking } = snapshot;
    const runs = await merge.lastRuns(Math.max(1, Math.floor(mergeBytes / chunkBytes)));
    if (runs.length === 0) return false;
    await Promise.all(runs.map((run) => this.#copyOutOthers(run)));
    let count = 0;
    for (const run of runs) {
      count += run.count;
      for (let i = 0; i < run.count; i++) this.#chunks.add(run.oldChunk + i);
    }
    await this.#drainWrites();
    await allEnded(runs.map((run) => this.#copy(run)));
    const errno = await this.#io.flush(originBacking);
    if (errno !== 0) throw new MapperError(errno, 'cannot flush the origin');
    await merge.forget(count);
    for (const run of runs) table.remove(run.oldChunk, run.count);
    this.#chunks.clear();
    for (let io = this.waiting.shift(); io !== null; io = this.waiting.shift()) {
      snapshot.origin.write(io);
    }
    return true;
  }

  /** Of the origin, which may end within the last chunk. */
  #bytesOf(run: MergeRun): { offset: number; length: number } {
    const { chunkBytes, originBacking } = this.#snapshot;
    const offset = run.oldChunk * chunkBytes;
    const length = Math.min(run.count * chunkBytes, originBacking.size() - offset);
    return { offset, length };
  }

  /** Sends a write to the origin that goes nowhere: it ends when all snapshots have copied. */
  async #copyOutOthers(run: MergeRun): Promise<void> {
    const { offset, length } = this.#bytesOf(run);
    const { io, ended } = this.#io.take(WRITE, offset, length);
    io.backing = nowhere;
    this.#snapshot.origin.write(io);
    await ended;
  }

  async #drainWrites(): Promise<void> {
    const done = new Deferred<void>(this.#context.engine);
    let left = 1;
    const ioEnded = (): void => {
      if (--left === 0) done.resolve();
    };
    for (const chunk of this.#chunks) left += this.writes.await(chunk, chunk, { ioEnded });
    ioEnded();
    await done.promise;
  }

  async #copy(run: MergeRun): Promise<void> {
    const { offset, length } = this.#bytesOf(run);
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
}

/** Throws the first failure, but not before all have ended. */
async function allEnded(works: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(works)) {
    if (result.status === 'rejected') throw result.reason;
  }
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
