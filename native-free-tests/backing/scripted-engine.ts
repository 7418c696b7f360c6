/**
 * The fake engine with disks that do what a test tells them: an operation stays under way until it
 * is told to end, in whatever order, and may then be short or fail. When what it does happens (as
 * it starts, or as it ends) is the test's choice too, as it is a real disk's.
 */

import { EINVAL, ENOENT } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import { Arena } from '../../src/engine/arena.js';
import type { Completion, EngineFile, OpenOptions, SendVector } from '../../src/engine/engine.js';
import { ArenaSendVector } from '../../src/engine/send-vector.js';
import { FakeEngine } from '../contract/fake-engine.js';

const MiB = 1024 * 1024;

export class ScriptedEngine extends FakeEngine {
  override readonly arena: Arena;
  readonly disks = new Map<string, Disk>();
  /** Operations under way, the oldest first. */
  readonly underWay: { run: () => number; completion: Completion }[] = [];
  /** Which of the operations under way ends next. */
  pick: (count: number) => number = () => 0;
  /** Whether an operation takes effect as it starts. */
  early: () => boolean = () => false;

  constructor(arenaBytes = 64 * MiB) {
    super();
    this.arena = new Arena(arenaBytes);
  }

  /** Operations end in random order and take effect at random times. */
  shuffle(random: (limit: number) => number): void {
    this.pick = random;
    this.early = () => random(2) === 0;
  }

  override open(
    path: string,
    options: OpenOptions = { writable: true, direct: false },
  ): EngineFile {
    const disk = this.disks.get(path);
    if (disk === undefined) throw new MapperError(ENOENT, `cannot open ${path}: ENOENT`);
    const errno = disk.openErrno(options);
    if (errno !== 0) throw new MapperError(errno, `cannot open ${path}`);
    return new ScriptedFile(this, disk, path, options);
  }

  override sendVector(capacity?: number): SendVector {
    return new ArenaSendVector(this.arena, 0, capacity ?? 1);
  }

  override start(run: () => number, completion: Completion): void {
    if (!this.early()) {
      this.underWay.push({ run, completion });
      return;
    }
    const result = run();
    this.underWay.push({ run: () => result, completion });
  }

  /** Ends an operation, by its place among those under way. */
  end(index: number): void {
    const [operation] = this.underWay.splice(index, 1);
    if (operation === undefined) throw new Error(`no operation ${index} is under way`);
    operation.completion.done(operation.run());
  }

  /** Works until the promise settles; throws if it never will. */
  override async wait<T>(promise: Promise<T>): Promise<T> {
    let settled = false;
    const settle = (): void => {
      settled = true;
    };
    promise.then(settle, settle);
    await null;
    while (!settled) {
      if (!this.turn()) {
        // Promises that wait for one another may come to an operation in the end.
        await new Promise((resolve) => setImmediate(resolve));
        if (!settled && !this.turn()) throw new Error('nothing is under way that would end it');
      }
      await null;
    }
    return promise;
  }

  override turn(): boolean {
    if (this.underWay.length === 0) return super.turn();
    this.end(this.pick(this.underWay.length));
    this.advance(0);
    return true;
  }
}

/** An operation that reached a disk, and through which descriptor. */
export interface Call {
  readonly what: 'read' | 'write' | 'flush' | 'trim' | 'zero';
  readonly offset: number;
  readonly length: number;
  readonly flags: number;
  readonly direct: boolean;
}

/** The file system allocates and frees whole blocks. */
export const fileBlockBytes = 4096;

/** What is beneath the paths and descriptors: contents and abilities. */
export class Disk {
  readonly identity: string;
  bytes: Uint8Array;
  readonly allocated: Uint8Array;
  readonly calls: Call[] = [];
  canTrim = true;
  canZero = true;
  canExtents = true;
  rotational = false;
  /** Under O_DIRECT. */
  alignmentBytes = 512;
  /** What the ranges of `trim` and `zero` must be multiples of, as on a block device. */
  eraseAlignmentBytes = 1;
  /** Descriptors that are open. */
  descriptors = 0;
  /** Operations come and do not end, until they are let go. */
  stuck = false;
  readonly held: (() => void)[] = [];
  openErrno: (options: OpenOptions) => number = () => 0;
  /** At most that many bytes, or a negative errno and nothing done. Undefined: all goes well. */
  script: (call: Call) => number | undefined = () => undefined;

  constructor(engine: ScriptedEngine, path: string, bytes: number) {
    this.identity = `disk of ${path}`;
    this.bytes = new Uint8Array(bytes);
    this.allocated = new Uint8Array(Math.ceil(bytes / fileBlockBytes));
    engine.disks.set(path, this);
  }

  /** The calls so far as short texts, and starts anew: `write 0+4096 fua`. */
  takeCalls(): string[] {
    return this.calls.splice(0).map(({ what, offset, length, flags, direct }) => {
      const where = what === 'flush' ? '' : ` ${offset}+${length}`;
      return `${what}${where}${flags === 0 ? '' : ' fua'}${direct ? ' direct' : ''}`;
    });
  }

  /** Operations that were held go on: the one at that place, or all, also those still to come. */
  letGo(index?: number): void {
    if (index === undefined) this.stuck = false;
    for (const start of this.held.splice(index ?? 0, index === undefined ? Infinity : 1)) start();
  }

  allocate(offset: number, end: number): void {
    this.allocated.fill(1, Math.floor(offset / fileBlockBytes), Math.ceil(end / fileBlockBytes));
  }

  release(offset: number, end: number): void {
    this.allocated.fill(0, Math.ceil(offset / fileBlockBytes), Math.floor(end / fileBlockBytes));
  }
}

class ScriptedFile implements EngineFile {
  readonly path: string;
  readonly identity: string;
  readonly writable: boolean;
  readonly direct: boolean;
  readonly alignmentBytes: number;
  readonly rotational: boolean;
  readonly canTrim: boolean;
  readonly canZero: boolean;
  readonly canExtents: boolean;
  readonly #engine: ScriptedEngine;
  readonly #disk: Disk;
  #open = true;
  #underWay = 0;

  constructor(engine: ScriptedEngine, disk: Disk, path: string, options: OpenOptions) {
    this.#engine = engine;
    this.#disk = disk;
    this.path = path;
    this.identity = disk.identity;
    this.writable = options.writable;
    this.direct = options.direct;
    this.alignmentBytes = options.direct ? disk.alignmentBytes : 1;
    this.rotational = disk.rotational;
    this.canTrim = options.writable && disk.canTrim;
    this.canZero = options.writable && disk.canZero;
    this.canExtents = disk.canExtents;
    disk.descriptors++;
  }

  size(): number {
    return this.#disk.bytes.length;
  }

  read(offset: number, memory: number, length: number, completion: Completion): void {
    const { bytes } = this.#engine.arena;
    this.#start('read', offset, length, 0, memory, completion, (count) => {
      bytes.set(this.#disk.bytes.subarray(offset, offset + count), memory);
      return count;
    });
  }

  write(
    offset: number,
    memory: number,
    length: number,
    flags: number,
    completion: Completion,
  ): void {
    const { bytes } = this.#engine.arena;
    this.#start('write', offset, length, flags, memory, completion, (count) => {
      this.#disk.bytes.set(bytes.subarray(memory, memory + count), offset);
      this.#disk.allocate(offset, offset + count);
      return count;
    });
  }

  flush(completion: Completion): void {
    this.#start('flush', 0, 0, 0, 0, completion, () => 0);
  }

  trim(offset: number, length: number, completion: Completion): void {
    this.#start('trim', offset, length, 0, 0, completion, () => {
      this.#disk.bytes.fill(0, offset, offset + length);
      this.#disk.release(offset, offset + length);
      return 0;
    });
  }

  zero(offset: number, length: number, completion: Completion): void {
    this.#start('zero', offset, length, 0, 0, completion, () => {
      this.#disk.bytes.fill(0, offset, offset + length);
      this.#disk.allocate(offset, offset + length);
      return 0;
    });
  }

  extentEnd(offset: number): number {
    const { allocated, bytes } = this.#disk;
    const first = Math.floor(offset / fileBlockBytes);
    if (first >= allocated.length) return -bytes.length;
    let block = first + 1;
    while (block < allocated.length && allocated[block] === allocated[first]) block++;
    const end = Math.min(bytes.length, block * fileBlockBytes);
    return allocated[first] === 1 ? end : -end;
  }

  close(): void {
    if (!this.#open) throw new Error(`${this.path} is closed twice`);
    if (this.#underWay > 0) throw new Error(`${this.path} is closed with operations under way`);
    this.#open = false;
    this.#disk.descriptors--;
  }

  #start(
    what: Call['what'],
    offset: number,
    length: number,
    flags: number,
    memory: number,
    completion: Completion,
    run: (count: number) => number,
  ): void {
    if (!this.#open) throw new Error(`${what} of ${this.path}, which is closed`);
    if (what !== 'flush' && length <= 0) throw new Error(`${what} of ${length} bytes`);
    if (what !== 'read' && what !== 'flush' && !this.writable)
      throw new Error(`${what}: read-only`);
    const call: Call = { what, offset, length, flags, direct: this.direct };
    this.#disk.calls.push(call);
    this.#underWay++;
    const ended: Completion = {
      done: (result) => {
        this.#underWay--;
        completion.done(result);
      },
    };
    const erases = what === 'trim' || what === 'zero';
    const unit = erases ? this.#disk.eraseAlignmentBytes : this.alignmentBytes;
    const aligned = offset % unit === 0 && length % unit === 0 && (erases || memory % unit === 0);
    const carryOut = (): number => {
      if (!aligned) return -EINVAL;
      const scripted = this.#disk.script(call) ?? length;
      if (scripted < 0) return scripted;
      return run(Math.min(scripted, length, Math.max(0, this.size() - offset)));
    };
    const begin = (): void => this.#engine.start(carryOut, ended);
    if (this.#disk.stuck) this.#disk.held.push(begin);
    else begin();
  }
}
