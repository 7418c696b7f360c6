/**
 * Log-writes: passes everything on to a device, and keeps a log of what changes it, in the kernel's
 * format, by which the device can be made again as it was at any moment. See README.md.
 *
 * A log has whole sectors. A request that does not begin or end with one is carried out in parts:
 * a sector that it changes in part is read, changed and written whole. It has the device to itself
 * meanwhile, as far as changes go, so that what was read is still true when it is written.
 *
 *   map ---> wait ---> (read a sector) ---> device ---> log ---> (next part) ---> complete
 */

import { type Backing, commonFeatures, type Features } from '../../backing/backing.js';
import { EINVAL, ENOMEM, EOPNOTSUPP } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { logWritesAtOnce } from '../../base/limits.js';
import { FLAG_FAST, type Io, READ, STATUS, TRIM, WRITE, ZERO } from '../../device/io.js';
import { quoteWord } from '../../device/table-text.js';
import { badArgument, checkCount, openDevice, quoted } from '../arguments.js';
import {
  REMAPPED,
  SUBMITTED,
  type Target,
  type TargetContext,
  type TargetType,
} from '../target.js';
import { sectorBytes } from './format.js';
import { LoggedRequest, type RequestOwner } from './request.js';
import { WriteLog } from './write-log.js';

/** Sectors of the arena: a header for each request, the super block, the sector read. */
const memoryBytes = (logWritesAtOnce + 2) * sectorBytes;

export const logWrites: TargetType = {
  name: 'log-writes',
  version: [1, 1, 0],
  create(args, context) {
    checkCount(args, 'Invalid argument count', 2);
    const [word, logWord] = args as [string, string];
    const end = context.beginSectors + context.lengthSectors;
    const device = openDevice(context, word, end);
    const log = openDevice(context, logWord, 1, 'Log device lookup failed', false);
    if (log.identity === device.identity) {
      throw badArgument('Log device lookup failed', 'the device itself', 'another one');
    }
    const memory = context.engine.arena.allocate(memoryBytes);
    if (memory < 0) throw new MapperError(ENOMEM, 'no memory for a log');
    return new LogWritesTarget(device, log, memory, context);
  },
};

class LogWritesTarget implements Target, RequestOwner {
  readonly type = logWrites;
  readonly maxIoSectors = 0;
  readonly backings: readonly Backing[];
  readonly features: Features;
  readonly device: Backing;
  readonly log: WriteLog;
  readonly context: TargetContext;
  readonly edgeMemory: number;
  readonly #memory: number;
  #free: LoggedRequest | null = null;
  /** Requests under way; one of them may have all others wait. */
  #busy = 0;
  #exclusive = false;
  #waitingHead: Io | null = null;
  #waitingTail: Io | null = null;
  #started = false;

  constructor(device: Backing, log: Backing, memory: number, context: TargetContext) {
    this.device = device;
    this.context = context;
    this.#memory = memory;
    this.log = new WriteLog(log, context, memory);
    this.edgeMemory = memory + sectorBytes;
    for (let slot = 2; slot < logWritesAtOnce + 2; slot++) {
      this.#give(new LoggedRequest(this, memory + slot * sectorBytes));
    }
    this.backings = [device, log];
    this.features = {
      ...commonFeatures([device]),
      fastZero: device.features.fastZero && log.features.fastZero,
      blockBytes: Math.max(sectorBytes, device.features.blockBytes),
    };
  }

  map(io: Io): number {
    const { operation } = io;
    if (operation === READ || operation === STATUS || this.#isIdle()) return this.#remap(io);
    if (operation === TRIM && wholeSectors(io) === 0) {
      io.complete(0);
      return SUBMITTED;
    }
    if (operation === ZERO && (io.flags & FLAG_FAST) !== 0 && !this.features.fastZero) {
      return -EOPNOTSUPP;
    }
    return this.#take(io);
  }

  flush(io: Io): number {
    return this.#isIdle() ? this.#remap(io) : this.#take(io);
  }

  /** There is no log any more, and nothing is left to be waited for. */
  #isIdle(): boolean {
    return !this.log.enabled && this.#busy === 0;
  }

  #remap(io: Io): number {
    io.backing = this.device;
    io.backingOffset = io.offset;
    return REMAPPED;
  }

  #take(io: Io): number {
    io.next = null;
    if (this.#waitingHead === null && this.#canStart(io)) {
      this.#start(io);
    } else {
      if (this.#waitingTail === null) this.#waitingHead = io;
      else this.#waitingTail.next = io;
      this.#waitingTail = io;
    }
    return SUBMITTED;
  }

  #canStart(io: Io): boolean {
    if (this.#free === null || this.#exclusive) return false;
    return this.#busy === 0 || !isExclusive(io);
  }

  #start(io: Io): void {
    const request = this.#free as LoggedRequest;
    this.#free = request.next;
    this.#busy++;
    this.#exclusive = isExclusive(io);
    request.start(io);
  }

  #give(request: LoggedRequest): void {
    request.next = this.#free;
    this.#free = request;
  }

  /** RequestOwner. */
  ended(request: LoggedRequest, io: Io, errno: number): void {
    this.#busy--;
    this.#exclusive = false;
    this.#give(request);
    io.complete(errno);
    while (this.#waitingHead !== null && this.#canStart(this.#waitingHead)) {
      const next: Io = this.#waitingHead;
      this.#waitingHead = next.next;
      if (this.#waitingHead === null) this.#waitingTail = null;
      next.next = null;
      this.#start(next);
    }
  }

  async message(args: readonly string[]): Promise<string> {
    if (args.length !== 2) {
      const text = 'Invalid log-writes message arguments, expect 2 arguments, got';
      throw new MapperError(EINVAL, `${text} ${args.length}`);
    }
    const [verb, text] = args as [string, string];
    if (verb.toLowerCase() !== 'mark') {
      const found = `Unrecognised log writes target message received: ${quoted(verb)}`;
      throw new MapperError(EINVAL, `${found} (wanted "mark")`);
    }
    await this.log.mark(text);
    return '';
  }

  status(): string {
    return this.log.status();
  }

  table(): string {
    return `${quoteWord(this.device.name)} ${quoteWord(this.log.backing.name)}`;
  }

  async resume(): Promise<void> {
    if (this.#started) {
      await this.log.goOn();
      return;
    }
    this.#started = true;
    if (!this.context.restored) {
      await this.log.start();
      return;
    }
    const fields = { device: this.context.deviceName, log: this.log.backing.name };
    const text = 'the log is kept as an earlier daemon left it: load the table for a new one';
    this.context.log.warn(fields, text);
  }

  async suspend(): Promise<void> {
    await this.log.end().catch((error) => {
      const fields = { device: this.context.deviceName, err: error };
      this.context.log.error(fields, 'cannot write the mark of the end to the log');
    });
  }

  destroy(): void {
    this.context.engine.arena.free(this.#memory, memoryBytes);
  }
}

/** How many there are in the request's range, whatever hangs over at its ends. */
function wholeSectors({ offset, length }: Io): number {
  const first = Math.ceil(offset / sectorBytes);
  return Math.max(0, Math.floor((offset + length) / sectorBytes) - first);
}

/** It reads before it writes. A TRIM is made smaller instead. */
function isExclusive({ operation, offset, length }: Io): boolean {
  if (operation !== WRITE && operation !== ZERO) return false;
  return offset % sectorBytes !== 0 || length % sectorBytes !== 0;
}
