/**
 * A file system of the kernel's over a log of writes: ext4 is used through NBD, and then the disk is
 * made again as a power cut could have left it, at every flush and in between. e2fsck must find it
 * clean when it has replayed the journal, and what was synced before a mark must be there.
 *
 *   ext4 - loop - FUSE - nbdfuse - NBD - mapperd: log-writes - image, log
 */

import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { random as randomFrom } from '../contract/pattern.js';
import {
  type Daemon,
  eachEngine,
  MiB,
  Scratch,
  sectorsOf,
  withDaemon,
} from '../interop/harness.js';
import { launch, outputOf, run, succeed } from '../interop/programs.js';
import { Replay } from './replay.js';
import { type LogRecord, told, withLog } from './write-log.js';

const programs = ['nbdfuse', 'mkfs.ext4', 'e2fsck', 'debugfs', 'unshare'];
const bytes = 16 * MiB;
const marks = 6;
/** ext4 relies on its blocks being written whole. */
const blockBytes = 4096;
const { CI } = process.env;
/** e2fsck looks at so many states; each takes a tenth of a second. */
const states = CI === 'true' ? 60 : 15;

function cannotMount(): string | false {
  const isRoot = process.getuid?.() === 0;
  const hasDevices = existsSync('/dev/fuse') && existsSync('/dev/loop-control');
  return isRoot && hasDevices ? false : 'needs root, /dev/fuse and loop devices';
}

/**
 * $1 a directory to work in, $2 the export, $3 how many marks. At each it says "mark N" when what
 * it wrote is synced, and goes on when it is told to.
 */
const work = `
set -euo pipefail
cd "$1"
mkdir -p fuse mounted
nbdfuse -C 4 fuse/disk "$2" & server=$!
trap 'cd /; umount -q "$1/mounted" || true; umount -q "$1/fuse" || true; wait' EXIT
until [ -e fuse/disk ]; do kill -0 $server; sleep 0.02; done
mount -t ext4 -o loop fuse/disk mounted
cd mounted
for round in $(seq "$3"); do
  mkdir "$round"
  for i in $(seq 20); do
    head -c $((i * i * 100)) /dev/urandom > "$round/$i"
    [ $((i % 5)) != 0 ] || dd if=/dev/urandom of="$round/synced$i" bs=20000 count=1 conv=fsync status=none
  done
  rm -rf "./$((round - 2))"
  head -c 50000 /dev/urandom > "$round/last"
  sync -f .
  sha256sum "$round/last" | cut -c 1-64 > "$1/sum$round"
  echo "mark $round"
  read -r _
  # What comes behind the mark must not undo it.
  mv "$round/1" "$round/moved"
  rm "$round"/1?
done
cd ..
umount mounted
umount fuse
trap - EXIT
wait $server
`;

/** Runs the work, and puts its marks into the log. */
async function fill(files: Scratch, daemon: Daemon): Promise<void> {
  const bash = ['bash', '-c', work, 'bash', files.path, daemon.uri('disk'), `${marks}`];
  const child = launch('unshare', ['--mount', '--propagation', 'private', ...bash]);
  let said = '';
  let marked = 0;
  child.stdout?.on('data', async (text: Buffer) => {
    said += text.toString();
    while (said.includes(`mark ${marked + 1}\n`)) {
      const name = `mark ${++marked}`;
      await daemon.call('message', { name: 'disk', sector: 0, words: ['mark', name] });
      child.stdin?.write('\n');
    }
  });
  const { code, stdout, stderr } = await outputOf(child, 'the work on ext4', 120);
  if (code !== 0 || marked !== marks) throw new Error(`code ${code}: ${stdout}${stderr}`);
}

/** Throws unless the file system is clean once its journal is replayed. */
async function isClean(files: Scratch, disk: Buffer, when: string): Promise<string> {
  const path = files.file('state.img');
  writeFileSync(path, disk);
  const replayed = await run('e2fsck', ['-p', path]);
  // 1: something was repaired, which -p does for what a crash leaves: the journal, orphaned files.
  if (replayed.code !== 0 && replayed.code !== 1) {
    throw new Error(`${when}: e2fsck -p says ${replayed.stdout}${replayed.stderr}`);
  }
  const checked = await run('e2fsck', ['-f', '-n', path]);
  if (checked.code !== 0) throw new Error(`${when}: e2fsck says ${checked.stdout}`);
  return path;
}

async function checkAll(t: Test, files: Scratch): Promise<void> {
  const seed = Date.now() % 2 ** 31;
  const random = randomFrom(seed);
  t.comment(`seed ${seed}`);
  const picked: { disk: Buffer; when: string; mark: string }[] = [];
  withLog(files.file('disk.log'), (log) => {
    const replay = new Replay(log, bytes);
    replay.toMark('made');
    const count = log.records.length;
    let mark = '';
    const next = (): LogRecord | null => replay.step();
    for (let record = next(), at = 1; record !== null; record = next(), at++) {
      const text = told(record);
      const isMark = text.startsWith('mark mark ');
      if (isMark) mark = text.slice('mark mark '.length);
      if (!isMark && random(count) >= states) continue;
      const when = `record ${at} of ${count} behind mkfs, ${text}`;
      // The whole is what was there; the cut is what may have been left of it.
      picked.push({ disk: random(2) === 0 ? replay.whole() : replay.cut(random), when, mark });
    }
  });
  for (const { disk, when, mark } of picked) {
    const path = await isClean(files, disk, when);
    if (mark === '') continue;
    const dumped = files.file('dumped');
    writeFileSync(dumped, '');
    await succeed('debugfs', ['-R', `dump /${mark}/last ${dumped}`, path]);
    const found = createHash('sha256').update(readFileSync(dumped)).digest('hex');
    const wanted = readFileSync(files.file(`sum${mark}`), 'utf8').trim();
    if (found !== wanted) throw new Error(`${when}: the file of mark ${mark} is not as it was`);
  }
  t.ok(picked.length >= marks, `${picked.length} states are clean, with all that was synced`);
}

eachEngine(t, 'ext4 after a power cut', programs, async (t, engine) => {
  await t.test('journal replayed, clean, synced', { skip: cannotMount() }, async (t) => {
    const files = new Scratch(t);
    const image = files.sparse('disk.img', bytes);
    const log = files.sparse('disk.log', 2 ** 30);
    const devices = { disk: `0 ${sectorsOf(bytes)} log-writes ${image} ${log}` };
    await withDaemon(t, { engine, devices }, async (daemon) => {
      const made = files.sparse('made.img', bytes);
      await succeed('mkfs.ext4', [
        '-q',
        '-F',
        '-b',
        `${blockBytes}`,
        '-E',
        'lazy_itable_init=0',
        made,
      ]);
      // Through the daemon, so that the log begins with it.
      await succeed('nbdcopy', ['--flush', made, daemon.uri('disk')]);
      await daemon.call('message', { name: 'disk', sector: 0, words: ['mark', 'made'] });
      await fill(files, daemon);
    });
    await checkAll(t, files);
  });
});
