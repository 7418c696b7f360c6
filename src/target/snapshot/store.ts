/**
 * An exception store: where in the COW the next chunk goes, and how that comes to be known for
 * good. Two implementations, the kernel's P and N:
 *
 *   persistent-store.ts   the exceptions are in the COW; a crash loses none that was committed
 *   transient-store.ts    they are in memory only; nothing is ever written but data
 *
 * A chunk's life: `allocate` gives its place in the COW, somebody copies or writes the data there,
 * `commit` makes the exception last, `committed` is called when it does.
 */

import type { Backing } from '../../backing/backing.js';

/** An exception on its way into the store. */
export interface Committable {
  /** Chunk of the origin. */
  readonly oldChunk: number;
  /** Chunk of the COW. */
  readonly newChunk: number;
  /** The store's answer: the exception is durable as far as the store goes, or it never will be. */
  committed(ok: boolean): void;
  /** For the store, while it has it: allocation number, whether its data arrived, list link. */
  sequence: number;
  arrived: boolean;
  ok: boolean;
  nextCommit: Committable | null;
}

/** What `status` prints; sectors. */
export interface StoreUsage {
  readonly allocatedSectors: number;
  readonly totalSectors: number;
  readonly metadataSectors: number;
}

/** Told of exceptions that the store holds already: `count` chunks in a row, old and new. */
export type FoundException = (oldChunk: number, newChunk: number, count: number) => void;

export interface ExceptionStore {
  /** As the table line has it: P or N. */
  readonly type: 'P' | 'N';
  /** Known once the store is open; what is on disk wins over what was asked for. */
  readonly chunkSectors: number;
  /** False: no more is ever written, and every commit fails. */
  readonly valid: boolean;

  /**
   * Reads what is there, or makes a new store. Resolves to false when the store says that it is
   * invalid. Throws MapperError with the kernel's text.
   */
  open(found: FoundException): Promise<boolean>;

  /** The COW's next free chunk, or -1: it is full. The exception gets its allocation number. */
  allocate(exception: Committable): number;

  /**
   * The data for an allocated exception has arrived in the COW (`ok`), or never will. `committed`
   * is called when the exception is durable, perhaps before this returns.
   */
  commit(exception: Committable, ok: boolean): void;

  /** The snapshot is invalid for good, and must still be after a restart. */
  invalidate(): void;

  usage(): StoreUsage;

  /** After a reload with another COW (a longer one, say): I/O goes there from now on. */
  moveTo(cow: Backing): void;

  /** Resolves when no write of the store's own is under way. */
  idle(): Promise<void>;

  /** Gives back the memory it holds; it is idle. */
  close(): void;

  /** Null: the store cannot be merged. */
  readonly merge: StoreMerge | null;
}

/** Exceptions that follow one another, old chunks and new chunks both. */
export interface MergeRun {
  readonly oldChunk: number;
  readonly newChunk: number;
  readonly count: number;
}

/** Taking exceptions out of a store again, from the last to the first. */
export interface StoreMerge {
  /**
   * The runs at the end of what is left, the last one first, until they have so many chunks (the
   * first of the last may be left out); none: nothing is left. Throws MapperError.
   */
  lastRuns(chunksMax: number): Promise<MergeRun[]>;
  /** So many exceptions at the end are merged and durable: forgets them. Throws MapperError. */
  forget(count: number): Promise<void>;
}
