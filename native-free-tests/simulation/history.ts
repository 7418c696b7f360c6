/**
 * The oracle's memory of one device: for each sector the writes of which any may be what it holds,
 * now or after a crash. Time is counted by what clients ask and hear.
 *
 *   a read               may find a write unless another one that began after that write was
 *                        answered has been answered before the read began
 *   a kill of the daemon the same, at that moment
 *   a power cut          may leave a write unless such a later one is durable: it was FUA, or a
 *                        flush has ended that began after its answer
 *
 * A write that failed, or was not answered, may be there and replaces nothing for certain. Once a
 * read has told which of several it is, it stays that.
 */

import {
  type Cell,
  type Cells,
  describe,
  mismatch,
  never,
  newCell,
  pin,
  prune,
  Write,
  type WriteRange,
} from './cells.js';

export class OracleClock {
  now = 1;

  tick(): number {
    return ++this.now;
  }
}

/** A read under way. */
export interface Reading {
  readonly start: number;
  /** Other contents that the device has had since. */
  readonly others: Cells[];
}

export class History {
  cells: Cells;
  readonly #clock: OracleClock;
  /** Contents that a command under way may give the device. */
  #next: Cells | null = null;
  readonly #readings: Reading[] = [];
  /** What was replaced since then may be asked for by `fork`. */
  #remembersSince = never;
  readonly #writing = new Set<Write>();

  constructor(clock: OracleClock, cells: Cells) {
    this.#clock = clock;
    this.cells = cells;
  }

  get sectors(): number {
    return this.cells.length;
  }

  get writing(): ReadonlySet<Write> {
    return this.#writing;
  }

  began(range: WriteRange): Write {
    const write = new Write(range, this.#clock.tick());
    this.#writing.add(write);
    this.#add(this.cells, write);
    if (this.#next !== null) {
      write.sure = false;
      this.#add(this.#next, write);
    }
    return write;
  }

  #add(all: Cells, write: Write): void {
    const end = write.first + write.sectors;
    for (let sector = write.first; sector < end; sector++) {
      const cells = all[sector] as Cell[];
      // What stays where it is has one list, which has got the write already.
      if (all === this.cells || cells !== this.cells[sector]) cells.push(newCell(write));
    }
  }

  ended(write: Write, ok: boolean): void {
    this.#writing.delete(write);
    const now = this.#clock.tick();
    write.end = now;
    if (!ok) write.sure = false;
    if (!write.sure) return;
    const horizon = this.#horizon();
    const end = write.first + write.sectors;
    for (let sector = write.first; sector < end; sector++) {
      const cells = this.cells[sector] as Cell[];
      let kept = 0;
      for (let i = 0; i < cells.length; i++) {
        const cell = cells[i] as Cell;
        if (cell.write.end < write.start) {
          if (cell.dead === never) cell.dead = now;
          cell.firm = true;
          if (write.fua) cell.gone = true;
        }
        if (!cell.gone || cell.dead >= horizon) cells[kept++] = cell;
      }
      cells.length = kept;
    }
  }

  /** What was replaced before that is of no interest to any read. */
  #horizon(): number {
    let horizon = Math.min(this.#clock.now, this.#remembersSince);
    for (const { start } of this.#readings) horizon = Math.min(horizon, start);
    return horizon;
  }

  reads(): Reading {
    const reading: Reading = { start: this.#clock.tick(), others: [] };
    this.#readings.push(reading);
    return reading;
  }

  /** What a read has found: null, or what is wrong with it. Without stamps: it has failed. */
  read(reading: Reading, first: number, stamps: Int32Array | null): string | null {
    const at = this.#readings.indexOf(reading);
    if (at >= 0) this.#readings.splice(at, 1);
    if (stamps === null) return null;
    const { start } = reading;
    const isAlive = (cell: Cell): boolean => cell.dead > start;
    const wrong = mismatch(this.cells, first, stamps, isAlive);
    if (wrong < 0) {
      if (this.#next === null && reading.others.length === 0) this.#observe(first, stamps, start);
      return null;
    }
    const others = this.#next === null ? reading.others : [this.#next, ...reading.others];
    if (others.some((cells) => mismatch(cells, first, stamps, isAlive) < 0)) return null;
    return describe(this.cells, wrong, stamps[wrong - first] as number, isAlive);
  }

  /** Where nothing has been under way since the read began, it is what was found, and stays so. */
  #observe(first: number, stamps: Int32Array, start: number): void {
    const now = this.#clock.now;
    for (let i = 0; i < stamps.length; i++) {
      const cells = this.cells[first + i] as Cell[];
      if (cells.length > 1) pin(cells, first + i, stamps[i] as number, start, now);
    }
  }

  /** The first sector of a range that cannot have been zeroes since then, or -1. */
  cannotBeZero(reading: Reading, first: number, end: number): number {
    const others = this.#next === null ? reading.others : [this.#next, ...reading.others];
    const all = [this.cells, ...others];
    for (let sector = first; sector < end; sector++) {
      const zero = ({ write, dead }: Cell): boolean =>
        write.stampAt(sector) <= 0 && dead > reading.start;
      if (!all.some((cells) => (cells[sector] as Cell[]).some(zero))) return sector;
    }
    return -1;
  }

  /** A flush that began then has ended well. */
  flushed(start: number): void {
    const horizon = this.#horizon();
    for (const cells of this.cells) {
      if (cells.length === 1) continue;
      for (const cell of cells) if (cell.dead < start && cell.firm) cell.gone = true;
      prune(cells, horizon);
    }
  }

  /** The same of a snapshot, whose flush is for what was written to it. */
  flushedOwn(start: number): void {
    const horizon = this.#horizon();
    for (const cells of this.cells) {
      if (cells.length === 1) continue;
      let newest = 0;
      for (const { dead, inherited, write } of cells) {
        const own = !inherited && dead === never && write.sure;
        if (own && write.end < start) newest = Math.max(newest, write.start);
      }
      for (const cell of cells) if (cell.write.end < newest) cell.gone = true;
      prune(cells, horizon);
    }
  }

  /** A flush of the origin is for what a snapshot has from there. */
  flushedOrigin(start: number): void {
    const horizon = this.#horizon();
    for (const cells of this.cells) {
      if (cells.length === 1) continue;
      for (const cell of cells) if (cell.originDead < start && cell.firm) cell.gone = true;
      prune(cells, horizon);
    }
  }

  /** Somebody is going to ask for what there was since then, until it is `never`. */
  remember(since: number): void {
    this.#remembersSince = since;
  }

  /** What a snapshot may show that was taken at some moment since then. */
  fork(since: number): Cells {
    return this.cells.map((cells) =>
      cells
        .filter(({ dead, gone }) => dead > since || !gone)
        .map((cell) => {
          const before = cell.dead <= since;
          const dead = before ? cell.dead : never;
          return { ...cell, dead, gone: false, inherited: true, originDead: dead };
        }),
    );
  }

  /**
   * A command begins that may give the device other contents: those, with what is under way. For
   * sectors that stay where they are these have the very lists that there are now.
   */
  mayBecome(next: Cells): void {
    this.#next = next;
    for (const write of this.#writing) {
      write.sure = false;
      this.#add(next, write);
    }
  }

  /** That command has ended. */
  became(taken: boolean): void {
    const next = this.#next;
    this.#next = null;
    for (const write of this.#writing) write.sure = false;
    if (!taken || next === null) return;
    for (const reading of this.#readings) reading.others.push(this.cells);
    this.cells = next;
  }

  /** The contents that it may have got when a command was cut off; null: no command was. */
  get next(): Cells | null {
    return this.#next;
  }

  /** The daemon is gone: what was under way will never be answered. */
  restarted(cells: Cells): void {
    this.cells = cells;
    this.#next = null;
    this.#remembersSince = never;
    this.#readings.length = 0;
    this.#writing.clear();
  }
}
