/** The volume that somebody who starts the daemon with nothing finds: 1 GiB, sparse. */

import { open, readdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { quoteWord } from '../device/table-text.js';
import { backingWord } from './image.js';
import type { StateDirectory } from './state.js';

export const firstVolume = 'vol0';
const firstVolumeBytes = 2 ** 30;

/** What the daemon itself leaves in a state directory without devices: sockets and the lock. */
const ownFiles = new Set(['lock', 'nbd.sock', 'control.sock']);

/**
 * Makes the first volume in a state directory with nothing in it; true if it did. A directory in
 * which anything is, an image whose device was removed, say, is left as it is.
 */
export async function makeFirstVolume(state: StateDirectory): Promise<boolean> {
  const found = await readdir(state.path);
  if (found.some((file) => !ownFiles.has(file) && !file.startsWith('.'))) return false;
  const path = resolve(join(state.path, `${firstVolume}.img`));
  const file = await open(path, 'wx', 0o600);
  try {
    await file.truncate(firstVolumeBytes);
    await file.sync();
  } finally {
    await file.close();
  }
  const table = `0 ${firstVolumeBytes / 512} linear ${quoteWord(backingWord(path))} 0`;
  await state.write({ name: firstVolume, table, readOnly: false });
  return true;
}
