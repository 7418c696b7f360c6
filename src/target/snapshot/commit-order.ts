/**
 * Exceptions between their allocation and their commit, in order of allocation. Data arrives in any
 * order, and who has it early waits for those allocated before: were the records written in another
 * order, a crash would leave chunks of the COW that no record names and that are never used again.
 */

import type { Committable } from './store.js';

export class CommitOrder {
  #first: Committable | null = null;
  #last: Committable | null = null;
  #sequence = 0;

  /** The exception has been given a chunk: it is the last in order. */
  allocated(exception: Committable): void {
    exception.sequence = this.#sequence++;
    exception.arrived = false;
    exception.ok = false;
    exception.nextCommit = null;
    if (this.#last === null) this.#first = exception;
    else this.#last.nextCommit = exception;
    this.#last = exception;
  }

  /** The next in order is there and its data has arrived. */
  get ready(): boolean {
    return this.#first?.arrived === true;
  }

  /** Takes the next in order out, or null: its data has not arrived. */
  take(): Committable | null {
    const exception = this.#first;
    if (exception === null || !exception.arrived) return null;
    this.#first = exception.nextCommit;
    if (this.#first === null) this.#last = null;
    exception.nextCommit = null;
    return exception;
  }

  /**
   * There is no order any more. Returns those that have arrived, linked by `nextCommit`; the others
   * are forgotten.
   */
  dissolve(): Committable | null {
    let arrived: Committable | null = null;
    let last: Committable | null = null;
    let each = this.#first;
    this.#first = null;
    this.#last = null;
    while (each !== null) {
      const next: Committable | null = each.nextCommit;
      each.nextCommit = null;
      if (each.arrived) {
        if (last === null) arrived = each;
        else last.nextCommit = each;
        last = each;
      }
      each = next;
    }
    return arrived;
  }
}

/** Tells all that are linked; each may be used again once it has been told. */
export function tellAll(first: Committable | null, ok: boolean): void {
  let each = first;
  while (each !== null) {
    const next: Committable | null = each.nextCommit;
    each.nextCommit = null;
    each.committed(ok);
    each = next;
  }
}
