/**
 * An XFS file system in an image file, mounted over a loop device: buffered writes go another way
 * there than on ext4. It needs root, loop devices, mkfs.xfs and an XFS in the kernel. The loop
 * device is the usual one, over the page cache: with O_DIRECT on XFS the "disk" is partly memory.
 */

import { spawnSync } from 'node:child_process';
import { access, mkdir, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../../src/base/errors.js';
import { atExit } from './at-exit.js';
import { run } from './program.js';

/** Thrown for what this machine cannot do, which is no failure of the benchmark. */
export class LeftOutError extends Error {
  override readonly name = 'LeftOutError';
}

/** Log, inodes and allocation groups; also more than the least that mkfs.xfs takes. */
const overheadBytes = 512 << 20;

export interface XfsMount {
  readonly directory: string;
  unmount(): Promise<void>;
}

/** A server that has been killed may hold its files for a moment longer. */
async function unmount(directory: string, signal: AbortSignal): Promise<void> {
  for (let tries = 50; ; tries--) {
    try {
      await run('umount', [directory], signal);
      return;
    } catch (error) {
      if (tries === 0) throw error;
      await sleep(100);
    }
  }
}

/** Mounts a new XFS with room for a file of `bytes`. Throws LeftOutError where that cannot be. */
export async function mountXfs(
  scratch: string,
  bytes: number,
  signal: AbortSignal,
): Promise<XfsMount> {
  if (process.getuid?.() !== 0) throw new LeftOutError('no XFS: mounting needs root');
  const image = join(scratch, 'xfs.img');
  const directory = join(scratch, 'xfs');
  let device: string | null = null;
  let mounted = false;
  // These programs are short and are never cut off: what they have done must be known.
  const whole = new AbortController().signal;
  // Works in any state.
  const undo = async (): Promise<void> => {
    if (mounted) await unmount(directory, whole);
    mounted = false;
    if (device !== null) await run('losetup', ['--detach', device], whole);
    device = null;
    left.callOff();
    await rm(image, { force: true });
    await rm(directory, { recursive: true, force: true });
  };
  const left = atExit(() => {
    // A server that has just been killed may still be there: the mount ends with it.
    if (mounted) spawnSync('umount', ['--lazy', directory]);
    if (device !== null) spawnSync('losetup', ['--detach', device]);
  });
  try {
    await access('/dev/loop-control');
    await mkdir(directory);
    await writeFile(image, '', { mode: 0o600 });
    // Sparse: the served file, and the COWs and overlays of a run beside it.
    await truncate(image, 4 * bytes + overheadBytes);
    device = (await run('losetup', ['--find', '--show', image], whole)).trim();
    await run('mkfs.xfs', ['-q', device], whole);
    await run('mount', ['-t', 'xfs', '-o', 'noatime', device, directory], whole);
    mounted = true;
    signal.throwIfAborted();
  } catch (error) {
    await undo();
    signal.throwIfAborted();
    throw new LeftOutError(`no XFS: ${messageOf(error)}`);
  }
  return { directory, unmount: undo };
}
