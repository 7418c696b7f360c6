/**
 * The exceptions of a snapshot: which chunk of the COW stands for a chunk of the origin. A tree of
 * two levels, in shared memory:
 *
 *   directory   first old chunk | 0      | 5120   | 2^33+7 | ...   bisected
 *               page            | 3      | 0      | 1      |
 *                                 |        |        |
 *   leaves      pages of up to 409 runs; exception-pages.ts has the picture
 *
 * Chunks that follow one another in the origin and in the COW make one run, which is what copies of
 * sequential writes leave. In the worst case each exception is a run of its own, of ten bytes, and
 * the pages are two thirds full:
 *
 * - a full leaf gives runs to a neighbour with room; two full neighbours become three leaves;
 * - past the end, a leaf begins afresh, but only when the last two are full.
 *
 * So all but the last two leaves are filled so far, and 16 bytes an exception are enough, the
 * directory included, on top of one segment of pages. (Leaves do not cross multiples of 2^32
 * old chunks: an origin of more chunks may have two such leaves for each multiple.) Growing means
 * one more segment, or a directory twice as long, which has a few hundred bytes for each MiB of
 * leaves; nothing is ever sorted anew.
 */

import { assert } from '../../base/assert.js';
import { ExceptionPages, pageRuns, runChunks } from './exception-pages.js';

/** Old chunks are below this... */
export const oldChunksMax = 2 ** 44;
/** ...and new ones below that. */
export const newChunksMax = 2 ** 40;

const windowChunks = 2 ** 32;
const directoryEntryBytes = 16;
const directoryMin = 16;
const thirdOfTwo = Math.ceil((2 * pageRuns) / 3);

function windowOf(oldChunk: number): number {
  return Math.floor(oldChunk / windowChunks);
}

export class ExceptionTable {
  /** Exceptions. */
  count = 0;
  readonly #leaves = new ExceptionPages();
  #leafCount = 0;
  #firsts = new Float64Array(new SharedArrayBuffer(directoryMin * 8));
  /** Doubles too, since shared memory is moved fast by eight bytes only. */
  #pages = new Float64Array(new SharedArrayBuffer(directoryMin * 8));
  /** The leaf that was looked at last: accesses come in neighbourhoods. */
  #recent = 0;

  /** Memory that is held. */
  get bytes(): number {
    return this.#leaves.bytes + this.#firsts.length * directoryEntryBytes;
  }

  /** The chunk of the COW that stands for this chunk of the origin, or -1: the origin itself. */
  find(oldChunk: number): number {
    const leaf = this.#leafAt(oldChunk);
    if (leaf < 0) return -1;
    const low = oldChunk - windowOf(this.#firsts[leaf] as number) * windowChunks;
    if (low >= windowChunks) return -1;
    return this.#leaves.find(this.#pages[leaf] as number, low);
  }

  /** How many chunks from there on follow one another in the COW too; 0: none is there. At most max. */
  runLength(oldChunk: number, max: number): number {
    let leaf = this.#leafAt(oldChunk);
    if (leaf < 0) return 0;
    let page = this.#pages[leaf] as number;
    let base = this.#baseOf(leaf);
    if (oldChunk - base >= windowChunks) return 0;
    let run = this.#leaves.search(page, oldChunk - base);
    const distance = oldChunk - base - this.#leaves.low(page, run);
    let length = this.#leaves.length(page, run) - distance;
    if (length <= 0) return 0;
    const newChunk = this.#leaves.newChunk(page, run) + distance;
    while (length < max) {
      if (++run >= this.#leaves.runs(page)) {
        if (++leaf >= this.#leafCount) break;
        page = this.#pages[leaf] as number;
        base = this.#baseOf(leaf);
        run = 0;
      }
      if (base + this.#leaves.low(page, run) !== oldChunk + length) break;
      if (this.#leaves.newChunk(page, run) !== newChunk + length) break;
      length += this.#leaves.length(page, run);
    }
    return Math.min(length, max);
  }

  /**
   * How many chunks from there on have exceptions, wherever they are in the COW; 0: this one has
   * none. At most max; there may be more than it says, since it looks at one leaf only.
   */
  filledLength(oldChunk: number, max: number): number {
    const leaf = this.#leafAt(oldChunk);
    if (leaf < 0) return 0;
    const page = this.#pages[leaf] as number;
    const low = oldChunk - this.#baseOf(leaf);
    let run = this.#leaves.search(page, low);
    let end = this.#leaves.low(page, run) + this.#leaves.length(page, run);
    if (end <= low) return 0;
    while (end - low < max && ++run < this.#leaves.runs(page)) {
      if (this.#leaves.low(page, run) !== end) break;
      end += this.#leaves.length(page, run);
    }
    return Math.min(end - low, max);
  }

  /** How many chunks from there on have no exception; 0: this one has. At most max. */
  gapLength(oldChunk: number, max: number): number {
    const leaf = this.#leafAt(oldChunk);
    const next = leaf + 1 < this.#leafCount ? (this.#firsts[leaf + 1] as number) : oldChunksMax;
    if (leaf < 0) return Math.min(max, next - oldChunk);
    const page = this.#pages[leaf] as number;
    const base = this.#baseOf(leaf);
    // Beyond the leaf's window the search ends at its last run, as it should.
    const run = this.#leaves.search(page, oldChunk - base);
    if (base + this.#leaves.low(page, run) + this.#leaves.length(page, run) > oldChunk) return 0;
    const more = run + 1 < this.#leaves.runs(page);
    return Math.min(max, (more ? base + this.#leaves.low(page, run + 1) : next) - oldChunk);
  }

  /** The chunk has no exception yet. */
  insert(oldChunk: number, newChunk: number): void {
    this.#insert(oldChunk, newChunk, 1);
  }

  /** None of the chunks has an exception yet. */
  insertRun(oldChunk: number, newChunk: number, count: number): void {
    let done = 0;
    while (done < count) {
      const at = oldChunk + done;
      const left = windowChunks - (at % windowChunks);
      const length = Math.min(count - done, runChunks, left);
      this.#insert(at, newChunk + done, length);
      done += length;
    }
  }

  /** Forgets the exceptions that these chunks have. */
  remove(oldChunk: number, count: number): void {
    const end = oldChunk + count;
    let at = oldChunk;
    while (at < end) {
      at += this.gapLength(at, end - at);
      if (at < end) at = this.#cut(at, end);
    }
  }

  clear(): void {
    this.#leaves.clear();
    this.#leafCount = 0;
    this.#recent = 0;
    this.count = 0;
    this.#firsts = new Float64Array(new SharedArrayBuffer(directoryMin * 8));
    this.#pages = new Float64Array(new SharedArrayBuffer(directoryMin * 8));
  }

  /** All exceptions in order of old chunks, as runs; neighbouring runs may continue each other. */
  each(visit: (oldChunk: number, newChunk: number, count: number) => void): void {
    for (let leaf = 0; leaf < this.#leafCount; leaf++) {
      const page = this.#pages[leaf] as number;
      const base = this.#baseOf(leaf);
      for (let run = 0; run < this.#leaves.runs(page); run++) {
        const oldChunk = base + this.#leaves.low(page, run);
        visit(oldChunk, this.#leaves.newChunk(page, run), this.#leaves.length(page, run));
      }
    }
  }

  #baseOf(leaf: number): number {
    return windowOf(this.#firsts[leaf] as number) * windowChunks;
  }

  /** The last leaf that begins at that chunk or before, or -1. */
  #leafAt(oldChunk: number): number {
    const firsts = this.#firsts;
    const recent = this.#recent;
    const count = this.#leafCount;
    if (recent < count && oldChunk >= (firsts[recent] as number)) {
      if (recent + 1 === count || oldChunk < (firsts[recent + 1] as number)) return recent;
    }
    let from = 0;
    let to = count;
    while (from < to) {
      const middle = (from + to) >>> 1;
      if ((firsts[middle] as number) <= oldChunk) from = middle + 1;
      else to = middle;
    }
    if (from > 0) this.#recent = from - 1;
    return from - 1;
  }

  /** Puts a run into the table, which lies in one window and is not too long. */
  #insert(oldChunk: number, newChunk: number, length: number): void {
    assert(oldChunk >= 0 && oldChunk + length <= oldChunksMax, 'an old chunk has 44 bits');
    assert(newChunk >= 0 && newChunk + length <= newChunksMax, 'a new chunk has 40 bits');
    this.count += length;
    while (!this.#tryInsert(oldChunk, newChunk, length));
  }

  /** False: there was no room where the run belongs, and some has been made. */
  #tryInsert(oldChunk: number, newChunk: number, length: number): boolean {
    const leaves = this.#leaves;
    const window = windowOf(oldChunk);
    let leaf = this.#leafAt(oldChunk);
    if (!this.#isIn(leaf, window)) {
      leaf++;
      if (!this.#isIn(leaf, window)) {
        this.#addLeaf(leaf, oldChunk);
        this.#put(leaf, 0, oldChunk, newChunk, length);
        return true;
      }
    }
    const page = this.#pages[leaf] as number;
    const low = oldChunk - window * windowChunks;
    const left = leaves.search(page, low);
    const right = left + 1;
    const runs = leaves.runs(page);
    const leftLength = left < 0 ? 0 : leaves.length(page, left);
    const rightLow = right < runs ? leaves.low(page, right) : Number.POSITIVE_INFINITY;
    assert(
      (left < 0 || leaves.low(page, left) + leftLength <= low) && low + length <= rightLow,
      'a chunk gets an exception once',
    );
    const joinsLeft =
      left >= 0 &&
      leftLength + length <= runChunks &&
      leaves.low(page, left) + leftLength === low &&
      leaves.newChunk(page, left) + leftLength === newChunk;
    const rightLength = right < runs ? leaves.length(page, right) : 0;
    const joinsRight =
      low + length === rightLow &&
      length + rightLength <= runChunks &&
      newChunk + length === leaves.newChunk(page, right);
    if (joinsLeft) {
      const leftLow = leaves.low(page, left);
      const all = leftLength + length + rightLength;
      const bridges = joinsRight && all <= runChunks;
      const joined = bridges ? all : leftLength + length;
      leaves.set(page, left, leftLow, newChunk - leftLength, joined);
      if (bridges) leaves.close(page, right, 1);
    } else if (joinsRight) {
      this.#put(leaf, right, oldChunk, newChunk, length + rightLength);
    } else if (runs < pageRuns) {
      leaves.open(page, right);
      this.#put(leaf, right, oldChunk, newChunk, length);
    } else if (right === runs && this.#room(leaf + 1, window) > 0) {
      // Between two leaves it may go to either.
      leaves.open(this.#pages[leaf + 1] as number, 0);
      this.#put(leaf + 1, 0, oldChunk, newChunk, length);
    } else {
      return this.#makeRoom(leaf, right === runs);
    }
    return true;
  }

  /** Sets a run of a leaf, or a new last one. */
  #put(leaf: number, run: number, oldChunk: number, newChunk: number, length: number): void {
    const page = this.#pages[leaf] as number;
    this.#leaves.set(page, run, oldChunk % windowChunks, newChunk, length);
    if (run === this.#leaves.runs(page)) this.#leaves.setRuns(page, run + 1);
    if (run === 0) this.#firsts[leaf] = oldChunk;
  }

  #isIn(leaf: number, window: number): boolean {
    return leaf >= 0 && leaf < this.#leafCount && windowOf(this.#firsts[leaf] as number) === window;
  }

  /** Runs that the leaf has room for; 0 for one of another window. */
  #room(leaf: number, window: number): number {
    if (!this.#isIn(leaf, window)) return 0;
    return pageRuns - this.#leaves.runs(this.#pages[leaf] as number);
  }

  /** The leaf is full and is to take one more run: at its end, or anywhere. Returns false. */
  #makeRoom(leaf: number, atEnd: boolean): false {
    const window = windowOf(this.#firsts[leaf] as number);
    const hasLeft = this.#isIn(leaf - 1, window);
    const hasRight = this.#isIn(leaf + 1, window);
    const leftRoom = this.#room(leaf - 1, window);
    const rightRoom = this.#room(leaf + 1, window);
    if (atEnd && !hasRight) {
      // All the room there is: what comes next will be behind this leaf too.
      if (leftRoom > 0) this.#giveLeft(leaf, Math.min(leftRoom, pageRuns - 1));
      else this.#giveToNew(leaf, 1);
    } else if (leftRoom > 0 && leftRoom >= rightRoom) {
      this.#giveLeft(leaf, (leftRoom + 1) >>> 1);
    } else if (rightRoom > 0) {
      this.#giveRight(leaf, (rightRoom + 1) >>> 1);
    } else if (hasLeft || hasRight) {
      const first = hasRight ? leaf : leaf - 1;
      this.#giveToNew(first, pageRuns - thirdOfTwo);
      this.#giveLeft(first + 2, pageRuns - thirdOfTwo);
    } else {
      this.#giveToNew(leaf, pageRuns >>> 1);
    }
    return false;
  }

  #giveLeft(leaf: number, count: number): void {
    const page = this.#pages[leaf] as number;
    this.#leaves.moveToEnd(page, this.#pages[leaf - 1] as number, count);
    this.#firsts[leaf] = this.#baseOf(leaf) + this.#leaves.low(page, 0);
  }

  #giveRight(leaf: number, count: number): void {
    const right = this.#pages[leaf + 1] as number;
    this.#leaves.moveToFront(this.#pages[leaf] as number, right, count);
    this.#firsts[leaf + 1] = this.#baseOf(leaf) + this.#leaves.low(right, 0);
  }

  /** The last runs of a leaf move to a new one behind it. */
  #giveToNew(leaf: number, count: number): void {
    this.#addLeaf(leaf + 1, this.#firsts[leaf] as number);
    this.#giveRight(leaf, count);
  }

  /** Puts an empty leaf into the directory. */
  #addLeaf(leaf: number, first: number): void {
    const count = this.#leafCount;
    if (count === this.#firsts.length) this.#growDirectory();
    this.#firsts.copyWithin(leaf + 1, leaf, count);
    this.#pages.copyWithin(leaf + 1, leaf, count);
    this.#firsts[leaf] = first;
    this.#pages[leaf] = this.#leaves.take();
    this.#leafCount = count + 1;
  }

  #growDirectory(): void {
    const length = this.#firsts.length * 2;
    const firsts = new Float64Array(new SharedArrayBuffer(length * 8));
    const pages = new Float64Array(new SharedArrayBuffer(length * 8));
    firsts.set(this.#firsts);
    pages.set(this.#pages);
    this.#firsts = firsts;
    this.#pages = pages;
  }

  #dropLeaf(leaf: number): void {
    this.#leaves.give(this.#pages[leaf] as number);
    this.#firsts.copyWithin(leaf, leaf + 1, this.#leafCount);
    this.#pages.copyWithin(leaf, leaf + 1, this.#leafCount);
    this.#leafCount--;
    if (this.#leafCount === 0) this.clear();
  }

  /** Takes [at, end) out of the run that holds `at`. Returns where that run ended, or `end`. */
  #cut(at: number, end: number): number {
    const leaf = this.#leafAt(at);
    const page = this.#pages[leaf] as number;
    const base = this.#baseOf(leaf);
    const run = this.#leaves.search(page, at - base);
    const begin = base + this.#leaves.low(page, run);
    const length = this.#leaves.length(page, run);
    const newChunk = this.#leaves.newChunk(page, run);
    const to = Math.min(end, begin + length);
    const behind = begin + length - to;
    this.count -= to - at;
    if (at > begin) {
      this.#put(leaf, run, begin, newChunk, at - begin);
      if (behind > 0) {
        this.count -= behind;
        this.#insert(to, newChunk + (to - begin), behind);
      }
    } else if (behind > 0) {
      this.#put(leaf, run, to, newChunk + (to - begin), behind);
    } else {
      this.#leaves.close(page, run, 1);
      this.#closedIn(leaf, base);
    }
    return to;
  }

  /** A leaf has lost a run: it may have another first one, be empty, or fit in with a neighbour. */
  #closedIn(leaf: number, base: number): void {
    const page = this.#pages[leaf] as number;
    const runs = this.#leaves.runs(page);
    if (runs === 0) {
      this.#dropLeaf(leaf);
      return;
    }
    this.#firsts[leaf] = base + this.#leaves.low(page, 0);
    // Leaves are joined when they make half a leaf, so that the next insert does not part them.
    if (runs > pageRuns / 4) return;
    const window = windowOf(base);
    const spare = pageRuns / 2;
    if (this.#room(leaf - 1, window) > runs + spare) {
      this.#leaves.moveToEnd(page, this.#pages[leaf - 1] as number, runs);
      this.#dropLeaf(leaf);
    } else if (this.#room(leaf + 1, window) > runs + spare) {
      const right = this.#pages[leaf + 1] as number;
      this.#leaves.moveToFront(page, right, runs);
      this.#firsts[leaf + 1] = this.#firsts[leaf] as number;
      this.#dropLeaf(leaf);
    }
  }
}
