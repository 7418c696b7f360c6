/**
 * Bytes that a client has announced and that come in binary frames: a region table. They are put
 * where they are to stay, the header for this thread, the slots in shared memory for the queue
 * thread, so that each byte is copied once.
 */

import { EBUSY, ECONNRESET } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { uploadBytesInAll } from '../base/limits.js';
import { regionHeaderBytes } from '../target/switch/upload-format.js';

/** All of it. */
export interface Received {
  /** As much as there is of it, if there are too few bytes. */
  readonly header: Uint8Array;
  readonly slots: SharedArrayBuffer;
}

/** What all uploads under way hold, until each is answered. */
export class UploadRoom {
  #bytes = 0;

  /** Throws MapperError EBUSY if there is not so much. */
  take(bytes: number): void {
    if (this.#bytes + bytes > uploadBytesInAll) {
      const held = `uploads under way hold ${this.#bytes} of ${uploadBytesInAll} bytes`;
      throw new MapperError(EBUSY, `${held}, wanted ${bytes}: try again`);
    }
    this.#bytes += bytes;
  }

  give(bytes: number): void {
    this.#bytes -= bytes;
  }
}

export class Incoming {
  readonly #header: Uint8Array;
  readonly #slots: SharedArrayBuffer;
  readonly #bytes: number;
  #taken = 0;
  /** Resolves when all of it is there. Rejects with MapperError when the connection ends before. */
  readonly received: Promise<Received>;
  #resolve!: (received: Received) => void;
  #reject!: (error: MapperError) => void;

  constructor(bytes: number) {
    const headerBytes = Math.min(bytes, regionHeaderBytes);
    this.#bytes = bytes;
    this.#header = new Uint8Array(headerBytes);
    this.#slots = new SharedArrayBuffer(bytes - headerBytes);
    this.received = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  /** False, and nothing of it is taken: that is more than was announced. */
  take(frame: Uint8Array): boolean {
    if (frame.length > this.#bytes - this.#taken) return false;
    const header = this.#header;
    const left = Math.max(0, header.length - this.#taken);
    if (left > 0) header.set(frame.subarray(0, left), this.#taken);
    if (frame.length > left) {
      const at = this.#taken + left - header.length;
      new Uint8Array(this.#slots).set(frame.subarray(left), at);
    }
    this.#taken += frame.length;
    if (this.complete) this.#resolve({ header, slots: this.#slots });
    return true;
  }

  get complete(): boolean {
    return this.#taken === this.#bytes;
  }

  /** The connection has ended. */
  lost(): void {
    const found = `${this.#taken} of ${this.#bytes} bytes`;
    this.#reject(new MapperError(ECONNRESET, `the connection ended after ${found}`));
  }
}
