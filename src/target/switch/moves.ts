/**
 * Regions on their way from one path to another, while I/O goes on. See README.md for what holds at
 * any moment. A move is carried out in batches, several at a time:
 *
 *   found --> copied --> the table has the new path --> stored --> forgotten
 *               |             writes go to both sides
 *               +--> abandoned: somebody wants to change the entries, or suspend
 *
 * The control thread stores the table. It is told by an event with a generation, takes the table as
 * it is then, and confirms with that generation.
 */

import { Deferred } from '../../base/deferred.js';
import { EBUSY, EINVAL, EOPNOTSUPP, EROFS } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { moveUnsavedBatches, regionsPerTurn } from '../../base/limits.js';
import { FLAG_FAST, type Io, READ, STATUS, ZERO } from '../../device/io.js';
import { IoQueue } from '../snapshot/io-queue.js';
import { REMAPPED, SUBMITTED, type TargetContext } from '../target.js';
import type { SwitchPath } from './arguments.js';
import { Move, type MoveHost, type MoveSubject } from './move.js';
import { CLOSED, COPYING, MIRRORED, MoveBatch } from './move-batch.js';
import { type MoveWords, parseMove } from './move-words.js';
import { MovingWrites, type WriteWatcher } from './moving-writes.js';
import { nextTurn } from './steps.js';

export class RegionMoves implements WriteWatcher, MoveHost {
  /** Writes have to come by here. */
  active = false;
  /** How often the table has changed in a way that has to be stored before something goes on. */
  generation = 0;
  saved = 0;
  readonly writes: MovingWrites;
  readonly #subject: MoveSubject;
  readonly #context: TargetContext;
  readonly #beginBytes: number;
  /** Regions that are being copied, or on both sides. */
  readonly #moving = new Map<number, MoveBatch>();
  readonly #copying = new Set<MoveBatch>();
  readonly #unsaved = new Set<MoveBatch>();
  /** Writes to both sides that touch one under way: on both they must come in the same order. */
  #overlapping = new IoQueue();
  /** The latest. */
  #move: Move | null = null;
  /** Those who want no batch to begin. */
  #pauses = 0;
  #woken: Deferred<void> | null = null;

  constructor(subject: MoveSubject) {
    this.#subject = subject;
    this.#context = subject.context;
    this.#beginBytes = subject.context.beginSectors * 512;
    this.writes = new MovingWrites(this.#context.engine, this.#context.ios, this);
  }

  get running(): boolean {
    return this.#move?.running === true;
  }

  /** Whether writes to the region have to be seen by themselves. */
  has(region: number): boolean {
    return this.#moving.has(region);
  }

  /** Target.map, when `backing` and `backingOffset` have been set for that path. */
  map(io: Io, region: number, path: number): number {
    const { operation } = io;
    if (operation === READ || operation === STATUS) return REMAPPED;
    const batch = this.#moving.get(region);
    if (batch === undefined || batch.state === COPYING) {
      this.writes.submit(io, null, 0);
      return SUBMITTED;
    }
    if (batch.state === CLOSED) {
      batch.waiting.push(io);
      return SUBMITTED;
    }
    return this.#mirror(io, batch, path);
  }

  #mirror(io: Io, batch: MoveBatch, path: number): number {
    const { from, to } = batch;
    if (io.operation === ZERO && (io.flags & FLAG_FAST) !== 0) return -EOPNOTSUPP;
    if (path !== from && path !== to) {
      // Somebody has said that it is elsewhere.
      this.writes.submit(io, null, 0);
    } else if (this.writes.overlaps(io.offset, io.offset + io.length)) {
      this.#overlapping.push(io);
    } else {
      const other = this.#subject.paths[path === to ? from : to] as SwitchPath;
      const offset = other.startSectors * 512 + (io.offset - this.#beginBytes);
      this.writes.submit(io, other.backing, offset);
    }
    return SUBMITTED;
  }

  wrote(offset: number, end: number): void {
    for (const batch of this.#copying) {
      batch.changed(offset - this.#beginBytes, end - this.#beginBytes);
    }
  }

  writeEnded(): void {
    const waiting = this.#overlapping;
    if (waiting.empty) return;
    this.#overlapping = new IoQueue();
    this.#routeAll(waiting);
  }

  #routeAll(queue: IoQueue): void {
    for (let io = queue.shift(); io !== null; io = queue.shift()) this.#subject.route(io);
  }

  /** Begins what `move_regions` asks for, and answers how many regions there are. */
  async start(args: readonly string[]): Promise<string> {
    const { paths, regions } = this.#subject;
    const words = parseMove(args, regions, paths.length);
    if (this.running) throw new MapperError(EBUSY, 'a move is under way, wanted its end');
    this.#checkPaths(words);
    const total = await this.#count(words);
    const { host } = this.#context;
    // Writes that are under way have not been seen here: they end before the first copy begins.
    await host.hold();
    this.active = true;
    host.letGo();
    const move = new Move(words, total, this.#subject, this);
    this.#move = move;
    void move.run().then(() => this.#settle());
    return `${total}`;
  }

  #checkPaths({ from, to }: MoveWords): void {
    const [a, b] = [this.#subject.paths[from], this.#subject.paths[to]] as [SwitchPath, SwitchPath];
    if (!b.backing.features.writable) {
      throw new MapperError(EROFS, `path ${to} is read-only, wanted one that can be written`);
    }
    const apart = Math.abs(a.startSectors - b.startSectors);
    if (a.backing.identity === b.backing.identity && apart < this.#context.lengthSectors) {
      throw new MapperError(
        EINVAL,
        `paths ${from} and ${to} lie on one another, wanted two places`,
      );
    }
  }

  async #count({ from, ranges }: MoveWords): Promise<number> {
    const { regionTable } = this.#subject;
    let total = 0;
    let steps = 0;
    for (const { first, last } of ranges) {
      for (let region = first; region <= last; region++) {
        if (regionTable.get(region) === from) total++;
        if (++steps % regionsPerTurn === 0) await nextTurn(this.#context.engine);
      }
    }
    return total;
  }

  /** Resolves when a batch may begin, or `isOver` says that none is wanted. */
  async mayBegin(isOver: () => boolean): Promise<void> {
    while (!isOver() && (this.#pauses > 0 || this.#unsaved.size >= moveUnsavedBatches)) {
      await this.#change();
    }
  }

  /** Resolves when no region is on both sides, or `isOver` says that nobody waits. */
  async allStored(isOver: () => boolean): Promise<void> {
    while (!isOver() && this.#unsaved.size > 0) await this.#change();
  }

  begin(batch: MoveBatch): void {
    this.#add(batch);
    this.#copying.add(batch);
  }

  /** Its copy has ended: it stays where it is if it was abandoned, or is on both sides from now on. */
  end(batch: MoveBatch): void {
    this.#copying.delete(batch);
    if (batch.abandoned) this.#remove(batch);
    else this.#flip(batch);
    batch.ended?.resolve();
    this.#routeAll(batch.waiting);
  }

  #add(batch: MoveBatch): void {
    for (let i = 0; i < batch.count; i++) this.#moving.set(batch.firstRegion + i, batch);
  }

  #remove(batch: MoveBatch): void {
    for (let i = 0; i < batch.count; i++) {
      const region = batch.firstRegion + i;
      if (this.#moving.get(region) === batch) this.#moving.delete(region);
    }
  }

  /** The new side has everything, and is durable. */
  #flip(batch: MoveBatch): void {
    const { regionTable } = this.#subject;
    for (let i = 0; i < batch.count; i++) regionTable.set(batch.firstRegion + i, batch.to);
    batch.state = MIRRORED;
    batch.generation = ++this.generation;
    this.#unsaved.add(batch);
    this.tell();
  }

  /** Asks for the table to be stored. */
  tell(): void {
    const { beginSectors: sector, host } = this.#context;
    host.event({ what: 'regions', sector, generation: this.generation });
  }

  /** The table is stored as it was at that generation, or later. */
  confirm(generation: number): void {
    if (generation > this.generation) {
      const found = `found ${generation}, the table is at ${this.generation}`;
      throw new MapperError(EINVAL, `invalid regions_saved generation (${found})`);
    }
    this.saved = Math.max(this.saved, generation);
    for (const batch of this.#unsaved) {
      if (batch.generation > generation) continue;
      this.#unsaved.delete(batch);
      this.#remove(batch);
    }
    this.#settle();
    this.wake();
  }

  /** Nothing is to be watched any more, perhaps. */
  #settle(): void {
    this.active = this.running || this.#unsaved.size > 0;
  }

  /** Ends a move; what has been moved stays moved. */
  async cancel(): Promise<void> {
    const move = this.#move;
    if (move === null || !move.running) return;
    move.stop();
    this.wake();
    await this.abandonAll();
    await move.over;
  }

  /** No batch begins until each of those who paused has gone on. */
  pause(): void {
    this.#pauses++;
  }

  goOn(): void {
    this.#pauses--;
    this.wake();
  }

  /** Resolves when none is being copied any more. */
  async abandonAll(): Promise<void> {
    await Promise.all([...this.#copying].map((batch) => this.#abandon(batch)));
  }

  /** Resolves when none of these regions is being copied any more. */
  async abandon(first: number, count: number): Promise<void> {
    const touched = [...this.#copying].filter((batch) => overlap(batch, first, count));
    await Promise.all(touched.map((batch) => this.#abandon(batch)));
  }

  async #abandon(batch: MoveBatch): Promise<void> {
    batch.abandoned = true;
    for (const job of batch.jobs) job.cancel();
    batch.ended ??= new Deferred(this.#context.engine);
    await batch.ended.promise;
  }

  /**
   * Whether somebody else may change a region's entry: not while it is being copied. If it is on
   * both sides, it stays there until the change is stored.
   */
  mayChange(region: number): boolean {
    const batch = this.#moving.get(region);
    if (batch === undefined) return true;
    if (batch.state !== MIRRORED) return false;
    batch.generation = ++this.generation;
    return true;
  }

  /** Others have changed entries of these regions, none of which is being copied. */
  changed(first: number, count: number): void {
    const touched = [...this.#unsaved].filter((batch) => overlap(batch, first, count));
    if (touched.length === 0) return;
    this.generation++;
    for (const batch of touched) batch.generation = this.generation;
    this.tell();
  }

  /**
   * The table of another target has come here: regions that are on both sides there are so here,
   * those whose sides are the same places.
   */
  takeOver(old: RegionMoves, sameRegions: boolean): void {
    this.generation = Math.max(this.generation, old.generation) + 1;
    this.saved = old.saved;
    this.#unsaved.clear();
    this.#moving.clear();
    let lost = 0;
    for (const batch of old.#unsaved) {
      const { firstRegion, from, to } = batch;
      const left = this.#subject.regions - firstRegion;
      const count = sameRegions ? Math.min(batch.count, left) : batch.count;
      if (count <= 0) continue;
      if (!sameRegions || !this.#samePlace(old, from) || !this.#samePlace(old, to)) {
        lost += count;
        continue;
      }
      const mine = new MoveBatch({ firstRegion, count }, { from, to }, batch);
      mine.state = MIRRORED;
      mine.generation = this.generation;
      this.#unsaved.add(mine);
      for (let region = firstRegion; region < firstRegion + count; region++) {
        if (old.#moving.get(region) === batch) this.#moving.set(region, mine);
      }
    }
    this.#settle();
    if (lost > 0) {
      const { deviceName: device, log } = this.#context;
      log.warn(
        { device, regions: lost },
        'regions were moved, not stored, and their paths are gone',
      );
    }
  }

  #samePlace(old: RegionMoves, path: number): boolean {
    const [a, b] = [this.#subject.paths[path], old.#subject.paths[path]];
    return (
      a !== undefined &&
      b !== undefined &&
      a.backing.identity === b.backing.identity &&
      a.startSectors === b.startSectors
    );
  }

  /** `<state> <from> <to> <moved> <total> <bytes> <generation> <saved>`, and why it failed. */
  status(): string {
    const { generation, saved } = this;
    const { error, words } = this.#move ?? { error: '', words: 'idle - - 0 0 0' };
    return `${words} ${generation} ${saved}${error === '' ? '' : ` ${error}`}`;
  }

  /** Those who wait look again. */
  wake(): void {
    this.#woken?.resolve();
    this.#woken = null;
  }

  async #change(): Promise<void> {
    this.#woken ??= new Deferred(this.#context.engine);
    await this.#woken.promise;
  }
}

function overlap(batch: MoveBatch, first: number, count: number): boolean {
  return batch.firstRegion < first + count && batch.firstRegion + batch.count > first;
}
