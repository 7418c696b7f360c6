/**
 * A snapshot: the exception table, the store, and what is on its way into them. It outlives the
 * target that made it, if a table loaded later takes it over.
 *
 *   complete exception   in the table: the chunk is the COW's
 *   pending exception    allocated; its data or its commit is under way
 *   neither              the chunk is the origin's, and must be copied before either side writes
 *
 * Everything here is called back; nothing on the way of an Io allocates or awaits.
 */

import type { Backing } from '../../backing/backing.js';
import { Deferred } from '../../base/deferred.js';
import { EIO } from '../../base/errno.js';
import { fillPercents, snapshotCopies } from '../../base/limits.js';
import type { Io, IoPool } from '../../device/io.js';
import type { TargetContext } from '../target.js';
import type { SnapshotWords } from './arguments.js';
import type { ExceptionTable } from './exception-table.js';
import { IoQueue } from './io-queue.js';
import type { Origin, OriginWait } from './origin.js';
import { PendingException } from './pending.js';
import type { ExceptionStore } from './store.js';
import { TrackedIos } from './tracked-ios.js';

/** Why a snapshot became invalid, in the kernel's words. */
const ioFailed = 'Error reading/writing.';
const noRoom = 'Unable to allocate exception.';

export interface SnapshotParts {
  readonly context: TargetContext;
  readonly origin: Origin;
  readonly table: ExceptionTable;
  readonly store: ExceptionStore;
  readonly words: SnapshotWords;
  /** Copies go one at a time, as they did in the kernel: for comparing alone. */
  readonly serial: boolean;
}

/** Writes to an origin that wait for something to come about. */
class OriginQueue implements OriginWait {
  readonly ios = new IoQueue();

  waitForOrigin(io: Io): void {
    this.ios.push(io);
  }
}

export class Snapshot implements OriginWait {
  readonly ios: IoPool;
  readonly origin: Origin;
  readonly table: ExceptionTable;
  readonly store: ExceptionStore;
  readonly chunkSectors: number;
  readonly chunkBytes: number;
  /** Reads that went to the origin. */
  readonly reads: TrackedIos;
  originBacking: Backing;
  cow: Backing;
  valid = true;
  /** The COW ran full under a write to the snapshot: it takes no more of those. */
  overflowed = false;
  #knowsOverflow = false;
  /** TRIM of the snapshot goes to the origin as well. */
  passesDown = false;
  /** The origin may have changed without an exception. */
  recordLost = false;
  /** How far into the origin all that changed since the snapshot was taken has an exception. */
  recordedBytes = Number.POSITIVE_INFINITY;

  #context: TargetContext;
  #originBytes = 0;
  /** Bytes of the origin that the snapshot covers. */
  #coveredBytes = 0;
  readonly #pending = new Map<number, PendingException>();
  readonly #free: PendingException[] = [];
  #inUse = 0;
  #idle: Deferred<void> | null = null;
  /** Writes that found too many copies under way. */
  readonly #throttledOrigin = new IoQueue();
  readonly #throttledSnapshot = new IoQueue();
  readonly #serial: boolean;
  /** With `serial`: the copies that wait for the one under way. */
  readonly #queued: PendingException[] = [];
  #copying = 0;
  /** It is invalid, and the store is about to say so. */
  #invalidating = false;
  readonly #untilInvalid = new OriginQueue();
  /** Allocations left until the fill is looked at, and how many thresholds it had passed. */
  #untilFillCheck = 0;
  #passedFills = 0;

  constructor(parts: SnapshotParts) {
    this.#context = parts.context;
    this.ios = parts.context.ios;
    this.origin = parts.origin;
    this.originBacking = parts.words.origin;
    this.cow = parts.words.cow;
    this.table = parts.table;
    this.store = parts.store;
    this.chunkSectors = parts.store.chunkSectors;
    this.chunkBytes = this.chunkSectors * 512;
    this.reads = new TrackedIos(this.ios);
    this.#serial = parts.serial;
    this.#follow(parts.words);
  }

  /** A new table has taken the snapshot over; nothing is under way. */
  moveTo(context: TargetContext, words: SnapshotWords): void {
    this.#context = context;
    this.originBacking = words.origin;
    this.cow = words.cow;
    this.store.moveTo(words.cow);
    this.#follow(words);
    this.origin.noteTrims();
  }

  #follow({ knowsOverflow, discardPassdownOrigin }: SnapshotWords): void {
    const { beginSectors, lengthSectors } = this.#context;
    this.#knowsOverflow = knowsOverflow;
    this.passesDown = discardPassdownOrigin;
    this.#originBytes = this.originBacking.size();
    this.#coveredBytes = (beginSectors + lengthSectors) * 512;
    this.recordedBytes = Math.min(this.recordedBytes, this.#coveredBytes);
    this.#untilFillCheck = 0;
    this.#passedFills = 0;
  }

  /** What the device that shows it is called now. */
  get name(): string {
    return this.#context.host.name;
  }

  /** What has no exception, complete or pending, is as it was when the snapshot was taken. */
  get keepsRecord(): boolean {
    if (!this.valid || this.overflowed || this.recordLost) return false;
    return this.origin.snapshots.includes(this);
  }

  /** The chunks from the first to the last that have pending exceptions, in order. */
  pendingChunks(first: number, last: number): number[] {
    if (this.#pending.size === 0) return [];
    const chunks = [...this.#pending.keys()].filter((chunk) => chunk >= first && chunk <= last);
    return chunks.sort((a, b) => a - b);
  }

  chunkOf(offset: number): number {
    return Math.floor(offset / this.chunkBytes);
  }

  /** Points an Io, whose first chunk has that exception, at the COW. */
  toCow(io: Io, chunk: number, newChunk: number): void {
    io.backing = this.cow;
    io.backingOffset = io.offset + (newChunk - chunk) * this.chunkBytes;
  }

  /**
   * Before a write to [from, to) of the origin: begins the copies that are missing. What to wait
   * for, or null: everything there has been copied.
   */
  copyOut(from: number, to: number): OriginWait | null {
    if (!this.valid) return this.#invalidating ? this.#untilInvalid : null;
    if (from >= this.#coveredBytes) return null;
    const last = this.chunkOf(Math.min(to, this.#coveredBytes) - 1);
    let wait: PendingException | null = null;
    for (let chunk = this.chunkOf(from); chunk <= last; chunk++) {
      // A complete exception with reads left at the origin is still pending: ask for that first.
      let pending = this.#pending.size === 0 ? undefined : this.#pending.get(chunk);
      if (pending === undefined) {
        if (this.table.find(chunk) >= 0) continue;
        if (this.#inUse >= snapshotCopies) return wait ?? this;
        pending = this.#begin(chunk) ?? undefined;
        if (pending === undefined) {
          // No snapshot can hold up its origin: this one is no more.
          this.invalidate(noRoom);
          return this.#invalidating ? this.#untilInvalid : null;
        }
        this.#copy(pending);
        // It has failed at once, and with it whatever there was to wait for.
        if (!this.valid) return this.#invalidating ? this.#untilInvalid : null;
        pending = this.#pending.get(chunk);
      }
      wait ??= pending ?? null;
    }
    return wait;
  }

  /** OriginWait: too many copies are under way. */
  waitForOrigin(io: Io): void {
    this.#throttledOrigin.push(io);
  }

  /**
   * A write (or ZERO) to a chunk of the snapshot that has no complete exception. The Io is taken,
   * and ends here or in the COW.
   */
  write(io: Io): void {
    const chunk = this.chunkOf(io.offset);
    const known = this.#pending.get(chunk);
    if (known !== undefined) {
      known.snapshotWrites.push(io);
      return;
    }
    if (this.#inUse >= snapshotCopies) {
      this.#throttledSnapshot.push(io);
      return;
    }
    const pending = this.#begin(chunk);
    if (pending === null) {
      this.#full();
      io.complete(EIO);
    } else if (io.length === this.chunkBytes) {
      pending.wholeWrite = io;
      this.#writeWhole(pending, io);
    } else {
      pending.snapshotWrites.push(io);
      this.#copy(pending);
    }
  }

  /** The exception that a chunk is going to have, or null: the COW is full. */
  #begin(chunk: number): PendingException | null {
    const pending = this.#free.pop() ?? new PendingException(this);
    pending.oldChunk = chunk;
    pending.newChunk = this.store.allocate(pending);
    if (pending.newChunk < 0) {
      this.#free.push(pending);
      return null;
    }
    this.#inUse++;
    this.#pending.set(chunk, pending);
    if (--this.#untilFillCheck < 0) this.#checkFill();
    return pending;
  }

  #copy(pending: PendingException): void {
    if (this.#serial && this.#copying > 0) {
      this.#queued.push(pending);
      return;
    }
    this.#copying++;
    const offset = pending.oldChunk * this.chunkBytes;
    const { copies } = this.#context;
    const job = copies.take();
    job.source = this.originBacking;
    job.sourceOffset = offset;
    job.length = Math.min(this.chunkBytes, this.#originBytes - offset);
    job.addDestination(this.cow, pending.newChunk * this.chunkBytes);
    job.owner = pending;
    copies.start(job);
  }

  #writeWhole(pending: PendingException, io: Io): void {
    this.#copying++;
    const child = this.ios.take(io.operation, io.offset, io.length, pending);
    child.flags = io.flags;
    child.memory = io.memory;
    child.backingOffset = pending.newChunk * this.chunkBytes;
    this.cow.submit(child);
  }

  /** The chunk's data is in the COW, or could not be brought there. */
  dataArrived(pending: PendingException, ok: boolean): void {
    this.#copying--;
    this.store.commit(pending, ok && this.valid);
    const next = this.#serial ? this.#queued.shift() : undefined;
    if (next !== undefined) this.#copy(next);
  }

  /** The store's answer: the exception lasts, or it never will. */
  committed(pending: PendingException, ok: boolean): void {
    const errno = ok && this.valid ? 0 : EIO;
    if (errno !== 0) this.invalidate(ioFailed);
    else this.table.insert(pending.oldChunk, pending.newChunk);
    pending.wholeWrite?.complete(errno);
    pending.wholeWrite = null;
    for (let io = pending.snapshotWrites.shift(); io !== null; ) {
      if (errno !== 0) {
        io.complete(errno);
      } else {
        this.toCow(io, pending.oldChunk, pending.newChunk);
        this.cow.submit(io);
      }
      io = pending.snapshotWrites.shift();
    }
    // Failed or not, the origin's writes may not overtake reads of what they replace.
    pending.readers = this.reads.await(pending.oldChunk, pending.oldChunk, pending);
    if (pending.readers === 0) this.drained(pending);
  }

  /** Nothing reads the chunk at the origin any more. */
  drained(pending: PendingException): void {
    this.#pending.delete(pending.oldChunk);
    for (let io = pending.originWrites.shift(); io !== null; io = pending.originWrites.shift()) {
      this.origin.write(io);
    }
    this.#free.push(pending);
    this.#inUse--;
    this.#admit();
    if (this.#inUse === 0 && this.#idle !== null) {
      this.#idle.resolve();
      this.#idle = null;
    }
  }

  /** Writes that were held back, as far as there is room for their copies now. */
  #admit(): void {
    while (this.#inUse < snapshotCopies) {
      const origin = this.#throttledOrigin.shift();
      if (origin !== null) this.origin.write(origin);
      const io = this.#throttledSnapshot.shift();
      if (io !== null) this.#admitWrite(io);
      if (origin === null && io === null) return;
    }
  }

  #admitWrite(io: Io): void {
    if (!this.valid || this.overflowed) {
      io.complete(EIO);
      return;
    }
    const chunk = this.chunkOf(io.offset);
    const newChunk = this.table.find(chunk);
    if (newChunk < 0) {
      this.write(io);
    } else {
      this.toCow(io, chunk, newChunk);
      this.cow.submit(io);
    }
  }

  /** A write to the snapshot found no room. */
  #full(): void {
    if (!this.#knowsOverflow) {
      this.invalidate(noRoom);
    } else if (!this.overflowed) {
      this.overflowed = true;
      this.#context.log.error({ device: this.name }, `Snapshot overflowed: ${noRoom}`);
      this.#context.host.event({ what: 'overflow' });
    }
  }

  /** What the snapshot holds is no longer what the origin held: it is of no use from now on. */
  invalidate(reason: string): void {
    if (!this.valid) return;
    this.valid = false;
    this.reads.broken = true;
    this.#context.log.error({ device: this.name }, `Invalidating snapshot: ${reason}`);
    // Before the store drops what it has, by which writes to the origin come back here.
    this.#invalidating = this.store.type === 'P';
    this.store.invalidate();
    this.#context.host.event({ what: 'invalid' });
    if (this.#invalidating) void this.#waitUntilInvalid();
  }

  /**
   * A write that reached the origin before the store says for good that the snapshot is invalid
   * would show in a snapshot that looks valid after a crash. (In the kernel it does.)
   */
  async #waitUntilInvalid(): Promise<void> {
    await this.store.idle();
    this.#invalidating = false;
    const { ios } = this.#untilInvalid;
    for (let io = ios.shift(); io !== null; io = ios.shift()) this.origin.write(io);
  }

  /** Tells of the thresholds that have been passed; looks again when the next one may be. */
  #checkFill(): void {
    const { allocatedSectors, totalSectors } = this.store.usage();
    const missing = (percent: number): number => (percent * totalSectors) / 100 - allocatedSectors;
    const next = fillPercents.findIndex((percent) => missing(percent) > 0);
    const passed = next < 0 ? fillPercents.length : next;
    // A COW that has grown may be back before one that was told of.
    const told = this.#passedFills;
    this.#passedFills = passed;
    const chunksLeft = next < 0 ? 0 : missing(fillPercents[next] as number) / this.chunkSectors;
    // Past the last one there is no next chunk, unless it has grown.
    this.#untilFillCheck = Math.max(0, Math.ceil(chunksLeft) - 1);
    if (passed <= told) return;
    this.#context.host.event({ what: 'fill', percent: fillPercents[passed - 1] as number });
  }

  /** Resolves when no exception is on its way. */
  async idle(): Promise<void> {
    if (this.#inUse > 0) {
      this.#idle ??= new Deferred(this.#context.engine);
      await this.#idle.promise;
    }
    await this.store.idle();
  }
}
