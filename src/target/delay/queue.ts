/**
 * Ios that wait the same time, so that the first to come is the first to go: a ring that doubles
 * when more wait than ever before, and otherwise allocates nothing. Beside each Io stand the time
 * when it is due and its number among all arrivals of the target, by which queues are merged.
 */

import { assert } from '../../base/assert.js';
import type { Io } from '../../device/io.js';
import type { Timer } from '../../engine/engine.js';

const initialCapacity = 16;

/** Told when the oldest Io of a queue may be due. */
export interface QueueOwner {
  expired(): void;
}

export class DelayQueue {
  readonly milliseconds: number;
  count = 0;
  /** The engine's timer for the oldest Io. */
  timer: Timer | null = null;
  readonly #owner: QueueOwner;
  #ios: (Io | null)[] = new Array<Io | null>(initialCapacity).fill(null);
  #due = new Float64Array(initialCapacity);
  #arrivals = new Float64Array(initialCapacity);
  #head = 0;

  constructor(milliseconds: number, owner: QueueOwner) {
    this.milliseconds = milliseconds;
    this.#owner = owner;
  }

  push(io: Io, due: number, arrival: number): void {
    if (this.count === this.#ios.length) this.#grow();
    const at = (this.#head + this.count) & (this.#ios.length - 1);
    this.#ios[at] = io;
    this.#due[at] = due;
    this.#arrivals[at] = arrival;
    this.count++;
  }

  /** When the oldest Io is due; Infinity for an empty queue. */
  due(): number {
    return this.count === 0 ? Number.POSITIVE_INFINITY : (this.#due[this.#head] as number);
  }

  /** The oldest Io's number among all arrivals. */
  arrival(): number {
    return this.#arrivals[this.#head] as number;
  }

  /** Takes the oldest Io out. */
  shift(): Io {
    assert(this.count > 0, 'an io is waiting');
    const io = this.#ios[this.#head] as Io;
    this.#ios[this.#head] = null;
    this.#head = (this.#head + 1) & (this.#ios.length - 1);
    this.count--;
    return io;
  }

  /** Completion of the timer. */
  done(): void {
    this.timer = null;
    this.#owner.expired();
  }

  #grow(): void {
    const old = this.#ios.length;
    const mask = old - 1;
    const ios = new Array<Io | null>(2 * old).fill(null);
    const due = new Float64Array(2 * old);
    const arrivals = new Float64Array(2 * old);
    for (let i = 0; i < old; i++) {
      const at = (this.#head + i) & mask;
      ios[i] = this.#ios[at] as Io;
      due[i] = this.#due[at] as number;
      arrivals[i] = this.#arrivals[at] as number;
    }
    this.#ios = ios;
    this.#due = due;
    this.#arrivals = arrivals;
    this.#head = 0;
  }
}
