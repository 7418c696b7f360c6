/**
 * The file that is served, and its state before each run. It is made once, of bytes that are no
 * holes and no zeroes, and all servers of a case open this one file: copies made differently have
 * been seen to cost one server a fifth of its speed against itself.
 */

import { randomFillSync } from 'node:crypto';
import { open, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { formatBytes } from '../../src/base/sizes.js';
import { run } from './program.js';
import type { ServedFile } from './servers.js';

const pieceBytes = 1 << 20;
/** Left to others when a file is made. */
const spareBytes = 256 << 20;

/** Throws if so many bytes more are too many for the file system. */
export async function checkRoom(directory: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  const found = bavail * bsize;
  const wanted = bytes + spareBytes;
  if (found >= wanted) return;
  const text = `found ${formatBytes(found)} free, wanted ${formatBytes(wanted)}`;
  throw new Error(`make a file in "${directory}": ${text}`);
}

export async function makeFile(file: ServedFile, signal: AbortSignal): Promise<void> {
  const piece = randomFillSync(Buffer.alloc(pieceBytes));
  const handle = await open(file.path, 'wx+', 0o600);
  try {
    for (let at = 0; at < file.bytes; at += pieceBytes) {
      signal.throwIfAborted();
      await handle.write(piece, 0, pieceBytes, at);
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** A file that is one hole, with room on the disk for all of it. */
export async function makeHole(file: ServedFile): Promise<void> {
  await checkRoom(dirname(file.path), file.bytes);
  const handle = await open(file.path, 'wx', 0o600);
  try {
    await handle.truncate(file.bytes);
  } finally {
    await handle.close();
  }
}

/** A file in which every other MiB, from the first on, is data, and the rest is holes. */
export async function makeHalfSparse(file: ServedFile, signal: AbortSignal): Promise<void> {
  await makeHole(file);
  const piece = randomFillSync(Buffer.alloc(pieceBytes));
  const handle = await open(file.path, 'r+');
  try {
    for (let at = 0; at < file.bytes; at += 2 * pieceBytes) {
      signal.throwIfAborted();
      await handle.write(piece, 0, pieceBytes, at);
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * How a file is read into the page cache. Reading on and on, the kernel reads ahead, in folios of
 * up to 2 MiB; backwards it does not, and each page is a folio of its own, as random access makes
 * them. That matters for random writes: in a large folio ext4 (Linux 6.18) looks at up to 512
 * buffers for each 4 KiB, in any server, which is several times the work of all the rest.
 */
export type Order = 'forwards' | 'backwards';
/** So little that it is taken for no beginning of a sequence. */
const backwardsBytes = 65_536;

/**
 * Brings the file into the state that a run starts with: nothing of it waits to be written, and all
 * of it is in the page cache, or nothing.
 */
export async function settle(
  file: ServedFile,
  cache: 'warm' | 'dropped',
  signal: AbortSignal,
  order: Order = 'forwards',
): Promise<void> {
  const handle = await open(file.path, 'r+');
  try {
    await handle.datasync();
    if (cache === 'warm') {
      const bytes = order === 'forwards' ? pieceBytes : backwardsBytes;
      const piece = Buffer.allocUnsafe(bytes);
      for (let done = 0; done < file.bytes; done += bytes) {
        signal.throwIfAborted();
        const at = order === 'forwards' ? done : Math.max(0, file.bytes - done - bytes);
        await handle.read(piece, 0, bytes, at);
      }
    }
  } finally {
    await handle.close();
  }
  if (cache === 'dropped') {
    // Copying nothing with this flag advises the kernel that the file's pages are not needed.
    const args = [`if=${file.path}`, 'iflag=nocache', 'count=0', 'status=none'];
    await run('dd', args, signal);
  }
}
