/** A connected socket on the ring. */

import type { Completion, EngineSocket, SendVector } from '../engine.js';
import type { UringEngine } from './engine.js';
import { OP_RECV, OP_SENDMSG } from './ring.js';

/** No SIGPIPE; and the kernel goes on by itself after a short send. */
const SEND_FLAGS = 0x4000 | 0x100;

/**
 * struct msghdr, 56 bytes: u64 name, u32 name length, pad, u64 iovec, u64 iovec count, u64 control,
 * u64 control length, s32 flags. Only the iovec fields are used; the rest stays zero.
 */
const messageWords = 16;
/** IOV_MAX: the kernel takes no more at once. */
const piecesPerSend = 1024;
/**
 * A connection that has sent so much stays, and is worth making known to the ring: that costs two
 * calls, which those that come and go by the thousand need not cost.
 */
const receivesBeforeStay = 8;

export class UringSocket implements EngineSocket, Completion {
  readonly #engine: UringEngine;
  readonly #fd: number;
  /** The same for the ring, once it knows of it. */
  #file: number;
  #receives = 0;
  /** Where this socket's msghdr is, an arena offset. */
  readonly #message: number;
  #sending: Completion | null = null;
  #vector: SendVector | null = null;
  /** Bytes and pieces of the vector that have been sent. */
  #sent = 0;
  #piecesSent = 0;

  constructor(engine: UringEngine, fd: number) {
    this.#engine = engine;
    this.#fd = fd;
    this.#file = fd;
    this.#message = engine.takeMessageHeader();
  }

  receive(memory: number, length: number, completion: Completion): void {
    const engine = this.#engine;
    if (++this.#receives === receivesBeforeStay) this.#file = engine.ring.addFile(this.#fd);
    engine.ring.submit(OP_RECV, this.#file, 0, engine.base + memory, length, 0, completion);
  }

  send(vector: SendVector, completion: Completion): void {
    this.#sending = completion;
    this.#vector = vector;
    this.#sent = 0;
    this.#piecesSent = 0;
    this.#submit();
  }

  #submit(): void {
    const engine = this.#engine;
    const vector = this.#vector as SendVector;
    const words = engine.arena.words;
    const at = this.#message >> 2;
    const entries = engine.base + vector.memory + this.#piecesSent * 16;
    for (let i = 0; i < messageWords; i++) words[at + i] = 0;
    words[at + 4] = entries | 0;
    words[at + 5] = Math.floor(entries / 4294967296);
    words[at + 6] = Math.min(vector.count - this.#piecesSent, piecesPerSend);
    const address = engine.base + this.#message;
    engine.ring.submit(OP_SENDMSG, this.#file, 0, address, 1, SEND_FLAGS, this);
  }

  /** Completion of a send: all, or an error, or a part, from where it goes on. */
  done(result: number): void {
    const vector = this.#vector as SendVector;
    if (result >= 0) {
      this.#sent += result;
      if (result > 0 && this.#sent < vector.bytes) {
        this.#skip(vector, result);
        this.#submit();
        return;
      }
    }
    const completion = this.#sending as Completion;
    this.#sending = null;
    this.#vector = null;
    completion.done(result < 0 ? result : this.#sent);
  }

  /** Moves the beginning of the vector past what was sent. */
  #skip(vector: SendVector, bytes: number): void {
    const view = this.#engine.arena.view;
    let left = bytes;
    for (;;) {
      const entry = vector.memory + this.#piecesSent * 16;
      const length = view.getUint32(entry + 8, true);
      if (left < length) {
        const address = view.getBigUint64(entry, true) + BigInt(left);
        view.setBigUint64(entry, address, true);
        view.setUint32(entry + 8, length - left, true);
        return;
      }
      left -= length;
      this.#piecesSent++;
    }
  }

  shutdown(): void {
    this.#engine.system.shutdown(this.#fd);
  }

  close(): void {
    this.#engine.ring.removeFile(this.#file);
    this.#engine.giveMessageHeader(this.#message);
    this.#engine.system.close(this.#fd);
  }
}

export const messageHeaderBytes = messageWords * 4;
