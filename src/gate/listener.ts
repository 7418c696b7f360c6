/** A socket that the gate listens on. It says of each connection where it comes from. */

import { createServer, type Server, type Socket } from 'node:net';
import { keepAliveSeconds } from '../base/limits.js';
import type { OwnedPath } from '../base/unix-socket.js';
import { addressText, hostAndPort, plainHost } from '../engine/address.js';
import type { ListenAddress, ListenSource } from '../engine/engine.js';
import { listenOnDescriptor, listenOnPath, listenOnPort } from '../engine/node/listener.js';
import type { Peer } from '../nbd/peer.js';

export class GateListener {
  /** Known when it listens. */
  address: ListenAddress = { kind: 'unix', path: '' };
  readonly #server: Server;
  #path: OwnedPath | null = null;
  #accepted = 0;

  private constructor(accepted: (socket: Socket, peer: Peer) => void) {
    this.#server = createServer({
      allowHalfOpen: true,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: keepAliveSeconds * 1000,
    });
    this.#server.on('connection', (socket) => accepted(socket, this.#peerOf(socket)));
    // An accept that failed is its peer's concern; the next ones are accepted when they can be.
    this.#server.on('error', () => {});
  }

  /** A unix socket is made with mode 0600, and replaces a stale one. Throws MapperError. */
  static async listen(
    source: ListenSource,
    accepted: (socket: Socket, peer: Peer) => void,
  ): Promise<GateListener> {
    const listener = new GateListener(accepted);
    const server = listener.#server;
    if (source.kind === 'unix') {
      listener.address = source;
      listener.#path = await listenOnPath(server, source.path);
    } else if (source.kind === 'tcp') {
      listener.address = { ...source, port: await listenOnPort(server, source) };
    } else {
      listener.address = await listenOnDescriptor(server, source.fd);
    }
    return listener;
  }

  #peerOf(socket: Socket): Peer {
    this.#accepted++;
    if (this.address.kind === 'unix') {
      return { name: `${addressText(this.address)}#${this.#accepted}`, host: null, secure: false };
    }
    // The peer may have gone already; an address that is not known is on nobody's list.
    const host = plainHost(socket.remoteAddress ?? 'unknown');
    return { name: hostAndPort(host, socket.remotePort ?? 0), host, secure: false };
  }

  close(): void {
    this.removePath();
    this.#server.close();
  }

  /** Synchronous, for the process's exit. */
  removePath(): void {
    this.#path?.remove();
  }
}
