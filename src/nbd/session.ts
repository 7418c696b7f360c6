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
 * Admission is what bounds a connection: requests in flight, bytes for reading, answers about
 * extents. A request that is not admitted stays in the window, and the connection stops receiving
 * (`blocked`) until one of its requests has been answered.
 */

import { EIO, ESHUTDOWN, errnoName } from '../base/errno.js';
import {
  blockBytesMin,
  contiguousBytes,
  payloadBytes,
  payloadBytesFatal,
  requestsGuaranteed,
  requestsInAll,
  requestsPerConnection,
} from '../base/limits.js';
import type { Device } from '../device/device.js';
import { type CommandOwner, Commands } from './commands.js';
import * as nbd from './constants.js';
import type { HandshakeOutcome } from './negotiation.js';
import type { ReceiveWindow } from './receive-window.js';
import { EXTENDED, type ReplyKind, SIMPLE, STRUCTURED } from './reply.js';
import { decodeExtendedRequest, decodeRequest, type Request } from './request.js';
import type { Resources } from './resources.js';
import {
  requestFaultText,
  type TransmissionRules,
  transmissionRules,
  validateRequest,
} from './validate.js';

const shuttingDown = 'the server is shutting down';
/** Cuts between the pieces of a WRITE fall on multiples of it, in the device. */
const cutBytes = 4096;

/** The connection that a session belongs to. */
export interface SessionOwner extends CommandOwner {
  /** A blocked session may go on. */
  unblocked(): void;
}

export class Session {
  /** How requests are answered. */
  readonly replies: ReplyKind;
  /** Stopped at a limit. */
  blocked = false;
  /** Blocked for want of memory that others hold: to be asked again after a while. */
  starved = false;
  /** DISC has come: no more requests. */
  disconnected = false;
  /** The stream is out of step, and why. */
  failure: string | null = null;
  /** Nothing is begun any more: requests are answered with ESHUTDOWN. */
  closing = false;
  /** Requests taken and not answered yet. */
  inFlight = 0;

  #rules: TransmissionRules;
  #generation: number;
  readonly #extended: boolean;
  readonly #headerBytes: number;
  readonly #owner: SessionOwner;
  readonly #device: Device;
  readonly #resources: Resources;
  readonly #commands: Commands;
  /** The request whose payload is being received, and how much of it is still to come. */
  #receiving: Request | null = null;
  #payloadLeft = 0;

  constructor(
    owner: SessionOwner,
    device: Device,
    outcome: HandshakeOutcome,
    resources: Resources,
  ) {
    const { structuredReplies, extendedHeaders } = outcome;
    this.#owner = owner;
    this.#device = device;
    this.#generation = device.generation;
    this.#rules = transmissionRules(outcome);
    this.#extended = extendedHeaders;
    this.#headerBytes = extendedHeaders ? nbd.EXTENDED_REQUEST_BYTES : nbd.REQUEST_BYTES;
    this.replies = extendedHeaders ? EXTENDED : structuredReplies ? STRUCTURED : SIMPLE;
    this.#resources = resources;
    this.#commands = new Commands(owner, this, device, outcome, resources);
  }

  /** How many bytes from `window.at` on must be in one window before the next step. */
  get bytesWanted(): number {
    const request = this.#receiving;
    if (request === null) return this.#headerBytes;
    if (request.error !== 0) return 1;
    // The payload of a BLOCK_STATUS is short, and read as a whole.
    return Math.min(this.#payloadLeft, contiguousBytes);
  }

  /** Takes what it can from the window. */
  take(window: ReceiveWindow): void {
    this.blocked = false;
    this.starved = false;
    while (this.failure === null && !this.disconnected) {
      const received = window.end - window.at;
      if (this.#receiving !== null) {
        if (!this.#takePayload(this.#receiving, window, received)) break;
      } else if (received < this.#headerBytes || !this.#takeRequest(window)) {
        break;
      }
    }
  }

  /** False: more bytes are needed. */
  #takePayload(request: Request, window: ReceiveWindow, received: number): boolean {
    if (request.error !== 0) {
      // Refused: the payload is drained, whatever its length.
      const drained = Math.min(received, this.#payloadLeft);
      window.at += drained;
      this.#payloadLeft -= drained;
    } else if (received >= this.#payloadLeft) {
      if (request.type === nbd.CMD_WRITE) this.#write(request, window, this.#payloadLeft);
      else this.#chooseContexts(request, window);
    } else if (window.size - window.end < blockBytesMin && received >= contiguousBytes) {
      const position = request.offset + request.length - this.#payloadLeft;
      this.#write(request, window, received - ((position + received) % cutBytes));
      return false;
    } else {
      return false;
    }
    if (this.#payloadLeft > 0) return false;
    this.#receiving = null;
    this.#commands.part(request);
    return true;
  }

  /** One piece of a WRITE. */
  #write(request: Request, window: ReceiveWindow, length: number): void {
    const position = request.offset + request.length - this.#payloadLeft;
    this.#payloadLeft -= length;
    this.#commands.write(request, position, window, length);
  }

  /** All of a BLOCK_STATUS payload is there. */
  #chooseContexts(request: Request, window: ReceiveWindow): void {
    const { status } = this.#commands;
    if (status.choose(request, this.#resources.arena.view, window.memory + window.at)) {
      request.flags &= ~nbd.CMD_FLAG_PAYLOAD_LEN;
      this.#validate(request);
      if (request.error === 0) status.start(request);
    }
    window.at += this.#payloadLeft;
    this.#payloadLeft = 0;
  }

  /** Whether one more request may be taken; if not, the end of one of those there are is awaited. */
  #mayBegin(): boolean {
    const { inFlight } = this;
    if (inFlight < requestsGuaranteed) return true;
    const { requestsInFlight } = this.#resources;
    return inFlight < requestsPerConnection && inFlight < requestsInAll - requestsInFlight;
  }

  /** False: a limit was reached, and the request is still in the window. */
  #takeRequest(window: ReceiveWindow): boolean {
    if (!this.#mayBegin()) {
      this.blocked = true;
      return false;
    }
    const request = this.#resources.requests.take(this.#commands);
    if (!this.#decode(window.memory + window.at, request)) {
      this.#resources.requests.give(request);
      return false;
    }
    if (this.closing) {
      request.error = ESHUTDOWN;
      request.reason = shuttingDown;
    } else {
      this.#validate(request);
    }
    if (request.error === 0 && !this.#commands.admit(request)) {
      this.blocked = true;
      this.starved = this.#commands.admission.starved;
      this.#resources.requests.give(request);
      return false;
    }
    window.at += this.#headerBytes;
    this.inFlight++;
    this.#resources.requestsInFlight++;
    if (this.#hasPayload(request)) {
      const { length } = request;
      if (request.error !== 0 && length > payloadBytesFatal) {
        this.failure = `payload of ${length} bytes, at most ${payloadBytes}`;
      }
      this.#receiving = request;
      this.#payloadLeft = length;
      return true;
    }
    if (request.error === 0) this.#commands.start(request);
    this.#commands.part(request);
    return true;
  }

  /** False: there is no request to be carried out, and there will not be one. */
  #decode(at: number, request: Request): boolean {
    const { view } = this.#resources.arena;
    const known = this.#extended
      ? decodeExtendedRequest(view, at, request)
      : decodeRequest(view, at, request);
    if (!known) this.failure = `request magic: found 0x${view.getUint32(at).toString(16)}`;
    else if (request.type === nbd.CMD_DISC) this.disconnected = true;
    return known && !this.disconnected;
  }

  /** Whether bytes follow the header: they do even if the request is refused. */
  #hasPayload(request: Request): boolean {
    if (request.length === 0) return false;
    if (request.type === nbd.CMD_WRITE) return true;
    return this.#extended && (request.flags & nbd.CMD_FLAG_PAYLOAD_LEN) !== 0;
  }

  /** Sets the request's error, if it has one. */
  #validate(request: Request): void {
    if (this.#device.generation !== this.#generation) this.#lookAgain();
    const { type, flags, offsetHigh, offsetLow, lengthHigh, lengthLow } = request;
    request.error = validateRequest(
      type,
      flags,
      offsetHigh,
      offsetLow,
      lengthHigh,
      lengthLow,
      this.#rules,
    );
    if (request.error !== 0) this.#refused(request);
  }

  /** The device has another table: its size may be another. */
  #lookAgain(): void {
    this.#generation = this.#device.generation;
    this.#rules = { ...this.#rules, sizeBytes: this.#device.sizeBytes };
  }

  #refused(request: Request): void {
    const { type, flags, offsetHigh, offsetLow, lengthHigh, lengthLow } = request;
    request.reason = requestFaultText(
      type,
      flags,
      offsetHigh,
      offsetLow,
      lengthHigh,
      lengthLow,
      this.#rules,
    );
    const code = errnoName(request.error);
    this.#resources.log.debug(
      { device: this.#device.name, code },
      `request refused: ${request.reason}`,
    );
  }

  /** The answer has left (or never will): what the request held comes back. */
  release(request: Request): void {
    this.#commands.release(request);
    this.inFlight--;
    this.#resources.requestsInFlight--;
    if (this.blocked) this.#owner.unblocked();
  }

  /** A piece of a READ has left: reads the next one, whose end is told as that of the request. */
  readOn(request: Request): void {
    this.#commands.readOn(request);
  }

  /** What has been sent of the reply leaves no place for an error. */
  isPromised(request: Request): boolean {
    const wholeData = this.replies === SIMPLE || (request.flags & nbd.CMD_FLAG_DF) !== 0;
    return wholeData && request.streamSent > 0;
  }

  /** The daemon is going down, or the client has gone: only what is under way goes on. */
  stop(): void {
    this.closing = true;
  }

  /** No more will be taken; perhaps in the middle of a payload. */
  abandon(): void {
    const request = this.#receiving;
    if (request === null) return;
    this.#receiving = null;
    if (request.error === 0) this.#cutOff(request);
    this.#commands.part(request);
  }

  #cutOff(request: Request): void {
    request.error = this.closing ? ESHUTDOWN : EIO;
    if (this.closing) request.reason = shuttingDown;
  }
}
