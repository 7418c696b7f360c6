/**
 * An engine in memory, for tests: files are sparse maps of pages, the clock stands still until a
 * test moves it. An operation is carried out in the turn after the one that started it, so that a
 * buffer given back too early shows; a whole turn's operations may end in reverse order.
 */

import { ENOENT, ENOSYS } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import { timerMilliseconds } from '../../src/base/limits.js';
import { Arena } from '../../src/engine/arena.js';
import type {
  Completion,
  Engine,
  EngineFile,
  EngineListener,
  SendVector,
  Timer,
  TurnEnd,
} from '../../src/engine/engine.js';

interface Operation {
  readonly run: () => number;
  readonly completion: Completion;
}

interface FakeTimer extends Timer {
  readonly number: number;
  readonly completion: Completion;
}

export class FakeEngine implements Engine {
  readonly name = 'simulated';
  readonly arena = new Arena(16 * 2 ** 20);
  now = 0;
  /** Operations of one turn end in the reverse of the order in which they were started. */
  reversed = false;
  readonly files = new Map<string, FakeFile>();
  #operations: Operation[] = [];
  #timers: FakeTimer[] = [];
  #turnEnds: TurnEnd[] = [];
  #number = 0;

  get timers(): number {
    return this.#timers.length;
  }

  clock(): number {
    return this.now;
  }

  open(path: string): EngineFile {
    const file = this.files.get(path);
    if (file === undefined) throw new MapperError(ENOENT, `cannot open "${path}"`);
    return file;
  }

  listen(): Promise<EngineListener> {
    return Promise.reject(new MapperError(ENOSYS, 'the fake engine has no sockets'));
  }

  sendVector(): SendVector {
    throw new MapperError(ENOSYS, 'the fake engine has no sockets');
  }

  timer(milliseconds: number, completion: Completion): Timer {
    if (!(milliseconds >= 0 && milliseconds <= timerMilliseconds)) {
      throw new RangeError(`a timer of ${milliseconds} ms`);
    }
    const timer = { due: this.now + milliseconds, number: this.#number++, completion };
    this.#timers.push(timer);
    this.#timers.sort((a, b) => a.due - b.due || a.number - b.number);
    return timer;
  }

  cancelTimer(timer: Timer): void {
    this.#timers = this.#timers.filter((each) => each !== timer);
  }

  atTurnEnd(hook: TurnEnd): void {
    this.#turnEnds.push(hook);
  }

  promiseResolved(): void {}

  onWake(): null {
    return null;
  }

  run(): Promise<void> {
    return Promise.reject(new MapperError(ENOSYS, 'the fake engine is driven by its test'));
  }

  stop(): void {}

  start(run: () => number, completion: Completion): void {
    this.#operations.push({ run, completion });
  }

  /** Carries out what was started, or moves the clock to the next timer. False: nothing to do. */
  turn(): boolean {
    if (this.#operations.length > 0) this.#complete();
    else if (this.#timers[0] !== undefined) this.#fire(this.#timers[0].due);
    else return this.#endTurn();
    this.#endTurn();
    return true;
  }

  /** Lets that much time pass, with all that happens in it. */
  advance(milliseconds: number): void {
    const until = this.now + milliseconds;
    for (;;) {
      const due = this.#timers[0]?.due ?? Number.POSITIVE_INFINITY;
      if (this.#operations.length > 0) this.#complete();
      else if (due <= until) this.#fire(due);
      else if (!this.#endTurn()) break;
    }
    this.now = until;
  }

  /** Works until the promise settles; throws if it never will. */
  async wait<T>(promise: Promise<T>): Promise<T> {
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
        if (!settled && !this.turn()) {
          throw new Error('an io is lost: it has not ended and nothing is under way');
        }
      }
      await null;
    }
    return promise;
  }

  #complete(): void {
    const operations = this.#operations;
    this.#operations = [];
    if (this.reversed) operations.reverse();
    for (const { run, completion } of operations) completion.done(run());
  }

  #fire(due: number): void {
    this.now = Math.max(this.now, due);
    while (this.#timers[0] !== undefined && this.#timers[0].due <= this.now) {
      this.#timers.shift()?.completion.done(0);
    }
  }

  #endTurn(): boolean {
    const hooks = this.#turnEnds;
    this.#turnEnds = [];
    for (const hook of hooks) hook.turnEnd();
    return hooks.length > 0;
  }
}

const pageBytes = 4096;

/** One operation that reached a file, and when. */
export interface Record {
  readonly what: 'read' | 'write' | 'flush' | 'trim' | 'zero';
  readonly offset: number;
  readonly length: number;
  readonly flags: number;
  readonly at: number;
}

export class FakeFile implements EngineFile {
  readonly path: string;
  readonly identity: string;
  readonly writable = true;
  readonly direct = false;
  readonly alignmentBytes = 1;
  readonly rotational = false;
  readonly canTrim = true;
  readonly canZero = true;
  readonly canExtents = true;
  /** Operations that came, in their order. */
  readonly records: Record[] = [];
  /** Not 0: every operation fails with it. */
  errno = 0;
  readonly #engine: FakeEngine;
  readonly #bytes: number;
  readonly #pages = new Map<number, Uint8Array>();

  constructor(engine: FakeEngine, path: string, bytes: number) {
    this.#engine = engine;
    this.path = path;
    this.identity = path;
    this.#bytes = bytes;
    engine.files.set(path, this);
  }

  size(): number {
    return this.#bytes;
  }

  read(offset: number, memory: number, length: number, completion: Completion): void {
    this.#start('read', offset, length, 0, completion, () => {
      this.#each(offset, length, (page, from, to, at) => {
        const bytes = this.#engine.arena.bytes.subarray(memory + at, memory + at + (to - from));
        const data = this.#pages.get(page);
        if (data === undefined) bytes.fill(0);
        else bytes.set(data.subarray(from, to));
      });
      return length;
    });
  }

  write(
    offset: number,
    memory: number,
    length: number,
    flags: number,
    completion: Completion,
  ): void {
    this.#start('write', offset, length, flags, completion, () => {
      this.#each(offset, length, (page, from, to, at) => {
        const bytes = this.#engine.arena.bytes.subarray(memory + at, memory + at + (to - from));
        const data = this.#pages.get(page) ?? new Uint8Array(pageBytes);
        data.set(bytes, from);
        this.#pages.set(page, data);
      });
      return length;
    });
  }

  flush(completion: Completion): void {
    this.#start('flush', 0, 0, 0, completion, () => 0);
  }

  trim(offset: number, length: number, completion: Completion): void {
    this.#start('trim', offset, length, 0, completion, () => this.#erase(offset, length, false));
  }

  zero(offset: number, length: number, completion: Completion): void {
    this.#start('zero', offset, length, 0, completion, () => this.#erase(offset, length, true));
  }

  extentEnd(offset: number): number {
    const hole = !this.#pages.has(Math.floor(offset / pageBytes));
    let page = Math.floor(offset / pageBytes) + 1;
    while (page * pageBytes < this.#bytes && this.#pages.has(page) !== hole) page++;
    const end = Math.min(page * pageBytes, this.#bytes);
    return hole ? -end : end;
  }

  close(): void {}

  #erase(offset: number, length: number, keep: boolean): number {
    this.#each(offset, length, (page, from, to) => {
      if (to - from === pageBytes && !keep) this.#pages.delete(page);
      else if (keep && !this.#pages.has(page)) this.#pages.set(page, new Uint8Array(pageBytes));
      this.#pages.get(page)?.fill(0, from, to);
    });
    return 0;
  }

  #start(
    what: Record['what'],
    offset: number,
    length: number,
    flags: number,
    completion: Completion,
    run: () => number,
  ): void {
    if (offset < 0 || offset + length > this.#bytes) {
      throw new Error(`${what} of ${length} at ${offset}: ${this.path} has ${this.#bytes} bytes`);
    }
    this.records.push({ what, offset, length, flags, at: this.#engine.now });
    const { errno } = this;
    this.#engine.start(errno === 0 ? run : () => -errno, completion);
  }

  /** Calls with page number, first byte and end within the page, and distance from `offset`. */
  #each(
    offset: number,
    length: number,
    visit: (page: number, from: number, to: number, at: number) => void,
  ): void {
    for (let at = 0; at < length; ) {
      const page = Math.floor((offset + at) / pageBytes);
      const from = offset + at - page * pageBytes;
      const to = Math.min(pageBytes, from + length - at);
      visit(page, from, to, at);
      at += to - from;
    }
  }
}
