/** The target suite's world on the fake engine, and backings over its files. */

import type { Backing, Features } from '../../src/backing/backing.js';
import { EINVAL, ENOENT } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import { CopyEngine } from '../../src/copy/engine.js';
import { EXTENT_HOLE, EXTENT_ZERO, type ExtentList } from '../../src/device/extent-list.js';
import {
  FLAG_DEPTH,
  FLAG_FUA,
  FLAG_NO_HOLE,
  FLAG_ONE,
  FLUSH,
  type Io,
  type IoContinuation,
  IoPool,
  READ,
  STATUS,
  TRIM,
  WRITE,
} from '../../src/device/io.js';
import { FUA } from '../../src/engine/engine.js';
import { FakeEngine, FakeFile } from './fake-engine.js';
import type { TargetHarness } from './harness.js';

export class FakeHarness implements TargetHarness {
  readonly engine = new FakeEngine();
  readonly ios = new IoPool();
  readonly copies = new CopyEngine(this.engine, this.ios);
  readonly #backings = new Map<string, FakeBacking>();

  makeBacking(name: string, sectors: number): string {
    const word = `/fake/${name}`;
    this.#backings.set(word, new FakeBacking(new FakeFile(this.engine, word, sectors * 512)));
    return word;
  }

  openBacking(word: string, sectorsNeeded: number): Backing {
    const backing = this.#backings.get(word);
    if (backing === undefined) throw new MapperError(ENOENT, `cannot open "${word}"`);
    const sectors = backing.size() / 512;
    if (sectors < sectorsNeeded) {
      throw new MapperError(EINVAL, `"${word}" has ${sectors} sectors, wanted ${sectorsNeeded}`);
    }
    return backing;
  }

  file(word: string): FakeFile {
    return this.engine.open(word) as FakeFile;
  }

  wait<T>(promise: Promise<T>): Promise<T> {
    return this.engine.wait(promise);
  }

  close(): void {}
}

class FakeBacking implements Backing, IoContinuation {
  readonly name: string;
  readonly identity: object = this;
  readonly features: Features = {
    writable: true,
    trim: true,
    fastZero: true,
    extents: true,
    rotational: false,
    blockBytes: 1,
  };
  readonly #file: FakeFile;

  constructor(file: FakeFile) {
    this.name = file.path;
    this.#file = file;
  }

  size(): number {
    return this.#file.size();
  }

  submit(io: Io): void {
    const { backingOffset: offset, memory, length } = io;
    io.continuation = this;
    if (io.operation === READ) {
      this.#file.read(offset, memory, length, io);
    } else if (io.operation === WRITE) {
      this.#file.write(offset, memory, length, (io.flags & FLAG_FUA) !== 0 ? FUA : 0, io);
    } else if (io.operation === FLUSH) {
      this.#file.flush(io);
    } else if (io.operation === STATUS) {
      this.#describe(io, io.extents as ExtentList);
    } else if (io.operation === TRIM || (io.flags & FLAG_NO_HOLE) === 0) {
      this.#file.trim(offset, length, io);
    } else {
      this.#file.zero(offset, length, io);
    }
  }

  ended(io: Io, result: number): void {
    io.complete(result < 0 ? -result : 0);
  }

  #describe(io: Io, extents: ExtentList): void {
    const end = io.backingOffset + io.length;
    let at = io.backingOffset;
    if ((io.flags & FLAG_DEPTH) !== 0) {
      extents.push(io.length, 1);
      io.complete(0);
      return;
    }
    do {
      const result = this.#file.extentEnd(at);
      const next = Math.min(end, Math.abs(result));
      if (!extents.push(next - at, result < 0 ? EXTENT_HOLE | EXTENT_ZERO : 0)) break;
      at = next;
    } while (at < end && (io.flags & FLAG_ONE) === 0);
    io.complete(0);
  }
}
