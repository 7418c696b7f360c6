/** Zero: reads as zeroes, takes writes and forgets them. See README.md. */

import { type Backing, commonFeatures, type Features } from '../../backing/backing.js';
import { EXTENT_HOLE, EXTENT_ZERO, type ExtentList } from '../../device/extent-list.js';
import { FLAG_DEPTH, FLAG_HOLES_OK, type Io, READ, STATUS } from '../../device/io.js';
import type { Arena } from '../../engine/arena.js';
import { checkCount } from '../arguments.js';
import { SUBMITTED, type Target, type TargetType } from '../target.js';

export const zero: TargetType = {
  name: 'zero',
  version: [1, 2, 0],
  create(args, context) {
    checkCount(args, 'No arguments required', 0);
    return new ZeroTarget(context.engine.arena);
  },
};

class ZeroTarget implements Target {
  readonly type = zero;
  readonly maxIoSectors = 0;
  readonly backings: readonly Backing[] = [];
  readonly features: Features = { ...commonFeatures([]), extents: true };
  readonly #arena: Arena;

  constructor(arena: Arena) {
    this.#arena = arena;
  }

  map(io: Io): number {
    if (io.operation === READ) {
      if ((io.flags & FLAG_HOLES_OK) !== 0) io.allZero = true;
      else this.#arena.zero(io.memory, io.length);
    } else if (io.operation === STATUS) {
      const depth = (io.flags & FLAG_DEPTH) !== 0;
      (io.extents as ExtentList).push(io.length, depth ? 0 : EXTENT_HOLE | EXTENT_ZERO);
    }
    io.complete(0);
    return SUBMITTED;
  }

  status(): string {
    return '';
  }

  table(): string {
    return '';
  }
}
