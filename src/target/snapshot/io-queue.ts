/** Ios that wait for something, first come first served: a list through their `next` links. */

import type { Io } from '../../device/io.js';

export class IoQueue {
  #first: Io | null = null;
  #last: Io | null = null;

  get empty(): boolean {
    return this.#first === null;
  }

  push(io: Io): void {
    io.next = null;
    if (this.#last === null) this.#first = io;
    else this.#last.next = io;
    this.#last = io;
  }

  /** The first, or null. */
  shift(): Io | null {
    const io = this.#first;
    if (io === null) return null;
    this.#first = io.next;
    if (this.#first === null) this.#last = null;
    io.next = null;
    return io;
  }
}
