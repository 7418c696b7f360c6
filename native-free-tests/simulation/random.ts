/**
 * Random numbers of a simulation: the same seed gives the same row, on any machine. Several rows
 * are made from one seed by `mix`, so that what one part of the simulation draws does not change
 * what another one gets.
 */

/** A number of 32 bits that depends on all bits of both. */
export function mix(a: number, b: number): number {
  let hash = Math.imul(a ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(b + 0x7f4a7c15, 0xc2b2ae35);
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  hash = Math.imul(hash ^ (hash >>> 12), 0x297a2d39);
  return (hash ^ (hash >>> 15)) >>> 0;
}

/** Xorshift with 32 bits of state: what is drawn is spread over devices of some hundred sectors. */
export class Random {
  #state = 1;

  constructor(seed: number) {
    this.seed(seed);
  }

  /** Begins the row of another seed. */
  seed(seed: number): void {
    const state = mix(seed, 0x51ed270b) | 0;
    this.#state = state === 0 ? 1 : state;
  }

  /** 32 random bits, as a signed number. */
  bits(): number {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state;
    return state;
  }

  /** An integer from 0 up to `limit`, which is at least 1. */
  below(limit: number): number {
    return Math.floor(((this.bits() >>> 0) / 2 ** 32) * limit);
  }

  /** From `first` to `last`, both of them possible. */
  between(first: number, last: number): number {
    return first + this.below(last - first + 1);
  }

  /** True so many times in a thousand. */
  chance(perThousand: number): boolean {
    return this.below(1000) < perThousand;
  }

  pick<T>(all: readonly T[]): T {
    return all[this.below(all.length)] as T;
  }
}
