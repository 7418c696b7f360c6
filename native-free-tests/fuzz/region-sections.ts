/**
 * Region tables as bytes, made and read from the description of the format alone: by BigInt, entry
 * after entry, with a checksum of its own.
 */

import { Buffer } from 'node:buffer';
import { damaged } from './mutate.js';
import type { Random } from './random.js';

/** What each byte makes of a checksum, found bit by bit. */
const steps = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = (crc & 1) === 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** CRC-32C (Castagnoli), reflected. */
function crc32cBits(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ (steps[(crc ^ byte) & 255] as number);
  return ~crc >>> 0;
}

export interface ReadSection {
  readonly whole: boolean;
  readonly bits: number;
  readonly paths: number;
  readonly regionSectors: number;
  readonly regions: number;
  readonly first: number;
  readonly count: number;
  readonly sector: number;
  readonly entries: number[];
}

function bitsFor(paths: number): number {
  let bits = 1;
  while (2 ** bits < paths) bits++;
  return bits;
}

/** All sections, or null if these bytes are none. */
export function readSections(bytes: Buffer): ReadSection[] | null {
  const sections: ReadSection[] = [];
  let at = 0;
  do {
    const one = readSection(bytes.subarray(at));
    if (one === null) return null;
    sections.push(one.section);
    at += one.bytes;
  } while (at < bytes.length);
  return sections;
}

function readSection(bytes: Buffer): { section: ReadSection; bytes: number } | null {
  if (bytes.length < 64 || bytes.toString('latin1', 0, 8) !== 'mapregns') return null;
  if (bytes.readUInt16LE(8) !== 1 || bytes.readUInt16LE(10) > 1) return null;
  if (bytes.readUInt32LE(60) !== crc32cBits(bytes.subarray(0, 60))) return null;
  const wide = (place: number): number => Number(bytes.readBigUInt64LE(place));
  for (const place of [24, 32, 40, 48]) if (!Number.isSafeInteger(wide(place))) return null;
  const whole = bytes.readUInt16LE(10) === 1;
  const [bits, paths, regionSectors] = [12, 16, 20].map((place) => bytes.readUInt32LE(place)) as [
    number,
    number,
    number,
  ];
  const [regions, first, count, sector] = [24, 32, 40, 48].map(wide) as [
    number,
    number,
    number,
    number,
  ];
  if (paths < 1 || paths > 65_536 || bits !== bitsFor(paths) || regionSectors === 0) return null;
  if (regions < 1 || regions > 2 ** 28 || count === 0 || first + count > regions) return null;
  if (whole && count !== regions) return null;
  const perSlot = Math.floor(64 / bits);
  const end = 64 + 8 * Math.ceil(count / perSlot);
  if (bytes.length < end) return null;
  const slots = bytes.subarray(64, end);
  if (bytes.readUInt32LE(56) !== crc32cBits(slots)) return null;
  const entries: number[] = [];
  for (let entry = 0; entry < count; entry++) {
    const slot = slots.readBigUInt64LE(8 * Math.floor(entry / perSlot));
    const shift = BigInt((entry % perSlot) * bits);
    entries.push(Number((slot >> shift) & ((1n << BigInt(bits)) - 1n)));
  }
  if (entries.some((path) => path >= paths)) return null;
  const about = { whole, bits, paths, regionSectors, regions, first, count, sector };
  return { section: { ...about, entries }, bytes: end };
}

export interface SectionWishes {
  readonly paths?: number;
  readonly regionSectors?: number;
  readonly regions?: number;
  readonly sector?: number;
  readonly whole?: boolean;
}

/** A section, right or with one number that is not; its checksums are right either way. */
export function anySection(random: Random, wishes: SectionWishes = {}): Buffer[] {
  const paths = wishes.paths ?? random.pick([1, 2, 3, 4, 5, 8, 9, 255, 256, 257, 65_536]);
  const bits = bitsFor(paths);
  const perSlot = Math.floor(64 / bits);
  const regions =
    wishes.regions ?? random.pick([1, 2, perSlot, perSlot + 1, random.below(300) + 1]);
  const whole = wishes.whole ?? random.percent(60);
  const first = whole ? 0 : random.below(regions);
  const count = whole ? regions : random.between(1, regions - first);
  const slots = Buffer.alloc(8 * Math.ceil(count / perSlot));
  for (let entry = 0; entry < count; entry++) {
    const place = 8 * Math.floor(entry / perSlot);
    const shift = BigInt((entry % perSlot) * bits);
    const path = BigInt(random.percent(1) ? random.below(2 ** bits) : random.below(paths));
    slots.writeBigUInt64LE(slots.readBigUInt64LE(place) | (path << shift), place);
  }
  const header = Buffer.alloc(64);
  header.write('mapregns');
  header.writeUInt16LE(1, 8);
  header.writeUInt16LE(whole ? 1 : 0, 10);
  header.writeUInt32LE(bits, 12);
  header.writeUInt32LE(paths, 16);
  header.writeUInt32LE(wishes.regionSectors ?? (random.edge(32) || 1), 20);
  header.writeBigUInt64LE(BigInt(regions), 24);
  header.writeBigUInt64LE(BigInt(first), 32);
  header.writeBigUInt64LE(BigInt(count), 40);
  header.writeBigUInt64LE(BigInt(wishes.sector ?? random.edge(44)), 48);
  if (random.percent(25)) {
    const wide = random.pick([24, 32, 40, 48]);
    if (random.percent(50)) header.writeBigUInt64LE(random.wide(), wide);
    else header.writeUInt32LE(random.edge(32), random.pick([8, 12, 16, 20]));
  }
  const left = random.percent(5) ? damaged(random, slots) : slots;
  header.writeUInt32LE(crc32cBits(left), 56);
  header.writeUInt32LE(crc32cBits(header.subarray(0, 60)), 60);
  const result = [header, left];
  return result.map((piece) => (random.percent(4) ? damaged(random, piece) : piece));
}
