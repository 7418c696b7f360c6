/**
 * An arena that one daemon after the other has: what a dead one held comes back. It knows who holds
 * what, so that a block that is lost shows when a daemon has ended in peace.
 */

import { Arena } from '../../src/engine/arena.js';

const MiB = 2 ** 20;

export class SimArena extends Arena {
  readonly #held = new Map<number, number>();

  constructor(bytes = 16 * MiB) {
    super(bytes);
  }

  override allocate(bytes: number): number {
    const offset = super.allocate(bytes);
    if (offset >= 0) this.#held.set(offset, bytes);
    return offset;
  }

  override free(offset: number, bytes: number): void {
    super.free(offset, bytes);
    this.#held.delete(offset);
  }

  get blocksHeld(): number {
    return this.#held.size;
  }

  /** The daemon is dead. */
  takeBack(): void {
    for (const [offset, bytes] of this.#held) super.free(offset, bytes);
    this.#held.clear();
  }
}
