/**
 * A client of bytes: it sends what it is told to, right or wrong, and takes apart what comes back.
 * Numbers are written out here and not taken from the server's own constants, which it checks.
 */

import { connect as connectSocket, type Socket } from 'node:net';

/** Only against hangs. */
const limitMilliseconds = 60_000;

export const IHAVEOPT = 0x49484156454f5054n;
const OPTION_REPLY = 0x0003e889045565a9n;
const REQUEST = 0x25609513;
const SIMPLE_REPLY = 0x67446698;
const STRUCTURED_REPLY = 0x668e33ef;
const EXTENDED_REQUEST = 0x21e41c71;
const EXTENDED_REPLY = 0x6e8a278c;

export const OPT = {
  exportName: 1,
  abort: 2,
  list: 3,
  peekExport: 4,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const;

export const REP = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  unsupported: 0x80000001,
  invalid: 0x80000003,
  unknown: 0x80000006,
  tooBig: 0x80000009,
  extendedHeadersRequired: 0x8000000a,
} as const;

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

export interface OptionReply {
  readonly type: number;
  readonly data: Buffer;
}

export interface Request {
  readonly type: number;
  readonly flags?: number;
  readonly cookie?: bigint;
  readonly offset?: bigint | number;
  readonly length?: number | bigint;
  readonly payload?: Buffer;
  readonly magic?: number;
}

export interface Reply {
  readonly cookie: bigint;
  readonly error: number;
  /** What a READ gave, or the text of an error chunk. */
  readonly data: Buffer;
  /** Chunk types, in the order in which they came; empty for a simple reply. */
  readonly chunks: readonly number[];
}

/** What there is to compare of a reply, less its bytes. */
export function facts({ cookie, error, data, chunks }: Reply): {
  cookie: bigint;
  error: number;
  length: number;
  chunks: readonly number[];
} {
  return { cookie, error, length: data.length, chunks };
}

/** A u16-counted or u32-counted text field. */
export function named(name: string): Buffer {
  const bytes = Buffer.from(name);
  return Buffer.concat([u32(bytes.length), bytes]);
}

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(value);
  return bytes;
}

/** The data of INFO and GO. */
export function infoRequest(name: string, ...types: number[]): Buffer {
  return Buffer.concat([named(name), u16(types.length), ...types.map(u16)]);
}

/** The data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function contextRequest(name: string, ...queries: string[]): Buffer {
  return Buffer.concat([named(name), u32(queries.length), ...queries.map(named)]);
}

/** With a compact header, or an extended one. */
export function encodeRequest(request: Request, extended = false): Buffer {
  const { type, flags = 0, cookie = 1n, offset = 0, payload } = request;
  const magic = request.magic ?? (extended ? EXTENDED_REQUEST : REQUEST);
  const bytes = request.length ?? payload?.length ?? 0;
  const length = extended ? u64(BigInt(bytes)) : u32(Number(bytes));
  const parts = [u32(magic), u16(flags), u16(type), u64(cookie), u64(BigInt(offset)), length];
  if (payload !== undefined) parts.push(payload);
  return Buffer.concat(parts);
}

export class RawClient {
  readonly socket: Socket;
  #received: Buffer = Buffer.alloc(0);
  #chunks: Buffer[] = [];
  #chunksBytes = 0;
  #over = false;
  #changed: () => void = () => {};
  structured = false;
  /** Requests have extended headers, and so must replies. */
  extended = false;
  /** Lengths of READs in flight, by cookie: a simple reply does not tell. */
  readonly #reads = new Map<bigint, number>();
  /** Offsets of requests in flight, which extended replies repeat. */
  readonly #offsets = new Map<bigint, bigint>();

  constructor(socket: Socket) {
    this.socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#chunksBytes += chunk.length;
      this.#changed();
    });
    const over = (): void => {
      this.#over = true;
      this.#changed();
    };
    socket.on('end', over);
    socket.on('close', over);
    socket.on('error', over);
  }

  /** To a unix socket, or a port of this machine. */
  static connect(where: string | number): Promise<RawClient> {
    const socket =
      typeof where === 'string' ? connectSocket(where) : connectSocket(where, '127.0.0.1');
    return new Promise((resolve, reject) => {
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve(new RawClient(socket));
      });
    });
  }

  /** Connected, the greeting read, and client flags sent. */
  static async greeted(where: string | number, clientFlags = 3): Promise<RawClient> {
    const client = await RawClient.connect(where);
    const greeting = await client.take(18);
    const wanted = `${Buffer.from('NBDMAGICIHAVEOPT').toString('hex')}0003`;
    if (greeting.toString('hex') !== wanted)
      throw new Error(`greeting ${greeting.toString('hex')}`);
    void client.send(u32(clientFlags));
    return client;
  }

  /** In transmission with an export. */
  static async ready(
    where: string | number,
    name: string,
    options: { structured?: boolean; extended?: boolean; contexts?: string[] } = {},
  ): Promise<RawClient> {
    const client = await RawClient.greeted(where);
    if (options.extended) {
      const [reply] = await client.option(OPT.extendedHeaders);
      if (reply?.type !== REP.ack) throw new Error('extended headers were refused');
      client.extended = true;
    }
    if (options.structured) {
      await client.option(OPT.structuredReply);
      client.structured = true;
    }
    if (options.contexts !== undefined) {
      await client.option(OPT.setMetaContext, contextRequest(name, ...options.contexts));
    }
    const replies = await client.option(OPT.go, infoRequest(name));
    if (replies.at(-1)?.type !== REP.ack) throw new Error(`GO to ${name} was refused`);
    return client;
  }

  /** Resolves when the system has taken the bytes, or the connection is over. */
  send(...parts: Buffer[]): Promise<void> {
    return new Promise((resolve) => {
      this.socket.write(parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts), () =>
        resolve(),
      );
    });
  }

  /** The next bytes; rejects when the connection ends before. */
  async take(bytes: number): Promise<Buffer> {
    await this.#until(() => this.#received.length + this.#chunksBytes >= bytes, `${bytes} bytes`);
    if (this.#received.length < bytes) {
      this.#received = Buffer.concat([this.#received, ...this.#chunks]);
      this.#chunks = [];
      this.#chunksBytes = 0;
    }
    const taken = this.#received.subarray(0, bytes);
    this.#received = this.#received.subarray(bytes);
    return taken;
  }

  /** Resolves when the server has closed the connection, to what it had sent before that. */
  async closed(): Promise<Buffer> {
    await this.#until(() => this.#over, 'the end of the connection', true);
    return Buffer.concat([this.#received, ...this.#chunks]);
  }

  async #until(isSo: () => boolean, what: string, overIsFine = false): Promise<void> {
    const deadline = Date.now() + limitMilliseconds;
    while (!isSo()) {
      if (this.#over && !overIsFine) throw new Error(`wanted ${what}, the connection ended`);
      const left = deadline - Date.now();
      if (left <= 0) throw new Error(`wanted ${what}, nothing came`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#changed = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  sendOption(option: number, data: Buffer = Buffer.alloc(0), magic = IHAVEOPT): Promise<void> {
    return this.send(u64(magic), u32(option), u32(data.length), data);
  }

  /** Sends an option, and takes its replies up to the last. */
  async option(option: number, data: Buffer = Buffer.alloc(0)): Promise<OptionReply[]> {
    void this.sendOption(option, data);
    const replies: OptionReply[] = [];
    for (;;) {
      const header = await this.take(20);
      if (header.readBigUInt64BE(0) !== OPTION_REPLY || header.readUInt32BE(8) !== option) {
        throw new Error(`reply to option ${option}: ${header.toString('hex')}`);
      }
      const type = header.readUInt32BE(12);
      replies.push({ type, data: await this.take(header.readUInt32BE(16)) });
      if (type === REP.ack || type >= 0x80000000) return replies;
    }
  }

  sendRequest(request: Request): Promise<void> {
    this.expect(request);
    return this.send(encodeRequest(request, this.extended));
  }

  /** Of a request whose bytes are sent by themselves. */
  expect(request: Request): void {
    const { type, cookie = 1n, length = 0, offset = 0 } = request;
    if (type === CMD.read) this.#reads.set(cookie, Number(length));
    this.#offsets.set(cookie, BigInt(offset));
  }

  /** Sends a request, and takes the reply that comes next. */
  async request(request: Request): Promise<Reply> {
    void this.sendRequest(request);
    return this.reply();
  }

  /** The next reply; chunks of two replies must not come mixed (we never mix them). */
  async reply(): Promise<Reply> {
    const chunks: number[] = [];
    const pieces: Buffer[] = [];
    let error = 0;
    for (;;) {
      const magic = (await this.take(4)).readUInt32BE(0);
      if (magic === SIMPLE_REPLY && !this.extended) return this.#simpleReply();
      if (magic !== (this.extended ? EXTENDED_REPLY : STRUCTURED_REPLY)) {
        throw new Error(`reply magic 0x${magic.toString(16)}`);
      }
      const header = await this.take(this.extended ? 28 : 16);
      const type = header.readUInt16BE(2);
      const cookie = header.readBigUInt64BE(4);
      const payload = await this.take(this.#payloadOf(header, cookie));
      chunks.push(type);
      if (type === 1) pieces.push(payload.subarray(8));
      if (type === 2) pieces.push(Buffer.alloc(payload.readUInt32BE(8)));
      if (type === 5 || type === 6) pieces.push(payload);
      if (type >= 0x8000) {
        error = payload.readUInt32BE(0);
        pieces.push(payload.subarray(6, 6 + payload.readUInt16BE(4)));
      }
      if ((header.readUInt16BE(0) & 1) !== 0) {
        this.#reads.delete(cookie);
        return { cookie, error, data: Buffer.concat(pieces), chunks };
      }
    }
  }

  /** The length of a chunk's payload, out of its header less the magic. */
  #payloadOf(header: Buffer, cookie: bigint): number {
    if (!this.extended) return header.readUInt32BE(12);
    const offset = header.readBigUInt64BE(12);
    if (offset !== this.#offsets.get(cookie)) throw new Error(`a reply to offset ${offset}`);
    return Number(header.readBigUInt64BE(20));
  }

  async #simpleReply(): Promise<Reply> {
    const header = await this.take(12);
    const error = header.readUInt32BE(0);
    const cookie = header.readBigUInt64BE(4);
    const length = error === 0 ? (this.#reads.get(cookie) ?? 0) : 0;
    this.#reads.delete(cookie);
    return { cookie, error, data: await this.take(length), chunks: [] };
  }

  /** Gone without a word. */
  destroy(): void {
    this.socket.destroy();
  }
}
