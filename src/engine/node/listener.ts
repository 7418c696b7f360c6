/**
 * Listening sockets on node:net: TCP (numeric addresses) and unix, made here or inherited from
 * whoever started the process. Node does not tell the path of an inherited unix socket, but Linux
 * does in /proc; a socket of another network namespace is not there, and counts as nameless.
 */

import { type BigIntStats, fstatSync, readFileSync } from 'node:fs';
import { createServer, isIP, type ListenOptions, type Server, type Socket } from 'node:net';
import { EADDRINUSE, EBUSY, EINVAL } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { keepAliveSeconds, socketReadAheadBytes } from '../../base/limits.js';
import { listenOn, type OwnedPath } from '../../base/unix-socket.js';
import { addressText, hostAndPort, plainHost } from '../address.js';
import type { ConnectionHandler, EngineListener, ListenAddress, ListenSource } from '../engine.js';
import type { NodeEngine } from './engine.js';
import { NodeSocket } from './socket.js';
import { isSystemError, mapperErrorOf } from './system-error.js';

export class NodeListener implements EngineListener {
  /** Known when it listens. */
  address: ListenAddress = { kind: 'unix', path: '' };
  readonly #engine: NodeEngine;
  readonly #handler: ConnectionHandler;
  readonly #server: Server;
  #path: OwnedPath | null = null;
  #accepted = 0;

  private constructor(engine: NodeEngine, handler: ConnectionHandler) {
    this.#engine = engine;
    this.#handler = handler;
    this.#server = createServer({
      allowHalfOpen: true,
      pauseOnConnect: true,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: keepAliveSeconds * 1000,
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
    source: ListenSource,
    handler: ConnectionHandler,
  ): Promise<NodeListener> {
    const listener = new NodeListener(engine, handler);
    const server = listener.#server;
    if (source.kind === 'unix') {
      listener.address = source;
      listener.#path = await listenOnPath(server, source.path);
    } else if (source.kind === 'tcp') {
      listener.address = source;
      listener.address = { ...source, port: await listenOnPort(server, source) };
    } else {
      listener.address = await listenOnDescriptor(server, source.fd);
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
    const host = plainHost(socket.remoteAddress ?? 'unknown');
    return hostAndPort(host, socket.remotePort ?? 0);
  }

  close(): void {
    this.#path?.remove();
    this.#server.close();
  }
}

export async function listenOnPath(server: Server, path: string): Promise<OwnedPath> {
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
export async function listenOnPort(
  server: Server,
  { host, port }: { readonly host: string; readonly port: number },
): Promise<number> {
  const action = `listen on "${hostAndPort(host, port)}"`;
  if (isIP(host) === 0) {
    throw new MapperError(EINVAL, `${action}: found host "${host}", wanted a numeric address`);
  }
  if (!Number.isInteger(port) || port < 0 || port > 65_535) {
    throw new MapperError(EINVAL, `${action}: found port ${port}, wanted 0 to 65535`);
  }
  await listening(server, { host, port }, action);
  const bound = server.address();
  return typeof bound === 'object' && bound !== null ? bound.port : port;
}

/** Takes a listening socket over. Closing the server closes the descriptor, and nothing else. */
export async function listenOnDescriptor(server: Server, fd: number): Promise<ListenAddress> {
  const action = `listen on descriptor ${fd}`;
  let stat: BigIntStats;
  try {
    stat = fstatSync(fd, { bigint: true });
  } catch (error) {
    throw isSystemError(error) ? mapperErrorOf(error, action) : error;
  }
  if (!stat.isSocket()) {
    throw new MapperError(EINVAL, `${action}: found no socket, wanted a listening socket`);
  }
  await listening(server, { fd }, action);
  const bound = server.address();
  if (typeof bound === 'object' && bound !== null) {
    return { kind: 'tcp', host: plainHost(bound.address), port: bound.port };
  }
  return { kind: 'unix', path: unixPath(stat.ino) };
}

async function listening(
  server: Server,
  where: ListenOptions | { fd: number },
  action: string,
): Promise<void> {
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(where, () => {
        server.off('error', reject);
        resolve();
      });
    });
  } catch (error) {
    throw isSystemError(error) ? mapperErrorOf(error, action) : error;
  }
}

/** Lines of /proc/net/unix are seven columns (the last is the inode) and perhaps a name. */
function unixPath(inode: bigint): string {
  let text: string;
  try {
    text = readFileSync('/proc/self/net/unix', 'utf8');
  } catch {
    return '';
  }
  for (const line of text.split('\n')) {
    const match = /^(?:\S+\s+){6}(\d+)(?: (.*))?$/.exec(line);
    if (match !== null && match[1] === `${inode}`) return (match[2] ?? '').replace(/^@/, '\0');
  }
  return '';
}
