/**
 * A client's half of a connection: writes requests and takes replies apart. The numbers are written
 * out, so that they are checked and not copied.
 */

import { Buffer } from 'node:buffer';
import { contextData, infoData, option, u32 } from './conversation.js';

export const CMD = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

export const CMD_FLAG = {
  fua: 1,
  noHole: 2,
  df: 4,
  reqOne: 8,
  fastZero: 16,
  payloadLen: 32,
} as const;

/** How transmission was agreed on. */
export interface Mode {
  readonly structured: boolean;
  readonly extended: boolean;
  /** Metadata contexts that were selected. */
  readonly contexts: readonly string[];
}

const allocation = ['base:allocation'];
export const simple: Mode = { structured: false, extended: false, contexts: [] };
export const structured: Mode = { structured: true, extended: false, contexts: allocation };
export const extended: Mode = { structured: true, extended: true, contexts: allocation };

/** Client flags and options up to GO. */
export function hello(name: string, { structured, extended, contexts }: Mode): Buffer {
  return Buffer.concat([
    u32(3),
    ...(extended ? [option(11)] : structured ? [option(8)] : []),
    ...(contexts.length > 0 ? [option(10, contextData(name, ...contexts))] : []),
    option(7, infoData(name)),
  ]);
}

export interface RequestFields {
  readonly type: number;
  readonly cookie: number;
  readonly offset?: number | bigint;
  /** Of the range, if it is not that of the payload. */
  readonly length?: number | bigint;
  readonly flags?: number;
  readonly payload?: Uint8Array;
}

/** With extended headers, a payload has PAYLOAD_LEN among the flags only if the test says so. */
export function request(fields: RequestFields, extended = false): Buffer {
  const { type, cookie, offset = 0, payload, flags = 0 } = fields;
  const header = Buffer.alloc(extended ? 32 : 28);
  header.writeUInt32BE(extended ? 0x21e41c71 : 0x25609513, 0);
  header.writeUInt16BE(flags, 4);
  header.writeUInt16BE(type, 6);
  header.writeBigUInt64BE(BigInt(cookie), 8);
  header.writeBigUInt64BE(BigInt(offset), 16);
  const length = BigInt(fields.length ?? payload?.length ?? 0);
  if (extended) header.writeBigUInt64BE(length, 24);
  else header.writeUInt32BE(Number(length), 24);
  return payload === undefined ? header : Buffer.concat([header, payload]);
}

/** The payload of a BLOCK_STATUS that chooses among its contexts. */
export function statusPayload(length: number | bigint, ...contexts: number[]): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(length));
  return Buffer.concat([bytes, ...contexts.map(u32)]);
}

export interface Reply {
  readonly cookie: number;
  /** 0, or the error as it was on the wire. */
  error: number;
  text: string;
  /** READ: the data, zeroes where there are holes. */
  data: Buffer;
  /** READ: `data 0+4096`, `hole 4096+512`; BLOCK_STATUS: `4096:0`, and `2/4096:0` of context 2. */
  readonly chunks: string[];
}

/** Takes replies apart, as they come. Throws when the stream is not what it must be. */
export class ReplyReader {
  readonly #mode: Mode;
  /** What was asked for: READs need it. */
  readonly #asked = new Map<number, RequestFields>();
  readonly #open = new Map<number, Reply>();
  #left = Buffer.alloc(0);

  constructor(mode: Mode) {
    this.#mode = mode;
  }

  asked(fields: RequestFields): void {
    if (this.#asked.has(fields.cookie)) throw new Error(`cookie ${fields.cookie} is in use`);
    this.#asked.set(fields.cookie, fields);
  }

  /** Requests without a whole reply. */
  get unanswered(): number {
    return this.#asked.size;
  }

  get partialBytes(): number {
    return this.#left.length;
  }

  /** The replies that are whole now, in their order. */
  take(bytes: Buffer): Reply[] {
    let rest: Buffer = Buffer.concat([this.#left, bytes]);
    const replies: Reply[] = [];
    for (;;) {
      const taken = this.#mode.structured
        ? this.#chunk(rest, replies)
        : this.#simple(rest, replies);
      if (taken === 0) break;
      rest = rest.subarray(taken);
    }
    this.#left = Buffer.from(rest);
    return replies;
  }

  #simple(bytes: Buffer, replies: Reply[]): number {
    if (bytes.length < 16) return 0;
    if (bytes.readUInt32BE(0) !== 0x67446698)
      throw new Error(`magic ${bytes.toString('hex', 0, 4)}`);
    const error = bytes.readUInt32BE(4);
    const { cookie, fields } = this.#fields(bytes);
    const length = fields.type === CMD.read && error === 0 ? Number(fields.length ?? 0) : 0;
    if (bytes.length < 16 + length) return 0;
    this.#asked.delete(cookie);
    const data = Buffer.from(bytes.subarray(16, 16 + length));
    replies.push({ cookie, error, text: '', data, chunks: [] });
    return 16 + length;
  }

  #fields(bytes: Buffer): { cookie: number; fields: RequestFields } {
    const cookie = Number(bytes.readBigUInt64BE(8));
    const fields = this.#asked.get(cookie);
    if (fields === undefined) throw new Error(`a reply to ${cookie}, which was not asked`);
    return { cookie, fields };
  }

  #chunk(bytes: Buffer, replies: Reply[]): number {
    const { extended } = this.#mode;
    const header = extended ? 32 : 20;
    if (bytes.length < header) return 0;
    if (bytes.readUInt32BE(0) !== (extended ? 0x6e8a278c : 0x668e33ef))
      throw new Error(`magic ${bytes.toString('hex', 0, 4)}`);
    const flags = bytes.readUInt16BE(4);
    const type = bytes.readUInt16BE(6);
    const length = extended ? Number(bytes.readBigUInt64BE(24)) : bytes.readUInt32BE(16);
    const { cookie, fields } = this.#fields(bytes);
    if (extended && bytes.readBigUInt64BE(16) !== BigInt(fields.offset ?? 0)) {
      throw new Error(`offset ${bytes.readBigUInt64BE(16)} of a reply to ${fields.offset}`);
    }
    if (bytes.length < header + length) return 0;
    let reply = this.#open.get(cookie);
    if (reply === undefined) {
      const size = fields.type === CMD.read ? Number(fields.length ?? 0) : 0;
      const data = Buffer.alloc(size > 2 ** 30 ? 0 : size);
      reply = { cookie, error: 0, text: '', data, chunks: [] };
      this.#open.set(cookie, reply);
    }
    this.#content(fields, reply, type, bytes.subarray(header, header + length));
    if (flags > 1) throw new Error(`chunk flags ${flags}`);
    if (flags === 1) {
      this.#open.delete(cookie);
      this.#asked.delete(cookie);
      replies.push(reply);
    }
    return header + length;
  }

  #content(fields: RequestFields, reply: Reply, type: number, bytes: Buffer): void {
    const base = Number(fields.offset ?? 0);
    switch (type) {
      case 0:
        if (bytes.length > 0) throw new Error('an empty chunk with contents');
        break;
      case 1: {
        const at = Number(bytes.readBigUInt64BE(0)) - base;
        bytes.copy(reply.data, at, 8);
        reply.chunks.push(`data ${at}+${bytes.length - 8}`);
        break;
      }
      case 2:
        if (bytes.length !== 12) throw new Error(`a hole of ${bytes.length} bytes`);
        reply.chunks.push(
          `hole ${Number(bytes.readBigUInt64BE(0)) - base}+${bytes.readUInt32BE(8)}`,
        );
        break;
      case 5:
      case 6:
        this.#extents(reply, type, bytes);
        break;
      case 0x8001:
        reply.error = bytes.readUInt32BE(0);
        reply.text = bytes.toString('utf8', 6);
        if (bytes.readUInt16BE(4) !== bytes.length - 6) throw new Error('an error text cut short');
        break;
      default:
        throw new Error(`a chunk of type ${type}`);
    }
  }

  #extents(reply: Reply, type: number, bytes: Buffer): void {
    const { extended } = this.#mode;
    if ((type === 6) !== extended) throw new Error(`extents in a chunk of type ${type}`);
    const context = bytes.readUInt32BE(0);
    const tag = context === 1 ? '' : `${context}/`;
    const step = extended ? 16 : 8;
    const start = extended ? 8 : 4;
    const count = (bytes.length - start) / step;
    if (count < 1 || !Number.isInteger(count)) throw new Error(`${count} extents`);
    if (extended && bytes.readUInt32BE(4) !== count) throw new Error('another count of extents');
    for (let at = start; at < bytes.length; at += step) {
      const length = extended ? bytes.readBigUInt64BE(at) : bytes.readUInt32BE(at);
      const flags = extended ? bytes.readBigUInt64BE(at + 8) : bytes.readUInt32BE(at + 4);
      reply.chunks.push(`${tag}${length}:${flags}`);
    }
  }
}
