/**
 * A client's half of a handshake, to be played to the server in several ways: in one chunk, byte by
 * byte, in random cuts, out of shared memory. The answers must not depend on the way.
 */

import { Buffer } from 'node:buffer';
import { isDeepStrictEqual } from 'node:util';
import type { ChangeMap } from '../../src/device/change-map.js';
import type { ExportDirectory, ExportInfo } from '../../src/nbd/export.js';
import { Handshake, type HandshakeOutcome } from '../../src/nbd/handshake.js';
import { type ProtocolOptions, wholeProtocol } from '../../src/nbd/protocol-options.js';

/** What came of a conversation. */
export interface Conversation {
  /** Everything sent behind the greeting. */
  output: Buffer;
  greeting: Buffer;
  taken: number;
  state: string;
  failure: string | null;
  outcome: HandshakeOutcome | null;
}

/** How the server was started, and how the client came to it. */
export interface Circumstances {
  readonly options?: Partial<ProtocolOptions>;
  readonly secure?: boolean;
  /** The handshake was begun elsewhere, with these flags. */
  readonly resumed?: number;
}

export function makeHandshake(
  directory: ExportDirectory,
  { options = {}, secure = false, resumed }: Circumstances = {},
): Handshake {
  const resume = resumed === undefined ? null : { clientFlags: resumed, spentMilliseconds: 0 };
  return new Handshake(directory, { ...wholeProtocol, ...options }, secure, resume);
}

/** Where the cuts are: positions in ascending order, between 0 and the length. */
type Cuts = readonly number[];

function play(
  directory: ExportDirectory,
  bytes: Buffer,
  cuts: Cuts,
  shared: boolean,
  circumstances: Circumstances,
): Conversation {
  const handshake = makeHandshake(directory, circumstances);
  const greeting = Buffer.concat(handshake.takeOutput());
  const output: Uint8Array[] = [];
  // A window with bytes before and behind, as a receive window of the arena has them.
  const memory = shared
    ? new SharedArrayBuffer(bytes.length + 16)
    : new ArrayBuffer(bytes.length + 16);
  const window = new Uint8Array(memory).fill(0xee);
  window.set(bytes, 7);
  let taken = 0;
  for (const cut of [...cuts, bytes.length]) {
    taken += handshake.push(window, 7 + taken, 7 + cut);
    output.push(...handshake.takeOutput());
    if (handshake.state !== 'haggling') break;
  }
  return {
    output: Buffer.concat(output),
    greeting,
    taken,
    state: handshake.state,
    failure: handshake.failure,
    outcome: handshake.outcome,
  };
}

/** A small generator of numbers below 2^32, the same for the same seed. */
export function numbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state;
  };
}

function randomCuts(length: number, seed: number): Cuts {
  const next = numbers(seed);
  const cuts: number[] = [];
  // Pieces of up to 24 bytes cut headers, pieces of up to 24000 get a long option done with.
  const longest = length > 4096 ? 24_000 : 24;
  for (let at = (next() >>> 8) % longest; at < length; at += 1 + ((next() >>> 8) % longest)) {
    cuts.push(at);
  }
  return cuts;
}

/** Plays `bytes` in every way; throws if the ways do not agree. */
export function converse(
  directory: ExportDirectory,
  bytes: Buffer,
  circumstances: Circumstances = {},
): Conversation {
  const whole = play(directory, bytes, [], false, circumstances);
  const ways: Cuts[] = [1, 2, 3].map((seed) => randomCuts(bytes.length, seed));
  // Empty chunks are a way, too.
  ways.push([0, 0, Math.floor(bytes.length / 2), Math.floor(bytes.length / 2)]);
  if (bytes.length <= 20_000) ways.push(Array.from(bytes, (_, at) => at));
  for (const [way, cuts] of ways.entries()) {
    const other = play(directory, bytes, cuts, way % 2 === 0, circumstances);
    if (!isDeepStrictEqual(other, whole)) {
      throw new Error(`cut at [${cuts}]: found ${show(other)}, wanted ${show(whole)}`);
    }
  }
  return whole;
}

function show(conversation: Conversation): string {
  return JSON.stringify({ ...conversation, output: conversation.output.toString('hex') });
}

// Writing what clients send.

export function u16(value: number): Buffer {
  const buffer = Buffer.alloc(2);
  buffer.writeUInt16BE(value);
  return buffer;
}

export function u32(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32BE(value);
  return buffer;
}

/** u32 length, bytes. */
export function sized(text: string | Uint8Array): Buffer {
  const bytes = Buffer.from(text as string);
  return Buffer.concat([u32(bytes.length), bytes]);
}

export function option(number: number, ...data: (Uint8Array | string)[]): Buffer {
  const bytes = Buffer.concat(data.map((piece) => Buffer.from(piece as string)));
  return Buffer.concat([Buffer.from('IHAVEOPT'), u32(number), u32(bytes.length), bytes]);
}

export function infoData(name: string | Uint8Array, ...types: number[]): Buffer {
  return Buffer.concat([sized(name), u16(types.length), ...types.map(u16)]);
}

export function contextData(name: string, ...queries: (string | Uint8Array)[]): Buffer {
  return Buffer.concat([sized(name), u32(queries.length), ...queries.map(sized)]);
}

// Reading what servers send.

export interface OptionReply {
  option: number;
  type: number;
  data: Buffer;
}

/** Takes a row of option replies apart; throws unless it is whole. */
export function readReplies(bytes: Buffer): OptionReply[] {
  const all: OptionReply[] = [];
  let at = 0;
  while (at < bytes.length) {
    if (bytes.toString('hex', at, at + 8) !== '0003e889045565a9') {
      throw new Error(`option reply at ${at}: found another magic`);
    }
    const length = bytes.readUInt32BE(at + 16);
    const end = at + 20 + length;
    if (end > bytes.length) throw new Error(`option reply at ${at}: found its end missing`);
    all.push({
      option: bytes.readUInt32BE(at + 8),
      type: bytes.readUInt32BE(at + 12),
      data: bytes.subarray(at + 20, end),
    });
    at = end;
  }
  return all;
}

// Exports.

export function exportInfo(changes: Partial<ExportInfo> = {}): ExportInfo {
  return {
    name: 'vol0',
    description: '',
    sizeBytes: 0x0123_4567_8000,
    readOnly: false,
    trim: true,
    fastZero: false,
    cache: false,
    rotational: false,
    multiConn: true,
    blockBytesMin: 1,
    blockBytesPreferred: 4096,
    payloadBytesMax: 64 * 1024 * 1024,
    ...changes,
  };
}

/**
 * Exports by name; `defaultName` is what the empty name stands for. `records` are those of changes
 * in each export, by their names.
 */
export function directoryOf(
  exports: readonly ExportInfo[],
  defaultName?: string,
  records: Readonly<Record<string, readonly string[]>> = {},
): ExportDirectory {
  return {
    list: () => exports.map(({ name, description }) => ({ name, description })),
    find: (name) => exports.find((info) => info.name === (name || defaultName)) ?? null,
    changeMaps: (name) => (records[name] ?? []).map(record),
  };
}

const made = new Map<string, ChangeMap>();

/** A record of that name, which says that nothing has changed. */
export function record(name: string): ChangeMap {
  let map = made.get(name);
  if (map === undefined) {
    map = { name, extents: (_offset, length, list) => (list.push(length, 0) ? 0 : 1) };
    made.set(name, map);
  }
  return map;
}
