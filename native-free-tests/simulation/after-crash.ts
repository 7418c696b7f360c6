/** What devices may hold when their daemon has gone, and what the oracle knows when it has looked. */

import { type Cell, type Cells, describe, mismatch, never, newCell, Write } from './cells.js';
import type { OracleClock } from './history.js';

/** What a device may hold after its daemon has gone... */
export type Loss = 'kill' | 'power';

/** Null, or what is wrong with what was found. */
export function problemAfter(loss: Loss, cells: Cells, stamps: Int32Array): string | null {
  const possible = possibleAfter(loss);
  const wrong = mismatch(cells, 0, stamps, possible);
  return wrong < 0 ? null : describe(cells, wrong, stamps[wrong] as number, possible);
}

/** ...and that it was found, so that nothing else is possible any more. */
export function found(clock: OracleClock, stamps: Int32Array): Cells {
  const start = clock.tick();
  return Array.from(stamps, (stamp, sector) => {
    const write = new Write({ first: sector, sectors: 1, stamp }, start);
    write.end = start;
    return [newCell(write)];
  });
}

/** After a kill all that was found is in the disk's cache, with what it has replaced beneath it. */
export function foundInCache(clock: OracleClock, cells: Cells, stamps: Int32Array): Cells {
  const now = clock.tick();
  return cells.map((list, sector) => {
    const left = list.filter(({ gone }) => !gone);
    for (const { write } of left) write.end = Math.min(write.end, now);
    const stamp = stamps[sector] as number;
    const isIt = ({ dead, write }: Cell): boolean =>
      dead === never && write.stampAt(sector) === stamp;
    let it = left.findLast(isIt);
    if (it === undefined) {
      // Of what might have been anything it is this.
      const write = new Write({ first: sector, sectors: 1, stamp }, now);
      write.end = now;
      it = newCell(write);
      left.push(it);
    }
    for (const cell of left) if (cell !== it && cell.dead === never) replace(cell, it, now);
    return left;
  });
}

function replace(cell: Cell, by: Cell, now: number): void {
  cell.dead = now;
  cell.firm = true;
  if (cell.inherited && by.inherited) cell.originDead = now;
}

/** The same of what nobody has looked at: what was possible is so still, and stays what it is. */
export function unseen(clock: OracleClock, loss: Loss, cells: Cells): Cells {
  const now = clock.tick();
  return cells.map((list) => {
    const left = list.filter(({ gone }) => !gone);
    for (const { write } of left) write.end = Math.min(write.end, now);
    // After a kill the disk's cache is as it was.
    return loss === 'kill' ? left : left.map(({ write }) => newCell(write));
  });
}

function possibleAfter(loss: Loss): (cell: Cell) => boolean {
  return (cell) => (loss === 'kill' ? cell.dead === never : !cell.gone);
}
