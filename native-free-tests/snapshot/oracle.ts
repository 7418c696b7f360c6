/**
 * The slow oracle: what every device must read as, byte by byte. A snapshot's bytes are a copy of
 * its origin's, made when it is taken. Requests that overlap in one device go one after the other,
 * so that there is one right answer, but for bytes that a TRIM or a failed write leaves open: those
 * may be as they were or as they were to be, until a read tells.
 */

import type { Buffer } from 'node:buffer';

const SURE = -1;
/** More than two values are possible. */
const ANY = -2;

export class Bytes {
  readonly value: Uint8Array;
  /** Another value that is possible, or SURE, or ANY. */
  readonly other: Int16Array;

  constructor(length: number, from?: Bytes) {
    this.value = from === undefined ? new Uint8Array(length) : from.value.slice();
    this.other = from === undefined ? new Int16Array(length).fill(SURE) : from.other.slice();
  }

  copy(): Bytes {
    return new Bytes(this.value.length, this);
  }

  write(offset: number, data: Uint8Array): void {
    this.value.set(data, offset);
    this.other.fill(SURE, offset, offset + data.length);
  }

  zero(offset: number, length: number): void {
    this.value.fill(0, offset, offset + length);
    this.other.fill(SURE, offset, offset + length);
  }

  /** It may have become that, or not. */
  maybe(offset: number, data: Uint8Array): void {
    for (const [i, byte] of data.entries()) {
      const at = offset + i;
      if (this.other[at] === SURE) {
        if (this.value[at] !== byte) this.other[at] = byte;
      } else if (this.value[at] !== byte && this.other[at] !== byte) {
        this.other[at] = ANY;
      }
    }
  }

  /** What a read has shown; throws if that cannot be. */
  check(what: string, offset: number, data: Buffer): void {
    for (let i = 0; i < data.length; i++) {
      const at = offset + i;
      const found = data[i] as number;
      const other = this.other[at] as number;
      if (found !== this.value[at] && found !== other && other !== ANY) {
        const or = other === SURE ? '' : ` or ${other}`;
        throw new Error(`${what}: byte ${at} is ${found}, wanted ${this.value[at]}${or}`);
      }
      this.value[at] = found;
      this.other[at] = SURE;
    }
  }

  /** What STATUS has told to be zeroes; throws if that cannot be. */
  checkZero(what: string, offset: number, length: number): void {
    for (let at = offset; at < offset + length; at++) {
      if (this.value[at] !== 0 && this.other[at] !== 0 && this.other[at] !== ANY) {
        throw new Error(`${what}: byte ${at} is told to be zero, wanted ${this.value[at]}`);
      }
    }
  }
}

/** What a snapshot's COW must have come to. */
export class Exceptions {
  readonly chunkBytes: number;
  /** Chunks that have been written, at the origin or in the snapshot, since it was taken. */
  readonly touched = new Set<number>();
  /** Those, and what writes under way may touch. */
  readonly #claimed: Set<number>;
  #capacity: number;
  /** As many as there can be. */
  readonly #most: number;
  /** More may have been wanted than there was room for. */
  mayFail = false;
  /** More was wanted than there was room for. */
  mustFail = false;
  #unknown = false;

  constructor(bytes: number, chunkBytes: number, capacity: number, from?: Iterable<number>) {
    this.chunkBytes = chunkBytes;
    this.#most = Math.ceil(bytes / chunkBytes);
    this.#capacity = capacity;
    this.#claimed = new Set(from);
    this.touched = new Set(from);
  }

  #chunks(offset: number, length: number): number[] {
    const first = Math.floor(offset / this.chunkBytes);
    const last = Math.floor((offset + length - 1) / this.chunkBytes);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  }

  /** Nobody knows exactly what has been touched. */
  unknown(): void {
    this.#unknown = true;
    this.mayFail ||= this.#capacity < this.#most;
  }

  get uncertain(): boolean {
    return this.mayFail || this.#unknown;
  }

  claim(offset: number, length: number): void {
    for (const chunk of this.#chunks(offset, length)) this.#claimed.add(chunk);
    if (this.#claimed.size > this.#capacity) this.mayFail = true;
  }

  touch(offset: number, length: number): void {
    for (const chunk of this.#chunks(offset, length)) {
      this.#claimed.add(chunk);
      this.touched.add(chunk);
    }
    this.#measure();
  }

  grow(capacity: number): void {
    this.#measure();
    this.#capacity = capacity;
  }

  #measure(): void {
    if (this.#claimed.size > this.#capacity) this.mayFail = true;
    if (this.touched.size > this.#capacity && !this.#unknown) this.mustFail = true;
  }
}

/**
 * Chunks that have room in a COW of so many sectors. Where the next area would not fit, the last
 * record of an area is not used.
 */
export function capacityOf(type: 'P' | 'PO' | 'N', cowSectors: number, chunk: number): number {
  const chunks = Math.floor(cowSectors / chunk);
  if (type === 'N') return chunks;
  const perArea = chunk * 32;
  for (let count = 0; ; count++) {
    const data = 2 + count + Math.floor(count / perArea);
    const area = 1 + Math.floor((count + 1) / perArea) * (perArea + 1);
    if (data >= chunks || area >= chunks) return count;
  }
}

/** The status of a snapshot with so many exceptions, nothing under way. */
export function statusOf(
  type: 'P' | 'PO' | 'N',
  cowSectors: number,
  chunk: number,
  exceptions: number,
): string {
  if (type === 'N') return `${exceptions * chunk}/${cowSectors} 0`;
  const perArea = chunk * 32;
  const full = Math.floor(exceptions / perArea);
  // The first free chunk, which is never one of metadata.
  let next = 2 + exceptions + Math.max(0, Math.ceil(exceptions / perArea) - 1);
  if (next % (perArea + 1) === 1) next++;
  return `${next * chunk}/${cowSectors} ${(full + 2) * chunk}`;
}
