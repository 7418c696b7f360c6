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

import { ESHUTDOWN, errnoName } from '../base/errno.js';
import { connections, disconnectMilliseconds } from '../base/limits.js';
import type { Device, DeviceUser } from '../device/device.js';
import type { Completion, EngineSocket, Timer, TurnEnd } from '../engine/engine.js';
import type { ExportDirectory } from './export.js';
import { Handshake, type HandshakeOutcome } from './handshake.js';
import { HandshakeOutput } from './handshake-output.js';
import type { Peer } from './peer.js';
import type { Greeted } from './piped.js';
import type { ReceiveWindow } from './receive-window.js';
import { ReceiveWindows } from './receive-windows.js';
import { type ReplyBatch, SIMPLE } from './reply.js';
import type { Request } from './request.js';
import type { Resources } from './resources.js';
import { Session, type SessionOwner } from './session.js';

/** The exports of a daemon, and the devices behind them. */
export interface Exports {
  /** What of them this peer may have. */
  directory(peer: Peer): ExportDirectory;
  device(name: string): Device | null;
}

/** Who has the connection, and hears of its end. */
export interface ConnectionOwner {
  /** Whether transmission may begin; if not, why the connection is to be closed. */
  admit(device: Device): string | null;
  opened(connection: Connection, device: Device): void;
  closed(connection: Connection): void;
}

/** How long to wait when the arena has no block for a window, or for a batch. */
const memoryRetryMilliseconds = 10;

export class Connection implements SessionOwner, DeviceUser, TurnEnd {
  readonly peer: Peer;
  device: Device | null = null;

  readonly #owner: ConnectionOwner;
  readonly #exports: Exports;
  readonly #resources: Resources;
  readonly #socket: EngineSocket;

  #handshake: Handshake | null;
  #session: Session | null = null;
  #timer: Timer | null = null;

  readonly #windows: ReceiveWindows;
  #receiving = false;
  /** Room in the window for what is being received. */
  #receiveLength = 0;
  #proceeding = false;

  readonly #output: HandshakeOutput;
  /** Requests to be answered, first come first served. */
  #readyFirst: Request | null = null;
  #readyLast: Request | null = null;
  #atTurnEnd = false;
  /** There was no memory for a batch: it is asked for again in a while. */
  #awaitsBatch = false;
  #batch: ReplyBatch | null = null;
  /** The first of these, while its next piece is being read; nothing else is sent before that. */
  #streaming: Request | null = null;

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

  /** `resume`: what somebody else has done of the handshake. */
  constructor(
    owner: ConnectionOwner,
    exports: Exports,
    resources: Resources,
    socket: EngineSocket,
    peer: Peer,
    resume: Greeted | null = null,
  ) {
    this.#owner = owner;
    this.#exports = exports;
    this.#resources = resources;
    this.#socket = socket;
    this.peer = peer;
    this.#windows = new ReceiveWindows(resources);
    this.#output = new HandshakeOutput(resources);
    const { protocol } = resources;
    this.#handshake = new Handshake(exports.directory(peer), protocol, peer.secure, resume);
    this.#output.take(this.#handshake.takeOutput());
    const limit = protocol.handshakeMilliseconds;
    if (limit === 0) return;
    const late: Completion = { done: () => this.#fail(`no export chosen within ${limit} ms`) };
    const left = Math.max(0, limit - (resume?.spentMilliseconds ?? 0));
    this.#timer = resources.engine.timer(left, late);
  }

  start(): void {
    if (this.#handshake?.state === 'ended') this.#handshakeEnded(this.#handshake);
    if (this.#output.waits) this.#wakeSender();
    this.#proceed();
  }

  /** Takes what has been received as far as it goes, then receives more, or closes. */
  #proceed(): void {
    // Requests that end at once come back here through `unblocked`.
    if (this.#proceeding) return;
    this.#proceeding = true;
    const window = this.#windows.current;
    if (window !== null && !this.#closing) {
      if (this.#handshake !== null) this.#haggle(this.#handshake, window);
      // Transmission begins when the last handshake reply has gone, or replies would overtake it.
      if (this.#session !== null && !this.#output.waits) this.#transmit(this.#session, window);
    }
    this.#proceeding = false;
    if (this.#closing) this.#closeWhenDone();
    else this.#receive();
  }

  #haggle(handshake: Handshake, window: ReceiveWindow): void {
    const { bytes } = this.#resources.arena;
    window.at += handshake.push(bytes, window.memory + window.at, window.memory + window.end);
    this.#output.take(handshake.takeOutput());
    if (this.#output.tooMuch) {
      this.#log(`disconnecting: found ${this.#output.bytes} bytes of replies not taken`);
      this.#break();
      return;
    }
    if (this.#output.waits) this.#wakeSender();
    if (handshake.state !== 'haggling') this.#handshakeEnded(handshake);
  }

  #handshakeEnded(handshake: Handshake): void {
    this.#handshake = null;
    this.#cancelTimer();
    if (handshake.outcome !== null) {
      this.#begin(handshake.outcome);
      return;
    }
    if (handshake.failure !== null) this.#log(`handshake failed: ${handshake.failure}`);
    this.#close();
  }

  /** Begins transmission. */
  #begin(outcome: HandshakeOutcome): void {
    const { name } = outcome.exportInfo;
    const device = this.#exports.device(name);
    if (device === null) {
      this.#fail(`export "${name}" has just been removed`);
      return;
    }
    const refusal = this.#owner.admit(device);
    if (refusal !== null) {
      this.#fail(refusal);
      return;
    }
    this.device = device;
    device.users.add(this);
    this.#session = new Session(this, device, outcome, this.#resources);
    this.#owner.opened(this, device);
  }

  #transmit(session: Session, window: ReceiveWindow): void {
    session.take(window);
    if (session.starved) this.#retryLater();
    if (session.failure !== null) this.#fail(session.failure);
    else if (session.disconnected) this.#close();
  }

  #receive(): void {
    if (this.#receiving || this.#output.waits || this.#session?.blocked) return;
    const window = this.#windows.withRoom(this.#session?.bytesWanted ?? 1);
    if (window === null) {
      if (this.#windows.starved) this.#retryLater();
      return;
    }
    this.#receiving = true;
    this.#receiveLength = window.size - window.end;
    const memory = window.memory + window.end;
    this.#socket.receive(memory, this.#receiveLength, this.#received);
  }

  #onReceived(result: number): void {
    this.#receiving = false;
    if (result <= 0) {
      if (result < 0) {
        if (!this.#closing) this.#log(`receiving failed: ${errnoName(-result)}`);
        this.#session?.stop();
      }
      this.#close();
      return;
    }
    this.#windows.received(result, this.#receiveLength);
    // Answers that are ready leave before what has come is begun.
    if (this.#readyFirst !== null) this.#sendReady();
    this.#proceed();
  }

  /** SessionOwner: nothing holds the window any more. */
  windowFree(window: ReceiveWindow): void {
    this.#windows.free(window);
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
    if (this.#broken || this.#isForTheNext(request)) {
      this.#session?.release(request);
      this.#closeWhenDone();
      return;
    }
    if (request === this.#streaming) {
      this.#pieceRead(request);
      return;
    }
    request.next = null;
    if (this.#readyLast === null) this.#readyFirst = request;
    else this.#readyLast.next = request;
    this.#readyLast = request;
    this.#wakeSender();
  }

  /**
   * Not begun when the daemon was told to end. The kernel's client, which has simple replies, takes
   * any error for one of the disk; what has no answer it asks the next daemon, if it is to wait.
   */
  #isForTheNext(request: Request): boolean {
    return request.error === ESHUTDOWN && this.#session?.replies === SIMPLE;
  }

  /** There is one more piece to be sent of the first READ, or an error. */
  #pieceRead(request: Request): void {
    this.#streaming = null;
    if (request.error !== 0 && (this.#session as Session).isPromised(request)) {
      this.#log(`disconnecting: the rest of a reply cannot be sent: ${request.reason}`);
      this.#break();
    } else {
      this.#wakeSender();
    }
  }

  #wakeSender(): void {
    if (this.#atTurnEnd || this.#batch !== null || this.#streaming !== null) return;
    this.#atTurnEnd = true;
    this.#resources.engine.atTurnEnd(this);
  }

  /** TurnEnd: everything that became ready in this turn leaves in one send. */
  turnEnd(): void {
    this.#atTurnEnd = false;
    this.#sendReady();
  }

  #sendReady(): void {
    if (this.#batch !== null || this.#streaming !== null) return;
    if (this.#broken || this.#awaitsBatch) return;
    if (!this.#output.waits && this.#readyFirst === null) return;
    const batch = this.#resources.batches.take();
    if (batch === null) {
      this.#awaitsBatch = true;
      const again = (): void => {
        this.#awaitsBatch = false;
        this.#sendReady();
      };
      this.#resources.engine.timer(memoryRetryMilliseconds, { done: again });
      return;
    }
    this.#batch = batch;
    if (this.#output.waits) this.#output.addTo(batch);
    else this.#addAnswers(batch, this.#session as Session);
    this.#socket.send(batch.vector, this.#sent);
  }

  #addAnswers(batch: ReplyBatch, session: Session): void {
    let request = this.#readyFirst;
    while (request !== null && batch.hasRoom) {
      const next: Request | null = request.next;
      // The rest of this answer is the first to leave in the next batch.
      if (!batch.add(request, session.replies)) break;
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
      this.#sendOn();
      // Handshake replies have gone, or there is room for a request that waited.
      if (this.#closing) this.#closeWhenDone();
      else if (!this.#receiving) this.#proceed();
    }
  }

  /** A batch has left, and there may be more to be sent. */
  #sendOn(): void {
    const first = this.#readyFirst;
    if (first !== null && first.streamSent > 0) {
      this.#streaming = first;
      (this.#session as Session).readOn(first);
    } else if (this.#output.waits || first !== null) {
      this.#wakeSender();
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
    this.#session?.stop();
    this.#output.drop();
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
    const { name: peer } = this.peer;
    this.#resources.warnings.report({ peer, device }, `${peer}: ${text}`);
  }

  /** It has not chosen an export yet, and still may. */
  get haggling(): boolean {
    return this.#handshake !== null && !this.#closing;
  }

  /** In its handshake it holds a place that others want. */
  giveWay(): void {
    this.#fail(`no export chosen yet, and ${connections} connections are the most`);
  }

  /** DeviceUser: what is in flight ends, then the client must go. */
  deviceRemoved(): void {
    this.#fail('the device was removed');
  }

  /**
   * The daemon goes down: what is in flight is answered, what comes now gets ESHUTDOWN, or nothing
   * where replies are simple.
   */
  shutdown(): void {
    if (this.#closing) return;
    this.#handshake?.refuse('the server is shutting down');
    if (this.#session !== null) {
      this.#session.stop();
      const window = this.#windows.current;
      if (window !== null && !this.#output.waits) this.#transmit(this.#session, window);
    }
    this.#close();
  }

  /** Takes no more; ends when everything asked so far has been answered. */
  #close(): void {
    if (!this.#closing) {
      this.#closing = true;
      this.#cancelTimer();
      const late: Completion = { done: () => this.#socket.shutdown() };
      this.#timer = this.#resources.engine.timer(disconnectMilliseconds, late);
      // This may have been all that there was to wait for: the connection is closed then.
      this.#session?.abandon();
    }
    this.#closeWhenDone();
  }

  #closeWhenDone(): void {
    if (this.#closed || !this.#closing || this.#proceeding) return;
    if (this.#batch !== null || this.#output.waits || this.#readyFirst !== null) return;
    if (this.#session !== null && this.#session.inFlight > 0) return;
    if (this.#receiving) {
      // Ends the receive, which comes back here.
      this.#socket.shutdown();
      return;
    }
    this.#closed = true;
    this.#cancelTimer();
    this.#windows.close();
    this.device?.users.delete(this);
    this.#socket.close();
    this.#owner.closed(this);
  }

  #cancelTimer(): void {
    if (this.#timer !== null) this.#resources.engine.cancelTimer(this.#timer);
    this.#timer = null;
  }
}
