/**
 * What the kernel's dm-switch is asked, and its answers. A step is words; in a table `@NAME` is a
 * disk. Each step has one answer: what dmsetup printed, or "refused: " and the kernel's own words.
 *
 *   create NAME TABLE       message NAME WORD...     table NAME     status NAME     remove NAME
 *   write NAME SECTOR COUNT SEED                     bytes of steps.ts' streams
 *   version TARGET
 */

import { readFileSync, writeFileSync } from 'node:fs';
import type { Scratch } from '../interop/harness.js';
import { type Disk, runKernel } from './uml.js';

export type SwitchStep = readonly [verb: string, name: string, ...words: string[]];

const program = String.raw`
import hashlib, json, mmap, os, re, subprocess

messages = os.open('/dev/kmsg', os.O_RDONLY | os.O_NONBLOCK)
os.lseek(messages, 0, os.SEEK_END)
names = {}
for entry in os.scandir('/dev'):
    if entry.is_symlink() and os.path.exists(entry.path):
        number = os.stat(entry.path).st_rdev
        names['%d:%d' % (os.major(number), os.minor(number))] = '@' + entry.name

# What device mapper has logged since the last call.
def complaints():
    found = []
    while True:
        try:
            text = os.read(messages, 8192).decode(errors='replace')
        except BlockingIOError:
            return found
        pattern = r';device-mapper: (?:table: [0-9:]+: )?switch: (.*?)(?: \(-\w+\))?\n'
        match = re.search(pattern, text)
        if match:
            found.append(match[1])

def dmsetup(*words):
    complaints()
    done = subprocess.run(['dmsetup', *words], capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout.strip()
    return 'refused: ' + ' | '.join(complaints())

def write(name, sector, count, seed):
    area = mmap.mmap(-1, count * 512)
    for i in range(count):
        area.write(hashlib.sha256(b'%d %d' % (seed, sector + i)).digest() * 16)
    disk = os.open('/dev/mapper/' + name, os.O_RDWR | os.O_DIRECT)
    done = os.pwrite(disk, area, sector * 512)
    os.close(disk)
    return 'ok' if done == count * 512 else 'short'

def carry_out(verb, name, *words):
    if verb == 'write':
        return write(name, *map(int, words))
    if verb == 'create':
        return dmsetup('create', name, '--table', words[0].replace('@', '/dev/'))
    if verb == 'version':
        return re.search(name + r' +v([0-9.]+)', dmsetup('targets'))[1]
    if verb == 'message':
        return dmsetup('message', name, '0', *words)
    said = dmsetup(verb, name)
    return re.sub(r'\b\d+:\d+\b', lambda match: names.get(match[0], match[0]), said)

with open('steps') as steps:
    answers = [carry_out(*step) for step in json.load(steps)]
with open('answers', 'w') as file:
    json.dump(answers, file)
`;

export async function askKernel(
  files: Scratch,
  disks: readonly Disk[],
  steps: readonly SwitchStep[],
): Promise<string[]> {
  writeFileSync(files.file('program.py'), program);
  writeFileSync(files.file('steps'), JSON.stringify(steps));
  const { status, output } = await runKernel({
    disks,
    script: '/usr/bin/python3 -I program.py',
    directory: files.path,
    modules: ['dm-switch'],
  });
  if (status !== 0) throw new Error(`guest program: code ${status}\n${output}`);
  return JSON.parse(readFileSync(files.file('answers'), 'utf8')) as string[];
}
