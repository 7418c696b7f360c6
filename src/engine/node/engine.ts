/**
 * The portable engine, on nothing but Node: net for sockets, fs for files, its event loop for the
 * turns. A turn is one pass of the event loop; its hooks run in the check phase (setImmediate),
 * behind everything that the poll phase found: with process.nextTick they would run behind each
 * single callback, and replies that belong together would leave one by one.
 *
 * Promise continuations run by themselves behind each callback.
 */

import { Buffer } from 'node:buffer';
import { timerMilliseconds } from '../../base/limits.js';
import type { Arena } from '../arena.js';
import type {
  Completion,
  ConnectionHandler,
  Engine,
  EngineFile,
  EngineListener,
  ListenSource,
  OpenOptions,
  SendVector,
  Timer,
  TurnEnd,
} from '../engine.js';
import { ArenaSendVector } from '../send-vector.js';
import { Timers } from '../timers.js';
import { NodeFile } from './file.js';
import { NodeListener } from './listener.js';

export class NodeEngine implements Engine {
  readonly name = 'node';
  readonly arena: Arena;
  now = performance.now();

  /** For the engine's own files and sockets: the arena once more, as a Buffer. */
  readonly buffer: Buffer;
  /** The clock as it was last read, perhaps later than `now`. */
  lastReading = this.now;
  /** Completions of blocking calls that are running, one inside the other. */
  blockingDepth = 0;

  readonly #timers = new Timers();
  #timeout: NodeJS.Timeout | null = null;
  /** When the timeout fires, if there is one. */
  #timeoutDue = Number.POSITIVE_INFINITY;

  #hooks: TurnEnd[] = [];
  #hooksRunning: TurnEnd[] = [];

  #stopped = false;
  #ended: (() => void) | null = null;
  /** Keeps the process alive between `run` and `stop`, when there is nothing but to wait. */
  #keepAlive: NodeJS.Timeout | null = null;

  constructor(arena: Arena) {
    this.arena = arena;
    this.buffer = Buffer.from(arena.bytes.buffer, arena.bytes.byteOffset, arena.bytes.byteLength);
  }

  /** To be called first in every callback that comes from the event loop. */
  enter(): void {
    this.now = performance.now();
    this.lastReading = this.now;
  }

  clock(): number {
    return performance.now();
  }

  open(path: string, options: OpenOptions): EngineFile {
    return new NodeFile(this, path, options);
  }

  listen(source: ListenSource, handler: ConnectionHandler): Promise<EngineListener> {
    return NodeListener.listen(this, source, handler);
  }

  sendVector(capacity: number): SendVector {
    return new ArenaSendVector(this.arena, 0, capacity);
  }

  timer(milliseconds: number, completion: Completion): Timer {
    // `now` may be old: a message to this thread is handled without the engine.
    const timer = this.#timers.add(performance.now() + milliseconds, completion);
    this.#setTimeout();
    return timer;
  }

  /** The timeout stays: if nothing else is due when it fires, it is set anew. */
  cancelTimer(timer: Timer): void {
    this.#timers.cancel(timer);
  }

  atTurnEnd(hook: TurnEnd): void {
    if (this.#hooks.length === 0) setImmediate(this.#runHooks);
    this.#hooks.push(hook);
  }

  /** Nothing to do: see the head of the file. */
  promiseResolved(): void {}

  /** Other threads send messages. */
  onWake(_woken: () => void): null {
    return null;
  }

  run(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#stopped) {
        resolve();
        return;
      }
      this.#ended = resolve;
      this.#keepAlive = setInterval(() => {}, timerMilliseconds);
    });
  }

  /** Timers do not run any more. */
  stop(): void {
    this.#stopped = true;
    if (this.#timeout !== null) clearTimeout(this.#timeout);
    if (this.#keepAlive !== null) clearInterval(this.#keepAlive);
    this.#ended?.();
  }

  /** Hooks that these hooks ask for make up the end of the next turn. */
  readonly #runHooks = (): void => {
    this.enter();
    const hooks = this.#hooks;
    this.#hooks = this.#hooksRunning;
    this.#hooksRunning = hooks;
    for (let i = 0; i < hooks.length; i++) (hooks[i] as TurnEnd).turnEnd();
    hooks.length = 0;
  };

  readonly #expire = (): void => {
    this.enter();
    this.#timeout = null;
    this.#timeoutDue = Number.POSITIVE_INFINITY;
    this.#timers.expire(this.now);
    this.#setTimeout();
  };

  /** One timeout of Node's serves the earliest timer. It may fire early, by less than 1 ms. */
  #setTimeout(): void {
    const due = this.#timers.nextDue();
    if (this.#stopped || due === null || due >= this.#timeoutDue) return;
    if (this.#timeout !== null) clearTimeout(this.#timeout);
    const milliseconds = Math.ceil(due - performance.now());
    this.#timeout = setTimeout(this.#expire, Math.min(milliseconds, timerMilliseconds));
    this.#timeout.unref();
    this.#timeoutDue = due;
  }
}
