/**
 * A file on the ring. Reads and writes go there, with one exception: where a file system cannot do
 * them without waiting (buffered writes on ext4, everything on tmpfs), the ring would hand each to
 * a kernel worker, one at a time for a file, which costs more than doing it here and now. So those
 * are plain system calls as long as they return quickly; the stall guard sends them to the ring for
 * a while when one did not (the kernel holds writers up when too many pages are dirty).
 */

import { closeSync, constants, fstatSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { LRUCache } from 'lru-cache';
import { assert } from '../../base/assert.js';
import { EAGAIN, EINVAL, ENXIO, EOPNOTSUPP } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { blockingBytesMax, fileSystems } from '../../base/limits.js';
import {
  COPY_BY_CLONE,
  type Completion,
  type CopyWay,
  type EngineFile,
  FUA,
  type OpenOptions,
} from '../engine.js';
import { fileIdentity, isRotational, openFile } from '../file-facts.js';
import { StallGuard } from '../stall-guard.js';
import type { UringEngine } from './engine.js';
import { OP_FALLOCATE, OP_FSYNC, OP_READ, OP_WRITE, type Ring } from './ring.js';
import { SEEK_DATA, SEEK_END, SEEK_HOLE, type System } from './system.js';

const RWF_DSYNC = 2;
const RWF_NOWAIT = 8;
const FSYNC_DATASYNC = 1;
const FALLOC_KEEP_SIZE = 1;
const FALLOC_PUNCH_HOLE = 2;
const FALLOC_ZERO_RANGE = 16;
const BLKSSZGET = 0x1268;

/** What the file system beneath a file can do. */
interface Abilities {
  /** Buffered writes without waiting. */
  readonly nowaitWrites: boolean;
  readonly punch: boolean;
  readonly zeroRange: boolean;
}

export class UringFile implements EngineFile {
  readonly path: string;
  readonly identity: string;
  readonly writable: boolean;
  readonly direct: boolean;
  readonly alignmentBytes: number;
  readonly rotational: boolean;
  readonly canTrim: boolean;
  readonly canZero: boolean;
  readonly canExtents: boolean;

  readonly #engine: UringEngine;
  readonly #ring: Ring;
  readonly #system: System;
  readonly #base: number;
  readonly #fd: number;
  /** The same for the ring. */
  readonly #ringFile: number;
  readonly #guard = new StallGuard();
  /** For copies from here, which may stall for the sake of either file. */
  readonly #copyGuard = new StallGuard();
  readonly #blockingReads: boolean;
  readonly #blockingWrites: boolean;

  constructor(engine: UringEngine, path: string, options: OpenOptions) {
    this.#engine = engine;
    this.#ring = engine.ring;
    this.#system = engine.system;
    this.#base = engine.base;
    this.path = path;
    this.writable = options.writable;
    this.direct = options.direct;
    this.#fd = openFile(path, options);
    this.#ringFile = engine.ring.addFile(this.#fd);
    const stat = fstatSync(this.#fd, { bigint: true });
    const block = stat.isBlockDevice();
    this.identity = fileIdentity(stat);
    this.rotational = isRotational(stat);
    this.alignmentBytes = options.direct ? this.#directAlignment(block) : 1;
    const abilities = block
      ? { nowaitWrites: false, punch: true, zeroRange: true }
      : probeDirectory(this.#system, dirname(path), stat.dev);
    this.canTrim = options.writable && abilities.punch;
    this.canZero = options.writable && abilities.zeroRange;
    this.canExtents = !block && this.#system.lseek(this.#fd, 0, SEEK_HOLE) !== -EINVAL;
    this.#blockingReads = !options.direct && !this.#readsWithoutWaiting();
    this.#blockingWrites = !options.direct && !abilities.nowaitWrites;
  }

  #directAlignment(block: boolean): number {
    if (block) {
      const size = this.#system.ioctlNumber(this.#fd, BLKSSZGET, 4);
      return size > 0 ? size : 4096;
    }
    const arena = this.#engine.arena;
    const memory = arena.allocate(4096);
    const result = this.#system.pread(this.#fd, this.#base + memory, 512, 0);
    arena.free(memory, 4096);
    return result === 512 ? 512 : 4096;
  }

  #readsWithoutWaiting(): boolean {
    const result = this.#system.transferWithFlags(
      false,
      this.#fd,
      new Uint8Array(1),
      0,
      RWF_NOWAIT,
    );
    return result !== -EOPNOTSUPP;
  }

  size(): number {
    return Math.max(0, this.#system.lseek(this.#fd, 0, SEEK_END));
  }

  read(offset: number, memory: number, length: number, completion: Completion): void {
    if (this.#blockingReads && this.#mayBlock(length)) {
      const result = this.#system.pread(this.#fd, this.#base + memory, length, offset);
      this.#engine.blocked(this.#guard, completion, result);
      return;
    }
    this.#ring.submit(OP_READ, this.#ringFile, offset, this.#base + memory, length, 0, completion);
  }

  write(
    offset: number,
    memory: number,
    length: number,
    flags: number,
    completion: Completion,
  ): void {
    const durable = (flags & FUA) !== 0;
    if (this.#blockingWrites && !durable && this.#mayBlock(length)) {
      const result = this.#system.pwrite(this.#fd, this.#base + memory, length, offset);
      this.#engine.blocked(this.#guard, completion, result);
      return;
    }
    const address = this.#base + memory;
    const rw = durable ? RWF_DSYNC : 0;
    this.#ring.submit(OP_WRITE, this.#ringFile, offset, address, length, rw, completion);
  }

  #mayBlock(length: number): boolean {
    return (
      length <= blockingBytesMax && this.#engine.mayBlock && this.#guard.mayBlock(this.#engine.now)
    );
  }

  flush(completion: Completion): void {
    this.#ring.submit(OP_FSYNC, this.#ringFile, 0, 0, 0, FSYNC_DATASYNC, completion);
  }

  trim(offset: number, length: number, completion: Completion): void {
    this.#fallocate(FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, offset, length, completion);
  }

  zero(offset: number, length: number, completion: Completion): void {
    this.#fallocate(FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, offset, length, completion);
  }

  /** The operation takes its mode where others take the length, and its length as the address. */
  #fallocate(mode: number, offset: number, length: number, completion: Completion): void {
    this.#ring.submit(OP_FALLOCATE, this.#ringFile, offset, length, mode, 0, completion);
  }

  extentEnd(offset: number): number {
    const data = this.#system.lseek(this.#fd, offset, SEEK_DATA);
    if (data === -ENXIO) return -this.size();
    if (data < 0) return this.size();
    if (data > offset) return -data;
    const hole = this.#system.lseek(this.#fd, offset, SEEK_HOLE);
    return hole < 0 ? this.size() : hole;
  }

  /** The ring knows no such operation: these are plain system calls, as long as they are quick. */
  copyTo(
    destination: EngineFile,
    sourceOffset: number,
    destinationOffset: number,
    length: number,
    way: CopyWay,
    completion: Completion,
  ): void {
    assert(destination instanceof UringFile, 'files of one engine are copied to one another');
    const { now } = this.#engine;
    if (!this.#copyGuard.mayBlock(now) || !destination.#guard.mayBlock(now)) {
      completion.done(-EAGAIN);
      return;
    }
    const system = this.#system;
    const fd = destination.#fd;
    const start = performance.now();
    let result: number;
    if (way === COPY_BY_CLONE) {
      result = system.cloneRange(this.#fd, sourceOffset, fd, destinationOffset, length);
      if (result === 0) result = length;
    } else {
      const bytes = Math.min(length, blockingBytesMax);
      result = system.copyFileRange(this.#fd, sourceOffset, fd, destinationOffset, bytes);
    }
    const end = performance.now();
    this.#copyGuard.took(end - start, end);
    completion.done(result);
  }

  close(): void {
    this.#ring.removeFile(this.#ringFile);
    closeSync(this.#fd);
  }
}

/** Abilities by file system, so that each of those in use is tried once. */
const known = new LRUCache<bigint, Abilities>({ max: fileSystems });

/**
 * Tries what the file system of a directory can do on a nameless file there. Where none can be made
 * (a read-only file system) writing does not matter much, and a refusal is still heard later.
 */
function probeDirectory(system: System, directory: string, device: bigint): Abilities {
  const before = known.get(device);
  if (before !== undefined) return before;
  const O_TMPFILE = 0o20000000 | constants.O_DIRECTORY;
  let fd: number;
  try {
    fd = openSync(directory, O_TMPFILE | constants.O_RDWR, 0o600);
  } catch {
    return { nowaitWrites: false, punch: true, zeroRange: true };
  }
  try {
    const page = new Uint8Array(4096);
    writeSync(fd, page, 0, page.length, 0);
    const nowait = system.transferWithFlags(true, fd, page, 0, RWF_NOWAIT);
    const able = (mode: number): boolean =>
      system.fallocate(fd, mode | FALLOC_KEEP_SIZE, 0, page.length) === 0;
    const abilities = {
      nowaitWrites: nowait >= 0 || nowait === -EAGAIN,
      punch: able(FALLOC_PUNCH_HOLE),
      zeroRange: able(FALLOC_ZERO_RANGE),
    };
    ftruncateSync(fd, 0);
    known.set(device, abilities);
    return abilities;
  } catch (error) {
    if (error instanceof MapperError) throw error;
    return { nowaitWrites: false, punch: true, zeroRange: true };
  } finally {
    closeSync(fd);
  }
}
