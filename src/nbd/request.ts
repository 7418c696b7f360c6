/**
 * One NBD request, from its header to its reply: what the client sent, the Ios that carry it out,
 * and the memory it holds. Requests come from a pool.
 *
 *   compact request, 28 bytes, big-endian
 *    0 u32 magic   4 u16 flags   6 u16 type   8 u64 cookie   16 u64 offset   24 u32 length
 *   extended request, 32 bytes: another magic, and
 *                                                            16 u64 offset   24 u64 length
 */

import { holesPerRead } from '../base/limits.js';
import { ExtentList } from '../device/extent-list.js';
import type { Io, IoOwner } from '../device/io.js';
import { EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC } from './constants.js';
import type { MetaContext } from './meta-context.js';

/** Who is told that all Ios of a request have ended. */
export interface RequestOwner {
  ioFinished(request: Request, io: Io): void;
}

/** A block of a READ that is too long for one. */
export interface Piece {
  readonly memory: number;
  readonly length: number;
  zero: boolean;
}

const nobody: RequestOwner = { ioFinished() {} };
const noContexts: readonly MetaContext[] = [];

export class Request implements IoOwner {
  owner: RequestOwner = nobody;
  type = 0;
  flags = 0;
  /** The client's u64, as two words that are only ever copied. */
  cookieFirst = 0;
  cookieSecond = 0;
  /** Offset and length as they were sent, and as numbers: exact below 2^53, rounded above. */
  offset = 0;
  offsetHigh = 0;
  offsetLow = 0;
  length = 0;
  lengthHigh = 0;
  lengthLow = 0;

  /** 0, or the errno to answer with, and why. */
  error = 0;
  reason = '';
  /** Ios under way, and one more while the request is being received. */
  pending = 0;
  /** It is carried out in steps, of which one is under way. */
  stepped = false;

  /** READ: the block that is read into (0: none), or several. */
  memory = 0;
  pieces: Piece[] | null = null;
  /** Bytes that are counted for that memory, in the pool or not, and not in the connection's share. */
  reservedBytes = 0;
  pooled = false;
  large = false;
  /** READ: it is answered piece after piece; bytes of one (0: as a whole), and those sent so far. */
  streamBytes = 0;
  streamSent = 0;
  /** READ: everything is zero, and the memory was not filled. */
  allZero = false;
  /** READ: known holes, covering the range; empty if none are known. */
  readonly holes = new ExtentList(holesPerRead);
  /** BLOCK_STATUS: what is to be told, the answers in the same order, and those that were sent. */
  contexts = noContexts;
  readonly answers: ExtentList[] = [];
  answersSent = 0;

  /** In the pool, in the queue of replies, in a batch. */
  next: Request | null = null;

  finished(io: Io): void {
    this.owner.ioFinished(this, io);
  }
}

/** Reads a header; false if the magic is wrong, and then the stream is out of step for good. */
export function decodeRequest(view: DataView, at: number, request: Request): boolean {
  if (view.getUint32(at) !== REQUEST_MAGIC) return false;
  decodeCommon(view, at, request);
  const length = view.getUint32(at + 24);
  request.lengthHigh = 0;
  request.lengthLow = length;
  request.length = length;
  return true;
}

/** The same for an extended header. */
export function decodeExtendedRequest(view: DataView, at: number, request: Request): boolean {
  if (view.getUint32(at) !== EXTENDED_REQUEST_MAGIC) return false;
  decodeCommon(view, at, request);
  decodeLength(view, at + 24, request);
  return true;
}

/** Reads a length of 64 bits, from a header or from the payload of BLOCK_STATUS. */
export function decodeLength(view: DataView, at: number, request: Request): void {
  request.lengthHigh = view.getUint32(at);
  request.lengthLow = view.getUint32(at + 4);
  request.length = request.lengthHigh * 4294967296 + request.lengthLow;
}

function decodeCommon(view: DataView, at: number, request: Request): void {
  request.flags = view.getUint16(at + 4);
  request.type = view.getUint16(at + 6);
  request.cookieFirst = view.getUint32(at + 8);
  request.cookieSecond = view.getUint32(at + 12);
  request.offsetHigh = view.getUint32(at + 16);
  request.offsetLow = view.getUint32(at + 20);
  request.offset = request.offsetHigh * 4294967296 + request.offsetLow;
}

/** Requests that are not in use. */
export class RequestPool {
  #free: Request | null = null;

  take(owner: RequestOwner): Request {
    const request = this.#free ?? new Request();
    this.#free = request.next;
    request.owner = owner;
    request.error = 0;
    request.pending = 1;
    request.memory = 0;
    request.stepped = false;
    request.reservedBytes = 0;
    request.large = false;
    request.streamBytes = 0;
    request.streamSent = 0;
    request.allZero = false;
    request.next = null;
    return request;
  }

  give(request: Request): void {
    request.owner = nobody;
    request.reason = '';
    request.pieces = null;
    request.contexts = noContexts;
    request.holes.clear();
    request.next = this.#free;
    this.#free = request;
  }
}
