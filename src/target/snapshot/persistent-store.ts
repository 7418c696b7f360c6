/**
 * The persistent store (P): exceptions are recorded in the COW in the kernel's format (format.ts),
 * so that a crash loses none that was committed, and either side can go on with the other's COW.
 *
 * Commits go in groups and in order of allocation. One group is under way at a time; whatever has
 * arrived by the end of a turn in which none is makes up the next:
 *
 *   [zero the next area] --> FLUSH --> write a piece, FUA --> [the next piece, ...] --> committed
 *    if this one is filled
 *
 * The flush makes the data durable before the records that name it, and a new area's zeroes before
 * the record that fills the one before it, without which the list would go on into garbage. A group
 * ends with its area.
 *
 * A piece that is torn is harmless: the sectors in front hold what they held, so only new records
 * can be missing, and nobody was told of those. But records may then lie behind a hole, and would
 * come back when it is filled; so opening clears what is behind the end of the list.
 *
 * The last record of an area is only given away if the next area is there: the kernel reads on
 * after a full area, and would refuse the COW; and whatever a device has there when it is made
 * longer one day would be taken for records. (The kernel finds out too late and invalidates the
 * snapshot.) The store is simply full then, one chunk early.
 */

import type { Backing } from '../../backing/backing.js';
import { assert } from '../../base/assert.js';
import { Deferred } from '../../base/deferred.js';
import { ENOMEM, errnoName } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import type { Log } from '../../base/log.js';
import { AwaitedIo } from '../../device/awaited-io.js';
import {
  FLAG_FUA,
  FLAG_NO_HOLE,
  FLUSH,
  type Io,
  type IoOwner,
  type IoPool,
  WRITE,
  ZERO,
} from '../../device/io.js';
import type { Engine } from '../../engine/engine.js';
import { AreaEnd } from './area-end.js';
import { CommitOrder, tellAll } from './commit-order.js';
import { Layout, pieceBytesMax, readFailed } from './format.js';
import type { Committable, ExceptionStore, FoundException, StoreUsage } from './store.js';
import { PersistentMerge } from './store-merge.js';
import { openStore } from './store-open.js';

/** What the I/O under way is for. */
const NOTHING = 0;
const ZEROING = 1;
const FLUSHING = 2;
const WRITING = 3;
const INVALIDATING = 4;

export interface StoreContext {
  readonly engine: Engine;
  readonly ios: IoPool;
  readonly log: Log;
}

export class PersistentStore implements ExceptionStore, IoOwner {
  readonly type = 'P';
  readonly merge: PersistentMerge;
  valid = true;
  readonly #context: StoreContext;
  readonly #originSectors: number;
  readonly #end: AreaEnd;
  readonly #awaited: AwaitedIo;
  readonly #order = new CommitOrder();
  #nextFree = 2;
  /** What the COW held when it was last asked, which it is when this has been used up. */
  #chunks = 0;
  /** Allocated exceptions without a record. */
  #outstanding = 0;
  /** Areas that are zeroes or have records. */
  #begunAreas = 1;
  #merging = false;
  /** Calls of `merge` under way. */
  #mergeCalls = 0;

  #stage = NOTHING;
  /** A group is under way, or the next one will begin when the turn ends. */
  #busy = false;
  #submitting = false;
  #ended = false;
  #error = 0;
  /** Those of the group that have no record yet, and those whose records are being written. */
  #group: Committable | null = null;
  #written: Committable | null = null;
  #groupFillsArea = false;
  /** The header is to say that the store is invalid... */
  #mustSayInvalid = false;
  /** ...and it does, or will soon, or it is not to be written any more. */
  #saysInvalid = false;
  readonly #waiters: Deferred<void>[] = [];

  constructor(context: StoreContext, cow: Backing, chunkSectors: number, originSectors: number) {
    const { engine, ios } = context;
    this.#context = context;
    this.#originSectors = originSectors;
    this.#end = new AreaEnd(engine.arena, cow, new Layout(chunkSectors));
    this.#awaited = new AwaitedIo(engine, ios);
    this.merge = new PersistentMerge(this, this.#end, this.#awaited);
  }

  get chunkSectors(): number {
    return this.#end.layout.chunkSectors;
  }

  async open(found: FoundException): Promise<boolean> {
    const { arena } = this.#context.engine;
    const memory = arena.allocate(pieceBytesMax);
    if (memory < 0) throw new MapperError(ENOMEM, `${readFailed}: no memory left`);
    this.#end.memory = memory;
    try {
      const opened = await openStore({
        arena,
        end: this.#end,
        io: this.#awaited,
        log: this.#context.log,
        originSectors: this.#originSectors,
        found,
      });
      this.valid = opened.valid;
      this.#saysInvalid = !opened.valid;
      this.#nextFree = opened.nextFree;
      this.#begunAreas = opened.begunAreas;
    } catch (error) {
      this.close();
      throw error;
    }
    return this.valid;
  }

  allocate(exception: Committable): number {
    if (!this.valid || this.#merging || !this.#hasRoom()) return -1;
    const chunk = this.#nextFree;
    this.#nextFree = this.#end.layout.dataChunk(chunk + 1);
    this.#outstanding++;
    this.#order.allocated(exception);
    return chunk;
  }

  commit(exception: Committable, ok: boolean): void {
    exception.arrived = true;
    exception.ok = ok;
    if (!this.valid) {
      exception.committed(false);
    } else if (!ok) {
      // The exception is among those that are told.
      this.#dropAll();
    } else if (!this.#busy && this.#order.ready) {
      this.#busy = true;
      this.#context.engine.atTurnEnd(this);
    }
  }

  /** Everything that has arrived in this turn is a group. */
  turnEnd(): void {
    this.#drive();
  }

  invalidate(): void {
    if (this.#saysInvalid || this.#mustSayInvalid) return;
    this.#mustSayInvalid = true;
    if (this.valid) this.#dropAll();
    this.#sayInvalid();
  }

  usage(): StoreUsage {
    return {
      allocatedSectors: this.#nextFree * this.chunkSectors,
      totalSectors: Math.floor(this.#end.cow.size() / 512),
      metadataSectors: (this.#end.area + 2) * this.chunkSectors,
    };
  }

  moveTo(cow: Backing): void {
    this.#end.cow = cow;
    this.#chunks = 0;
  }

  async idle(): Promise<void> {
    while (this.#busy || this.#mergeCalls > 0) {
      const waiter = new Deferred<void>(this.#context.engine);
      this.#waiters.push(waiter);
      await waiter.promise;
    }
  }

  close(): void {
    assert(!this.#busy && this.#mergeCalls === 0, 'a store is closed when it is idle');
    if (this.#end.memory >= 0) this.#context.engine.arena.free(this.#end.memory, pieceBytesMax);
    this.#end.memory = -1;
    this.valid = false;
    this.#saysInvalid = true;
  }

  /** MergedStore. */
  mergeBegins(): void {
    this.#mergeCalls++;
  }

  merged(): void {
    const { layout, area, used } = this.#end;
    this.#merging = true;
    this.#nextFree = layout.areaChunk(area) + used + 1;
  }

  mergeEnds(): void {
    this.#mergeCalls--;
    if (this.#mustSayInvalid) this.#sayInvalid();
    this.#wake();
  }

  /** Whether there is a chunk for one exception more, and a place for its record. */
  #hasRoom(): boolean {
    if (this.#fits()) return true;
    const { cow, layout } = this.#end;
    this.#chunks = layout.chunksIn(cow.size());
    return this.#fits();
  }

  #fits(): boolean {
    const { layout, area, used } = this.#end;
    // The area of the record that comes behind this one.
    const next = area + Math.floor((used + this.#outstanding + 1) / layout.recordsPerArea);
    return this.#nextFree < this.#chunks && layout.areaChunk(next) < this.#chunks;
  }

  /** Does I/O after I/O until one is waited for, or nothing is left to do. */
  #drive(): void {
    for (let io = this.#next(); io !== null; io = this.#next()) {
      this.#ended = false;
      this.#submitting = true;
      this.#end.cow.submit(io);
      this.#submitting = false;
      if (!this.#ended) return;
    }
  }

  finished(io: Io): void {
    this.#error = io.error;
    this.#context.ios.give(io);
    this.#ended = true;
    if (!this.#submitting) this.#drive();
  }

  /** What comes after the I/O that has ended; null: nothing now. */
  #next(): Io | null {
    const stage = this.#stage;
    const error = this.#error;
    this.#stage = NOTHING;
    this.#error = 0;
    if (stage === INVALIDATING) {
      if (error !== 0) this.#logError(error, 'cannot mark the snapshot invalid in the COW');
    } else if (stage !== NOTHING) {
      if (error !== 0) {
        this.#logError(error, 'cannot write snapshot metadata');
        if (this.valid) this.#dropAll();
      }
      if (stage === WRITING) this.#tellWritten();
      if (this.valid) {
        if (stage === ZEROING) return this.#zeroOrFlush();
        if (this.#group !== null) return this.#writePiece();
      }
      const group = this.#group;
      this.#group = null;
      tellAll(group, false);
    }
    if (this.#mustSayInvalid && !this.#saysInvalid) return this.#writeInvalid();
    if (this.valid && this.#order.ready) {
      if (stage === NOTHING) return this.#beginGroup();
      this.#context.engine.atTurnEnd(this);
      return null;
    }
    this.#busy = false;
    this.#wake();
    return null;
  }

  /** Takes all that have arrived and have room in the area. */
  #beginGroup(): Io {
    const { layout } = this.#end;
    let room = layout.recordsPerArea - this.#end.used;
    let last: Committable | null = null;
    while (room > 0) {
      const exception = this.#order.take();
      if (exception === null) break;
      if (last === null) this.#group = exception;
      else last.nextCommit = exception;
      last = exception;
      room--;
    }
    this.#groupFillsArea = room === 0;
    return this.#zeroOrFlush();
  }

  #zeroOrFlush(): Io {
    const { cow, area, layout } = this.#end;
    const needed = this.#groupFillsArea ? area + 2 : area + 1;
    if (this.#begunAreas < needed) {
      const begun = this.#begunAreas++;
      if (begun < layout.areasIn(layout.chunksIn(cow.size()))) {
        this.#stage = ZEROING;
        return this.#zeroArea(begun);
      }
    }
    this.#stage = FLUSHING;
    return this.#context.ios.take(FLUSH, 0, 0, this);
  }

  #zeroArea(area: number): Io {
    const { chunkBytes } = this.#end.layout;
    const { ios, engine } = this.#context;
    const small = chunkBytes <= engine.arena.zeroesBytes;
    const io = ios.take(small ? WRITE : ZERO, 0, chunkBytes, this);
    io.backingOffset = this.#end.layout.areaBytes(area);
    if (small) io.memory = engine.arena.zeroes;
    else io.flags = FLAG_NO_HOLE;
    return io;
  }

  /** Gives records to those of the group for which one piece has room. */
  #writePiece(): Io {
    const end = this.#end;
    let last: Committable | null = null;
    let exception = this.#group;
    for (let room = end.pieceRoom; room > 0 && exception !== null; room--) {
      end.append(exception.oldChunk, exception.newChunk);
      this.#outstanding--;
      last = exception;
      exception = exception.nextCommit;
    }
    if (last !== null) last.nextCommit = null;
    this.#written = this.#group;
    this.#group = exception;
    this.#stage = WRITING;
    const io = this.#context.ios.take(WRITE, 0, end.layout.pieceBytes, this);
    io.memory = end.memory;
    io.backingOffset = end.pieceOffset;
    io.flags = FLAG_FUA;
    return io;
  }

  #tellWritten(): void {
    const end = this.#end;
    if (end.used === end.layout.recordsPerArea) end.nextArea();
    const written = this.#written;
    this.#written = null;
    tellAll(written, this.valid);
  }

  /** Nothing more is written, and all that wait are told so. */
  #dropAll(): void {
    this.valid = false;
    tellAll(this.#order.dissolve(), false);
  }

  /** Writes the header, now or when whoever uses the piece at hand is done with it. */
  #sayInvalid(): void {
    if (this.#busy || this.#mergeCalls > 0) return;
    this.#busy = true;
    this.#drive();
  }

  /** Durable at once: an origin write may follow for which there is no exception. */
  #writeInvalid(): Io {
    this.#saysInvalid = true;
    this.#end.makeHeader(false);
    this.#stage = INVALIDATING;
    const io = this.#context.ios.take(WRITE, 0, this.#end.layout.pieceBytes, this);
    io.memory = this.#end.memory;
    io.backingOffset = 0;
    io.flags = FLAG_FUA;
    return io;
  }

  #logError(errno: number, text: string): void {
    this.#context.log.error({ cow: this.#end.cow.name, error: errnoName(errno) }, text);
  }

  #wake(): void {
    if (this.#waiters.length === 0 || this.#busy || this.#mergeCalls > 0) return;
    for (const waiter of this.#waiters.splice(0)) waiter.resolve();
  }
}
