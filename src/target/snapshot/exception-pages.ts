/**
 * The leaves of an exception table: pages of 4 KiB that hold runs of exceptions, sorted by the old
 * chunk. A page belongs to one window of 2^32 old chunks, so that 32 bits tell where in it a run
 * begins; the field arrays of its runs lie one behind the other:
 *
 *   byte 0                1636              3272                         4090  4094
 *   | u32 old, low half * 409 | u32 new, low half * 409 | u16 tail * 409 | free | u16 runs |
 *
 *   tail: bits 15..8 are bits 39..32 of the new chunk, bits 7..0 the run's length less one
 *
 * Ten bytes a run, 256 exceptions at most in one. Pages come in segments of 16 and are used again.
 * All is shared memory, with one thread that writes.
 */

const segmentPages = 16;
const pageWords = 1024;
const pageHalves = 2 * pageWords;
const segmentBytes = segmentPages * pageWords * 4;

/** Runs in a full page. */
export const pageRuns = 409;
/** Exceptions in a full run. */
export const runChunks = 256;

const newAt = pageRuns;
const tailAt = 4 * pageRuns;
const countAt = pageHalves - 1;
const highUnit = 2 ** 32;

export class ExceptionPages {
  bytes = 0;
  /** The same memory twice: as words and as half words. */
  readonly #words: Uint32Array[] = [];
  readonly #halves: Uint16Array[] = [];
  readonly #free: number[] = [];

  /** An empty page. */
  take(): number {
    if (this.#free.length === 0) this.#grow();
    const page = this.#free.pop() as number;
    this.setRuns(page, 0);
    return page;
  }

  give(page: number): void {
    this.#free.push(page);
  }

  /** Gives all memory back. */
  clear(): void {
    this.#words.length = 0;
    this.#halves.length = 0;
    this.#free.length = 0;
    this.bytes = 0;
  }

  /** Runs in the page. */
  runs(page: number): number {
    const halves = this.#halves[page >>> 4] as Uint16Array;
    return halves[(page & 15) * pageHalves + countAt] as number;
  }

  setRuns(page: number, runs: number): void {
    const halves = this.#halves[page >>> 4] as Uint16Array;
    halves[(page & 15) * pageHalves + countAt] = runs;
  }

  /** The last run that begins at `low` or before, or -1. */
  search(page: number, low: number): number {
    const words = this.#words[page >>> 4] as Uint32Array;
    const base = (page & 15) * pageWords;
    let from = base;
    let to = base + this.runs(page);
    while (from < to) {
      const middle = (from + to) >>> 1;
      if ((words[middle] as number) <= low) from = middle + 1;
      else to = middle;
    }
    return from - base - 1;
  }

  /** The new chunk for that old one, or -1. It stands by itself, being what every I/O asks. */
  find(page: number, low: number): number {
    const words = this.#words[page >>> 4] as Uint32Array;
    const halves = this.#halves[page >>> 4] as Uint16Array;
    const base = (page & 15) * pageWords;
    const tails = 2 * base + tailAt;
    let from = 0;
    let to = halves[2 * base + countAt] as number;
    while (from < to) {
      const middle = (from + to) >>> 1;
      if ((words[base + middle] as number) <= low) from = middle + 1;
      else to = middle;
    }
    const run = from - 1;
    if (run < 0) return -1;
    const distance = low - (words[base + run] as number);
    const tail = halves[tails + run] as number;
    if (distance > (tail & 255)) return -1;
    return (words[base + newAt + run] as number) + (tail >>> 8) * highUnit + distance;
  }

  /** Where the run begins in its window. */
  low(page: number, run: number): number {
    const words = this.#words[page >>> 4] as Uint32Array;
    return words[(page & 15) * pageWords + run] as number;
  }

  newChunk(page: number, run: number): number {
    const words = this.#words[page >>> 4] as Uint32Array;
    const halves = this.#halves[page >>> 4] as Uint16Array;
    const tail = halves[(page & 15) * pageHalves + tailAt + run] as number;
    return (words[(page & 15) * pageWords + newAt + run] as number) + (tail >>> 8) * highUnit;
  }

  /** Exceptions in the run. */
  length(page: number, run: number): number {
    const halves = this.#halves[page >>> 4] as Uint16Array;
    return ((halves[(page & 15) * pageHalves + tailAt + run] as number) & 255) + 1;
  }

  set(page: number, run: number, low: number, newChunk: number, length: number): void {
    const words = this.#words[page >>> 4] as Uint32Array;
    const halves = this.#halves[page >>> 4] as Uint16Array;
    const base = (page & 15) * pageWords;
    words[base + run] = low;
    words[base + newAt + run] = newChunk % highUnit;
    halves[(page & 15) * pageHalves + tailAt + run] =
      (Math.floor(newChunk / highUnit) << 8) | (length - 1);
  }

  /** Makes room for one run, which is to be set, before the one at `run`. */
  open(page: number, run: number): void {
    const runs = this.runs(page);
    this.#shift(page, run, run + 1, runs - run);
    this.setRuns(page, runs + 1);
  }

  /** Takes `count` runs out, from the one at `run` on. */
  close(page: number, run: number, count: number): void {
    const runs = this.runs(page);
    this.#shift(page, run + count, run, runs - run - count);
    this.setRuns(page, runs - count);
  }

  /** Moves the last `count` runs of one page to the front of another, which has room for them. */
  moveToFront(from: number, to: number, count: number): void {
    const runs = this.runs(from);
    this.#shift(to, 0, count, this.runs(to));
    this.#copy(from, runs - count, to, 0, count);
    this.setRuns(from, runs - count);
    this.setRuns(to, this.runs(to) + count);
  }

  /** Moves the first `count` runs of one page to the end of another, which has room for them. */
  moveToEnd(from: number, to: number, count: number): void {
    const runs = this.runs(to);
    this.#copy(from, 0, to, runs, count);
    this.setRuns(to, runs + count);
    this.close(from, 0, count);
  }

  /** Moves runs within a page: each on its own, since shared memory is moved by bytes otherwise. */
  #shift(page: number, from: number, to: number, count: number): void {
    const words = this.#words[page >>> 4] as Uint32Array;
    const halves = this.#halves[page >>> 4] as Uint16Array;
    const word = (page & 15) * pageWords;
    const half = (page & 15) * pageHalves + tailAt;
    const distance = to - from;
    if (distance > 0) {
      for (let i = from + count - 1; i >= from; i--) {
        words[word + i + distance] = words[word + i] as number;
        words[word + newAt + i + distance] = words[word + newAt + i] as number;
        halves[half + i + distance] = halves[half + i] as number;
      }
    } else {
      for (let i = from; i < from + count; i++) {
        words[word + i + distance] = words[word + i] as number;
        words[word + newAt + i + distance] = words[word + newAt + i] as number;
        halves[half + i + distance] = halves[half + i] as number;
      }
    }
  }

  #copy(from: number, fromRun: number, to: number, toRun: number, count: number): void {
    const source = this.#words[from >>> 4] as Uint32Array;
    const target = this.#words[to >>> 4] as Uint32Array;
    const at = (from & 15) * pageWords + fromRun;
    const toAt = (to & 15) * pageWords + toRun;
    const sourceTails = this.#halves[from >>> 4] as Uint16Array;
    const targetTails = this.#halves[to >>> 4] as Uint16Array;
    const tails = (from & 15) * pageHalves + tailAt + fromRun;
    const toTails = (to & 15) * pageHalves + tailAt + toRun;
    for (let i = 0; i < count; i++) {
      target[toAt + i] = source[at + i] as number;
      target[toAt + newAt + i] = source[at + newAt + i] as number;
      targetTails[toTails + i] = sourceTails[tails + i] as number;
    }
  }

  #grow(): void {
    const first = this.#words.length * segmentPages;
    const memory = new SharedArrayBuffer(segmentBytes);
    this.#words.push(new Uint32Array(memory));
    this.#halves.push(new Uint16Array(memory));
    this.bytes += segmentBytes;
    // The lowest page comes out first.
    for (let page = segmentPages - 1; page >= 0; page--) this.#free.push(first + page);
  }
}
