/**
 * What the gate says of a client that it brings, ahead of the client's own bytes:
 *
 *   u32 bytes that follow
 *   u8  bits: 1 secure, 2 greeted, 4 has a host
 *   u32 client flags, u32 milliseconds gone since it connected    (both 0 if not greeted)
 *   u8  length of the host, host
 *   name
 *
 * A client that is greeted has had the server's greeting and sent its flags: the handshake goes on
 * with its next option. What follows the preamble belongs to the connection, so no byte more than
 * the preamble is taken from the socket.
 */

import { Buffer } from 'node:buffer';
import { assert } from '../base/assert.js';
import { blockBytesMin, handshakeMilliseconds, preambleBytes } from '../base/limits.js';
import type { Completion, Engine, EngineSocket, Timer } from '../engine/engine.js';
import type { Peer } from './peer.js';

/** The part of a handshake that is over. */
export interface Greeted {
  readonly clientFlags: number;
  /** How much of the time for the handshake is gone. */
  readonly spentMilliseconds: number;
}

export interface Preamble {
  readonly peer: Peer;
  /** null: the client has seen and said nothing yet. */
  readonly resume: Greeted | null;
}

const lengthBytes = 4;
const hostAt = lengthBytes + 9;
const isSecure = 1;
const isGreeted = 2;
const hasHost = 4;

/** A name that is too long is cut. */
export function packPreamble({ peer, resume }: Preamble): Buffer {
  const host = Buffer.from(peer.host ?? '');
  assert(host.length < 256, 'a numeric address has fewer than 256 characters');
  const name = Buffer.from(peer.name).subarray(0, preambleBytes - hostAt - 1 - host.length);
  const bytes = Buffer.alloc(hostAt + 1 + host.length + name.length);
  bytes.writeUInt32BE(bytes.length - lengthBytes, 0);
  const bits =
    (peer.secure ? isSecure : 0) |
    (resume === null ? 0 : isGreeted) |
    (peer.host === null ? 0 : hasHost);
  bytes.writeUInt8(bits, lengthBytes);
  bytes.writeUInt32BE(resume?.clientFlags ?? 0, lengthBytes + 1);
  bytes.writeUInt32BE(Math.min(resume?.spentMilliseconds ?? 0, 0xffff_ffff), lengthBytes + 5);
  bytes.writeUInt8(host.length, hostAt);
  host.copy(bytes, hostAt + 1);
  name.copy(bytes, hostAt + 1 + host.length);
  return bytes;
}

/** From all bytes of a preamble, its length included; null if they are none. */
export function unpackPreamble(bytes: Buffer): Preamble | null {
  if (bytes.length < hostAt + 1 || bytes.length > preambleBytes) return null;
  if (bytes.readUInt32BE(0) !== bytes.length - lengthBytes) return null;
  const bits = bytes.readUInt8(lengthBytes);
  const nameAt = hostAt + 1 + bytes.readUInt8(hostAt);
  if (nameAt > bytes.length) return null;
  const host = bytes.toString('latin1', hostAt + 1, nameAt);
  // It is repeated in texts for the client.
  if (!/^[\x20-\x7e]*$/.test(host)) return null;
  const clientFlags = bytes.readUInt32BE(lengthBytes + 1);
  const spentMilliseconds = bytes.readUInt32BE(lengthBytes + 5);
  return {
    peer: {
      name: bytes.toString('utf8', nameAt),
      host: (bits & hasHost) === 0 ? null : host,
      secure: (bits & isSecure) !== 0,
    },
    resume: (bits & isGreeted) === 0 ? null : { clientFlags, spentMilliseconds },
  };
}

/**
 * Receives the preamble from a socket that has just been accepted; `done` gets the socket's
 * preamble and with it the socket. Null: there was none, and the socket is closed.
 */
export function readPreamble(
  engine: Engine,
  socket: EngineSocket,
  done: (preamble: Preamble | null) => void,
): void {
  new PreambleReader(engine, socket, done).receive();
}

/** How long to wait when the arena has no block. */
const memoryRetryMilliseconds = 10;

class PreambleReader implements Completion {
  readonly #engine: Engine;
  readonly #socket: EngineSocket;
  readonly #told: (preamble: Preamble | null) => void;
  readonly #timer: Timer;
  #memory = -1;
  #received = 0;
  #wanted = lengthBytes;
  #late = false;

  constructor(engine: Engine, socket: EngineSocket, told: (preamble: Preamble | null) => void) {
    this.#engine = engine;
    this.#socket = socket;
    this.#told = told;
    this.#timer = engine.timer(handshakeMilliseconds, {
      done: () => {
        this.#late = true;
        socket.shutdown();
      },
    });
  }

  receive(): void {
    if (this.#memory < 0) this.#memory = this.#engine.arena.allocate(blockBytesMin);
    if (this.#memory < 0) {
      if (this.#late) this.#ended(null);
      else this.#engine.timer(memoryRetryMilliseconds, { done: () => this.receive() });
      return;
    }
    const at = this.#memory + this.#received;
    this.#socket.receive(at, this.#wanted - this.#received, this);
  }

  /** Completion of a receive. */
  done(result: number): void {
    if (result <= 0) {
      this.#ended(null);
      return;
    }
    this.#received += result;
    if (this.#received === this.#wanted) {
      const bytes = this.#bytes();
      if (this.#wanted > lengthBytes) {
        this.#ended(unpackPreamble(bytes));
        return;
      }
      this.#wanted += bytes.readUInt32BE(0);
      if (this.#wanted === lengthBytes || this.#wanted > preambleBytes) {
        this.#ended(null);
        return;
      }
    }
    this.receive();
  }

  #bytes(): Buffer {
    const { bytes } = this.#engine.arena;
    return Buffer.from(bytes.slice(this.#memory, this.#memory + this.#received));
  }

  #ended(preamble: Preamble | null): void {
    this.#engine.cancelTimer(this.#timer);
    if (this.#memory >= 0) this.#engine.arena.free(this.#memory, blockBytesMin);
    if (preamble === null) this.#socket.close();
    this.#told(preamble);
  }
}
