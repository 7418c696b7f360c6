/**
 * The same text through dmsetup into the kernel's own dm-switch, in user-mode Linux: what people do
 * today. One dmsetup for each message of 4096 bytes, timed in the guest; its processes start more
 * slowly than outside, so that the figure is for the order of magnitude.
 */

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { requires } from '../interop/programs.js';
import { kernelPrograms, runKernel } from '../oracle/uml.js';

/** Seconds until the last message was answered; null where there is no such kernel. */
export async function kernelTextSeconds(
  scratch: string,
  messages: readonly string[],
  sectors: number,
  paths: number,
  regionSectors: number,
): Promise<number | null> {
  if (requires(...kernelPrograms) !== false) return null;
  const directory = await mkdtemp(join(scratch, 'kernel-'));
  try {
    // A shell reads a script in large pieces, but the lines of a file byte by byte.
    const lines = messages.map((message) => `dmsetup message vol 0 ${message}\n`);
    await writeFile(join(directory, 'messages'), lines.join(''));
    const path = ' /dev/mapper/nowhere 0'.repeat(paths);
    const script = `set -e
dmsetup create nowhere --table '0 ${sectors} zero'
dmsetup create vol --table '0 ${sectors} switch ${paths} ${regionSectors} 0${path}'
read begin rest < /proc/uptime
. ./messages
read end rest < /proc/uptime
echo "$begin $end"
`;
    const ended = await runKernel({
      disks: [],
      script,
      directory,
      modules: ['dm-zero', 'dm-switch'],
    });
    const [begin, end] = ended.output.trim().split(' ').map(Number);
    if (ended.status !== 0 || begin === undefined || end === undefined) {
      throw new Error(`dmsetup in user-mode Linux: ${ended.output}`);
    }
    return end - begin;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
