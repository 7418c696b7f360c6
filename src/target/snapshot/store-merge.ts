/**
 * Takes exceptions out of a persistent store, from the last record to the first: some of them are
 * merged into the origin, and then their records become zeroes. Whatever a crash leaves is the
 * front part of the list, so merging goes on from there.
 */

import { EINVAL, EIO, errnoName } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import type { AwaitedIo } from '../../device/awaited-io.js';
import { FLAG_FUA, READ, WRITE } from '../../device/io.js';
import type { AreaEnd } from './area-end.js';
import type { MergeRun, StoreMerge } from './store.js';

/** The store, as far as merging changes it. */
export interface MergedStore {
  readonly valid: boolean;
  /** The piece at hand is merging's from now on... */
  mergeBegins(): void;
  /** Records have gone: no more are added, and the chunk after the last counts as the next. */
  merged(): void;
  /** ...until now. */
  mergeEnds(): void;
}

export class PersistentMerge implements StoreMerge {
  readonly #store: MergedStore;
  readonly #end: AreaEnd;
  readonly #io: AwaitedIo;

  constructor(store: MergedStore, end: AreaEnd, io: AwaitedIo) {
    this.#store = store;
    this.#end = end;
    this.#io = io;
  }

  async lastRuns(chunksMax: number): Promise<MergeRun[]> {
    const end = this.#end;
    this.#checkValid();
    this.#store.mergeBegins();
    try {
      if (end.used === 0) {
        if (end.area === 0) return [];
        end.area--;
        end.used = end.layout.recordsPerArea;
        end.piece = -1;
      }
      const runs: MergeRun[] = [];
      const first = Math.max(0, end.used - chunksMax);
      for (let record = end.used; record > first; ) {
        const run = await this.#runBefore(record, first);
        runs.push(run);
        record -= run.count;
      }
      return runs;
    } finally {
      this.#store.mergeEnds();
    }
  }

  /** The run that ends in front of a record of the area and does not go beyond `first`. */
  async #runBefore(behind: number, first: number): Promise<MergeRun> {
    const end = this.#end;
    let record = behind - 1;
    await this.#load(end.pieceOf(record));
    let oldChunk = end.oldChunk(record);
    let newChunk = end.newChunk(record);
    // Backwards as long as both go down by one.
    while (record > first) {
      if (end.pieceOf(record - 1) !== end.piece) await this.#load(end.pieceOf(record - 1));
      if (end.oldChunk(record - 1) !== oldChunk - 1) break;
      if (end.newChunk(record - 1) !== newChunk - 1) break;
      record--;
      oldChunk--;
      newChunk--;
    }
    return { oldChunk, newChunk, count: behind - record };
  }

  async forget(count: number): Promise<void> {
    const end = this.#end;
    this.#checkValid();
    if (!(count > 0 && count <= end.used)) {
      const wanted = `at most ${end.used}`;
      throw new MapperError(EINVAL, `forget exceptions: found ${count}, wanted ${wanted}`);
    }
    const left = end.used - count;
    this.#store.mergeBegins();
    try {
      const errno = await this.#io.flush(end.cow);
      if (errno !== 0) throw failed(errno, 'flush the COW');
      // The last piece goes first, so that no record is ever behind one that was cleared.
      while (end.used > left) {
        await this.#load(end.pieceOf(end.used - 1));
        const first = Math.max(left, end.piece * end.layout.recordsPerPiece);
        end.clearFrom(first);
        await this.#writePiece();
        end.used = first;
      }
    } finally {
      this.#store.merged();
      this.#store.mergeEnds();
    }
  }

  #checkValid(): void {
    if (!this.#store.valid) throw new MapperError(EIO, 'merge: the snapshot is invalid');
  }

  /** Has a piece of the area at hand. */
  async #load(piece: number): Promise<void> {
    const end = this.#end;
    if (end.piece === piece) return;
    end.piece = piece;
    const { pieceBytes } = end.layout;
    const errno = await this.#io.run(end.cow, READ, end.pieceOffset, pieceBytes, end.memory);
    if (errno === 0) return;
    end.piece = -1;
    throw failed(errno, `read area ${end.area}`);
  }

  async #writePiece(): Promise<void> {
    const end = this.#end;
    const { pieceBytes } = end.layout;
    const { pieceOffset, memory } = end;
    const errno = await this.#io.run(end.cow, WRITE, pieceOffset, pieceBytes, memory, FLAG_FUA);
    if (errno === 0) return;
    // What is on the disk now has to be read.
    end.piece = -1;
    throw failed(errno, `write area ${end.area}`);
  }
}

function failed(errno: number, what: string): MapperError {
  return new MapperError(errno, `cannot ${what} of the snapshot's metadata: ${errnoName(errno)}`);
}
