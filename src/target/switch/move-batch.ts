/**
 * Regions side by side that move from one path to another together:
 *
 *   COPYING    the old side has everything; what writes change meanwhile is noted and copied again
 *   CLOSED     writes wait; those under way end, and the last changes are copied
 *   MIRRORED   the table has the new path; writes go to both sides until the table is stored
 */

import type { Deferred } from '../../base/deferred.js';
import { moveSliceBytes, moveSlices } from '../../base/limits.js';
import type { CopyJob } from '../../copy/job.js';
import { IoQueue } from '../snapshot/io-queue.js';

export const COPYING = 0;
export const CLOSED = 1;
export const MIRRORED = 2;
export type BatchState = typeof COPYING | typeof CLOSED | typeof MIRRORED;

/** A stretch of the target, in bytes. */
export interface Stretch {
  readonly offset: number;
  readonly length: number;
}

export class MoveBatch implements Stretch {
  readonly firstRegion: number;
  readonly count: number;
  readonly from: number;
  readonly to: number;
  readonly offset: number;
  readonly length: number;
  state: BatchState = COPYING;
  /** The regions stay where they are. */
  abandoned = false;
  /** MIRRORED: the table has to be stored as it is since then. */
  generation = 0;
  /** Writes, while it is CLOSED. */
  readonly waiting = new IoQueue();
  readonly jobs = new Set<CopyJob>();
  /** Resolves when it is MIRRORED or abandoned; null without anybody who waits. */
  ended: Deferred<void> | null = null;
  readonly #sliceBytes: number;
  /** A byte for each slice: 1 was changed. Made with the first change. */
  #dirty: Uint8Array | null = null;
  dirtySlices = 0;

  constructor(
    regions: { firstRegion: number; count: number },
    path: { from: number; to: number },
    stretch: Stretch,
  ) {
    this.firstRegion = regions.firstRegion;
    this.count = regions.count;
    this.from = path.from;
    this.to = path.to;
    this.offset = stretch.offset;
    this.length = stretch.length;
    const share = Math.ceil(this.length / moveSlices / moveSliceBytes) * moveSliceBytes;
    this.#sliceBytes = Math.max(moveSliceBytes, share);
  }

  /** Of what was changed, at most. */
  get dirtyBytes(): number {
    return this.dirtySlices * this.#sliceBytes;
  }

  /** What lies between has been changed; it may reach beyond the batch. */
  changed(offset: number, end: number): void {
    const from = Math.max(offset, this.offset) - this.offset;
    const to = Math.min(end, this.offset + this.length) - this.offset;
    if (from >= to) return;
    this.#dirty ??= new Uint8Array(Math.ceil(this.length / this.#sliceBytes));
    const last = Math.floor((to - 1) / this.#sliceBytes);
    for (let slice = Math.floor(from / this.#sliceBytes); slice <= last; slice++) {
      if (this.#dirty[slice] === 1) continue;
      this.#dirty[slice] = 1;
      this.dirtySlices++;
    }
  }

  /** What was changed, and forgets it. */
  takeChanged(): Stretch[] {
    const all: Stretch[] = [];
    const dirty = this.#dirty;
    if (dirty === null || this.dirtySlices === 0) return all;
    const bytes = this.#sliceBytes;
    for (let slice = dirty.indexOf(1); slice >= 0; ) {
      let end = dirty.indexOf(0, slice);
      if (end < 0) end = dirty.length;
      const offset = slice * bytes;
      const length = Math.min(end * bytes, this.length) - offset;
      all.push({ offset: this.offset + offset, length });
      slice = dirty.indexOf(1, end);
    }
    dirty.fill(0);
    this.dirtySlices = 0;
    return all;
  }
}
