/**
 * The transmission phase of one connection: requests are taken from what was received, checked
 * once, carried out by the device, and handed back to be answered. Nothing here knows a socket.
 *
 *   header -> admitted? -> valid? -> Ios to the device -> ended -> answer -> released
 *
 * A WRITE's payload stays in the receive window it came in. When it is long and its window is full,
 * what is there is written as one piece and the rest goes on in the next window, so that no request
 * needs memory for all of its payload.
 *
 * Admission is what bounds a connection: requests in flight, and bytes for reading. A request that
 * is not admitted stays in the window, and the connection stops receiving (`blocked`) until one of
 * its requests has been answered.
 */

import { assert } from '../base/assert.js';
import { EIO, ENOMEM, ESHUTDOWN, errnoName } from '../base/errno.js';
import {
  blockBytesMax,
  blockBytesMin,
  contiguousBytes,
  payloadBytes,
  payloadBytesFatal,
  requestsPerConnection,
} from '../base/limits.js';
import type { Device } from '../device/device.js';
import {
  FLAG_FAST,
  FLAG_FUA,
  FLAG_HOLES_OK,
  FLAG_NO_HOLE,
  FLAG_ONE,
  FLUSH,
  type Io,
  type Operation,
  READ,
  STATUS,
  TRIM,
  WRITE,
  ZERO,
} from '../device/io.js';
import * as nbd from './constants.js';
import type { ReceiveWindow } from './receive-window.js';
import { decodeRequest, type Piece, type Request, type RequestOwner } from './request.js';
import type { Resources } from './resources.js';
import {
  commandName,
  requestFaultText,
  type TransmissionRules,
  validateRequest,
} from './validate.js';

/** Cuts between the pieces of a WRITE fall on multiples of it, in the device. */
const cutBytes = 4096;

/** The connection that a session belongs to. */
export interface SessionOwner {
  /** Every Io of the request has ended: it is to be answered. */
  ended(request: Request): void;
  /** A blocked session may go on. */
  unblocked(): void;
  /** No write needs the window any more. */
  windowFree(window: ReceiveWindow): void;
}

export class Session implements RequestOwner {
  readonly device: Device;
  readonly structured: boolean;
  /** Id of base:allocation, or -1. */
  readonly context: number;
  /** Stopped at a limit. */
  blocked = false;
  /** DISC has come: no more requests. */
  disconnected = false;
  /** The stream is out of step, and why. */
  failure: string | null = null;
  /** The daemon is going down: requests are answered with ESHUTDOWN. */
  closing = false;
  /** Requests taken and not answered yet. */
  inFlight = 0;

  #rules: TransmissionRules;
  #generation: number;
  readonly #owner: SessionOwner;
  readonly #resources: Resources;
  /** Bytes held by requests for their data. */
  #held = 0;
  /** The WRITE whose payload is being received, and how much of it is still to come. */
  #receiving: Request | null = null;
  #payloadLeft = 0;
  /** The request at the head waits for its turn among the large reads. */
  #waitsForLarge = false;

  constructor(
    owner: SessionOwner,
    device: Device,
    rules: TransmissionRules,
    context: number,
    resources: Resources,
  ) {
    this.#owner = owner;
    this.device = device;
    this.structured = rules.structured;
    this.context = context;
    this.#rules = rules;
    this.#generation = device.generation;
    this.#resources = resources;
  }

  /** How many bytes from `window.at` on must be in one window before the next step. */
  get bytesWanted(): number {
    if (this.#receiving === null) return nbd.REQUEST_BYTES;
    if (this.#receiving.error !== 0) return 1;
    return Math.min(this.#payloadLeft, contiguousBytes);
  }

  /** Takes what it can from the window. */
  take(window: ReceiveWindow): void {
    this.blocked = false;
    const waited = this.#waitsForLarge;
    this.#waitsForLarge = false;
    while (this.failure === null && !this.disconnected) {
      const received = window.end - window.at;
      if (this.#receiving !== null) {
        if (!this.#takePayload(this.#receiving, window, received)) break;
      } else if (received < nbd.REQUEST_BYTES || !this.#takeRequest(window)) {
        break;
      }
    }
    // What waited may have been refused, or not be large any more: its place is the next one's.
    if (waited && !this.#waitsForLarge) this.#resources.forgetLarge(this);
  }

  /** False: more bytes are needed. */
  #takePayload(request: Request, window: ReceiveWindow, received: number): boolean {
    if (request.error !== 0) {
      // Refused: the payload is drained, whatever its length.
      const drained = Math.min(received, this.#payloadLeft);
      window.at += drained;
      this.#payloadLeft -= drained;
    } else if (received >= this.#payloadLeft) {
      this.#write(request, window, this.#payloadLeft);
    } else if (window.size - window.end < blockBytesMin && received >= contiguousBytes) {
      const position = request.offset + request.length - this.#payloadLeft;
      const length = received - ((position + received) % cutBytes);
      this.#write(request, window, length);
      return false;
    } else {
      return false;
    }
    if (this.#payloadLeft > 0) return false;
    this.#receiving = null;
    this.#part(request);
    return true;
  }

  /** One piece of a WRITE, straight from the window. */
  #write(request: Request, window: ReceiveWindow, length: number): void {
    const position = request.offset + request.length - this.#payloadLeft;
    const io = this.#resources.ios.take(WRITE, position, length, request);
    if ((request.flags & nbd.CMD_FLAG_FUA) !== 0) io.flags = FLAG_FUA;
    io.memory = window.memory + window.at;
    io.holds = window;
    window.holders++;
    window.at += length;
    this.#payloadLeft -= length;
    request.pending++;
    this.device.submit(io);
  }

  /** False: a limit was reached, and the request is still in the window. */
  #takeRequest(window: ReceiveWindow): boolean {
    if (this.inFlight >= requestsPerConnection) {
      this.blocked = true;
      return false;
    }
    const request = this.#resources.requests.take(this);
    if (!decodeRequest(this.#resources.arena.view, window.memory + window.at, request)) {
      const magic = this.#resources.arena.view.getUint32(window.memory + window.at);
      this.failure = `request magic: found 0x${magic.toString(16)}`;
      this.#resources.requests.give(request);
      return false;
    }
    if (this.device.generation !== this.#generation) this.#lookAgain();
    const { type, flags, offsetHigh, offsetLow, length } = request;
    if (type === nbd.CMD_DISC) {
      this.disconnected = true;
      this.#resources.requests.give(request);
      return false;
    }
    if (this.closing) {
      request.error = ESHUTDOWN;
      request.reason = 'the server is shutting down';
    } else {
      request.error = validateRequest(type, flags, offsetHigh, offsetLow, length, this.#rules);
      if (request.error !== 0) this.#refused(request);
    }
    if (type === nbd.CMD_READ && request.error === 0 && !this.#admitRead(request)) {
      this.blocked = true;
      this.#resources.requests.give(request);
      return false;
    }
    window.at += nbd.REQUEST_BYTES;
    this.inFlight++;
    if (type === nbd.CMD_WRITE && length > 0) {
      if (request.error !== 0 && length > payloadBytesFatal) {
        this.failure = `payload of ${length} bytes, at most ${payloadBytes}`;
      }
      this.#receiving = request;
      this.#payloadLeft = length;
      return true;
    }
    if (request.error === 0) this.#start(request);
    this.#part(request);
    return true;
  }

  /** The device has another table: its size may be another. */
  #lookAgain(): void {
    this.#generation = this.device.generation;
    this.#rules = { ...this.#rules, sizeBytes: this.device.sizeBytes };
  }

  #refused(request: Request): void {
    const { type, flags, offsetHigh, offsetLow, length } = request;
    request.reason = requestFaultText(type, flags, offsetHigh, offsetLow, length, this.#rules);
    const code = errnoName(request.error);
    this.#resources.log.debug(
      { device: this.device.name, code },
      `request refused: ${request.reason}`,
    );
  }

  /** Takes the memory that a READ needs, or says that it has to wait. */
  #admitRead(request: Request): boolean {
    const { length } = request;
    const share = this.#resources.shareBytes;
    if (this.#held + length > share) {
      if (length <= share) return false;
      this.#waitsForLarge = !this.#resources.takeLarge(length, this);
      if (this.#waitsForLarge) return false;
      request.large = true;
    }
    if (!this.#allocate(request)) {
      if (request.large) this.#resources.giveLarge(length);
      request.large = false;
      if (this.#held > 0) return false;
      // Nothing of its own will come back, so there is nothing to wait for.
      request.error = ENOMEM;
      request.reason = 'no buffer memory left';
      return true;
    }
    if (!request.large) this.#held += length;
    return true;
  }

  #allocate(request: Request): boolean {
    const { arena } = this.#resources;
    if (request.length <= blockBytesMax) {
      request.memory = Math.max(0, arena.allocate(request.length));
      return request.memory !== 0;
    }
    const pieces: Piece[] = [];
    for (let done = 0; done < request.length; done += blockBytesMax) {
      const length = Math.min(blockBytesMax, request.length - done);
      const memory = arena.allocate(length);
      if (memory < 0) {
        for (const piece of pieces) arena.free(piece.memory, piece.length);
        return false;
      }
      pieces.push({ memory, length, zero: false });
    }
    request.pieces = pieces;
    return true;
  }

  #start(request: Request): void {
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
        request.extents = this.#resources.takeExtents();
        this.#submit(request, STATUS, request.flags & nbd.CMD_FLAG_REQ_ONE ? FLAG_ONE : 0);
        return;
      case nbd.CMD_CACHE:
        this.#cache(request);
        return;
      default:
        assert(request.type === nbd.CMD_WRITE, `command ${request.type} passed validation`);
    }
  }

  #submit(request: Request, operation: Operation, flags: number): void {
    const io = this.#resources.ios.take(operation, request.offset, request.length, request);
    io.flags = flags | ((request.flags & nbd.CMD_FLAG_FUA) !== 0 ? FLAG_FUA : 0);
    io.extents = request.extents;
    request.pending++;
    this.device.submit(io);
  }

  #read(request: Request): void {
    const { pieces } = request;
    if (pieces === null) {
      const io = this.#resources.ios.take(READ, request.offset, request.length, request);
      io.memory = request.memory;
      io.flags = FLAG_HOLES_OK;
      if (this.structured && (request.flags & nbd.CMD_FLAG_DF) === 0) io.extents = request.holes;
      request.pending++;
      this.device.submit(io);
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
      this.device.submit(io);
    }
  }

  /** Reads the range into a scratch block, piece after piece, so that the page cache has it. */
  #cache(request: Request): void {
    const length = Math.min(request.length, blockBytesMax);
    // It is a hint: without memory to spare, or for too much of it, it is not followed.
    if (request.length > payloadBytes || this.#held + length > this.#resources.shareBytes) return;
    const memory = this.#resources.arena.allocate(length);
    if (memory < 0) return;
    this.#held += length;
    request.memory = memory;
    request.pending++;
    this.#readAhead(request, request.offset, length);
  }

  #readAhead(request: Request, offset: number, length: number): void {
    const io = this.#resources.ios.take(READ, offset, length, request);
    io.memory = request.memory;
    io.flags = FLAG_HOLES_OK;
    this.device.submit(io);
  }

  /** RequestOwner: one Io of a request has ended. */
  ioFinished(request: Request, io: Io): void {
    if (io.error !== 0 && request.error === 0) this.#ioFailed(request, io);
    if (request.type === nbd.CMD_CACHE) {
      this.#cached(request, io);
      return;
    }
    const holds = io.holds;
    if (io.operation === READ) {
      if (holds === null) request.allZero = io.allZero;
      else (holds as Piece).zero = io.allZero;
    } else if (holds !== null) {
      const window = holds as ReceiveWindow;
      if (--window.holders === 0) this.#owner.windowFree(window);
    }
    this.#resources.ios.give(io);
    this.#part(request);
  }

  #cached(request: Request, io: Io): void {
    const offset = io.offset + io.length;
    const left = request.offset + request.length - offset;
    this.#resources.ios.give(io);
    if (left > 0 && request.error === 0) {
      this.#readAhead(request, offset, Math.min(left, blockBytesMax));
      return;
    }
    const scratchBytes = Math.min(request.length, blockBytesMax);
    this.#resources.arena.free(request.memory, scratchBytes);
    this.#held -= scratchBytes;
    request.memory = 0;
    this.#part(request);
  }

  #ioFailed(request: Request, io: Io): void {
    request.error = io.error;
    const what = `${commandName(request.type)} of ${request.length} bytes at ${request.offset}`;
    request.reason = `${what}: ${errnoName(io.error)}`;
    const { length, offset } = request;
    this.#resources.errors.report(
      { device: this.device.name, command: commandName(request.type), offset, length },
      `${this.device.name}: ${request.reason}`,
    );
  }

  /** One part of the request's work is done; after the last it is answered. */
  #part(request: Request): void {
    if (--request.pending === 0) this.#owner.ended(request);
  }

  /** The answer has left (or never will): what the request held comes back. */
  release(request: Request): void {
    const { arena } = this.#resources;
    if (request.pieces !== null) {
      for (const piece of request.pieces) arena.free(piece.memory, piece.length);
    } else if (request.memory !== 0) {
      arena.free(request.memory, request.length);
    }
    if (request.large) this.#resources.giveLarge(request.length);
    else if (request.memory !== 0 || request.pieces !== null) this.#held -= request.length;
    if (request.extents !== null) this.#resources.giveExtents(request.extents);
    this.#resources.requests.give(request);
    this.inFlight--;
    if (this.blocked) this.#owner.unblocked();
  }

  /** Memory for large reads has come back; this session waits for some. */
  largeFree(): void {
    if (this.blocked) this.#owner.unblocked();
  }

  /** The connection is gone in the middle of a payload. */
  abandon(): void {
    this.#resources.forgetLarge(this);
    const request = this.#receiving;
    if (request === null) return;
    this.#receiving = null;
    if (request.error === 0) request.error = EIO;
    this.#part(request);
  }
}

function zeroFlags(flags: number): number {
  return (
    ((flags & nbd.CMD_FLAG_NO_HOLE) !== 0 ? FLAG_NO_HOLE : 0) |
    ((flags & nbd.CMD_FLAG_FAST_ZERO) !== 0 ? FLAG_FAST : 0)
  );
}
