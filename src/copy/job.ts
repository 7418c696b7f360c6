/**
 * A copy of one range of a backing (or of zeroes) to up to eight places: what it is asked to do,
 * and what came of it. Jobs come from the copy engine's pool and go back to it by themselves when their
 * owner has been told.
 */

import type { Backing } from '../backing/backing.js';
import { copyDestinations } from '../base/limits.js';
import type { Slice } from './slice.js';
import type { SourceExtents } from './source-extents.js';
import type { Throttle } from './throttle.js';

/** Go on after an error, and write what the buffer holds after a failed read. */
export const COPY_IGNORE_ERROR = 1;
/** Writes go out in ascending order, and the first error ends the job; overrides IGNORE_ERROR. */
export const COPY_WRITE_SEQ = 2;
/** Ranges that the source knows to be holes become holes at the destinations. */
export const COPY_HOLES = 4;
/** Blocks that read as zeroes become holes at the destinations. */
export const COPY_ZEROES = 8;
/** The destinations read as zeroes already: holes (and zeroes, if looked for) are skipped. */
export const COPY_INTO_ZEROES = 16;
/** The system may copy by itself, or share the blocks, where it can (files to files). */
export const COPY_OFFLOAD = 32;

/** Bits of `ways`. */
export const COPIED_BY_CLONE = 1;
export const COPIED_BY_SYSTEM = 2;
export const COPIED_BY_ENGINE = 4;

/** Who is told, once, that a job has ended; perhaps before `start` returns. */
export interface CopyOwner {
  copied(job: CopyJob): void;
}

export class CopyJob {
  /** Null: zeroes. */
  source: Backing | null = null;
  sourceOffset = 0;
  length = 0;
  destinationCount = 0;
  readonly destinations: (Backing | null)[] = new Array<Backing | null>(copyDestinations).fill(
    null,
  );
  readonly destinationOffsets = new Float64Array(copyDestinations);
  flags = 0;
  throttle: Throttle | null = null;
  owner: CopyOwner | null = null;

  /** 0, or the errno of the first read that failed. */
  readError = 0;
  /** Bit i: a write to destination i failed. */
  writeErrors = 0;
  /** The errno of the first write that failed. */
  writeError = 0;
  /** Bytes done with, those skipped included. */
  doneBytes = 0;
  /** Of these, bytes that were not copied because they are zeroes: holes made, or left alone. */
  skippedBytes = 0;
  /** Bytes that the system copied or shared without their passing through here. */
  offloadedBytes = 0;
  /** The ways in which it was copied, COPIED_BY_CLONE and so on. */
  ways = 0;
  cancelled = false;

  /** For the copy engine. Where the next slice begins, from the job's start. */
  cursor = 0;
  /** Slices begun so far, those that have not ended, and whose turn to write it is (WRITE_SEQ). */
  slicesBegun = 0;
  slicesUnderWay = 0;
  writeTurn = 0;
  /** It is in one of the engine's lists, or otherwise looked after. */
  listed = false;
  /** Times that it slept for its throttle in a row, and when it wakes up. */
  sleeps = 0;
  wakesAt = 0;
  /** With COPY_HOLES: what is known of the source from the cursor on. */
  extents: SourceExtents | null = null;
  /** With COPY_WRITE_SEQ: slices that wait for their turn to write. */
  inOrder: Slice | null = null;
  /** With COPY_OFFLOAD: the system may be asked at all, and it has cloned for all destinations. */
  offload = false;
  cloning = false;
  next: CopyJob | null = null;

  addDestination(backing: Backing, offset: number): void {
    this.destinations[this.destinationCount] = backing;
    this.destinationOffsets[this.destinationCount] = offset;
    this.destinationCount++;
  }

  /** No further slices are begun; the job ends when those under way have, and is then told. */
  cancel(): void {
    this.cancelled = true;
  }

  /** No further slices are to be begun. */
  get stopped(): boolean {
    return this.cancelled || (this.failed && (this.flags & COPY_IGNORE_ERROR) === 0);
  }

  get failed(): boolean {
    return this.readError !== 0 || this.writeErrors !== 0;
  }

  /** Ready for its next owner; nobody is kept alive by a job in the pool. */
  clear(): void {
    this.source = null;
    this.sourceOffset = 0;
    this.length = 0;
    this.destinations.fill(null, 0, this.destinationCount);
    this.destinationCount = 0;
    this.flags = 0;
    this.throttle = null;
    this.owner = null;
    this.readError = 0;
    this.writeErrors = 0;
    this.writeError = 0;
    this.doneBytes = 0;
    this.skippedBytes = 0;
    this.offloadedBytes = 0;
    this.ways = 0;
    this.offload = false;
    this.cloning = false;
    this.cancelled = false;
    this.cursor = 0;
    this.slicesBegun = 0;
    this.slicesUnderWay = 0;
    this.writeTurn = 0;
    this.sleeps = 0;
  }

  /** Everything arrived. */
  get ok(): boolean {
    return this.readError === 0 && this.writeErrors === 0 && !this.cancelled;
  }
}
