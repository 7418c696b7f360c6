/**
 * The gate: clients whose bytes have to pass through the main thread, because TLS ends there or
 * because they are on standard input and output. It brings them to the queue over a socket of its
 * own; the queue sees plain bytes only. Clients that need none of this never come here.
 */

import type { Duplex } from 'node:stream';
import { EINVAL } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { connections as connectionsMax, connectionsSpare } from '../base/limits.js';
import type { Log } from '../base/log.js';
import type { ListenAddress, ListenSource } from '../engine/engine.js';
import type { Peer } from '../nbd/peer.js';
import type { QueueCalls } from '../queue/queue.js';
import { Client, type Surroundings } from './client.js';
import { Credentials } from './credentials.js';
import { GateListener } from './listener.js';
import { QueueDoor } from './queue-door.js';
import { openStdio } from './stdio.js';
import type { TlsOptions } from './tls-options.js';

export interface GateOptions {
  readonly tls: TlsOptions;
  readonly queue: QueueCalls;
  readonly log: Log;
  /** From the connection to the end of the handshake, TLS included; 0: for ever. */
  readonly handshakeMilliseconds: number;
}

export class Gate {
  readonly #all: Surroundings;
  readonly #listeners: GateListener[] = [];
  readonly #clients = new Set<Client>();
  /** Not null: it takes no more clients. */
  #closed: Promise<void> | null = null;
  #allGone: (() => void) | null = null;

  private constructor(all: Surroundings) {
    this.#all = all;
  }

  /** Throws MapperError: certificates or keys cannot be used, or the queue cannot listen. */
  static async open(options: GateOptions): Promise<Gate> {
    const { tls, queue, log, handshakeMilliseconds } = options;
    if (tls.psk !== null && tls.verifyPeer) {
      const text = 'tls: clients with pre-shared keys have no certificates to be verified';
      throw new MapperError(EINVAL, text);
    }
    const credentials = tls.mode === 'off' ? null : await Credentials.open(tls, log);
    const door = await QueueDoor.open(queue);
    return new Gate({ mode: tls.mode, credentials, door, log, handshakeMilliseconds });
  }

  /** The process goes on as another user, who must be able to reach the queue. */
  giveTo(uid: number, gid: number): void {
    this.#all.door.giveTo(uid, gid);
  }

  /** Resolves to the address really listened on. Throws MapperError. */
  async listen(source: ListenSource): Promise<ListenAddress> {
    const listener = await GateListener.listen(source, (socket, peer) => {
      this.#accepted(socket, peer);
    });
    this.#listeners.push(listener);
    return listener.address;
  }

  /** Serves whoever started this process; resolves when that client has gone. */
  async serveStdio(): Promise<void> {
    const socket = openStdio();
    const peer: Peer = { name: 'stdin', host: null, secure: false };
    await new Promise<void>((resolve) => this.#serve(socket, peer, resolve));
  }

  /**
   * Takes no new clients, and drops those that the queue has not met. Resolves when those whom it
   * has met are gone, which the queue's `shutdown` sees to: call this first, and await it after.
   */
  close(): Promise<void> {
    this.#closed ??= new Promise((resolve) => {
      this.#allGone = (): void => {
        this.removeTraces();
        resolve();
      };
    });
    for (const listener of this.#listeners) listener.close();
    for (const client of this.#clients) client.close();
    if (this.#clients.size === 0) this.#allGone?.();
    return this.#closed;
  }

  /** What is in the file system; synchronous, for the process's exit. */
  removeTraces(): void {
    for (const listener of this.#listeners) listener.removePath();
    this.#all.door.removeTraces();
  }

  #accepted(socket: Duplex, peer: Peer): void {
    const isOpen = this.#closed === null;
    if (!isOpen || this.#clients.size >= connectionsMax) {
      const why = isOpen ? `${connectionsMax} are connected` : 'the daemon is ending';
      this.#all.log.warn({ peer: peer.name }, `${peer.name}: refused, ${why}`);
      socket.destroy();
      return;
    }
    // As the queue does: whoever has been longest before it makes room.
    if (this.#clients.size >= connectionsMax - connectionsSpare) this.#makeRoom();
    this.#serve(socket, peer, () => {});
  }

  #makeRoom(): void {
    for (const client of this.#clients) if (client.giveWay()) return;
  }

  #serve(socket: Duplex, peer: Peer, gone: () => void): void {
    const client = new Client(this.#all, socket, peer, () => {
      this.#clients.delete(client);
      gone();
      if (this.#clients.size === 0) this.#allGone?.();
    });
    this.#clients.add(client);
    client.start();
  }
}
