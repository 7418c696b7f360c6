/**
 * COWs of persistent snapshots, made and read from the description of the kernel's format alone.
 * All numbers are little-endian; C is the chunk in sectors, E = C * 32 the records in an area:
 *
 *   chunk 0: u32 "SnAp", u32 valid, u32 version, u32 C     areas: chunks 1 + n * (E + 1)
 *   record: u64 chunk of the origin, u64 chunk of the COW; a zero in the second ends the list
 */

import { Buffer } from 'node:buffer';
import { damaged } from './mutate.js';
import type { Random } from './random.js';

export interface ReadStore {
  readonly valid: boolean;
  readonly chunkSectors: number;
  /** Chunks of the COW by those of the origin. */
  readonly exceptions: ReadonlyMap<number, number>;
}

/** What a COW holds; null: it must be refused. */
export function readStore(disk: Buffer, asked: number, originSectors: number): ReadStore | null {
  if (disk.length < 512) return null;
  const magic = disk.readUInt32LE(0);
  if (magic !== 0 && magic !== 0x70416e53) return null;
  const chunkSectors = magic === 0 ? asked : disk.readUInt32LE(12);
  if (magic !== 0 && disk.readUInt32LE(8) !== 1) return null;
  if (chunkSectors < 1 || chunkSectors > 2 ** 21) return null;
  if (!Number.isInteger(Math.log2(chunkSectors))) return null;
  if (disk.length < 2 * chunkSectors * 512) return null;
  const exceptions = new Map<number, number>();
  if (magic === 0) return { valid: true, chunkSectors, exceptions };
  if (disk.readUInt32LE(4) === 0) return { valid: false, chunkSectors, exceptions };
  return readAreas(disk, chunkSectors, originSectors) ?? null;
}

function readAreas(disk: Buffer, chunkSectors: number, originSectors: number): ReadStore | null {
  const exceptions = new Map<number, number>();
  const store = { valid: true, chunkSectors, exceptions };
  const records = chunkSectors * 32;
  const chunks = Math.floor(disk.length / (chunkSectors * 512));
  const originChunks = BigInt(Math.ceil(originSectors / chunkSectors));
  const taken = new Set<bigint>();
  for (let area = 1; area < chunks; area += records + 1) {
    for (let record = 0; record < records; record++) {
      const at = area * chunkSectors * 512 + record * 16;
      const oldChunk = disk.readBigUInt64LE(at);
      const newChunk = disk.readBigUInt64LE(at + 8);
      if (newChunk === 0n) return store;
      if (oldChunk >= originChunks || newChunk >= BigInt(chunks)) return null;
      if (newChunk % BigInt(records + 1) === 1n) return null;
      if (exceptions.has(Number(oldChunk)) || taken.has(newChunk)) return null;
      taken.add(newChunk);
      exceptions.set(Number(oldChunk), Number(newChunk));
    }
  }
  return store;
}

/** What each chunk of a COW is full of, in the beginning. */
export function chunkByte(chunk: number): number {
  return 1 + (chunk % 180);
}

/** A header, then the chunks: right, or with damage that a generator has chosen. */
export function anyCow(random: Random, originSectors: number): Buffer[] {
  if (random.percent(4)) return [random.bytes(random.below(4096))];
  const chunkSectors = random.pick([1, 1, 1, 2, 4, 8, 16]);
  const bytes = chunkSectors * 512;
  const records = chunkSectors * 32;
  const originChunks = Math.ceil(originSectors / chunkSectors);
  const chunks = random.between(2, random.pick(chunkSectors < 4 ? [3, 20, 60, 120] : [3, 6, 15]));
  const chunk = (_: unknown, number: number): Buffer => Buffer.alloc(bytes, chunkByte(number));
  const pieces = Array.from({ length: chunks }, chunk);
  for (let area = 1; area < chunks; area += records + 1) (pieces[area] as Buffer).fill(0);
  const header = pieces[0] as Buffer;
  header.fill(0);
  if (random.percent(95)) {
    header.writeUInt32LE(0x70416e53, 0);
    header.writeUInt32LE(random.percent(88) ? 1 : random.pick([0, 0, 2, random.edge(32)]), 4);
    header.writeUInt32LE(1, 8);
    header.writeUInt32LE(chunkSectors, 12);
  }
  putRecords(random, pieces, records, originChunks);
  if (random.percent(40)) damageCow(random, pieces, records, originChunks);
  if (random.percent(5))
    pieces[chunks - 1] = (pieces[chunks - 1] as Buffer).subarray(0, bytes - 100);
  return pieces;
}

function recordAt(
  pieces: readonly Buffer[],
  records: number,
  record: number,
): { area: Buffer; at: number } | null {
  const area = pieces[1 + Math.floor(record / records) * (records + 1)];
  return area === undefined ? null : { area, at: (record % records) * 16 };
}

function putRecords(
  random: Random,
  pieces: readonly Buffer[],
  records: number,
  originChunks: number,
): void {
  const most = Math.min(originChunks, pieces.length - 2);
  const count = random.percent(20) ? most : random.below(most + 1);
  let oldChunk = random.below(originChunks);
  const used = new Set<number>();
  let newChunk = 2;
  for (let record = 0; record < count; record++) {
    if (newChunk % (records + 1) === 1) newChunk++;
    const place = recordAt(pieces, records, record);
    if (place === null || newChunk >= pieces.length) return;
    while (used.has(oldChunk)) oldChunk = (oldChunk + 1) % originChunks;
    used.add(oldChunk);
    place.area.writeBigUInt64LE(BigInt(oldChunk), place.at);
    place.area.writeBigUInt64LE(BigInt(newChunk), place.at + 8);
    if (random.percent(30)) oldChunk = random.below(originChunks);
    newChunk += random.percent(95) ? 1 : 2;
  }
}

function damageCow(random: Random, pieces: Buffer[], records: number, originChunks: number): void {
  const header = pieces[0] as Buffer;
  switch (random.below(5)) {
    case 0: {
      const wanted = random.pick([0, 4, 8, 12]);
      header.writeUInt32LE(random.percent(50) ? 1 << random.below(24) : random.edge(32), wanted);
      break;
    }
    case 1:
    case 2: {
      const place = recordAt(pieces, records, random.below(40));
      if (place === null) break;
      const near = BigInt(random.below(Math.max(originChunks, pieces.length) + 2));
      const value = random.percent(70) ? near : random.wide();
      place.area.writeBigUInt64LE(value, place.at + random.pick([0, 8, 8]));
      break;
    }
    case 3: {
      // What is behind the end of the list: harmless, and to be cleared.
      const area = pieces[1] as Buffer;
      area.fill(random.bits() & 0x7f, area.length - 16 * random.between(1, 8));
      break;
    }
    default: {
      const at = random.below(pieces.length);
      pieces[at] = damaged(random, pieces[at] as Buffer);
    }
  }
}
