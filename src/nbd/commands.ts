/**
 * Carries out requests that have been validated: each becomes one Io or several, and when the last
 * of them has ended the request is to be answered. What it needs for that (memory, lists) it takes
 * when it begins and holds until its answer has left.
 */

import { assert } from '../base/assert.js';
import { errnoName } from '../base/errno.js';
import { rangeStepBytes } from '../base/limits.js';
import type { Device } from '../device/device.js';
import {
  FLAG_FAST,
  FLAG_FUA,
  FLAG_HOLES_OK,
  FLAG_NO_HOLE,
  FLUSH,
  type Io,
  type Operation,
  READ,
  TRIM,
  WRITE,
  ZERO,
} from '../device/io.js';
import { Admission } from './admission.js';
import { BlockStatus } from './block-status.js';
import * as nbd from './constants.js';
import type { HandshakeOutcome } from './negotiation.js';
import type { ReceiveWindow } from './receive-window.js';
import type { Piece, Request, RequestOwner } from './request.js';
import type { Resources } from './resources.js';
import { type StepOwner, Steps } from './steps.js';
import { commandName } from './validate.js';

/** Who hears what becomes of requests. */
export interface CommandOwner {
  /** Every Io of the request has ended: it is to be answered. */
  ended(request: Request): void;
  /** No write needs the window any more. */
  windowFree(window: ReceiveWindow): void;
}

export class Commands implements RequestOwner {
  readonly admission: Admission;
  readonly status: BlockStatus;
  readonly #owner: CommandOwner;
  readonly #device: Device;
  readonly #resources: Resources;
  readonly #steps: Steps;
  /** Readers understand holes. */
  readonly #sparse: boolean;

  constructor(
    owner: CommandOwner,
    session: StepOwner,
    device: Device,
    outcome: HandshakeOutcome,
    resources: Resources,
  ) {
    this.#owner = owner;
    this.#device = device;
    this.#resources = resources;
    this.#sparse = outcome.structuredReplies;
    this.admission = new Admission(resources);
    this.status = new BlockStatus(outcome.contexts, device, resources);
    this.#steps = new Steps(session, device, resources, this.admission);
  }

  /** Whether the request may begin now; takes the memory that a READ needs. */
  admit(request: Request): boolean {
    if (request.type === nbd.CMD_READ) return this.admission.admit(request);
    return request.type !== nbd.CMD_BLOCK_STATUS || this.status.admits;
  }

  /** Begins a request that has no payload. */
  start(request: Request): void {
    switch (request.type) {
      case nbd.CMD_READ:
        this.#read(request);
        return;
      case nbd.CMD_FLUSH:
        this.#submit(request, FLUSH, 0);
        return;
      case nbd.CMD_TRIM:
        this.#submit(request, TRIM, 0);
        return;
      case nbd.CMD_WRITE_ZEROES:
        this.#submit(request, ZERO, zeroFlags(request.flags));
        return;
      case nbd.CMD_BLOCK_STATUS:
        this.status.chooseAll(request);
        this.status.start(request);
        return;
      case nbd.CMD_CACHE:
        this.#steps.readAhead(request);
        return;
      default:
        assert(request.type === nbd.CMD_WRITE, `command ${request.type} passed validation`);
    }
  }

  /** Writes a piece of a WRITE's payload, straight from the head of the window. */
  write(request: Request, position: number, window: ReceiveWindow, length: number): void {
    const io = this.#resources.ios.take(WRITE, position, length, request);
    if ((request.flags & nbd.CMD_FLAG_FUA) !== 0) io.flags = FLAG_FUA;
    io.memory = window.memory + window.at;
    io.holds = window;
    window.holders++;
    window.at += length;
    request.pending++;
    this.#device.submit(io);
  }

  #submit(request: Request, operation: Operation, more: number): void {
    const flags = more | ((request.flags & nbd.CMD_FLAG_FUA) !== 0 ? FLAG_FUA : 0);
    if (request.length > rangeStepBytes) {
      this.#steps.cover(request, operation, flags);
      return;
    }
    const io = this.#resources.ios.take(operation, request.offset, request.length, request);
    io.flags = flags;
    request.pending++;
    this.#device.submit(io);
  }

  /** The next piece of a READ that is answered piece after piece. */
  readOn(request: Request): void {
    const { offset, length, streamSent, streamBytes } = request;
    const piece = Math.min(streamBytes, length - streamSent);
    const io = this.#resources.ios.take(READ, offset + streamSent, piece, request);
    io.memory = request.memory;
    io.flags = FLAG_HOLES_OK;
    request.pending++;
    this.#device.submit(io);
  }

  #read(request: Request): void {
    const { pieces } = request;
    if (request.streamBytes > 0) {
      this.readOn(request);
      return;
    }
    if (pieces === null) {
      const io = this.#resources.ios.take(READ, request.offset, request.length, request);
      io.memory = request.memory;
      io.flags = FLAG_HOLES_OK;
      if (this.#sparse && (request.flags & nbd.CMD_FLAG_DF) === 0) io.extents = request.holes;
      request.pending++;
      this.#device.submit(io);
      return;
    }
    let offset = request.offset;
    for (const piece of pieces) {
      const io = this.#resources.ios.take(READ, offset, piece.length, request);
      io.memory = piece.memory;
      io.flags = FLAG_HOLES_OK;
      io.holds = piece;
      offset += piece.length;
      request.pending++;
      this.#device.submit(io);
    }
  }

  /** RequestOwner: one Io of a request has ended. */
  ioFinished(request: Request, io: Io): void {
    if (io.error !== 0 && request.error === 0) this.#ioFailed(request, io);
    if (request.stepped && this.#steps.goesOn(request, io)) return;
    const holds = io.holds;
    if (io.operation === READ) {
      if (holds === null) request.allZero = io.allZero;
      else (holds as Piece).zero = io.allZero;
    } else if (holds !== null) {
      const window = holds as ReceiveWindow;
      if (--window.holders === 0) this.#owner.windowFree(window);
    }
    this.#resources.ios.give(io);
    this.part(request);
  }

  #ioFailed(request: Request, io: Io): void {
    request.error = io.error;
    const { length, offset } = request;
    const command = commandName(request.type);
    const code = errnoName(io.error);
    request.reason = `${command} of ${length} bytes at ${offset}: ${code}`;
    const { name: device } = this.#device;
    this.#resources.errors.report(
      { device, command, offset, length, code },
      `${device}: ${request.reason}`,
    );
  }

  /** One part of the request's work is done; after the last it is answered. */
  part(request: Request): void {
    if (--request.pending === 0) this.#owner.ended(request);
  }

  /** The answer has left (or never will): what the request held comes back. */
  release(request: Request): void {
    this.admission.release(request);
    if (request.type === nbd.CMD_BLOCK_STATUS) this.status.release(request);
    this.#resources.requests.give(request);
  }
}

function zeroFlags(flags: number): number {
  return (
    ((flags & nbd.CMD_FLAG_NO_HOLE) !== 0 ? FLAG_NO_HOLE : 0) |
    ((flags & nbd.CMD_FLAG_FAST_ZERO) !== 0 ? FLAG_FAST : 0)
  );
}
