/**
 * Reads the region tables that a daemon keeps in its state directory, from the format's
 * description and not by our own packers. Numbers are little-endian:
 *
 *    0  "mapregns"   8  u16 version 1   10  u16 flags, 1   12  u32 bits of an entry
 *   16  u32 paths   20  u32 sectors of a region   24  u64 regions   40  u64 regions that are here
 *   56  u32 CRC-32C of the slots   60  u32 CRC-32C of what is before   64  slots of 8 bytes
 */

import type { Buffer } from 'node:buffer';

function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ ((crc & 1) === 1 ? 0x82f63b78 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

/** The path of each region of the only switch in the file. Throws if it is not whole. */
export function readRegionFile(file: Buffer): number[] {
  const magic = file.toString('latin1', 0, 8);
  const version = file.readUInt16LE(8);
  if (magic !== 'mapregns' || version !== 1 || file.readUInt16LE(10) !== 1) {
    throw new Error(`no region table: magic "${magic}", version ${version}`);
  }
  const bits = file.readUInt32LE(12);
  const count = Number(file.readBigUInt64LE(40));
  const inSlot = Math.floor(64 / bits);
  const slots = file.subarray(64);
  const wanted = Math.ceil(count / inSlot) * 8;
  if (slots.length !== wanted) throw new Error(`${slots.length} bytes of slots, wanted ${wanted}`);
  if (crc32c(slots) !== file.readUInt32LE(56)) throw new Error('the slots are not as they were');
  if (crc32c(file.subarray(0, 60)) !== file.readUInt32LE(60)) {
    throw new Error('the header is not as it was');
  }
  const mask = (1n << BigInt(bits)) - 1n;
  return Array.from({ length: count }, (_, region) => {
    const slot = slots.readBigUInt64LE(Math.floor(region / inSlot) * 8);
    return Number((slot >> BigInt((region % inSlot) * bits)) & mask);
  });
}
