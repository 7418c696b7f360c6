/**
 * Backings that are arrays in memory, for tests of the copy engine: an operation ends at once or
 * waits until the test ends it, in whatever order, and fails where the test says so.
 */

import type { Backing, Features } from '../../src/backing/backing.js';
import { copyMemoryBytes } from '../../src/base/limits.js';
import { EXTENT_HOLE, EXTENT_ZERO } from '../../src/device/extent-list.js';
import {
  FLAG_HOLES_OK,
  type Io,
  IoPool,
  type Operation,
  READ,
  STATUS,
  WRITE,
  ZERO,
} from '../../src/device/io.js';
import { Arena } from '../../src/engine/arena.js';
import { FakeEngine } from '../contract/fake-engine.js';

export const blockBytes = 4096;

export class PlainBacking implements Backing {
  readonly name: string;
  readonly identity = {};
  readonly bytes: Uint8Array;
  /** A byte for each block: 1 is data, whatever it holds; 0 is a hole. */
  readonly allocated: Uint8Array;
  readonly features: Features;
  readonly calls: { operation: Operation; offset: number; length: number }[] = [];
  readonly #world: CopyWorld;
  /** The errno of an operation, 0: none. It then has no effect. */
  fails: (io: Io) => number = () => 0;

  constructor(world: CopyWorld, name: string, bytes: number) {
    this.#world = world;
    this.name = name;
    this.bytes = new Uint8Array(bytes);
    this.allocated = new Uint8Array(Math.ceil(bytes / blockBytes));
    this.features = {
      writable: true,
      trim: true,
      fastZero: true,
      extents: true,
      rotational: false,
      blockBytes: 1,
    };
  }

  /** Data as it has been there from the start. */
  fill(offset: number, data: Uint8Array): void {
    this.bytes.set(data, offset);
    this.#allocate(offset, offset + data.length, 1);
  }

  size(): number {
    return this.bytes.length;
  }

  submit(io: Io): void {
    const { operation, backingOffset: offset, length } = io;
    if (offset < 0 || offset + length > this.bytes.length) throw new Error('out of range');
    this.calls.push({ operation, offset, length });
    this.#world.begin(() => io.complete(this.#carryOut(io)));
  }

  #carryOut(io: Io): number {
    const errno = this.fails(io);
    if (errno !== 0) return errno;
    const { backingOffset: offset, length, memory } = io;
    const end = offset + length;
    const arena = this.#world.engine.arena.bytes;
    if (io.operation === READ) this.#read(io, offset, end);
    else if (io.operation === WRITE) this.fill(offset, arena.slice(memory, memory + length));
    else if (io.operation === ZERO) {
      this.bytes.fill(0, offset, end);
      this.#allocate(offset, end, 0);
    } else if (io.operation === STATUS) this.#status(io, offset, end);
    else throw new Error(`operation ${io.operation}`);
    return 0;
  }

  #read(io: Io, offset: number, end: number): void {
    if ((io.flags & FLAG_HOLES_OK) !== 0 && this.#isHole(offset, end)) io.allZero = true;
    else this.#world.engine.arena.bytes.set(this.bytes.subarray(offset, end), io.memory);
  }

  #isHole(offset: number, end: number): boolean {
    const first = Math.floor(offset / blockBytes);
    return this.allocated.subarray(first, Math.ceil(end / blockBytes)).every((b) => b === 0);
  }

  #status(io: Io, offset: number, end: number): void {
    const limit = this.#world.extentsPerStatus;
    for (let at = offset, count = 0; at < end && count < limit; count++) {
      const block = Math.floor(at / blockBytes);
      const next = Math.min(end, (block + 1) * blockBytes);
      const flags = this.allocated[block] === 0 ? EXTENT_HOLE | EXTENT_ZERO : 0;
      if (io.extents?.push(next - at, flags) !== true) return;
      at = next;
    }
  }

  #allocate(offset: number, end: number, value: 0 | 1): void {
    // A hole is made of whole blocks only, data touches a part.
    const whole = value === 0;
    const first = whole ? Math.ceil(offset / blockBytes) : Math.floor(offset / blockBytes);
    const last = whole ? Math.floor(end / blockBytes) : Math.ceil(end / blockBytes);
    if (last > first) this.allocated.fill(value, first, last);
  }
}

class RoomyEngine extends FakeEngine {
  override readonly arena = new Arena(copyMemoryBytes + 16 * 2 ** 20);
}

export class CopyWorld {
  readonly engine = new RoomyEngine();
  readonly ios = new IoPool();
  readonly #underWay: (() => void)[] = [];
  /** Whether an operation ends as it is submitted. */
  atOnce: () => boolean = () => false;
  /** Which of those under way ends next. */
  pick: (count: number) => number = () => 0;
  extentsPerStatus = Number.POSITIVE_INFINITY;

  get underWay(): number {
    return this.#underWay.length;
  }

  backing(name: string, bytes: number): PlainBacking {
    return new PlainBacking(this, name, bytes);
  }

  begin(operation: () => void): void {
    if (this.atOnce()) operation();
    else this.#underWay.push(operation);
  }

  /** Ends one operation, or lets the clock go on to a timer. False: there is neither. */
  step(): boolean {
    if (this.#underWay.length === 0) return this.engine.turn();
    const [operation] = this.#underWay.splice(this.pick(this.#underWay.length), 1);
    operation?.();
    return true;
  }

  run(): void {
    while (this.step());
  }
}
