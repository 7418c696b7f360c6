/** Schedules that have found something, as crash.test.ts draws them. */

import type { Step } from './crash-run.js';

type Row = readonly [Step['kind'], number, number, number, boolean];

function steps(rows: readonly Row[]): Step[] {
  return rows.map(([kind, which, at, count, fua]) => ({ kind, which, at, count, fua }));
}

/** An origin write went on while the store had not yet said that its snapshot was invalid. */
const overtakesInvalidation = steps([
  ['turns', 5, 52, 9, true],
  ['take', 4, 32, 5, false],
  ['write', 5, 92, 4, true],
  ['write', 3, 18, 7, true],
  ['write', 4, 17, 1, false],
  ['write', 0, 14, 4, true],
  ['write', 4, 5, 3, false],
  ['turns', 4, 1, 12, true],
  ['take', 3, 79, 20, true],
  ['turns', 2, 2, 15, false],
  ['turns', 4, 6, 5, true],
  ['write', 2, 90, 17, false],
  ['take', 1, 45, 11, false],
  ['flush', 5, 53, 20, false],
  ['turns', 5, 91, 5, false],
  ['merge', 1, 64, 4, true],
  ['turns', 1, 82, 5, false],
  ['turns', 0, 48, 7, false],
  ['turns', 4, 1, 17, false],
  ['write', 0, 61, 17, false],
  ['write', 5, 81, 3, false],
  ['turns', 0, 41, 2, false],
  ['turns', 0, 6, 14, true],
  ['write', 4, 90, 13, true],
  ['write', 1, 30, 4, false],
  ['flush', 4, 93, 1, false],
  ['take', 3, 4, 5, true],
  ['write', 5, 95, 2, true],
  ['turns', 3, 42, 19, true],
  ['write', 0, 72, 17, true],
  ['write', 4, 65, 5, false],
  ['write', 3, 0, 20, false],
]);

/** With the seed of the order in which operations end. */
export const foundSchedules: [Step[], number][] = [[overtakesInvalidation, 48]];
