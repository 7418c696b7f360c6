/**
 * A backing is what a target sends I/O to: a file or block device, or another device of this
 * daemon. The word that named it in the table line is its name.
 */

import type { Io } from '../device/io.js';
import type { FileBacking } from './file.js';

export interface Backing {
  /** As the table line named it; `table()` prints it again. */
  readonly name: string;
  /** What lies beneath, the same object for every backing of one file or device: compare with ===. */
  readonly identity: object;
  readonly features: Features;
  /** Bytes, now: a backing may grow. */
  size(): number;
  /**
   * Carries out `io` at `io.backingOffset` and completes it, perhaps before returning. The range is
   * within `size()` as it was when the table was loaded. TRIM without `trim` succeeds and does
   * nothing; ZERO without `zero` writes zeroes, or fails with EOPNOTSUPP under FLAG_FAST.
   */
  submit(io: Io): void;
  /** The file that it is, if it is one: what the system may copy to other files. */
  readonly file?: FileBacking;
}

/** What can be asked of a target or backing. What is not listed always can. */
export interface Features {
  readonly writable: boolean;
  readonly trim: boolean;
  /** ZERO costs less than a write of zeroes (so FLAG_FAST succeeds). */
  readonly fastZero: boolean;
  /** STATUS tells holes from data. (Without, all is data.) */
  readonly extents: boolean;
  readonly rotational: boolean;
  /** Smallest unit that is not slow: 1, or the block size of a file under O_DIRECT. */
  readonly blockBytes: number;
}

/** What all of several can do. An empty list can do everything. */
export function commonFeatures(all: readonly { readonly features: Features }[]): Features {
  const features = all.map((one) => one.features);
  return {
    writable: features.every((f) => f.writable),
    trim: features.every((f) => f.trim),
    fastZero: features.every((f) => f.fastZero),
    extents: features.some((f) => f.extents),
    rotational: features.some((f) => f.rotational),
    blockBytes: Math.max(1, ...features.map((f) => f.blockBytes)),
  };
}
