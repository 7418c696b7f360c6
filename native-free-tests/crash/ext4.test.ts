/**
 * A file system of the kernel's over our devices, after power cuts: e2fsck finds it clean when it
 * has replayed the journal, and what was synced before a mark is there; see logged-ext4.ts.
 */

import { createHash } from 'node:crypto';
import t from 'tap';
import { eachEngine } from '../interop/harness.js';
import { launch, outputOf } from '../interop/programs.js';
import { ext4Programs, LoggedExt4 } from './logged-ext4.js';
import { cannotMountFiles } from './mounts.js';

const marks = 6;

/**
 * $1 how many marks. At each it says "mark N" and a file's digest when what it wrote is synced, and
 * goes on when it is told to.
 */
const work = `
set -euo pipefail
for round in $(seq "$1"); do
  mkdir "$round"
  for i in $(seq 20); do
    head -c $((i * i * 100)) /dev/urandom > "$round/$i"
    [ $((i % 5)) != 0 ] ||
      dd if=/dev/urandom of="$round/synced$i" bs=20000 count=1 conv=fsync status=none
  done
  rm -rf "./$((round - 2))"
  head -c 50000 /dev/urandom > "$round/last"
  sync -f .
  echo "mark $round $(sha256sum "$round/last" | cut -c 1-64)"
  read -r _
  # What comes behind the mark must not undo it.
  mv "$round/1" "$round/moved"
  rm "$round"/1?
done
`;

/** Runs the work, and puts its marks into the log. Returns the digests by the marks' names. */
async function fill(disk: LoggedExt4): Promise<Map<string, string>> {
  const child = launch('bash', ['-c', work, 'bash', `${marks}`], disk.folder);
  const digests = new Map<string, string>();
  let said = '';
  child.stdout?.on('data', (text: Buffer) => {
    said += text.toString();
    const [line, number, digest] = /^mark ([0-9]+) ([0-9a-f]{64})\n/.exec(said) ?? [];
    if (line === undefined || number === undefined || digest === undefined) return;
    said = said.slice(line.length);
    digests.set(number, digest);
    disk.mark(number).then(
      () => child.stdin?.write('\n'),
      () => child.kill('SIGTERM'),
    );
  });
  const { code, stdout, stderr } = await outputOf(child, 'the work on ext4', 120);
  if (code !== 0 || digests.size !== marks) throw new Error(`code ${code}: ${stdout}${stderr}`);
  return digests;
}

eachEngine(t, 'ext4 after a power cut', ext4Programs, async (t, engine) => {
  await t.test('journal replayed, clean, synced', { skip: cannotMountFiles() }, async (t) => {
    const disk = await LoggedExt4.make(t, engine);
    const digests = await fill(disk);
    await disk.end();
    await disk.eachCut(t, async (read, mark) => {
      const wanted = digests.get(mark);
      if (wanted === undefined) return;
      const content = await read(`/${mark}/last`);
      if (content === null) throw new Error('the file that was synced is gone');
      const found = createHash('sha256').update(content).digest('hex');
      if (found !== wanted) throw new Error('the file that was synced is not as it was');
    });
  });
});
