/**
 * The format of the log, with the kernel's own dm-log-writes as the judge: the same requests, one
 * after the other, through its target and through ours. Entry for entry the logs must be the same.
 * (The kernel logs a mark at once, and a write when a later flush has ended; so here each mark
 * follows a flush.)
 */

import { readFileSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { Scratch, withDaemon } from '../interop/harness.js';
import { requires } from '../interop/programs.js';
import { kernelPrograms, runKernel } from '../oracle/uml.js';
import { NbdDisk } from '../snapshot/nbd-disk.js';
import { told, withLog } from './write-log.js';

const sectors = 2048;
const bytes = sectors * 512;
const logBytes = 8 * 2 ** 20;

type Step =
  | readonly ['write', number, number, number]
  | readonly ['flush']
  | readonly ['mark', string]
  | readonly ['discard', number, number];

const steps: readonly Step[] = [
  ['write', 0, 8, 1],
  ['write', 800, 1, 2],
  ['flush'],
  ['mark', 'first'],
  ['write', 800, 3, 3],
  ['discard', 1024, 64],
  ['write', 2047, 1, 4],
  ['flush'],
  ['flush'],
  ['mark', 'x'.repeat(200)],
  ['write', 16, 64, 5],
  ['flush'],
  ['mark', 'last'],
];

const program = String.raw`
import fcntl, json, mmap, os, struct, subprocess

def dmsetup(*words):
    return subprocess.run(['dmsetup', *words], check=True, capture_output=True, text=True).stdout

dmsetup('create', 'vol', '--table', '0 2048 log-writes /dev/disk /dev/log')
disk = os.open('/dev/mapper/vol', os.O_RDWR | os.O_DIRECT)
for step in json.load(open('steps')):
    verb, *rest = step
    if verb == 'write':
        sector, count, seed = rest
        area = mmap.mmap(-1, count * 512)
        area.write(bytes([seed]) * (count * 512))
        assert os.pwrite(disk, area, sector * 512) == count * 512
    elif verb == 'flush':
        os.fsync(disk)
    elif verb == 'discard':
        fcntl.ioctl(disk, 0x1277, struct.pack('QQ', rest[0] * 512, rest[1] * 512))
    else:
        dmsetup('message', 'vol', '0', 'mark', rest[0])
status = dmsetup('status', 'vol').split()
with open('said', 'w') as file:
    said = dmsetup('targets').split('\n')
    version = [line.split()[1] for line in said if line.startswith('log-writes')][0]
    json.dump({'status': status, 'version': version}, file)
os.close(disk)
dmsetup('remove', 'vol')
`;

interface Side {
  readonly entries: readonly string[];
  readonly data: readonly string[];
  readonly status: readonly string[];
}

function sideOf(path: string, status: readonly string[]): Side {
  return withLog(path, (log) => {
    // Our devices are flushed before they are removed, the kernel's are not.
    const records = log.records.filter((_, i) => i < steps.length || i === log.records.length - 1);
    const data = records.map((record) => log.data(record)?.toString('base64') ?? '');
    return { entries: records.map(told), data, status };
  });
}

async function ours(t: Parameters<typeof withDaemon>[0]): Promise<Side> {
  const files = new Scratch(t);
  const log = files.sparse('log', logBytes);
  let status: string[] = [];
  // Memory, for the node engine cannot trim files.
  const devices = {
    disk: `0 ${sectors} memory`,
    vol: `0 ${sectors} log-writes dm:disk ${log}`,
  };
  await withDaemon(t, { engine: 'node', devices }, async (daemon) => {
    const client = await NbdDisk.connect(daemon.socket, 'vol');
    for (const [verb, ...rest] of steps) {
      if (verb === 'write') {
        const [sector, count, seed] = rest as [number, number, number];
        await client.write(sector * 512, Buffer.alloc(count * 512, seed));
      } else if (verb === 'flush') {
        await client.flush();
      } else if (verb === 'discard') {
        const [sector, count] = rest as [number, number];
        await client.trim(sector * 512, count * 512);
      } else {
        await daemon.call('message', { name: 'vol', sector: 0, words: ['mark', `${rest[0]}`] });
      }
    }
    const [line] = await daemon.call('status', { name: 'vol' });
    status = line !== undefined && 'words' in line ? line.words.split(' ') : [];
    client.close();
    await daemon.untilUnused('vol');
  });
  return sideOf(log, status);
}

t.test(
  'writes the log that the kernel writes',
  { skip: requires(...kernelPrograms) },
  async (t) => {
    const files = new Scratch(t);
    const disks = [
      { name: 'disk', path: files.sparse('disk', bytes) },
      { name: 'log', path: files.sparse('log', logBytes) },
    ];
    writeFileSync(files.file('program.py'), program);
    writeFileSync(files.file('steps'), JSON.stringify(steps));
    const { status, output } = await runKernel({
      disks,
      script: '/usr/bin/python3 -I program.py',
      directory: files.path,
      modules: ['dm-log-writes'],
    });
    t.equal(status, 0, output);
    const said = JSON.parse(readFileSync(files.file('said'), 'utf8'));
    const kernel = sideOf(files.file('log'), said.status.slice(3));
    const mine = await ours(t);
    t.strictSame(said.version, 'v1.1.0');
    t.strictSame(mine.entries, kernel.entries);
    t.strictSame(mine.data, kernel.data);
    t.strictSame(mine.status, kernel.status);
  },
);
