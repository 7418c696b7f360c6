/**
 * One client: its socket, what has been received and not taken, what is to be sent. The bytes go to
 * the handshake first and to the session afterwards; neither knows of the socket.
 *
 *   socket -> window -> handshake | session -> device ...
 *   socket <- batch  <- answers, once a turn <- session
 *
 * One receive and one send are under way at most. Nothing is received while the session is blocked
 * or handshake replies wait to be sent, so a client that does not read stops being read from.
 */

import { assert } from '../base/assert.js';
import { errnoName } from '../base/errno.js';
import {
  blockBytesMin,
  disconnectMilliseconds,
  handshakeMilliseconds,
  receiveBytesMax,
  receiveBytesMin,
  receiveWindows,
} from '../base/limits.js';
import type { Device, DeviceUser } from '../device/device.js';
import type { Completion, EngineSocket, Timer, TurnEnd } from '../engine/engine.js';
import type { ExportDirectory } from './export.js';
import { Handshake } from './handshake.js';
import { ReceiveWindow } from './receive-window.js';
import type { ReplyBatch } from './reply.js';
import type { Request } from './request.js';
import type { Resources } from './resources.js';
import { Session, type SessionOwner } from './session.js';
import { transmissionRules } from './validate.js';

/** The exports of a daemon, and the devices behind them. */
export interface Exports extends ExportDirectory {
  device(name: string): Device | null;
}

/** Who has the connection, and hears of its end. */
export interface ConnectionOwner {
  opened(connection: Connection, device: Device): void;
  closed(connection: Connection): void;
}

/** How long to wait when the arena has no block for a window, or for a batch. */
const memoryRetryMilliseconds = 10;

export class Connection implements SessionOwner, DeviceUser, TurnEnd {
  readonly peer: string;
  device: Device | null = null;

  readonly #owner: ConnectionOwner;
  readonly #exports: Exports;
  readonly #resources: Resources;
  readonly #socket: EngineSocket;

  #handshake: Handshake | null;
  #session: Session | null = null;
  #timer: Timer | null = null;

  #window: ReceiveWindow | null = null;
  /** Windows that writes still hold, besides the one received into. */
  #windowsHeld = 0;
  /** What the next window should have; follows what comes in at once. */
  #windowBytes = receiveBytesMin;
  #receiving = false;
  #receiveLength = 0;
  #proceeding = false;

  /** Handshake replies to be sent, and how far into the first. */
  #output: Uint8Array[] = [];
  #outputSent = 0;
  /** Requests to be answered, first come first served. */
  #readyFirst: Request | null = null;
  #readyLast: Request | null = null;
  #atTurnEnd = false;
  #batch: ReplyBatch | null = null;

  /** No more is taken from the client; the connection closes when what it has asked is answered. */
  #closing = false;
  /** Nothing can be sent any more: answers are thrown away. */
  #broken = false;
  #closed = false;

  /** A timer is set for asking for memory again. */
  #retrying = false;

  readonly #retry: Completion = {
    done: () => {
      this.#retrying = false;
      if (!this.#closed) this.#proceed();
    },
  };
  readonly #received: Completion = { done: (result) => this.#onReceived(result) };
  readonly #sent: Completion = { done: (result) => this.#onSent(result) };

  constructor(
    owner: ConnectionOwner,
    exports: Exports,
    resources: Resources,
    socket: EngineSocket,
    peer: string,
  ) {
    this.#owner = owner;
    this.#exports = exports;
    this.#resources = resources;
    this.#socket = socket;
    this.peer = peer;
    this.#handshake = new Handshake(exports);
    this.#output = this.#handshake.takeOutput();
    const late: Completion = {
      done: () => this.#fail(`no export chosen within ${handshakeMilliseconds} ms`),
    };
    this.#timer = resources.engine.timer(handshakeMilliseconds, late);
  }

  start(): void {
    this.#wakeSender();
    this.#proceed();
  }

  /** Takes what has been received as far as it goes, then receives more, or closes. */
  #proceed(): void {
    // Requests that end at once come back here through `unblocked`.
    if (this.#proceeding) return;
    this.#proceeding = true;
    if (this.#window !== null && !this.#closing) {
      if (this.#handshake !== null) this.#haggle(this.#handshake, this.#window);
      // Transmission begins when the last handshake reply has gone, or replies would overtake it.
      if (this.#session !== null && this.#output.length === 0) this.#transmit(this.#session);
    }
    this.#proceeding = false;
    if (this.#closing) this.#closeWhenDone();
    else this.#receive();
  }

  #haggle(handshake: Handshake, window: ReceiveWindow): void {
    const { bytes } = this.#resources.arena;
    window.at += handshake.push(bytes, window.memory + window.at, window.memory + window.end);
    this.#output.push(...handshake.takeOutput());
    if (this.#output.length > 0) this.#wakeSender();
    if (handshake.state === 'haggling') return;
    this.#handshake = null;
    this.#cancelTimer();
    const outcome = handshake.outcome;
    if (handshake.state === 'ended' || outcome === null) {
      if (handshake.failure !== null) this.#log(`handshake failed: ${handshake.failure}`);
      this.#close();
      return;
    }
    const info = outcome.exportInfo;
    const device = this.#exports.device(info.name);
    if (device === null) {
      this.#fail(`export "${info.name}" has just been removed`);
      return;
    }
    this.device = device;
    device.users.add(this);
    const context = outcome.contexts[0]?.id ?? -1;
    const rules = transmissionRules(info, outcome.structuredReplies, context >= 0);
    this.#session = new Session(this, device, rules, context, this.#resources);
    this.#owner.opened(this, device);
  }

  #transmit(session: Session): void {
    session.take(this.#window as ReceiveWindow);
    if (session.failure !== null) this.#fail(session.failure);
    else if (session.disconnected) this.#close();
  }

  #receive(): void {
    if (this.#receiving || this.#output.length > 0 || this.#session?.blocked) return;
    const window = this.#windowWithRoom();
    if (window === null) return;
    this.#receiving = true;
    this.#receiveLength = window.size - window.end;
    const memory = window.memory + window.end;
    this.#socket.receive(memory, this.#receiveLength, this.#received);
  }

  #onReceived(result: number): void {
    this.#receiving = false;
    if (result <= 0) {
      if (result < 0 && !this.#closing) this.#log(`receiving failed: ${errnoName(-result)}`);
      this.#close();
      return;
    }
    (this.#window as ReceiveWindow).end += result;
    this.#adapt(result);
    this.#proceed();
  }

  /** The window grows while it is filled to the end, and shrinks while little comes. */
  #adapt(received: number): void {
    const size = (this.#window as ReceiveWindow).size;
    if (received === this.#receiveLength && this.#windowBytes <= size) {
      this.#windowBytes = Math.min(receiveBytesMax, size * 2);
    } else if (received < size / 8 && this.#windowBytes > receiveBytesMin) {
      this.#windowBytes = Math.max(receiveBytesMin, size / 2);
    }
  }

  /**
   * The window to receive into, with room for what the session wants in one piece; what has been
   * received and not taken is carried over. Null when there is none to be had now.
   */
  #windowWithRoom(): ReceiveWindow | null {
    const wanted = this.#session?.bytesWanted ?? 1;
    const old = this.#window;
    const left = old === null ? 0 : old.end - old.at;
    // What is carried over is less than the smallest window, and needs room behind it.
    const least = left * 2 < receiveBytesMin ? receiveBytesMin : receiveBytesMin * 2;
    const size = Math.max(least, Math.min(this.#windowBytes, this.#resources.windowBytesMax));
    if (old !== null) {
      if (old.holders === 0 && left === 0 && old.size === size) {
        old.at = 0;
        old.end = 0;
        return old;
      }
      const fits = old.size - old.at >= wanted && old.size - old.end >= blockBytesMin;
      if (fits && (left > 0 || old.holders > 0)) return old;
      if (old.holders === 0 && old.size === size) {
        this.#carryOver(old, old, left);
        return old;
      }
    }
    return this.#replaceWindow(old, left, size);
  }

  #replaceWindow(old: ReceiveWindow | null, left: number, size: number): ReceiveWindow | null {
    const { arena } = this.#resources;
    const held = old !== null && old.holders > 0;
    if (held && this.#windowsHeld + 1 >= receiveWindows) return null;
    const memory = arena.allocate(size);
    if (memory < 0) {
      if (old !== null && !held && left < old.size) {
        this.#carryOver(old, old, left);
        return old;
      }
      this.#retryLater();
      return null;
    }
    const window = new ReceiveWindow(memory, size);
    if (old !== null) {
      this.#carryOver(old, window, left);
      if (held) {
        old.retired = true;
        this.#windowsHeld++;
      } else {
        arena.free(old.memory, old.size);
      }
    }
    this.#window = window;
    return window;
  }

  #carryOver(from: ReceiveWindow, to: ReceiveWindow, left: number): void {
    assert(left < to.size, 'what is carried over leaves room in the window');
    if (left > 0) this.#resources.arena.copy(to.memory, from.memory + from.at, left);
    to.at = 0;
    to.end = left;
  }

  /** SessionOwner: nothing holds the window any more. */
  windowFree(window: ReceiveWindow): void {
    if (window.retired) {
      this.#resources.arena.free(window.memory, window.size);
      this.#windowsHeld--;
    }
    // Receiving may have stopped for want of a window.
    if (!this.#closing && !this.#receiving) this.#proceed();
  }

  #retryLater(): void {
    if (this.#retrying) return;
    this.#retrying = true;
    this.#resources.engine.timer(memoryRetryMilliseconds, this.#retry);
  }

  /** SessionOwner: a request that had no room has some now. */
  unblocked(): void {
    if (this.#closing) return;
    this.#proceed();
  }

  /** SessionOwner: a request is to be answered. */
  ended(request: Request): void {
    if (this.#broken) {
      this.#session?.release(request);
      this.#closeWhenDone();
      return;
    }
    request.next = null;
    if (this.#readyLast === null) this.#readyFirst = request;
    else this.#readyLast.next = request;
    this.#readyLast = request;
    this.#wakeSender();
  }

  #wakeSender(): void {
    if (this.#atTurnEnd || this.#batch !== null) return;
    this.#atTurnEnd = true;
    this.#resources.engine.atTurnEnd(this);
  }

  /** TurnEnd: everything that became ready in this turn leaves in one send. */
  turnEnd(): void {
    this.#atTurnEnd = false;
    if (this.#batch !== null || this.#broken) return;
    if (this.#output.length === 0 && this.#readyFirst === null) return;
    const batch = this.#resources.batches.take();
    if (batch === null) {
      this.#atTurnEnd = true;
      this.#resources.engine.timer(memoryRetryMilliseconds, { done: () => this.turnEnd() });
      return;
    }
    this.#batch = batch;
    if (this.#output.length > 0) this.#addOutput(batch);
    else this.#addAnswers(batch, this.#session as Session);
    this.#socket.send(batch.vector, this.#sent);
  }

  #addOutput(batch: ReplyBatch): void {
    while (this.#output.length > 0 && batch.hasRoom) {
      const first = this.#output[0] as Uint8Array;
      this.#outputSent += batch.addBytes(first, this.#outputSent);
      if (this.#outputSent < first.length) return;
      this.#outputSent = 0;
      this.#output.shift();
    }
  }

  #addAnswers(batch: ReplyBatch, session: Session): void {
    let request = this.#readyFirst;
    while (request !== null && batch.hasRoom) {
      const next: Request | null = request.next;
      batch.add(request, session.structured, session.context);
      request = next;
    }
    this.#readyFirst = request;
    if (request === null) this.#readyLast = null;
  }

  #onSent(result: number): void {
    const batch = this.#batch as ReplyBatch;
    const answered = batch.requests;
    this.#batch = null;
    this.#resources.batches.give(batch);
    this.#release(answered);
    if (result < 0) {
      this.#break();
    } else {
      if (this.#output.length > 0 || this.#readyFirst !== null) this.#wakeSender();
      // Handshake replies have gone, or there is room for a request that waited.
      if (this.#closing) this.#closeWhenDone();
      else if (!this.#receiving) this.#proceed();
    }
  }

  #release(requests: Request | null): void {
    let request = requests;
    while (request !== null) {
      const next: Request | null = request.next;
      (this.#session as Session).release(request);
      request = next;
    }
  }

  /** The peer takes no answers any more. */
  #break(): void {
    this.#broken = true;
    this.#output = [];
    const ready = this.#readyFirst;
    this.#readyFirst = null;
    this.#readyLast = null;
    this.#release(ready);
    this.#close();
  }

  /** The stream is out of step, or the client too slow: no more of it. */
  #fail(reason: string): void {
    if (this.#closing) return;
    this.#log(`disconnecting: ${reason}`);
    this.#close();
  }

  #log(text: string): void {
    const device = this.device?.name ?? null;
    this.#resources.log.warn({ peer: this.peer, device }, `${this.peer}: ${text}`);
  }

  /** DeviceUser: what is in flight ends, then the client must go. */
  deviceRemoved(): void {
    this.#fail('the device was removed');
  }

  /** The daemon goes down: what is in flight is answered, what comes now gets ESHUTDOWN. */
  shutdown(): void {
    if (this.#closing) return;
    this.#handshake?.refuse('the server is shutting down');
    if (this.#session !== null) {
      this.#session.closing = true;
      if (this.#window !== null && this.#output.length === 0) this.#transmit(this.#session);
    }
    this.#close();
  }

  /** Takes no more; ends when everything asked so far has been answered. */
  #close(): void {
    if (!this.#closing) {
      this.#closing = true;
      this.#cancelTimer();
      this.#session?.abandon();
      const late: Completion = { done: () => this.#socket.shutdown() };
      this.#timer = this.#resources.engine.timer(disconnectMilliseconds, late);
    }
    this.#closeWhenDone();
  }

  #closeWhenDone(): void {
    if (this.#closed || !this.#closing || this.#proceeding) return;
    if (this.#batch !== null || this.#output.length > 0 || this.#readyFirst !== null) return;
    if (this.#session !== null && this.#session.inFlight > 0) return;
    if (this.#receiving) {
      // Ends the receive, which comes back here.
      this.#socket.shutdown();
      return;
    }
    this.#closed = true;
    this.#cancelTimer();
    const window = this.#window;
    if (window !== null) {
      assert(window.holders === 0, 'no write needs the window of a closed connection');
      this.#resources.arena.free(window.memory, window.size);
    }
    this.#window = null;
    this.device?.users.delete(this);
    this.#socket.close();
    this.#owner.closed(this);
  }

  #cancelTimer(): void {
    if (this.#timer !== null) this.#resources.engine.cancelTimer(this.#timer);
    this.#timer = null;
  }
}
