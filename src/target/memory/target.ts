/** Memory: a sparse disk in RAM, gone with its table. See README.md. */

import { type Backing, commonFeatures, type Features } from '../../backing/backing.js';
import { EXTENT_HOLE, EXTENT_ZERO, type ExtentList } from '../../device/extent-list.js';
import {
  FLAG_DEPTH,
  FLAG_HOLES_OK,
  FLAG_NO_HOLE,
  FLAG_ONE,
  type Io,
  READ,
  STATUS,
  TRIM,
  WRITE,
} from '../../device/io.js';
import { checkCount } from '../arguments.js';
import { SUBMITTED, type Target, type TargetContext, type TargetType } from '../target.js';
import { memoryBudget, type PageBudget } from './budget.js';
import { PageMap, type PageState } from './pages.js';

/** STATUS looks at no more than this, so that a long range does not hold up the queue thread. */
const statusBytes = 16 * 2 ** 30;

const flagsOf: Record<PageState, number> = {
  hole: EXTENT_HOLE | EXTENT_ZERO,
  zeroes: EXTENT_ZERO,
  data: 0,
};

const depthOf: Record<PageState, number> = { hole: 0, zeroes: 1, data: 1 };

export const memory: TargetType = {
  name: 'memory',
  version: [1, 0, 0],
  create(args, context) {
    checkCount(args, 'No arguments required', 0);
    return createMemoryTarget(context, memoryBudget);
  },
};

/** A memory target that takes its pages out of that budget. */
export function createMemoryTarget(context: TargetContext, budget: PageBudget): Target {
  return new MemoryTarget(context, budget);
}

class MemoryTarget implements Target {
  readonly type = memory;
  readonly maxIoSectors = 0;
  readonly backings: readonly Backing[] = [];
  readonly features: Features = { ...commonFeatures([]), extents: true };
  readonly #pages: PageMap;
  /** The arena as a Buffer, which pages are copied from and to. */
  readonly #arena: Buffer;
  readonly #beginBytes: number;

  constructor(context: TargetContext, budget: PageBudget) {
    this.#pages = new PageMap(context.lengthSectors * 512, budget);
    this.#arena = Buffer.from(context.engine.arena.bytes.buffer);
    this.#beginBytes = context.beginSectors * 512;
  }

  map(io: Io): number {
    const errno = this.#carryOut(io, io.offset - this.#beginBytes);
    if (errno !== 0) return -errno;
    io.complete(0);
    return SUBMITTED;
  }

  /** Returns 0 or an errno. */
  #carryOut(io: Io, offset: number): number {
    const pages = this.#pages;
    switch (io.operation) {
      case READ:
        this.#read(io, offset);
        return 0;
      case WRITE:
        return pages.write(offset, io.length, this.#arena, io.memory);
      case TRIM:
        pages.trim(offset, io.length);
        return 0;
      case STATUS:
        this.#describe(io, offset, Math.min(io.length, statusBytes), io.extents as ExtentList);
        return 0;
      default:
        if ((io.flags & FLAG_NO_HOLE) !== 0) {
          return pages.zeroAllocated(offset, io.length);
        }
        pages.zero(offset, io.length);
        return 0;
    }
  }

  #read(io: Io, offset: number): void {
    if ((io.flags & FLAG_HOLES_OK) !== 0) {
      const end = offset + io.length;
      if (this.#isZero(offset, end)) {
        io.allZero = true;
        return;
      }
      const { extents } = io;
      // Only a full account is of use to the owner of a READ.
      if (extents !== null && this.#describe(io, offset, io.length, extents) < end) extents.clear();
    }
    this.#pages.read(offset, io.length, this.#arena, io.memory);
  }

  /** Whether no page in the range was ever written. */
  #isZero(offset: number, end: number): boolean {
    let at = offset;
    while (at < end) {
      if (this.#pages.stateAt(at) === 'data') return false;
      at = this.#pages.stateEnd(at, end);
    }
    return true;
  }

  /** Appends extents, as many as fit or are wanted; returns how far they reach. */
  #describe(io: Io, offset: number, length: number, extents: ExtentList): number {
    const end = offset + length;
    const one = (io.flags & FLAG_ONE) !== 0;
    const told = (io.flags & FLAG_DEPTH) !== 0 ? depthOf : flagsOf;
    let at = offset;
    do {
      const next = this.#pages.stateEnd(at, end);
      if (!extents.push(next - at, told[this.#pages.stateAt(at)])) break;
      at = next;
    } while (at < end && !one);
    return at;
  }

  status(): string {
    return `${this.#pages.allocatedBytes / 512}/${this.#pages.sizeBytes / 512}`;
  }

  table(): string {
    return '';
  }

  destroy(): void {
    this.#pages.clear();
  }
}
