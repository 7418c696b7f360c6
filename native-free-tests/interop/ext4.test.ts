/**
 * A file system of the kernel's on our devices: nbdfuse makes a file of an export, a loop device
 * makes a disk of the file, ext4 is mounted on it and used, with tables changed below it. What is
 * on our disk afterwards must be a clean file system with every file as it was written.
 *
 *   ext4 - loop - FUSE - nbdfuse - NBD - mapperd - image
 *
 * All mounts are made in a mount namespace of their own, and go with the shell that made them.
 */

import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { type Daemon, eachEngine, linear, MiB, Scratch, sectorsOf, withDaemon } from './harness.js';
import { succeed } from './programs.js';

const programs = ['nbdfuse', 'nbdcopy', 'mkfs.ext4', 'e2fsck', 'fstrim', 'unshare', 'sha256sum'];

const bytes = 128 * MiB;

function cannotMount(): string | false {
  const isRoot = process.getuid?.() === 0;
  const hasDevices = existsSync('/dev/fuse') && existsSync('/dev/loop-control');
  return isRoot && hasDevices ? false : 'needs root, /dev/fuse and loop devices';
}

/** Mounts: $1 a directory to work in, $2 the export, $3 the script for the mounted file system. */
const withMount = `
set -euo pipefail
cd "$1"
mkdir -p fuse mounted
nbdfuse -C 4 fuse/disk "$2" & server=$!
trap 'cd /; umount -q "$1/mounted" || true; umount -q "$1/fuse" || true; wait' EXIT
until [ -e fuse/disk ]; do kill -0 $server; sleep 0.02; done
if [ "$3" = mkfs ]; then
  mkfs.ext4 -q -F fuse/disk
else
  mount -t ext4 -o loop fuse/disk mounted
  cd mounted
  eval "$3"
  cd ..
  umount mounted
fi
umount fuse
trap - EXIT
wait $server
`;

function mounted(files: Scratch, uri: string, script: string): Promise<string> {
  const bash = ['bash', '-c', withMount, 'bash', files.path, uri, script];
  return succeed('unshare', ['--mount', '--propagation', 'private', ...bash]);
}

/** Files of many sizes, some of them removed again, some with holes; then their checksums. */
const fill = `
mkdir -p many/a/b large
for i in $(seq 200); do head -c $((i * i)) /dev/urandom > many/a/b/$i; done
head -c 20000000 /dev/urandom > large/one
head -c 9999999 /dev/urandom > large/two
cp large/one large/copy
sync
rm large/copy many/a/b/*7
truncate -s 5000000 large/two
ln -s one large/link
mv many/a/b many/c
fallocate -l 3000000 large/reserved
fallocate -p -o 65536 -l 1000000 large/one
dd if=/dev/urandom of=large/one bs=4096 count=100 seek=1000 conv=notrunc,fsync status=none
fstrim . || true
find . -type f -not -name sums -print0 | sort -z | xargs -0 sha256sum > sums
sync
`;

const check = 'sha256sum --quiet -c sums && find . -type f | wc -l';

/** The daemon has ended, or the device is not used any more: the image by itself. */
async function isClean(t: Test, files: Scratch, image: string): Promise<void> {
  t.match(await succeed('e2fsck', ['-fn', image]), /Pass 5/);
  const script = 'set -e; mkdir -p "$1/plain"; mount -o loop,ro "$2" "$1/plain"; cd "$1/plain"; ';
  const bash = ['bash', '-c', `${script}${check}`, 'bash', files.path, image];
  const count = await succeed('unshare', ['--mount', '--propagation', 'private', ...bash]);
  t.match(count.trim(), /^18[0-9]$/, 'all files are there, and as they were');
}

eachEngine(t, 'ext4', programs, async (t, engine) => {
  const reason = cannotMount();
  const devices = (files: Scratch): Record<string, string> => {
    const half = sectorsOf(bytes / 2);
    const stripes = ['a', 'b'].map((name) => `${files.sparse(`${name}.img`, bytes / 2)} 0`);
    return {
      disk: linear(files.sparse('disk.img', bytes), bytes),
      striped: `0 ${2 * half} striped 2 128 ${stripes.join(' ')}`,
    };
  };
  await t.test('made on a file, changed through the daemon', { skip: reason }, async (t) => {
    const files = new Scratch(t);
    await withDaemon(t, { engine, devices: devices(files) }, async (daemon) => {
      await succeed('mkfs.ext4', ['-q', '-F', files.file('disk.img')]);
      await mounted(files, daemon.uri('disk'), fill);
      await mounted(files, daemon.tcpUri('disk'), check);
    });
    await isClean(t, files, files.file('disk.img'));
  });
  await t.test('made through the daemon, on stripes', { skip: reason }, async (t) => {
    const files = new Scratch(t);
    await withDaemon(t, { engine, devices: devices(files) }, async (daemon) => {
      await mounted(files, daemon.uri('striped'), 'mkfs');
      await mounted(files, daemon.uri('striped'), fill);
      await succeed('nbdcopy', [daemon.uri('striped'), files.file('copy.img')]);
    });
    await isClean(t, files, files.file('copy.img'));
  });
  await t.test('with tables changed below it', { skip: reason }, async (t) => {
    const files = new Scratch(t);
    await withDaemon(t, { engine, devices: devices(files) }, async (daemon) => {
      await succeed('mkfs.ext4', ['-q', '-F', files.file('disk.img')]);
      await whileChanging(daemon, files, mounted(files, daemon.uri('disk'), fill));
    });
    await isClean(t, files, files.file('disk.img'));
  });
});

/** Changes the table of "disk" until the work is done. */
async function whileChanging(
  daemon: Daemon,
  files: Scratch,
  work: Promise<unknown>,
): Promise<void> {
  let working = true;
  const done = work.finally(() => {
    working = false;
  });
  // Heard of below.
  done.catch(() => {});
  const path = files.file('disk.img');
  const sectors = sectorsOf(bytes);
  const tables = [
    `0 1000 linear ${path} 0\n1000 ${sectors - 1000} linear ${path} 1000`,
    `0 ${sectors} linear file://${path}?direct=1 0`,
    linear(path, bytes),
  ];
  for (let round = 0; working; round++) {
    await daemon.call('suspend', { name: 'disk' });
    await daemon.call('load', { name: 'disk', table: tables[round % tables.length] as string });
    await daemon.call('resume', { name: 'disk' });
    await sleep(10);
  }
  await done;
}
