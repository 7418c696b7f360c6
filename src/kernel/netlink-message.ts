/**
 * Generic netlink, as bytes. All numbers are in the machine's order, which is little endian here.
 *
 *   message     u32 length, u16 type, u16 flags, u32 sequence, u32 port;
 *               u8 command, u8 version, u16 0; attributes
 *   attribute   u16 length, u16 type, value; padded to four bytes, which the length leaves out
 *   error       a message of type 2: i32 0 or a negative errno, and the header it is about
 */

import { EIO } from '../base/errno.js';
import { MapperError } from '../base/errors.js';

const HEADER_BYTES = 16;
const GENERIC_HEADER_BYTES = 4;
const ATTRIBUTE_HEADER_BYTES = 4;
const TYPE_ERROR = 2;
const FLAG_REQUEST = 1;
const FLAG_ACK = 4;
/** The bits of an attribute's type that are no part of it. */
const TYPE_MASK = 0x3fff;
const NESTED = 0x8000;

/** The family that knows the others' numbers. */
export const controller = {
  family: 0x10,
  getFamily: 3,
  familyId: 1,
  familyName: 2,
  groups: 7,
  groupName: 1,
  groupId: 2,
} as const;

/** The nbd driver's family. */
export const driver = {
  name: 'nbd',
  group: 'nbd_mc_group',
  reconfigure: 3,
  linkDead: 4,
  index: 1,
  sockets: 7,
  deadConnectionTimeout: 8,
  socketItem: 1,
  socketFd: 1,
} as const;

export interface Message {
  /** The family. */
  readonly type: number;
  readonly command: number;
  /** Not null: it is an answer that says 0, or a negative errno. */
  readonly error: number | null;
  readonly attributes: readonly Attribute[];
}

export interface Attribute {
  readonly type: number;
  readonly value: Buffer;
}

function padded(length: number): number {
  return (length + 3) & ~3;
}

function attribute(type: number, value: Uint8Array): Buffer {
  const bytes = Buffer.alloc(padded(ATTRIBUTE_HEADER_BYTES + value.length));
  bytes.writeUInt16LE(ATTRIBUTE_HEADER_BYTES + value.length, 0);
  bytes.writeUInt16LE(type, 2);
  bytes.set(value, ATTRIBUTE_HEADER_BYTES);
  return bytes;
}

export function u32(type: number, value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value, 0);
  return attribute(type, bytes);
}

export function u64(type: number, value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value), 0);
  return attribute(type, bytes);
}

export function text(type: number, value: string): Buffer {
  return attribute(type, Buffer.from(`${value}\0`));
}

export function nested(type: number, attributes: readonly Uint8Array[]): Buffer {
  return attribute(type | NESTED, Buffer.concat(attributes));
}

/** A request whose end is acknowledged. */
export function packRequest(
  family: number,
  command: number,
  sequence: number,
  attributes: readonly Uint8Array[],
): Buffer {
  const body = Buffer.concat(attributes);
  const bytes = Buffer.alloc(HEADER_BYTES + GENERIC_HEADER_BYTES + body.length);
  bytes.writeUInt32LE(bytes.length, 0);
  bytes.writeUInt16LE(family, 4);
  bytes.writeUInt16LE(FLAG_REQUEST | FLAG_ACK, 6);
  bytes.writeUInt32LE(sequence, 8);
  bytes.writeUInt8(command, HEADER_BYTES);
  bytes.writeUInt8(1, HEADER_BYTES + 1);
  body.copy(bytes, HEADER_BYTES + GENERIC_HEADER_BYTES);
  return bytes;
}

/** The messages of one datagram. Throws MapperError EIO. */
export function unpackMessages(bytes: Buffer): Message[] {
  const messages: Message[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = at + HEADER_BYTES <= bytes.length ? bytes.readUInt32LE(at) : 0;
    if (length < HEADER_BYTES + GENERIC_HEADER_BYTES || at + length > bytes.length) {
      throw new MapperError(EIO, 'netlink message is cut off');
    }
    messages.push(unpackMessage(bytes.subarray(at, at + length)));
    at += padded(length);
  }
  return messages;
}

function unpackMessage(bytes: Buffer): Message {
  const type = bytes.readUInt16LE(4);
  if (type === TYPE_ERROR) {
    return { type, command: 0, error: bytes.readInt32LE(HEADER_BYTES), attributes: [] };
  }
  const attributes = unpackAttributes(bytes.subarray(HEADER_BYTES + GENERIC_HEADER_BYTES));
  return { type, command: bytes.readUInt8(HEADER_BYTES), error: null, attributes };
}

/** Those of a message, or inside an attribute. Throws MapperError EIO. */
export function unpackAttributes(bytes: Buffer): Attribute[] {
  const attributes: Attribute[] = [];
  for (let at = 0; at + ATTRIBUTE_HEADER_BYTES <= bytes.length; ) {
    const length = bytes.readUInt16LE(at);
    if (length < ATTRIBUTE_HEADER_BYTES || at + length > bytes.length) {
      throw new MapperError(EIO, 'netlink attribute is cut off');
    }
    const type = bytes.readUInt16LE(at + 2) & TYPE_MASK;
    attributes.push({ type, value: bytes.subarray(at + ATTRIBUTE_HEADER_BYTES, at + length) });
    at += padded(length);
  }
  return attributes;
}

/** The value of the first attribute of a type. */
export function find(attributes: readonly Attribute[], type: number): Buffer | null {
  return attributes.find((one) => one.type === type)?.value ?? null;
}
