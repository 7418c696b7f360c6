/** A list of things that are in one list at a time, and carry its link: nothing is allocated. */

export interface Linked<T> {
  next: T | null;
}

/** First in, first out. */
export class LinkedQueue<T extends Linked<T>> {
  first: T | null = null;
  #last: T | null = null;

  push(item: T): void {
    item.next = null;
    if (this.#last === null) this.first = item;
    else this.#last.next = item;
    this.#last = item;
  }

  /** It comes before all others. */
  unshift(item: T): void {
    item.next = this.first;
    this.first = item;
    if (this.#last === null) this.#last = item;
  }

  shift(): T | null {
    const item = this.first;
    if (item === null) return null;
    this.first = item.next;
    if (this.first === null) this.#last = null;
    item.next = null;
    return item;
  }

  /** Everything in `others` goes behind what is here; they are empty then. */
  append(others: LinkedQueue<T>): void {
    if (others.first === null) return;
    if (this.#last === null) this.first = others.first;
    else this.#last.next = others.first;
    this.#last = others.#last;
    others.first = null;
    others.#last = null;
  }
}
