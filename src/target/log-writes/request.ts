/**
 * One request that changes the device, or flushes it, on its way: to the device, then into the log,
 * part after part, the next when the one before is logged. Most have one part. The parts of a
 * request that does not begin or end with a sector are those sectors, and what is between them.
 */

import type { Backing } from '../../backing/backing.js';
import {
  FLAG_FAST,
  FLAG_FUA,
  FLUSH,
  type Io,
  type IoOwner,
  type Operation,
  READ,
  TRIM,
  WRITE,
  ZERO,
} from '../../device/io.js';
import type { TargetContext } from '../target.js';
import { ENTRY_DISCARD, ENTRY_FLUSH, ENTRY_FUA, sectorBytes } from './format.js';
import { LogEntry, type LogUser, type WriteLog } from './write-log.js';

export interface RequestOwner {
  readonly device: Backing;
  readonly log: WriteLog;
  readonly context: TargetContext;
  /** A sector of the arena, for the one request at a time that reads before it writes. */
  readonly edgeMemory: number;
  ended(request: LoggedRequest, io: Io, errno: number): void;
}

export class LoggedRequest implements IoOwner, LogUser {
  /** In the list of those that are not in use. */
  next: LoggedRequest | null = null;
  readonly #owner: RequestOwner;
  readonly #entry: LogEntry;
  #io: Io | null = null;
  /** The part under way, in bytes of the device, and where its data is. */
  #operation: Operation = WRITE;
  #at = 0;
  #end = 0;
  #memory = 0;
  /** Of the whole sectors that the part changes, the part itself: that is within one. */
  #changesFrom = 0;
  #changesTo = 0;
  #errno = 0;

  constructor(owner: RequestOwner, header: number) {
    this.#owner = owner;
    this.#entry = new LogEntry(this, header);
  }

  start(io: Io): void {
    this.#io = io;
    this.#errno = 0;
    if (io.operation === FLUSH) {
      this.#startFlush(io);
      return;
    }
    if (io.operation === TRIM) {
      this.#at = Math.ceil(io.offset / sectorBytes) * sectorBytes;
      this.#end = Math.floor((io.offset + io.length) / sectorBytes) * sectorBytes;
      this.#toDevice(TRIM, 0, io.flags);
      return;
    }
    this.#nextPart(io, io.offset);
  }

  /** What was answered before it is what it makes durable, so it has its place from now on. */
  #startFlush(io: Io): void {
    const entry = this.#entry;
    this.#at = 0;
    this.#end = 0;
    entry.first = 0;
    entry.sectors = 0;
    entry.flags = ENTRY_FLUSH;
    entry.data = FLUSH;
    entry.sealed = true;
    this.#owner.log.reserve(entry, 0);
    this.#toDevice(FLUSH, 0, io.flags);
  }

  /** Of a WRITE or ZERO, from that offset on. */
  #nextPart(io: Io, from: number): void {
    const to = io.offset + io.length;
    const sector = Math.floor(from / sectorBytes) * sectorBytes;
    if (from > sector || to < sector + sectorBytes) {
      this.#at = sector;
      this.#end = sector + sectorBytes;
      this.#changesFrom = from;
      this.#changesTo = Math.min(to, this.#end);
      this.#toDevice(READ, this.#owner.edgeMemory, 0);
      return;
    }
    this.#at = from;
    this.#end = Math.floor(to / sectorBytes) * sectorBytes;
    // Where zeroes are cheap, they are written at the ends all the same.
    const flags = this.#end < to || from > io.offset ? io.flags & ~FLAG_FAST : io.flags;
    this.#toDevice(io.operation, io.memory + from - io.offset, flags);
  }

  #toDevice(operation: Operation, memory: number, flags: number): void {
    const { context, device } = this.#owner;
    this.#operation = operation;
    this.#memory = memory;
    const child = context.ios.take(operation, this.#at, this.#end - this.#at, this);
    child.flags = flags;
    child.memory = memory;
    child.backing = device;
    child.backingOffset = this.#at;
    device.submit(child);
  }

  /** IoOwner: the device has done its part. */
  finished(child: Io): void {
    const { error } = child;
    this.#owner.context.ios.give(child);
    const io = this.#io as Io;
    if (this.#operation === FLUSH) {
      // A place that is given away is filled: an entry without flags and data changes nothing.
      if (error !== 0) this.#entry.flags = 0;
      this.#errno = error;
      this.#owner.log.write(this.#entry);
    } else if (error !== 0) {
      this.#finish(io, error);
    } else if (this.#operation === READ) {
      this.#changeSector(io);
    } else {
      this.#toLog(io);
    }
  }

  #changeSector(io: Io): void {
    const { context, edgeMemory } = this.#owner;
    const { arena } = context.engine;
    const into = edgeMemory + this.#changesFrom - this.#at;
    const length = this.#changesTo - this.#changesFrom;
    if (io.operation === WRITE) {
      arena.copy(into, io.memory + this.#changesFrom - io.offset, length);
    } else {
      arena.bytes.fill(0, into, into + length);
    }
    this.#toDevice(WRITE, edgeMemory, io.flags & FLAG_FUA);
  }

  #toLog(io: Io): void {
    const entry = this.#entry;
    const discards = this.#operation === TRIM;
    const fua = (io.flags & FLAG_FUA) !== 0;
    entry.first = this.#at / sectorBytes;
    entry.sectors = (this.#end - this.#at) / sectorBytes;
    entry.flags = (discards ? ENTRY_DISCARD : 0) | (fua ? ENTRY_FUA : 0);
    entry.data = discards ? FLUSH : this.#operation;
    entry.memory = this.#memory;
    entry.sealed = fua;
    this.#owner.log.reserve(entry, discards ? 0 : entry.sectors);
    this.#owner.log.write(entry);
  }

  /** LogUser. */
  logged(): void {
    const io = this.#io as Io;
    const to = io.offset + io.length;
    const hasMore = (io.operation === WRITE || io.operation === ZERO) && this.#end < to;
    if (hasMore) this.#nextPart(io, this.#end);
    else this.#finish(io, this.#errno);
  }

  #finish(io: Io, errno: number): void {
    this.#io = null;
    this.#owner.ended(this, io, errno);
  }
}
