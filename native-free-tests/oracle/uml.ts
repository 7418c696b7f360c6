/**
 * A real Linux kernel as an ordinary process: user-mode Linux, as Debian ships it. It boots in
 * about two seconds with this machine's own root, read-only, and needs no rights. A script runs in
 * it as root; files of this machine are its disks, and hold what it wrote when it has ended.
 *
 *   /            this machine's root, read-only       /dev/NAME    a disk, by the name it was given
 *   /run/files   `directory`, writable                /tmp, /run   empty
 */

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { run } from '../interop/programs.js';

/** What has to be installed; the packages are user-mode-linux, busybox-static and dmsetup. */
export const kernelPrograms = ['linux.uml', 'busybox', 'dmsetup', 'python3'] as const;

/** The kernel's own limit. */
const mostDisks = 16;

/** A file, and the name of the device in /dev that it is in there. */
export interface Disk {
  readonly name: string;
  readonly path: string;
}

export interface KernelRun {
  readonly disks: readonly Disk[];
  /** For sh, run as root. */
  readonly script: string;
  /** A directory of this machine, writable at /run/files. */
  readonly directory: string;
  /** Modules of drivers/md besides those that snapshots need. */
  readonly modules?: readonly string[];
  readonly limitSeconds?: number;
}

export interface KernelEnd {
  /** The script's; null when it switched the machine off itself. */
  readonly status: number | null;
  /** What the script said. */
  readonly output: string;
}

const snapshotModules = ['dm-mod', 'dm-bufio', 'dm-snapshot'];

/**
 * What runs as process 1. busybox is called by its path: as a shell it would start its own tools
 * through /proc/self/exe, which before the mount is this machine's, and so another kernel.
 */
function initScript(job: string, { disks, directory, modules = [] }: KernelRun): string {
  const links = disks.map(({ name }, at) => `busybox ln -s ubd${letter(at)} /dev/${name}`);
  return `#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export DM_DISABLE_UDEV=1 LC_ALL=C HOME=/tmp
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t tmpfs run /run
busybox mkdir /run/job /run/files /run/lock
busybox mount -t hostfs none /run/job -o ${job}
busybox mount -t hostfs none /run/files -o ${directory}
busybox mount -t tmpfs tmp /tmp
for module in ${[...snapshotModules, ...modules].join(' ')}; do
  busybox insmod /usr/lib/uml/modules/$(busybox uname -r)/kernel/drivers/md/$module.ko
done
${links.join('\n')}
cd /run/files
sh /run/job/script > /run/job/output 2>&1 < /dev/null
echo $? > /run/job/status
busybox sync
echo o > /proc/sysrq-trigger
busybox sleep 60
`;
}

function letter(index: number): string {
  return String.fromCharCode('a'.charCodeAt(0) + index);
}

function readIfThere(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}

/**
 * Boots, runs the script, powers off. Rejects when the kernel did not come up, or did not end in
 * time (then it is ended, and nobody else).
 */
export async function runKernel(options: KernelRun): Promise<KernelEnd> {
  const { disks, script, limitSeconds = 120 } = options;
  if (disks.length > mostDisks) throw new Error(`${disks.length} disks, at most ${mostDisks}`);
  const job = mkdtempSync(join(tmpdir(), 'mapperd-kernel-'));
  try {
    const init = join(job, 'init');
    writeFileSync(init, initScript(job, options), { mode: 0o755 });
    writeFileSync(join(job, 'script'), script);
    mkdirSync(join(job, 'uml'));
    const ubds = disks.map(({ path }, at) => `ubd${at}=${path}`);
    const root = ['rootfstype=hostfs', 'rootflags=/', 'ro', `init=${init}`];
    const rest = ['con0=fd:0,fd:1', 'con=null', 'quiet', 'mem=192M', `uml_dir=${job}/uml`];
    const console = await run('linux.uml', [...root, ...rest, ...ubds], { limitSeconds });
    const output = readIfThere(join(job, 'output'));
    if (output === null || console.stdout.includes('Kernel panic')) {
      throw new Error(`the kernel ended early:\n${console.stdout}${console.stderr}`);
    }
    const status = readIfThere(join(job, 'status'));
    return { status: status === null ? null : Number(status), output };
  } finally {
    rmSync(job, { recursive: true, force: true });
  }
}
