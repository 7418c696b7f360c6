/**
 * The persistent store on disk, as the kernel has it; all numbers little-endian. C is the chunk in
 * bytes, E = C / 16 the records in a metadata area, each area is one chunk:
 *
 *   chunk    0        1        2 .. E+1    E+2      E+3 .. 2E+2  2E+3
 *            header   area 0   E of data   area 1   E of data    area 2   ...
 *
 *   header   u32 magic "SnAp" | u32 valid | u32 version 1 | u32 chunk size in sectors | zeroes
 *   area     E records of 16 bytes: u64 old chunk (of the origin) | u64 new chunk (of the COW)
 *
 * A record whose new chunk is 0 ends the list; an area without one is full, and the next goes on.
 * Areas are written in pieces of 4 KiB, or whole where chunks are smaller.
 */

import { EINVAL, ENXIO } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { chunkProblem } from './arguments.js';
import { newChunksMax, oldChunksMax } from './exception-table.js';

/** "SnAp", read as a little-endian number. */
export const headerMagic = 0x70416e53;
export const headerVersion = 1;
export const recordBytes = 16;
/** The largest part of an area that is written at once. */
export const pieceBytesMax = 4096;

/** What the kernel says first, whatever is wrong with the metadata. */
export const readFailed = 'Failed to read snapshot metadata';

export interface Header {
  readonly valid: boolean;
  readonly chunkSectors: number;
}

/** The header, or null: the magic is 0, and there is no store yet. Throws MapperError. */
export function readHeader(view: DataView, at: number): Header | null {
  const magic = view.getUint32(at, true);
  if (magic === 0) return null;
  if (magic !== headerMagic) {
    const found = `magic 0x${magic.toString(16).padStart(8, '0')}`;
    throw damaged(ENXIO, found, '0x70416e53 ("SnAp"), or 0 for a new store');
  }
  const version = view.getUint32(at + 8, true);
  if (version !== headerVersion) throw damaged(EINVAL, `version ${version}`, `${headerVersion}`);
  const chunkSectors = view.getUint32(at + 12, true);
  const problem = chunkProblem(chunkSectors, 1);
  if (problem !== null) throw new MapperError(EINVAL, `${readFailed}: ${problem}`);
  return { valid: view.getUint32(at + 4, true) !== 0, chunkSectors };
}

/** Writes the sixteen bytes that are used; what follows them is zero. */
export function writeHeader(view: DataView, at: number, header: Header): void {
  view.setUint32(at, headerMagic, true);
  view.setUint32(at + 4, header.valid ? 1 : 0, true);
  view.setUint32(at + 8, headerVersion, true);
  view.setUint32(at + 12, header.chunkSectors, true);
}

/** The record's old chunk; beyond 2^53 it is not exact, and far out of range. */
export function readOldChunk(view: DataView, at: number): number {
  return view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
}

/** The record's new chunk; 0: there is no record. Exact as the old one is. */
export function readNewChunk(view: DataView, at: number): number {
  return view.getUint32(at + 12, true) * 2 ** 32 + view.getUint32(at + 8, true);
}

/** Throws RangeError for chunks that no store can have. */
export function writeRecord(view: DataView, at: number, oldChunk: number, newChunk: number): void {
  if (!(oldChunk >= 0 && oldChunk < oldChunksMax && newChunk >= 0 && newChunk < newChunksMax)) {
    throw new RangeError(`a record of chunks ${oldChunk} and ${newChunk} is out of range`);
  }
  view.setUint32(at, oldChunk % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(oldChunk / 2 ** 32), true);
  view.setUint32(at + 8, newChunk % 2 ** 32, true);
  view.setUint32(at + 12, Math.floor(newChunk / 2 ** 32), true);
}

/** One of a record's chunks with all its digits, for an error text. */
export function exactChunk(view: DataView, at: number): string {
  return view.getBigUint64(at, true).toString();
}

/** An error about what is on disk. */
export function damaged(errno: number, found: string, wanted: string): MapperError {
  return new MapperError(errno, `${readFailed}: found ${found}, wanted ${wanted}`);
}

/** Where things are, for a size of chunk. Chunks are counted from the COW's first. */
export class Layout {
  readonly chunkSectors: number;
  readonly chunkBytes: number;
  readonly recordsPerArea: number;
  readonly pieceBytes: number;
  readonly recordsPerPiece: number;
  /** From an area to the next, in chunks. */
  readonly stride: number;

  constructor(chunkSectors: number) {
    this.chunkSectors = chunkSectors;
    this.chunkBytes = chunkSectors * 512;
    this.recordsPerArea = this.chunkBytes / recordBytes;
    this.pieceBytes = Math.min(this.chunkBytes, pieceBytesMax);
    this.recordsPerPiece = this.pieceBytes / recordBytes;
    this.stride = this.recordsPerArea + 1;
  }

  areaChunk(area: number): number {
    return 1 + area * this.stride;
  }

  areaBytes(area: number): number {
    return this.areaChunk(area) * this.chunkBytes;
  }

  /** Whether the chunk is an area. (The header, chunk 0, is none, and never data either.) */
  isArea(chunk: number): boolean {
    return chunk % this.stride === 1;
  }

  /** The first chunk from there on that is for data. */
  dataChunk(chunk: number): number {
    if (chunk < 2) return 2;
    return this.isArea(chunk) ? chunk + 1 : chunk;
  }

  /** Areas in a COW of so many chunks. */
  areasIn(chunks: number): number {
    return chunks < 2 ? 0 : Math.floor((chunks - 2) / this.stride) + 1;
  }

  /** Whole chunks in a COW of so many bytes, as far as a store can use them. */
  chunksIn(bytes: number): number {
    return Math.min(Math.floor(bytes / this.chunkBytes), newChunksMax);
  }

  /**
   * Chunks of a COW that holds the whole of an origin of so many: header, data, and areas with
   * room for one record more, since the list must end.
   */
  chunksFor(originChunks: number): number {
    return (
      1 + originChunks + Math.floor((originChunks + this.recordsPerArea) / this.recordsPerArea)
    );
  }
}
