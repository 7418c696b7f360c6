/**
 * Reads both halves of a handshake side by side, from the protocol's text and from nothing of the
 * server's code, and says where it ends. What the server has sent must be what the protocol and the
 * exports ask for, byte by byte.
 */

import type { Buffer } from 'node:buffer';
import { expect } from './subject.js';

export interface JudgedExport {
  readonly sizeBytes: number;
  /** Names of metadata contexts. */
  readonly contexts: readonly string[];
  /** Not in lists. */
  readonly hidden?: boolean;
}

export interface JudgedExports {
  readonly byName: ReadonlyMap<string, JudgedExport>;
  /** What the empty name stands for; null: nothing. */
  readonly defaultName: string | null;
}

/** What of the protocol a server has; all of it, unless somebody has switched something off. */
export interface Offers {
  readonly structuredReplies: boolean;
  readonly extendedHeaders: boolean;
  readonly metaContexts: boolean;
}

const everything: Offers = { structuredReplies: true, extendedHeaders: true, metaContexts: true };

export interface Agreed {
  readonly exportName: string;
  readonly flags: number;
  readonly structured: boolean;
  readonly extended: boolean;
  /** Names of the selected contexts by their ids. */
  readonly contexts: ReadonlyMap<number, string>;
}

export interface Judgement {
  readonly state: 'haggling' | 'ended' | 'transmission';
  /** What has been read of both halves. */
  readonly clientAt: number;
  readonly outputAt: number;
  /** Not null in transmission. */
  readonly agreed: Agreed | null;
}

const greeting = '4e42444d4147494349484156454f50540003';
const magic = '0003e889045565a9';
const ACK = 1;
const errorTypes = new Set([1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map((type) => 0x80000000 + type));
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

interface OptionReply {
  readonly type: number;
  readonly data: Buffer;
}

/** A string of the protocol, or null for bytes that are none. */
function textOf(bytes: Buffer): string | null {
  try {
    return bytes.length > 4096 || bytes.includes(0) ? null : utf8.decode(bytes);
  } catch {
    return null;
  }
}

/** A string with its length in front, and where it ends; null if it is none. */
function sizedText(data: Buffer, at: number): { text: string; end: number } | null {
  if (data.length < at + 4) return null;
  const end = at + 4 + data.readUInt32BE(at);
  const text = end > data.length ? null : textOf(data.subarray(at + 4, end));
  return text === null ? null : { text, end };
}

class Judge {
  clientAt = 0;
  outputAt = 0;
  structured = false;
  extended = false;
  #contexts = new Map<number, string>();
  #contextsFor: string | null = null;
  readonly #client: Buffer;
  readonly #output: Buffer;
  readonly #exports: JudgedExports;
  readonly #offers: Offers;

  constructor(client: Buffer, output: Buffer, exports: JudgedExports, offers: Offers) {
    this.#client = client;
    this.#output = output;
    this.#exports = exports;
    this.#offers = offers;
  }

  run(resumed: number | null): Judgement {
    let flags = resumed;
    if (flags === null) {
      expect(this.#take(18).toString('hex') === greeting, 'another greeting');
      if (this.#client.length < 4) return this.#end('haggling');
      flags = this.#client.readUInt32BE(0);
      this.clientAt = 4;
    }
    if (flags > 3) return this.#end('ended');
    for (let options = 1; ; options++) {
      const at = this.clientAt;
      if (this.#client.length - at < 16) return this.#end('haggling');
      if (this.#client.toString('latin1', at, at + 8) !== 'IHAVEOPT') return this.#end('ended');
      const option = this.#client.readUInt32BE(at + 8);
      const length = this.#client.readUInt32BE(at + 12);
      if (options > 1024 || ((flags & 1) === 0 && option !== 1)) return this.#end('ended');
      if (length > (option === 1 ? 4096 : 16 * 2 ** 20)) return this.#end('ended');
      if (this.#client.length - at - 16 < length) return this.#end('haggling');
      this.clientAt = at + 16 + length;
      const data = this.#client.subarray(at + 16, this.clientAt);
      if (option === 1) return this.#exportName(data, flags);
      const agreed = this.#option(option, data);
      if (option === 2) return this.#end('ended');
      if (agreed !== null) return this.#end('transmission', agreed);
    }
  }

  #end(state: Judgement['state'], agreed: Agreed | null = null): Judgement {
    const { clientAt, outputAt } = this;
    const left = this.#output.length - outputAt;
    expect(state === 'transmission' || left === 0, () => {
      const rest = this.#output.toString('hex', outputAt, outputAt + 40);
      return `${left} bytes more than were asked for: ${rest}`;
    });
    return { state, clientAt, outputAt, agreed };
  }

  #take(length: number): Buffer {
    const end = this.outputAt + length;
    expect(end <= this.#output.length, `the output ends at ${this.#output.length}, before ${end}`);
    const bytes = this.#output.subarray(this.outputAt, end);
    this.outputAt = end;
    return bytes;
  }

  #known(name: string): { name: string; one: JudgedExport } | null {
    const canonical = name === '' ? this.#exports.defaultName : name;
    const one = canonical === null ? undefined : this.#exports.byName.get(canonical);
    return canonical === null || one === undefined ? null : { name: canonical, one };
  }

  #exportName(data: Buffer, clientFlags: number): Judgement {
    const name = textOf(data);
    const known = name === null ? null : this.#known(name);
    if (known === null || this.extended) return this.#end('ended');
    const answer = this.#take(10);
    const flags = this.#transmissionFlags(answer.readUInt16BE(8), known.name);
    expect(answer.readBigUInt64BE(0) === BigInt(known.one.sizeBytes), 'another size');
    if ((clientFlags & 2) === 0) {
      expect(
        this.#take(124).every((byte) => byte === 0),
        'zeroes that are none',
      );
    }
    return this.#end('transmission', this.#agreed(known.name, flags));
  }

  #agreed(exportName: string, flags: number): Agreed {
    const { structured, extended } = this;
    const contexts = this.#contextsFor === exportName ? this.#contexts : new Map<number, string>();
    return { exportName, flags, structured, extended, contexts };
  }

  #transmissionFlags(flags: number, name: string): number {
    const selected = this.#contextsFor === name && this.#contexts.size > 0;
    expect((flags & 1) === 1 && (flags & ~0x1dff) === 0, `flags 0x${flags.toString(16)}`);
    expect(((flags & 128) !== 0) === this.structured, 'DF goes with structured replies');
    expect(((flags & 4096) !== 0) === (this.extended && selected), 'BLOCK_STATUS_PAYLOAD');
    return flags;
  }

  /** The replies to one option; the last is ACK or an error. */
  #replies(option: number): OptionReply[] {
    const replies: OptionReply[] = [];
    for (;;) {
      const header = this.#take(20);
      expect(header.toString('hex', 0, 8) === magic, 'another magic in an option reply');
      expect(header.readUInt32BE(8) === option, `a reply to option ${header.readUInt32BE(8)}`);
      const type = header.readUInt32BE(12);
      const data = this.#take(header.readUInt32BE(16));
      replies.push({ type, data });
      if (type >= 0x80000000) {
        expect(errorTypes.has(type), `an error of type 0x${type.toString(16)}`);
        const text = textOf(data);
        expect(text !== null && text.length > 0, 'an error without a text');
        expect(replies.length === 1, 'an error behind other replies');
        return replies;
      }
      if (type === ACK) {
        expect(data.length === 0, 'an ACK with data');
        return replies;
      }
    }
  }

  /** Null: haggling goes on. */
  #option(option: number, data: Buffer): Agreed | null {
    if (option === 10) {
      this.#contexts = new Map();
      this.#contextsFor = null;
    }
    const replies = this.#replies(option);
    const last = replies.at(-1) as OptionReply;
    const granted = last.type === ACK;
    const wants = (is: boolean): void => {
      expect(granted === is, `option ${option} was ${granted ? 'granted' : 'refused'}`);
    };
    if (option !== 2 && data.length > 65_536) {
      wants(false);
      return null;
    }
    switch (option) {
      case 2:
        wants(true);
        break;
      case 3:
        wants(data.length === 0);
        if (granted) this.#list(replies.slice(0, -1));
        break;
      case 6:
      case 7:
        return this.#info(option, data, replies, granted);
      case 8:
        wants(data.length === 0 && !this.structured && this.#offers.structuredReplies);
        if (granted) this.structured = true;
        break;
      case 9:
      case 10:
        this.#metaContexts(option, data, replies, granted);
        break;
      case 11: {
        const { structuredReplies, extendedHeaders } = this.#offers;
        wants(data.length === 0 && !this.extended && structuredReplies && extendedHeaders);
        if (granted) {
          this.structured = true;
          this.extended = true;
        }
        break;
      }
      default:
        wants(false);
    }
    return null;
  }

  #list(replies: readonly OptionReply[]): void {
    const names = replies.map(({ type, data }) => {
      const name = sizedText(data, 0);
      expect(type === 2 && name !== null, 'an entry of a list that is none');
      expect(textOf(data.subarray(name.end)) !== null, 'a description that is no text');
      return name.text;
    });
    const { byName } = this.#exports;
    const wanted = [...byName.keys()].filter((name) => byName.get(name)?.hidden !== true);
    expect(names.join('/') === wanted.join('/'), `a list of ${names}, not of ${wanted}`);
  }

  #info(
    option: number,
    data: Buffer,
    replies: readonly OptionReply[],
    granted: boolean,
  ): Agreed | null {
    const name = sizedText(data, 0);
    const count = name !== null && data.length >= name.end + 2 ? data.readUInt16BE(name.end) : -1;
    const fits = name !== null && count >= 0 && data.length === name.end + 2 + 2 * count;
    const known = fits ? this.#known(name.text) : null;
    expect(granted === (known !== null), `info of "${name?.text}" granted: ${granted}`);
    if (known === null) return null;
    let flags = -1;
    for (const { type, data: info } of replies.slice(0, -1)) {
      expect(type === 3 && info.length >= 2, `a reply of type ${type} to INFO`);
      const kind = info.readUInt16BE(0);
      if (kind === 0) {
        expect(info.length === 12 && flags < 0, 'information about the export, once');
        expect(info.readBigUInt64BE(2) === BigInt(known.one.sizeBytes), 'another size');
        flags = this.#transmissionFlags(info.readUInt16BE(10), known.name);
      } else if (kind === 1) {
        expect(textOf(info.subarray(2)) === known.name, 'another name');
      } else if (kind === 2) {
        expect(textOf(info.subarray(2)) !== null, 'a description that is no text');
      } else {
        expect(kind === 3 && info.length === 14, `information of kind ${kind}`);
        const [least, best, most] = [2, 6, 10].map((at) => info.readUInt32BE(at));
        expect(isPower(least) && isPower(best), `blocks of ${least} to ${best}`);
        expect((least as number) <= (best as number), `blocks of ${least} to ${best}`);
        expect((best as number) <= (most as number), `blocks of ${best} to ${most}`);
      }
    }
    expect(flags >= 0, 'no information about the export');
    return option === 7 ? this.#agreed(known.name, flags) : null;
  }

  #metaContexts(
    option: number,
    data: Buffer,
    replies: readonly OptionReply[],
    granted: boolean,
  ): void {
    const asked = parseQueries(data);
    const known = asked === null ? null : this.#known(asked.name);
    const may = this.#offers.metaContexts && known !== null && (option === 9 || this.structured);
    expect(granted === may, `contexts of "${asked?.name}" granted: ${granted}`);
    if (!may || asked === null) return;
    const { queries } = asked;
    const found: string[] = [];
    for (const { type, data: context } of replies.slice(0, -1)) {
      expect(type === 4 && context.length > 4, `a reply of type ${type} about contexts`);
      const name = textOf(context.subarray(4));
      expect(name !== null && known.one.contexts.includes(name), `context "${name}"`);
      expect(!found.includes(name), `context "${name}" twice`);
      found.push(name);
      if (option === 9) continue;
      const id = context.readUInt32BE(0);
      expect(!this.#contexts.has(id), `context id ${id} twice`);
      this.#contexts.set(id, name);
    }
    if (option === 10) this.#contextsFor = known.name;
    const families = ['base:', 'qemu:', 'qemu:dirty-bitmap:'].filter((one) =>
      queries.includes(one),
    );
    const wanted = known.one.contexts.filter((name) => {
      if (queries.includes(name)) return true;
      if (option === 10) return false;
      return queries.length === 0 || families.some((family) => name.startsWith(family));
    });
    expect(found.join(' ') === wanted.join(' '), `contexts [${found}], wanted [${wanted}]`);
  }
}

function isPower(value: number | undefined): boolean {
  return value !== undefined && value > 0 && Number.isInteger(Math.log2(value));
}

function parseQueries(data: Buffer): { name: string; queries: string[] } | null {
  const name = sizedText(data, 0);
  if (name === null || data.length < name.end + 4) return null;
  const count = data.readUInt32BE(name.end);
  if (count > 64) return null;
  const queries: string[] = [];
  let at = name.end + 4;
  for (let left = count; left > 0; left--) {
    const query = sizedText(data, at);
    if (query === null) return null;
    queries.push(query.text);
    at = query.end;
  }
  return at === data.length ? { name: name.text, queries } : null;
}

/** `resumed`: the client flags of a client that has been greeted. Throws Finding. */
export function judgeHandshake(
  client: Buffer,
  output: Buffer,
  exports: JudgedExports,
  resumed: number | null = null,
  offers: Offers = everything,
): Judgement {
  return new Judge(client, output, exports, offers).run(resumed);
}
