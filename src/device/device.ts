/**
 * A device: a name, a live table that I/O goes through, and an inactive one that waits to replace
 * it. Requests come in by `submit` and are counted until they end; while the device is suspended
 * they wait in order, so that clients notice a change of table only as a pause.
 *
 *   load       text -> inactive table
 *   suspend    new requests wait; those inside end; what was written is flushed
 *   resume     inactive table -> live; the old one is destroyed; waiting requests go on
 */

import type { Backing } from '../backing/backing.js';
import { Deferred } from '../base/deferred.js';
import { EINVAL, EIO, ENXIO, ESHUTDOWN } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import type { Log } from '../base/log.js';
import type { Engine } from '../engine/engine.js';
import { REMAPPED, type Target, type TargetEvent, type TargetHost } from '../target/target.js';
import { AwaitedIo } from './awaited-io.js';
import type { ChangeMap } from './change-map.js';
import { Counters } from './counters.js';
import { changeMapsOf } from './device-changes.js';
import { FLUSH, type Io, type IoAccount, type IoPool } from './io.js';
import { FlushAll, pieceEnd, type SplitPool } from './split.js';
import type { Slot, Table } from './table.js';

/** What devices share: the queue's engine and pools. */
export interface DeviceContext {
  readonly engine: Engine;
  readonly ios: IoPool;
  readonly splits: SplitPool;
  readonly log: Log;
  /** Told what targets have come to. */
  readonly event: (device: Device, event: TargetEvent) => void;
}

/** Somebody who holds the device open, and must go if it is removed by force. */
export interface DeviceUser {
  deviceRemoved(): void;
}

export class Device implements IoAccount, TargetHost {
  name: string;
  readonly readOnly: boolean;
  readonly counters = new Counters();
  readonly users = new Set<DeviceUser>();

  live: Table | null = null;
  inactive: Table | null = null;
  suspended = false;
  removed = false;
  /** Table events so far (dmsetup wait). */
  eventNumber = 0;
  /** Changes with the live table, so that sessions know when to look again. */
  generation = 0;

  readonly #engine: Engine;
  readonly #ios: IoPool;
  readonly #splits: SplitPool;
  readonly #log: Log;
  readonly #awaited: AwaitedIo;
  readonly #event: DeviceContext['event'];
  /** Requests that are mapped and have not ended. */
  #inside = 0;
  #drained: Deferred<void> | null = null;
  /** Targets that hold requests back for a moment. */
  #holds = 0;
  /** It was suspended without a flush. */
  #unflushed = false;
  /** Requests that wait for resume, first come first served. */
  #waitingFirst: Io | null = null;
  #waitingLast: Io | null = null;
  #waiting = 0;
  /** Nobody will resume it any more: the errno for what would have to wait. Otherwise 0. */
  #waitingErrno = 0;
  /** Its targets work by themselves no more. */
  #stopped = false;
  /** Commands on a device are carried out one after the other. */
  #commands: Promise<unknown> = Promise.resolve();
  readonly #dispatch = (slot: Slot, io: Io): void => this.#map(slot, io);

  constructor(name: string, readOnly: boolean, context: DeviceContext) {
    this.name = name;
    this.readOnly = readOnly;
    this.#engine = context.engine;
    this.#ios = context.ios;
    this.#splits = context.splits;
    this.#log = context.log;
    this.#awaited = new AwaitedIo(context.engine, context.ios);
    this.#event = context.event;
  }

  get sizeBytes(): number {
    return this.live?.sizeBytes ?? 0;
  }

  get inFlight(): number {
    return this.#inside + this.#waiting;
  }

  /** Takes an Io; its owner hears of its end, perhaps before this returns. */
  submit(io: Io): void {
    io.account = this;
    io.startedAt = this.#engine.now;
    const closed = this.#isClosed();
    if (closed && this.#waitingErrno === 0) {
      this.#wait(io);
      return;
    }
    this.#inside++;
    this.counters.setInFlight(this.#inside + this.#waiting);
    if (closed) io.complete(this.#waitingErrno);
    else this.#route(io);
  }

  /** IoAccount: an Io that `submit` took has ended. */
  ended(io: Io): void {
    this.#inside--;
    this.counters.setInFlight(this.#inside + this.#waiting);
    // What ended in the turn it came in was done synchronously: the turn's time does not tell.
    const now = this.#engine.now;
    const elapsed = (now === io.startedAt ? this.#engine.clock() : now) - io.startedAt;
    this.counters.ended(io.operation, io.length, io.error !== 0, Math.round(elapsed * 1000));
    if (this.#inside === 0 && this.#drained !== null) {
      this.#drained.resolve();
      this.#drained = null;
    }
  }

  #route(io: Io): void {
    const table = this.live;
    if (table === null) {
      io.complete(EIO);
    } else if (io.operation === FLUSH) {
      this.#flush(table, io);
    } else {
      const slot = table.find(io.offset);
      const end = io.offset + io.length;
      if (slot === null || end > table.sizeBytes) {
        // The table has shrunk since the request was validated.
        io.complete(EIO);
      } else if (pieceEnd(slot, io.operation, io.offset, end) === end) {
        this.#map(slot, io);
      } else {
        this.#splits.take().start(io, table, this.#dispatch);
      }
    }
  }

  #map(slot: Slot, io: Io): void {
    const result = slot.target.map(io);
    if (result === REMAPPED) (io.backing as Backing).submit(io);
    else if (result < 0) io.complete(-result);
  }

  #flush(table: Table, io: Io): void {
    const backings = table.flushBackings;
    if (backings.length === 1 && table.flushTargets.length === 0) {
      (backings[0] as Backing).submit(io);
    } else {
      new FlushAll(this.#ios).start(io, table);
    }
  }

  #wait(io: Io): void {
    io.next = null;
    if (this.#waitingLast === null) this.#waitingFirst = io;
    else this.#waitingLast.next = io;
    this.#waitingLast = io;
    this.#waiting++;
    this.counters.setInFlight(this.#inside + this.#waiting);
  }

  /** Runs a command when those before it have ended. */
  exclusively<T>(command: () => Promise<T>): Promise<T> {
    const run = this.#commands.then(command, command);
    this.#commands = run.catch(() => {});
    return run;
  }

  /** Puts a table into the inactive slot; the one that was there is destroyed. */
  async load(table: Table): Promise<void> {
    const old = this.inactive;
    this.inactive = table;
    await old?.destroy();
  }

  async clear(): Promise<void> {
    const old = this.inactive;
    this.inactive = null;
    await old?.destroy();
  }

  /** Requests wait, in order, for as long as the device is suspended or held. */
  #isClosed(): boolean {
    return this.suspended || this.#holds > 0;
  }

  /** Resolves when nothing is inside. */
  #drain(): Promise<void> {
    if (this.#inside === 0) return Promise.resolve();
    this.#drained ??= new Deferred(this.#engine);
    return this.#drained.promise;
  }

  hold(): Promise<void> {
    this.#holds++;
    return this.#drain();
  }

  letGo(): void {
    this.#holds--;
    this.#goOn();
  }

  /** Records of what has changed in it; they tell the truth or fail, whatever becomes of it. */
  changeMaps(): ChangeMap[] {
    return changeMapsOf(this);
  }

  event(event: TargetEvent): void {
    // The kernel counts this one alone.
    if (event.what === 'invalid') this.eventNumber++;
    this.#event(this, event);
  }

  async suspend(noFlush: boolean): Promise<void> {
    if (this.suspended) {
      if (!noFlush) await this.#flushLeftOut();
      return;
    }
    this.suspended = true;
    this.#unflushed = noFlush;
    // A table comes or goes by commands alone, and this is one.
    const table = this.live;
    try {
      for (const { target } of table?.slots ?? []) target.suspending?.();
      await this.#drain();
      if (table === null) return;
      if (!noFlush) await this.#flushNow(table);
      for (const { target } of table.slots) await target.suspend?.();
    } catch (error) {
      // A flush that failed must be heard of: the device goes on with its old table, unless that is
      // to be destroyed.
      if (!this.removed) await this.#goBack(table);
      throw error;
    }
  }

  /**
   * Swaps the inactive table in, if there is one, and lets waiting requests go on. If a target
   * refuses, all is as it was before. The old table's targets are there while the new ones resume,
   * so that one may take over from another.
   */
  async resume(): Promise<void> {
    if (this.#stopped) throw new MapperError(ESHUTDOWN, 'the daemon is going down');
    const next = this.inactive;
    if (next === null) {
      if (this.live === null) {
        throw new MapperError(ENXIO, `no table loaded into ${this.name}, wanted one`);
      }
      if (!this.suspended) return;
      await this.#resumeAll(this.live);
      this.suspended = false;
      this.#goOn();
      return;
    }
    const old = this.live;
    const suspendedHere = !this.suspended;
    if (suspendedHere) await this.suspend(false);
    try {
      await this.#resumeAll(next);
    } catch (error) {
      if (suspendedHere) await this.#goBack(old);
      throw error;
    }
    this.live = next;
    this.inactive = null;
    this.generation++;
    this.eventNumber++;
    this.suspended = false;
    this.#goOn();
    await old?.destroy();
  }

  /** After a failure: goes on with the table that was there, whatever its targets say to that. */
  async #goBack(table: Table | null): Promise<void> {
    for (const { target } of table?.slots ?? []) await this.#bring(target, 'resume');
    this.suspended = false;
    this.#goOn();
  }

  /** Resumes a table's targets; if one refuses, those before it are suspended again. */
  async #resumeAll(table: Table): Promise<void> {
    const resumed: Target[] = [];
    try {
      for (const { target } of table.slots) {
        await target.resume?.();
        resumed.push(target);
      }
    } catch (error) {
      for (const target of resumed) await this.#bring(target, 'suspend');
      throw error;
    }
  }

  /** On the way back from a failure, which is what is thrown: another one is logged. */
  async #bring(target: Target, what: 'suspend' | 'resume'): Promise<void> {
    try {
      await target[what]?.();
    } catch (error) {
      const fields = { device: this.name, target: target.type.name };
      this.#log.error(fields, `cannot ${what} after a failure: ${messageOf(error)}`);
    }
  }

  /** What the suspend has not done, since it was told not to. Throws MapperError. */
  async #flushLeftOut(): Promise<void> {
    if (!this.#unflushed) return;
    await this.flush();
    this.#unflushed = false;
  }

  /** Flushes, whether suspended or not. Throws MapperError. */
  async flush(): Promise<void> {
    if (this.live !== null) await this.#flushNow(this.live);
  }

  /** Sends a flush past the suspension and waits for it. */
  async #flushNow(table: Table): Promise<void> {
    const { io, ended } = this.#awaited.take(FLUSH, 0, 0);
    this.#flush(table, io);
    const error = await ended;
    if (error !== 0) throw new MapperError(error, `cannot flush ${this.name}`);
  }

  /** Lets waiting requests go on, unless they have to wait for something else still. */
  #goOn(): void {
    if (this.#isClosed()) return;
    let io = this.#waitingFirst;
    this.#waitingFirst = null;
    this.#waitingLast = null;
    this.#waiting = 0;
    while (io !== null) {
      const next = io.next;
      io.next = null;
      if (this.#isClosed()) {
        this.#wait(io);
      } else {
        this.#inside++;
        this.#route(io);
      }
      io = next;
    }
  }

  /** The daemon goes down: what waits for a resume, or would have to, will not see one. */
  failWaiting(errno: number): void {
    this.#waitingErrno = errno;
    let io = this.#waitingFirst;
    this.#waitingFirst = null;
    this.#waitingLast = null;
    while (io !== null) {
      const next = io.next;
      io.next = null;
      this.#waiting--;
      this.#inside++;
      io.complete(errno);
      io = next;
    }
  }

  /** What the targets do by themselves (a merge) ends for good: the device is about to go. */
  async stopWork(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.live?.slots.map(({ target }) => target.stopWork?.()) ?? []);
  }

  /** A last flush, then no more: what waits ends with EIO. */
  async remove(): Promise<void> {
    this.removed = true;
    try {
      await this.suspend(false);
    } finally {
      const { live, inactive } = this;
      this.live = null;
      this.inactive = null;
      this.generation++;
      this.suspended = false;
      this.#goOn();
      await live?.destroy();
      await inactive?.destroy();
    }
  }
}

/** The target that holds a sector, for messages. */
export function targetAt(device: Device, sector: number): Slot {
  const table = device.live;
  if (table === null) throw new MapperError(ENXIO, `no live table in ${device.name}`);
  const slot = table.find(sector * 512);
  if (slot === null) {
    const found = `sector ${sector}, ${device.name} has ${table.sizeBytes / 512}`;
    throw new MapperError(EINVAL, `no target at that sector: ${found}`);
  }
  return slot;
}
