/**
 * The memory that one connection's requests hold for their data, and who may have more of it. A
 * READ takes what it needs as a whole when it begins: out of what the connection has for certain,
 * or else out of the pool that all connections share. Both are given back when its answer has left.
 *
 *   fits into the share?  --no, but its own requests will make room-->  it waits for them
 *   there is memory?      --no-->  streamed: read and sent piece after piece, each in one block
 *   not even for that     -------> it waits, for its own requests or for others
 *
 * So a client that takes no replies holds up nobody but itself: for the others there is always a
 * part of the pool, and behind that the certain part, which suffices for requests of any length.
 */

import { blockBytesMax, blockBytesMin, guaranteedBytes } from '../base/limits.js';
import type { Piece, Request } from './request.js';
import type { Resources } from './resources.js';

/** Streams leave half of the certain part to requests that come with them. */
const certainBlockBytes = guaranteedBytes / 2;

export class Admission {
  /** The request at the head waits for memory that others hold: nobody will tell when it is there. */
  starved = false;
  readonly #resources: Resources;
  /** Bytes of the share, and how much is held of the certain part and of the pool. */
  #held = 0;
  #certain = 0;
  #pooled = 0;

  constructor(resources: Resources) {
    this.#resources = resources;
  }

  /** Takes the memory that a READ needs; false: it has to wait. */
  admit(request: Request): boolean {
    const bytes = roundedBytes(request.length);
    const share = this.#resources.shareBytes;
    this.starved = false;
    if (bytes <= share && this.#held + bytes > share) return false;
    if (this.#reserve(request, bytes)) {
      if (this.#allocate(request)) {
        request.large = bytes > share;
        if (!request.large) this.#held += bytes;
        return true;
      }
      this.#giveReserved(request);
    } else if (bytes <= guaranteedBytes) {
      // What is certain is held by its own requests.
      return false;
    }
    if (this.#stream(request)) return true;
    this.starved = this.#certain + this.#pooled === 0;
    return false;
  }

  /** Counts bytes that are about to be allocated. */
  #reserve(request: Request, bytes: number): boolean {
    if (this.#certain + bytes <= guaranteedBytes) {
      this.#certain += bytes;
      request.pooled = false;
    } else if (this.#resources.memory.take(bytes, this.#pooled)) {
      this.#pooled += bytes;
      request.pooled = true;
    } else {
      return false;
    }
    request.reservedBytes = bytes;
    return true;
  }

  #giveReserved(request: Request): void {
    const { reservedBytes, pooled } = request;
    if (pooled) {
      this.#pooled -= reservedBytes;
      this.#resources.memory.give(reservedBytes);
    } else {
      this.#certain -= reservedBytes;
    }
    request.reservedBytes = 0;
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

  /** One block for the whole request, the largest that can be had. */
  #stream(request: Request): boolean {
    const { arena } = this.#resources;
    for (let bytes = blockBytesMax; bytes >= certainBlockBytes; bytes /= 2) {
      if (bytes >= request.length) continue;
      if (!this.#reserve(request, bytes)) continue;
      const memory = arena.allocate(bytes);
      if (memory >= 0) {
        request.memory = memory;
        request.streamBytes = bytes;
        request.large = true;
        return true;
      }
      this.#giveReserved(request);
    }
    return false;
  }

  /** What `admit` took comes back. */
  release(request: Request): void {
    if (request.reservedBytes === 0) return;
    const { arena } = this.#resources;
    if (request.pieces !== null) {
      for (const piece of request.pieces) arena.free(piece.memory, piece.length);
    } else {
      arena.free(request.memory, request.streamBytes || request.length);
    }
    if (!request.large) this.#held -= request.reservedBytes;
    this.#giveReserved(request);
  }

  /** A block of at most `blockBytesMax` for a request; false when there is none to spare. */
  borrow(request: Request, length: number): boolean {
    const bytes = roundedBytes(length);
    if (this.#held + bytes > this.#resources.shareBytes) return false;
    if (!this.#reserve(request, bytes)) return false;
    const memory = this.#resources.arena.allocate(length);
    if (memory < 0) {
      this.#giveReserved(request);
      return false;
    }
    request.memory = memory;
    this.#held += bytes;
    return true;
  }

  giveBack(request: Request, length: number): void {
    this.#resources.arena.free(request.memory, length);
    request.memory = 0;
    this.#held -= request.reservedBytes;
    this.#giveReserved(request);
  }
}

/** What the arena gives for so many bytes, in blocks of at most `blockBytesMax`. */
export function roundedBytes(bytes: number): number {
  const rest = bytes % blockBytesMax;
  if (rest === 0) return bytes;
  return bytes - rest + Math.max(blockBytesMin, 1 << (32 - Math.clz32(rest - 1)));
}
