/**
 * Handshake replies that wait to be sent. A peer may ask for many and take none; what all
 * connections together hold for such peers is bounded, at the cost of those that hold much.
 */

import { handshakeOutputInAllBytes, handshakeOutputShortBytes } from '../base/limits.js';
import type { ReplyBatch } from './reply.js';
import type { Resources } from './resources.js';

export class HandshakeOutput {
  readonly #resources: Resources;
  #replies: Uint8Array[] = [];
  /** How far the first has been sent. */
  #sent = 0;
  /** Bytes that have not been sent, as they are counted among those of all connections. */
  bytes = 0;

  constructor(resources: Resources) {
    this.#resources = resources;
  }

  get waits(): boolean {
    return this.#replies.length > 0;
  }

  /** There is no room for all that waits everywhere, and this is not little. */
  get tooMuch(): boolean {
    const inAll = this.#resources.handshakeOutputBytes;
    return inAll > handshakeOutputInAllBytes && this.bytes > handshakeOutputShortBytes;
  }

  take(replies: readonly Uint8Array[]): void {
    for (const reply of replies) {
      this.#replies.push(reply);
      this.#count(reply.length);
    }
  }

  /** As much as there is room for. */
  addTo(batch: ReplyBatch): void {
    while (this.#replies.length > 0 && batch.hasRoom) {
      const first = this.#replies[0] as Uint8Array;
      const bytes = batch.addBytes(first, this.#sent);
      this.#sent += bytes;
      this.#count(-bytes);
      if (this.#sent < first.length) return;
      this.#sent = 0;
      this.#replies.shift();
    }
  }

  /** Nothing can be sent any more. */
  drop(): void {
    this.#replies = [];
    this.#count(-this.bytes);
  }

  #count(bytes: number): void {
    this.bytes += bytes;
    this.#resources.handshakeOutputBytes += bytes;
  }
}
