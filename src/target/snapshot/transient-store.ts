/**
 * The transient store (N): chunks of the COW are handed out one after the other from 0 on, and an
 * exception is committed when its data has arrived. Nothing is written and nobody waits for
 * another, so copies run in parallel and end in any order. After a restart the data is meaningless.
 *
 * `inOrder` is for the benchmark alone: commits end in order of allocation, as those of the
 * kernel's store do, which shows what that costs.
 */

import type { Backing } from '../../backing/backing.js';
import { CommitOrder, tellAll } from './commit-order.js';
import { newChunksMax } from './exception-table.js';
import type { Committable, ExceptionStore, StoreUsage } from './store.js';

export class TransientStore implements ExceptionStore {
  readonly type = 'N';
  readonly merge = null;
  readonly chunkSectors: number;
  valid = true;
  /** Null: exceptions do not wait for each other. */
  readonly #order: CommitOrder | null;
  #cow: Backing;
  #nextFree = 0;
  /** What the COW held when it was last asked, which it is when this has been used up. */
  #chunks = 0;
  #sequence = 0;
  /** Commits are being told, and those that come meanwhile will be. */
  #telling = false;

  constructor(cow: Backing, chunkSectors: number, inOrder = false) {
    this.#cow = cow;
    this.chunkSectors = chunkSectors;
    this.#order = inOrder ? new CommitOrder() : null;
  }

  open(): Promise<boolean> {
    return Promise.resolve(this.valid);
  }

  allocate(exception: Committable): number {
    if (!this.valid) return -1;
    if (this.#nextFree >= this.#chunks) {
      const chunks = Math.floor(this.#cow.size() / (this.chunkSectors * 512));
      this.#chunks = Math.min(chunks, newChunksMax);
      if (this.#nextFree >= this.#chunks) return -1;
    }
    if (this.#order !== null) {
      this.#order.allocated(exception);
    } else {
      exception.sequence = this.#sequence++;
      exception.arrived = false;
      exception.ok = false;
      exception.nextCommit = null;
    }
    return this.#nextFree++;
  }

  commit(exception: Committable, ok: boolean): void {
    exception.arrived = true;
    exception.ok = ok;
    if (this.#order === null || !this.valid) {
      if (!ok) this.valid = false;
      exception.committed(this.valid);
      return;
    }
    if (!ok) {
      // The exception is among those that are told.
      this.invalidate();
      return;
    }
    if (this.#telling) return;
    this.#telling = true;
    for (let next = this.#order.take(); next !== null; next = this.#order.take()) {
      next.committed(true);
    }
    this.#telling = false;
  }

  invalidate(): void {
    if (!this.valid) return;
    this.valid = false;
    if (this.#order !== null) tellAll(this.#order.dissolve(), false);
  }

  usage(): StoreUsage {
    return {
      allocatedSectors: this.#nextFree * this.chunkSectors,
      totalSectors: Math.floor(this.#cow.size() / 512),
      metadataSectors: 0,
    };
  }

  moveTo(cow: Backing): void {
    this.#cow = cow;
    this.#chunks = 0;
  }

  idle(): Promise<void> {
    return Promise.resolve();
  }

  close(): void {}
}
