/**
 * One operation on its way through devices and targets: the kernel's bio. Ios come from a pool and
 * go back to it; nothing on the way allocates.
 *
 *   owner ---submit---> device --map--> target --remapped--> backing ---> engine
 *     ^                                                                      |
 *     +--------------- finished(io) <-- complete(errno) <--------------------+
 *
 * Whoever takes an Io from the pool owns it, hears `finished` exactly once, and gives it back.
 * Offsets and lengths are bytes; the buffer is an offset into the arena.
 */

import type { Backing } from '../backing/backing.js';
import { assert } from '../base/assert.js';
import type { Completion } from '../engine/engine.js';
import type { ExtentList } from './extent-list.js';

/** Operations. They are small integers, so that a switch over them is a jump. */
export const READ = 0;
export const WRITE = 1;
export const FLUSH = 2;
/** The range may lose its contents; it reads as anything until it is written. */
export const TRIM = 3;
/** The range reads as zeroes afterwards. */
export const ZERO = 4;
/** Fills `extents` with what is known of the range (holes, zeroes). */
export const STATUS = 5;
export type Operation =
  | typeof READ
  | typeof WRITE
  | typeof FLUSH
  | typeof TRIM
  | typeof ZERO
  | typeof STATUS;

export const operationNames = ['read', 'write', 'flush', 'trim', 'zero', 'status'] as const;

/** Flags. */
/** The operation's own data is durable when it completes (WRITE, TRIM, ZERO). */
export const FLAG_FUA = 1;
/** ZERO: keep the space allocated, so that later writes cannot run out of it. */
export const FLAG_NO_HOLE = 2;
/** ZERO: only if it is much cheaper than writing; else EOPNOTSUPP and nothing changed. */
export const FLAG_FAST = 4;
/** READ: the owner understands `allZero` and `extents`; nobody need fill its buffer with zeroes. */
export const FLAG_HOLES_OK = 8;
/** STATUS: the owner wants one extent only. */
export const FLAG_ONE = 16;
/**
 * STATUS: extents carry a depth (qemu:allocation-depth) instead of the bits of base:allocation. 0:
 * nothing is allocated; 1: in this device; 2: in what it is a snapshot of; and so on.
 */
export const FLAG_DEPTH = 32;

/** Who is told that an Io has ended; `io.error` says how. */
export interface IoOwner {
  finished(io: Io): void;
}

/** A device that counts the Ios inside it. */
export interface IoAccount {
  ended(io: Io): void;
}

/** What an Io is waiting for in the layer that does its I/O (a file's short transfer, say). */
export interface IoContinuation {
  ended(io: Io, result: number): void;
}

const nobody: IoOwner = {
  finished() {
    assert(false, 'an io without an owner has finished');
  },
};

export class Io implements Completion {
  operation: Operation = READ;
  flags = 0;
  /** In the device it was submitted to. */
  offset = 0;
  length = 0;
  /** READ, WRITE: where the data is, an arena offset. */
  memory = 0;
  /** Where map sent it, with REMAPPED. */
  backing: Backing | null = null;
  backingOffset = 0;
  /** For the backing that carries it out: bytes already moved, what it is doing, a copy made. */
  progress = 0;
  stage = 0;
  bounce = 0;

  owner: IoOwner = nobody;
  /** The device that counts it, while it is inside one. */
  account: IoAccount | null = null;
  /** The backing that carries it out, while the engine has it. */
  continuation: IoContinuation | null = null;
  /** Engine time at which the device took it, in milliseconds. */
  startedAt = 0;

  /** 0, or a positive errno. */
  error = 0;
  /** READ with FLAG_HOLES_OK: everything is zero and the buffer was not touched. */
  allZero = false;
  /**
   * STATUS: to be filled, from `offset` on; it may stop short of `length`, after at least one
   * extent. READ with FLAG_HOLES_OK: an empty list, or null; who knows of holes in the range fills
   * it with extents that cover the range exactly (the buffer is filled all the same).
   */
  extents: ExtentList | null = null;

  /** Intrusive list link, for whoever has it in a queue. */
  next: Io | null = null;
  /** The Io that this one is a part of, for its owner. */
  parent: Io | null = null;
  /** Whatever else its owner must give back when it ends. */
  holds: object | null = null;

  /** The engine's answer goes to whoever asked the engine. */
  done(result: number): void {
    (this.continuation as IoContinuation).ended(this, result);
  }

  /** Ends the Io: the device stops counting it, the owner hears of it. errno is positive or 0. */
  complete(errno: number): void {
    this.error = errno;
    const account = this.account;
    if (account !== null) {
      this.account = null;
      account.ended(this);
    }
    this.owner.finished(this);
  }
}

/** Ios that are not in use. Grows as far as the limits on requests let it. */
export class IoPool {
  #free: Io | null = null;
  /** Ios ever made; they are never given to the collector. */
  made = 0;
  inUse = 0;

  take(operation: Operation, offset: number, length: number, owner: IoOwner): Io {
    let io = this.#free;
    if (io === null) {
      io = new Io();
      this.made++;
    } else {
      this.#free = io.next;
    }
    this.inUse++;
    io.operation = operation;
    io.flags = 0;
    io.offset = offset;
    io.length = length;
    io.memory = 0;
    io.progress = 0;
    io.stage = 0;
    io.bounce = 0;
    io.owner = owner;
    io.error = 0;
    io.allZero = false;
    io.extents = null;
    io.next = null;
    io.parent = null;
    return io;
  }

  give(io: Io): void {
    assert(io.account === null, 'an io is given back while a device counts it');
    io.owner = nobody;
    io.backing = null;
    io.continuation = null;
    io.extents = null;
    io.parent = null;
    io.holds = null;
    io.next = this.#free;
    this.#free = io;
    this.inUse--;
  }
}
