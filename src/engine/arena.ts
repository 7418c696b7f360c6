/**
 * All I/O buffers of the data plane: one shared WebAssembly memory, so that buffers are page
 * aligned (O_DIRECT works), have an address that the kernel can be given, and are visible to every
 * thread. A buffer is an offset; pages become resident when they are first written.
 *
 * Blocks are powers of two from 4 KiB to 1 MiB, aligned to their size. Each order keeps a stack of
 * free blocks: giving and taking is a push and a pop, and the block used last, warm in the cache,
 * goes out first. A block of a higher order is halved when an order runs dry; neighbours are joined
 * again only when an allocation would fail otherwise.
 *
 *   order  0: 4 KiB   1: 8 KiB   ...   8: 1 MiB
 *
 * The first block of the arena holds zeroes for ever: a source for zero-filling, and what a reply
 * points at when a hole is read.
 */

import BitField from 'bitfield';
import { assert } from '../base/assert.js';
import { blockBytesMax, blockBytesMin } from '../base/limits.js';

const orders = Math.log2(blockBytesMax / blockBytesMin) + 1;
const largest = orders - 1;
const wasmPageBytes = 65_536;

/** The part of the standard that is used here; Node's types leave it to the browser's. */
declare const WebAssembly: {
  Memory: new (options: {
    initial: number;
    maximum: number;
    shared: true;
  }) => { readonly buffer: SharedArrayBuffer };
};

export class Arena {
  /** Bytes in all. */
  readonly size: number;
  readonly bytes: Uint8Array;
  /** The same memory for multi-byte fields on the wire. */
  readonly view: DataView;
  /** The same memory as native-endian 32-bit words; index = offset / 4. */
  readonly words: Int32Array;
  /** Offset and length of a range that always reads as zeroes. Nobody may write there. */
  readonly zeroes = 0;
  readonly zeroesBytes = blockBytesMax;

  /** Bytes in blocks that are out. */
  inUse = 0;

  /** Page numbers of free blocks, for each order. */
  readonly #free: Int32Array[] = [];
  readonly #freeCount = new Int32Array(orders);
  /** For the first page of each block that is out: its order and one. Otherwise 0. */
  readonly #out: Uint8Array;
  /** A block has come back since blocks were last joined: it takes milliseconds, so not in vain. */
  #mayJoin = false;
  #copyNative: ((target: number, source: number, length: number) => void) | null = null;

  constructor(size: number) {
    assert(size >= 2 * blockBytesMax && size % blockBytesMax === 0, 'arena size in whole blocks');
    this.size = size;
    const pages = size / wasmPageBytes;
    const memory = new WebAssembly.Memory({
      initial: pages,
      maximum: pages,
      shared: true,
    });
    this.bytes = new Uint8Array(memory.buffer);
    this.view = new DataView(memory.buffer);
    this.words = new Int32Array(memory.buffer);
    this.#out = new Uint8Array(size / blockBytesMin);
    for (let order = 0; order < orders; order++) {
      this.#free.push(new Int32Array(size / (blockBytesMin << order)));
    }
    // Highest addresses go in first, so that the lowest come out first.
    for (let at = size - blockBytesMax; at >= blockBytesMax; at -= blockBytesMax) {
      this.#push(largest, at / blockBytesMin);
    }
  }

  /** The offset of a block of at least that many bytes (at most 1 MiB), or -1 when none is left. */
  allocate(bytes: number): number {
    const order = orderOf(bytes);
    let page = this.#pop(order);
    if (page < 0) {
      page = this.#halve(order);
      if (page < 0) {
        if (!this.#mayJoin) return -1;
        this.#mayJoin = false;
        this.#join();
        page = this.#pop(order);
        if (page < 0) page = this.#halve(order);
        if (page < 0) return -1;
      }
    }
    this.inUse += blockBytesMin << order;
    this.#out[page] = order + 1;
    return page * blockBytesMin;
  }

  /** Gives back a block that was allocated with the same number of bytes. */
  free(offset: number, bytes: number): void {
    const order = orderOf(bytes);
    const page = offset / blockBytesMin;
    assert(this.#out[page] === order + 1, 'a block comes back once, with its own size');
    this.#out[page] = 0;
    this.#mayJoin = true;
    this.inUse -= blockBytesMin << order;
    this.#push(order, page);
  }

  /** Copies within the arena. Ranges may overlap only if target < source. */
  copy(target: number, source: number, length: number): void {
    // On shared memory copyWithin goes word by word, and byte by byte when unaligned.
    if (this.#copyNative !== null && length >= 512 && Math.abs(target - source) >= length) {
      this.#copyNative(target, source, length);
    } else {
      this.bytes.copyWithin(target, source, source + length);
    }
  }

  /** Fills with zeroes. */
  zero(offset: number, length: number): void {
    for (let done = 0; done < length; done += this.zeroesBytes) {
      this.copy(offset + done, this.zeroes, Math.min(length - done, this.zeroesBytes));
    }
  }

  /** An engine that can call memcpy lends it. Offsets, not addresses. */
  useNativeCopy(copy: (target: number, source: number, length: number) => void): void {
    this.#copyNative = copy;
  }

  #push(order: number, page: number): void {
    const count = this.#freeCount[order] as number;
    (this.#free[order] as Int32Array)[count] = page;
    this.#freeCount[order] = count + 1;
  }

  #pop(order: number): number {
    const count = this.#freeCount[order] as number;
    if (count === 0) return -1;
    this.#freeCount[order] = count - 1;
    return (this.#free[order] as Int32Array)[count - 1] as number;
  }

  /** Takes a block from the next order that has one; the other halves go to their stacks. */
  #halve(order: number): number {
    for (let higher = order + 1; higher < orders; higher++) {
      const page = this.#pop(higher);
      if (page < 0) continue;
      for (let half = higher - 1; half >= order; half--) this.#push(half, page + (1 << half));
      return page;
    }
    return -1;
  }

  /** Sorts all free pages into the largest blocks they make. Rare: see the head of the file. */
  #join(): void {
    const pages = this.size / blockBytesMin;
    const free = new BitField(pages);
    for (let order = 0; order < orders; order++) {
      for (let page = this.#pop(order); page >= 0; page = this.#pop(order)) {
        for (let i = 0; i < 1 << order; i++) free.set(page + i);
      }
    }
    const allFree = (page: number, count: number): boolean => {
      for (let i = 0; i < count; i++) if (!free.get(page + i)) return false;
      return true;
    };
    const place = (page: number, order: number): void => {
      if (allFree(page, 1 << order)) {
        this.#push(order, page);
      } else if (order > 0) {
        place(page + (1 << (order - 1)), order - 1);
        place(page, order - 1);
      }
    };
    const step = 1 << largest;
    for (let page = pages - step; page >= step; page -= step) place(page, largest);
  }
}

function orderOf(bytes: number): number {
  assert(bytes > 0 && bytes <= blockBytesMax, 'a block has 1 byte to 1 MiB');
  // 4096 -> 0, 4097 -> 1: the bits of the last byte's page number.
  return 32 - Math.clz32((bytes - 1) >>> 12);
}
