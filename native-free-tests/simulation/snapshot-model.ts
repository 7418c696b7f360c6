/**
 * What is known of one snapshot of the volume: what it shows, and which of its chunks must have, or
 * may have, an exception, so that its status can be held against that.
 */

import { Buffer } from 'node:buffer';
import { readCow } from '../snapshot/cow-image.js';
import { capacityOf, statusOf } from '../snapshot/oracle.js';
import type { Write } from './cells.js';
import type { ClientDevice } from './device.js';
import { SimFailure } from './failure.js';

export interface SnapshotFacts {
  readonly name: string;
  readonly transient: boolean;
  readonly chunkSectors: number;
  readonly cowPath: string;
  readonly cowSectors: number;
}

/** Whether a COW may have had no room for what those writes have overwritten. */
export function mayRunFull(facts: SnapshotFacts, writes: readonly Write[]): boolean {
  const chunks = new Set<number>();
  for (const write of writes) eachChunk(write, facts.chunkSectors, chunks);
  return chunks.size > capacityIn(facts);
}

function capacityIn({ transient, cowSectors, chunkSectors }: SnapshotFacts): number {
  return capacityOf(transient ? 'N' : 'P', cowSectors, chunkSectors);
}

function eachChunk({ first, sectors }: Write, chunkSectors: number, chunks: Set<number>): void {
  const last = Math.floor((first + sectors - 1) / chunkSectors);
  for (let chunk = Math.floor(first / chunkSectors); chunk <= last; chunk++) chunks.add(chunk);
}

export class SnapshotModel {
  readonly facts: SnapshotFacts;
  readonly device: ClientDevice;
  /** Chunks that have an exception for certain, and all that may have one. */
  readonly sure = new Set<number>();
  readonly maybe = new Set<number>();
  /** A disk beneath it has failed. */
  failed = false;
  /** It is invalid for good. */
  invalid = false;
  /** The moment that it shows is at this time or before. */
  readonly takenBy: number;
  readonly #capacity: number;

  constructor(facts: SnapshotFacts, device: ClientDevice, takenBy: number) {
    this.facts = facts;
    this.device = device;
    this.takenBy = takenBy;
    this.#capacity = capacityIn(facts);
  }

  get name(): string {
    return this.facts.name;
  }

  /** A write to the origin or to the snapshot has begun. */
  touches(write: Write): void {
    eachChunk(write, this.facts.chunkSectors, this.maybe);
  }

  /** It has ended well, and began when the snapshot was there. */
  touched(write: Write): void {
    if (!write.sure || write.start <= this.takenBy) return;
    eachChunk(write, this.facts.chunkSectors, this.sure);
  }

  /** What another snapshot has is going to be merged into the origin. */
  losesTo(other: SnapshotModel): void {
    const { chunkSectors } = other.facts;
    for (const chunk of other.maybe) {
      const end = (chunk + 1) * chunkSectors;
      for (let sector = chunk * chunkSectors; sector < end; sector += this.facts.chunkSectors) {
        this.maybe.add(Math.floor(sector / this.facts.chunkSectors));
      }
      this.maybe.add(Math.floor((end - 1) / this.facts.chunkSectors));
    }
  }

  /** Its COW has room for every chunk. */
  get isComplete(): boolean {
    return this.#capacity * this.facts.chunkSectors >= this.device.sectors;
  }

  /** It may have become invalid. */
  get mayBeInvalid(): boolean {
    return this.invalid || this.failed || this.maybe.size > this.#capacity;
  }

  /**
   * Holds a status line against what is known, and learns from it. No request is under way; `quiet`:
   * nothing else is either (a merge makes others copy).
   */
  checkStatus(words: string, quiet: boolean): void {
    if (words === 'Invalid') {
      if (!this.mayBeInvalid) this.#fail(`is Invalid, and nothing has happened to it`);
      this.invalid = true;
      return;
    }
    if (this.invalid) this.#fail(`is "${words}", and was Invalid before`);
    // Only those that can tell it from Invalid do.
    if (words === 'Overflow' && this.maybe.size > this.#capacity) return;
    if (this.failed || !quiet) return;
    if (this.sure.size > this.#capacity) this.#fail(`is "${words}" with ${this.sure.size} chunks`);
    const { transient, cowSectors, chunkSectors } = this.facts;
    const type = transient ? 'N' : 'P';
    const most = Math.min(this.#capacity, new Set([...this.sure, ...this.maybe]).size);
    for (let count = this.sure.size; count <= most; count++) {
      if (statusOf(type, cowSectors, chunkSectors, count) === words) return;
    }
    const least = statusOf(type, cowSectors, chunkSectors, this.sure.size);
    const last = statusOf(type, cowSectors, chunkSectors, most);
    this.#fail(`is "${words}", wanted from "${least}" to "${last}"`);
  }

  /** Reads the COW as somebody who knows nothing else would, under a status line that was true. */
  checkCow(words: string, contents: Uint8Array): void {
    const { transient, cowSectors, chunkSectors } = this.facts;
    if (transient || this.invalid || this.failed || words === 'Overflow') return;
    const { exceptions, valid } = readCow(Buffer.from(contents));
    if (!valid) this.#fail('is invalid on its disk');
    for (const chunk of this.sure) {
      if (!exceptions.has(chunk)) this.#fail(`has no exception for chunk ${chunk} on its disk`);
    }
    for (const chunk of exceptions.keys()) {
      if (!this.maybe.has(chunk)) this.#fail(`has an exception for chunk ${chunk}, and no reason`);
    }
    const wanted = statusOf('P', cowSectors, chunkSectors, exceptions.size);
    if (words === wanted) return;
    this.#fail(`is "${words}" with ${exceptions.size} exceptions, wanted "${wanted}"`);
  }

  #fail(text: string): never {
    throw new SimFailure('status', `${this.name} ${text}`);
  }
}
