/**
 * One copy that somebody asked for, from opening the backings to closing them:
 *
 *   waiting --> running (copying, then flushing) --> done | failed | cancelled
 *
 * A device that it uses can be removed only by force, and then it fails.
 */

import type { BackingUser } from '../backing/device.js';
import { Deferred } from '../base/deferred.js';
import { EINVAL, EROFS, errnoName } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import type { Device } from '../device/device.js';
import { FLUSH, type Io, type IoOwner, type IoPool } from '../device/io.js';
import type { OpenBacking } from '../device/table.js';
import type { Engine } from '../engine/engine.js';
import type { CopyJobInfo, CopyMethod, CopyRequest, CopyState } from '../queue/commands.js';
import type { CopyEngine } from './engine.js';
import {
  COPIED_BY_CLONE,
  COPIED_BY_ENGINE,
  COPIED_BY_SYSTEM,
  COPY_HOLES,
  COPY_INTO_ZEROES,
  COPY_OFFLOAD,
  COPY_ZEROES,
  type CopyJob,
  type CopyOwner,
} from './job.js';
import { Throttle } from './throttle.js';

/** Who has the devices and files. */
export interface BackingSource {
  readonly copies: CopyEngine;
  openBacking(word: string, user: BackingUser, readOnly: boolean): OpenBacking;
}

export interface AskedCopyContext {
  readonly engine: Engine;
  readonly ios: IoPool;
  readonly backings: BackingSource;
  /** It has ended. */
  readonly over: () => void;
}

/** What a job counts. */
type Progress = Pick<CopyJob, 'doneBytes' | 'skippedBytes' | 'offloadedBytes' | 'ways'>;

export class AskedCopy implements BackingUser, CopyOwner, IoOwner {
  readonly id: number;
  readonly #request: CopyRequest;
  readonly #context: AskedCopyContext;
  readonly #open: OpenBacking[] = [];
  readonly #source: OpenBacking;
  readonly #destinations: OpenBacking[];
  readonly #totalBytes: number;
  readonly #started = new Date().toISOString();
  readonly #ended: Deferred<void>;
  #state: CopyState = 'waiting';
  #error: string | null = null;
  /** While it copies. */
  #job: CopyJob | null = null;
  #progress: Progress = { doneBytes: 0, skippedBytes: 0, offloadedBytes: 0, ways: 0 };
  #begunAt = 0;
  #milliseconds = 0;
  #cancelled = false;
  #flushes = 0;

  /** Opens everything; throws MapperError, and then nothing is open. */
  constructor(id: number, request: CopyRequest, context: AskedCopyContext) {
    this.id = id;
    this.#request = request;
    this.#context = context;
    this.#ended = new Deferred(context.engine);
    try {
      this.#source = this.#openBacking(request.source, true);
      this.#destinations = request.destinations.map((word) => this.#openBacking(word, false));
      this.#totalBytes = this.#check();
    } catch (error) {
      this.#close();
      throw error;
    }
  }

  /** BackingUser. */
  get title(): string {
    return `copy ${this.id}`;
  }

  get waiting(): boolean {
    return this.#state === 'waiting';
  }

  get running(): boolean {
    return this.#state === 'running';
  }

  get over(): boolean {
    return !this.waiting && !this.running;
  }

  /** Resolves when it is over. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  begin(): void {
    const { copies } = this.#context.backings;
    const { sourceOffset = 0, destinationOffset = 0, throttlePercent = 100 } = this.#request;
    this.#state = 'running';
    this.#begunAt = this.#context.engine.clock();
    const job = copies.take();
    job.source = this.#source;
    job.sourceOffset = sourceOffset;
    job.length = this.#totalBytes;
    for (const one of this.#destinations) job.addDestination(one, destinationOffset);
    job.flags = flagsOf(this.#request);
    job.throttle = throttlePercent < 100 ? new Throttle(throttlePercent) : null;
    job.owner = this;
    this.#job = job;
    copies.start(job);
  }

  cancel(): void {
    if (this.over) return;
    this.#cancelled = true;
    if (this.waiting) this.#end();
    else this.#job?.cancel();
  }

  deviceRemoved(device: Device): void {
    this.#error ??= `device "${device.name}" was removed`;
    this.cancel();
  }

  copied(job: CopyJob): void {
    this.#job = null;
    const { doneBytes, skippedBytes, offloadedBytes, ways } = job;
    this.#progress = { doneBytes, skippedBytes, offloadedBytes, ways };
    if (job.readError !== 0) {
      this.#error ??= `read of ${this.#source.name} failed: ${errnoName(job.readError)}`;
    } else if (job.writeErrors !== 0) {
      const names = this.#destinations.filter((_, i) => (job.writeErrors & (1 << i)) !== 0);
      const list = names.map(({ name }) => name).join(', ');
      this.#error ??= `write to ${list} failed: ${errnoName(job.writeError)}`;
    }
    if (job.ok && this.#request.flush === true) this.#flush();
    else this.#end();
  }

  /** A flush has ended. */
  finished(io: Io): void {
    const { error } = io;
    const destination = this.#destinations[io.offset];
    this.#context.ios.give(io);
    if (error !== 0) this.#error ??= `flush of ${destination?.name} failed: ${errnoName(error)}`;
    if (--this.#flushes === 0) this.#end();
  }

  info(): CopyJobInfo {
    const { doneBytes, skippedBytes, offloadedBytes, ways } = this.#job ?? this.#progress;
    const { throttlePercent = 100 } = this.#request;
    const milliseconds = this.running
      ? this.#context.engine.clock() - this.#begunAt
      : this.#milliseconds;
    const bytesPerSecond = milliseconds > 0 ? (doneBytes / milliseconds) * 1000 : 0;
    const left = this.running && bytesPerSecond > 0;
    return {
      id: this.id,
      source: this.#source.name,
      destinations: this.#destinations.map(({ name }) => name),
      state: this.#state,
      error: this.#error,
      totalBytes: this.#totalBytes,
      doneBytes,
      skippedBytes,
      offloadedBytes,
      methods: methodsOf(ways),
      throttlePercent,
      started: this.#started,
      milliseconds: Math.round(milliseconds),
      bytesPerSecond: Math.round(bytesPerSecond),
      secondsLeft: left ? (this.#totalBytes - doneBytes) / bytesPerSecond : null,
    };
  }

  #openBacking(word: string, readOnly: boolean): OpenBacking {
    const backing = this.#context.backings.openBacking(word, this, readOnly);
    this.#open.push(backing);
    return backing;
  }

  /** The bytes to be copied; throws MapperError if they do not fit. */
  #check(): number {
    const { sourceOffset = 0, destinationOffset = 0 } = this.#request;
    const available = this.#source.size() - sourceOffset;
    const length = this.#request.length ?? available;
    if (length < 0 || length > available) {
      const wanted = sourceOffset + Math.max(0, this.#request.length ?? 0);
      const text = `"${this.#source.name}" has ${this.#source.size()} bytes, wanted ${wanted}`;
      throw new MapperError(EINVAL, text);
    }
    for (const one of this.#destinations) {
      const size = one.size();
      const wanted = destinationOffset + length;
      if (size < wanted) {
        throw new MapperError(EINVAL, `"${one.name}" has ${size} bytes, wanted ${wanted}`);
      }
      if (!one.features.writable) throw new MapperError(EROFS, `"${one.name}" is read-only`);
      if (one.identity === this.#source.identity) {
        if (Math.abs(sourceOffset - destinationOffset) < length) {
          throw new MapperError(EINVAL, `"${one.name}" would be copied over itself`);
        }
      }
    }
    if (
      new Set(this.#destinations.map(({ identity }) => identity)).size < this.#destinations.length
    ) {
      throw new MapperError(EINVAL, 'two destinations are the same');
    }
    return length;
  }

  #flush(): void {
    this.#flushes = this.#destinations.length;
    this.#destinations.forEach((backing, i) => {
      backing.submit(this.#context.ios.take(FLUSH, i, 0, this));
    });
  }

  #end(): void {
    if (this.running) this.#milliseconds = this.#context.engine.clock() - this.#begunAt;
    if (this.#error !== null) this.#state = 'failed';
    else this.#state = this.#cancelled ? 'cancelled' : 'done';
    // The names are asked for later, and a device's goes with its backing.
    this.#close();
    this.#ended.resolve();
    this.#context.over();
  }

  #close(): void {
    for (const backing of this.#open.splice(0)) backing.close();
  }
}

function flagsOf(request: CopyRequest): number {
  let flags = 0;
  if (request.noHoles !== true) flags |= COPY_HOLES;
  if (request.zeroes === true) flags |= COPY_ZEROES;
  if (request.intoZeroes === true) flags |= COPY_INTO_ZEROES;
  if (request.noOffload !== true) flags |= COPY_OFFLOAD;
  return flags;
}

function methodsOf(ways: number): CopyMethod[] {
  const methods: CopyMethod[] = [];
  if ((ways & COPIED_BY_CLONE) !== 0) methods.push('clone');
  if ((ways & COPIED_BY_SYSTEM) !== 0) methods.push('copy_file_range');
  if ((ways & COPIED_BY_ENGINE) !== 0) methods.push('read and write');
  return methods;
}
