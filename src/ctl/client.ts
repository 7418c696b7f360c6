/** A connection to the daemon's control socket: JSON-RPC calls by name, and the events. */

import { connect } from 'node:net';
import { WebSocket } from 'ws';
import { ECONNRESET, EIO, ENOENT, errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { controlReplyBytes } from '../base/limits.js';
import { fittingSocketPath } from '../base/unix-socket.js';
import type { EventParams, MethodName, Params, Results } from '../control/messages.js';

interface Waiter {
  resolve(result: unknown): void;
  reject(error: Error): void;
}

interface Reply {
  id?: number | null;
  result?: unknown;
  error?: { code: number; message: string; data?: { code: string; errno: number } };
  method?: string;
  params?: unknown;
}

export class ControlClient {
  readonly path: string;
  readonly #socket: WebSocket;
  readonly #waiters = new Map<number, Waiter>();
  #nextId = 1;
  /** Hears events once it has subscribed. */
  onEvent: (event: EventParams) => void = () => {};
  /** Resolves when the connection has ended, whoever ended it. */
  readonly closed: Promise<void>;

  /** The first of the paths where somebody answers. Throws MapperError naming those tried. */
  static async connect(paths: readonly string[]): Promise<ControlClient> {
    const failures: string[] = [];
    let errno = ENOENT;
    for (const path of paths) {
      try {
        return await connectTo(path);
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        failures.push(`"${path}" (${code ?? messageOf(error)})`);
        errno = errnoOf(code);
      }
    }
    throw new MapperError(errno, `no daemon answers at ${failures.join(' or ')}`);
  }

  constructor(path: string, socket: WebSocket) {
    this.path = path;
    this.#socket = socket;
    socket.on('message', (data) => this.#received(data.toString()));
    socket.on('error', () => {});
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        for (const waiter of this.#waiters.values()) {
          waiter.reject(new MapperError(ECONNRESET, 'the daemon closed the connection'));
        }
        this.#waiters.clear();
        resolve();
      });
    });
  }

  /** Throws MapperError with what the daemon says. */
  call<M extends MethodName>(method: M, params: Params<M>): Promise<Results[M]> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiters.set(id, { resolve: resolve as (result: unknown) => void, reject });
      this.#socket.send(JSON.stringify({ jsonrpc: '2.0', id, method, params }), (error) => {
        if (error === undefined || error === null || !this.#waiters.delete(id)) return;
        reject(new MapperError(ECONNRESET, `send to the daemon: ${messageOf(error)}`));
      });
    });
  }

  async close(): Promise<void> {
    this.#socket.close();
    await this.closed;
  }

  #received(text: string): void {
    const reply = JSON.parse(text) as Reply;
    if (reply.method === 'event') {
      this.onEvent(reply.params as EventParams);
      return;
    }
    const waiter = this.#waiters.get(reply.id ?? 0);
    if (waiter === undefined) return;
    this.#waiters.delete(reply.id ?? 0);
    const { error } = reply;
    if (error === undefined) waiter.resolve(reply.result);
    else waiter.reject(new MapperError(error.data?.errno ?? EIO, error.message));
  }
}

function connectTo(path: string): Promise<ControlClient> {
  return new Promise((resolve, reject) => {
    const socketPath = fittingSocketPath(path);
    // A ws+unix: URL could not hold every path.
    const socket = new WebSocket('ws://mapperd/', {
      createConnection: () => connect(socketPath),
      perMessageDeflate: false,
      maxPayload: 2 * controlReplyBytes,
    });
    socket.once('error', reject);
    socket.once('open', () => {
      socket.off('error', reject);
      resolve(new ControlClient(path, socket));
    });
  });
}
