/**
 * A file on Node's fs. Its asynchronous calls cost a detour through the thread pool, some twenty
 * microseconds, where a small read or write from or to the page cache takes one. So small buffered
 * ones are made synchronously, as long as the stall guard lets them; everything else, and all that
 * waits for a disk by its nature (O_DIRECT, flush, FUA), goes to the pool.
 *
 * A completion that is called by a synchronous operation often starts the next. Such a chain goes
 * through the pool every few links, so that it neither fills the stack nor keeps the thread.
 *
 * Node cannot punch holes, zero ranges or seek holes, and the file says so.
 */

import {
  closeSync,
  fdatasync,
  fstatSync,
  read as readOnPool,
  readSync,
  write as writeOnPool,
  writeSync,
} from 'node:fs';
import { assert } from '../../base/assert.js';
import { EOPNOTSUPP } from '../../base/errno.js';
import { blockBytesMin, blockingBytesMax, blockingDepthMax } from '../../base/limits.js';
import { type Completion, type EngineFile, FUA, type OpenOptions } from '../engine.js';
import { fileIdentity, isRotational, openFile } from '../file-facts.js';
import { StallGuard } from '../stall-guard.js';
import { blockDeviceBytes } from './block-device.js';
import type { NodeEngine } from './engine.js';
import { resultOf } from './system-error.js';

/** The smallest block that a disk has. */
const sectorBytes = 512;

export class NodeFile implements EngineFile {
  readonly path: string;
  readonly identity: string;
  readonly writable: boolean;
  readonly direct: boolean;
  readonly alignmentBytes: number;
  readonly rotational: boolean;
  readonly canTrim = false;
  readonly canZero = false;
  readonly canExtents = false;

  readonly #engine: NodeEngine;
  readonly #bytes: Uint8Array;
  readonly #fd: number;
  /** st_rdev of a block device; null for a regular file. */
  readonly #device: bigint | null;
  readonly #guard = new StallGuard();

  constructor(engine: NodeEngine, path: string, options: OpenOptions) {
    this.#engine = engine;
    this.#bytes = engine.arena.bytes;
    this.path = path;
    this.writable = options.writable;
    this.direct = options.direct;
    this.#fd = openFile(path, options);
    try {
      const stat = fstatSync(this.#fd, { bigint: true });
      this.#device = stat.isBlockDevice() ? stat.rdev : null;
      this.identity = fileIdentity(stat);
      this.rotational = isRotational(stat);
      this.alignmentBytes = options.direct ? this.#directAlignment() : 1;
      this.size();
    } catch (error) {
      closeSync(this.#fd);
      throw error;
    }
  }

  /**
   * Disks have blocks of 512 or 4096 bytes, and a file system may want its own block size. A read
   * of one sector, from the second on and into memory that is aligned no better, tells whether 512
   * will do; a file that is too short to tell gets 4096, which always does.
   */
  #directAlignment(): number {
    const arena = this.#engine.arena;
    const memory = arena.allocate(blockBytesMin);
    if (memory < 0) return blockBytesMin;
    let bytes = 0;
    try {
      bytes = readSync(this.#fd, this.#bytes, memory + sectorBytes, sectorBytes, sectorBytes);
    } catch {
      // Refused: that is the answer. A disk that fails will say so again.
    }
    arena.free(memory, blockBytesMin);
    return bytes === sectorBytes ? sectorBytes : blockBytesMin;
  }

  size(): number {
    return this.#device === null ? fstatSync(this.#fd).size : blockDeviceBytes(this.#device);
  }

  read(offset: number, memory: number, length: number, completion: Completion): void {
    if (this.#mayBlock(length)) {
      const start = this.#guard.startOf(this.#engine.lastReading);
      let result: number;
      try {
        result = readSync(this.#fd, this.#bytes, memory, length, offset);
      } catch (error) {
        result = resultOf(error);
      }
      this.#blocked(start, result, completion);
      return;
    }
    readOnPool(this.#fd, this.#bytes, memory, length, offset, (error, count) => {
      this.#engine.enter();
      completion.done(error === null ? count : resultOf(error));
    });
  }

  write(
    offset: number,
    memory: number,
    length: number,
    flags: number,
    completion: Completion,
  ): void {
    if ((flags & FUA) !== 0) {
      this.#writeDurably(offset, memory, length, completion);
      return;
    }
    if (this.#mayBlock(length)) {
      const start = this.#guard.startOf(this.#engine.lastReading);
      let result: number;
      try {
        result = writeSync(this.#fd, this.#bytes, memory, length, offset);
      } catch (error) {
        result = resultOf(error);
      }
      this.#blocked(start, result, completion);
      return;
    }
    writeOnPool(this.#fd, this.#bytes, memory, length, offset, (error, count) => {
      this.#engine.enter();
      completion.done(error === null ? count : resultOf(error));
    });
  }

  /** Node has no write with RWF_DSYNC: a write, and fdatasync behind it. */
  #writeDurably(offset: number, memory: number, length: number, completion: Completion): void {
    writeOnPool(this.#fd, this.#bytes, memory, length, offset, (error, count) => {
      if (error !== null) {
        this.#engine.enter();
        completion.done(resultOf(error));
        return;
      }
      fdatasync(this.#fd, (syncError) => {
        this.#engine.enter();
        completion.done(syncError === null ? count : resultOf(syncError));
      });
    });
  }

  flush(completion: Completion): void {
    fdatasync(this.#fd, (error) => {
      this.#engine.enter();
      completion.done(error === null ? 0 : resultOf(error));
    });
  }

  trim(_offset: number, _length: number, completion: Completion): void {
    completion.done(-EOPNOTSUPP);
  }

  zero(_offset: number, _length: number, completion: Completion): void {
    completion.done(-EOPNOTSUPP);
  }

  extentEnd(_offset: number): number {
    assert(false, 'extents are asked only of a file that can tell them');
  }

  close(): void {
    closeSync(this.#fd);
  }

  #mayBlock(length: number): boolean {
    const engine = this.#engine;
    return (
      length <= blockingBytesMax &&
      !this.direct &&
      engine.blockingDepth < blockingDepthMax &&
      this.#guard.mayBlock(engine.now)
    );
  }

  #blocked(start: number, result: number, completion: Completion): void {
    const engine = this.#engine;
    engine.lastReading = this.#guard.endOf(start);
    engine.blockingDepth++;
    completion.done(result);
    engine.blockingDepth--;
  }
}
