/**
 * A file on a simulated disk. An operation takes effect when it begins, when it ends, or in two
 * parts, as the seed has it; it may be short, slow, or fail, and a write that fails may have
 * written something.
 */

import { EINVAL, EOPNOTSUPP } from '../../src/base/errno.js';
import {
  COPY_BY_CLONE,
  type Completion,
  type CopyWay,
  type EngineFile,
  FUA,
  type OpenOptions,
} from '../../src/engine/engine.js';
import type { SimEngine } from './engine.js';
import { SimEvent } from './event-queue.js';
import type { DiskOperation } from './faults.js';
import type { Inode } from './file-system.js';
import type { FlushPoint, Medium } from './medium.js';
import { sectorBytes } from './stamps.js';

/** What transfers past the page cache must be multiples of. */
const directBytes = 512;
/** What a clone's ranges must be multiples of. */
const cloneBytes = 4096;

const codes: Readonly<Record<DiskOperation, number>> = {
  read: 1,
  write: 2,
  flush: 3,
  trim: 4,
  zero: 5,
};

export class SimFile implements EngineFile {
  readonly path: string;
  readonly identity: string;
  readonly writable: boolean;
  readonly direct: boolean;
  readonly alignmentBytes: number;
  readonly rotational = false;
  readonly canTrim: boolean;
  readonly canZero: boolean;
  readonly canExtents: boolean;
  readonly engine: SimEngine;
  readonly inode: Inode;
  underWay = 0;
  #open = true;

  constructor(engine: SimEngine, path: string, inode: Inode, options: OpenOptions) {
    this.engine = engine;
    this.path = path;
    this.inode = inode;
    this.identity = `inode ${inode.number}`;
    this.writable = options.writable;
    this.direct = options.direct;
    this.alignmentBytes = options.direct ? directBytes : 1;
    this.canTrim = options.writable && engine.machine.canTrim;
    this.canZero = options.writable && engine.machine.canZero;
    this.canExtents = engine.machine.canExtents;
  }

  size(): number {
    return this.inode.medium.size;
  }

  read(offset: number, memory: number, length: number, completion: Completion): void {
    this.#start('read', offset, memory, length, 0, completion);
  }

  write(
    offset: number,
    memory: number,
    length: number,
    flags: number,
    completion: Completion,
  ): void {
    this.#start('write', offset, memory, length, flags, completion);
  }

  flush(completion: Completion): void {
    this.#start('flush', 0, 0, 0, 0, completion);
  }

  trim(offset: number, length: number, completion: Completion): void {
    this.#start('trim', offset, 0, length, 0, completion);
  }

  zero(offset: number, length: number, completion: Completion): void {
    this.#start('zero', offset, 0, length, 0, completion);
  }

  extentEnd(offset: number): number {
    return this.inode.medium.extentEnd(offset);
  }

  copyTo(
    destination: EngineFile,
    sourceOffset: number,
    destinationOffset: number,
    length: number,
    way: CopyWay,
    completion: Completion,
  ): void {
    const { engine } = this;
    const { random, arena } = engine;
    const to = (destination as SimFile).inode.medium;
    const whole = (sourceOffset | destinationOffset | length) % cloneBytes === 0;
    if (!engine.machine.canCopy || (way === COPY_BY_CLONE && !whole)) {
      completion.done(engine.machine.canCopy ? -EINVAL : -EOPNOTSUPP);
      return;
    }
    // As with transfers, no sector is copied by half.
    const part = Math.max(sectorBytes, random.below(length) & -sectorBytes);
    const count = way === COPY_BY_CLONE || random.chance(700) ? length : Math.min(length, part);
    const bytes = Math.min(count, cloneBytes * 16);
    const memory = arena.allocate(bytes);
    this.inode.medium.read(sourceOffset, bytes, arena.bytes, memory);
    to.allocate(destinationOffset, bytes);
    to.answered(to.apply(destinationOffset, bytes, arena.bytes, memory));
    arena.free(memory, bytes);
    engine.effects++;
    engine.hash.add(destinationOffset + 6);
    completion.done(bytes);
  }

  close(): void {
    if (!this.#open) throw new Error(`${this.path} is closed twice`);
    if (this.underWay > 0) throw new Error(`${this.path} is closed with operations under way`);
    this.#open = false;
  }

  #start(
    what: DiskOperation,
    offset: number,
    memory: number,
    length: number,
    flags: number,
    completion: Completion,
  ): void {
    const { engine } = this;
    if (!this.#open) throw new Error(`${what} of ${this.path}, which is closed`);
    if (what !== 'flush' && !(length > 0)) throw new Error(`${what} of ${length} bytes`);
    if (!this.writable && what !== 'read' && what !== 'flush')
      throw new Error(`${what}: read-only`);
    if (what !== 'read' && offset + length > this.size()) {
      throw new Error(`${what} of ${length} at ${offset}: ${this.path} has ${this.size()} bytes`);
    }
    const operation = engine.operations.pop() ?? new FileOperation();
    this.underWay++;
    operation.begin(this, what, { offset, memory, length, flags }, completion);
    engine.hash.add(codes[what] + offset * 8);
    if (engine.endsAtOnce()) engine.atOnce(operation);
    else engine.schedule(operation, engine.diskTime());
  }
}

interface Range {
  readonly offset: number;
  readonly memory: number;
  readonly length: number;
  readonly flags: number;
}

export class FileOperation extends SimEvent {
  #file!: SimFile;
  #completion!: Completion;
  #what: DiskOperation = 'read';
  #offset = 0;
  #memory = 0;
  #flags = 0;
  /** Bytes that will be moved. */
  #count = 0;
  #errno = 0;
  /** How far it has taken effect. */
  #effected = 0;
  #firstVersion = 0;
  #secondVersion = 0;
  #flush: FlushPoint | null = null;

  begin(file: SimFile, what: DiskOperation, range: Range, completion: Completion): void {
    const { engine } = file;
    const { random } = engine;
    const { medium } = file.inode;
    this.#file = file;
    this.#completion = completion;
    this.#what = what;
    this.#offset = range.offset;
    this.#memory = range.memory;
    this.#flags = range.flags;
    this.#count = range.length;
    this.#effected = 0;
    this.#firstVersion = 0;
    this.#secondVersion = 0;
    this.#flush = what === 'flush' ? medium.flushPoint() : null;
    this.#errno = this.#errnoOf(range);
    if (what === 'read')
      this.#count = Math.max(0, Math.min(range.length, medium.size - range.offset));
    const transfers = what === 'read' || what === 'write';
    if (transfers && this.#count > 1 && random.chance(engine.faults.shortPerThousand)) {
      this.#shorten(random.below(this.#count));
    }
    if (this.#errno === 0) this.#effectAtFirst();
  }

  #errnoOf(range: Range): number {
    const { engine, path, direct, inode } = this.#file;
    const what = this.#what;
    const transfers = what === 'read' || what === 'write';
    const mask = directBytes - 1;
    if (direct && transfers && ((range.offset | range.length | range.memory) & mask) !== 0) {
      return EINVAL;
    }
    if (engine.faults.rules.length === 0) return 0;
    const writes = what === 'write' || what === 'zero';
    const wantsSpace = writes && inode.medium.needsSpace(range.offset, range.length);
    return engine.faults.errnoOf(path, what, range, wantsSpace, engine.random);
  }

  #shorten(count: number): void {
    // Half a sector would be torn, where another request is at it as well.
    const unit = sectorBytes;
    this.#count = Math.min(this.#count, Math.max(unit, Math.floor(count / unit) * unit));
  }

  /** All of it, nothing, or a part takes effect as it begins. */
  #effectAtFirst(): void {
    const { random } = this.#file.engine;
    const way = random.below(4);
    if (way < 2 || this.#what === 'flush') return;
    const part = Math.floor(random.below(this.#count) / sectorBytes) * sectorBytes;
    this.#effect(way === 2 ? this.#count : part);
  }

  /** Takes effect as far as that. */
  #effect(end: number): void {
    const from = this.#effected;
    if (end <= from) return;
    this.#effected = end;
    const { engine, inode } = this.#file;
    const { medium } = inode;
    const offset = this.#offset + from;
    const length = end - from;
    if (this.#what === 'read') {
      medium.read(offset, length, engine.arena.bytes, this.#memory + from);
      return;
    }
    engine.effects++;
    const source = this.#what === 'write' ? engine.arena.bytes : null;
    if (this.#what === 'trim') medium.release(offset, length);
    else medium.allocate(offset, length);
    const version = medium.apply(offset, length, source, this.#memory + from);
    if (this.#firstVersion === 0) this.#firstVersion = version;
    else this.#secondVersion = version;
  }

  happen(): void {
    const file = this.#file;
    const { engine, inode } = file;
    const { medium } = inode;
    const completion = this.#completion;
    let result = -this.#errno;
    if (this.#errno !== 0) {
      if (this.#errno !== EINVAL) engine.faults.listener(file.path);
      if (this.#what === 'write' && engine.random.chance(300)) {
        this.#effect(Math.floor(engine.random.below(this.#count) / sectorBytes) * sectorBytes);
      }
    } else {
      this.#effect(this.#count);
      if (this.#flush !== null) this.#endFlush(this.#flush, medium);
      else if (this.#what === 'read' || this.#what === 'write') result = this.#count;
      if ((this.#flags & FUA) !== 0) medium.written(this.#firstVersion, this.#secondVersion);
    }
    medium.answered(this.#firstVersion);
    medium.answered(this.#secondVersion);
    engine.hash.add(result);
    file.underWay--;
    engine.operations.push(this);
    completion.done(result);
  }

  #endFlush(flush: FlushPoint, medium: Medium): void {
    const { engine, path } = this.#file;
    engine.effects++;
    if (engine.faults.liars(path)) return;
    medium.flushed(flush);
    medium.durableSize = medium.size;
  }

  override abandon(): void {
    const { engine, inode } = this.#file;
    const writes = this.#what !== 'read' && this.#what !== 'flush';
    if (writes && this.#errno === 0 && engine.random.chance(500)) {
      this.#effect(Math.floor(engine.random.below(this.#count + 1) / sectorBytes) * sectorBytes);
    }
    inode.medium.answered(this.#firstVersion);
    inode.medium.answered(this.#secondVersion);
  }
}
