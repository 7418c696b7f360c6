/** The machine's kind and the versions: a figure means nothing without them. */

import { readFile, realpath } from 'node:fs/promises';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { packageVersion } from '../../src/base/version.js';
import { run } from './program.js';

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGigabytes: number;
  readonly kernel: string;
  /** Of the directory with the files. */
  readonly fileSystem: string;
  /** One-minute average when the benchmark began: others that use the machine. */
  readonly load: number;
  readonly versions: readonly string[];
}

export async function describeMachine(directory: string, signal: AbortSignal): Promise<Machine> {
  const mounts = await readFile('/proc/self/mountinfo', 'utf8');
  const versions = [`mapperd ${packageVersion()}`, `Node ${process.versions.node}`];
  for (const program of ['nbdkit', 'nbdcopy', 'qemu-nbd', 'fio']) {
    versions.push(await versionOf(program, signal));
  }
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown CPU',
    cores: cpus().length,
    memoryGigabytes: Math.round(totalmem() / 1e9),
    kernel: `Linux ${release()}`,
    fileSystem: findFileSystem(mounts, await realpath(directory)) ?? 'unknown',
    load: loadavg()[0] ?? 0,
    versions,
  };
}

async function versionOf(program: string, signal: AbortSignal): Promise<string> {
  try {
    const output = await run(program, ['--version'], signal);
    const version = /[0-9]+(\.[0-9]+)+/.exec(output)?.[0] ?? 'of unknown version';
    return `${program} ${version}`;
  } catch {
    signal.throwIfAborted();
    return `no ${program}`;
  }
}

/**
 * The type of the file system that holds an absolute path. A line of mountinfo is `ID PARENT
 * MAJ:MIN ROOT MOUNTPOINT OPTIONS [TAG...] - TYPE SOURCE OPTIONS`; of equals, the last is on top.
 */
export function findFileSystem(mountinfo: string, path: string): string | null {
  let best: { readonly length: number; readonly type: string } | null = null;
  for (const line of mountinfo.split('\n')) {
    const [front, back] = line.split(' - ');
    const point = front?.split(' ')[4]?.replace(/\\([0-7]{3})/g, octalCharacter);
    const type = back?.split(' ')[0];
    if (point === undefined || type === undefined) continue;
    if (!`${path}/`.startsWith(point === '/' ? '/' : `${point}/`)) continue;
    if (best === null || point.length >= best.length) best = { length: point.length, type };
  }
  return best?.type ?? null;
}

function octalCharacter(_escape: string, digits: string): string {
  return String.fromCharCode(Number.parseInt(digits, 8));
}
