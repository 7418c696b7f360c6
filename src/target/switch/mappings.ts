/**
 * The message `set_region_mappings`, whose words are, with bare hexadecimal numbers:
 *
 *   I:P    region I is on path P; I is the cursor from now on
 *   :P     the cursor goes on by one, and that region is on path P
 *   RN,M   M times: the cursor goes on by one, and that region is on the path of the one N before
 *
 * The cursor is 0 when a message begins, so that a leading `:P` is for region 1. Words take effect
 * one after the other: what stands before a wrong one has been done. All of this is the kernel's.
 */

import { EINVAL } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { argumentTextLength } from '../../base/limits.js';

/** The table that a message changes. */
export interface MappedRegions {
  readonly regions: number;
  readonly paths: number;
  get(region: number): number;
  /** False: not now. Nothing has changed. */
  set(region: number, path: number): boolean;
}

/** A number of 64 bits, as the kernel has it; a bigint if it is too large for anything here. */
type Hex = number | bigint;

/** Words that are carried out in steps. */
export class Mappings {
  readonly #words: readonly string[];
  readonly #table: MappedRegions;
  #at: number;
  #cursor = 0;
  /** Of the word under way. */
  #cycle = 0;
  #repeats = 0;

  /** `first`: the word behind the verb. */
  constructor(words: readonly string[], first: number, table: MappedRegions) {
    this.#words = words;
    this.#table = table;
    this.#at = first;
  }

  get done(): boolean {
    return this.#at === this.#words.length && this.#repeats === 0;
  }

  /**
   * Sets at most so many regions. The region that cannot be set now, with which the next step
   * begins, or -1. Throws MapperError.
   */
  step(most: number): number {
    for (let left = most; left > 0 && !this.done; left--) {
      const region = this.#repeats > 0 ? this.#repeat() : this.#word();
      if (region >= 0) return region;
    }
    return -1;
  }

  #repeat(): number {
    const table = this.#table;
    const region = this.#cursor + 1;
    if (!table.set(region, table.get(region - this.#cycle))) return region;
    this.#cursor = region;
    this.#repeats--;
    return -1;
  }

  #word(): number {
    const word = this.#words[this.#at] as string;
    if (/^[Rr]/.test(word)) {
      this.#beginRun(word);
      this.#at++;
      return -1;
    }
    const table = this.#table;
    const match = /^([0-9A-Fa-f]*):([0-9A-Fa-f]+)$/.exec(word);
    if (match === null) throw invalidArgument(word);
    const region = match[1] === '' ? this.#cursor + 1 : parseHex(match[1] as string);
    const path = parseHex(match[2] as string);
    if (region >= table.regions) {
      throw invalid(`region number: ${region} >= ${table.regions}`);
    }
    if (path >= table.paths) throw invalid(`device: ${path} >= ${table.paths}`);
    if (!table.set(Number(region), Number(path))) return Number(region);
    this.#cursor = Number(region);
    this.#at++;
    return -1;
  }

  #beginRun(word: string): void {
    const match = /^.([0-9A-Fa-f]+),([0-9A-Fa-f]+)$/.exec(word);
    if (match === null) throw invalidArgument(word);
    const cycle = parseHex(match[1] as string);
    const repeats = parseHex(match[2] as string);
    const cursor = this.#cursor;
    if (cycle === 0 || cycle > cursor + 1) {
      const before = BigInt.asUintN(64, BigInt(cycle) - 1n);
      throw invalid(`cycle length: ${before} > ${cursor}`);
    }
    const { regions } = this.#table;
    if (repeats >= regions - cursor) {
      throw invalid(`region number: ${cursor} + ${repeats} >= ${regions}`);
    }
    this.#cycle = Number(cycle);
    this.#repeats = Number(repeats);
  }
}

/** Longer numbers lose their upper digits, as in the kernel. */
function parseHex(digits: string): Hex {
  if (digits.length <= 13) return Number.parseInt(digits, 16);
  const value = BigInt.asUintN(64, BigInt(`0x${digits}`));
  return value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
}

function invalid(what: string): MapperError {
  return new MapperError(EINVAL, `invalid set_region_mappings ${what}`);
}

function invalidArgument(word: string): MapperError {
  const shown =
    word.length <= argumentTextLength ? word : `${word.slice(0, argumentTextLength)}...`;
  return invalid(`argument: '${shown}'`);
}
