/**
 * The log of a device's writes. An entry gets its place when what it stands for has happened (a
 * FLUSH: when it begins, so that what is answered meanwhile comes behind it), and the places are
 * filled in whatever order the log's device ends the writes. The super block counts entries up to
 * the first that is not there yet, and is written again whenever somebody waits for that: an entry
 * that is *sealed* is told of when the super block has it, others when they are there themselves.
 *
 *   reserve ---> write ---> (sealed: super block) ---> logged
 *
 * What cannot be written ends the log, not the device: the super block still counts what is whole.
 */

import type { Backing } from '../../backing/backing.js';
import { assert } from '../../base/assert.js';
import { EIO, ENOMEM, errnoName } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { FLUSH, type Io, type IoOwner, type Operation, WRITE, ZERO } from '../../device/io.js';
import type { Arena } from '../../engine/arena.js';
import type { TargetContext } from '../target.js';
import { ENTRY_MARK, endMark, markName, packEntry, packSuper, sectorBytes } from './format.js';

/** Who has an entry. */
export interface LogUser {
  /** The entry is in the log, or there is no log any more. */
  logged(): void;
}

export class LogEntry {
  readonly user: LogUser;
  /** The sector in the arena that it is packed in. */
  readonly header: number;
  /** What it says. */
  first = 0;
  sectors = 0;
  flags = 0;
  name: Uint8Array | null = null;
  /** WRITE: the data is at `memory`. ZERO: it is zeroes. FLUSH: there is none. */
  data: Operation = FLUSH;
  memory = 0;
  sealed = false;
  /** Its number and its place in the log, from `reserve` on. */
  index = -1;
  at = 0;
  /** Writes under way. */
  parts = 0;

  constructor(user: LogUser, header: number) {
    this.user = user;
    this.header = header;
  }
}

export class WriteLog implements IoOwner {
  readonly backing: Backing;
  readonly #context: TargetContext;
  readonly #arena: Arena;
  readonly #view: DataView;
  readonly #superMemory: number;
  /** Writes go to the log. */
  enabled = false;
  /** Entries that have a place. */
  entries = 0;
  /** The first sector that is free. */
  nextSector = 1;
  /** The log's size when it was last looked at. */
  #endSector = 0;
  /** Entries with a place that are not there yet. */
  readonly #open = new Set<LogEntry>();
  /** Entries that are there and wait for the super block. */
  #sealing: LogEntry[] = [];
  /** What the super block that is being written says, or -1. */
  #superEntries = -1;
  /** Who waits for the next super block, and for the one that is being written. */
  #superWanted: (() => void)[] = [];
  #superAwaited: (() => void)[] = [];
  /** How many entries, and sectors, there were before the mark of the end. */
  #beforeEnd: readonly [number, number] | null = null;

  /** `superMemory`: a sector of the arena. */
  constructor(backing: Backing, context: TargetContext, superMemory: number) {
    this.backing = backing;
    this.#context = context;
    this.#arena = context.engine.arena;
    this.#view = new DataView(this.#arena.bytes.buffer);
    this.#superMemory = superMemory;
  }

  /** Begins a new log; what was there is forgotten. */
  async start(): Promise<void> {
    this.enabled = true;
    this.entries = 0;
    this.nextSector = 1;
    await this.#super();
  }

  /** Writes the mark of the end; `goOn` takes it away again if nothing came behind it. */
  async end(): Promise<void> {
    if (!this.enabled) return;
    this.#beforeEnd = [this.entries, this.nextSector];
    await this.mark(endMark);
  }

  async goOn(): Promise<void> {
    const before = this.#beforeEnd;
    this.#beforeEnd = null;
    if (!this.enabled || before === null || this.entries !== before[0] + 1) return;
    [this.entries, this.nextSector] = before;
    await this.#super();
  }

  /** Resolves when the super block counts the mark. Throws MapperError. */
  async mark(text: string): Promise<void> {
    const name = markName(text);
    this.#checkEnabled();
    const header = this.#arena.allocate(sectorBytes);
    if (header < 0) throw new MapperError(ENOMEM, 'no memory for a mark');
    await new Promise<void>((resolve) => {
      const logged = (): void => {
        this.#arena.free(header, sectorBytes);
        this.#context.engine.promiseResolved();
        resolve();
      };
      const entry = new LogEntry({ logged }, header);
      entry.flags = ENTRY_MARK;
      entry.name = name;
      entry.sealed = true;
      this.reserve(entry, 0);
      this.write(entry);
    });
    this.#checkEnabled();
  }

  #checkEnabled(): void {
    if (this.enabled) return;
    throw new MapperError(EIO, `the log on "${this.backing.name}" has ended`);
  }

  /** Gives the entry, which has so many sectors of data, its place, if there is one. */
  reserve(entry: LogEntry, dataSectors: number): void {
    entry.index = -1;
    if (!this.enabled) return;
    const next = this.nextSector + 1 + dataSectors;
    if (!this.#hasRoom(next)) {
      this.#disable('Ran out of space on the logdev', {});
      return;
    }
    entry.index = this.entries++;
    entry.at = this.nextSector;
    this.nextSector = next;
    this.#open.add(entry);
  }

  /** The kernel never uses the last two sectors. A log that is made longer has more room at once. */
  #hasRoom(next: number): boolean {
    if (next < this.#endSector) return true;
    this.#endSector = Math.floor(this.backing.size() / sectorBytes) - 1;
    return next < this.#endSector;
  }

  /** Writes an entry to its place; its user hears of it, perhaps before this returns. */
  write(entry: LogEntry): void {
    if (entry.index < 0 || !this.enabled) {
      this.#written(entry);
      return;
    }
    packEntry(this.#arena.bytes, this.#view, entry.header, entry, entry.name);
    const hasData = entry.data !== FLUSH;
    entry.parts = hasData ? 2 : 1;
    this.#submit(WRITE, entry.at, sectorBytes, entry.header, entry);
    if (!hasData) return;
    this.#submit(entry.data, entry.at + 1, entry.sectors * sectorBytes, entry.memory, entry);
  }

  #submit(
    operation: Operation,
    sector: number,
    length: number,
    memory: number,
    entry: LogEntry | null,
  ): void {
    const io = this.#context.ios.take(operation, sector * sectorBytes, length, this);
    io.backing = this.backing;
    io.backingOffset = sector * sectorBytes;
    io.memory = memory;
    io.holds = entry;
    this.backing.submit(io);
  }

  /** IoOwner. */
  finished(io: Io): void {
    const entry = io.holds as LogEntry | null;
    const { error, backingOffset, operation } = io;
    this.#context.ios.give(io);
    assert(operation === WRITE || operation === ZERO, 'the log is only written');
    if (error !== 0) {
      const fields = { offset: backingOffset, code: errnoName(error) };
      this.#disable('cannot write to the log', fields);
    }
    if (entry === null) this.#superEnded();
    else if (--entry.parts === 0) this.#written(entry);
  }

  #written(entry: LogEntry): void {
    this.#open.delete(entry);
    if (entry.sealed && entry.index >= 0 && this.enabled) this.#sealing.push(entry);
    else entry.user.logged();
    this.#seal();
  }

  /** Writes the super block, if it is waited for: by an entry that it can count by now, say. */
  #seal(): void {
    const wanted = this.#superWanted.length > 0;
    if (this.#superEntries >= 0 || (this.#sealing.length === 0 && !wanted)) return;
    let count = this.entries;
    for (const { index } of this.#open) count = Math.min(count, index);
    if (!wanted && !this.#sealing.some(({ index }) => index < count)) return;
    this.#superEntries = count;
    this.#superAwaited = this.#superWanted;
    this.#superWanted = [];
    packSuper(this.#arena.bytes, this.#view, this.#superMemory, count);
    this.#submit(WRITE, 0, sectorBytes, this.#superMemory, null);
  }

  #superEnded(): void {
    const count = this.#superEntries;
    this.#superEntries = -1;
    const told = this.#sealing.filter(({ index }) => index < count);
    this.#sealing = this.#sealing.filter(({ index }) => index >= count);
    for (const { user } of told) user.logged();
    for (const resolve of this.#superAwaited) resolve();
    if (this.#superAwaited.length > 0) this.#context.engine.promiseResolved();
    this.#superAwaited = [];
    this.#seal();
  }

  #super(): Promise<void> {
    return new Promise((resolve) => {
      this.#superWanted.push(resolve);
      this.#seal();
    });
  }

  /** The log ends here; the device goes on without. */
  #disable(text: string, fields: object): void {
    if (!this.enabled) return;
    this.enabled = false;
    const { deviceName: device, log } = this.#context;
    log.error({ device, log: this.backing.name, ...fields }, `${text}: logging is disabled`);
    const told = this.#sealing;
    this.#sealing = [];
    for (const { user } of told) user.logged();
  }

  /** The kernel's INFO line. */
  status(): string {
    const text = `${this.entries} ${this.nextSector - 1}`;
    return this.enabled ? text : `${text} logging_disabled`;
  }
}
