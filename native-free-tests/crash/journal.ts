/**
 * What a disk may hold, sector by sector, after whoever served it was killed: the write that was
 * answered last, or any that was under way since. The journal's writer never has two writes under
 * way to one sector, so that answered ones have an order.
 *
 *   begin ---> (answered) ---> check
 *
 * A sector holds the number of the write and its own, again and again, so that data in the wrong
 * place shows; write 0 is zeroes.
 */

import { Buffer } from 'node:buffer';

export const sectorBytes = 512;

/** Answered and flushed are two promises; a crash of the daemon alone keeps the first. */
export interface Written {
  readonly stamp: number;
  /** Sectors. */
  readonly first: number;
  readonly count: number;
}

/** Stamps that a sector may hold; the first is the last that was answered. */
type Possible = number[];

/** What all journals of one test count. */
let stamps = 0;

export class Journal {
  readonly sectors: number;
  readonly #possible: Possible[];
  readonly #busy: Uint8Array;
  /** Journals of snapshots that are being taken: what begins now may be in them or not. */
  readonly followers = new Set<Journal>();

  constructor(sectors: number, possible?: readonly Possible[]) {
    this.sectors = sectors;
    this.#busy = new Uint8Array(sectors);
    this.#possible =
      possible?.map((each) => [...each]) ?? Array.from({ length: sectors }, () => [0]);
  }

  /** The journal of a snapshot of this disk, taken now or, while it follows, a little later. */
  fork(): Journal {
    return new Journal(this.sectors, this.#possible);
  }

  isBusy(first: number, count: number): boolean {
    return this.#busy.subarray(first, first + count).includes(1);
  }

  begin(first: number, count: number, zeroes: boolean): Written {
    const stamp = zeroes ? 0 : ++stamps;
    this.#busy.fill(1, first, first + count);
    for (const journal of [this, ...this.followers]) {
      for (let at = first; at < first + count; at++) journal.#possible[at]?.push(stamp);
    }
    return { stamp, first, count };
  }

  /** Writes that are not answered any more may have happened or not, until `check` tells. */
  answered({ stamp, first, count }: Written): void {
    this.#busy.fill(0, first, first + count);
    for (let at = first; at < first + count; at++) this.#possible[at] = [stamp];
  }

  /** It may have happened, all the same, in any part. */
  failed({ first, count }: Written): void {
    this.#busy.fill(0, first, first + count);
  }

  data({ stamp, first, count }: Written): Buffer {
    return Buffer.concat(Array.from({ length: count }, (_, i) => content(stamp, first + i)));
  }

  /** Compares the whole disk; from then on it is known. Throws with the place. */
  check(disk: Buffer): void {
    if (disk.length !== this.sectors * sectorBytes) {
      throw new Error(`the disk has ${disk.length} bytes, wanted ${this.sectors * sectorBytes}`);
    }
    for (const [at, list] of this.#possible.entries()) {
      const found = disk.subarray(at * sectorBytes, (at + 1) * sectorBytes);
      const stamp = found.readUInt32LE(0);
      if (!list.includes(stamp) || !content(stamp, at).equals(found)) {
        const what = `write ${stamp} of sector ${found.readUInt32LE(4)}`;
        throw new Error(`sector ${at} holds ${what}, wanted ${list.join(' or ')}`);
      }
      this.#possible[at] = [stamp];
    }
    this.#busy.fill(0);
  }

  /** Sectors that may hold one thing or another. */
  get uncertain(): number {
    return this.#possible.filter((list) => list.length > 1).length;
  }
}

function content(stamp: number, sector: number): Buffer {
  const head = Buffer.alloc(8);
  if (stamp === 0) return Buffer.alloc(sectorBytes);
  head.writeUInt32LE(stamp);
  head.writeUInt32LE(sector, 4);
  return Buffer.alloc(sectorBytes, head);
}
