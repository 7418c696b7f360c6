/** File systems of a test's own, which go with the test, and at the latest with its process. */

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import type { Test } from 'tap';
import type { Scratch } from '../interop/harness.js';
import { environment, succeed } from '../interop/programs.js';

/** Innermost last. */
const mounted: string[] = [];

function unmountNow(): void {
  for (const folder of mounted.splice(0).reverse()) {
    spawnSync('umount', ['-l', folder], { env: environment, stdio: 'ignore' });
  }
}

process.on('exit', unmountNow);

/** False, or why nothing can be mounted here. */
export function cannotMount(): string | false {
  return process.getuid?.() === 0 ? false : 'needs root, to mount';
}

/** False, or why no file system can be made on a file, or on an export. */
export function cannotMountFiles(): string | false {
  const reason = cannotMount();
  if (reason !== false) return reason;
  const hasDevices = existsSync('/dev/fuse') && existsSync('/dev/loop-control');
  return hasDevices ? false : 'needs /dev/fuse and loop devices';
}

/** `words` are those of mount(8) before the folder, which is a new one. Returns the folder. */
export async function mount(t: Test, files: Scratch, name: string, ...words: string[]) {
  const folder = files.file(name);
  mkdirSync(folder, { recursive: true });
  await succeed('mount', [...words, folder]);
  mounted.push(folder);
  t.teardown(() => unmount(folder).catch(() => {}));
  return folder;
}

/** Nothing happens if it is not mounted any more. */
export async function unmount(folder: string, ...words: string[]): Promise<void> {
  const at = mounted.indexOf(folder);
  if (at < 0) return;
  await succeed('umount', [...words, folder]);
  mounted.splice(at, 1);
}
