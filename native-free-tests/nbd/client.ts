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

export const CMD_FLAG = { fua: 1, noHole: 2, df: 4, reqOne: 8, fastZero: 16 } as const;

/** How transmission was agreed on. */
export interface Mode {
  readonly structured: boolean;
  /** base:allocation was selected. */
  readonly context: boolean;
}

export const simple: Mode = { structured: false, context: false };
export const structured: Mode = { structured: true, context: true };

/** Client flags and options up to GO. */
export function hello(name: string, { structured, context }: Mode): Buffer {
  return Buffer.concat([
    u32(3),
    ...(structured ? [option(8)] : []),
    ...(context ? [option(10, contextData(name, 'base:allocation'))] : []),
    option(7, infoData(name)),
  ]);
}

export interface RequestFields {
  readonly type: number;
  readonly cookie: number;
  readonly offset?: number | bigint;
  readonly length?: number;
  readonly flags?: number;
  readonly payload?: Uint8Array;
}

export function request(fields: RequestFields): Buffer {
  const { type, cookie, offset = 0, payload, flags = 0 } = fields;
  const header = Buffer.alloc(28);
  header.writeUInt32BE(0x25609513, 0);
  header.writeUInt16BE(flags, 4);
  header.writeUInt16BE(type, 6);
  header.writeBigUInt64BE(BigInt(cookie), 8);
  header.writeBigUInt64BE(BigInt(offset), 16);
  header.writeUInt32BE(fields.length ?? payload?.length ?? 0, 24);
  return payload === undefined ? header : Buffer.concat([header, payload]);
}

export interface Reply {
  readonly cookie: number;
  /** 0, or the error as it was on the wire. */
  error: number;
  text: string;
  /** READ: the data, zeroes where there are holes. */
  data: Buffer;
  /** READ: `data 0+4096`, `hole 4096+512`; BLOCK_STATUS: `4096:0`. */
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
    const length = fields.type === CMD.read && error === 0 ? (fields.length ?? 0) : 0;
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
    if (bytes.length < 20) return 0;
    if (bytes.readUInt32BE(0) !== 0x668e33ef)
      throw new Error(`magic ${bytes.toString('hex', 0, 4)}`);
    const flags = bytes.readUInt16BE(4);
    const type = bytes.readUInt16BE(6);
    const length = bytes.readUInt32BE(16);
    const { cookie, fields } = this.#fields(bytes);
    if (bytes.length < 20 + length) return 0;
    let reply = this.#open.get(cookie);
    if (reply === undefined) {
      const size = fields.type === CMD.read ? (fields.length ?? 0) : 0;
      reply = { cookie, error: 0, text: '', data: Buffer.alloc(size), chunks: [] };
      this.#open.set(cookie, reply);
    }
    this.#content(fields, reply, type, bytes.subarray(20, 20 + length));
    if (flags > 1) throw new Error(`chunk flags ${flags}`);
    if (flags === 1) {
      this.#open.delete(cookie);
      this.#asked.delete(cookie);
      replies.push(reply);
    }
    return 20 + length;
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
        if (bytes.readUInt32BE(0) !== 1) throw new Error(`context ${bytes.readUInt32BE(0)}`);
        for (let at = 4; at < bytes.length; at += 8) {
          reply.chunks.push(`${bytes.readUInt32BE(at)}:${bytes.readUInt32BE(at + 4)}`);
        }
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
}
