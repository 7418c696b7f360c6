/** Random numbers of a fuzzer: the same seed gives the same row, on any machine. */

import { Buffer } from 'node:buffer';

/** A number of 32 bits that depends on all bits of both. */
export function mix(a: number, b: number): number {
  let hash = Math.imul(a ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(b + 0x7f4a7c15, 0xc2b2ae35);
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  hash = Math.imul(hash ^ (hash >>> 12), 0x297a2d39);
  return (hash ^ (hash >>> 15)) >>> 0;
}

/** Numbers at which somebody may have miscounted. */
const edges = [0, 1, 2, 3, 4, 7, 8, 12, 15, 16, 28, 31, 32, 63, 64, 127, 128, 255, 256, 511, 512];

export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = mix(seed, 0x51ed270b) || 1;
  }

  /** 32 random bits. */
  bits(): number {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state;
    return state >>> 0;
  }

  /** An integer from 0 up to `limit`, which is at least 1. */
  below(limit: number): number {
    return Math.floor((this.bits() / 2 ** 32) * limit);
  }

  /** From `first` to `last`, both of them possible. */
  between(first: number, last: number): number {
    return first + this.below(last - first + 1);
  }

  /** True so many times in a hundred. */
  chance(perHundred: number): boolean {
    return this.below(100) < perHundred;
  }

  pick<T>(all: readonly T[]): T {
    return all[this.below(all.length)] as T;
  }

  bytes(length: number): Buffer {
    const bytes = Buffer.allocUnsafe(length);
    for (let at = 0; at < length; at++) bytes[at] = this.bits();
    return bytes;
  }

  /** An integer below 2^`bits`, often at an edge; `bits` is at most 53. */
  edge(bits: number): number {
    const limit = 2 ** bits;
    switch (this.below(6)) {
      case 0:
        return this.pick(edges) % limit;
      case 1:
        return Math.max(0, limit - 1 - this.pick(edges));
      case 2: {
        const power = 2 ** this.below(bits);
        return Math.min(limit - 1, Math.max(0, power + this.between(-1, 1)));
      }
      case 3:
        return Math.floor((this.bits() / 2 ** 32) * limit);
      default:
        return Math.min(limit - 1, this.below(1 << this.between(1, 20)));
    }
  }

  /** Any number of 64 bits, often at an edge. */
  wide(): bigint {
    if (this.chance(60)) return BigInt(this.edge(53));
    const value = (BigInt(this.bits()) << 32n) | BigInt(this.bits());
    return this.chance(50) ? value : BigInt.asUintN(64, -(value & 0xfffn));
  }
}
