/** Listening sockets on node:net: TCP (numeric addresses) and unix. */

import { createServer, isIP, type Server, type Socket } from 'node:net';
import { EADDRINUSE, EBUSY, EINVAL } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { socketReadAheadBytes } from '../../base/limits.js';
import { listenOn, type OwnedPath } from '../../base/unix-socket.js';
import { addressText, hostAndPort } from '../address.js';
import type { ConnectionHandler, EngineListener, ListenAddress } from '../engine.js';
import type { NodeEngine } from './engine.js';
import { NodeSocket } from './socket.js';
import { isSystemError, mapperErrorOf } from './system-error.js';

export class NodeListener implements EngineListener {
  address: ListenAddress;
  readonly #engine: NodeEngine;
  readonly #handler: ConnectionHandler;
  readonly #server: Server;
  #path: OwnedPath | null = null;
  #accepted = 0;

  private constructor(engine: NodeEngine, address: ListenAddress, handler: ConnectionHandler) {
    this.#engine = engine;
    this.address = address;
    this.#handler = handler;
    this.#server = createServer({
      allowHalfOpen: true,
      pauseOnConnect: true,
      noDelay: true,
      highWaterMark: socketReadAheadBytes,
    });
    // Before it listens: a peer may be faster than the promise of `listen`.
    this.#server.on('connection', (socket) => this.#connected(socket));
    // An accept failed (no descriptors left, or the peer had gone): that peer sees its connection
    // end, and the next ones are accepted when it is possible again.
    this.#server.on('error', () => {});
  }

  static async listen(
    engine: NodeEngine,
    address: ListenAddress,
    handler: ConnectionHandler,
  ): Promise<NodeListener> {
    const listener = new NodeListener(engine, address, handler);
    if (address.kind === 'unix') {
      listener.#path = await listenOnPath(listener.#server, address.path);
    } else {
      const port = await listenOnPort(listener.#server, address.host, address.port);
      listener.address = { ...address, port };
    }
    return listener;
  }

  #connected(socket: Socket): void {
    this.#engine.enter();
    this.#accepted++;
    this.#handler.accepted(new NodeSocket(this.#engine, socket), this.#peerName(socket));
  }

  #peerName(socket: Socket): string {
    if (this.address.kind === 'unix') return `${addressText(this.address)}#${this.#accepted}`;
    // The peer may have gone already.
    return hostAndPort(socket.remoteAddress ?? 'unknown', socket.remotePort ?? 0);
  }

  close(): void {
    this.#path?.remove();
    this.#server.close();
  }
}

async function listenOnPath(server: Server, path: string): Promise<OwnedPath> {
  try {
    return await listenOn(server, path);
  } catch (error) {
    if (error instanceof MapperError && error.errno === EBUSY) {
      const text = `listen on "${path}": another process answers there`;
      throw new MapperError(EADDRINUSE, text);
    }
    throw error;
  }
}

/** Returns the port that was given. */
async function listenOnPort(server: Server, host: string, port: number): Promise<number> {
  const action = `listen on "${hostAndPort(host, port)}"`;
  if (isIP(host) === 0) {
    throw new MapperError(EINVAL, `${action}: found host "${host}", wanted a numeric address`);
  }
  if (!Number.isInteger(port) || port < 0 || port > 65_535) {
    throw new MapperError(EINVAL, `${action}: found port ${port}, wanted 0 to 65535`);
  }
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ host, port }, () => {
        server.off('error', reject);
        resolve();
      });
    });
  } catch (error) {
    throw isSystemError(error) ? mapperErrorOf(error, action) : error;
  }
  const bound = server.address();
  return typeof bound === 'object' && bound !== null ? bound.port : port;
}
