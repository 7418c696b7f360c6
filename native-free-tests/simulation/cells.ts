/**
 * The oracle's view of a sector: the writes of which any may be what it holds, and what is known of
 * each. Times are the oracle's own, see history.ts.
 */

import { sectorBytes } from './stamps.js';

/** A stamp that stands for whatever is there. */
export const ANY = -2;

export class Write {
  readonly first: number;
  readonly sectors: number;
  readonly stamp: number;
  readonly fua: boolean;
  readonly start: number;
  end = Number.POSITIVE_INFINITY;
  /** It is there for certain, once it has ended. */
  sure: boolean;

  constructor(range: WriteRange, start: number) {
    this.first = range.first;
    this.sectors = range.sectors;
    this.stamp = range.stamp;
    this.fua = range.fua ?? false;
    this.sure = !(range.maybe ?? false);
    this.start = start;
  }

  stampAt(sector: number): number {
    return this.stamp <= 0 ? this.stamp : this.stamp + sector - this.first;
  }
}

export interface WriteRange {
  readonly first: number;
  readonly sectors: number;
  /** Of the first sector; 0: zeroes. */
  readonly stamp: number;
  readonly fua?: boolean;
  /** It need not do anything (TRIM). */
  readonly maybe?: boolean;
}

/** A write as one sector has it. */
export interface Cell {
  readonly write: Write;
  /** When it was replaced. */
  dead: number;
  /** What replaced it did so for certain. */
  firm: boolean;
  /** A power cut cannot bring it back. */
  gone: boolean;
  /** Of a snapshot: it was the origin's, and when it was replaced there. */
  readonly inherited: boolean;
  originDead: number;
}

/** The cells of each sector. */
export type Cells = Cell[][];

export const never = Number.POSITIVE_INFINITY;

export function newCell(write: Write): Cell {
  return { write, dead: never, firm: true, gone: false, inherited: false, originDead: never };
}

/** A device that holds consecutive stamps from that one on, or the same everywhere; durably. */
export function uniform(sectors: number, stamp: number): Cells {
  const write = new Write({ first: 0, sectors, stamp }, 0);
  write.end = 0;
  return Array.from({ length: sectors }, () => [newCell(write)]);
}

/** Drops what is of no interest to any read that began since then, nor after a crash. */
export function prune(cells: Cell[], horizon: number): void {
  let kept = 0;
  for (let i = 0; i < cells.length; i++) {
    const cell = cells[i] as Cell;
    if (!cell.gone || cell.dead >= horizon) cells[kept++] = cell;
  }
  cells.length = kept;
}

/** The first sector that holds what it may not hold, or -1. */
export function mismatch(
  all: Cells,
  first: number,
  stamps: Int32Array,
  possible: (cell: Cell) => boolean,
): number {
  for (let i = 0; i < stamps.length; i++) {
    const cells = all[first + i] as Cell[];
    const stamp = stamps[i] as number;
    let found = false;
    for (let j = cells.length - 1; j >= 0 && !found; j--) {
      const cell = cells[j] as Cell;
      found = matches(cell.write, first + i, stamp) && possible(cell);
    }
    if (!found) return first + i;
  }
  return -1;
}

function matches(write: Write, sector: number, stamp: number): boolean {
  const wanted = write.stampAt(sector);
  return wanted === stamp || (wanted === ANY && stamp >= 0);
}

/** Of what may be there it is the one that was found. */
export function pin(
  cells: Cell[],
  sector: number,
  stamp: number,
  start: number,
  now: number,
): void {
  let found: Cell | null = null;
  for (const cell of cells) {
    // What a snapshot has from its origin is settled since it was taken.
    if (!cell.inherited && cell.write.end >= start) return;
    if (cell.dead === never && cell.write.stampAt(sector) === stamp) found = cell;
  }
  if (found === null) return;
  for (const cell of cells) {
    if (cell.dead !== never || cell === found) continue;
    cell.dead = now;
    cell.firm = found.write.sure && cell.write.sure;
  }
}

export function describe(
  all: Cells,
  sector: number,
  stamp: number,
  possible: (cell: Cell) => boolean,
): string {
  const cells = (all[sector] as Cell[]).filter(possible);
  const wanted = cells.map(({ write }) => nameOf(write.stampAt(sector)));
  return `sector ${sector} holds ${nameOf(stamp)}, wanted ${[...new Set(wanted)].join(' or ')}`;
}

function nameOf(stamp: number): string {
  if (stamp === 0) return 'zeroes';
  if (stamp === ANY) return 'anything';
  return stamp < 0 ? `no whole sector of ${sectorBytes} bytes` : `stamp ${stamp}`;
}
