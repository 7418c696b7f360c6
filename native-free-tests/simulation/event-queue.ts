/** What is going to happen, by virtual time: a binary heap, the earliest on top. */

export abstract class SimEvent {
  /** Milliseconds. */
  due = 0;
  /** Those due at the same time happen in this order. */
  order = 0;

  abstract happen(): void;
  /** The process has gone, or the power: it may have happened already as far as disks go. */
  abandon(): void {}
}

export class EventQueue {
  readonly #heap: SimEvent[] = [];
  #added = 0;

  get first(): SimEvent | undefined {
    return this.#heap[0];
  }

  get length(): number {
    return this.#heap.length;
  }

  add(event: SimEvent, due: number): void {
    event.due = due;
    event.order = this.#added++;
    const heap = this.#heap;
    let at = heap.length;
    while (at > 0) {
      const above = (at - 1) >> 1;
      const parent = heap[above] as SimEvent;
      if (!before(event, parent)) break;
      heap[at] = parent;
      at = above;
    }
    heap[at] = event;
  }

  take(): SimEvent {
    const heap = this.#heap;
    const first = heap[0] as SimEvent;
    const last = heap.pop() as SimEvent;
    if (last !== first) this.#sink(last);
    return first;
  }

  #sink(event: SimEvent): void {
    const heap = this.#heap;
    const { length } = heap;
    let at = 0;
    for (;;) {
      let below = 2 * at + 1;
      if (below >= length) break;
      const right = below + 1;
      if (right < length && before(heap[right] as SimEvent, heap[below] as SimEvent)) below = right;
      const child = heap[below] as SimEvent;
      if (!before(child, event)) break;
      heap[at] = child;
      at = below;
    }
    heap[at] = event;
  }

  /** Everything, in the order in which it was added; nothing is left. */
  drain(): SimEvent[] {
    return this.#heap.splice(0).sort((a, b) => a.order - b.order);
  }
}

function before(a: SimEvent, b: SimEvent): boolean {
  return a.due < b.due || (a.due === b.due && a.order < b.order);
}
