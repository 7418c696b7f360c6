/**
 * A client that speaks real NBD over a simulated connection: it asks for an export, sends requests
 * on whole sectors, whose payload it makes from stamps, and tells what became of them. Numbers of
 * the protocol are written out, so that they are checked and not copied.
 */

import { Buffer } from 'node:buffer';
import type { SimEngine } from './engine.js';
import { Inbox } from './inbox.js';
import { SimSocket, type SocketPeer } from './socket.js';
import { sectorBytes, stamp } from './stamps.js';

export const CMD = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  zero: 6,
  status: 7,
} as const;
export type Command = (typeof CMD)[keyof typeof CMD];
export const CMD_FUA = 1;
export const CMD_NO_HOLE = 2;
export const CMD_REQ_ONE = 8;
export const CMD_FAST_ZERO = 16;

/** A request and what came of it. Offsets and lengths are sectors. */
export class ClientRequest {
  readonly command: Command;
  readonly flags: number;
  readonly first: number;
  readonly sectors: number;
  /** WRITE: the first sector's stamp. */
  readonly stamp: number;
  cookie = 0;
  /** 0, or the error as it was on the wire. */
  error = 0;
  /** READ: what each sector held. */
  readonly stamps: Int32Array | null;
  /** BLOCK_STATUS: bytes and flags of each extent. */
  readonly extents: number[] | null;

  constructor(command: Command, flags: number, first: number, sectors: number, stamp = 0) {
    this.command = command;
    this.flags = flags;
    this.first = first;
    this.sectors = sectors;
    this.stamp = stamp;
    this.stamps = command === CMD.read ? new Int32Array(sectors) : null;
    this.extents = command === CMD.status ? [] : null;
  }
}

/** Who is told of answers. */
export interface ClientOwner {
  answered(client: SimClient, request: ClientRequest): void;
  /** The server has closed the connection. */
  disconnected(client: SimClient): void;
}

const header = 28;

export class SimClient implements SocketPeer {
  readonly name: string;
  readonly structured: boolean;
  readonly inFlight = new Map<number, ClientRequest>();
  /** Requests can be sent. */
  ready = false;
  isClosed = false;
  /** Transmission flags. */
  exportFlags = 0;
  sizeBytes = 0;
  readonly #owner: ClientOwner;
  readonly #socket: SimSocket;
  readonly #inbox = new Inbox();
  #greeted = false;
  #nextCookie = 1;

  /** Throws if nobody listens there. */
  constructor(
    engine: SimEngine,
    address: { readonly path: string; readonly number: number },
    name: string,
    structured: boolean,
    owner: ClientOwner,
  ) {
    this.name = name;
    this.structured = structured;
    this.#owner = owner;
    this.#socket = new SimSocket(engine, address.number, this);
    this.#write(hello(name, structured));
    engine.connect(address.path, this.#socket);
  }

  #write(data: Uint8Array): void {
    const at = this.#socket.reserve(data.length);
    this.#socket.bytes.set(data, at);
    this.#socket.push(data.length);
  }

  send(request: ClientRequest): void {
    const cookie = this.#nextCookie++;
    request.cookie = cookie;
    const { command, sectors } = request;
    const payload = command === CMD.write ? sectors * sectorBytes : 0;
    const at = this.#socket.reserve(header + payload);
    const { bytes, view } = this.#socket;
    view.setUint32(at, 0x25609513);
    view.setUint16(at + 4, request.flags);
    view.setUint16(at + 6, command);
    view.setUint32(at + 8, 0xabad1dea);
    view.setUint32(at + 12, cookie);
    view.setUint32(at + 16, 0);
    view.setUint32(at + 20, request.first * sectorBytes);
    view.setUint32(at + 24, sectors * sectorBytes);
    if (payload > 0) fill(bytes, at + header, request);
    this.inFlight.set(cookie, request);
    this.#socket.push(header + payload);
  }

  /** Asks for no more; the server answers what is under way and closes. */
  disconnect(): void {
    const at = this.#socket.reserve(header);
    const { bytes, view } = this.#socket;
    bytes.fill(0, at, at + header);
    view.setUint32(at, 0x25609513);
    view.setUint16(at + 6, CMD.disconnect);
    this.#socket.push(header);
    this.#socket.end();
  }

  /** Is gone, with answers on their way. */
  drop(): void {
    this.isClosed = true;
    this.#socket.drop();
  }

  received(bytes: Uint8Array, offset: number, length: number): void {
    if (this.isClosed) return;
    this.#inbox.add(bytes, offset, length);
    while (this.ready ? this.#reply() : this.#handshake()) {}
  }

  /** Both ends are gone, with all that was on its way. */
  leave(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.#inbox.leave();
    this.#socket.leave();
  }

  closed(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.#inbox.leave();
    this.#owner.disconnected(this);
  }

  /** False: more bytes are needed. */
  #handshake(): boolean {
    const inbox = this.#inbox;
    if (!this.#greeted) {
      if (inbox.length < 18) return false;
      if (inbox.u32(0) !== 0x4e42444d || inbox.u32(4) !== 0x41474943) throw wrong('greeting');
      this.#greeted = true;
      inbox.take(18);
      return true;
    }
    if (inbox.length < 20 || inbox.length < 20 + inbox.u32(16)) return false;
    const option = inbox.u32(8);
    const type = inbox.u32(12);
    const length = inbox.u32(16);
    if (inbox.u32(0) !== 0x0003e889 || inbox.u32(4) !== 0x045565a9) throw wrong('option reply');
    if (type >= 0x80000000) {
      throw new Error(`option ${option} for "${this.name}": ${inbox.text(20, length)}`);
    }
    if (type === 3 && inbox.u16(20) === 0) {
      this.sizeBytes = inbox.u32(22) * 2 ** 32 + inbox.u32(26);
      this.exportFlags = inbox.u16(30);
    }
    if (type === 1 && option === 7) this.ready = true;
    inbox.take(20 + length);
    return true;
  }

  #reply(): boolean {
    return this.structured ? this.#chunk() : this.#simple();
  }

  #asked(at: number): ClientRequest {
    const inbox = this.#inbox;
    const request = this.inFlight.get(inbox.u32(at + 4));
    if (inbox.u32(at) !== 0xabad1dea || request === undefined) throw wrong('cookie');
    return request;
  }

  #simple(): boolean {
    const inbox = this.#inbox;
    if (inbox.length < 16) return false;
    if (inbox.u32(0) !== 0x67446698) throw wrong('simple reply');
    const request = this.#asked(8);
    const error = inbox.u32(4);
    const reads = request.command === CMD.read && error === 0;
    const length = reads ? request.sectors * sectorBytes : 0;
    if (inbox.length < 16 + length) return false;
    request.error = error;
    if (reads) inbox.stamps(16, request.sectors, request.stamps as Int32Array, 0);
    inbox.take(16 + length);
    this.#answered(request);
    return true;
  }

  #chunk(): boolean {
    const inbox = this.#inbox;
    if (inbox.length < 20) return false;
    if (inbox.u32(0) !== 0x668e33ef) throw wrong('structured reply');
    const length = inbox.u32(16);
    if (inbox.length < 20 + length) return false;
    const request = this.#asked(8);
    const done = inbox.u16(4) === 1;
    this.#content(request, inbox.u16(6), length);
    inbox.take(20 + length);
    if (done) this.#answered(request);
    return true;
  }

  #content(request: ClientRequest, type: number, length: number): void {
    const inbox = this.#inbox;
    const place = (): number => inbox.u32(24) / sectorBytes - request.first;
    switch (type) {
      case 0:
        return;
      case 1:
        inbox.stamps(28, (length - 8) / sectorBytes, request.stamps as Int32Array, place());
        return;
      case 2:
        request.stamps?.fill(0, place(), place() + inbox.u32(28) / sectorBytes);
        return;
      case 5:
        for (let at = 24; at < 20 + length; at += 8) {
          request.extents?.push(inbox.u32(at), inbox.u32(at + 4));
        }
        return;
      case 0x8001:
        request.error = inbox.u32(20);
        return;
      default:
        throw wrong(`chunk type ${type}`);
    }
  }

  #answered(request: ClientRequest): void {
    this.inFlight.delete(request.cookie);
    this.#owner.answered(this, request);
  }
}

function wrong(what: string): Error {
  return new Error(`protocol: the ${what} is not what it must be`);
}

/** The payload of a WRITE. Behind the handshake all that is sent is a multiple of four bytes. */
function fill(bytes: Uint8Array, at: number, { sectors, stamp: first }: ClientRequest): void {
  if (at % 4 === 0) {
    stamp(new Int32Array(bytes.buffer, at, (sectors * sectorBytes) / 4), 0, sectors, first);
    return;
  }
  const words = new Int32Array((sectors * sectorBytes) / 4);
  stamp(words, 0, sectors, first);
  bytes.set(new Uint8Array(words.buffer), at);
}

/** Client flags and options up to GO. */
function hello(name: string, structured: boolean): Uint8Array {
  const sized = Buffer.concat([u32(Buffer.byteLength(name)), Buffer.from(name)]);
  const context = 'base:allocation';
  const query = Buffer.concat([sized, u32(1), u32(context.length), Buffer.from(context)]);
  const begin = structured ? [option(8, Buffer.alloc(0)), option(10, query)] : [];
  return Buffer.concat([u32(3), ...begin, option(7, Buffer.concat([sized, Buffer.alloc(2)]))]);
}

function option(number: number, data: Buffer): Buffer {
  return Buffer.concat([Buffer.from('IHAVEOPT'), u32(number), u32(data.length), data]);
}

function u32(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32BE(value);
  return buffer;
}
