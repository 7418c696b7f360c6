/**
 * A connection in memory: the server's end is an EngineSocket, the client's end writes bytes that
 * the server receives as the seed cuts them, and is given what the server has sent.
 */

import { ECONNRESET, EPIPE } from '../../src/base/errno.js';
import type { Completion, EngineSocket, SendVector } from '../../src/engine/engine.js';
import type { ArenaSendVector } from '../../src/engine/send-vector.js';
import type { SimEngine } from './engine.js';
import { SimEvent } from './event-queue.js';

/** The client's end. */
export interface SocketPeer {
  /** Bytes that the server has sent, which are the caller's again when this returns. */
  received(bytes: Uint8Array, offset: number, length: number): void;
  /** The server has closed its end. */
  closed(): void;
}

/** How long bytes are on their way, at most; milliseconds. */
const wayMilliseconds = 0.02;

const firstBytes = 16 * 1024;
/** Of sockets that are closed. */
const spare: Uint8Array[] = [];

class ReceiveEvent extends SimEvent {
  readonly #socket: SimSocket;

  constructor(socket: SimSocket) {
    super();
    this.#socket = socket;
  }

  happen(): void {
    this.#socket.endReceive();
  }
}

class SendEvent extends SimEvent {
  readonly #socket: SimSocket;

  constructor(socket: SimSocket) {
    super();
    this.#socket = socket;
  }

  happen(): void {
    this.#socket.endSend();
  }
}

export class SimSocket implements EngineSocket {
  readonly number: number;
  readonly #engine: SimEngine;
  readonly #peer: SocketPeer;
  /** What the client has written and the server has not received: from `#begin` to `#end`. */
  bytes = spare.pop() ?? new Uint8Array(firstBytes);
  view = new DataView(this.bytes.buffer);
  #begin = 0;
  #end = 0;
  /** The client writes no more; it takes no more either. */
  #ended = false;
  #dropped = false;
  #isShutDown = false;
  #isClosed = false;

  #receiver: Completion | null = null;
  #memory = 0;
  #length = 0;
  #receiveUnderWay = false;
  readonly #receiveEvent = new ReceiveEvent(this);
  #sender: Completion | null = null;
  #vector: ArenaSendVector | null = null;
  readonly #sendEvent = new SendEvent(this);

  constructor(engine: SimEngine, number: number, peer: SocketPeer) {
    this.#engine = engine;
    this.number = number;
    this.#peer = peer;
  }

  // The client's end.

  /** Room for so many bytes, to be filled in and then `push`ed: where in `bytes` they go. */
  reserve(length: number): number {
    if (this.#begin === this.#end) {
      this.#begin = 0;
      this.#end = 0;
    }
    if (this.#end + length > this.bytes.length) {
      const left = this.#end - this.#begin;
      const bigger = new Uint8Array(2 * (left + length));
      bigger.set(this.bytes.subarray(this.#begin, this.#end));
      this.bytes = bigger;
      this.view = new DataView(bigger.buffer);
      this.#begin = 0;
      this.#end = left;
    }
    return this.#end;
  }

  push(length: number): void {
    this.#end += length;
    this.#beginReceive();
  }

  /** An ordinary end. */
  end(): void {
    this.#ended = true;
    this.#beginReceive();
  }

  /** The client is gone, with all that is on its way. */
  drop(): void {
    this.#ended = true;
    this.#dropped = true;
    this.#beginReceive();
  }

  /** Neither end is used any more. */
  leave(): void {
    if (this.bytes.length > 0) spare.push(this.bytes);
    this.bytes = new Uint8Array();
  }

  // The server's end.

  receive(memory: number, length: number, completion: Completion): void {
    if (this.#isClosed || this.#receiver !== null) throw new Error('it receives one at a time');
    if (!(length > 0)) throw new Error(`a receive of ${length} bytes`);
    this.#receiver = completion;
    this.#memory = memory;
    this.#length = length;
    this.#beginReceive();
  }

  #beginReceive(): void {
    if (this.#receiver === null || this.#receiveUnderWay) return;
    if (this.#begin === this.#end && !this.#ended && !this.#isShutDown) return;
    this.#receiveUnderWay = true;
    this.#engine.schedule(this.#receiveEvent, this.#way());
  }

  #way(): number {
    return (this.#engine.random.below(1000) * wayMilliseconds) / 1000;
  }

  endReceive(): void {
    const completion = this.#receiver as Completion;
    this.#receiver = null;
    this.#receiveUnderWay = false;
    const { random, arena } = this.#engine;
    let count = 0;
    if (this.#dropped) {
      count = random.chance(500) ? 0 : -ECONNRESET;
    } else if (!this.#isShutDown) {
      count = Math.min(this.#length, this.#end - this.#begin);
      if (count > 1 && random.chance(100)) count = 1 + random.below(count);
      const end = this.#begin + count;
      if (count > 0) arena.bytes.set(this.bytes.subarray(this.#begin, end), this.#memory);
      this.#begin = end;
    }
    this.#engine.hash.add(count);
    completion.done(count);
  }

  send(vector: SendVector, completion: Completion): void {
    if (this.#isClosed || this.#sender !== null) throw new Error('it sends one at a time');
    this.#sender = completion;
    this.#vector = vector as ArenaSendVector;
    this.#engine.schedule(this.#sendEvent, this.#way());
  }

  endSend(): void {
    const completion = this.#sender as Completion;
    const vector = this.#vector as ArenaSendVector;
    this.#sender = null;
    this.#vector = null;
    if (this.#dropped || this.#isShutDown) {
      completion.done(-EPIPE);
      return;
    }
    const { bytes } = this.#engine.arena;
    for (let i = 0; i < vector.count; i++) {
      this.#peer.received(bytes, vector.offsetOf(i), vector.lengthOf(i));
    }
    this.#engine.hash.add(vector.bytes);
    completion.done(vector.bytes);
  }

  shutdown(): void {
    if (this.#isClosed) throw new Error('it is shut down after it was closed');
    this.#isShutDown = true;
    this.#beginReceive();
  }

  close(): void {
    if (this.#isClosed) throw new Error('it is closed twice');
    if (this.#receiver !== null || this.#sender !== null)
      throw new Error('closed, and not at rest');
    this.#isClosed = true;
    this.leave();
    this.#peer.closed();
  }
}
