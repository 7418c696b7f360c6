/**
 * What a client sends with an option. Every length in it comes from the peer, so nothing is read
 * without a check, and whatever is left at the end is an error too.
 *
 *   INFO, GO                             u32 n, n bytes of name, u16 count, count x u16 info type
 *   LIST_META_CONTEXT, SET_META_CONTEXT  u32 n, n bytes of name, u32 count, count x (u32 n, query)
 *   EXPORT_NAME                          the name
 *
 * Strings are UTF-8 without NUL, at most `limits.stringBytes` long, and carry no NUL at the end.
 */

import { Buffer, isUtf8 } from 'node:buffer';
import * as limits from '../base/limits.js';
import * as nbd from './constants.js';

const optionNames = new Map<number, string>([
  [nbd.OPT_EXPORT_NAME, 'NBD_OPT_EXPORT_NAME'],
  [nbd.OPT_ABORT, 'NBD_OPT_ABORT'],
  [nbd.OPT_LIST, 'NBD_OPT_LIST'],
  [nbd.OPT_PEEK_EXPORT, 'NBD_OPT_PEEK_EXPORT'],
  [nbd.OPT_STARTTLS, 'NBD_OPT_STARTTLS'],
  [nbd.OPT_INFO, 'NBD_OPT_INFO'],
  [nbd.OPT_GO, 'NBD_OPT_GO'],
  [nbd.OPT_STRUCTURED_REPLY, 'NBD_OPT_STRUCTURED_REPLY'],
  [nbd.OPT_LIST_META_CONTEXT, 'NBD_OPT_LIST_META_CONTEXT'],
  [nbd.OPT_SET_META_CONTEXT, 'NBD_OPT_SET_META_CONTEXT'],
  [nbd.OPT_EXTENDED_HEADERS, 'NBD_OPT_EXTENDED_HEADERS'],
]);

/** `NBD_OPT_GO` for 7; `option 77` for one without a name. */
export function optionName(option: number): string {
  return optionNames.get(option) ?? `option ${option}`;
}

/** Characters of a peer's string that an error text repeats. */
const quotedCharacters = 40;

/** A peer's string, fit for an error text or a log line: short, in quotes, on one line. */
export function quoted(text: string): string {
  if (text.length <= quotedCharacters) return JSON.stringify(text);
  return `${JSON.stringify(text.slice(0, quotedCharacters))}...`;
}

/** Why an option is not granted: an error reply's type and its text. */
export class OptionRefusal extends Error {
  override readonly name = 'OptionRefusal';
  readonly replyType: number;

  constructor(replyType: number, message: string) {
    super(message);
    this.replyType = replyType;
  }
}

function invalid(message: string): OptionRefusal {
  return new OptionRefusal(nbd.REP_ERR_INVALID, message);
}

/** Reads an option's data from front to back; throws OptionRefusal (ERR_INVALID) if it is bad. */
export class OptionReader {
  readonly #data: Buffer;
  #at = 0;

  constructor(data: Uint8Array) {
    this.#data = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  }

  get left(): number {
    return this.#data.length - this.#at;
  }

  u16(what: string): number {
    this.#need(2, what);
    const value = this.#data.readUInt16BE(this.#at);
    this.#at += 2;
    return value;
  }

  u32(what: string): number {
    this.#need(4, what);
    const value = this.#data.readUInt32BE(this.#at);
    this.#at += 4;
    return value;
  }

  /** A string with its u32 length in front. */
  string(what: string): string {
    return this.text(this.u32(`length of ${what}`), what);
  }

  /** A string of `length` bytes. */
  text(length: number, what: string): string {
    if (length > limits.stringBytes) {
      throw invalid(`${what}: found ${length} bytes, wanted at most ${limits.stringBytes}`);
    }
    this.#need(length, what);
    const bytes = this.#data.subarray(this.#at, this.#at + length);
    if (!isUtf8(bytes)) throw invalid(`${what}: found bytes that are not utf-8`);
    if (bytes.includes(0)) throw invalid(`${what}: found a NUL character, wanted none`);
    this.#at += length;
    return bytes.toString('utf8');
  }

  /** Everything has been read. */
  end(): void {
    if (this.left === 0) return;
    throw invalid(`data: found ${this.left} bytes more than its own lengths say`);
  }

  #need(bytes: number, what: string): void {
    if (this.left >= bytes) return;
    throw invalid(`${what}: found ${this.left} bytes, wanted ${bytes}`);
  }
}

/** What INFO and GO ask for. */
export interface InfoRequest {
  readonly exportName: string;
  /** Info types that were asked for; those that are not known are left out. */
  readonly types: ReadonlySet<number>;
}

export function readInfoRequest(data: Uint8Array): InfoRequest {
  const reader = new OptionReader(data);
  const exportName = reader.string('export name');
  const count = reader.u16('number of info types');
  if (reader.left !== 2 * count) {
    throw invalid(
      `info types: found ${reader.left} bytes, wanted ${2 * count} for ${count} of them`,
    );
  }
  const types = new Set<number>();
  for (let i = 0; i < count; i++) {
    const type = reader.u16('info type');
    if (type <= nbd.INFO_BLOCK_SIZE) types.add(type);
  }
  return { exportName, types };
}

/** What LIST_META_CONTEXT and SET_META_CONTEXT ask for. */
export interface MetaContextRequest {
  readonly exportName: string;
  readonly queries: readonly string[];
}

export function readMetaContextRequest(data: Uint8Array): MetaContextRequest {
  const reader = new OptionReader(data);
  const exportName = reader.string('export name');
  const count = reader.u32('number of queries');
  // A query takes at least its length, so a larger count is a lie and not a large request.
  if (count > reader.left / 4) {
    throw invalid(`queries: found ${reader.left} bytes, too few for ${count} of them`);
  }
  if (count > limits.metaContextQueries) {
    throw new OptionRefusal(
      nbd.REP_ERR_TOO_BIG,
      `queries: found ${count}, wanted at most ${limits.metaContextQueries}`,
    );
  }
  const queries: string[] = [];
  for (let i = 0; i < count; i++) queries.push(reader.string('query'));
  reader.end();
  return { exportName, queries };
}
