/**
 * Copies a batch of regions to its new side while clients write to the old one, until the new side
 * has everything, durable, and writes wait. What stands between is the order:
 *
 *   copy all; what was written meanwhile again, until that is little
 *   flush the new side, so that there is little left to flush
 *   writes wait from here on; those under way end
 *   copy what was written last; flush
 */

import { Deferred } from '../../base/deferred.js';
import { EIO, errnoName } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { movePasses, moveRestBytes } from '../../base/limits.js';
import { COPY_HOLES, COPY_OFFLOAD, type CopyJob, type CopyOwner } from '../../copy/job.js';
import type { Throttle } from '../../copy/throttle.js';
import type { TargetContext } from '../target.js';
import type { SwitchPath } from './arguments.js';
import { CLOSED, type MoveBatch, type Stretch } from './move-batch.js';
import type { MovingWrites } from './moving-writes.js';
import { flushed } from './steps.js';

export class BatchCopy {
  readonly #batch: MoveBatch;
  readonly #from: SwitchPath;
  readonly #to: SwitchPath;
  readonly #throttle: Throttle | null;
  readonly #context: TargetContext;

  constructor(
    batch: MoveBatch,
    paths: readonly SwitchPath[],
    throttle: Throttle | null,
    context: TargetContext,
  ) {
    this.#batch = batch;
    this.#from = paths[batch.from] as SwitchPath;
    this.#to = paths[batch.to] as SwitchPath;
    this.#throttle = throttle;
    this.#context = context;
  }

  /**
   * Resolves when it is closed and both sides are the same, or soon after it has been abandoned.
   * Throws MapperError.
   */
  async run(writes: MovingWrites): Promise<void> {
    const batch = this.#batch;
    await this.#copy([batch], this.#throttle);
    for (let pass = 1; pass < movePasses && batch.dirtyBytes > moveRestBytes; pass++) {
      await this.#copy(batch.takeChanged(), this.#throttle);
    }
    await this.#flush();
    if (batch.abandoned) return;
    batch.state = CLOSED;
    const { offset, length } = this.#begin;
    await writes.drain(offset, offset + length);
    const rest = batch.takeChanged();
    if (rest.length === 0 || batch.abandoned) return;
    await this.#copy(rest, null);
    await this.#flush();
  }

  /** The batch's place in the device, as Ios have it. */
  get #begin(): Stretch {
    const { offset, length } = this.#batch;
    return { offset: this.#context.beginSectors * 512 + offset, length };
  }

  async #copy(stretches: readonly Stretch[], throttle: Throttle | null): Promise<void> {
    if (this.#batch.abandoned) return;
    const all = stretches.map((stretch) => this.#copyOne(stretch, throttle));
    // Nothing may be under way any more when an error is told of.
    const error = (await Promise.all(all)).find((ended) => ended !== null) ?? null;
    if (error !== null) throw error;
  }

  #copyOne(stretch: Stretch, throttle: Throttle | null): Promise<MapperError | null> {
    const { copies, engine } = this.#context;
    const { jobs } = this.#batch;
    const [from, to] = [this.#from, this.#to];
    const over = new Deferred<MapperError | null>(engine);
    const owner: CopyOwner = {
      copied: (job) => {
        jobs.delete(job);
        over.resolve(failure(job, from, to));
      },
    };
    const job = copies.take();
    job.source = from.backing;
    job.sourceOffset = from.startSectors * 512 + stretch.offset;
    job.length = stretch.length;
    job.addDestination(to.backing, to.startSectors * 512 + stretch.offset);
    job.flags = COPY_HOLES | COPY_OFFLOAD;
    job.throttle = throttle;
    job.owner = owner;
    jobs.add(job);
    copies.start(job);
    return over.promise;
  }

  async #flush(): Promise<void> {
    if (this.#batch.abandoned) return;
    const { backing } = this.#to;
    const errno = await flushed(backing, this.#context);
    if (errno === 0) return;
    throw new MapperError(errno, `flush of ${backing.name} failed: ${errnoName(errno)}`);
  }
}

function failure(job: CopyJob, from: SwitchPath, to: SwitchPath): MapperError | null {
  if (job.ok || job.cancelled) return null;
  const { readError, writeError } = job;
  if (readError !== 0) {
    const text = `read of ${from.backing.name} failed: ${errnoName(readError)}`;
    return new MapperError(readError, text);
  }
  const errno = writeError === 0 ? EIO : writeError;
  return new MapperError(errno, `write to ${to.backing.name} failed: ${errnoName(errno)}`);
}
