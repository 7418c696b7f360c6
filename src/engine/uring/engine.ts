/**
 * The io_uring engine. One turn of its loop is one system call: it submits everything that was
 * queued and waits for the first completion; then all completions are handled, and what they cause
 * is queued for the next turn.
 *
 *   hooks (replies leave) -> continuations -> enter: submit and wait -> timers -> completions
 *        ^------------------------------------------------------------------------------'
 *
 * The loop blocks its thread. Promise continuations run only while it awaits, which it does in
 * turns that resolved a promise; the event loop as a whole (message ports) gets its chance then
 * too.
 */

import { performance } from 'node:perf_hooks';
import { setImmediate as nextEventLoopTurn } from 'node:timers/promises';
import { assert } from '../../base/assert.js';
import { blockingDepthMax, connections } from '../../base/limits.js';
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
import type { StallGuard } from '../stall-guard.js';
import { Timers } from '../timers.js';
import { BusyPoll } from './busy-poll.js';
import { UringFile } from './file.js';
import { UringListener } from './listener.js';
import { getEventsBytes, OP_READ, Ring } from './ring.js';
import { messageHeaderBytes } from './socket.js';
import { System } from './system.js';

/** Blocking calls between two looks at the clock. */
const blockingCallsAtOnce = 8;
/** Looks at the ring between two looks at the clock. */
const looksAtOnce = 16;

export class UringEngine implements Engine {
  readonly name = 'uring';
  readonly arena: Arena;
  readonly system: System;
  readonly ring: Ring;
  /** Address of the arena's first byte. */
  readonly base: number;
  now = performance.now();

  readonly #timers = new Timers();
  readonly #busyPoll: BusyPoll;
  /** Hooks of this turn are the first `#hookCount`; the array keeps its length. */
  readonly #hooks: (TurnEnd | null)[] = [];
  #hookCount = 0;
  #promiseResolved = false;
  #stopped = false;
  /** struct io_uring_getevents_arg, and the struct timespec it points at behind it. */
  readonly #waitArgument: number;
  readonly #messageHeaders: number[] = [];
  #blockingCalls = 0;
  #blockingSince = 0;
  #blockingDepth = 0;

  private constructor(system: System, arena: Arena, busyPoll: number) {
    this.system = system;
    this.#busyPoll = new BusyPoll(busyPoll);
    this.arena = arena;
    this.ring = new Ring(system);
    this.base = system.addressOf(arena.bytes);
    arena.useNativeCopy((target, source, length) => {
      system.memcpy(this.base + target, this.base + source, length);
    });
    this.#waitArgument = arena.allocate(4096);
    arena.zero(this.#waitArgument, 4096);
    const timespec = this.base + this.#waitArgument + getEventsBytes;
    arena.view.setBigUint64(this.#waitArgument + 16, BigInt(timespec), true);
    // One more than there may be connections: that one is accepted in order to be refused.
    const headers = arena.allocate((connections + 1) * messageHeaderBytes);
    for (let i = connections; i >= 0; i--) {
      this.#messageHeaders.push(headers + i * messageHeaderBytes);
    }
  }

  /**
   * Throws an Error that says why io_uring cannot be used here. `busyPoll`: milliseconds to look for
   * completions, at most, before the thread sleeps.
   */
  static async create(arena: Arena, busyPoll = 0): Promise<UringEngine> {
    return new UringEngine(await System.load(), arena, busyPoll);
  }

  clock(): number {
    return performance.now();
  }

  open(path: string, options: OpenOptions): EngineFile {
    return new UringFile(this, path, options);
  }

  async listen(source: ListenSource, handler: ConnectionHandler): Promise<EngineListener> {
    return new UringListener(this, source, handler);
  }

  sendVector(capacity: number): SendVector {
    return new ArenaSendVector(this.arena, this.base, capacity);
  }

  timer(milliseconds: number, completion: Completion): Timer {
    return this.#timers.add(performance.now() + milliseconds, completion);
  }

  cancelTimer(timer: Timer): void {
    this.#timers.cancel(timer);
  }

  atTurnEnd(hook: TurnEnd): void {
    this.#hooks[this.#hookCount++] = hook;
  }

  promiseResolved(): void {
    this.#promiseResolved = true;
  }

  onWake(woken: () => void): number {
    const [readEnd, writeEnd] = this.system.pipe();
    const memory = this.arena.allocate(4096);
    const listen = (): void => {
      this.ring.submit(OP_READ, readEnd, -1, this.base + memory, 4096, 0, completion);
    };
    const completion: Completion = {
      done: () => {
        listen();
        // What it does may well be asynchronous.
        this.promiseResolved();
        woken();
      },
    };
    listen();
    return writeEnd;
  }

  async run(): Promise<void> {
    let more = false;
    while (!this.#stopped) {
      this.#runHooks();
      if (this.#promiseResolved) {
        this.#promiseResolved = false;
        await nextEventLoopTurn();
        this.now = performance.now();
        if (this.#hookCount > 0 || this.#promiseResolved || this.#stopped) continue;
      }
      this.#enter(!more);
      this.now = performance.now();
      this.#blockingSince = this.now;
      this.#timers.expire(this.now);
      more = this.ring.reap();
    }
    this.ring.close();
  }

  stop(): void {
    this.#stopped = true;
  }

  /** Submits, and waits for a completion, or until the next timer is due. */
  #enter(wait: boolean): void {
    const { window } = this.#busyPoll;
    if (!wait) {
      this.ring.enter(false, 0);
    } else if (window === 0) {
      // A turn of work counts as a short sleep: looking costs nothing while there is work.
      const before = this.now;
      this.#sleep();
      this.#busyPoll.slept(performance.now() - before);
    } else {
      this.ring.enter(false, 0);
      if (!this.ring.hasWork) this.#lookThenSleep(window);
    }
  }

  #lookThenSleep(window: number): void {
    const start = performance.now();
    const due = this.#timers.nextDue() ?? Number.POSITIVE_INFINITY;
    const end = Math.min(start + window, due);
    do {
      for (let look = 0; look < looksAtOnce; look++) {
        if (!this.ring.hasWork) continue;
        this.ring.enter(false, 0);
        return;
      }
    } while (performance.now() < end);
    this.#sleep();
    this.#busyPoll.slept(performance.now() - start);
  }

  #sleep(): void {
    const due = this.#timers.nextDue();
    if (due === null) {
      this.ring.enter(true, 0);
      return;
    }
    const milliseconds = due - performance.now();
    if (milliseconds <= 0) {
      this.ring.enter(false, 0);
      return;
    }
    const timespec = this.#waitArgument + getEventsBytes;
    const seconds = Math.floor(milliseconds / 1000);
    const view = this.arena.view;
    view.setUint32(timespec, seconds, true);
    view.setUint32(timespec + 8, Math.ceil((milliseconds - seconds * 1000) * 1e6), true);
    this.ring.enter(true, this.base + this.#waitArgument);
  }

  /** Hooks that hooks add run too. */
  #runHooks(): void {
    for (let i = 0; i < this.#hookCount; i++) {
      const hook = this.#hooks[i] as TurnEnd;
      this.#hooks[i] = null;
      hook.turnEnd();
    }
    this.#hookCount = 0;
  }

  /** Blocking calls whose completions make blocking calls must come to an end somewhere. */
  get mayBlock(): boolean {
    return this.#blockingDepth < blockingDepthMax;
  }

  /**
   * A file has made a blocking call, and its completion is told. Looking at the clock costs a good
   * part of a percent of such a call, so it is done for several together.
   */
  blocked(guard: StallGuard, completion: Completion, result: number): void {
    if (++this.#blockingCalls === blockingCallsAtOnce) {
      this.#blockingCalls = 0;
      const now = performance.now();
      guard.took(now - this.#blockingSince, now);
      this.#blockingSince = now;
    }
    this.#blockingDepth++;
    completion.done(result);
    this.#blockingDepth--;
  }

  takeMessageHeader(): number {
    const header = this.#messageHeaders.pop();
    assert(header !== undefined, 'no more sockets than connections allowed');
    return header;
  }

  giveMessageHeader(header: number): void {
    this.#messageHeaders.push(header);
  }
}
