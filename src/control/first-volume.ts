/**
 * What somebody who starts the daemon with nothing finds: a volume of 1 GiB, sparse, and a snapshot
 * of it, as `snapshot` would have made it.
 */

import { open, readdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { backingWord } from './image.js';
import { completeCowBytes, ownCowPath } from './snapshot/cow-file.js';
import { realName, realPolicy, tableLine } from './snapshot/tables.js';
import type { StateDirectory } from './state.js';

export const firstVolume = 'vol0';
export const firstSnapshot = 'vol0-snap';
const firstVolumeBytes = 2 ** 30;
const chunkSectors = 8;

/** What the daemon itself leaves in a state directory without devices: sockets and the lock. */
const ownFiles = new Set(['lock', 'nbd.sock', 'control.sock']);

/**
 * Makes the first volume and its snapshot in a state directory with nothing in it; true if it did.
 * A directory in which anything is, an image whose device was removed, say, is left as it is.
 */
export async function makeFirstVolume(state: StateDirectory): Promise<boolean> {
  const found = await readdir(state.path);
  if (found.some((file) => !ownFiles.has(file) && !file.startsWith('.'))) return false;
  const directory = resolve(state.path);
  const sectors = firstVolumeBytes / 512;
  const image = join(directory, `${firstVolume}.img`);
  const cow = ownCowPath(directory, firstSnapshot);
  await makeSparseFile(image, firstVolumeBytes);
  await makeSparseFile(cow, completeCowBytes(sectors, chunkSectors, true));
  const real = realName(firstVolume);
  const over = `dm:${real}`;
  const snapshot = [over, backingWord(cow), 'P', `${chunkSectors}`];
  const write = async (name: string, type: string, args: string[], more = {}): Promise<void> => {
    await state.write({ name, table: tableLine(sectors, type, args), readOnly: false, ...more });
  };
  await write(real, 'linear', [backingWord(image), '0'], { policy: realPolicy([]) });
  await write(firstVolume, 'snapshot-origin', [over]);
  await write(firstSnapshot, 'snapshot', snapshot, { created: new Date().toISOString() });
  return true;
}

async function makeSparseFile(path: string, bytes: number): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  try {
    await file.truncate(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
}
