/**
 * One control client. Its requests are carried out side by side, up to a limit; beyond that, or
 * while it does not take its replies, its socket is not read. Events wait for nobody: a subscriber
 * that has too many of them unsent is disconnected.
 */

import type { RawData, WebSocket } from 'ws';
import { controlEventBytes, controlOutputBytes, controlRequestsInFlight } from '../base/limits.js';
import type { Log } from '../base/log.js';
import type { Subscriber } from './commands.js';
import type { Topic } from './messages.js';
import type { Rpc } from './rpc.js';

/** WebSocket close codes. */
const UNSUPPORTED_DATA = 1003;
const GOING_AWAY = 1001;

export class ControlSession implements Subscriber {
  readonly topics = new Set<Topic>();
  readonly #socket: WebSocket;
  readonly #rpc: Rpc<Subscriber>;
  readonly #log: Log;
  /** Messages that were received with others in one piece, before the socket was paused. */
  readonly #waiting: string[] = [];
  #draining = false;
  #inFlight = 0;
  #eventBytes = 0;

  constructor(socket: WebSocket, rpc: Rpc<Subscriber>, log: Log) {
    this.#socket = socket;
    this.#rpc = rpc;
    this.#log = log;
    socket.on('message', (data, isBinary) => this.#received(data, isBinary));
    // What the peer did wrong is answered with a close frame by ws itself.
    socket.on('error', (error) => log.debug({ error: error.message }, 'control client failed'));
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
    if (isBinary) {
      this.#socket.close(UNSUPPORTED_DATA, 'text messages only');
      return;
    }
    if (this.#draining) return;
    // ws hands out text as one Buffer (binaryType is "nodebuffer").
    this.#waiting.push((data as Buffer).toString('utf8'));
    this.#next();
  }

  #next(): void {
    const socket = this.#socket;
    while (this.#hasRoom()) {
      const text = this.#waiting.shift();
      if (text === undefined) {
        if (socket.isPaused) socket.resume();
        return;
      }
      void this.#answer(text);
    }
    socket.pause();
  }

  #hasRoom(): boolean {
    const unsent = this.#socket.bufferedAmount - this.#eventBytes;
    return this.#inFlight < controlRequestsInFlight && unsent <= controlOutputBytes;
  }

  async #answer(text: string): Promise<void> {
    this.#inFlight++;
    const reply = await this.#rpc.answer(text, this);
    if (reply === null || this.#socket.readyState !== this.#socket.OPEN) {
      this.#answered();
      return;
    }
    // A request is in flight until its reply has left: the callback comes then, or with an error.
    this.#socket.send(reply, () => this.#answered());
  }

  #answered(): void {
    this.#inFlight--;
    this.#next();
  }
}
