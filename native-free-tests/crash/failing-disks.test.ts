/**
 * Disks that fail under load: errors go to the requests concerned, snapshots become Invalid as in
 * the kernel, other devices of the daemon do not notice, and the log says what failed and where.
 *
 *   bad     a device on the disk that fails
 *   vol     an origin on a good disk, with "snap", whose COW is on the one that fails
 */

import { existsSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { random as randomFrom } from '../contract/pattern.js';
import { type Daemon, eachEngine, MiB, Scratch, withDaemon } from '../interop/harness.js';
import { fail, python, succeed } from '../interop/programs.js';
import { CMD, RawClient } from '../interop/raw-client.js';
import { Journal, sectorBytes } from './journal.js';
import { Load } from './load.js';

const sectors = 4096;
const bytes = sectors * sectorBytes;
const EIO = 5;
const ENOSPC = 28;

function isRoot(): string | false {
  return process.getuid?.() === 0 ? false : 'needs root, to mount';
}

function hasLoop(): string | false {
  return isRoot() || (existsSync('/dev/loop-control') ? false : 'needs loop devices');
}

/** A file system of the test's own, at a folder of its scratch directory. */
async function mount(t: Test, files: Scratch, ...words: string[]): Promise<string> {
  const folder = files.file('mounted');
  mkdirSync(folder, { recursive: true });
  await succeed('mount', [...words, folder]);
  t.teardown(() => succeed('umount', ['-l', folder]).catch(() => {}));
  return folder;
}

class Bench {
  readonly daemon: Daemon;
  readonly random = randomFrom(Date.now() % 2 ** 31);
  readonly files: Scratch;
  readonly volume = new Journal(sectors);
  readonly bad = new Journal(sectors);
  readonly #t: Test;

  constructor(t: Test, files: Scratch, daemon: Daemon) {
    this.#t = t;
    this.files = files;
    this.daemon = daemon;
  }

  /** "bad" and "snap" on files in that folder. */
  async create(folder: string, badBytes = bytes): Promise<void> {
    const { daemon, files } = this;
    for (const [name, size] of [
      ['bad.img', badBytes],
      ['snap.cow', 2 * bytes],
    ] as const) {
      writeFileSync(`${folder}/${name}`, '');
      truncateSync(`${folder}/${name}`, size);
    }
    const image = files.sparse('good.img', bytes);
    const create = (name: string, table: string): Promise<unknown> =>
      daemon.call('create', { name, table: `0 ${sectors} ${table}` });
    await create('bad', `linear ${folder}/bad.img 0`);
    await create('real', `linear ${image} 0`);
    await create('vol', 'snapshot-origin dm:real');
    await daemon.call('suspend', { name: 'vol' });
    await create('snap', `snapshot dm:real ${folder}/snap.cow P 8`);
    await daemon.call('resume', { name: 'vol' });
  }

  load(name: string, journal: Journal, tolerated: readonly number[] = []): Promise<Load> {
    return Load.start(this.daemon.socket, name, journal, this.random, tolerated);
  }

  /** Waits, for as long as neither load has ended. */
  async until(loads: readonly Load[], isSo: () => boolean | Promise<boolean>): Promise<void> {
    const deadline = Date.now() + 60_000;
    while (!(await isSo())) {
      if (Date.now() > deadline) throw new Error('it does not come to that');
      const ended = loads.map((load) => load.ended.then(() => 'ended'));
      if ((await Promise.race([sleep(2), ...ended])) === 'ended') throw new Error('a load ended');
    }
  }

  async status(name: string): Promise<string> {
    const [line] = await this.daemon.call('status', { name });
    return line !== undefined && 'words' in line ? line.words : '';
  }

  /** All of a device is as its journal has it, as nbdcopy reads it. */
  async check(name: string, journal: Journal): Promise<void> {
    const copy = this.files.file('copy');
    rmSync(copy, { force: true });
    await succeed('nbdcopy', [this.daemon.uri(name), copy]);
    journal.check(readFileSync(copy));
    this.#t.pass(`${name} holds what was answered`);
  }

  /** One request, and its error. */
  async request(name: string, type: number, offset: number, length: number): Promise<number> {
    const client = await RawClient.ready(this.daemon.socket, name, { structured: true });
    const payload = type === CMD.write ? { payload: Buffer.alloc(length, 1) } : { length };
    const { error } = await client.request({ type, offset, ...payload });
    client.destroy();
    return error;
  }

  /** A line of the log about that file with that code has the rest, too. */
  async logTells(path: string, code: string): Promise<void> {
    const told = (): boolean =>
      this.daemon.log.some((line) => 'path' in line && line.path === path);
    await this.until([], told);
    const lines = this.daemon.log.filter((line) => 'path' in line && line.path === path);
    const found = lines.find((line) => 'code' in line && line.code === code);
    this.#t.match(
      found,
      { level: /warn|error/, operation: String, offset: Number, length: Number, code },
      `the log tells of ${code} in ${path}`,
    );
    this.#t.ok(lines.length < 200, 'and does not drown in it');
  }

  /** "vol" has never failed and "snap" is Invalid, for good. */
  async snapshotIsInvalid(): Promise<void> {
    this.#t.equal(await this.status('snap'), 'Invalid');
    this.#t.equal(await this.request('snap', CMD.read, 0, 512), EIO);
    this.#t.equal(await this.request('snap', CMD.write, 0, 512), EIO);
    const told = this.daemon.log.filter(({ msg }) => /[Ii]nvalid/.test(msg));
    this.#t.ok(
      told.some((line) => 'device' in line && line.device === 'snap'),
      'the log tells that the snapshot is invalid',
    );
  }
}

eachEngine(t, 'a full disk', ['nbdcopy'], async (t, engine) => {
  await t.test('on a small file system', { skip: isRoot() }, async (t) => {
    const files = new Scratch(t);
    const folder = await mount(t, files, '-t', 'tmpfs', '-o', 'size=3m', 'none');
    const ballast = `${folder}/ballast`;
    writeFileSync(ballast, Buffer.alloc(2 * MiB));
    await withDaemon(t, { engine }, async (daemon) => {
      const bench = new Bench(t, files, daemon);
      await bench.create(folder);
      const bad = await bench.load('bad', bench.bad, [ENOSPC]);
      const good = await bench.load('vol', bench.volume);
      const loads = [bad, good];
      await bench.until(loads, () => bad.failed > 20);
      await bench.until(loads, async () => (await bench.status('snap')) === 'Invalid');
      const { answered } = good;
      await bench.until(loads, () => good.answered > answered + 100);
      t.pass('the origin goes on');
      await bench.snapshotIsInvalid();
      rmSync(ballast);
      await bench.until(loads, async () => {
        const { failed } = bad;
        await bench.until(loads, () => bad.answered % 50 === 0);
        return bad.failed === failed;
      });
      t.pass('where there is room again, writes go on');
      await Promise.all(loads.map((load) => load.stop()));
      await bench.logTells(`${folder}/bad.img`, 'ENOSPC');
      await bench.logTells(`${folder}/snap.cow`, 'ENOSPC');
      await bench.check('bad', bench.bad);
      await bench.check('vol', bench.volume);
    });
  });
});

eachEngine(t, 'files that are cut behind us', ['nbdcopy'], async (t, engine) => {
  const files = new Scratch(t);
  await withDaemon(t, { engine }, async (daemon) => {
    const bench = new Bench(t, files, daemon);
    await bench.create(files.path);
    t.equal(await bench.request('snap', CMD.write, 0, 4096), 0);
    truncateSync(files.file('snap.cow'), 8192);
    t.equal(await bench.request('snap', CMD.read, 0, 4096), EIO, 'nobody knows what was there');
    await bench.logTells(files.file('snap.cow'), 'EIO');
    const good = await bench.load('vol', bench.volume);
    await bench.until([good], () => good.answered > 100);
    const half = bytes / 2;
    truncateSync(files.file('bad.img'), half);
    t.equal(await bench.request('bad', CMD.read, half - 512, 512), 0);
    t.equal(await bench.request('bad', CMD.read, half, 512), EIO, 'what is gone cannot be read');
    t.equal(await bench.request('bad', CMD.read, half - 512, 1024), EIO, 'nor in part');
    await bench.logTells(files.file('bad.img'), 'EIO');
    t.equal(await bench.request('bad', CMD.write, bytes - 512, 512), 0, 'a write makes it longer');
    t.equal(await bench.request('bad', CMD.read, half, 512), 0);
    await good.stop();
    await bench.check('vol', bench.volume);
  });
});

eachEngine(t, 'a disk that is gone', ['nbdcopy', 'mkfs.ext4'], async (t, engine) => {
  await t.test('its file system is shut down', { skip: hasLoop() }, async (t) => {
    const files = new Scratch(t);
    const image = files.sparse('ext4.img', 32 * MiB);
    await succeed('mkfs.ext4', ['-q', '-F', image]);
    const folder = await mount(t, files, '-t', 'ext4', '-o', 'loop', image);
    await withDaemon(t, { engine }, async (daemon) => {
      const bench = new Bench(t, files, daemon);
      await bench.create(folder);
      const bad = await bench.load('bad', bench.bad, [EIO]);
      const good = await bench.load('vol', bench.volume);
      const loads = [bad, good];
      await bench.until(loads, () => bad.answered > 50 && good.answered > 50);
      // EXT4_IOC_SHUTDOWN, without flushing anything.
      const shutdown = 'fcntl.ioctl(os.open(sys.argv[1], 0), 0x8004587d, struct.pack("I", 2))';
      await python('-c', `import fcntl, os, struct, sys\n${shutdown}`, folder);
      await bench.until(loads, () => bad.failed > 20);
      await bench.until(loads, async () => (await bench.status('snap')) === 'Invalid');
      const { answered } = good;
      await bench.until(loads, () => good.answered > answered + 100);
      await Promise.all(loads.map((load) => load.stop()));
      t.equal(await bench.request('bad', CMD.write, 0, 4096), EIO);
      await bench.logTells(`${folder}/bad.img`, 'EIO');
      await bench.logTells(`${folder}/snap.cow`, 'EIO');
      await bench.snapshotIsInvalid();
      await bench.check('vol', bench.volume);
      // It cannot be flushed, so it goes by force.
      for (const name of ['snap', 'bad']) await daemon.call('remove', { name, force: true });
    });
  });
  await t.test('the device beneath fails, and comes back', async (t) => {
    const files = new Scratch(t);
    await withDaemon(t, { engine }, async (daemon) => {
      const bench = new Bench(t, files, daemon);
      await bench.create(files.path);
      await daemon.call('create', { name: 'over', table: `0 ${sectors} linear dm:bad 0` });
      const change = async (table: string): Promise<void> => {
        await daemon.call('load', { name: 'bad', table: `0 ${sectors} ${table}` });
        // What fails cannot be flushed.
        await daemon.call('suspend', { name: 'bad', noFlush: true });
        await daemon.call('resume', { name: 'bad' });
      };
      const over = await bench.load('over', bench.bad, [EIO]);
      const good = await bench.load('vol', bench.volume);
      const loads = [over, good];
      await bench.until(loads, () => over.answered > 50);
      t.equal(over.failed, 0);
      await change('error');
      await bench.until(loads, () => over.failed > 50);
      await change(`flakey ${files.file('bad.img')} 0 0 1 1 error_writes`);
      const { failed } = over;
      await bench.until(loads, () => over.failed > failed + 50);
      await change(`linear ${files.file('bad.img')} 0`);
      const { answered } = over;
      await bench.until(loads, () => over.answered > answered + 50);
      await Promise.all(loads.map((load) => load.stop()));
      t.match(await bench.status('snap'), /^[0-9]+\/[0-9]+ [0-9]+$/, 'the snapshot is well');
      await bench.check('over', bench.bad);
      await bench.check('vol', bench.volume);
    });
  });
});

eachEngine(t, 'a file system that cannot be written', ['nbdcopy'], async (t, engine) => {
  await t.test('a table says so at once', { skip: isRoot() }, async (t) => {
    const files = new Scratch(t);
    mkdirSync(files.file('mounted'));
    const image = files.sparse('mounted/disk.img', bytes);
    const folder = await mount(t, files, '--bind', files.file('mounted'));
    await succeed('mount', ['-o', 'remount,bind,ro', folder]);
    await withDaemon(t, { engine }, async (daemon) => {
      const table = `0 ${sectors} linear ${image} 0`;
      const call = daemon.call('create', { name: 'disk', table });
      await t.rejects(call, { code: 'EROFS', message: new RegExp(`${image}.*EROFS`) });
      await daemon.call('create', { name: 'disk', table, readOnly: true });
      const copy = await succeed('nbdcopy', [daemon.uri('disk'), files.file('copy')]);
      t.equal(copy, '');
      t.match(await fail('nbdcopy', [image, daemon.uri('disk')]), /read-only|not permitted/);
    });
  });
});
