/** Region tables through the real commands: daemon, mapperctl, files, and a client that reads. */

import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ControlClient } from '../../src/ctl/client.js';
import { entryBits } from '../../src/target/switch/region-table.js';
import { encodeRegions, packEntries } from '../../src/target/switch/upload-format.js';
import { DaemonProcess, mapperctl, openExport } from './daemon-process.js';

const directories: string[] = [];
const running = new Set<DaemonProcess>();
t.teardown(async () => {
  for (const daemon of running) daemon.signal('SIGKILL');
  await Promise.all([...running].map((daemon) => daemon.ended));
  for (const path of directories) rmSync(path, { recursive: true });
});

const regionBytes = 4096;
const regions = 16;
const paths = 3;

/** A daemon over files of which each sector says which one it is in. */
function setUp(t: Test, engine: string) {
  const directory = mkdtempSync(join(tmpdir(), 'mapperd-regions-'));
  directories.push(directory);
  const at = (name: string): string => join(directory, name);
  const files = Array.from({ length: paths }, (_, path) => at(`path${path}`));
  for (const [path, file] of files.entries()) {
    writeFileSync(file, Buffer.alloc(regions * regionBytes, path + 1));
  }
  const table = (count = regions, used = files): string => {
    const words = used.map((file) => `${file} 0`).join(' ');
    return `0 ${count * 8} switch ${used.length} 8 0 ${words}`;
  };
  const start = async (): Promise<DaemonProcess> => {
    const words = ['--engine', engine, '-U', at('n'), '--control', at('c'), '--state', at('state')];
    const daemon = new DaemonProcess(words);
    running.add(daemon);
    void daemon.ended.then(() => running.delete(daemon));
    t.not(await daemon.ready(), null, 'the daemon is ready');
    return daemon;
  };
  const ctl = async (...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await mapperctl(['-c', at('c'), ...args]);
    t.same({ code, stderr }, { code: 0, stderr: '' }, `mapperctl ${args.join(' ')}`);
    return stdout;
  };
  const refused = async (...args: string[]): Promise<string> => {
    const { code, stderr } = await mapperctl(['-c', at('c'), ...args]);
    t.equal(code, 1, `mapperctl ${args.join(' ')} is refused`);
    return stderr;
  };
  /** The path of each region, as a client of the device sees it. */
  const routes = async (name = 'vol'): Promise<number[]> => {
    const disk = await openExport(at('n'), name);
    const bytes = await disk.read(0, disk.sizeBytes);
    disk.close();
    const count = Math.ceil(disk.sizeBytes / regionBytes);
    return Array.from({ length: count }, (_, region) => (bytes[region * regionBytes] ?? 0) - 1);
  };
  return { at, files, table, start, ctl, refused, routes };
}

function bytesOf(entries: readonly number[]): Buffer {
  const bits = entryBits(paths);
  const about = { whole: true, regions, regionSectors: 8, paths, bits, first: 0, count: regions };
  const table = { ...about, slots: packEntries(entries, bits) };
  return Buffer.concat(encodeRegions({ sector: 0, table }));
}

const filled = (path: number): number[] => new Array<number>(regions).fill(path);

async function lifecycle(t: Test, engine: string): Promise<void> {
  const { at, files, table, start, ctl, refused, routes } = setUp(t, engine);
  let daemon = await start();
  const wanted = [2, 2, 2, 2, 0, 0, 0, 0, 1, 1, 1, 1, 2, 1, 0, 2];

  await t.test('packs text, uploads it, and routes by it', async (t) => {
    await ctl('create', 'vol', '--table', table());
    t.same(
      await routes(),
      Array.from(filled(0), (_, region) => region % paths),
    );
    writeFileSync(at('text'), `${wanted.join('\n')}\n`);
    const shape = ['--paths', `${paths}`, '--region-size', '8'];
    t.match(
      await ctl('regions', 'pack', at('text'), at('bin'), ...shape),
      /16 regions of 4\.0 KiB/,
    );
    t.match(await ctl('upload', 'vol', at('bin')), /^vol: all 16 regions uploaded, 72 B\n$/);
    t.same(await routes(), wanted);
    t.same(readdirSync(at('state')).sort(), ['lock', 'vol.regions', 'vol.table']);
  });

  await t.test('downloads what was uploaded, whole and in parts, and shows it', async (t) => {
    await ctl('download', 'vol', at('out'));
    t.same(readFileSync(at('out')), readFileSync(at('bin')));
    await ctl('download', 'vol', at('part'), '--first', '12', '--count', '2');
    await ctl('regions', 'unpack', at('part'), at('lines'), '--lines');
    t.equal(readFileSync(at('lines'), 'utf8'), '2\n1\n');
    t.match(await ctl('upload', 'vol', at('part'), '--first', '0'), /regions 0 to 1 uploaded/);
    t.same((await routes()).slice(0, 4), [2, 1, 2, 2]);
    const text = await ctl('regions', 'show', 'vol', '--from', '0', '--to', '4');
    t.match(text, /^vol: regions 0 to 4 of 16 regions of 4\.0 KiB over 3 paths\n/);
    t.match(text, /\n4 runs:\n0 on path 2\n1 on path 1\n2-3 on path 2\n4 on path 0\n$/);
    await ctl('upload', 'vol', at('bin'));
  });

  await t.test('brings them back after SIGKILL', async (t) => {
    daemon.signal('SIGKILL');
    await daemon.ended;
    daemon = await start();
    t.same(await routes(), wanted);
  });

  await t.test('stores what messages change, and what a reload keeps', async (t) => {
    await ctl('message', 'vol', '0', 'set_region_mappings', '0:0', ':0', 'R1,1');
    const changed = [0, 0, 0, ...wanted.slice(3)];
    t.same(await routes(), changed);
    await ctl('load', 'vol', '--table', table(regions - 4, [...files, files[0] as string]));
    await ctl('resume', 'vol');
    t.same(await routes(), changed.slice(0, regions - 4));
    daemon.signal('SIGKILL');
    await daemon.ended;
    daemon = await start();
    t.same(await routes(), changed.slice(0, regions - 4));
    await ctl('load', 'vol', '--table', table());
    await ctl('resume', 'vol');
    await ctl('upload', 'vol', at('bin'));
  });

  await t.test('moves regions, and knows after SIGKILL where they are', async (t) => {
    const said = await ctl('regions', 'move', 'vol', '--from', '2', '--to', '1', '0-3', '12');
    t.equal(said, 'vol: 5 of 5 regions moved from path 2 to path 1 (20.0 KiB)\n');
    daemon.signal('SIGKILL');
    await daemon.ended;
    daemon = await start();
    // What was on path 2 has been copied, its mark with it; only the table tells.
    t.same(await routes(), wanted);
    await ctl('regions', 'unpack', at('bin'), at('lines'), '--lines');
    await ctl('download', 'vol', at('out'));
    await ctl('regions', 'unpack', at('out'), at('lines'), '--lines');
    const moved = [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 2];
    t.equal(readFileSync(at('lines'), 'utf8'), `${moved.join('\n')}\n`);
    t.match(await refused('regions', 'move', 'vol', '--from', '1', '--to', '1'), /path 1, wanted/);
    t.match(await ctl('regions', 'move', 'vol', '--cancel'), /^vol: nothing was ever moved, idle/);
  });

  await t.test('refuses what does not fit, with the reason', async (t) => {
    const bad = readFileSync(at('bin'));
    bad[64] = 0xff;
    writeFileSync(at('bad'), bad);
    t.match(await refused('upload', 'vol', at('bad')), /^mapperctl: upload vol: CRC-32C of the sl/);
    t.match(await refused('upload', 'vol', at('none')), /^mapperctl: read ".*none": ENOENT/);
    t.match(
      await refused('upload', 'nope', at('bin')),
      /^mapperctl: upload nope: no device "nope"/,
    );
    await ctl('create', 'plain', '--table', '0 8 zero');
    t.match(
      await refused('upload', 'plain', at('bin')),
      /zero: the target has no table of regions/,
    );
    t.match(await refused('download', 'vol', at('out'), '--first', '16'), /it has 16/);
    const snapshot = await refused('snapshot', 'vol', 'snap');
    t.match(
      snapshot,
      /"vol" has its regions in its own table \(switch\): put a linear device on it/,
    );
  });

  await t.test('renames, and stays down when its file is broken', async (t) => {
    await ctl('rename', 'vol', 'new');
    t.same(readdirSync(at('state')).sort(), ['lock', 'new.regions', 'new.table', 'plain.table']);
    t.equal(await daemon.stop(), 0);
    truncateSync(at('state/new.regions'), 70);
    daemon = await start();
    t.equal(await ctl('ls'), 'plain\t(open: 0)\n');
    const told = daemon.log.find(({ level }) => level === 'error');
    t.match(told, { device: 'new', msg: /^"new.regions": slots have 6 bytes, wanted 8/ });
    await ctl('remove', 'new');
    t.same(readdirSync(at('state')).sort(), ['lock', 'plain.table']);
    t.equal(await daemon.stop(), 0);
  });
}

/** Whole tables in which all is on one path take turns: no read may find two of them. */
async function neverMixed(t: Test, engine: string): Promise<void> {
  const { at, table, start, ctl } = setUp(t, engine);
  const daemon = await start();
  await ctl('create', 'vol', '--table', table());
  const client = await ControlClient.connect([at('c')]);
  await client.upload({ name: 'vol' }, bytesOf(filled(0)));
  const disks = await Promise.all(Array.from({ length: 4 }, () => openExport(at('n'), 'vol')));
  let reads = 0;
  let mixed = 0;
  const seen = new Set<number>();
  let uploading = true;
  const readers = disks.map(async (disk) => {
    while (uploading) {
      const bytes = await disk.read(0, regions * regionBytes);
      const first = bytes[0] as number;
      if (!bytes.every((byte) => byte === first)) mixed++;
      seen.add(first - 1);
      reads++;
    }
  });
  for (let round = 0; round < 60; round++) {
    await client.upload({ name: 'vol' }, bytesOf(filled(round % paths)));
  }
  uploading = false;
  await Promise.all(readers);
  t.equal(mixed, 0, `of ${reads} reads`);
  t.ok(seen.size > 1, 'reads went by different tables');
  for (const disk of disks) disk.close();
  await client.close();
  t.equal(await daemon.stop(), 0);
}

let told = false;
for (const engine of ['uring', 'node']) {
  t.test(`on the ${engine} engine`, async (t) => {
    const probe = new DaemonProcess(['--engine', engine, '--control', 'none']);
    running.add(probe);
    void probe.ended.then(() => running.delete(probe));
    if ((await probe.ready()) === null) {
      t.equal(engine, 'uring', 'the node engine is everywhere');
      t.comment('skipped: no uring here');
      return;
    }
    await probe.stop();
    // Nothing of this depends on the engine: the best one will do.
    if (!told) await t.test('region tables of a device', (t) => lifecycle(t, engine));
    told = true;
    await t.test('a read under uploads sees one table', (t) => neverMixed(t, engine));
  });
}
