/**
 * Replies, in the form in which they leave: a batch is a block for headers and short data, and a
 * vector of pieces that points at it and at the data that was read. Neighbouring headers are one
 * piece, so a batch of write replies is a single one.
 *
 *   simple reply, 16 bytes             u32 magic  u32 error  u64 cookie, then a READ's data
 *   structured chunk, 20 bytes         u32 magic  u16 flags  u16 type  u64 cookie  u32 length
 *   extended chunk, 32 bytes           u32 magic  u16 flags  u16 type  u64 cookie  u64 offset
 *                                      u64 length; the offset is the request's
 *     offset data                      u64 offset, data
 *     offset hole                      u64 offset  u32 size
 *     block status                     see extents.ts
 *     error                            u32 error  u16 text length, text
 *     error offset                     the same, u64 offset
 *
 * A BLOCK_STATUS of several contexts has a chunk for each of them, and these may leave in several
 * batches, as do the pieces of a READ that is streamed. Every other reply is whole in one batch.
 */

import { EACCES, EDQUOT, EFBIG, ENOSPC, EOPNOTSUPP, EPERM, EROFS } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import {
  batchBytes,
  batchPieces,
  blockBytesMax,
  errorTextBytes,
  holesPerRead,
  payloadBytes,
} from '../base/limits.js';
import { EXTENT_HOLE, type ExtentList } from '../device/extent-list.js';
import type { Arena } from '../engine/arena.js';
import type { Engine, SendVector } from '../engine/engine.js';
import * as nbd from './constants.js';
import { extentsBytesMax, packExtents } from './extents.js';
import type { MetaContext } from './meta-context.js';
import type { Request } from './request.js';

/** How replies are written; each kind can do what those before it can. */
export const SIMPLE = 0;
export const STRUCTURED = 1;
export const EXTENDED = 2;
export type ReplyKind = typeof SIMPLE | typeof STRUCTURED | typeof EXTENDED;

/** What any one reply, or one chunk of BLOCK_STATUS, may need. */
const headerBytesMax = Math.max(
  nbd.EXTENDED_REPLY_BYTES + extentsBytesMax,
  nbd.EXTENDED_REPLY_BYTES + 6 + errorTextBytes,
  (nbd.EXTENDED_REPLY_BYTES + 12) * holesPerRead,
);
const piecesMax = 2 * Math.max(payloadBytes / blockBytesMax, holesPerRead) + 1;

const encoder = new TextEncoder();

/** In UTF-8, and not cut inside of a character. */
function errorText(reason: string): Uint8Array {
  const bytes = encoder.encode(reason);
  let end = Math.min(bytes.length, errorTextBytes);
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) end--;
  return bytes.subarray(0, end);
}

/** The errno (0 is success) as the protocol knows it: no other may go on the wire. */
export function wireError(errno: number, type: number, flags: number): number {
  switch (errno) {
    case 0:
    case nbd.NBD_EPERM:
    case nbd.NBD_EIO:
    case nbd.NBD_ENOMEM:
    case nbd.NBD_EINVAL:
    case nbd.NBD_ENOSPC:
    case nbd.NBD_ESHUTDOWN:
      return errno;
    case EACCES:
    case EROFS:
      return EPERM;
    case EDQUOT:
    case EFBIG:
      return ENOSPC;
    case EOPNOTSUPP:
      return type === nbd.CMD_WRITE_ZEROES && (flags & nbd.CMD_FLAG_FAST_ZERO) !== 0
        ? nbd.NBD_ENOTSUP
        : nbd.NBD_EIO;
    default:
      return nbd.NBD_EIO;
  }
}

export class ReplyBatch {
  readonly vector: SendVector;
  readonly #arena: Arena;
  readonly #view: DataView;
  /** The block for headers, and how far it is filled. */
  readonly #block: number;
  #used = 0;
  /** The kind of the reply that is being added, and what its chunks' headers have. */
  #extended = false;
  #chunkHeaderBytes: number = nbd.STRUCTURED_REPLY_BYTES;
  /** The last piece of the vector is in the block, so that it can go on. */
  #headerLast = false;
  /** Requests whose replies are in here; their memory is needed until the batch has left. */
  requests: Request | null = null;

  constructor(engine: Engine, block: number) {
    this.#arena = engine.arena;
    this.#view = engine.arena.view;
    this.#block = block;
    this.vector = engine.sendVector(batchPieces);
  }

  get isEmpty(): boolean {
    return this.vector.count === 0;
  }

  clear(): void {
    this.#used = 0;
    this.#headerLast = false;
    this.requests = null;
    this.vector.clear();
  }

  /** Whether there is room for one more reply, whatever it is. */
  get hasRoom(): boolean {
    return (
      this.#used + headerBytesMax <= batchBytes && this.vector.count + piecesMax <= batchPieces
    );
  }

  /** Copies as much as there is room for; returns how much. */
  addBytes(bytes: Uint8Array, from: number): number {
    const length = Math.min(bytes.length - from, batchBytes - this.#used);
    const at = this.#block + this.#used;
    this.#arena.bytes.set(bytes.subarray(from, from + length), at);
    if (length > 0) this.#add(length);
    return length;
  }

  /**
   * Adds the reply to a request that has ended. `hasRoom` has been asked for. False: some of its
   * chunks are in here, the others are to be added to another batch, first of all.
   */
  add(request: Request, kind: ReplyKind): boolean {
    this.#extended = kind === EXTENDED;
    this.#chunkHeaderBytes = this.#extended ? nbd.EXTENDED_REPLY_BYTES : nbd.STRUCTURED_REPLY_BYTES;
    if (request.streamBytes > 0 && request.error === 0) {
      if (!this.#piece(request, kind)) return false;
    } else if (kind === SIMPLE) this.#simple(request);
    else if (request.error !== 0) this.#errorChunk(request);
    else if (request.type === nbd.CMD_READ) this.#readChunks(request);
    else if (request.type !== nbd.CMD_BLOCK_STATUS) this.#emptyChunk(request);
    else if (!this.#statusChunks(request)) return false;
    request.next = this.requests;
    this.requests = request;
    return true;
  }

  /** The last `length` header bytes that were written become a piece. */
  #add(length: number): void {
    if (this.#headerLast) this.vector.extendLast(length);
    else this.vector.push(this.#block + this.#used, length);
    this.#used += length;
    this.#headerLast = true;
  }

  /** Data from elsewhere in the arena. */
  #addData(memory: number, length: number): void {
    this.vector.push(memory, length);
    this.#headerLast = false;
  }

  /** The piece of a READ that has been read; false when there are more. */
  #piece(request: Request, kind: ReplyKind): boolean {
    const { offset, length, streamSent } = request;
    const bytes = Math.min(request.streamBytes, length - streamSent);
    const isLast = streamSent + bytes === length;
    const memory = request.allZero ? this.#arena.zeroes : request.memory;
    if (kind === SIMPLE || (request.flags & nbd.CMD_FLAG_DF) !== 0) {
      if (streamSent === 0 && kind === SIMPLE) this.#simpleHeader(request);
      else if (streamSent === 0) this.#dataHeader(request, offset, length, nbd.REPLY_FLAG_DONE);
      this.#addData(memory, bytes);
    } else {
      const flags = isLast ? nbd.REPLY_FLAG_DONE : 0;
      const at = offset + streamSent;
      if (request.allZero) {
        this.#holeChunk(request, at, bytes, flags);
      } else {
        this.#dataHeader(request, at, bytes, flags);
        this.#addData(memory, bytes);
      }
    }
    request.streamSent += bytes;
    return isLast;
  }

  #simple(request: Request): void {
    this.#simpleHeader(request);
    if (request.type === nbd.CMD_READ && request.error === 0) this.#data(request);
  }

  #simpleHeader(request: Request): void {
    const view = this.#view;
    const at = this.#block + this.#used;
    view.setUint32(at, nbd.SIMPLE_REPLY_MAGIC);
    view.setUint32(at + 4, wireError(request.error, request.type, request.flags));
    view.setUint32(at + 8, request.cookieFirst);
    view.setUint32(at + 12, request.cookieSecond);
    this.#add(nbd.SIMPLE_REPLY_BYTES);
  }

  /** Everything that was read, or as many zeroes. */
  #data(request: Request): void {
    if (request.pieces !== null) {
      for (const piece of request.pieces) {
        this.#addData(piece.zero ? this.#arena.zeroes : piece.memory, piece.length);
      }
    } else if (request.allZero) {
      this.#addData(this.#arena.zeroes, request.length);
    } else {
      this.#addData(request.memory, request.length);
    }
  }

  /** A chunk's header, and room for `extra` bytes behind it that the caller has filled in. */
  #chunk(request: Request, flags: number, type: number, length: number, extra: number): void {
    const view = this.#view;
    const at = this.#block + this.#used;
    view.setUint16(at + 4, flags);
    view.setUint16(at + 6, type);
    view.setUint32(at + 8, request.cookieFirst);
    view.setUint32(at + 12, request.cookieSecond);
    if (this.#extended) {
      view.setUint32(at, nbd.EXTENDED_REPLY_MAGIC);
      view.setUint32(at + 16, request.offsetHigh);
      view.setUint32(at + 20, request.offsetLow);
      // No chunk is longer than the largest payload and a few bytes.
      view.setUint32(at + 24, 0);
      view.setUint32(at + 28, length);
    } else {
      view.setUint32(at, nbd.STRUCTURED_REPLY_MAGIC);
      view.setUint32(at + 16, length);
    }
    this.#add(this.#chunkHeaderBytes + extra);
  }

  #emptyChunk(request: Request): void {
    this.#chunk(request, nbd.REPLY_FLAG_DONE, nbd.REPLY_TYPE_NONE, 0, 0);
  }

  /** Where the bytes behind the next chunk's header go. */
  #behindHeader(): number {
    return this.#block + this.#used + this.#chunkHeaderBytes;
  }

  #setOffset(at: number, offset: number): void {
    const high = Math.floor(offset / 4294967296);
    this.#view.setUint32(at, high);
    this.#view.setUint32(at + 4, offset - high * 4294967296);
  }

  #readChunks(request: Request): void {
    const { offset, length, holes } = request;
    if (request.pieces !== null) {
      // One content chunk, and so within DF.
      this.#dataHeader(request, offset, length, nbd.REPLY_FLAG_DONE);
      this.#data(request);
    } else if (request.allZero) {
      this.#holeChunk(request, offset, length, nbd.REPLY_FLAG_DONE);
    } else if (holes.count === 0) {
      this.#dataHeader(request, offset, length, nbd.REPLY_FLAG_DONE);
      this.#addData(request.memory, length);
    } else {
      this.#sparseChunks(request, holes);
    }
  }

  #sparseChunks(request: Request, holes: ExtentList): void {
    let position = 0;
    for (let i = 0; i < holes.count; i++) {
      const length = holes.lengths[i] as number;
      const flags = i === holes.count - 1 ? nbd.REPLY_FLAG_DONE : 0;
      if (((holes.flags[i] as number) & EXTENT_HOLE) !== 0) {
        this.#holeChunk(request, request.offset + position, length, flags);
      } else {
        this.#dataHeader(request, request.offset + position, length, flags);
        this.#addData(request.memory + position, length);
      }
      position += length;
    }
  }

  #dataHeader(request: Request, offset: number, length: number, flags: number): void {
    this.#setOffset(this.#behindHeader(), offset);
    this.#chunk(request, flags, nbd.REPLY_TYPE_OFFSET_DATA, 8 + length, 8);
  }

  #holeChunk(request: Request, offset: number, length: number, flags: number): void {
    const at = this.#behindHeader();
    this.#setOffset(at, offset);
    this.#view.setUint32(at + 8, length);
    this.#chunk(request, flags, nbd.REPLY_TYPE_OFFSET_HOLE, 12, 12);
  }

  /** Those that have room; false when more are to be sent. */
  #statusChunks(request: Request): boolean {
    const { answers, contexts, length } = request;
    const one = (request.flags & nbd.CMD_FLAG_REQ_ONE) !== 0;
    const type = this.#extended ? nbd.REPLY_TYPE_BLOCK_STATUS_EXT : nbd.REPLY_TYPE_BLOCK_STATUS;
    while (request.answersSent < answers.length) {
      if (!this.hasRoom) return false;
      const { id } = contexts[request.answersSent] as MetaContext;
      const list = answers[request.answersSent++] as ExtentList;
      const most = one ? 1 : list.count;
      const bytes = packExtents(
        this.#view,
        this.#behindHeader(),
        id,
        list,
        most,
        length,
        this.#extended,
      );
      const flags = request.answersSent === answers.length ? nbd.REPLY_FLAG_DONE : 0;
      this.#chunk(request, flags, type, bytes, bytes);
    }
    return true;
  }

  #errorChunk(request: Request): void {
    const at = this.#behindHeader();
    const text = errorText(request.reason);
    this.#view.setUint32(at, wireError(request.error, request.type, request.flags));
    this.#view.setUint16(at + 4, text.length);
    this.#arena.bytes.set(text, at + 6);
    const length = 6 + text.length;
    this.#chunk(request, nbd.REPLY_FLAG_DONE, nbd.REPLY_TYPE_ERROR, length, length);
  }
}

/** What the arena gives for a vector: 16 bytes a piece. */
const batchVectorBytes = 16 * batchPieces;

/** Batches that are not in use: as many as connections have sent at the same time. */
export class BatchPool {
  readonly #engine: Engine;
  readonly #free: ReplyBatch[] = [];

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /** Of the arena, by batches that wait to be used again. */
  get keptBytes(): number {
    return this.#free.length * (batchBytes + batchVectorBytes);
  }

  /** Null when there is no memory for one more. */
  take(): ReplyBatch | null {
    const batch = this.#free.pop();
    if (batch !== undefined) return batch;
    const { arena } = this.#engine;
    const block = arena.allocate(batchBytes);
    if (block < 0) return null;
    try {
      return new ReplyBatch(this.#engine, block);
    } catch (error) {
      arena.free(block, batchBytes);
      if (error instanceof MapperError) return null;
      throw error;
    }
  }

  give(batch: ReplyBatch): void {
    batch.clear();
    this.#free.push(batch);
  }
}
