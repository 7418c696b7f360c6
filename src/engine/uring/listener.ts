/** Listening sockets on the ring: TCP (numeric addresses) and unix. */

import { chmodSync, lstatSync, type Stats, unlinkSync } from 'node:fs';
import { isIP, isIPv4 } from 'node:net';
import { EADDRINUSE, EINVAL, errnoName, errnoOf } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { addressText } from '../address.js';
import type { Completion, ConnectionHandler, EngineListener, ListenAddress } from '../engine.js';
import type { UringEngine } from './engine.js';
import { OP_ACCEPT } from './ring.js';
import { UringSocket } from './socket.js';
import { check, type System } from './system.js';

const AF_UNIX = 1;
const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
const backlog = 1024;
/** Room for a struct sockaddr; the length of what accept filled in is kept behind it. */
const addressBytes = 128;
/** How long to leave a connection in the backlog when there are no descriptors left. */
const retryMilliseconds = 100;

export class UringListener implements EngineListener, Completion {
  readonly address: ListenAddress;
  readonly #engine: UringEngine;
  readonly #handler: ConnectionHandler;
  readonly #fd: number;
  readonly #peerMemory: number;
  readonly #unlink: (() => void) | null;
  #closed = false;
  #accepted = 0;

  constructor(engine: UringEngine, address: ListenAddress, handler: ConnectionHandler) {
    this.#engine = engine;
    this.#handler = handler;
    const system = engine.system;
    const wanted = socketAddress(address);
    const family = wanted[0] as number;
    if (address.kind === 'unix') removeStaleSocket(system, address.path, wanted);
    this.#fd = check(system.socket(family, SOCK_STREAM | SOCK_CLOEXEC), 'socket');
    try {
      if (address.kind === 'tcp') {
        check(system.setSocketOption(this.#fd, SOL_SOCKET, SO_REUSEADDR, 1), 'SO_REUSEADDR');
      }
      let result = system.bind(this.#fd, wanted);
      if (result === 0) {
        // Until listen nobody can connect, so the mode is right from the beginning.
        if (address.kind === 'unix') chmodSync(address.path, 0o600);
        result = system.listen(this.#fd, backlog);
      }
      if (result < 0) {
        const text = `cannot listen on ${addressText(address)}: ${errnoName(-result)}`;
        throw new MapperError(-result, text);
      }
      this.address = realAddress(system, this.#fd, address);
    } catch (error) {
      system.close(this.#fd);
      throw error;
    }
    this.#unlink = address.kind === 'unix' ? unlinkLater(address.path) : null;
    this.#peerMemory = engine.arena.allocate(4096);
    this.#accept();
  }

  #accept(): void {
    const { ring, base, arena } = this.#engine;
    const length = this.#peerMemory + addressBytes;
    arena.view.setUint32(length, addressBytes, true);
    // The operation takes the pointer to the length where others take the offset.
    const address = base + this.#peerMemory;
    ring.submit(OP_ACCEPT, this.#fd, base + length, address, 0, SOCK_CLOEXEC, this);
  }

  /** Completion of an accept. */
  done(result: number): void {
    if (this.#closed) {
      if (result >= 0) this.#engine.system.close(result);
      this.#release();
      return;
    }
    if (result < 0) {
      const again: Completion = {
        done: () => (this.#closed ? this.#release() : this.#accept()),
      };
      this.#engine.timer(retryMilliseconds, again);
      return;
    }
    const peer = this.#peerName();
    if (this.address.kind === 'tcp') {
      this.#engine.system.setSocketOption(result, IPPROTO_TCP, TCP_NODELAY, 1);
    }
    this.#accept();
    this.#handler.accepted(new UringSocket(this.#engine, result), peer);
  }

  #peerName(): string {
    this.#accepted++;
    if (this.address.kind === 'unix') return `unix:${this.address.path}#${this.#accepted}`;
    const bytes = this.#engine.arena.bytes;
    return addressText(readAddress(bytes.slice(this.#peerMemory, this.#peerMemory + addressBytes)));
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#unlink?.();
    // Ends the accept that is under way; the descriptor is closed when that is known.
    this.#engine.system.shutdown(this.#fd);
  }

  #release(): void {
    this.#engine.system.close(this.#fd);
    this.#engine.arena.free(this.#peerMemory, 4096);
  }
}

/** struct sockaddr_in (16 bytes), sockaddr_in6 (28 bytes) or sockaddr_un (2 bytes and a path). */
function socketAddress(address: ListenAddress): Uint8Array {
  if (address.kind === 'unix') {
    const path = Buffer.from(address.path);
    if (path.length === 0 || path.length > 107) {
      const text = `socket path of ${path.length} bytes, wanted 1 to 107: "${address.path}"`;
      throw new MapperError(EINVAL, text);
    }
    const bytes = new Uint8Array(2 + path.length + 1);
    bytes[0] = AF_UNIX;
    bytes.set(path, 2);
    return bytes;
  }
  const { host, port } = address;
  if (isIP(host) === 0) {
    throw new MapperError(EINVAL, `found address "${host}", wanted a numeric one`);
  }
  const four = isIPv4(host);
  const bytes = new Uint8Array(four ? 16 : 28);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, four ? AF_INET : AF_INET6, true);
  view.setUint16(2, port);
  bytes.set(four ? host.split('.').map(Number) : ipv6Bytes(host), four ? 4 : 8);
  return bytes;
}

/** The 16 bytes of an IPv6 address; URL writes any form of one out as groups and one gap. */
function ipv6Bytes(host: string): number[] {
  const text = new URL(`http://[${host.split('%')[0]}]`).hostname.slice(1, -1);
  const [left = '', right] = text.split('::');
  const groups = (part: string): number[] =>
    part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16));
  const before = groups(left);
  const after = right === undefined ? [] : groups(right);
  const gap = new Array<number>(8 - before.length - after.length).fill(0);
  return [...before, ...gap, ...after].flatMap((group) => [group >> 8, group & 0xff]);
}

function readAddress(bytes: Uint8Array): ListenAddress {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const port = view.getUint16(2);
  if (view.getUint16(0, true) === AF_INET) {
    return { kind: 'tcp', host: [...bytes.subarray(4, 8)].join('.'), port };
  }
  const groups = Array.from({ length: 8 }, (_, i) => view.getUint16(8 + 2 * i).toString(16));
  const host = new URL(`http://[${groups.join(':')}]`).hostname.slice(1, -1);
  return { kind: 'tcp', host, port };
}

/** The address with the port that was really given. */
function realAddress(system: System, fd: number, address: ListenAddress): ListenAddress {
  if (address.kind === 'unix') return address;
  const bound = readAddress(system.socketName(fd));
  return bound.kind === 'tcp' ? { ...address, port: bound.port } : address;
}

/** Removes a socket file that nobody answers on; refuses what is not one, or is in use. */
function removeStaleSocket(system: System, path: string, address: Uint8Array): void {
  let stat: Stats | undefined;
  try {
    stat = lstatSync(path, { throwIfNoEntry: false });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new MapperError(errnoOf(code), `cannot listen on ${path}: ${code}`);
  }
  if (stat === undefined) return;
  if (!stat.isSocket()) {
    throw new MapperError(EINVAL, `cannot listen on ${path}: it exists and is not a socket`);
  }
  const fd = check(system.socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC), 'socket');
  const result = system.connect(fd, address);
  system.close(fd);
  if (result === 0) {
    throw new MapperError(EADDRINUSE, `cannot listen on ${path}: another server answers there`);
  }
  unlinkSync(path);
}

/** Unlinks the socket, unless somebody has put another in its place. */
function unlinkLater(path: string): () => void {
  const made = lstatSync(path);
  return () => {
    const now = lstatSync(path, { throwIfNoEntry: false });
    if (now !== undefined && now.ino === made.ino && now.dev === made.dev) unlinkSync(path);
  };
}
