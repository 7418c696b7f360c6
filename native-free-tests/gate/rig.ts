/**
 * A gate between clients and a queue that the test plays: a server at the end of the private
 * socket, which takes the preamble and hands the connection to the test. TLS is with a pre-shared
 * key, so that no certificate has to be made.
 */

import { Buffer } from 'node:buffer';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Duplex } from 'node:stream';
import { type ConnectionOptions, connect as secure, type TLSSocket } from 'node:tls';
import type { Test } from 'tap';
import type { Log } from '../../src/base/log.js';
import { Gate } from '../../src/gate/gate.js';
import type { TlsOptions } from '../../src/gate/tls-options.js';
import { type Preamble, unpackPreamble } from '../../src/nbd/piped.js';
import type { QueueCalls } from '../../src/queue/queue.js';

/** Collects what comes, and gives it out in the pieces that a test asks for. */
export class Inbox {
  readonly socket: Duplex;
  #chunks: Buffer[] = [];
  /** Ended by the peer, or closed. */
  ended = false;
  bytes = 0;

  constructor(socket: Duplex) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.bytes += chunk.length;
    });
    const end = (): void => {
      this.ended = true;
    };
    socket.on('end', end).on('close', end).on('error', end);
  }

  /** The next so many bytes; less when the peer has ended before. */
  async take(length: number): Promise<Buffer> {
    while (this.bytes < length && !this.ended) await eventOf(this.socket);
    const all = Buffer.concat(this.#chunks);
    this.#chunks = [all.subarray(length)];
    this.bytes = Math.max(0, all.length - length);
    return all.subarray(0, length);
  }

  /** All that comes until the peer ends. */
  async rest(): Promise<Buffer> {
    while (!this.ended) await eventOf(this.socket);
    return this.take(this.bytes);
  }
}

/** The next thing that happens to a socket, whatever it is. */
function eventOf(socket: Duplex): Promise<void> {
  return new Promise((resolve) => {
    const events = ['data', 'end', 'close', 'error'] as const;
    const happened = (): void => {
      for (const event of events) socket.off(event, happened);
      resolve();
    };
    for (const event of events) socket.on(event, happened);
  });
}

/** A client that the gate has brought. */
export interface Brought {
  readonly preamble: Preamble;
  readonly socket: Socket;
  readonly inbox: Inbox;
}

export class FakeQueue implements QueueCalls {
  readonly server: Server;
  readonly #arrived: Brought[] = [];
  readonly #waiting: ((brought: Brought) => void)[] = [];
  readonly open = new Set<Socket>();
  path = '';
  arrivals = 0;

  constructor() {
    this.server = createServer({ allowHalfOpen: true }, (socket) => void this.#accepted(socket));
  }

  async #accepted(socket: Socket): Promise<void> {
    this.open.add(socket);
    this.arrivals++;
    socket.on('close', () => this.open.delete(socket));
    const inbox = new Inbox(socket);
    const length = await inbox.take(4);
    const rest = await inbox.take(length.readUInt32BE(0));
    const preamble = unpackPreamble(Buffer.concat([length, rest]));
    if (preamble === null) throw new Error('the gate has sent no preamble');
    const brought = { preamble, socket, inbox };
    const waiter = this.#waiting.shift();
    if (waiter === undefined) this.#arrived.push(brought);
    else waiter(brought);
  }

  async next(): Promise<Brought> {
    const first = this.#arrived.shift();
    return first ?? new Promise((resolve) => this.#waiting.push(resolve));
  }

  call: QueueCalls['call'] = async (command, params) => {
    const { address, piped } = params as { address: { path: string }; piped: boolean };
    if (command !== 'listen' || !piped) throw new Error(`the gate asks for ${command}`);
    this.path = address.path;
    this.server.listen(address.path);
    await once(this.server, 'listening');
    return { kind: 'unix', path: address.path } as never;
  };
}

export const user = 'alice';
export const key = Buffer.from('6d6170706572642e6d6170706572642e', 'hex');

export interface LogLine {
  readonly level: string;
  readonly text: string;
}

export class Rig {
  readonly gate: Gate;
  readonly queue: FakeQueue;
  readonly log: readonly LogLine[];
  readonly folder: string;
  readonly #clients: Socket[] = [];
  #port = 0;

  private constructor(gate: Gate, queue: FakeQueue, log: readonly LogLine[], folder: string) {
    this.gate = gate;
    this.queue = queue;
    this.log = log;
    this.folder = folder;
  }

  static async open(
    t: Test,
    tls: Partial<TlsOptions> = {},
    handshakeMilliseconds = 60_000,
  ): Promise<Rig> {
    const folder = mkdtempSync(join(tmpdir(), 'mapperd-gate-'));
    const psk = join(folder, 'keys.psk');
    writeFileSync(psk, `${user}:${key.toString('hex')}\n`, { mode: 0o600 });
    const lines: LogLine[] = [];
    const queue = new FakeQueue();
    const all: TlsOptions = {
      mode: 'require',
      certificates: null,
      psk,
      verifyPeer: false,
      ...tls,
    };
    const gate = await Gate.open({ tls: all, queue, log: logInto(lines), handshakeMilliseconds });
    const rig = new Rig(gate, queue, lines, folder);
    const address = await gate.listen({ kind: 'tcp', host: '127.0.0.1', port: 0 });
    rig.#port = address.kind === 'tcp' ? address.port : 0;
    t.teardown(() => rig.#close(t));
    return rig;
  }

  /** Whatever a test has done: all ends, and nothing is left. */
  async #close(t: Test): Promise<void> {
    const closed = this.gate.close();
    for (const socket of [...this.#clients, ...this.queue.open]) socket.destroy();
    await closed;
    this.queue.server.close();
    if (existsSync(dirname(this.queue.path))) t.fail('the private folder is left');
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** A client that has taken the greeting and sent its flags. */
  async client(flags = 3): Promise<GateClient> {
    const client = await this.silentClient();
    await client.inbox.take(18);
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(flags);
    client.socket.write(bytes);
    return client;
  }

  async silentClient(): Promise<GateClient> {
    const socket = connect({ host: '127.0.0.1', port: this.#port, allowHalfOpen: true });
    await once(socket, 'connect');
    this.#clients.push(socket);
    return new GateClient(socket);
  }

  /** Waits until something is in the log. */
  async logged(text: RegExp): Promise<LogLine> {
    for (;;) {
      const line = this.log.find((line) => text.test(line.text));
      if (line !== undefined) return line;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
}

function logInto(lines: LogLine[]): Log {
  const at = (level: string) => (_fields: object, text: string) => {
    lines.push({ level, text });
  };
  return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}

const starttls = option(5);

export class GateClient {
  readonly socket: Socket;
  readonly inbox: Inbox;

  constructor(socket: Socket, inbox = new Inbox(socket)) {
    this.socket = socket;
    this.inbox = inbox;
  }

  /** Sends an option; its reply's type, and its data. */
  async ask(bytes: Uint8Array): Promise<{ type: number; text: string }> {
    this.socket.write(bytes);
    const header = await this.inbox.take(20);
    if (header.length < 20) return { type: 0, text: '' };
    const data = await this.inbox.take(header.readUInt32BE(16));
    return { type: header.readUInt32BE(12), text: data.toString() };
  }

  /** Asks for TLS and begins it. */
  async starttls(options: ConnectionOptions = {}): Promise<SecureClient> {
    const { type } = await this.ask(starttls);
    if (type !== 1) throw new Error(`STARTTLS: found reply type ${type}, wanted an ACK`);
    return this.#begin(options);
  }

  /** Begins TLS after STARTTLS has been asked for. */
  async begin(options: ConnectionOptions = {}): Promise<SecureClient> {
    const ack = await this.inbox.take(20);
    if (ack.length < 20 || ack.readUInt32BE(12) !== 1) throw new Error('found no ACK of STARTTLS');
    return this.#begin(options);
  }

  async #begin(options: ConnectionOptions): Promise<SecureClient> {
    this.socket.removeAllListeners('data');
    const socket = secure({
      socket: this.socket,
      ciphers: 'TLS_AES_128_GCM_SHA256:ECDHE-PSK-CHACHA20-POLY1305',
      pskCallback: () => ({ identity: user, psk: key }),
      checkServerIdentity: () => undefined,
      ...options,
    });
    await once(socket, 'secureConnect');
    return { socket, inbox: new Inbox(socket) };
  }
}

export interface SecureClient {
  readonly socket: TLSSocket;
  readonly inbox: Inbox;
}

export function option(number: number, data: Uint8Array = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(16);
  header.write('IHAVEOPT');
  header.writeUInt32BE(number, 8);
  header.writeUInt32BE(data.length, 12);
  return Buffer.concat([header, data]);
}
