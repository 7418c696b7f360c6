/**
 * A pending exception: a chunk that is on its way into the COW, and what waits for it.
 *
 *   allocated -> data copied (or written by a whole-chunk write) -> committed -> published
 *             -> reads that were sent to the origin before have ended -> origin writes go on
 *
 * Writes to the snapshot go on when the exception is published, since from then on the chunk is
 * the COW's. Pending exceptions come from a pool.
 */

import type { CopyJob, CopyOwner } from '../../copy/job.js';
import type { Io, IoOwner } from '../../device/io.js';
import { IoQueue } from './io-queue.js';
import type { OriginWait } from './origin.js';
import type { Snapshot } from './snapshot.js';
import type { Committable } from './store.js';
import type { TrackedWaiter } from './tracked-ios.js';

export class PendingException
  implements Committable, CopyOwner, IoOwner, TrackedWaiter, OriginWait
{
  readonly #snapshot: Snapshot;
  oldChunk = 0;
  newChunk = 0;
  /** A write to the snapshot that is the whole chunk, so that nothing need be copied. */
  wholeWrite: Io | null = null;
  /** Writes to the origin, which go through Origin.write again. */
  readonly originWrites = new IoQueue();
  /** Writes to the snapshot, which go to the COW. */
  readonly snapshotWrites = new IoQueue();
  /** Reads of the chunk that are still at the origin. */
  readers = 0;

  // For the store.
  sequence = 0;
  arrived = false;
  ok = false;
  nextCommit: Committable | null = null;

  constructor(snapshot: Snapshot) {
    this.#snapshot = snapshot;
  }

  /** CopyOwner: the chunk is in the COW, or is not. */
  copied(job: CopyJob): void {
    this.#snapshot.dataArrived(this, job.ok);
  }

  /** IoOwner: the whole-chunk write has reached the COW, or has not. */
  finished(child: Io): void {
    const ok = child.error === 0;
    this.#snapshot.ios.give(child);
    this.#snapshot.dataArrived(this, ok);
  }

  committed(ok: boolean): void {
    this.#snapshot.committed(this, ok);
  }

  /** OriginWait. */
  waitForOrigin(io: Io): void {
    this.originWrites.push(io);
  }

  ioEnded(): void {
    if (--this.readers === 0) this.#snapshot.drained(this);
  }
}
