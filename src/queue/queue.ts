/**
 * The main thread's side of the queue thread: starts the worker, asks it (`call`), passes on what
 * it tells. What crosses between the threads is in mailbox.ts.
 *
 * With the uring engine the worker sleeps in the kernel, where no message port wakes it: after each
 * message main writes one byte into a pipe that is in its ring (`wakeFd`).
 */

import { writeSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { parseAddressBlock } from '../base/address-block.js';
import { EIO, ENOSYS, ESHUTDOWN } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import type { LogLevel } from '../base/log-level.js';
import type { EngineChoice } from '../engine/choose.js';
import { type ProtocolOptions, wholeProtocol } from '../nbd/protocol-options.js';
import type { QueueCommand, QueueCommands, QueueEvent } from './commands.js';
import type { Call, FromQueue, Ready } from './mailbox.js';
import type { QueueOptions } from './thread.js';

export interface QueueListener {
  event(event: QueueEvent): void;
  /** The queue thread is gone, and with it every device: nothing can be saved. Called once. */
  failed(error: Error): void;
}

/** Who can be asked; what the control plane needs to know of a queue. */
export interface QueueCalls {
  call<C extends QueueCommand>(
    command: C,
    params: QueueCommands[C]['params'],
  ): Promise<QueueCommands[C]['result']>;
}

/** What a queue thread may be told besides its engine. */
export interface QueueStart {
  /** The whole protocol, if nothing is said. */
  readonly protocol?: ProtocolOptions;
  /** Addresses (CIDR) that are served at all; empty: all. */
  readonly allow?: readonly string[];
  /** Files are locked against other daemons; not, if nothing is said. */
  readonly lock?: boolean;
  /** Real paths of what may be opened; all, if nothing is said. */
  readonly allowedPaths?: readonly string[] | null;
  /** Milliseconds to look for work before sleeping, at most; none, if nothing is said. */
  readonly busyPoll?: number;
  /** The least level that its log has; debug, if nothing is said. */
  readonly logLevel?: LogLevel;
  /** Another program for the thread. */
  readonly thread?: URL;
}

interface Waiter {
  resolve(result: unknown): void;
  reject(error: Error): void;
}

export class Queue implements QueueCalls {
  readonly engine: string;
  /** Why it is not uring, if it is not. */
  readonly engineReason: string | null;
  readonly #worker: Worker;
  readonly #wakeFd: number | null;
  readonly #listener: QueueListener;
  readonly #waiters = new Map<number, Waiter>();
  #nextId = 1;
  /** Told to shut down, so that an end is no failure. */
  #ending = false;
  #killed = false;
  #ended = false;

  /** Resolves when the thread takes commands; rejects if it cannot (no such engine here, say). */
  static start(
    engine: EngineChoice,
    listener: QueueListener,
    start: QueueStart = {},
  ): Promise<Queue> {
    const { protocol = wholeProtocol, allow = [], lock = false, allowedPaths = null } = start;
    const { busyPoll = 0, logLevel = 'debug', thread = usualThread } = start;
    return new Promise((resolve, reject) => {
      for (const block of allow) checkBlock(block);
      const rest = { lock, allowedPaths, busyPoll, logLevel };
      const workerData: QueueOptions = { engine, protocol, allow, ...rest };
      const worker = new Worker(thread, { execArgv: [], workerData });
      const failed = (error: unknown): void => {
        reject(error instanceof Error ? error : new MapperError(EIO, messageOf(error)));
      };
      const exited = (code: number): void => {
        reject(new MapperError(EIO, `queue thread ended with code ${code} before it was ready`));
      };
      // Events may come before it is ready: it logs why it took an engine, say.
      const first = (message: FromQueue): void => {
        if ('event' in message) listener.event(message);
        if ('failed' in message) failed(new MapperError(ENOSYS, message.failed));
        if (!('ready' in message)) return;
        worker.off('message', first).off('error', failed).off('exit', exited);
        resolve(new Queue(worker, message.ready, listener));
      };
      worker.on('message', first).on('error', failed).on('exit', exited);
    });
  }

  private constructor(worker: Worker, ready: Ready['ready'], listener: QueueListener) {
    this.engine = ready.engine;
    this.engineReason = ready.reason;
    this.#worker = worker;
    this.#wakeFd = ready.wakeFd;
    this.#listener = listener;
    worker.on('message', (message: FromQueue) => this.#received(message));
    worker.on('error', (error) => this.#gone(error));
    worker.on('exit', (code) => {
      this.#gone(new MapperError(EIO, `queue thread ended with code ${code}`));
    });
  }

  call<C extends QueueCommand>(
    command: C,
    params: QueueCommands[C]['params'],
  ): Promise<QueueCommands[C]['result']> {
    if (this.#ended) return Promise.reject(new MapperError(ESHUTDOWN, 'queue thread has ended'));
    if (command === 'shutdown') this.#ending = true;
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const settle = resolve as (result: unknown) => void;
      this.#waiters.set(id, { resolve: settle, reject });
      const request: Call = { id, command, params };
      try {
        this.#worker.postMessage(request);
      } catch (error) {
        this.#waiters.delete(id);
        reject(error as Error);
        return;
      }
      this.#wake();
    });
  }

  /**
   * Ends the thread wherever it is. The byte comes after the order to end, so that a thread asleep
   * in the kernel wakes up into it; process.exit would wait for such a thread for ever.
   */
  async kill(): Promise<void> {
    this.#killed = true;
    const ended = this.#worker.terminate();
    this.#wake();
    await ended;
  }

  #wake(): void {
    if (this.#wakeFd === null || this.#ended) return;
    try {
      writeSync(this.#wakeFd, wakeByte);
    } catch (error) {
      // A full pipe wakes as well as one more byte would. A closed one: the thread is ending.
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== 'EAGAIN' && code !== 'EPIPE' && code !== 'EBADF') throw error;
    }
  }

  #received(message: FromQueue): void {
    if ('event' in message) this.#listener.event(message);
    if (!('id' in message)) return;
    const waiter = this.#waiters.get(message.id);
    if (waiter === undefined) return;
    this.#waiters.delete(message.id);
    if ('error' in message) {
      waiter.reject(new MapperError(message.error.errno, message.error.message));
    } else {
      waiter.resolve(message.result);
    }
  }

  #gone(error: Error): void {
    if (this.#ended) return;
    this.#ended = true;
    const unanswered = this.#waiters.size > 0;
    for (const waiter of this.#waiters.values()) {
      waiter.reject(new MapperError(EIO, `queue thread has ended: ${error.message}`));
    }
    this.#waiters.clear();
    if (this.#killed || (this.#ending && !unanswered)) return;
    this.#listener.failed(error);
  }
}

/** Throws MapperError EINVAL. */
function checkBlock(text: string): void {
  try {
    parseAddressBlock(text);
  } catch (error) {
    throw error instanceof MapperError ? error.prefixed('addresses to be served') : error;
  }
}

const wakeByte = new Uint8Array([1]);
const usualThread = new URL('./thread.js', import.meta.url);
