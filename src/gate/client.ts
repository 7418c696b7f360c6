/**
 * One client on its way to the queue. What it says before STARTTLS goes to the machine in
 * before-tls.ts; then TLS, if it is asked for; then a link to the queue for the rest of its life.
 *
 *   haggling ---STARTTLS---> TLS -----------> linked
 *      |                      ^
 *      '---> linked, watched--'--> linked         (mode on: STARTTLS may still come)
 *
 * The queue hears of a client that has to use TLS only when it does, so that nobody outside can
 * make the queue work. Of one that begins TLS after it was linked the queue keeps nothing: it comes
 * back over another connection.
 */

import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import { ECONNRESET, EINVAL } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { connections } from '../base/limits.js';
import type { Log } from '../base/log.js';
import type { Peer } from '../nbd/peer.js';
import type { Acceptors } from './acceptors.js';
import { acknowledgement, BeforeTls, greeting } from './before-tls.js';
import type { Credentials } from './credentials.js';
import { Link, letGo, type Watch } from './link.js';
import type { QueueDoor } from './queue-door.js';

/** What all clients share. */
export interface Surroundings {
  readonly mode: 'off' | 'on' | 'require';
  /** null in mode off. */
  readonly credentials: Credentials | null;
  readonly door: QueueDoor;
  readonly log: Log;
  /** From the connection to the end of the handshake, TLS included; 0: for ever. */
  readonly handshakeMilliseconds: number;
}

export class Client {
  readonly #all: Surroundings;
  readonly #socket: Duplex;
  readonly #peer: Peer;
  readonly #since = performance.now();
  readonly #machine: BeforeTls | null;
  #timer: NodeJS.Timeout | null = null;
  /** As the files were when it came; there before anything of the client's is looked at. */
  #acceptors: Acceptors | null = null;
  #link: Link | null = null;
  #failed = false;
  readonly #haggle = (chunk: Buffer): void => this.#received(chunk);
  readonly #ended = (): void => letGo(this.#socket);

  /** `gone` is called once, when the connection has been closed. */
  constructor(all: Surroundings, socket: Duplex, peer: Peer, gone: () => void) {
    this.#all = all;
    this.#socket = socket;
    this.#peer = peer;
    this.#machine = all.mode === 'off' ? null : new BeforeTls(all.mode);
    // A connection that breaks is no fault of ours; its 'close' follows.
    socket.on('error', () => {});
    socket.once('close', () => {
      this.#stopTimer();
      gone();
    });
  }

  start(): void {
    const { credentials } = this.#all;
    if (credentials === null) {
      this.#join(this.#socket, this.#peer, null);
      return;
    }
    this.#startTimer();
    this.#socket.write(greeting);
    void credentials.current().then((acceptors) => {
      this.#acceptors = acceptors;
      this.#socket.on('data', this.#haggle);
      this.#socket.on('end', this.#ended);
    });
  }

  /** The daemon goes down: those whom the queue has not met are not brought to it any more. */
  close(): void {
    if (this.#link === null) this.#socket.destroy();
    else this.#link.hurry();
  }

  /** Goes if the queue has not met it, since others want its place; false if it stays. */
  giveWay(): boolean {
    if (this.#link !== null || this.#socket.destroyed) return false;
    this.#handshakeFailed(`not ended yet, and ${connections} connections are the most`);
    this.#socket.destroy();
    return true;
  }

  #received(chunk: Buffer): void {
    const machine = this.#machine as BeforeTls;
    machine.push(chunk);
    for (const reply of machine.takeReplies()) this.#socket.write(reply);
    if (machine.state === 'haggling') return;
    this.#socket.off('data', this.#haggle);
    this.#socket.off('end', this.#ended);
    const forwarded = machine.takeForwarded();
    if (machine.state === 'ended') {
      this.#handshakeFailed(machine.failure);
      letGo(this.#socket);
    } else if (machine.state === 'starttls' && forwarded.length === 0) {
      void this.#beginTls();
    } else {
      this.#linkPlain(machine, forwarded);
    }
  }

  /** What the client has sent goes to the queue, and is looked at until transmission begins. */
  #linkPlain(machine: BeforeTls, sent: readonly Uint8Array[]): void {
    const watch: Watch = (chunk) => {
      machine.push(chunk);
      this.#watched(machine, link);
      return machine.takeForwarded();
    };
    const link = this.#join(this.#socket, this.#peer, watch);
    link.send(sent);
    this.#watched(machine, link);
  }

  #watched(machine: BeforeTls, link: Link): void {
    if (machine.state === 'plain') {
      link.unwatch();
    } else if (machine.state === 'starttls') {
      this.#startTimer();
      // What came before it in the same chunk is still to be forwarded.
      process.nextTick(() => link.handOver(() => void this.#beginTls()));
    } else if (machine.state === 'ended') {
      this.#handshakeFailed(machine.failure);
      this.#socket.destroy();
    }
  }

  #join(socket: Duplex, peer: Peer, watch: Watch | null): Link {
    this.#stopTimer();
    const clientFlags = this.#machine?.clientFlags ?? null;
    const spentMilliseconds = Math.round(performance.now() - this.#since);
    const resume = clientFlags === null ? null : { clientFlags, spentMilliseconds };
    this.#link = new Link(socket, this.#all.door.bring({ peer, resume }), watch);
    return this.#link;
  }

  async #beginTls(): Promise<void> {
    this.#link = null;
    const socket = this.#socket;
    socket.pause();
    try {
      // The client is to wait for the acknowledgement, so nothing of its own can be there.
      if (socket.read() !== null) {
        throw new MapperError(EINVAL, 'found bytes behind NBD_OPT_STARTTLS, wanted none');
      }
      // If the stream has ended, that `read` has it say so. TLS would not hear of it any more.
      await new Promise<void>((resolve) => process.nextTick(resolve));
      if (socket.destroyed || socket.readableEnded) {
        throw new MapperError(ECONNRESET, 'client has gone before it began');
      }
      // In one go, so that every byte behind the acknowledgement is TLS's to look at.
      socket.write(acknowledgement);
      // A client that ends its side before TLS has begun has nothing to wait for.
      socket.allowHalfOpen = false;
      this.#secured(await (this.#acceptors as Acceptors).accept(socket));
    } catch (error) {
      this.#handshakeFailed(`tls: ${messageOf(error)}`);
      socket.destroy();
    }
  }

  #secured(secure: TLSSocket): void {
    secure.allowHalfOpen = true;
    this.#socket.allowHalfOpen = true;
    secure.on('error', () => {});
    secure.once('close', () => this.#socket.destroy());
    const subject = secure.getPeerCertificate().subject?.CN ?? null;
    const fields = { peer: this.#peer.name, version: secure.getProtocol(), subject };
    const { standardName } = secure.getCipher();
    this.#all.log.debug({ ...fields, cipher: standardName }, `${this.#peer.name}: uses tls`);
    this.#join(secure, { ...this.#peer, secure: true }, null);
  }

  #handshakeFailed(reason: string | null): void {
    // What follows from a failure is none of its own.
    if (reason === null || this.#failed) return;
    this.#failed = true;
    const { name } = this.#peer;
    this.#all.log.warn({ peer: name }, `${name}: handshake failed: ${reason}`);
  }

  #startTimer(): void {
    const { handshakeMilliseconds } = this.#all;
    if (handshakeMilliseconds === 0) return;
    const left = handshakeMilliseconds - (performance.now() - this.#since);
    this.#timer = setTimeout(() => {
      this.#handshakeFailed(`not ended within ${handshakeMilliseconds} ms`);
      this.#socket.destroy();
    }, left);
  }

  #stopTimer(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
