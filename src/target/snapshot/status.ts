/** The status line that snapshot and snapshot-merge share; sectors. */

import type { Snapshot } from './snapshot.js';

export function snapshotStatus(snapshot: Snapshot | null, mergeFailed: boolean): string {
  if (snapshot === null || !snapshot.valid) return 'Invalid';
  if (mergeFailed) return 'Merge failed';
  if (snapshot.overflowed) return 'Overflow';
  const { allocatedSectors, totalSectors, metadataSectors } = snapshot.store.usage();
  return `${allocatedSectors}/${totalSectors} ${metadataSectors}`;
}
