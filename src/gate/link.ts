/**
 * Two connections joined to one: what comes out of either goes into the other. A side is read only
 * while the other takes what there is, so that a slow peer holds up whoever sends to it and nobody
 * else, and little is kept here. An end travels on as an end of that direction, so that answers
 * still come back to a client that has nothing more to ask.
 *
 *   client --Flow--> queue     end of client: queue.end()
 *   client <--Flow-- queue     end of queue: the client gets what is left, and goes
 *
 * When the client's connection breaks, the queue's is closed at once.
 */

import type { Duplex } from 'node:stream';
import { disconnectMilliseconds, gateBufferBytes } from '../base/limits.js';

/** Looks at what passes, and says what of it goes on. */
export type Watch = (chunk: Buffer) => readonly Uint8Array[];

/**
 * Sends what is left, for as long as the peer goes on taking it; then the peer has a while to end
 * its side. What it still sends is thrown away.
 */
export function letGo(socket: Duplex): void {
  let before = socket.writableLength;
  const look = setInterval(() => {
    if (socket.writableLength === before) socket.destroy();
    before = socket.writableLength;
  }, disconnectMilliseconds);
  socket.once('close', () => clearInterval(look));
  // A peer that sends and does not take must not keep itself alive by it.
  socket.pause();
  socket.end(() => socket.resume());
}

export class Link {
  readonly #client: Duplex;
  readonly #queue: Duplex;
  readonly #up: Flow;
  readonly #down: Flow;
  /** Who gets the client when the queue has said its last. */
  #successor: (() => void) | null = null;
  #over = false;
  readonly #clientEnded = (): void => {
    this.#queue.end();
  };
  readonly #clientClosed = (): void => {
    this.#over = true;
    this.#queue.destroy();
  };

  /** `watch` sees what the client sends, until `unwatch`. */
  constructor(client: Duplex, queue: Duplex, watch: Watch | null) {
    this.#client = client;
    this.#queue = queue;
    client.on('end', this.#clientEnded);
    client.on('close', this.#clientClosed);
    queue.on('end', () => this.#queueEnded());
    // It closed with something of the client's unread. What it sent before has come through.
    queue.on('error', () => this.#queueEnded());
    queue.on('close', () => this.#queueEnded());
    this.#down = new Flow(queue, client, null);
    this.#up = new Flow(client, queue, watch);
  }

  /** Pieces of what the client sent before, ahead of what comes now. */
  send(pieces: readonly Uint8Array[]): void {
    for (const piece of pieces) this.#queue.write(piece);
  }

  unwatch(): void {
    this.#up.watch = null;
  }

  /** The queue gets no more; when it has answered what it has, the client is the successor's. */
  handOver(successor: () => void): void {
    this.#successor = successor;
    this.#up.stop();
    this.#client.pause();
    this.#queue.end();
  }

  /**
   * The daemon goes down: a client that has something to take, and takes none of it for a while, is
   * dropped. (That the queue has closed its end does not show behind what is not taken.)
   */
  hurry(): void {
    let before = this.#down.moves;
    const look = setInterval(() => {
      if (this.#down.waits && this.#down.moves === before) this.#client.destroy();
      before = this.#down.moves;
    }, disconnectMilliseconds);
    this.#client.once('close', () => clearInterval(look));
  }

  #queueEnded(): void {
    if (this.#over) return;
    this.#over = true;
    this.#up.stop();
    this.#down.stop();
    this.#client.off('end', this.#clientEnded);
    this.#client.off('close', this.#clientClosed);
    this.#queue.destroy();
    if (this.#successor !== null) this.#successor();
    else letGo(this.#client);
  }
}

/** One direction. */
class Flow {
  watch: Watch | null;
  readonly #from: Duplex;
  readonly #to: Duplex;
  readonly #received = (chunk: Buffer): void => this.#forward(chunk);
  /** Changes with every chunk that goes on. */
  moves = 0;
  readonly #drained = (): void => {
    this.moves++;
    this.#from.resume();
  };
  /** Chunks that come in one turn leave in one call. */
  #corked = false;

  constructor(from: Duplex, to: Duplex, watch: Watch | null) {
    this.#from = from;
    this.#to = to;
    this.watch = watch;
    to.on('drain', this.#drained);
    from.on('data', this.#received);
    from.resume();
  }

  #forward(chunk: Buffer): void {
    const pieces = this.watch?.(chunk);
    const to = this.#to;
    this.moves++;
    if (!to.writable) return;
    if (!this.#corked) {
      this.#corked = true;
      to.cork();
      process.nextTick(() => {
        this.#corked = false;
        to.uncork();
      });
    }
    if (pieces === undefined) to.write(chunk);
    else for (const piece of pieces) to.write(piece);
    if (to.writableLength >= gateBufferBytes) this.#from.pause();
  }

  /** Something has not been taken yet. */
  get waits(): boolean {
    return this.#to.writableLength > 0;
  }

  stop(): void {
    this.#from.off('data', this.#received);
    this.#to.off('drain', this.#drained);
  }
}
