/**
 * Snapshot-merge: an origin that takes back what a snapshot of it holds, in the background, and is
 * all the while what it will be in the end. See README.md.
 */

import type { Backing, Features } from '../../backing/backing.js';
import { commonFeatures } from '../../backing/backing.js';
import { EINVAL, EIO, EOPNOTSUPP } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
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
import { parseSnapshot, snapshotText } from '../snapshot/arguments.js';
import { SnapshotHandle } from '../snapshot/handle.js';
import type { OriginFrontend } from '../snapshot/origin.js';
import { snapshotPiece } from '../snapshot/piece.js';
import type { Snapshot } from '../snapshot/snapshot.js';
import { snapshotStatus } from '../snapshot/status.js';
import { REMAPPED, SUBMITTED, type Target, type TargetType } from '../target.js';
import { Merge } from './merge.js';

export const snapshotMerge: TargetType = {
  name: 'snapshot-merge',
  version: [1, 5, 0],
  async create(args, context) {
    const words = parseSnapshot(args, context, true);
    if (words.type === 'N') {
      const text = 'Snapshot exception store does not support snapshot-merge.';
      throw new MapperError(EINVAL, `${text} (found type N, wanted P)`);
    }
    const handle = await SnapshotHandle.create(words, context);
    if (handle.origin.merging) {
      await handle.destroy();
      throw alreadyMerging();
    }
    return new MergeTarget(handle);
  },
};

function alreadyMerging(): MapperError {
  return new MapperError(EINVAL, 'A snapshot is already merging.');
}

class MergeTarget implements Target, OriginFrontend {
  readonly type = snapshotMerge;
  readonly maxIoSectors: number;
  readonly backings: readonly Backing[];
  readonly features: Features;
  readonly #handle: SnapshotHandle;
  #merge: Merge | null = null;

  constructor(handle: SnapshotHandle) {
    const { origin, cow } = handle.words;
    this.#handle = handle;
    this.maxIoSectors = handle.chunkSectors;
    this.backings = [origin, cow];
    this.features = { ...commonFeatures(this.backings), trim: false, fastZero: false };
  }

  map(io: Io): number {
    const { snapshot, origin, words } = this.#handle;
    if (snapshot === null) return -EIO;
    const { operation } = io;
    if (operation === TRIM) {
      io.complete(0);
      return SUBMITTED;
    }
    // All of a request or nothing: others of its chunks may be elsewhere.
    if (operation === ZERO && (io.flags & FLAG_FAST) !== 0) return -EOPNOTSUPP;
    const chunk = snapshot.chunkOf(io.offset);
    const newChunk = snapshot.valid ? snapshot.table.find(chunk) : -1;
    const reads = operation === READ || operation === STATUS;
    if (newChunk >= 0) {
      if (reads) {
        if ((io.flags & FLAG_DEPTH) !== 0) {
          (io.extents as ExtentList).push(io.length, 1);
          io.complete(0);
          return SUBMITTED;
        }
        snapshot.toCow(io, chunk, newChunk);
        return REMAPPED;
      }
      return this.#writeToCow(snapshot, io, chunk, newChunk);
    }
    io.backing = words.origin;
    io.backingOffset = io.offset;
    if (reads) return REMAPPED;
    const wait = origin.prepare(io);
    if (wait === null) return REMAPPED;
    wait.waitForOrigin(io);
    return SUBMITTED;
  }

  #writeToCow(snapshot: Snapshot, io: Io, chunk: number, newChunk: number): number {
    const merge = this.#merge as Merge;
    if (merge.covers(chunk)) {
      // It goes to the origin when the chunks are there.
      io.backing = this.#handle.words.origin;
      io.backingOffset = io.offset;
      merge.waiting.push(io);
    } else {
      snapshot.toCow(io, chunk, newChunk);
      merge.writes.submit(io, chunk, chunk);
    }
    return SUBMITTED;
  }

  /** Writes go chunk by chunk: one may be the origin's already while the next is the COW's. */
  pieceBytes(operation: Operation, offset: number, length: number): number {
    const single = operation !== READ && operation !== STATUS;
    return snapshotPiece(this.#handle, single ? TRIM : operation, offset, length);
  }

  status(): string {
    return snapshotStatus(this.#handle.snapshot, this.#merge?.failed ?? false);
  }

  table(): string {
    return snapshotText(this.#handle.words, this.#handle.snapshot?.chunkSectors ?? 0);
  }

  async resume(): Promise<void> {
    const { origin } = this.#handle;
    // Another one may have come since this was loaded.
    if (origin.merging && !origin.frontends.has(this)) throw alreadyMerging();
    await this.#handle.resume();
    const { snapshot } = this.#handle;
    if (snapshot === null) return;
    // From now on it is no snapshot of a moment any more.
    origin.remove(snapshot);
    origin.merging = true;
    origin.frontends.add(this);
    this.#merge ??= new Merge(snapshot, this.#handle.context);
    this.#merge.start();
  }

  suspending(): void {
    this.#merge?.stop();
  }

  async stopWork(): Promise<void> {
    this.#merge?.stop();
    await this.#merge?.stopped();
  }

  async suspend(): Promise<void> {
    await this.#merge?.stopped();
    this.#handle.suspend();
  }

  async hold(): Promise<void> {
    this.#merge?.pause();
    await this.#handle.context.host.hold();
    await this.#merge?.paused();
  }

  letGo(): void {
    this.#merge?.goOn();
    this.#handle.context.host.letGo();
  }

  async destroy(): Promise<void> {
    const { origin } = this.#handle;
    if (origin.frontends.delete(this)) origin.merging = false;
    this.#merge?.stop();
    await this.#merge?.stopped();
    await this.#handle.destroy();
  }
}
