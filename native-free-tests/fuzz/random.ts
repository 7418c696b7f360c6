/** Random numbers of a fuzzer: the same seed gives the same row, on any machine. */

import { Buffer } from 'node:buffer';
import { Random as Row } from '../simulation/random.js';

/** Numbers at which somebody may have miscounted. */
const edges = [0, 1, 2, 3, 4, 7, 8, 12, 15, 16, 28, 31, 32, 63, 64, 127, 128, 255, 256, 511, 512];

export class Random extends Row {
  /** 32 random bits, as a number that is not negative. */
  override bits(): number {
    return super.bits() >>> 0;
  }

  /** True so many times in a hundred. */
  percent(perHundred: number): boolean {
    return this.below(100) < perHundred;
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
    if (this.percent(60)) return BigInt(this.edge(53));
    const value = (BigInt(this.bits()) << 32n) | BigInt(this.bits());
    return this.percent(50) ? value : BigInt.asUintN(64, -(value & 0xfffn));
  }
}
