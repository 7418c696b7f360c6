/**
 * A connected socket whose other end is the test. What the test pushes is received as it was cut;
 * what is sent is taken when the test's client takes it. Operations are carried out by the engine,
 * among those of the disks, or at once within the call that asked for them.
 */

import { Buffer } from 'node:buffer';
import { ECANCELED, EPERM } from '../../src/base/errno.js';
import type { Completion, EngineSocket, SendVector } from '../../src/engine/engine.js';
import type { ArenaSendVector } from '../../src/engine/send-vector.js';
import type { ScriptedEngine } from '../backing/scripted-engine.js';

interface Receive {
  readonly memory: number;
  readonly length: number;
  readonly completion: Completion;
}

interface Send {
  readonly vector: ArenaSendVector;
  readonly bytes: Buffer;
  readonly completion: Completion;
}

/** How busy all sockets of a rig are together. */
export interface Traffic {
  sends: number;
  mostSends: number;
}

export class FakeSocket implements EngineSocket {
  closed = false;
  isShutDown = false;
  /** Calls of `receive` so far. */
  receives = 0;
  /** Operations end within the call that starts them. */
  atOnce = false;
  readonly #engine: ScriptedEngine;
  readonly #traffic: Traffic;
  /** What the peer has sent and nobody has received. */
  #incoming: Buffer[] = [];
  /** The next of them; those before are done with. */
  #incomingAt = 0;
  /** 0 for an ordinary end, or an errno; null while the peer goes on. */
  #end: number | null = null;
  #receive: Receive | null = null;
  #send: Send | null = null;
  /** The operation's end is on its way. */
  #receiveEnds = false;
  #sendEnds = false;
  #delivering = false;
  #takes = true;
  #output: Buffer[] = [];

  constructor(engine: ScriptedEngine, traffic: Traffic) {
    this.#engine = engine;
    this.#traffic = traffic;
  }

  get isReceiving(): boolean {
    return this.#receive !== null;
  }

  /** What the receive under way has room for. */
  get room(): number {
    return this.#receive?.length ?? 0;
  }

  get unreceivedBytes(): number {
    const left = this.#incoming.slice(this.#incomingAt);
    return left.reduce((sum, { length }) => sum + length, 0);
  }

  /** The bytes of the send that the client does not take. */
  get unsentBytes(): number {
    return this.#send?.bytes.length ?? 0;
  }

  // The client's end.

  push(bytes: Buffer): void {
    if (bytes.length > 0) this.#incoming.push(bytes);
    this.#tryReceive();
  }

  /** No more will come: an ordinary end, or a broken connection. */
  end(errno = 0): void {
    this.#end = errno;
    this.#tryReceive();
  }

  /** Whether replies are taken. One that is being sent when they are not waits. */
  takeReplies(takes: boolean): void {
    this.#takes = takes;
    this.#trySend();
  }

  /** The peer is gone: what is being sent and what will be fails. */
  breakSends(): void {
    this.isShutDown = true;
    this.#trySend();
  }

  /** What came so far, once. */
  takeOutput(): Buffer {
    const output = Buffer.concat(this.#output);
    this.#output = [];
    return output;
  }

  // The server's end.

  receive(memory: number, length: number, completion: Completion): void {
    if (this.closed || this.#receive !== null) throw new Error('it receives one at a time');
    if (!(length > 0)) throw new Error(`a receive of ${length} bytes`);
    if (memory + length > this.#engine.arena.size) throw new Error('a receive past the arena');
    this.receives++;
    this.#receive = { memory, length, completion };
    this.#tryReceive();
  }

  send(vector: SendVector, completion: Completion): void {
    if (this.closed || this.#send !== null) throw new Error('it sends one at a time');
    const ours = vector as ArenaSendVector;
    if (ours.count > ours.capacity || ours.count === 0) throw new Error(`${ours.count} pieces`);
    const bytes = this.#read(ours);
    if (bytes.length !== ours.bytes) throw new Error(`${bytes.length} of ${ours.bytes} bytes`);
    this.#traffic.sends++;
    this.#traffic.mostSends = Math.max(this.#traffic.mostSends, this.#traffic.sends);
    this.#send = { vector: ours, bytes, completion };
    this.#trySend();
  }

  shutdown(): void {
    if (this.closed) throw new Error('it is shut down after it was closed');
    this.isShutDown = true;
    this.#tryReceive();
    this.#trySend();
  }

  close(): void {
    if (this.closed) throw new Error('it is closed twice');
    if (this.#receive !== null || this.#send !== null) throw new Error('closed, and not at rest');
    this.closed = true;
  }

  #read(vector: ArenaSendVector): Buffer {
    const { bytes } = this.#engine.arena;
    const pieces: Uint8Array[] = [];
    for (let i = 0; i < vector.count; i++) {
      const offset = vector.offsetOf(i);
      const length = vector.lengthOf(i);
      if (length === 0) throw new Error('an empty piece');
      pieces.push(bytes.slice(offset, offset + length));
    }
    return Buffer.concat(pieces);
  }

  #start(run: () => number, completion: Completion): void {
    if (this.atOnce) completion.done(run());
    else this.#engine.start(run, completion);
  }

  /** At once or not, one receive does not begin inside of another. */
  #tryReceive(): void {
    if (this.#delivering) return;
    this.#delivering = true;
    let before: Receive | null = null;
    while (this.#receive !== before) {
      before = this.#receive;
      this.#receiveOnce();
      if (!this.atOnce) break;
    }
    this.#delivering = false;
  }

  #receiveOnce(): void {
    const receive = this.#receive;
    if (receive === null || this.#receiveEnds) return;
    if (this.#incoming[this.#incomingAt] === undefined && this.#end === null && !this.isShutDown)
      return;
    this.#receiveEnds = true;
    let result = 0;
    // Taken out of the arena's hands in the moment in which it ends, as by a kernel.
    const run = (): number => {
      const first = this.#incoming[this.#incomingAt];
      if (this.isShutDown || first === undefined) {
        result = this.isShutDown ? 0 : -(this.#end ?? 0);
        return result;
      }
      const taken = first.subarray(0, receive.length);
      this.#engine.arena.bytes.set(taken, receive.memory);
      this.#incoming[this.#incomingAt] = first.subarray(taken.length);
      if (taken.length === first.length) this.#incomingAt++;
      if (this.#incomingAt === this.#incoming.length) {
        this.#incoming = [];
        this.#incomingAt = 0;
      }
      return taken.length;
    };
    const completion: Completion = {
      done: (count) => {
        this.#receive = null;
        this.#receiveEnds = false;
        receive.completion.done(count);
      },
    };
    this.#start(run, completion);
  }

  #trySend(): void {
    const send = this.#send;
    if (send === null || this.#sendEnds) return;
    if (!this.#takes && !this.isShutDown) return;
    this.#sendEnds = true;
    const run = (): number => {
      if (this.isShutDown && !this.#takes) return -ECANCELED;
      if (!this.#read(send.vector).equals(send.bytes)) {
        throw new Error('what is being sent has changed meanwhile');
      }
      if (this.isShutDown) return -EPERM;
      this.#output.push(send.bytes);
      return send.bytes.length;
    };
    const completion: Completion = {
      done: (result) => {
        this.#send = null;
        this.#sendEnds = false;
        this.#traffic.sends--;
        send.completion.done(result);
      },
    };
    this.#start(run, completion);
  }
}
