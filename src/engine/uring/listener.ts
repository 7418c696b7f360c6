/**
 * Listening sockets on the ring: TCP (numeric addresses) and unix, made here or inherited from
 * whoever started the process. An inherited one may have other owners, who use it after us: it is
 * neither shut down nor its file removed.
 */

import { chmodSync, lstatSync, type Stats, unlinkSync } from 'node:fs';
import { EADDRINUSE, EINVAL, errnoName, errnoOf } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { keepAliveSeconds } from '../../base/limits.js';
import { addressText } from '../address.js';
import type {
  Completion,
  ConnectionHandler,
  EngineListener,
  ListenAddress,
  ListenSource,
} from '../engine.js';
import type { UringEngine } from './engine.js';
import { OP_ACCEPT, OP_ASYNC_CANCEL } from './ring.js';
import { UringSocket } from './socket.js';
import { AF_UNIX, familyOf, packAddress, unpackAddress } from './socket-address.js';
import { check, type System } from './system.js';

const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SO_ACCEPTCONN = 30;
const IPPROTO_TCP = 6;
const SO_KEEPALIVE = 9;
const TCP_NODELAY = 1;
const TCP_KEEPIDLE = 4;
const TCP_KEEPINTVL = 5;
const TCP_KEEPCNT = 6;
const backlog = 1024;
/** Room for a struct sockaddr; the length of what accept filled in is kept behind it. */
const addressBytes = 128;
/** How long to leave a connection in the backlog when there are no descriptors left. */
const retryMilliseconds = 100;

/** The end of a cancellation says nothing that the end of what was cancelled does not. */
const ignored: Completion = { done() {} };

interface Opened {
  readonly fd: number;
  readonly address: ListenAddress;
}

export class UringListener implements EngineListener, Completion {
  readonly address: ListenAddress;
  readonly #engine: UringEngine;
  readonly #handler: ConnectionHandler;
  readonly #fd: number;
  readonly #inherited: boolean;
  readonly #peerMemory: number;
  readonly #unlink: (() => void) | null;
  /** Of the accept that is under way; -1: none is, for a while. */
  #slot = -1;
  #closed = false;
  #accepted = 0;

  constructor(engine: UringEngine, source: ListenSource, handler: ConnectionHandler) {
    this.#engine = engine;
    this.#handler = handler;
    this.#inherited = source.kind === 'fd';
    const { fd, address } =
      source.kind === 'fd' ? inherit(engine.system, source.fd) : open(engine.system, source);
    this.#fd = fd;
    this.address = address;
    if (address.kind === 'tcp') setUp(engine.system, fd);
    this.#unlink = source.kind === 'unix' ? unlinkLater(source.path) : null;
    this.#peerMemory = engine.arena.allocate(4096);
    this.#accept();
  }

  #accept(): void {
    const { ring, base, arena } = this.#engine;
    const length = this.#peerMemory + addressBytes;
    arena.view.setUint32(length, addressBytes, true);
    // The operation takes the pointer to the length where others take the offset.
    const address = base + this.#peerMemory;
    const offset = base + length;
    this.#slot = ring.submit(OP_ACCEPT, this.#fd, offset, address, 0, SOCK_CLOEXEC, this);
  }

  /** Completion of an accept. */
  done(result: number): void {
    this.#slot = -1;
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
    this.#accept();
    this.#handler.accepted(new UringSocket(this.#engine, result), peer);
  }

  #peerName(): string {
    this.#accepted++;
    if (this.address.kind === 'unix') return `${addressText(this.address)}#${this.#accepted}`;
    const { bytes, view } = this.#engine.arena;
    const length = view.getUint32(this.#peerMemory + addressBytes, true);
    const end = this.#peerMemory + Math.min(length, addressBytes);
    const peer = unpackAddress(bytes.slice(this.#peerMemory, end));
    return peer === null ? 'unknown' : addressText(peer);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#unlink?.();
    // Ends the accept that is under way; the descriptor is closed when that is known.
    if (!this.#inherited) this.#engine.system.shutdown(this.#fd);
    else if (this.#slot >= 0) {
      this.#engine.ring.submit(OP_ASYNC_CANCEL, this.#fd, 0, this.#slot, 0, 0, ignored);
    }
  }

  #release(): void {
    this.#engine.system.close(this.#fd);
    this.#engine.arena.free(this.#peerMemory, 4096);
  }
}

/**
 * Of TCP connections nothing is held back, and a peer that is gone is noticed. They have it from
 * the socket that listens, which saves calls for each.
 */
function setUp(system: System, fd: number): void {
  system.setSocketOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  system.setSocketOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  system.setSocketOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, keepAliveSeconds);
  // As Node has them.
  system.setSocketOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1);
  system.setSocketOption(fd, IPPROTO_TCP, TCP_KEEPCNT, 10);
}

/** Binds a new socket, and listens on it. Throws MapperError. */
function open(system: System, address: ListenAddress): Opened {
  const wanted = packAddress(address);
  if (address.kind === 'unix') removeStaleSocket(system, address.path, wanted);
  const fd = check(system.socket(familyOf(wanted), SOCK_STREAM | SOCK_CLOEXEC), 'socket');
  try {
    if (address.kind === 'tcp') {
      check(system.setSocketOption(fd, SOL_SOCKET, SO_REUSEADDR, 1), 'SO_REUSEADDR');
    }
    let result = system.bind(fd, wanted);
    if (result === 0) {
      // Until listen nobody can connect, so the mode is right from the beginning.
      if (address.kind === 'unix') chmodSync(address.path, 0o600);
      result = system.listen(fd, backlog);
    }
    if (result < 0) {
      const text = `cannot listen on ${addressText(address)}: ${errnoName(-result)}`;
      throw new MapperError(-result, text);
    }
    if (address.kind === 'unix') return { fd, address };
    // Port 0 has become one that was free.
    const bound = unpackAddress(system.socketName(fd));
    return { fd, address: bound?.kind === 'tcp' ? { ...address, port: bound.port } : address };
  } catch (error) {
    system.close(fd);
    throw error;
  }
}

/** Looks at a socket that should be listening already. Throws MapperError; then it is left alone. */
function inherit(system: System, fd: number): Opened {
  const listening = system.socketOption(fd, SOL_SOCKET, SO_ACCEPTCONN);
  if (listening !== 1) {
    const found = listening < 0 ? errnoName(-listening) : 'a socket that does not listen';
    const text = `cannot listen on descriptor ${fd}: found ${found}, wanted a listening socket`;
    throw new MapperError(listening < 0 ? -listening : EINVAL, text);
  }
  const address = unpackAddress(system.socketName(fd));
  if (address === null) {
    const text = `cannot listen on descriptor ${fd}: found another family, wanted IP or unix`;
    throw new MapperError(EINVAL, text);
  }
  // The ring does not wait on descriptors that are not to be waited on.
  system.clearNonBlocking(fd);
  return { fd, address };
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

/** Unlinks the socket, unless somebody has put another in its place, or we may not any more. */
function unlinkLater(path: string): () => void {
  const made = lstatSync(path);
  return () => {
    try {
      const now = lstatSync(path);
      if (now.ino === made.ino && now.dev === made.dev) unlinkSync(path);
    } catch {
      // It is gone, or stays: whoever listens there next replaces it.
    }
  };
}
