/** Random schedules: requests, and what is done to snapshots while those are under way. */

import fc from 'fast-check';
import {
  FLAG_FAST,
  FLAG_FUA,
  FLAG_HOLES_OK,
  FLAG_NO_HOLE,
  FLUSH,
  READ,
  STATUS,
  TRIM,
  WRITE,
  ZERO,
} from '../../src/device/io.js';

/** An odd number, so that the last chunk of every snapshot but those of 1 sector is short. */
export const originSectors = 131;
export const originBytes = originSectors * 512;

const operations = [
  READ,
  READ,
  READ,
  WRITE,
  WRITE,
  WRITE,
  WRITE,
  ZERO,
  TRIM,
  STATUS,
  FLUSH,
] as const;

export interface Request {
  readonly kind: 'request';
  readonly operation: (typeof operations)[number];
  /** 0 is the origin, others are snapshots, as many as there are. */
  readonly which: number;
  readonly at: number;
  readonly length: number;
  readonly flags: number;
}

export interface Take {
  readonly kind: 'take';
  readonly type: 'P' | 'PO' | 'N';
  readonly chunk: number;
  /** Chunks that the COW has room for less than all. */
  readonly missing: number;
  readonly features: string;
  /** With the origin suspended by hand; otherwise the snapshot's resume sees to that. */
  readonly quietly: boolean;
}

export interface Change {
  /** `handover` loads another table of the same COW; `again` removes and creates. */
  readonly kind: 'drop' | 'handover' | 'again' | 'grow' | 'pause' | 'merge';
  readonly which: number;
  /** With the origin suspended; of a merge: without a handover. */
  readonly quietly: boolean;
  readonly turns: number;
}

export interface Turns {
  readonly kind: 'turns';
  readonly count: number;
}

export type Step = Request | Take | Change | Turns;

/** Half of the requests go to one place, so that they meet. */
const hotBytes = 12 * 1024;

/** Bytes, half of the time whole sectors, and at times exactly a chunk. */
const range = fc
  .tuple(fc.nat(originBytes - 1), fc.integer({ min: 1, max: 12_000 }), fc.nat(7), fc.nat(5))
  .map(([anywhere, length, kind, power]) => {
    const at = kind < 4 ? anywhere : anywhere % hotBytes;
    if (kind % 4 === 0) return { at, length: 1 + (length % 700) };
    if (kind % 4 === 1) return { at, length };
    const unit = kind % 4 === 2 ? 512 : 512 * 2 ** power;
    const count = kind % 4 === 2 ? 1 + (length % 12) : 1 + (length % 3);
    return { at: Math.floor(at / unit) * unit, length: count * unit };
  });

const anyFlags = fc.constantFrom(0, 0, 1, 2, 3, 4);

/** Those of a number that the operation knows. */
function flagsOf(operation: Request['operation'], which: number): number {
  if (operation === READ) return which % 2 === 0 ? 0 : FLAG_HOLES_OK;
  if (operation === WRITE || operation === TRIM) return which === 1 ? FLAG_FUA : 0;
  if (operation === ZERO) return [0, FLAG_FUA, FLAG_NO_HOLE, FLAG_FAST, 0][which] as number;
  return 0;
}

const request: fc.Arbitrary<Request> = fc
  .tuple(fc.constantFrom(...operations), fc.nat(7), range, anyFlags)
  .map(([operation, which, { at, length }, flags]) => ({
    kind: 'request',
    operation,
    which,
    at,
    length,
    flags: flagsOf(operation, flags),
  }));

const take: fc.Arbitrary<Take> = fc.record({
  kind: fc.constant('take' as const),
  type: fc.constantFrom('P' as const, 'P' as const, 'PO' as const, 'N' as const, 'N' as const),
  chunk: fc.constantFrom(1, 2, 4, 8, 8, 16, 32),
  missing: fc.oneof({ arbitrary: fc.constant(0), weight: 4 }, fc.integer({ min: 1, max: 130 })),
  features: fc.constantFrom('', '', '1 discard_zeroes_cow'),
  quietly: fc.boolean(),
});

const change: fc.Arbitrary<Change> = fc.record({
  kind: fc.constantFrom('drop', 'handover', 'handover', 'again', 'grow', 'pause', 'merge'),
  which: fc.nat(7),
  quietly: fc.boolean(),
  turns: fc.nat(12),
});

const turns: fc.Arbitrary<Turns> = fc.record({
  kind: fc.constant('turns' as const),
  count: fc.integer({ min: 1, max: 15 }),
});

const step: fc.Arbitrary<Step> = fc.oneof(
  { arbitrary: request, weight: 24 },
  { arbitrary: take, weight: 2 },
  { arbitrary: change, weight: 2 },
  { arbitrary: turns, weight: 5 },
);

/** They begin with a snapshot, since there is little to see without. */
export const schedule: fc.Arbitrary<Step[]> = fc
  .tuple(take, fc.array(step, { minLength: 30, maxLength: 160, size: 'max' }))
  .map(([first, rest]) => [first, ...rest]);
