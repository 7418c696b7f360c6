/** A target that keeps what it is sent until its test lets it go. */

import { type Backing, commonFeatures, type Features } from '../../src/backing/backing.js';
import type { Io } from '../../src/device/io.js';
import { type OpenBacking, type Slot, Table } from '../../src/device/table.js';
import { SUBMITTED, type Target, type TargetType } from '../../src/target/target.js';

export const recording: TargetType = {
  name: 'recording',
  version: [1, 0, 0],
  create() {
    throw new Error('made by its test only');
  },
};

export class RecordingTarget implements Target {
  readonly type = recording;
  readonly backings: readonly Backing[];
  readonly maxIoSectors: number;
  readonly features: Features = { ...commonFeatures([]), extents: true };
  /** What came and has not ended. */
  readonly held: Io[] = [];
  /** Calls other than for I/O. */
  readonly told: string[] = [];
  /** Instead of holding an Io: returns what `map` is to return. */
  answer: ((io: Io) => number) | null = null;
  /** What `suspend` and `resume` do. */
  suspend: () => Promise<void> = async () => void this.told.push('suspend');
  resume: () => Promise<void> = async () => void this.told.push('resume');

  constructor(maxIoSectors = 0, backings: readonly Backing[] = []) {
    this.maxIoSectors = maxIoSectors;
    this.backings = backings;
  }

  map(io: Io): number {
    if (this.answer !== null) return this.answer(io);
    this.held.push(io);
    return SUBMITTED;
  }

  /** Ends one that is held, by its place. */
  end(index: number, errno = 0): void {
    const [io] = this.held.splice(index, 1);
    if (io === undefined) throw new Error(`no io ${index} is held`);
    io.complete(errno);
  }

  suspending(): void {
    this.told.push('suspending');
  }

  destroy(): void {
    this.told.push('destroy');
  }

  status(): string {
    return `${this.held.length}`;
  }

  table(): string {
    return '';
  }
}

/** A table of targets that are so many sectors long, side by side. */
export function tableOf(
  parts: readonly (readonly [number, Target])[],
  backings: readonly OpenBacking[] = [],
): Table {
  let begin = 0;
  const slots = parts.map(([sectors, target]): Slot => {
    const end = begin + sectors * 512;
    const slot = { begin, end, target, maxIoBytes: target.maxIoSectors * 512 };
    begin = end;
    return slot;
  });
  return new Table(slots, backings);
}
