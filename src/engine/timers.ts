/**
 * Timers of one engine: a binary heap of what is due when, the earliest on top. Those due at the
 * same time run in the order in which they were added.
 *
 *             0               children of i: 2i + 1 and 2i + 2
 *         1       2           a parent is never due after its children
 *       3   4   5   6
 *
 * Each timer knows its place, so that a cancelled one leaves the heap at once: nothing stays behind
 * of a thousand handshakes that were over long before their ten seconds.
 */

import { assert } from '../base/assert.js';
import type { Completion, Timer } from './engine.js';

/** The place of a timer that has run or was cancelled. */
const nowhere = -1;

class HeapTimer implements Timer {
  readonly due: number;
  readonly completion: Completion;
  /** Number in the order of adding. */
  readonly order: number;
  place = nowhere;

  constructor(due: number, completion: Completion, order: number) {
    this.due = due;
    this.completion = completion;
    this.order = order;
  }

  runsBefore(other: HeapTimer): boolean {
    return this.due < other.due || (this.due === other.due && this.order < other.order);
  }
}

export class Timers {
  readonly #heap: HeapTimer[] = [];
  #added = 0;

  /** Timers that wait. */
  get count(): number {
    return this.#heap.length;
  }

  /** `completion.done(0)` will be called by the first `expire` with a time of `due` or later. */
  add(due: number, completion: Completion): Timer {
    assert(!Number.isNaN(due), 'a timer is due at some time');
    const timer = new HeapTimer(due, completion, this.#added++);
    this.#heap.push(timer);
    this.#rise(timer, this.#heap.length - 1);
    return timer;
  }

  /** Harmless when the timer has run or was cancelled before. */
  cancel(timer: Timer): void {
    assert(timer instanceof HeapTimer, 'a timer is cancelled where it was made');
    if (timer.place === nowhere) return;
    assert(this.#heap[timer.place] === timer, 'a timer is cancelled where it was made');
    this.#remove(timer);
  }

  /** When the earliest is due; null when none waits. */
  nextDue(): number | null {
    const first = this.#heap[0];
    return first === undefined ? null : first.due;
  }

  /**
   * Runs everything due at `now` or before. What is added meanwhile waits for the next call, even
   * if it is due already, so that a timer of 0 that starts itself anew does not keep the turn.
   */
  expire(now: number): void {
    const limit = this.#added;
    for (;;) {
      const first = this.#heap[0];
      if (first === undefined || first.due > now || first.order >= limit) return;
      this.#remove(first);
      first.completion.done(0);
    }
  }

  #remove(timer: HeapTimer): void {
    const place = timer.place;
    timer.place = nowhere;
    const last = this.#heap.pop() as HeapTimer;
    if (last === timer) return;
    // The last one takes its place, and may belong further up or further down.
    this.#rise(last, place);
    this.#sink(last, last.place);
  }

  /** Puts a timer at `place`, or above it. */
  #rise(timer: HeapTimer, place: number): void {
    let at = place;
    while (at > 0) {
      const above = (at - 1) >> 1;
      const parent = this.#heap[above] as HeapTimer;
      if (!timer.runsBefore(parent)) break;
      this.#put(parent, at);
      at = above;
    }
    this.#put(timer, at);
  }

  /** Puts a timer at `place`, or below it. */
  #sink(timer: HeapTimer, place: number): void {
    const heap = this.#heap;
    let at = place;
    for (;;) {
      let below = 2 * at + 1;
      if (below >= heap.length) break;
      const right = below + 1;
      if (right < heap.length && (heap[right] as HeapTimer).runsBefore(heap[below] as HeapTimer)) {
        below = right;
      }
      const child = heap[below] as HeapTimer;
      if (!child.runsBefore(timer)) break;
      this.#put(child, at);
      at = below;
    }
    this.#put(timer, at);
  }

  #put(timer: HeapTimer, place: number): void {
    this.#heap[place] = timer;
    timer.place = place;
  }
}
