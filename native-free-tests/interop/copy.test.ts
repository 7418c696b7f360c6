/**
 * Copies that people ask for, on the daemon as it is: between files and devices, compared by cmp
 * and qemu-img; holes kept, zeroes made holes; cancelled, and cut short by the end of the daemon.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, openSync, statSync, writeSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import type { CopyJobInfo } from '../../src/queue/commands.js';
import { fillPattern } from '../contract/pattern.js';
import {
  type Daemon,
  eachEngine,
  KiB,
  linear,
  MiB,
  Scratch,
  sameContent,
  sectorsOf,
  withDaemon,
} from './harness.js';
import { fail, requires, succeed } from './programs.js';

const bytes = 48 * MiB;
const mapperctl = fileURLToPath(new URL('../../src/mapperctl.js', import.meta.url));

/** Data of 1 MiB at every 4 MiB, holes between; with `zeroes` some data are zeroes. */
function halfSparse(files: Scratch, name: string): string {
  const path = files.sparse(name, bytes);
  const file = openSync(path, 'r+');
  const data = Buffer.alloc(MiB);
  for (let at = 0; at < bytes; at += 4 * MiB) {
    fillPattern(data, at, 3);
    // Written, and zeroes all the same.
    data.fill(0, 256 * KiB, 512 * KiB);
    writeSync(file, data, 0, MiB, at);
  }
  return path;
}

const allocated = (path: string): number => statSync(path).blocks * 512;

async function copy(daemon: Daemon, ...words: string[]): Promise<CopyJobInfo> {
  return JSON.parse(await daemon.control('copy', '--json', ...words)) as CopyJobInfo;
}

eachEngine(t, 'copies', ['cmp'], async (t, engine) => {
  const files = new Scratch(t);
  const source = halfSparse(files, 'source.img');
  const disk = files.sparse('disk.img', bytes);
  const devices = {
    source: linear(source, bytes),
    disk: linear(disk, bytes),
    memory: `0 ${sectorsOf(bytes)} memory`,
    slow: `0 ${sectorsOf(bytes)} delay ${source} 0 1000`,
  };
  await withDaemon(t, { engine, devices }, async (daemon) => {
    await t.test('from file to file', async (t) => {
      const made = files.file('made.img');
      const info = await copy(daemon, source, made);
      t.match(info, { state: 'done', totalBytes: bytes, doneBytes: bytes });
      await t.resolves(succeed('cmp', [source, made]));
      t.equal(statSync(made).mode & 0o777, 0o600);
      const most = allocated(source) + 64 * KiB;
      if (engine === 'uring') t.ok(allocated(made) <= most, 'holes stay holes');
      if (requires('qemu-img') === false) {
        await t.resolves(succeed('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', source, made]));
      }
    });

    await t.test('to several places, through devices', async (t) => {
      const made = files.file('several.img');
      await copy(daemon, 'dm:source', 'dm:memory', 'dm:disk', made, '--flush');
      t.ok(sameContent(source, disk));
      t.ok(sameContent(source, made));
      await copy(daemon, 'dm:memory', made, '--no-holes');
      t.ok(sameContent(source, made));
    });

    await t.test('zeroes become holes where they are looked for', async (t) => {
      const full = files.pattern('full.img', bytes, 8);
      const info = await copy(daemon, source, full, '--zeroes');
      t.match(info, { skippedBytes: bytes - (bytes / 4) * 0.75, methods: ['read and write'] });
      t.ok(sameContent(source, full));
      // A block more or less is the file system's own.
      const most = (bytes / 4) * 0.75 + 64 * KiB;
      if (engine === 'uring') t.ok(allocated(full) <= most, 'the file shrank');
      const made = files.file('thin.img');
      await copy(daemon, source, made, '--zeroes');
      t.ok(sameContent(source, made));
      t.ok(allocated(made) <= most);
    });

    await t.test('parts', async (t) => {
      const made = files.file('part.img');
      await copy(daemon, source, made, '--offset', '1000000', '--length', '5000001');
      t.equal(statSync(made).size, 5_000_001);
      await t.resolves(succeed('cmp', ['-i', '1000000:0', '-n', '5000001', source, made]));
      await copy(daemon, made, 'dm:memory', '--to-offset', '4k');
      await copy(daemon, 'dm:memory', made, '--offset', '4k', '--length', '5000001');
      await t.resolves(succeed('cmp', ['-i', '1000000:0', '-n', '5000001', source, made]));
    });

    await t.test('a text for people, and an error for those who want too much', async (t) => {
      const text = await daemon.control('copy', source, disk);
      t.match(text, /^copied 48\.0 MiB in \d+\.\d\d s, .*\/s(; .*)?; by [a-z_, ]+\n$/);
      const small = files.sparse('small.img', 4096);
      const why = `"${small}" has 4096 bytes, wanted ${bytes}`;
      const args = [mapperctl, '-c', daemon.controlSocket, 'copy', source, small];
      const stderr = await fail(process.execPath, args);
      t.equal(stderr, `mapperctl: copy ${source}: ${why}\n`);
      t.match(await daemon.control('jobs'), /\n\d+ {2}done {2}100 %.*source\.img -> /);
    });

    await t.test('cancelled, by its number or by Ctrl-C', async (t) => cancelled(t, daemon, files));

    await t.test('a device in use is not removed but by force', async (t) => {
      const made = files.file('forced.img');
      const id = (
        await daemon.control('copy', 'dm:slow', made, '--no-holes', '--background')
      ).trim();
      const remove = [mapperctl, '-c', daemon.controlSocket, 'remove', 'slow'];
      const stderr = await fail(process.execPath, remove);
      t.match(stderr, new RegExp(`in use by copy ${id}`));
      await daemon.control('remove', '--force', 'slow');
      const info = await daemon.call('job', { id: Number(id), waitMilliseconds: 10_000 });
      t.match(info, { state: 'failed', error: 'device "slow" was removed' });
    });

    await t.test('the daemon ends while it copies', async (t) => {
      const table = `0 ${sectorsOf(bytes)} delay ${source} 0 1000`;
      await daemon.call('create', { name: 'slow', table });
      const made = files.file('cut.img');
      await daemon.control('copy', 'dm:slow', made, '--no-holes', '--background');
      const end = await daemon.stop();
      t.match(end, { code: 0, stray: [] });
      t.ok(existsSync(made));
    });
  });
});

async function cancelled(t: Test, daemon: Daemon, files: Scratch): Promise<void> {
  const slowly = ['copy', 'dm:slow', files.file('slow.img'), '--no-holes'];
  const id = (await daemon.control(...slowly, '--background')).trim();
  await daemon.control('cancel', id);
  const info = await daemon.call('job', { id: Number(id), waitMilliseconds: 10_000 });
  t.equal(info.state, 'cancelled');
  t.ok(info.doneBytes < bytes);

  const child = spawn(process.execPath, [mapperctl, '-c', daemon.controlSocket, ...slowly]);
  let stderr = '';
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  const running = (one: CopyJobInfo): boolean => one.state === 'running';
  while (!(await daemon.call('jobs', {})).some(running));
  child.kill('SIGINT');
  const [code] = (await once(child, 'close')) as [number | null];
  t.equal(code, 1);
  t.match(stderr, /^mapperctl: copy \d+ was cancelled after .* of 48\.0 MiB\n$/);
}
