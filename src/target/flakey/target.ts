/**
 * Flakey: a stretch of a backing that is up for some seconds, then down for some, and so on. While
 * down it fails, forgets or corrupts what its features say. See README.md.
 *
 * An Io that is to be corrupted is carried out by a child. A WRITE's child has a copy of the data,
 * for a client's buffer must not change; a READ's child fills the parent's buffer, which is then
 * changed.
 */

import { type Backing, commonFeatures, type Features } from '../../backing/backing.js';
import { EIO, ENOMEM } from '../../base/errno.js';
import type { ExtentList } from '../../device/extent-list.js';
import {
  FLAG_DEPTH,
  FLAG_FUA,
  FLAG_HOLES_OK,
  type Io,
  type IoOwner,
  READ,
  STATUS,
  WRITE,
} from '../../device/io.js';
import {
  ArgumentReader,
  type Bounds,
  badArgument,
  deviceSector,
  openDevice,
  plural,
  uint32Max,
} from '../arguments.js';
import { PassThrough } from '../pass-through.js';
import { SUBMITTED, type Target, type TargetContext, type TargetType } from '../target.js';
import {
  type CorruptByte,
  type FlakeyFeatures,
  parseFeatures,
  printFeatures,
  probabilityBase,
} from './features.js';

const upBounds: Bounds = { min: 0, max: uint32Max, text: 'Invalid up interval' };
const downBounds: Bounds = { min: 0, max: uint32Max, text: 'Invalid down interval' };

/** The kernel's bio flags that an Io can have: the operation's number, and FUA. */
const BIO_READ = 0;
const BIO_WRITE = 1;
const BIO_FUA = 2 ** 17;

export const flakey: TargetType = {
  name: 'flakey',
  version: [1, 5, 0],
  create(args, context) {
    if (args.length < 4) {
      throw badArgument('Invalid argument count', plural(args.length, 'argument'), 'at least 4');
    }
    const reader = new ArgumentReader(args);
    const device = reader.next() as string;
    const start = reader.number(deviceSector);
    const upSeconds = reader.number(upBounds);
    const downSeconds = reader.number(downBounds);
    checkIntervals(upSeconds, downSeconds);
    const features = parseFeatures(reader);
    if (reader.left > 0) {
      // The kernel does not look at them, so we must not refuse them.
      const fields = { device: context.deviceName, arguments: reader.left };
      context.log.warn(fields, 'flakey target ignores arguments behind its features');
    }
    const backing = openDevice(context, device, start + context.lengthSectors);
    const range = new PassThrough(backing, start, context.beginSectors);
    return new FlakeyTarget(range, upSeconds, downSeconds, features, context);
  },
};

function checkIntervals(up: number, down: number): void {
  if (up + down === 0) {
    throw badArgument('Total (up + down) interval is zero', '0 seconds', 'at least 1');
  }
  if (up + down > uint32Max) {
    throw badArgument('Interval overflow', `${up + down} seconds`, `at most ${uint32Max}`);
  }
}

class FlakeyTarget implements Target, IoOwner {
  readonly type = flakey;
  readonly maxIoSectors = 0;
  readonly backings: readonly Backing[];
  readonly features: Features;
  readonly #range: PassThrough;
  readonly #upSeconds: number;
  readonly #downSeconds: number;
  readonly #does: FlakeyFeatures;
  readonly #context: TargetContext;
  /** Engine time from which intervals count: the table's load, as in the kernel. */
  readonly #startedAt: number;
  readonly #corruptsReads: boolean;

  constructor(
    range: PassThrough,
    upSeconds: number,
    downSeconds: number,
    does: FlakeyFeatures,
    context: TargetContext,
  ) {
    this.#range = range;
    this.#upSeconds = upSeconds;
    this.#downSeconds = downSeconds;
    this.#does = does;
    this.#context = context;
    this.#startedAt = context.engine.now;
    this.#corruptsReads = does.corruptByte?.direction === 'r' || does.randomReadCorrupt > 0;
    this.backings = [range.backing];
    this.features = commonFeatures(this.backings);
  }

  map(io: Io): number {
    if (!this.#isDown()) return this.#range.remap(io);
    switch (io.operation) {
      case READ:
        if (this.#does.errorReads) return -EIO;
        return this.#corruptsReads ? this.#submitChild(io, io.memory) : this.#range.remap(io);
      case STATUS:
        return this.#status(io);
      default:
        if (this.#does.dropWrites || this.#does.errorWrites) return this.#endWrite(io);
        return io.operation === WRITE ? this.#write(io) : this.#range.remap(io);
    }
  }

  /** To the kernel, a flush is a write without data. */
  flush(io: Io): number {
    const { dropWrites, errorWrites } = this.#does;
    if (this.#isDown() && (dropWrites || errorWrites)) return this.#endWrite(io);
    return this.#range.remapFlush(io);
  }

  status(): string {
    return '';
  }

  table(): string {
    const intervals = `${this.#upSeconds} ${this.#downSeconds}`;
    return `${this.#range.words()} ${intervals} ${printFeatures(this.#does)}`;
  }

  /** IoOwner: a child has ended. */
  finished(child: Io): void {
    const { arena } = this.#context.engine;
    const parent = child.parent as Io;
    const errno = child.error;
    if (child.operation === WRITE) {
      arena.free(child.memory, child.length);
    } else if (errno === 0) {
      this.#corrupt(child, this.#appliesTo(child, 'r'), this.#does.randomReadCorrupt);
    }
    this.#context.ios.give(child);
    parent.complete(errno);
  }

  #isDown(): boolean {
    const seconds = Math.floor((this.#context.engine.now - this.#startedAt) / 1000);
    return seconds % (this.#upSeconds + this.#downSeconds) >= this.#upSeconds;
  }

  #endWrite(io: Io): number {
    if (this.#does.errorWrites) return -EIO;
    io.complete(0);
    return SUBMITTED;
  }

  /** Where reads fail or lie, nobody is told of holes: they would not be read. */
  #status(io: Io): number {
    const tells = !this.#does.errorReads && !this.#corruptsReads;
    if (tells || (io.flags & FLAG_DEPTH) !== 0) return this.#range.remap(io);
    (io.extents as ExtentList).push(io.length, 0);
    io.complete(0);
    return SUBMITTED;
  }

  #write(io: Io): number {
    const fixed = this.#appliesTo(io, 'w');
    const probability = happens(this.#does.randomWriteCorrupt) ? probabilityBase : 0;
    if (fixed === null && probability === 0) return this.#range.remap(io);
    const { arena } = this.#context.engine;
    const copy = arena.allocate(io.length);
    if (copy < 0) return -ENOMEM;
    arena.copy(copy, io.memory, io.length);
    return this.#submitChild(io, copy, fixed, probability);
  }

  #submitChild(
    parent: Io,
    memory: number,
    fixed: CorruptByte | null = null,
    probability = 0,
  ): number {
    const child = this.#context.ios.take(parent.operation, parent.offset, parent.length, this);
    child.flags = parent.flags & ~FLAG_HOLES_OK;
    child.memory = memory;
    child.parent = parent;
    if (child.operation === WRITE) this.#corrupt(child, fixed, probability);
    this.#range.remap(child);
    this.#range.backing.submit(child);
    return SUBMITTED;
  }

  /** The byte to replace in this Io, or null. */
  #appliesTo(io: Io, direction: 'r' | 'w'): CorruptByte | null {
    const fixed = this.#does.corruptByte;
    if (fixed === null || fixed.direction !== direction || fixed.nth > io.length) return null;
    return (bioFlags(io) & fixed.flags) >>> 0 === fixed.flags ? fixed : null;
  }

  #corrupt(io: Io, fixed: CorruptByte | null, probability: number): void {
    const { bytes } = this.#context.engine.arena;
    if (fixed !== null) bytes[io.memory + fixed.nth - 1] = fixed.value;
    if (happens(probability)) {
      const at = Math.floor(Math.random() * io.length);
      bytes[io.memory + at] = Math.floor(Math.random() * 256);
    }
  }
}

function bioFlags(io: Io): number {
  const operation = io.operation === READ ? BIO_READ : BIO_WRITE;
  return (io.flags & FLAG_FUA) !== 0 ? operation | BIO_FUA : operation;
}

function happens(probability: number): boolean {
  return probability > 0 && Math.random() * probabilityBase < probability;
}
