/**
 * One control client. Its requests are carried out side by side, up to a limit; beyond that, or
 * while it does not take its replies, its socket is not read. Events wait for nobody: a subscriber
 * that has too many of them unsent is disconnected.
 *
 * Binary frames belong to the upload that was asked for last, and to nobody once that has all its
 * bytes; a download's follow its answer with nothing in between.
 */

import type { RawData, WebSocket } from 'ws';
import { EBUSY } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import {
  controlEventBytes,
  controlInputBytes,
  controlMessageBytes,
  controlOutputBytes,
  controlRequestsInFlight,
} from '../base/limits.js';
import type { Log } from '../base/log.js';
import type { Subscriber } from './commands.js';
import { Incoming, type Received, type UploadRoom } from './incoming.js';
import type { Topic } from './messages.js';
import type { Rpc } from './rpc.js';

/** WebSocket close codes. */
const UNSUPPORTED_DATA = 1003;
const GOING_AWAY = 1001;

export class ControlSession {
  readonly topics = new Set<Topic>();
  readonly #socket: WebSocket;
  readonly #rpc: Rpc<Subscriber>;
  readonly #log: Log;
  readonly #uploads: UploadRoom;
  /** Messages that were received with others in one piece, before the socket was paused. */
  readonly #waiting: (string | Uint8Array)[] = [];
  /** The upload whose bytes are coming. */
  #incoming: Incoming | null = null;
  #draining = false;
  #inFlight = 0;
  /** Characters of the requests in flight. */
  #inFlightLength = 0;
  #eventBytes = 0;

  constructor(socket: WebSocket, rpc: Rpc<Subscriber>, log: Log, uploads: UploadRoom) {
    this.#socket = socket;
    this.#rpc = rpc;
    this.#log = log;
    this.#uploads = uploads;
    socket.on('message', (data, isBinary) => this.#received(data, isBinary));
    // What the peer did wrong is answered with a close frame by ws itself.
    socket.on('error', (error) => log.debug({ error: error.message }, 'control client failed'));
    socket.on('close', () => this.#incoming?.lost());
  }

  /** Sends an event's text, if it is subscribed to. */
  event(topic: Topic, text: string): void {
    if (!this.topics.has(topic) || this.#socket.readyState !== this.#socket.OPEN) return;
    const bytes = Buffer.byteLength(text);
    if (this.#eventBytes + bytes > controlEventBytes) {
      this.#log.warn(
        { bytes: this.#eventBytes },
        'control client too slow for its events: dropped',
      );
      this.#socket.terminate();
      return;
    }
    this.#eventBytes += bytes;
    this.#socket.send(text, () => {
      this.#eventBytes -= bytes;
    });
  }

  /** Takes no more requests: the daemon ends. Those under way are still answered. */
  drain(): void {
    this.#draining = true;
    this.#waiting.length = 0;
  }

  /** Ends the session; what has been answered is sent first. */
  close(): void {
    this.#socket.close(GOING_AWAY, 'mapperd ends');
  }

  #received(data: RawData, isBinary: boolean): void {
    if (this.#draining) return;
    // ws hands out a message as one Buffer (binaryType is "nodebuffer").
    const bytes = data as Buffer;
    this.#waiting.push(isBinary ? bytes : bytes.toString('utf8'));
    this.#next();
  }

  #next(): void {
    const socket = this.#socket;
    for (;;) {
      const [message] = this.#waiting;
      // A frame needs no room: the request that it belongs to has it.
      if (!(message instanceof Uint8Array) && !this.#hasRoom(message?.length ?? 0)) break;
      this.#waiting.shift();
      if (message === undefined) {
        if (socket.isPaused) socket.resume();
        return;
      }
      if (typeof message === 'string') void this.#answer(message);
      else this.#frame(message);
    }
    socket.pause();
  }

  #frame(bytes: Uint8Array): void {
    const incoming = this.#incoming;
    if (incoming === null || !incoming.take(bytes)) {
      const text = incoming === null ? 'nobody announced binary frames' : 'more than was announced';
      this.#waiting.length = 0;
      this.#socket.close(UNSUPPORTED_DATA, text);
    } else if (incoming.complete) {
      this.#incoming = null;
    }
  }

  /** See Subscriber. */
  #receive(bytes: number): Promise<Received> {
    if (this.#incoming !== null) {
      throw new MapperError(EBUSY, 'an upload on this connection waits for its bytes');
    }
    this.#uploads.take(bytes);
    this.#incoming = new Incoming(bytes);
    return this.#incoming.received;
  }

  /** For one more request. */
  #hasRoom(length: number): boolean {
    const unsent = this.#socket.bufferedAmount - this.#eventBytes;
    if (this.#inFlight >= controlRequestsInFlight || unsent > controlOutputBytes) return false;
    return this.#inFlightLength + length <= controlInputBytes;
  }

  async #answer(text: string): Promise<void> {
    this.#inFlight++;
    this.#inFlightLength += text.length;
    let uploaded = 0;
    const attached: Uint8Array[] = [];
    const reply = await this.#rpc.answer(text, {
      topics: this.topics,
      receive: async (bytes) => {
        const received = this.#receive(bytes);
        uploaded += bytes;
        return received;
      },
      attach: (pieces) => attached.push(...pieces),
    });
    this.#uploads.give(uploaded);
    if (reply === null || this.#socket.readyState !== this.#socket.OPEN) {
      this.#answered(text.length);
      return;
    }
    // A request is in flight until its reply has left: the callback comes then, or with an error.
    const answered = (): void => this.#answered(text.length);
    if (attached.length === 0) {
      this.#socket.send(reply, answered);
      return;
    }
    this.#socket.send(reply);
    const bytes = Buffer.concat(attached);
    for (let at = 0; at < bytes.length; at += controlMessageBytes) {
      const end = Math.min(bytes.length, at + controlMessageBytes);
      this.#socket.send(bytes.subarray(at, end), end === bytes.length ? answered : undefined);
    }
  }

  #answered(length: number): void {
    this.#inFlight--;
    this.#inFlightLength -= length;
    this.#next();
  }
}
