/**
 * What the server sends before transmission.
 *
 *   greeting      u64 NBDMAGIC, u64 IHAVEOPT, u16 handshake flags
 *   option reply  u64 magic, u32 option, u32 reply type, u32 length, data
 *   EXPORT_NAME   u64 size, u16 transmission flags, 124 zeroes unless the client can do without
 */

import { Buffer } from 'node:buffer';
import { assert } from '../base/assert.js';
import * as limits from '../base/limits.js';
import * as nbd from './constants.js';
import type { ExportEntry, ExportInfo } from './export.js';

function writeU64(buffer: Buffer, value: number, at: number): void {
  buffer.writeUInt32BE(Math.floor(value / 2 ** 32), at);
  buffer.writeUInt32BE(value >>> 0, at + 4);
}

/** The bytes of one of our own strings, which has been checked where it came from. */
function stringBytes(text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  assert(bytes.length <= limits.stringBytes, 'a string of ours fits into the protocol');
  return bytes;
}

export function greeting(handshakeFlags: number): Uint8Array {
  const buffer = Buffer.alloc(nbd.GREETING_BYTES);
  buffer.writeUInt32BE(nbd.INIT_PASSWD_HIGH, 0);
  buffer.writeUInt32BE(nbd.INIT_PASSWD_LOW, 4);
  buffer.writeUInt32BE(nbd.IHAVEOPT_HIGH, 8);
  buffer.writeUInt32BE(nbd.IHAVEOPT_LOW, 12);
  buffer.writeUInt16BE(handshakeFlags, 16);
  return buffer;
}

/** A reply with room for its data, which the caller fills from OPTION_REPLY_HEADER_BYTES on. */
function reply(option: number, type: number, dataBytes: number): Buffer {
  const buffer = Buffer.alloc(nbd.OPTION_REPLY_HEADER_BYTES + dataBytes);
  buffer.writeUInt32BE(nbd.OPTION_REPLY_MAGIC_HIGH, 0);
  buffer.writeUInt32BE(nbd.OPTION_REPLY_MAGIC_LOW, 4);
  buffer.writeUInt32BE(option, 8);
  buffer.writeUInt32BE(type, 12);
  buffer.writeUInt32BE(dataBytes, 16);
  return buffer;
}

const dataAt = nbd.OPTION_REPLY_HEADER_BYTES;

export function ack(option: number): Uint8Array {
  return reply(option, nbd.REP_ACK, 0);
}

export function refusal(option: number, type: number, text: string): Uint8Array {
  const bytes = stringBytes(text);
  const buffer = reply(option, type, bytes.length);
  bytes.copy(buffer, dataAt);
  return buffer;
}

/** One line of LIST: u32 length of the name, name, description. */
export function server(option: number, entry: ExportEntry): Uint8Array {
  const name = stringBytes(entry.name);
  const description = stringBytes(entry.description);
  const buffer = reply(option, nbd.REP_SERVER, 4 + name.length + description.length);
  buffer.writeUInt32BE(name.length, dataAt);
  name.copy(buffer, dataAt + 4);
  description.copy(buffer, dataAt + 4 + name.length);
  return buffer;
}

/** u16 0, u64 size, u16 transmission flags. */
export function infoExport(option: number, sizeBytes: number, flags: number): Uint8Array {
  const buffer = reply(option, nbd.REP_INFO, 12);
  buffer.writeUInt16BE(nbd.INFO_EXPORT, dataAt);
  writeU64(buffer, sizeBytes, dataAt + 2);
  buffer.writeUInt16BE(flags, dataAt + 10);
  return buffer;
}

/** u16 type (name or description), text. */
export function infoText(option: number, type: number, text: string): Uint8Array {
  const bytes = stringBytes(text);
  const buffer = reply(option, nbd.REP_INFO, 2 + bytes.length);
  buffer.writeUInt16BE(type, dataAt);
  bytes.copy(buffer, dataAt + 2);
  return buffer;
}

/** u16 3, u32 minimum, u32 preferred, u32 maximum. */
export function infoBlockSize(option: number, info: ExportInfo): Uint8Array {
  const buffer = reply(option, nbd.REP_INFO, 14);
  buffer.writeUInt16BE(nbd.INFO_BLOCK_SIZE, dataAt);
  buffer.writeUInt32BE(info.blockBytesMin, dataAt + 2);
  buffer.writeUInt32BE(info.blockBytesPreferred, dataAt + 6);
  buffer.writeUInt32BE(info.payloadBytesMax, dataAt + 10);
  return buffer;
}

/** u32 id, name. */
export function metaContext(option: number, id: number, name: string): Uint8Array {
  const bytes = stringBytes(name);
  const buffer = reply(option, nbd.REP_META_CONTEXT, 4 + bytes.length);
  buffer.writeUInt32BE(id, dataAt);
  bytes.copy(buffer, dataAt + 4);
  return buffer;
}

/** The answer to EXPORT_NAME, which is no option reply. */
export function exportNameAnswer(sizeBytes: number, flags: number, zeroes: boolean): Uint8Array {
  const buffer = Buffer.alloc(10 + (zeroes ? nbd.EXPORT_NAME_ZEROES : 0));
  writeU64(buffer, sizeBytes, 0);
  buffer.writeUInt16BE(flags, 8);
  return buffer;
}
