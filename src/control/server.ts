/**
 * The control socket: WebSocket over HTTP over a unix socket of mode 0600, so that whoever can
 * connect is whoever may administer. README.md here has the protocol.
 */

import { createServer, type IncomingMessage, type Server, STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import { WebSocketServer } from 'ws';
import {
  controlConnections,
  controlFragments,
  controlMessageBytes,
  handshakeMilliseconds,
} from '../base/limits.js';
import type { Log } from '../base/log.js';
import { listenOn, type OwnedPath } from '../base/unix-socket.js';
import type { QueueEvent } from '../queue/commands.js';
import type { Subscriber } from './commands.js';
import type { EventParams } from './messages.js';
import type { Rpc } from './rpc.js';
import { ControlSession } from './session.js';

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
  #path: OwnedPath | null = null;

  constructor(rpc: Rpc<Subscriber>, log: Log) {
    this.#rpc = rpc;
    this.#log = log;
    this.#http = createServer((_request, response) => {
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
    this.#http.on('error', (error) => {
      this.#log.error({ error: error.message }, 'control socket failed');
    });
    return this.#path.path;
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
    if (this.#sessions.size >= controlConnections) {
      this.#log.warn({ limit: controlConnections }, 'control client refused: too many');
      const status = `HTTP/1.1 503 ${STATUS_CODES[503]}`;
      socket.end(`${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
      return;
    }
    this.#websockets.handleUpgrade(request, socket, head, (websocket) => {
      const session = new ControlSession(websocket, this.#rpc, this.#log);
      this.#sessions.add(session);
      websocket.on('close', () => this.#sessions.delete(session));
    });
  }
}

function eventText(event: QueueEvent): string {
  const params: EventParams = { ...event, time: new Date().toISOString() };
  return JSON.stringify({ jsonrpc: '2.0', method: 'event', params });
}
