/**
 * A connected socket on node:net.
 *
 * Receiving: the stream flows while there is somebody to give its data to. A chunk that is longer
 * than the receive it meets is kept, the stream is paused, and the rest goes to the next receives;
 * with the stream paused Node reads no more than its high-water mark from the system, so that a
 * peer that is not listened to is held up.
 *
 *   flowing, no chunk  --chunk longer than the receive, or no receive-->  paused, one chunk kept
 *          ^--------------------chunk used up, and one more receive-----------------'
 *
 * Sending: the pieces are given to the stream as views of the arena, all at once between cork and
 * uncork, so that they leave in one writev; the last piece's callback means that the system has
 * taken them all, and the memory is the caller's again.
 *
 * Each operation ends once: a result is given only while its completion is still there.
 */

import type { Buffer } from 'node:buffer';
import type { Socket } from 'node:net';
import { assert } from '../../base/assert.js';
import { ECANCELED, ESHUTDOWN } from '../../base/errno.js';
import type { Completion, EngineSocket, SendVector } from '../engine.js';
import { ArenaSendVector } from '../send-vector.js';
import type { NodeEngine } from './engine.js';
import { isSystemError, resultOf } from './system-error.js';

export class NodeSocket implements EngineSocket {
  readonly #engine: NodeEngine;
  readonly #socket: Socket;
  readonly #written = (error?: Error | null): void => this.#sent(error ?? null);

  #receiver: Completion | null = null;
  #memory = 0;
  #length = 0;
  /** What came and nobody has received yet: `#chunk` from `#chunkAt` on. */
  #chunk: Buffer | null = null;
  #chunkAt = 0;
  #flowing = false;
  /** `#deliver` is running: a receive that a completion asks for is served by its loop. */
  #delivering = false;
  /** Nothing more will come: the peer has ended its side, or we have shut down. */
  #ended = false;

  #sender: Completion | null = null;
  #sendBytes = 0;

  #shutDown = false;
  /** The negative errno that broke the connection, or 0. */
  #failure = 0;

  /** The socket is paused, and allows half-open connections. */
  constructor(engine: NodeEngine, socket: Socket) {
    this.#engine = engine;
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => this.#received(chunk));
    socket.on('end', () => this.#peerEnded());
    socket.on('error', (error) => this.#failed(streamResult(error)));
    socket.on('close', () => this.#failed(-ECANCELED));
  }

  receive(memory: number, length: number, completion: Completion): void {
    assert(this.#receiver === null, 'a socket receives one thing at a time');
    this.#receiver = completion;
    this.#memory = memory;
    this.#length = length;
    if (!this.#delivering) this.#deliver();
  }

  send(vector: SendVector, completion: Completion): void {
    assert(this.#sender === null, 'a socket sends one thing at a time');
    assert(vector instanceof ArenaSendVector, 'a vector is sent by the engine that made it');
    if (this.#failure !== 0 || this.#shutDown) {
      completion.done(this.#failure !== 0 ? this.#failure : -ESHUTDOWN);
      return;
    }
    if (vector.bytes === 0) {
      completion.done(0);
      return;
    }
    this.#sender = completion;
    this.#sendBytes = vector.bytes;
    const socket = this.#socket;
    const last = vector.count - 1;
    if (last > 0) socket.cork();
    for (let i = 0; i < last; i++) socket.write(this.#piece(vector, i));
    socket.write(this.#piece(vector, last), this.#written);
    if (last > 0) socket.uncork();
  }

  #piece(vector: ArenaSendVector, index: number): Buffer {
    const offset = vector.offsetOf(index);
    return this.#engine.buffer.subarray(offset, offset + vector.lengthOf(index));
  }

  /**
   * What was sent before still arrives, so without a send under way it is enough to say that no
   * more will come. A send under way may be waiting for a peer that takes nothing: only destroying
   * the stream ends it, and the stream's 'close' then tells its completion.
   */
  shutdown(): void {
    if (this.#shutDown) return;
    this.#shutDown = true;
    this.#ended = true;
    this.#chunk = null;
    if (this.#sender === null) this.#socket.end();
    else this.#socket.destroy();
    // The caller may be in the middle of something: its receive ends soon, not now.
    process.nextTick(() => this.#deliverLater());
  }

  close(): void {
    assert(this.#receiver === null && this.#sender === null, 'nothing is under way at close');
    this.#shutDown = true;
    this.#ended = true;
    this.#chunk = null;
    this.#socket.destroy();
  }

  #received(chunk: Buffer): void {
    if (this.#shutDown) return;
    this.#engine.enter();
    assert(this.#chunk === null, 'a paused stream gives no data');
    this.#chunk = chunk;
    this.#chunkAt = 0;
    this.#deliver();
  }

  #peerEnded(): void {
    this.#ended = true;
    this.#deliverLater();
  }

  #deliverLater(): void {
    this.#engine.enter();
    if (!this.#delivering) this.#deliver();
  }

  /** Gives what there is to whoever waits for it, then stops or starts the stream accordingly. */
  #deliver(): void {
    this.#delivering = true;
    for (;;) {
      const completion = this.#receiver;
      if (completion === null) break;
      let result: number;
      if (this.#failure !== 0 && !this.#shutDown) result = this.#failure;
      else if (this.#chunk !== null) result = this.#take(this.#chunk);
      else if (this.#ended) result = 0;
      else break;
      this.#receiver = null;
      completion.done(result);
    }
    this.#delivering = false;
    if (this.#chunk !== null) this.#pause();
    else if (this.#receiver !== null) this.#resume();
  }

  #take(chunk: Buffer): number {
    const end = Math.min(chunk.length, this.#chunkAt + this.#length);
    const result = chunk.copy(this.#engine.arena.bytes, this.#memory, this.#chunkAt, end);
    this.#chunkAt = end;
    if (end === chunk.length) this.#chunk = null;
    return result;
  }

  #pause(): void {
    if (!this.#flowing) return;
    this.#flowing = false;
    this.#socket.pause();
  }

  #resume(): void {
    if (this.#flowing) return;
    this.#flowing = true;
    this.#socket.resume();
  }

  #sent(error: Error | null): void {
    const completion = this.#sender;
    if (completion === null) return;
    this.#engine.enter();
    this.#sender = null;
    // A destroyed stream tells a write that it cut off that all is well.
    if (error === null && !this.#socket.destroyed) completion.done(this.#sendBytes);
    else if (this.#failure !== 0) completion.done(this.#failure);
    else completion.done(error === null ? -ECANCELED : streamResult(error));
  }

  /** The connection is over: what is under way ends, and what is asked for later fails. */
  #failed(result: number): void {
    this.#engine.enter();
    if (this.#failure === 0) this.#failure = result;
    this.#ended = true;
    this.#chunk = null;
    const completion = this.#sender;
    this.#sender = null;
    if (completion !== null) completion.done(this.#failure);
    if (!this.#delivering) this.#deliver();
  }
}

/** Besides the system's errors there are the stream's own, when it was destroyed. */
function streamResult(error: Error): number {
  return isSystemError(error) ? resultOf(error) : -ECANCELED;
}
