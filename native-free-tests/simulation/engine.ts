/**
 * An engine of which everything follows from a seed: when operations end and in which order, what
 * takes effect when, what fails. Time is virtual, and passes from one event to the next.
 *
 *   events of one moment -> timers -> turn-end hooks -> promise continuations -> the next moment
 *
 * Continuations are let run by whoever drives the engine (clock.ts), when somebody has told of a
 * resolved promise: as with io_uring, one that nobody tells of has to wait.
 */

import { assert } from '../../src/base/assert.js';
import { ENOENT, EROFS } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
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
} from '../../src/engine/engine.js';
import { ArenaSendVector } from '../../src/engine/send-vector.js';
import { Timers } from '../../src/engine/timers.js';
import type { SimArena } from './arena.js';
import { EventQueue, type SimEvent } from './event-queue.js';
import type { Faults } from './faults.js';
import { type FileOperation, SimFile } from './file.js';
import type { FileSystem } from './file-system.js';
import type { Random } from './random.js';
import type { SimSocket } from './socket.js';
import type { TraceHash } from './trace.js';

/** What differs from one simulated machine to another. */
export interface Machine {
  /** So many operations of a thousand end within the call that starts them. */
  readonly atOncePerThousand: number;
  /** Longest that an operation of a disk takes, but for slow ones; milliseconds. */
  readonly diskMilliseconds: number;
  /** So many of a thousand take a hundred times as long. */
  readonly slowPerThousand: number;
  /** Events this close together are of one moment; milliseconds. */
  readonly momentMilliseconds: number;
  readonly hooksAtOnce: boolean;
  readonly canTrim: boolean;
  readonly canZero: boolean;
  readonly canExtents: boolean;
  readonly canCopy: boolean;
}

/** Where an engine gets its disks and its luck from. */
export interface EngineParts {
  readonly machine: Machine;
  readonly arena: SimArena;
  readonly random: Random;
  readonly fileSystem: FileSystem;
  readonly faults: Faults;
  readonly hash: TraceHash;
}

/** Operations that end at once inside of one another, at most. */
const atOnceDepth = 12;

export class SimEngine implements Engine {
  readonly name = 'simulated';
  readonly arena: SimArena;
  readonly machine: Machine;
  readonly random: Random;
  readonly fileSystem: FileSystem;
  readonly faults: Faults;
  readonly hash: TraceHash;
  now = 0;
  /** Somebody has told of a resolved promise. */
  continuations = false;
  stopped = false;
  /** What somebody has found to be wrong in a promise's continuation. */
  failure: unknown = null;
  /** Who looks at the disks after each moment. */
  watcher: (() => Promise<void>) | null = null;
  /** Effects on disks so far: the moments at which a crash makes a difference. */
  effects = 0;
  readonly operations: FileOperation[] = [];
  readonly #events = new EventQueue();
  readonly #timers = new Timers();
  readonly #listeners = new Map<string, ConnectionHandler>();
  #hooks: TurnEnd[] = [];
  #hooksRunning: TurnEnd[] = [];
  #depth = 0;

  constructor(parts: EngineParts) {
    this.arena = parts.arena;
    this.machine = parts.machine;
    this.random = parts.random;
    this.fileSystem = parts.fileSystem;
    this.faults = parts.faults;
    this.hash = parts.hash;
  }

  clock(): number {
    return this.now;
  }

  open(path: string, options: OpenOptions): EngineFile {
    const inode = this.fileSystem.find(path);
    if (inode === undefined) throw new MapperError(ENOENT, `cannot open ${path}: ENOENT`);
    if (options.writable && path.endsWith('.read-only')) {
      throw new MapperError(EROFS, `cannot open ${path}: EROFS`);
    }
    return new SimFile(this, path, inode, options);
  }

  async listen(address: ListenSource, handler: ConnectionHandler): Promise<EngineListener> {
    assert(address.kind === 'unix', 'simulated clients come to unix sockets');
    this.#listeners.set(address.path, handler);
    return { address, close: () => void this.#listeners.delete(address.path) };
  }

  /** A client has connected. Throws if nobody listens there. */
  connect(path: string, socket: SimSocket): void {
    const handler = this.#listeners.get(path);
    if (handler === undefined) throw new Error(`nobody listens on ${path}`);
    handler.accepted(socket, `client ${socket.number}`);
  }

  sendVector(capacity: number): SendVector {
    return new ArenaSendVector(this.arena, 0, capacity);
  }

  timer(milliseconds: number, completion: Completion): Timer {
    return this.#timers.add(this.now + milliseconds, completion);
  }

  cancelTimer(timer: Timer): void {
    this.#timers.cancel(timer);
  }

  atTurnEnd(hook: TurnEnd): void {
    this.#hooks.push(hook);
  }

  promiseResolved(): void {
    this.continuations = true;
  }

  onWake(): null {
    return null;
  }

  run(): Promise<void> {
    return Promise.resolve();
  }

  stop(): void {
    this.stopped = true;
  }

  /** Lets it happen after so many milliseconds. */
  schedule(event: SimEvent, milliseconds: number): void {
    this.#events.add(event, this.now + milliseconds);
  }

  /** How long an operation of a disk takes. */
  diskTime(): number {
    const { random, machine } = this;
    const time = (random.below(1000) * machine.diskMilliseconds) / 1000;
    return random.chance(machine.slowPerThousand) ? time * 100 : time;
  }

  /** Whether an operation that is about to be started ends within the call. */
  endsAtOnce(): boolean {
    return this.#depth < atOnceDepth && this.random.chance(this.machine.atOncePerThousand);
  }

  /** Carries out an event within the call that has caused it. */
  atOnce(event: SimEvent): void {
    this.#depth++;
    event.happen();
    this.#depth--;
  }

  /** The next moment, or what is left of this one. False: nothing will ever happen. */
  step(): boolean {
    if (this.#hooks.length > 0) {
      this.#runHooks();
      return true;
    }
    const events = this.#events;
    const first = events.first?.due ?? Number.POSITIVE_INFINITY;
    const due = Math.min(first, this.#timers.nextDue() ?? Number.POSITIVE_INFINITY);
    if (due === Number.POSITIVE_INFINITY) return false;
    this.now = Math.max(this.now, due);
    this.hash.add(this.now * 1000);
    this.#timers.expire(this.now);
    const end = this.now + this.machine.momentMilliseconds;
    while (events.first !== undefined && events.first.due <= end) events.take().happen();
    while (this.machine.hooksAtOnce && this.#hooks.length > 0) this.#runHooks();
    return true;
  }

  #runHooks(): void {
    const hooks = this.#hooks;
    this.#hooks = this.#hooksRunning;
    this.#hooksRunning = hooks;
    for (let i = 0; i < hooks.length; i++) (hooks[i] as TurnEnd).turnEnd();
    hooks.length = 0;
  }

  /** The process has gone: of what was under way, some has reached the disks. */
  abandon(): void {
    this.stopped = true;
    for (const event of this.#events.drain()) event.abandon();
    this.arena.takeBack();
  }
}
