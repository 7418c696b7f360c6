/**
 * The payload of a BLOCK_STATUS chunk: what one metadata context tells of a range.
 *
 *   block status             u32 context, (u32 length  u32 flags)...
 *   extended block status    u32 context  u32 count, (u64 length  u64 flags)...
 *
 * Extents follow one another from the request's offset on. None reaches past its end, so that with
 * compact headers, whose requests are shorter than 4 GiB, every length fits into its 32 bits.
 */

import { extentsPerReply } from '../base/limits.js';
import type { ExtentList } from '../device/extent-list.js';

/** The longest payload. */
export const extentsBytesMax = 8 + 16 * extentsPerReply;

/** Writes the first `most` extents of the list, up to `length` bytes; the payload's size. */
export function packExtents(
  view: DataView,
  start: number,
  context: number,
  list: ExtentList,
  most: number,
  length: number,
  extended: boolean,
): number {
  view.setUint32(start, context);
  let at = start + (extended ? 8 : 4);
  let left = length;
  let count = 0;
  while (count < most && left > 0) {
    const extent = Math.min(list.lengths[count] as number, left);
    const flags = list.flags[count] as number;
    if (extended) {
      const high = Math.floor(extent / 4294967296);
      view.setUint32(at, high);
      view.setUint32(at + 4, extent - high * 4294967296);
      view.setUint32(at + 8, 0);
      view.setUint32(at + 12, flags);
      at += 16;
    } else {
      view.setUint32(at, extent);
      view.setUint32(at + 4, flags);
      at += 8;
    }
    left -= extent;
    count++;
  }
  if (extended) view.setUint32(start + 4, count);
  return at - start;
}
