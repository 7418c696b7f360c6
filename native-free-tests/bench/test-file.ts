/**
 * The file that is served, and its state before each run. It is made once, of bytes that are no
 * holes and no zeroes, and all servers of a case open this one file: copies made differently have
 * been seen to cost one server a fifth of its speed against itself.
 */

import { randomFillSync } from 'node:crypto';
import { open } from 'node:fs/promises';
import { run } from './program.js';
import type { ServedFile } from './servers.js';

const pieceBytes = 1 << 20;

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

/**
 * Brings the file into the state that a run starts with: nothing of it waits to be written, and all
 * of it is in the page cache, or nothing.
 */
export async function settle(
  file: ServedFile,
  cache: 'warm' | 'dropped',
  signal: AbortSignal,
): Promise<void> {
  const handle = await open(file.path, 'r+');
  try {
    await handle.datasync();
    if (cache === 'warm') {
      const piece = Buffer.allocUnsafe(pieceBytes);
      for (let at = 0; at < file.bytes; at += pieceBytes) {
        signal.throwIfAborted();
        await handle.read(piece, 0, pieceBytes, at);
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
