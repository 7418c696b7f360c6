/**
 * TRIM of a snapshot, as its features have it:
 *
 *   none                      nothing happens
 *   discard_zeroes_cow        a whole chunk of the COW becomes zeroes, part of one is trimmed
 *                             there; what is still the origin's stays
 *   discard_passdown_origin   and the origin is trimmed as well, past all its snapshots
 */

import type { Backing } from '../../backing/backing.js';
import { type Io, type IoOwner, type IoPool, type Operation, TRIM, ZERO } from '../../device/io.js';
import { REMAPPED, SUBMITTED } from '../target.js';
import type { SnapshotWords } from './arguments.js';
import type { Snapshot } from './snapshot.js';

export class Discards implements IoOwner {
  readonly #zeroesCow: boolean;
  readonly #passdown: boolean;
  readonly #ios: IoPool;

  constructor(words: SnapshotWords, ios: IoPool) {
    this.#zeroesCow = words.discardZeroesCow;
    this.#passdown = words.discardPassdownOrigin;
    this.#ios = ios;
  }

  /** Result as of Target.map; `newChunk` is -1 without a complete exception. */
  map(snapshot: Snapshot, io: Io, chunk: number, newChunk: number): number {
    if (!this.#zeroesCow) {
      io.complete(0);
      return SUBMITTED;
    }
    const inCow = newChunk >= 0;
    const parts = (inCow ? 1 : 0) + (this.#passdown ? 1 : 0);
    if (inCow) snapshot.toCow(io, chunk, newChunk);
    const whole = io.length === snapshot.chunkBytes;
    if (parts === 0) {
      io.complete(0);
      return SUBMITTED;
    }
    if (parts === 1 && inCow && !whole) return REMAPPED;
    // Children, since a ZERO is another operation than its owner's; `stage` counts them.
    const { backingOffset, offset } = io;
    const cow = io.backing;
    io.stage = parts;
    io.error = 0;
    if (inCow) this.#send(io, whole ? ZERO : TRIM, cow as Backing, backingOffset);
    if (this.#passdown) this.#send(io, TRIM, snapshot.originBacking, offset);
    return SUBMITTED;
  }

  #send(io: Io, operation: Operation, backing: Backing, offset: number): void {
    const child = this.#ios.take(operation, io.offset, io.length, this);
    child.flags = io.flags;
    child.parent = io;
    child.backingOffset = offset;
    backing.submit(child);
  }

  finished(child: Io): void {
    const io = child.parent as Io;
    if (child.error !== 0) io.error = child.error;
    this.#ios.give(child);
    if (--io.stage === 0) io.complete(io.error);
  }
}
