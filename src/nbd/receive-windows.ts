/**
 * The windows of one connection: the one that is received into, and those before it that writes
 * still need. The window grows while it is filled to the end and shrinks while little comes; when
 * its rest is too small for what is wanted in one piece, what has been received and not taken is
 * carried over into another.
 *
 * Windows up to a size every connection has for certain; larger ones come out of the pool that all
 * share, and while it has none to spare, the window stays small.
 */

import { assert } from '../base/assert.js';
import {
  blockBytesMin,
  guaranteedBytes,
  receiveBytesMax,
  receiveBytesMin,
  receiveWindows,
} from '../base/limits.js';
import { ReceiveWindow } from './receive-window.js';
import type { Resources } from './resources.js';

/** The largest window that needs nothing of the pool. */
const certainBytes = guaranteedBytes / receiveWindows;

export class ReceiveWindows {
  /** The window that is received into; null before the first one, and after the end. */
  current: ReceiveWindow | null = null;
  /** There was no memory for the window that `make` was asked for. */
  starved = false;

  readonly #resources: Resources;
  /** Windows that writes still hold, besides the current one. */
  #held = 0;
  /** Bytes of windows out of the pool. */
  #pooled = 0;
  /** What the next window should have; follows what comes in at once. */
  #bytes = receiveBytesMin;

  constructor(resources: Resources) {
    this.#resources = resources;
  }

  /** So many bytes have come, where there was room for `room`. */
  received(bytes: number, room: number): void {
    const window = this.current as ReceiveWindow;
    window.end += bytes;
    if (bytes === room && this.#bytes <= window.size) {
      this.#bytes = Math.min(receiveBytesMax, window.size * 2);
    } else if (bytes < window.size / 8 && this.#bytes > receiveBytesMin) {
      this.#bytes = Math.max(receiveBytesMin, window.size / 2);
    }
  }

  /**
   * The window to receive into, with room for `wanted` bytes in one piece, of which some may have
   * been received. Null when there is none to be had now: there are too many already, and `free`
   * will be called, or memory is short (`starved`).
   */
  withRoom(wanted: number): ReceiveWindow | null {
    this.starved = false;
    const old = this.current;
    const left = old === null ? 0 : old.end - old.at;
    // What is carried over is less than the smallest window, and needs room behind it.
    const least = left * 2 < receiveBytesMin ? receiveBytesMin : receiveBytesMin * 2;
    const size = Math.max(least, Math.min(this.#bytes, this.#resources.windowBytesMax));
    if (old !== null) {
      if (old.holders === 0 && left === 0 && old.size === size) {
        old.at = 0;
        old.end = 0;
        return old;
      }
      const fits = old.size - old.at >= wanted && old.size - old.end >= blockBytesMin;
      if (fits && (left > 0 || old.holders > 0)) return old;
      if (old.holders === 0 && old.size === size) {
        this.#carryOver(old, old, left);
        return old;
      }
    }
    return this.#replace(old, left, size, least);
  }

  #replace(
    old: ReceiveWindow | null,
    left: number,
    size: number,
    least: number,
  ): ReceiveWindow | null {
    const held = old !== null && old.holders > 0;
    if (held && this.#held + 1 >= receiveWindows) return null;
    const mayStay = old !== null && !held && left < old.size;
    const window = this.#make(size) ?? (mayStay ? null : this.#make(least));
    if (window === null) {
      if (mayStay) {
        this.#carryOver(old, old, left);
        return old;
      }
      this.starved = true;
      return null;
    }
    if (old !== null) {
      this.#carryOver(old, window, left);
      if (held) {
        old.retired = true;
        this.#held++;
      } else {
        this.#give(old);
      }
    }
    this.current = window;
    return window;
  }

  /** Null when there is no memory for it. */
  #make(size: number): ReceiveWindow | null {
    const { arena, memory } = this.#resources;
    const pooled = size > certainBytes;
    if (pooled && !memory.take(size, this.#pooled)) return null;
    const block = arena.allocate(size);
    if (block < 0) {
      if (pooled) memory.give(size);
      return null;
    }
    if (pooled) this.#pooled += size;
    return new ReceiveWindow(block, size, pooled);
  }

  #give({ memory, size, pooled }: ReceiveWindow): void {
    this.#resources.arena.free(memory, size);
    if (!pooled) return;
    this.#pooled -= size;
    this.#resources.memory.give(size);
  }

  #carryOver(from: ReceiveWindow, to: ReceiveWindow, left: number): void {
    assert(left < to.size, 'what is carried over leaves room in the window');
    if (left > 0) this.#resources.arena.copy(to.memory, from.memory + from.at, left);
    to.at = 0;
    to.end = left;
  }

  /** Nothing holds the window any more. */
  free(window: ReceiveWindow): void {
    if (!window.retired) return;
    this.#give(window);
    this.#held--;
  }

  /** The connection is at its end. */
  close(): void {
    const window = this.current;
    this.current = null;
    if (window === null) return;
    assert(window.holders === 0, 'no write needs the window of a closed connection');
    this.#give(window);
  }
}
