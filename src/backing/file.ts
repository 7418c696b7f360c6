/**
 * A file or block device as a backing: each Io becomes one operation of the engine, and is
 * continued where that was short. What the file system cannot do is done another way: ZERO by
 * writing zeroes, unaligned requests under O_DIRECT through a second, buffered descriptor (the
 * kernel keeps the two coherent), unaligned buffers through an aligned copy.
 *
 * Several tables may have the same file open; they share one FileBacking for each way of opening
 * it, and all of those share one hole cache, so that a write through one is known to all.
 */

import { assert } from '../base/assert.js';
import {
  EAGAIN,
  EDQUOT,
  EFBIG,
  EINVAL,
  EIO,
  ENOMEM,
  ENOSPC,
  EOPNOTSUPP,
  errnoName,
} from '../base/errno.js';
import { blockBytesMax } from '../base/limits.js';
import type { ErrorLog } from '../device/error-log.js';
import { EXTENT_HOLE, EXTENT_ZERO } from '../device/extent-list.js';
import {
  FLAG_DEPTH,
  FLAG_FAST,
  FLAG_FUA,
  FLAG_HOLES_OK,
  FLAG_NO_HOLE,
  FLAG_ONE,
  FLUSH,
  type Io,
  type IoContinuation,
  operationNames,
  READ,
  STATUS,
  TRIM,
  WRITE,
  ZERO,
} from '../device/io.js';
import {
  COPY_BY_CLONE,
  COPY_BY_SYSTEM,
  type CopyWay,
  type Engine,
  type EngineFile,
  FUA,
} from '../engine/engine.js';
import type { Features } from './backing.js';
import type { HoleCache } from './hole-cache.js';

/** What an Io is doing, in `io.stage`. At first it goes to the file as it was opened. */
const BUFFERED = 1;
/** TRIM, or ZERO that may leave a hole. `io.progress` is `writesStarted` as it was, or -1. */
const PUNCHING = 2;
/** ZERO that keeps the space. */
const ZEROING = 3;
/** ZERO by writing zeroes. */
const WRITING_ZEROES = 4;
/** The flush that makes a TRIM or ZERO with FUA durable. */
const FLUSHING = 5;
/** WRITE of what another file holds, by the system. `io.progress` is the way, until it ends. */
const COPYING = 6;

/** Errors of a copy by the system that say nothing of the next one. */
const passing: readonly number[] = [EAGAIN, EDQUOT, EFBIG, EIO, ENOMEM, ENOSPC];
/** What a clone's offsets and length must be multiples of, in nearly all file systems. */
const cloneBytes = 4096;

/**
 * Direct transfers keep to whole pages of the page cache, even where the disk's blocks are smaller:
 * the kernel cannot drop a page for a direct write while a buffered write makes it dirty, and the
 * next flush would fail.
 */
const pageBytes = 4096;

export class FileBacking implements IoContinuation {
  readonly features: Features;
  readonly #engine: Engine;
  readonly #file: EngineFile;
  /** For unaligned requests on a file opened with O_DIRECT; otherwise the file itself. */
  readonly #buffered: EngineFile;
  readonly #alignment: number;
  /** What a direct transfer begins and ends at a multiple of. */
  readonly #unit: number;
  readonly #holes: HoleCache;
  readonly #errors: ErrorLog;
  /** File systems tell only by refusing that they cannot. */
  #canTrim: boolean;
  #canZero: boolean;
  /** The best way in which the system can copy from a file to here; null: in none. */
  readonly #copyWays = new WeakMap<FileBacking, CopyWay | null>();

  constructor(
    engine: Engine,
    file: EngineFile,
    buffered: EngineFile,
    holes: HoleCache,
    errors: ErrorLog,
  ) {
    this.#engine = engine;
    this.#file = file;
    this.#buffered = buffered;
    this.#alignment = file.alignmentBytes;
    this.#unit = Math.max(pageBytes, file.alignmentBytes);
    this.#holes = holes;
    this.#errors = errors;
    this.#canTrim = file.canTrim;
    this.#canZero = file.canZero;
    this.features = {
      writable: file.writable,
      trim: file.canTrim,
      fastZero: file.canZero || file.canTrim,
      extents: file.canExtents,
      rotational: file.rotational,
      blockBytes: file.alignmentBytes === 1 ? 1 : this.#unit,
    };
  }

  get path(): string {
    return this.#file.path;
  }

  size(): number {
    return this.#file.size();
  }

  submit(io: Io): void {
    io.continuation = this;
    switch (io.operation) {
      case READ:
        this.#read(io);
        return;
      case WRITE:
        this.#writeStarts(io);
        if (this.#alignment > 1) this.#align(io);
        this.#transfer(io);
        return;
      case FLUSH:
        this.#file.flush(io);
        return;
      case TRIM:
        if (this.#canTrim) this.#punch(io);
        else io.complete(0);
        return;
      case ZERO:
        this.#zero(io);
        return;
      case STATUS:
        this.#status(io);
        return;
      default:
        assert(false, `operation ${io.operation} is known`);
    }
  }

  /** IoContinuation: the engine's answer. */
  ended(io: Io, result: number): void {
    if (io.stage === COPYING) this.#copied(io, result);
    else if (result < 0) this.#failed(io, -result);
    else if (io.operation === READ || io.operation === WRITE) this.#transferred(io, result);
    else if (io.stage === WRITING_ZEROES) this.#zeroesWritten(io, result);
    else if (io.stage === PUNCHING) this.#punched(io);
    else if (io.stage === ZEROING) this.#durably(io);
    else this.#succeeded(io);
  }

  /** How the system can copy that range from another file, as far as is known; null: not at all. */
  copyWay(source: FileBacking, from: number, to: number, length: number): CopyWay | null {
    let way = this.#copyWays.get(source);
    if (way === undefined) {
      const can =
        source.#file.copyTo !== undefined && source.#file.identity !== this.#file.identity;
      way = can ? COPY_BY_CLONE : null;
      this.#copyWays.set(source, way);
    }
    if (way !== COPY_BY_CLONE) return way;
    const whole = from % cloneBytes === 0 && to % cloneBytes === 0 && length % cloneBytes === 0;
    return whole ? way : this.#lesserWay(source);
  }

  /** Past the page cache there is none: the system's copies go through it. */
  #lesserWay(source: FileBacking): CopyWay | null {
    return this.#file.direct || source.#file.direct ? null : COPY_BY_SYSTEM;
  }

  /**
   * Carries out a WRITE with what `source` holds at `sourceOffset`, in the way that `copyWay` told.
   * The Io completes with its `progress`, more than 0 unless it fails; an error is nothing but a
   * reason to copy otherwise, and not logged.
   */
  copyFrom(io: Io, source: FileBacking, sourceOffset: number, way: CopyWay): void {
    io.continuation = this;
    io.stage = COPYING;
    io.holds = source;
    io.progress = way;
    this.#writeStarts(io);
    source.#file.copyTo?.(this.#file, sourceOffset, io.backingOffset, io.length, way, io);
  }

  #copied(io: Io, result: number): void {
    const source = io.holds as FileBacking;
    const way = io.progress;
    io.holds = null;
    this.#writeEnds();
    if (result < 0 && !passing.includes(-result) && this.#copyWays.get(source) === way) {
      this.#copyWays.set(source, way === COPY_BY_CLONE ? this.#lesserWay(source) : null);
    }
    io.progress = Math.max(0, result);
    io.complete(result > 0 ? 0 : -result || EIO);
  }

  #read(io: Io): void {
    if (this.#holes.count > 0 && (io.flags & FLAG_HOLES_OK) !== 0) {
      const end = io.backingOffset + io.length;
      if (this.#holes.covers(io.backingOffset, end)) {
        io.allZero = true;
        io.complete(0);
        return;
      }
      if (io.extents !== null) this.#holes.describe(io.backingOffset, end, io.extents);
    }
    if (this.#alignment > 1) this.#align(io);
    this.#transfer(io);
  }

  /** Under O_DIRECT: decides whether this Io can go there, if need be from an aligned copy. */
  #align(io: Io): void {
    const mask = this.#alignment - 1;
    if (io.backingOffset % this.#unit !== 0 || io.length % this.#unit !== 0) {
      io.stage = BUFFERED;
    } else if ((io.memory & mask) !== 0) {
      const copy = io.length <= blockBytesMax ? this.#engine.arena.allocate(io.length) : -1;
      if (copy < 0) {
        io.stage = BUFFERED;
      } else {
        io.bounce = copy;
        if (io.operation === WRITE) this.#engine.arena.copy(copy, io.memory, io.length);
      }
    }
  }

  /** Moves what is left of a READ or WRITE. */
  #transfer(io: Io): void {
    const file = io.stage === BUFFERED ? this.#buffered : this.#file;
    const offset = io.backingOffset + io.progress;
    const memory = (io.bounce === 0 ? io.memory : io.bounce) + io.progress;
    const length = io.length - io.progress;
    if (io.operation === READ) file.read(offset, memory, length, io);
    else file.write(offset, memory, length, (io.flags & FLAG_FUA) !== 0 ? FUA : 0, io);
  }

  #transferred(io: Io, result: number): void {
    io.progress += result;
    if (io.progress === io.length) {
      this.#succeeded(io);
    } else if (result === 0) {
      // The table was checked against the file's size, so somebody has cut it.
      this.#failed(io, EIO, 'end of file');
    } else {
      // The rest of a direct transfer may be unaligned.
      if (this.#alignment > 1 && io.progress % this.#unit !== 0) io.stage = BUFFERED;
      this.#transfer(io);
    }
  }

  #punch(io: Io): void {
    io.stage = PUNCHING;
    io.progress = this.#holes.writes === 0 ? this.#holes.writesStarted : -1;
    this.#file.trim(io.backingOffset, io.length, io);
  }

  #punched(io: Io): void {
    const holes = this.#holes;
    if (holes.writes === 0 && holes.writesStarted === io.progress) {
      holes.add(io.backingOffset, io.backingOffset + io.length);
    }
    this.#durably(io);
  }

  #zero(io: Io): void {
    if (this.#canTrim && (io.flags & FLAG_NO_HOLE) === 0) {
      this.#punch(io);
    } else if (this.#canZero) {
      io.stage = ZEROING;
      this.#writeStarts(io);
      this.#file.zero(io.backingOffset, io.length, io);
    } else {
      this.#zeroByWriting(io);
    }
  }

  #zeroByWriting(io: Io): void {
    if ((io.flags & FLAG_FAST) !== 0) {
      io.complete(EOPNOTSUPP);
    } else {
      io.stage = WRITING_ZEROES;
      io.progress = 0;
      this.#writeStarts(io);
      this.#writeZeroes(io);
    }
  }

  #writeZeroes(io: Io): void {
    const arena = this.#engine.arena;
    const length = Math.min(io.length - io.progress, arena.zeroesBytes);
    const flags = (io.flags & FLAG_FUA) !== 0 ? FUA : 0;
    this.#buffered.write(io.backingOffset + io.progress, arena.zeroes, length, flags, io);
  }

  #zeroesWritten(io: Io, result: number): void {
    io.progress += result;
    if (result === 0) this.#failed(io, EIO, 'end of file');
    else if (io.progress < io.length) this.#writeZeroes(io);
    else this.#succeeded(io);
  }

  /** A TRIM or ZERO is done; with FUA it is flushed before it is answered. */
  #durably(io: Io): void {
    if (io.stage === ZEROING) this.#writeEnds();
    if ((io.flags & FLAG_FUA) === 0) {
      io.complete(0);
    } else {
      io.stage = FLUSHING;
      this.#file.flush(io);
    }
  }

  /** Asks the file for its extents, as many as the list holds. */
  #status(io: Io): void {
    const list = io.extents;
    assert(list !== null, 'a status request brings a list');
    const end = io.backingOffset + io.length;
    let position = io.backingOffset;
    const depth = (io.flags & FLAG_DEPTH) !== 0;
    if (depth || !this.#file.canExtents) {
      // A file is the lowest layer there is: all of it is there.
      list.push(io.length, depth ? 1 : 0);
      io.complete(0);
      return;
    }
    while (position < end) {
      const result = this.#file.extentEnd(position);
      const hole = result < 0;
      const extentEnd = Math.min(end, Math.abs(result));
      if (extentEnd <= position) {
        // Behind the end of a file that was cut: a read will tell.
        list.push(end - position, 0);
        break;
      }
      if (!list.push(extentEnd - position, hole ? EXTENT_HOLE | EXTENT_ZERO : 0)) break;
      if (hole && this.#holes.writes === 0) this.#holes.add(position, extentEnd);
      position = extentEnd;
      if ((io.flags & FLAG_ONE) !== 0) break;
    }
    io.complete(0);
  }

  #writeStarts(io: Io): void {
    const holes = this.#holes;
    holes.writes++;
    holes.writesStarted++;
    if (holes.count > 0) holes.forget(io.backingOffset, io.backingOffset + io.length);
  }

  #writeEnds(): void {
    this.#holes.writes--;
  }

  /** Ends an Io for which `writeStarts` was called, or that is none. */
  #release(io: Io): void {
    if (io.operation === WRITE || io.stage === WRITING_ZEROES || io.stage === ZEROING) {
      this.#writeEnds();
    }
    if (io.bounce !== 0) this.#engine.arena.free(io.bounce, io.length);
    io.bounce = 0;
  }

  #succeeded(io: Io): void {
    if (io.bounce !== 0 && io.operation === READ) {
      this.#engine.arena.copy(io.memory, io.bounce, io.length);
    }
    this.#release(io);
    io.complete(0);
  }

  #failed(io: Io, errno: number, what = errnoName(errno)): void {
    this.#release(io);
    if (this.#doOtherwise(io, errno)) return;
    const operation = operationNames[io.operation];
    const { backingOffset: offset, length } = io;
    this.#errors.report(
      { path: this.path, operation, offset, length, code: errnoName(errno) },
      `${operation} of ${length} bytes at ${offset} of ${this.path} failed: ${what}`,
    );
    io.complete(errno);
  }

  /**
   * Punching or zeroing was refused; true when there is another way. EOPNOTSUPP means that it never
   * works, EINVAL that the range is not of whole blocks, which a block device insists on.
   */
  #doOtherwise(io: Io, errno: number): boolean {
    const { stage } = io;
    if (stage !== PUNCHING && stage !== ZEROING) return false;
    if (errno !== EOPNOTSUPP && errno !== EINVAL) return false;
    io.stage = 0;
    if (errno === EOPNOTSUPP) {
      if (stage === PUNCHING) this.#canTrim = false;
      else this.#canZero = false;
    }
    if (io.operation === TRIM) io.complete(0);
    else if (errno === EINVAL) this.#zeroByWriting(io);
    else this.#zero(io);
    return true;
  }
}
