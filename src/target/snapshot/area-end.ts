/**
 * Where a persistent store's records end: the area, how many records it has, and the piece of it
 * that is at hand, which is the only part of the metadata that is kept in memory.
 *
 *   area   | piece 0, full | piece 1, full | piece 2: records, then zeroes | zeroes ...
 *                                            ^ at hand         ^ used
 */

import type { Backing } from '../../backing/backing.js';
import type { Arena } from '../../engine/arena.js';
import {
  type Layout,
  readNewChunk,
  readOldChunk,
  recordBytes,
  writeHeader,
  writeRecord,
} from './format.js';

export class AreaEnd {
  /** Metadata is read and written there. */
  cow: Backing;
  layout: Layout;
  /** The piece at hand, in the arena; -1: none is held. */
  memory = -1;
  area = 0;
  /** Records in the area. */
  used = 0;
  /** Which piece of the area is at hand, or -1. */
  piece = 0;
  readonly #arena: Arena;

  constructor(arena: Arena, cow: Backing, layout: Layout) {
    this.#arena = arena;
    this.cow = cow;
    this.layout = layout;
  }

  /** The piece that holds that record of the area. */
  pieceOf(record: number): number {
    return Math.floor(record / this.layout.recordsPerPiece);
  }

  /** Where the piece at hand belongs, in bytes. */
  get pieceOffset(): number {
    return this.layout.areaBytes(this.area) + this.piece * this.layout.pieceBytes;
  }

  /** Records that still go into the piece of the next one. */
  get pieceRoom(): number {
    return this.layout.recordsPerPiece - (this.used % this.layout.recordsPerPiece);
  }

  /** Puts a record behind the last, into a piece of zeroes if it is the first there. */
  append(oldChunk: number, newChunk: number): void {
    const piece = this.pieceOf(this.used);
    if (piece !== this.piece) {
      this.#arena.zero(this.memory, this.layout.pieceBytes);
      this.piece = piece;
    }
    writeRecord(this.#arena.view, this.#at(this.used), oldChunk, newChunk);
    this.used++;
  }

  /** The area is full: the next one begins. */
  nextArea(): void {
    this.area++;
    this.used = 0;
    this.piece = -1;
  }

  /** Of a record in the piece at hand. */
  oldChunk(record: number): number {
    return readOldChunk(this.#arena.view, this.#at(record));
  }

  newChunk(record: number): number {
    return readNewChunk(this.#arena.view, this.#at(record));
  }

  /** Zeroes what the piece at hand has from that record on. */
  clearFrom(record: number): void {
    const from = record - this.piece * this.layout.recordsPerPiece;
    const { pieceBytes } = this.layout;
    this.#arena.bytes.fill(0, this.memory + from * recordBytes, this.memory + pieceBytes);
  }

  /** The piece at hand becomes the COW's header, with zeroes behind it. */
  makeHeader(valid: boolean): void {
    const { chunkSectors, pieceBytes } = this.layout;
    this.#arena.bytes.fill(0, this.memory, this.memory + pieceBytes);
    writeHeader(this.#arena.view, this.memory, { valid, chunkSectors });
    this.piece = -1;
  }

  #at(record: number): number {
    return this.memory + (record - this.piece * this.layout.recordsPerPiece) * recordBytes;
  }
}
