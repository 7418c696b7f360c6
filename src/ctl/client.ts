/**
 * A connection to the daemon's control socket, or to its control over TCP: JSON-RPC calls by name,
 * the events, and the binary frames of uploads and downloads.
 */

import { lookup } from 'node:dns/promises';
import { connect } from 'node:net';
import { WebSocket } from 'ws';
import { E2BIG, EACCES, ECONNRESET, EIO, ENOENT, errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import {
  controlMessageBytes,
  controlReplyBytes,
  handshakeMilliseconds,
  uploadBytes,
} from '../base/limits.js';
import { fittingSocketPath } from '../base/unix-socket.js';
import { parseTcpPlace, type TcpPlace, tcpPlaceText } from '../control/control-address.js';
import type { EventParams, MethodName, Params, Results } from '../control/messages.js';

interface Waiter {
  resolve(result: unknown): void;
  reject(error: Error): void;
}

/** A download whose frames are coming. */
interface Download {
  readonly frames: Uint8Array[];
  left: number;
  readonly about: Results['download'];
  readonly waiter: Waiter;
}

export interface DownloadedRegions {
  readonly about: Results['download'];
  readonly bytes: Uint8Array;
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
  /** Requests whose answers are followed by frames. */
  readonly #downloads = new Set<number>();
  #download: Download | null = null;
  #nextId = 1;
  /** Hears events once it has subscribed. */
  onEvent: (event: EventParams) => void = () => {};
  /** Resolves when the connection has ended, whoever ended it. */
  readonly closed: Promise<void>;

  /**
   * The first of the paths where somebody answers, or of places such as `tcp://HOST:PORT`, to which
   * the token is shown. Throws MapperError naming those tried.
   */
  static async connect(
    paths: readonly string[],
    token: string | null = null,
  ): Promise<ControlClient> {
    const failures: string[] = [];
    let errno = ENOENT;
    for (const path of paths) {
      try {
        const place = parseTcpPlace(path);
        return await (place === null ? connectTo(path) : connectTcp(place, token));
      } catch (error) {
        if (error instanceof MapperError) throw error;
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
    socket.on('message', (data, isBinary) => {
      if (isBinary) this.#frame(data as Buffer);
      else this.#received(data.toString());
    });
    socket.on('error', () => {});
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        const waiters = [...this.#waiters.values()];
        if (this.#download !== null) waiters.push(this.#download.waiter);
        for (const waiter of waiters) {
          waiter.reject(new MapperError(ECONNRESET, 'the daemon closed the connection'));
        }
        this.#waiters.clear();
        resolve();
      });
    });
  }

  /** Throws MapperError with what the daemon says. */
  call<M extends MethodName>(method: M, params: Params<M>): Promise<Results[M]> {
    return this.#call(this.#nextId++, method, params);
  }

  /** Uploads a region table in the binary format. Throws MapperError with what the daemon says. */
  async upload(
    params: Omit<Params<'upload'>, 'bytes'>,
    bytes: Uint8Array,
  ): Promise<Results['upload']> {
    if (bytes.length > uploadBytes) {
      throw new MapperError(E2BIG, `upload has ${bytes.length} bytes, at most ${uploadBytes}`);
    }
    const answer = this.call('upload', { ...params, bytes: bytes.length });
    for (let at = 0; at < bytes.length; at += controlMessageBytes) {
      this.#socket.send(bytes.subarray(at, at + controlMessageBytes), () => {});
    }
    return answer;
  }

  /** A region table, or a part of it, in the binary format. Throws MapperError. */
  download(params: Params<'download'>): Promise<DownloadedRegions> {
    const id = this.#nextId++;
    this.#downloads.add(id);
    return this.#call(id, 'download', params) as Promise<unknown> as Promise<DownloadedRegions>;
  }

  #call<M extends MethodName>(id: number, method: M, params: Params<M>): Promise<Results[M]> {
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
    const isDownload = this.#downloads.delete(reply.id ?? 0);
    if (error === undefined && isDownload) {
      const about = reply.result as Results['download'];
      this.#download = { frames: [], left: about.bytes, about, waiter };
    } else if (error === undefined) waiter.resolve(reply.result);
    else waiter.reject(new MapperError(error.data?.errno ?? EIO, error.message));
  }

  #frame(bytes: Uint8Array): void {
    const download = this.#download;
    if (download === null) return;
    download.frames.push(bytes);
    download.left -= bytes.length;
    if (download.left > 0) return;
    this.#download = null;
    download.waiter.resolve({ about: download.about, bytes: Buffer.concat(download.frames) });
  }
}

function connectTo(path: string): Promise<ControlClient> {
  const socketPath = fittingSocketPath(path);
  // A ws+unix: URL could not hold every path.
  const socket = new WebSocket('ws://mapperd/', {
    createConnection: () => connect(socketPath),
    perMessageDeflate: false,
    maxPayload: 2 * controlReplyBytes,
  });
  return opened(path, socket);
}

async function connectTcp(place: TcpPlace, token: string | null): Promise<ControlClient> {
  // The daemon knows itself by its address.
  const { address, family } = await lookup(place.host);
  const host = family === 6 ? `[${address}]` : address;
  const socket = new WebSocket(`ws://${host}:${place.port}/`, {
    headers: token === null ? {} : { Authorization: `Bearer ${token}` },
    handshakeTimeout: handshakeMilliseconds,
    perMessageDeflate: false,
    maxPayload: 2 * controlReplyBytes,
  });
  return opened(tcpPlaceText(place), socket);
}

/** Rejects with the system's error, or with MapperError and what the daemon says. */
function opened(path: string, socket: WebSocket): Promise<ControlClient> {
  return new Promise((resolve, reject) => {
    socket.once('error', reject);
    socket.once('unexpected-response', (request, response) => {
      let said = '';
      response.setEncoding('utf8');
      response.on('data', (text: string) => {
        if (said.length < refusalLength) said += text;
      });
      response.on('close', () => {
        const text = said.trim().split('\n', 1)[0] || `HTTP status ${response.statusCode}`;
        reject(new MapperError(EACCES, `the daemon at "${path}" refuses: ${text}`));
        request.destroy();
      });
    });
    socket.once('open', () => {
      socket.off('error', reject);
      resolve(new ControlClient(path, socket));
    });
  });
}

/** Characters of a refusal that are told. */
const refusalLength = 1000;
