/** What a client has received and not taken yet: bytes in a row, read by their place in it. */

import { readStamp, sectorBytes } from './stamps.js';

/** Bytes, and the ways to look at them. */
interface Room {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly words: Int32Array;
}

const firstBytes = 16 * 1024;

function makeRoom(length: number): Room {
  const bytes = new Uint8Array(Math.ceil(length / 4096) * 4096);
  return { bytes, view: new DataView(bytes.buffer), words: new Int32Array(bytes.buffer) };
}

/** Of inboxes that nobody has any more: making room costs more than most clients do. */
const spare: Room[] = [];
/** For a sector that is at no multiple of four. */
const sector = new Int32Array(sectorBytes / 4);
const bytesOfSector = new Uint8Array(sector.buffer);

export class Inbox {
  #bytes: Uint8Array;
  #view: DataView;
  #words: Int32Array;
  #begin = 0;
  #end = 0;

  constructor() {
    const { bytes, view, words } = spare.pop() ?? makeRoom(firstBytes);
    this.#bytes = bytes;
    this.#view = view;
    this.#words = words;
  }

  /** Nobody asks any more. */
  leave(): void {
    spare.push({ bytes: this.#bytes, view: this.#view, words: this.#words });
  }

  get length(): number {
    return this.#end - this.#begin;
  }

  add(bytes: Uint8Array, offset: number, length: number): void {
    if (this.#begin === this.#end) {
      this.#begin = 0;
      this.#end = 0;
    }
    if (this.#end + length > this.#bytes.length) this.#makeRoom(length);
    this.#bytes.set(bytes.subarray(offset, offset + length), this.#end);
    this.#end += length;
  }

  #makeRoom(length: number): void {
    const left = this.#bytes.subarray(this.#begin, this.#end);
    const { bytes, view, words } = makeRoom(2 * (left.length + length));
    bytes.set(left);
    this.#begin = 0;
    this.#end = left.length;
    this.#bytes = bytes;
    this.#view = view;
    this.#words = words;
  }

  take(length: number): void {
    this.#begin += length;
  }

  u16(at: number): number {
    return this.#view.getUint16(this.#begin + at);
  }

  u32(at: number): number {
    return this.#view.getUint32(this.#begin + at);
  }

  text(at: number, length: number): string {
    const begin = this.#begin + at;
    return new TextDecoder().decode(this.#bytes.slice(begin, begin + length));
  }

  /** The stamps of so many sectors. */
  stamps(at: number, count: number, target: Int32Array, to: number): void {
    let from = this.#begin + at;
    const aligned = from % 4 === 0;
    for (let i = 0; i < count; i++) {
      if (aligned) {
        target[to + i] = readStamp(this.#words, from / 4);
      } else {
        bytesOfSector.set(this.#bytes.subarray(from, from + sectorBytes));
        target[to + i] = readStamp(sector, 0);
      }
      from += sectorBytes;
    }
  }
}
