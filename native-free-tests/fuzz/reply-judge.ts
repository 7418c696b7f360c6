/**
 * Reads requests and replies of a transmission, from the protocol's text and from nothing of the
 * server's code: every whole request has one reply, with the error that it must have or none, and
 * what is read is zero or was written there by the same client.
 */

import type { Buffer } from 'node:buffer';
import type { Agreed } from './handshake-judge.js';
import { expect } from './subject.js';

export interface Asked {
  readonly type: number;
  readonly flags: number;
  readonly cookie: bigint;
  readonly offset: bigint;
  /** Of the range; of a payload, if there is one that says otherwise. */
  readonly length: bigint;
  readonly payload: Buffer;
  /** The stream ends in its payload. */
  readonly cut: boolean;
}

const READ = 0;
const WRITE = 1;
const TRIM = 4;
const WRITE_ZEROES = 6;
const BLOCK_STATUS = 7;

/** What is asked in a stream, up to its end or to what ends the connection. */
export function readRequests(bytes: Buffer, extended: boolean): Asked[] {
  const all: Asked[] = [];
  const headerBytes = extended ? 32 : 28;
  const magic = extended ? 0x21e41c71 : 0x25609513;
  for (let at = 0; bytes.length - at >= headerBytes; ) {
    const flags = bytes.readUInt16BE(at + 4);
    const type = bytes.readUInt16BE(at + 6);
    if (bytes.readUInt32BE(at) !== magic || type === 2) break;
    const cookie = bytes.readBigUInt64BE(at + 8);
    const offset = bytes.readBigUInt64BE(at + 16);
    const length = extended ? bytes.readBigUInt64BE(at + 24) : BigInt(bytes.readUInt32BE(at + 24));
    at += headerBytes;
    const follows = type === WRITE || (extended && (flags & 32) !== 0) ? length : 0n;
    const cut = follows > BigInt(bytes.length - at);
    const payload = bytes.subarray(at, cut ? bytes.length : at + Number(follows));
    all.push({ type, flags, cookie, offset, length, payload, cut });
    if (cut) break;
    at += payload.length;
  }
  return all;
}

export interface Ground {
  readonly agreed: Agreed;
  readonly sizeBytes: number;
  /** Where reads and writes fail; null: nowhere. */
  readonly failing: { readonly begin: number; readonly end: number } | null;
  /** What is read was zero in the beginning. */
  readonly fromZeroes: boolean;
  /** The daemon has ended the connection: what had not come yet has no reply. */
  readonly evicted: boolean;
  /** Memory was short: what needs some may fail for want of it. */
  readonly pressed: boolean;
}

/** What a request must be answered with: 0 for one that is right. */
function faultOf(asked: Asked, { agreed, sizeBytes }: Ground): number {
  const { type, flags, offset } = asked;
  const { structured, extended, contexts } = agreed;
  const has = (bit: number): boolean => (agreed.flags & bit) !== 0;
  if (type > BLOCK_STATUS) return 22;
  const changes = type === WRITE || type === TRIM || type === WRITE_ZEROES;
  if (changes && has(2)) return 1;
  let known = 1;
  if (type === READ && structured) known |= 4;
  if (type === WRITE && extended) known |= 32;
  if (type === WRITE_ZEROES) known |= has(2048) ? 2 | 16 : 2;
  if (type === BLOCK_STATUS) known |= extended && contexts.size > 0 ? 8 | 32 : 8;
  if ((flags & ~known) !== 0) return 22;
  if (type === 3) return offset === 0n && asked.length === 0n ? 0 : 22;
  if (type === TRIM && !has(32)) return 22;
  let { length } = asked;
  if (type === BLOCK_STATUS) {
    if (contexts.size === 0) return 22;
    if ((flags & 32) !== 0) {
      const ids = chosen(asked);
      if (ids === null || ids.length === 0 || ids.length > contexts.size) return 22;
      if (ids.some((id) => !contexts.has(id)) || new Set(ids).size < ids.length) return 22;
      length = asked.payload.readBigUInt64BE(0);
    }
  }
  if (length === 0n) return 22;
  if (offset + length > BigInt(sizeBytes)) return type === WRITE || type === WRITE_ZEROES ? 28 : 22;
  return (type === READ || type === WRITE) && length > 2n ** 26n ? 22 : 0;
}

/** The contexts that a payload names; null: it is none. */
function chosen({ payload, length }: Asked): number[] | null {
  if (length < 12n || length % 4n !== 0n || length > 8n + 4n * 1000n) return null;
  const ids: number[] = [];
  for (let at = 8; at + 4 <= payload.length; at += 4) ids.push(payload.readUInt32BE(at));
  return ids;
}

class Answer {
  done = false;
  readonly asked: Asked;
  error = 0;
  /** Ranges of a READ that have come, and contexts that were told of. */
  readonly ranges: { at: number; length: number }[] = [];
  readonly contexts: number[] = [];
  datas = 0;

  constructor(asked: Asked) {
    this.asked = asked;
  }
}

export class ReplyJudge {
  readonly #ground: Ground;
  readonly #answers = new Map<bigint, Answer>();
  readonly #asked: readonly Asked[];
  readonly #output: Buffer;
  #at: number;

  constructor(ground: Ground, asked: readonly Asked[], output: Buffer, from: number) {
    this.#ground = ground;
    this.#asked = asked;
    this.#output = output;
    this.#at = from;
    for (const one of asked) this.#answers.set(one.cookie, new Answer(one));
  }

  /** Throws Finding. */
  run(): void {
    // Two requests of one cookie cannot be told apart.
    if (this.#answers.size < this.#asked.length) return;
    const { agreed, evicted } = this.#ground;
    while (this.#at < this.#output.length) {
      if (agreed.structured) this.#chunk();
      else this.#simple();
    }
    for (const { asked, done } of this.#answers.values()) {
      expect(done || evicted || asked.cut, () => `no reply to ${describe(asked)}`);
    }
  }

  #take(length: number): Buffer {
    const end = this.#at + length;
    expect(end <= this.#output.length, `a reply is cut short, ${end - this.#output.length} bytes`);
    const bytes = this.#output.subarray(this.#at, end);
    this.#at = end;
    return bytes;
  }

  #of(cookie: bigint): Answer {
    const answer = this.#answers.get(cookie);
    expect(answer !== undefined, () => `a reply to cookie ${cookie.toString(16)}, not asked`);
    expect(!answer.done, () => `a second reply to ${describe(answer.asked)}`);
    return answer;
  }

  #simple(): void {
    const header = this.#take(16);
    expect(header.readUInt32BE(0) === 0x67446698, `magic ${header.toString('hex', 0, 4)}`);
    const answer = this.#of(header.readBigUInt64BE(8));
    const { asked } = answer;
    answer.error = header.readUInt32BE(4);
    if (asked.type === READ && answer.error === 0) {
      this.#checkError(answer);
      this.#data(answer, asked.offset, this.#take(Number(asked.length)));
    }
    this.#finish(answer);
  }

  #chunk(): void {
    const { extended } = this.#ground.agreed;
    const header = this.#take(extended ? 32 : 20);
    const magic = extended ? 0x6e8a278c : 0x668e33ef;
    expect(header.readUInt32BE(0) === magic, `magic ${header.toString('hex', 0, 4)}`);
    const flags = header.readUInt16BE(4);
    const answer = this.#of(header.readBigUInt64BE(8));
    if (extended) {
      expect(header.readBigUInt64BE(16) === answer.asked.offset, 'the offset of another request');
    }
    const length = extended ? header.readBigUInt64BE(24) : BigInt(header.readUInt32BE(16));
    expect(length <= 2n ** 26n + 8n, `a chunk of ${length} bytes`);
    this.#content(answer, header.readUInt16BE(6), this.#take(Number(length)));
    expect(flags <= 1, `chunk flags ${flags}`);
    if (flags === 1) this.#finish(answer);
  }

  #content(answer: Answer, type: number, bytes: Buffer): void {
    const { asked } = answer;
    const { extended } = this.#ground.agreed;
    const is = (wanted: number): void => {
      expect(asked.type === wanted, () => `a chunk of type ${type} for ${describe(asked)}`);
    };
    switch (type) {
      case 0:
        expect(bytes.length === 0 && asked.type !== READ, 'a chunk of nothing');
        break;
      case 1:
        is(READ);
        expect(bytes.length > 8, 'a chunk of no data');
        answer.datas++;
        this.#data(answer, bytes.readBigUInt64BE(0), bytes.subarray(8));
        break;
      case 2:
        is(READ);
        expect(bytes.length === 12, `a hole of ${bytes.length} bytes`);
        answer.datas++;
        this.#range(answer, bytes.readBigUInt64BE(0), bytes.readUInt32BE(8));
        break;
      case 5:
      case 6:
        is(BLOCK_STATUS);
        expect(extended === (type === 6), `extents in a chunk of type ${type}`);
        this.#extents(answer, bytes);
        break;
      default:
        expect(type === 0x8001 && answer.error === 0, `a chunk of type 0x${type.toString(16)}`);
        answer.error = bytes.readUInt32BE(0);
        expect(answer.error !== 0 && bytes.readUInt16BE(4) === bytes.length - 6, 'an error chunk');
        expect(/^[\x20-\x7e]*$/.test(bytes.toString('latin1', 6)), () => {
          return `an error text of ${bytes.toString('hex', 6)}`;
        });
        if (answer.error === 22) {
          const text = bytes.toString('latin1', 6);
          expect(/found|wanted|not |no /.test(text), `an error without a reason: ${text}`);
        }
    }
  }

  #range(answer: Answer, offset: bigint, length: number): void {
    const at = Number(offset - answer.asked.offset);
    const end = at + length;
    expect(at >= 0 && length > 0 && end <= Number(answer.asked.length), 'data beside the range');
    const apart = answer.ranges.every((one) => one.at >= end || one.at + one.length <= at);
    expect(apart, 'data that has come already');
    answer.ranges.push({ at, length });
  }

  #data(answer: Answer, offset: bigint, data: Buffer): void {
    this.#range(answer, offset, data.length);
    if (!this.#ground.fromZeroes) return;
    const from = Number(offset);
    const foreign = data.findIndex((byte, i) => byte !== 0 && !this.#wrote(from + i, byte));
    expect(foreign < 0, () => {
      const at = from + foreign;
      return `byte ${data[foreign]} at ${at}, which nobody has written there`;
    });
  }

  #wrote(at: number, byte: number): boolean {
    for (const { type, offset, payload } of this.#asked) {
      if (type !== WRITE) continue;
      const place = at - Number(offset);
      if (place >= 0 && payload[place] === byte) return true;
    }
    return false;
  }

  #extents(answer: Answer, bytes: Buffer): void {
    const { asked } = answer;
    const { extended, contexts } = this.#ground.agreed;
    const id = bytes.readUInt32BE(0);
    const name = contexts.get(id);
    expect(name !== undefined && !answer.contexts.includes(id), `extents of context ${id}`);
    answer.contexts.push(id);
    const [start, step] = extended ? [8, 16] : [4, 8];
    const count = (bytes.length - start) / step;
    expect(Number.isInteger(count) && count >= 1, `${count} extents`);
    if (extended) expect(bytes.readUInt32BE(4) === count, 'another count of extents');
    if ((asked.flags & 8) !== 0) expect(count === 1, `${count} extents, one was asked for`);
    const named = (asked.flags & 32) !== 0;
    let left = named ? asked.payload.readBigUInt64BE(0) : asked.length;
    for (let at = start; at < bytes.length; at += step) {
      const length = extended ? bytes.readBigUInt64BE(at) : BigInt(bytes.readUInt32BE(at));
      const flags = extended ? bytes.readBigUInt64BE(at + 8) : BigInt(bytes.readUInt32BE(at + 4));
      expect(length > 0n && length <= left, `an extent of ${length} bytes, ${left} are left`);
      left -= length;
      const most = name === 'base:allocation' ? 3n : name === 'qemu:allocation-depth' ? 8n : 1n;
      expect(flags <= most, `flags ${flags} in ${name}`);
    }
  }

  #finish(answer: Answer): void {
    answer.done = true;
    this.#checkError(answer);
    const { asked, error } = answer;
    if (error !== 0) return;
    if (asked.type === READ) {
      const bytes = answer.ranges.reduce((sum, { length }) => sum + length, 0);
      expect(BigInt(bytes) === asked.length, () => `${bytes} bytes of ${describe(asked)}`);
      const whole = (asked.flags & 4) !== 0;
      expect(!whole || answer.datas === 1, `${answer.datas} chunks for a READ with DF`);
    }
    if (asked.type === BLOCK_STATUS) {
      const { contexts } = this.#ground.agreed;
      const wanted = (asked.flags & 32) !== 0 ? (chosen(asked) ?? []) : [...contexts.keys()];
      const [found, right] = [answer.contexts, wanted].map((ids) => [...ids].sort().join(' '));
      expect(found === right, `extents of contexts [${found}], wanted [${right}]`);
    }
  }

  #checkError({ asked, error }: Answer): void {
    const fault = faultOf(asked, this.#ground);
    const { evicted, pressed } = this.#ground;
    if ((asked.cut || evicted) && (error === 5 || error === 108)) return;
    if (pressed && error === 12) return;
    if (fault !== 0) {
      expect(error === fault, () => `error ${error}, wanted ${fault}: ${describe(asked)}`);
      return;
    }
    const { failing } = this.#ground;
    const touches =
      failing !== null &&
      asked.offset < BigInt(failing.end) &&
      asked.offset + asked.length > BigInt(failing.begin);
    if (touches && (asked.type === READ || asked.type === WRITE)) {
      expect(error === 5, () => `error ${error}, wanted 5: ${describe(asked)}`);
      return;
    }
    const fast = asked.type === WRITE_ZEROES && (asked.flags & 16) !== 0;
    const may = error === 0 || (error === 95 && fast) || (error === 5 && touches);
    expect(may, () => `error ${error}, wanted none: ${describe(asked)}`);
  }
}

function describe({ type, flags, offset, length, cut }: Asked): string {
  return `command ${type} with flags ${flags}, ${length} bytes at ${offset}${cut ? ', cut' : ''}`;
}
