/**
 * The io_uring rings, shared with the kernel. Submissions are written into the queue and handed
 * over by `enter`, which also waits; completions are taken from theirs by `reap`.
 *
 *   submission, 64 bytes                        completion, 16 bytes
 *    0 u8 opcode  1 u8 flags  2 u16 ioprio       0 u64 user data
 *    4 s32 fd                                    8 s32 result
 *    8 u64 offset                               12 u32 flags
 *   16 u64 address
 *   24 u32 length
 *   28 u32 operation's own flags
 *   32 u64 user data (the slot of the Completion here)
 *   40 u64 buffer index, personality, splice fd; then padding: all zero
 *
 * SINGLE_ISSUER and DEFER_TASKRUN make the kernel do all work for this ring in this thread's own
 * `enter`, in one batch; older kernels refuse them and work without.
 */

import { assert } from '../../base/assert.js';
import { EAGAIN, EBUSY, EINTR, EINVAL, ETIME, errnoName } from '../../base/errno.js';
import type { Completion } from '../engine.js';
import type { System } from './system.js';

export const OP_FSYNC = 3;
export const OP_SENDMSG = 9;
export const OP_ACCEPT = 13;
export const OP_ASYNC_CANCEL = 14;
export const OP_FALLOCATE = 17;
export const OP_READ = 22;
export const OP_WRITE = 23;
export const OP_RECV = 27;
const opcodesNeeded = [
  OP_FSYNC,
  OP_SENDMSG,
  OP_ACCEPT,
  OP_ASYNC_CANCEL,
  OP_FALLOCATE,
  OP_READ,
  OP_WRITE,
  OP_RECV,
];

const SETUP_CQSIZE = 1 << 3;
const SETUP_CLAMP = 1 << 4;
const SETUP_SUBMIT_ALL = 1 << 7;
const SETUP_COOP_TASKRUN = 1 << 8;
const SETUP_TASKRUN_FLAG = 1 << 9;
const SETUP_SINGLE_ISSUER = 1 << 12;
const SETUP_DEFER_TASKRUN = 1 << 13;
/** Best first. */
const setupFlags = [
  SETUP_CQSIZE |
    SETUP_CLAMP |
    SETUP_SUBMIT_ALL |
    SETUP_COOP_TASKRUN |
    SETUP_TASKRUN_FLAG |
    SETUP_SINGLE_ISSUER |
    SETUP_DEFER_TASKRUN,
  SETUP_CQSIZE | SETUP_CLAMP | SETUP_SUBMIT_ALL | SETUP_COOP_TASKRUN | SETUP_TASKRUN_FLAG,
  SETUP_CQSIZE | SETUP_CLAMP,
];
const FEATURE_NODROP = 1 << 1;
const FEATURE_EXT_ARG = 1 << 8;
const ENTER_GETEVENTS = 1;
const ENTER_EXT_ARG = 8;
const ENTER_REGISTERED_RING = 16;
/** In the submission's flags byte. */
const FIXED_FILE = 1 << 8;
/** In the submission ring's flags: the kernel has something to do in `enter`. */
const SQ_CQ_OVERFLOW = 1 << 1;
const SQ_TASKRUN = 1 << 2;
const REGISTER_FILES_UPDATE = 6;
const REGISTER_PROBE = 8;
const REGISTER_FILES2 = 13;
const REGISTER_RING_FDS = 20;
const FILES_SPARSE = 1;
const OFF_SQ_RING = 0;
const OFF_CQ_RING = 0x8000000;
const OFF_SQES = 0x10000000;

const submissions = 1024;
const completions = 16_384;
/** Descriptors the ring can know beforehand, which saves looking them up for each operation. */
const files = 8192;
/** Most completions taken before what they woke is submitted. */
const reapAtOnce = 512;

export class Ring {
  readonly #system: System;
  readonly #fd: number;
  readonly #sq: Int32Array;
  readonly #cq: Int32Array;
  readonly #sqes: Int32Array;
  readonly #sqTail: number;
  readonly #sqMask: number;
  readonly #sqFlags: number;
  readonly #sqEntries: number;
  readonly #cqHead: number;
  readonly #cqTail: number;
  readonly #cqMask: number;
  readonly #cqes: number;
  #tail: number;
  /** How far completions have been taken, which the kernel is told when a turn's are done. */
  #reaped: number;
  #unsubmitted = 0;

  /** What `enter` is called with: the descriptor, or a registered number for it. */
  #enterFd: number;
  #enterFlags = ENTER_GETEVENTS;
  /** Places for descriptors that are free; empty when the kernel takes none. */
  readonly #freeFiles: number[] = [];

  /** Who hears of an operation, by its slot; free slots are on a stack. */
  #slots: (Completion | null)[] = [];
  readonly #freeSlots: number[] = [];

  /** Throws an Error that says why this kernel will not do. */
  constructor(system: System) {
    this.#system = system;
    const params = new Uint8Array(120);
    const view = new DataView(params.buffer);
    let fd = -EINVAL;
    for (const flags of setupFlags) {
      params.fill(0);
      view.setUint32(8, flags, true);
      view.setUint32(4, completions, true);
      fd = system.uringSetup(submissions, params);
      if (fd !== -EINVAL) break;
    }
    if (fd < 0) throw new Error(`io_uring_setup failed: ${errnoName(-fd)}`);
    this.#fd = fd;
    this.#enterFd = fd;
    try {
      const features = view.getUint32(20, true);
      const wanted = FEATURE_NODROP | FEATURE_EXT_ARG;
      if ((features & wanted) !== wanted) throw new Error('io_uring of this kernel is too old');
      this.#probe();
    } catch (error) {
      system.close(fd);
      throw error;
    }

    // Offsets into the rings, as struct io_sqring_offsets (at 40) and io_cqring_offsets (at 80).
    const word = (at: number): number => view.getUint32(at, true);
    this.#sqEntries = word(0);
    const cqEntries = word(4);
    const sqArray = word(64);
    const cqes = word(100);
    this.#sq = new Int32Array(system.map(fd, OFF_SQ_RING, sqArray + this.#sqEntries * 4));
    this.#cq = new Int32Array(system.map(fd, OFF_CQ_RING, cqes + cqEntries * 16));
    this.#sqes = new Int32Array(system.map(fd, OFF_SQES, this.#sqEntries * 64));
    this.#sqTail = word(44) >> 2;
    this.#sqMask = this.#sq[word(48) >> 2] as number;
    this.#sqFlags = word(56) >> 2;
    this.#cqHead = word(80) >> 2;
    this.#cqTail = word(84) >> 2;
    this.#cqMask = this.#cq[word(88) >> 2] as number;
    this.#cqes = cqes >> 2;
    for (let i = 0; i < this.#sqEntries; i++) this.#sq[(sqArray >> 2) + i] = i;
    this.#tail = this.#sq[this.#sqTail] as number;
    this.#reaped = this.#cq[this.#cqHead] as number;
    this.#register();
  }

  /** Tells the kernel of descriptors beforehand. Kernels that cannot do so just work a bit more. */
  #register(): void {
    // struct io_uring_rsrc_update: u32 offset (-1: any), u32 reserved, u64 data
    const update = new Uint8Array(16);
    const view = new DataView(update.buffer);
    view.setInt32(0, -1, true);
    view.setUint32(8, this.#fd, true);
    if (this.#system.uringRegister(this.#fd, REGISTER_RING_FDS, update, 1) === 1) {
      this.#enterFd = view.getUint32(0, true);
      this.#enterFlags |= ENTER_REGISTERED_RING;
    }
    // struct io_uring_rsrc_register: u32 count, u32 flags, u64 reserved, u64 data, u64 tags
    const table = new Uint8Array(32);
    const fields = new DataView(table.buffer);
    fields.setUint32(0, files, true);
    fields.setUint32(4, FILES_SPARSE, true);
    if (this.#system.uringRegister(this.#fd, REGISTER_FILES2, table, table.length) === 0) {
      for (let place = files - 1; place >= 0; place--) this.#freeFiles.push(place);
    }
  }

  /**
   * Makes a descriptor known to the ring. Returns what to give `submit` for it: a place, as a
   * negative number, or the descriptor itself if there is none left.
   */
  addFile(fd: number): number {
    const place = this.#freeFiles.pop();
    if (place === undefined) return fd;
    if (this.#updateFile(place, fd)) return -1 - place;
    this.#freeFiles.push(place);
    return fd;
  }

  /** Before the descriptor is closed: gives back what `addFile` returned. */
  removeFile(file: number): void {
    if (file >= 0) return;
    const place = -1 - file;
    this.#updateFile(place, -1);
    this.#freeFiles.push(place);
  }

  #updateFile(place: number, fd: number): boolean {
    const fds = new Int32Array([fd]);
    // struct io_uring_files_update: u32 offset, u32 reserved, u64 address of the descriptors
    const update = new Uint8Array(16);
    const view = new DataView(update.buffer);
    view.setUint32(0, place, true);
    view.setBigUint64(8, BigInt(this.#system.addressOf(new Uint8Array(fds.buffer))), true);
    return this.#system.uringRegister(this.#fd, REGISTER_FILES_UPDATE, update, 1) === 1;
  }

  #probe(): void {
    const probe = new Uint8Array(16 + 256 * 8);
    const result = this.#system.uringRegister(this.#fd, REGISTER_PROBE, probe, 256);
    if (result < 0) throw new Error(`io_uring cannot be probed: ${errnoName(-result)}`);
    const supported = (opcode: number): boolean =>
      ((probe[16 + opcode * 8 + 2] as number) & 1) === 1;
    const missing = opcodesNeeded.filter((opcode) => !supported(opcode));
    if (missing.length > 0) throw new Error(`io_uring lacks operations ${missing.join(', ')}`);
  }

  /**
   * Queues an operation on a descriptor, or on what `addFile` gave for it. `address` and `offset`
   * may exceed 32 bits; `flags` is the operation's own word. The result comes to the completion.
   */
  submit(
    opcode: number,
    fd: number,
    offset: number,
    address: number,
    length: number,
    flags: number,
    completion: Completion,
  ): number {
    if (this.#unsubmitted === this.#sqEntries) this.#makeRoom();
    const sqes = this.#sqes;
    const at = (this.#tail & this.#sqMask) << 4;
    const slot = this.#takeSlot(completion);
    sqes[at] = fd < 0 ? opcode | FIXED_FILE : opcode;
    sqes[at + 1] = fd < 0 ? -1 - fd : fd;
    sqes[at + 2] = offset | 0;
    sqes[at + 3] = Math.floor(offset / 4294967296);
    sqes[at + 4] = address | 0;
    sqes[at + 5] = Math.floor(address / 4294967296);
    sqes[at + 6] = length;
    sqes[at + 7] = flags;
    sqes[at + 8] = slot;
    sqes[at + 9] = 0;
    sqes[at + 10] = 0;
    sqes[at + 11] = 0;
    sqes[at + 12] = 0;
    sqes[at + 13] = 0;
    sqes[at + 14] = 0;
    sqes[at + 15] = 0;
    this.#tail = (this.#tail + 1) | 0;
    this.#unsubmitted++;
    return slot;
  }

  /** Hands over a full queue. The kernel may refuse for want of room for completions: give it some. */
  #makeRoom(): void {
    while (this.#unsubmitted === this.#sqEntries) {
      Atomics.store(this.#cq, this.#cqHead, this.#reaped);
      this.enter(false, 0);
    }
  }

  #takeSlot(completion: Completion): number {
    const slot = this.#freeSlots.pop() ?? this.#slots.length;
    this.#slots[slot] = completion;
    return slot;
  }

  /**
   * Hands over what is queued. Waits for a completion, if asked to, for ever or until the time in
   * the getevents argument at that address (0: for ever).
   */
  enter(wait: boolean, argument: number): void {
    // The kernel reads the tail in this very call, on this very thread.
    this.#sq[this.#sqTail] = this.#tail;
    const flags = argument === 0 ? this.#enterFlags : this.#enterFlags | ENTER_EXT_ARG;
    const result = this.#system.uringEnter(
      this.#enterFd,
      this.#unsubmitted,
      wait ? 1 : 0,
      flags,
      argument,
      argument === 0 ? 0 : getEventsBytes,
    );
    if (result >= 0) {
      this.#unsubmitted -= result;
      return;
    }
    // These are no failures; what has not been submitted goes with the next call.
    const harmless = [ETIME, EINTR, EAGAIN, EBUSY].includes(-result);
    assert(harmless, `io_uring_enter succeeds, not ${errnoName(-result)}`);
  }

  /** Completions are there, or `enter` will bring some at once. */
  get hasWork(): boolean {
    return (
      Atomics.load(this.#cq, this.#cqTail) !== this.#reaped ||
      (Atomics.load(this.#sq, this.#sqFlags) & (SQ_TASKRUN | SQ_CQ_OVERFLOW)) !== 0
    );
  }

  /** Tells completions of their results; true when there are more than it takes at once. */
  reap(): boolean {
    const cq = this.#cq;
    let head = cq[this.#cqHead] as number;
    const tail = Atomics.load(cq, this.#cqTail);
    let count = 0;
    while (head !== tail && count < reapAtOnce) {
      const at = this.#cqes + ((head & this.#cqMask) << 2);
      const slot = cq[at] as number;
      const result = cq[at + 2] as number;
      head = (head + 1) | 0;
      this.#reaped = head;
      const completion = this.#slots[slot] as Completion;
      this.#slots[slot] = null;
      this.#freeSlots.push(slot);
      count++;
      completion.done(result);
    }
    Atomics.store(cq, this.#cqHead, head);
    return head !== tail;
  }

  close(): void {
    this.#system.close(this.#fd);
  }
}

/** Size of struct io_uring_getevents_arg. */
export const getEventsBytes = 24;
