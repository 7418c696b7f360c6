/**
 * What has changed in a device since a moment, as far as somebody keeps a record of it (the
 * exceptions of a snapshot are one).
 */

import type { ExtentList } from './extent-list.js';

/** The bit of an extent that has changed, or may have; without it nothing has. */
export const EXTENT_DIRTY = 1;

export interface ChangeMap {
  /** Whose record it is: the name of the snapshot's device, now. */
  readonly name: string;
  /**
   * Fills an empty list with extents from `offset` on (bytes in the device that was asked for its
   * maps), at least one; it may stop short of `length`, when the list is full or enough was looked
   * at for one answer. 0, or an errno: the record is gone, or of no use any more. Synchronous, from
   * memory alone.
   */
  extents(offset: number, length: number, list: ExtentList): number;
}
