/** How a request that crosses chunks is cut, for snapshot and snapshot-merge. */

import { type Operation, READ, STATUS, TRIM } from '../../device/io.js';
import type { SnapshotHandle } from './handle.js';

/**
 * Target.pieceBytes: chunks that follow one another in the COW are one piece, and so are those that
 * are read from the origin.
 */
export function snapshotPiece(
  handle: SnapshotHandle,
  operation: Operation,
  offset: number,
  length: number,
): number {
  const { snapshot } = handle;
  const chunkBytes = handle.chunkSectors * 512;
  const first = Math.floor(offset / chunkBytes);
  const inFirst = (first + 1) * chunkBytes - offset;
  if (snapshot === null || !snapshot.valid || operation === TRIM) return inFirst;
  const most = Math.ceil((length - inFirst) / chunkBytes) + 1;
  const { table } = snapshot;
  let chunks = 1;
  if (table.find(first) >= 0) chunks = table.runLength(first, most);
  else if (operation === READ || operation === STATUS) chunks = table.gapLength(first, most);
  return Math.min(length, inFirst + (chunks - 1) * chunkBytes);
}
