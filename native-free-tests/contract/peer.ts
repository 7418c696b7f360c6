/**
 * The other side of the engine suite's sockets: a plain node:net program in a thread of its own, as
 * an engine may block the one it runs on. It carries out one verb for each message and answers with
 * what came of it.
 */

import { renameSync, unlinkSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { type MessagePort, workerData } from 'node:worker_threads';
import type { ListenAddress } from '../../src/engine/engine.js';
import { fillPattern, patternMismatch } from './pattern.js';

/** What the peer can be asked to do. Streams are the pattern of `seed`, from its beginning on. */
export type PeerRequest =
  /** `text`: this side's address; `value`: the connection's number for the other verbs. */
  | { verb: 'connect'; address: ListenAddress }
  /** Writes the next bytes of the stream in pieces; ends when the system has taken them. */
  | { verb: 'write'; connection: number; bytes: number; pieceBytes: number; seed: number }
  /** Writes until nothing has been taken for a while; `value`: bytes taken. Goes on writing. */
  | { verb: 'flood'; connection: number; bytes: number; seed: number }
  /** Reads and checks that many bytes, or up to the end; `value`: bytes. Slowly, with pauses. */
  | { verb: 'read'; connection: number; bytes: number; seed: number; slowly: boolean }
  /** Ends this side. */
  | { verb: 'end'; connection: number }
  /** Ends the connection with what is unread lost: a reset. */
  | { verb: 'reset'; connection: number }
  | { verb: 'close'; connection: number }
  /** Listens there, and accepts; `value`: the port. */
  | { verb: 'serve'; address: ListenAddress }
  | { verb: 'stopServing' }
  /** Leaves a socket's file at the path that nobody listens on. */
  | { verb: 'leaveStaleSocket'; path: string };

export interface PeerAnswer {
  value: number;
  text: string;
  /** A system error's code, "mismatch at N", or null. */
  error: string | null;
}

const nothing: PeerAnswer = { value: 0, text: '', error: null };
const floodPieceBytes = 256 * 1024;
const stalledMilliseconds = 300;

class Connection {
  readonly socket: Socket;
  readonly kind: ListenAddress['kind'];
  written = 0;
  read = 0;
  /** What came and was not asked for yet. */
  #rest = Buffer.alloc(0);
  #over = false;
  #error: string | null = null;
  #changed: () => void = () => {};

  constructor(socket: Socket, kind: ListenAddress['kind']) {
    this.socket = socket;
    this.kind = kind;
    const over = (): void => {
      this.#over = true;
      this.#changed();
    };
    socket.on('readable', () => this.#changed());
    socket.on('end', over);
    socket.on('close', over);
    socket.on('error', (error: NodeJS.ErrnoException) => {
      this.#error = error.code ?? error.message;
      over();
    });
  }

  get error(): string | null {
    return this.#error;
  }

  /** The next bytes, at most that many; an empty buffer at the end. */
  async take(limit: number): Promise<Buffer> {
    for (;;) {
      if (this.#rest.length === 0) this.#rest = this.socket.read() ?? this.#rest;
      if (this.#rest.length > 0 || this.#over) {
        const taken = this.#rest.subarray(0, limit);
        this.#rest = this.#rest.subarray(taken.length);
        return taken;
      }
      await new Promise<void>((resolve) => {
        this.#changed = resolve;
      });
    }
  }

  write(bytes: Uint8Array): Promise<string | null> {
    return new Promise((resolve) => {
      this.socket.write(bytes, (error: NodeJS.ErrnoException | null | undefined) => {
        resolve(error ? (error.code ?? error.message) : null);
      });
    });
  }
}

const connections: Connection[] = [];
const servers: Server[] = [];
const accepted: Socket[] = [];

function connectionOf(number: number): Connection {
  const connection = connections[number];
  if (connection === undefined) throw new Error(`no connection ${number}`);
  return connection;
}

async function carryOut(request: PeerRequest): Promise<PeerAnswer> {
  switch (request.verb) {
    case 'connect':
      return openConnection(request.address);
    case 'write': {
      const { connection, bytes, pieceBytes, seed } = request;
      return write(connectionOf(connection), bytes, pieceBytes, seed);
    }
    case 'flood':
      return flood(connectionOf(request.connection), request.bytes, request.seed);
    case 'read': {
      const { connection, bytes, seed, slowly } = request;
      return read(connectionOf(connection), bytes, seed, slowly);
    }
    case 'end':
      connectionOf(request.connection).socket.end();
      return nothing;
    case 'reset': {
      const { socket, kind } = connectionOf(request.connection);
      if (kind === 'tcp') socket.resetAndDestroy();
      else socket.destroy();
      return nothing;
    }
    case 'close':
      connectionOf(request.connection).socket.destroy();
      return nothing;
    case 'serve':
      return { ...nothing, value: await serve(request.address) };
    case 'stopServing':
      for (const socket of accepted.splice(0)) socket.destroy();
      for (const server of servers.splice(0)) server.close();
      return nothing;
    case 'leaveStaleSocket':
      return leaveStaleSocket(request.path);
  }
}

function openConnection(address: ListenAddress): Promise<PeerAnswer> {
  return new Promise((resolve) => {
    const target = address.kind === 'unix' ? { path: address.path } : { ...address };
    const socket = connect({ ...target, allowHalfOpen: true });
    const refused = (error: NodeJS.ErrnoException): void => {
      resolve({ ...nothing, error: error.code ?? error.message });
    };
    socket.once('error', refused);
    socket.once('connect', () => {
      socket.off('error', refused);
      connections.push(new Connection(socket, address.kind));
      const text = address.kind === 'tcp' ? `${socket.localAddress}:${socket.localPort}` : '';
      resolve({ value: connections.length - 1, text, error: null });
    });
  });
}

async function write(
  connection: Connection,
  bytes: number,
  pieceBytes: number,
  seed: number,
): Promise<PeerAnswer> {
  for (let left = bytes; left > 0; ) {
    const piece = Buffer.alloc(Math.min(left, pieceBytes));
    fillPattern(piece, connection.written, seed);
    const error = await connection.write(piece);
    if (error !== null) return { ...nothing, value: bytes - left, error };
    connection.written += piece.length;
    left -= piece.length;
  }
  return { ...nothing, value: bytes };
}

async function flood(connection: Connection, bytes: number, seed: number): Promise<PeerAnswer> {
  const start = connection.written;
  const all = write(connection, bytes, floodPieceBytes, seed);
  for (let before = -1; connection.written !== before; ) {
    before = connection.written;
    const answer = await Promise.race([all, sleep(stalledMilliseconds)]);
    if (answer !== undefined) return answer;
  }
  return { ...nothing, value: connection.written - start };
}

async function read(
  connection: Connection,
  bytes: number,
  seed: number,
  slowly: boolean,
): Promise<PeerAnswer> {
  let count = 0;
  while (count < bytes) {
    const piece = await connection.take(bytes - count);
    if (piece.length === 0) break;
    const mismatch = patternMismatch(piece, connection.read, seed);
    if (mismatch >= 0) {
      return { ...nothing, value: count, error: `mismatch at ${connection.read + mismatch}` };
    }
    connection.read += piece.length;
    count += piece.length;
    if (slowly) await sleep(1);
  }
  return { ...nothing, value: count, error: connection.error };
}

function serve(address: ListenAddress): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => {
      socket.on('error', () => {});
      accepted.push(socket);
    });
    servers.push(server);
    server.once('error', reject);
    server.listen({ ...address }, () => {
      const bound = server.address();
      resolve(typeof bound === 'object' && bound !== null ? bound.port : 0);
    });
  });
}

/** Node removes the file of a server that it closes, but not if it has been moved. */
async function leaveStaleSocket(path: string): Promise<PeerAnswer> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(`${path}-`, resolve));
  renameSync(`${path}-`, path);
  await new Promise<void>((resolve) => server.close(() => resolve()));
  try {
    unlinkSync(`${path}-`);
  } catch {
    // It has been moved: this is as it should be.
  }
  return nothing;
}

const port: MessagePort = workerData;
port.on('message', ({ id, request }: { id: number; request: PeerRequest }) => {
  carryOut(request).then(
    (answer) => port.postMessage({ id, answer }),
    (error) => port.postMessage({ id, answer: { ...nothing, error: `peer: ${error}` } }),
  );
});
