/**
 * The control socket: WebSocket over HTTP over a unix socket of mode 0600, so that whoever can
 * connect is whoever may administer; or over TCP, where a token says so. README.md here has the
 * protocol.
 */

import { createServer, type IncomingMessage, type Server, STATUS_CODES } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { WebSocketServer } from 'ws';
import { errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import {
  controlConnections,
  controlFragments,
  controlHandshakeLookMilliseconds,
  controlMessageBytes,
  handshakeMilliseconds,
  keepAliveSeconds,
  refusalLogsPerSecond,
} from '../base/limits.js';
import type { Log } from '../base/log.js';
import { listenOn, type OwnedPath } from '../base/unix-socket.js';
import type { QueueEvent } from '../queue/commands.js';
import type { Subscriber } from './commands.js';
import { type TcpPlace, tcpPlaceText } from './control-address.js';
import { UploadRoom } from './incoming.js';
import type { EventParams } from './messages.js';
import type { Rpc } from './rpc.js';
import { ControlSession } from './session.js';
import type { TcpAccess } from './tcp-access.js';

export class ControlServer {
  readonly #http: Server;
  readonly #websockets = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload: controlMessageBytes,
    maxFragments: controlFragments,
  });
  readonly #sessions = new Set<ControlSession>();
  readonly #rpc: Rpc<Subscriber>;
  readonly #log: Log;
  /** Over TCP; null: whoever can connect may. */
  readonly #access: TcpAccess | null;
  readonly #uploads: UploadRoom;
  #path: OwnedPath | null = null;
  /** Refusals of this second: a line for each would fill the disk for whoever likes. */
  #refusals = 0;
  #refusalsBegan = Number.NEGATIVE_INFINITY;

  constructor(
    rpc: Rpc<Subscriber>,
    log: Log,
    access: TcpAccess | null = null,
    uploads = new UploadRoom(),
  ) {
    this.#rpc = rpc;
    this.#uploads = uploads;
    this.#log = log;
    this.#access = access;
    const connectionsCheckingInterval = controlHandshakeLookMilliseconds;
    this.#http = createServer({ connectionsCheckingInterval }, (_request, response) => {
      // Plain HTTP has nothing to ask for here.
      response.writeHead(426, { connection: 'close', upgrade: 'websocket' });
      response.end('this is a WebSocket\n');
    });
    this.#http.headersTimeout = handshakeMilliseconds;
    this.#http.requestTimeout = handshakeMilliseconds;
    // Connections that have not become sessions yet count too; beyond this they are closed unread.
    this.#http.maxConnections = 2 * controlConnections;
    this.#http.on('upgrade', (request, socket, head) => this.#upgrade(request, socket, head));
  }

  /** Throws MapperError: EBUSY when another process listens there. */
  async listen(path: string): Promise<string> {
    this.#path = await listenOn(this.#http, path);
    this.#logFailures();
    return this.#path.path;
  }

  /** The same on TCP; resolves to where it is. Throws MapperError. */
  async listenTcp(place: TcpPlace): Promise<TcpPlace> {
    const http = this.#http;
    // A peer that has gone without a word must not keep its place for ever.
    const keepAlive = keepAliveSeconds * 1000;
    http.on('connection', (socket: Socket) => socket.setKeepAlive(true, keepAlive));
    await new Promise<void>((resolve, reject) => {
      http.once('error', (error: NodeJS.ErrnoException) => {
        const text = `listen on ${tcpPlaceText(place)}: ${messageOf(error)}`;
        reject(new MapperError(errnoOf(error.code), text));
      });
      http.listen(place.port, place.host, resolve);
    });
    http.removeAllListeners('error');
    this.#logFailures();
    const { address, port } = http.address() as AddressInfo;
    return { host: address, port };
  }

  #logFailures(): void {
    this.#http.on('error', (error) => {
      this.#log.error({ error: error.message }, 'control socket failed');
    });
  }

  /** Tells the subscribers; the text is made once, and only if there are any. */
  publish(event: QueueEvent): void {
    let text: string | null = null;
    for (const session of this.#sessions) {
      if (!session.topics.has(event.event)) continue;
      text ??= eventText(event);
      session.event(event.event, text);
    }
  }

  /** Takes no more connections and requests; those under way are still answered. */
  drain(): void {
    this.removePath();
    this.#http.close();
    for (const session of this.#sessions) session.drain();
  }

  /** Ends the sessions; answers that are ready are sent first. */
  close(): void {
    this.drain();
    for (const session of this.#sessions) session.close();
  }

  /** Synchronous, for the process's exit. */
  removePath(): void {
    this.#path?.remove();
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on('error', () => socket.destroy());
    const refusal = this.#access?.refusal(request.headers) ?? null;
    if (refusal !== null) {
      const { remoteAddress, remotePort } = request.socket;
      const peer = `${remoteAddress}:${remotePort}`;
      this.#refuse(socket, refusal.status, refusal.text, { peer });
    } else if (this.#sessions.size >= controlConnections) {
      this.#refuse(socket, 503, 'too many clients', { limit: controlConnections });
    } else {
      this.#accept(request, socket, head);
    }
  }

  #refuse(socket: Duplex, status: number, text: string, fields: object): void {
    const now = performance.now();
    if (now - this.#refusalsBegan >= 1000) {
      this.#refusals = 0;
      this.#refusalsBegan = now;
    }
    if (this.#refusals++ < refusalLogsPerSecond) {
      this.#log.warn(fields, `control client refused: ${text}`);
    }
    const head = [
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
      'Connection: close',
      'Content-Type: text/plain; charset=utf-8',
      `Content-Length: ${Buffer.byteLength(text) + 1}`,
    ];
    if (status === 401) head.push('WWW-Authenticate: Bearer');
    socket.end(`${head.join('\r\n')}\r\n\r\n${text}\n`);
    // Whatever else it sends is of no interest.
    socket.resume();
  }

  #accept(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    this.#websockets.handleUpgrade(request, socket, head, (websocket) => {
      const session = new ControlSession(websocket, this.#rpc, this.#log, this.#uploads);
      this.#sessions.add(session);
      websocket.on('close', () => this.#sessions.delete(session));
    });
  }
}

function eventText(event: QueueEvent): string {
  const params: EventParams = { ...event, time: new Date().toISOString() };
  return JSON.stringify({ jsonrpc: '2.0', method: 'event', params });
}
