/** Snapshot: an origin as it was, in front of what has changed since. See README.md. */

import type { Backing, Features } from '../../backing/backing.js';
import { EIO, EOPNOTSUPP } from '../../base/errno.js';
import type { ChangeMap } from '../../device/change-map.js';
import type { ExtentList } from '../../device/extent-list.js';
import {
  FLAG_DEPTH,
  FLAG_FAST,
  type Io,
  type Operation,
  READ,
  STATUS,
  TRIM,
  ZERO,
} from '../../device/io.js';
import {
  REMAPPED,
  SUBMITTED,
  type Target,
  type TargetContext,
  type TargetType,
} from '../target.js';
import { parseSnapshot, snapshotText } from './arguments.js';
import { snapshotChanges } from './changes.js';
import { Discards } from './discards.js';
import { SnapshotHandle } from './handle.js';
import { OriginDepths } from './origin-depths.js';
import { snapshotPiece } from './piece.js';
import type { Snapshot } from './snapshot.js';
import { snapshotStatus } from './status.js';

export const snapshot: TargetType = {
  name: 'snapshot',
  version: [1, 16, 0],
  async create(args, context) {
    const words = parseSnapshot(args, context, false);
    return new SnapshotTarget(await SnapshotHandle.create(words, context), context);
  },
};

class SnapshotTarget implements Target {
  readonly type = snapshot;
  readonly maxIoSectors: number;
  readonly backings: readonly Backing[];
  readonly features: Features;
  readonly #handle: SnapshotHandle;
  readonly #discards: Discards;
  readonly #depths: OriginDepths;
  /** It begins where its device and the origin do. */
  readonly #begins: boolean;

  constructor(handle: SnapshotHandle, context: TargetContext) {
    const { origin, cow, discardZeroesCow } = handle.words;
    this.#handle = handle;
    this.#discards = new Discards(handle.words, context.ios);
    this.#depths = new OriginDepths(context.ios);
    this.#begins = context.beginSectors === 0;
    this.maxIoSectors = handle.chunkSectors;
    this.backings = [origin, cow];
    this.features = {
      writable: cow.features.writable,
      trim: discardZeroesCow,
      // A chunk may have to be copied first.
      fastZero: false,
      extents: origin.features.extents || cow.features.extents,
      rotational: origin.features.rotational || cow.features.rotational,
      blockBytes: Math.max(origin.features.blockBytes, cow.features.blockBytes),
    };
  }

  map(io: Io): number {
    const { snapshot } = this.#handle;
    if (snapshot === null || !snapshot.valid) return -EIO;
    const { operation } = io;
    const chunk = snapshot.chunkOf(io.offset);
    const newChunk = snapshot.table.find(chunk);
    if (operation === READ || operation === STATUS) {
      if ((io.flags & FLAG_DEPTH) !== 0) return this.#depth(snapshot, io, newChunk >= 0);
      if (newChunk < 0) return this.#mapToOrigin(snapshot, io, chunk);
      snapshot.toCow(io, chunk, newChunk);
      return REMAPPED;
    }
    if (operation === TRIM) return this.#discards.map(snapshot, io, chunk, newChunk);
    if (snapshot.overflowed) return -EIO;
    // All of a request or nothing: others of its chunks may have to be copied first.
    if (operation === ZERO && (io.flags & FLAG_FAST) !== 0) return -EOPNOTSUPP;
    if (newChunk < 0) {
      snapshot.write(io);
      return SUBMITTED;
    }
    snapshot.toCow(io, chunk, newChunk);
    return REMAPPED;
  }

  #depth(snapshot: Snapshot, io: Io, inCow: boolean): number {
    if (inCow) {
      (io.extents as ExtentList).push(io.length, 1);
      io.complete(0);
    } else {
      this.#depths.submit(io, snapshot.originBacking);
    }
    return SUBMITTED;
  }

  #mapToOrigin(snapshot: Snapshot, io: Io, chunk: number): number {
    io.backing = snapshot.originBacking;
    io.backingOffset = io.offset;
    if (io.operation === STATUS) return REMAPPED;
    snapshot.reads.submit(io, chunk, snapshot.chunkOf(io.offset + io.length - 1));
    return SUBMITTED;
  }

  pieceBytes(operation: Operation, offset: number, length: number): number {
    return snapshotPiece(this.#handle, operation, offset, length);
  }

  /** What was written is in the COW. Even an invalid snapshot can be flushed, and so removed. */
  flush(io: Io): number {
    io.backing = this.#handle.words.cow;
    io.backingOffset = 0;
    return REMAPPED;
  }

  /** Offsets are the origin's. */
  changeMaps(): readonly ChangeMap[] {
    const { snapshot } = this.#handle;
    return snapshot !== null && this.#begins ? snapshotChanges(snapshot) : [];
  }

  status(): string {
    return snapshotStatus(this.#handle.snapshot, false);
  }

  table(): string {
    // What waits for a handover has read no chunk size yet.
    return snapshotText(this.#handle.words, this.#handle.snapshot?.chunkSectors ?? 0);
  }

  async resume(): Promise<void> {
    const handle = this.#handle;
    await handle.resume();
    const { snapshot, origin } = handle;
    if (snapshot !== null && !origin.snapshots.includes(snapshot)) await origin.add(snapshot);
  }

  suspend(): void {
    this.#handle.suspend();
  }

  destroy(): Promise<void> {
    return this.#handle.destroy();
  }
}
