/**
 * Disks that fail under load: errors go to the requests concerned, snapshots become Invalid or
 * Overflow as in the kernel, other devices of the daemon do not notice, and the log says what
 * failed and where. See failing-bench.ts for the devices.
 */

import { mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { eachEngine, MiB, Scratch, withDaemon } from '../interop/harness.js';
import { fail, python, succeed } from '../interop/programs.js';
import { CMD } from '../interop/raw-client.js';
import { Bench, bytes, EIO, ENOSPC, EPERM, sectors } from './failing-bench.js';
import { Journal } from './journal.js';
import { cannotMount, cannotMountFiles, mount } from './mounts.js';

eachEngine(t, 'a full disk', ['nbdcopy', 'prlimit'], async (t, engine) => {
  await t.test('on a small file system', { skip: cannotMount() }, async (t) => {
    const files = new Scratch(t);
    const folder = await mount(t, files, 'mounted', '-t', 'tmpfs', '-o', 'size=4m', 'none');
    const ballast = `${folder}/ballast`;
    writeFileSync(ballast, Buffer.alloc(3 * MiB));
    await withDaemon(t, { engine }, async (daemon) => {
      const bench = new Bench(t, files, daemon);
      await bench.create(folder);
      const bad = await bench.load('bad', bench.bad, [ENOSPC]);
      const good = await bench.load('vol', bench.volume);
      const loads = [bad, good];
      await bench.until(loads, () => bad.failed > 20);
      await bench.until(loads, async () => (await bench.status('snap')) === 'Invalid');
      await bench.goesOn(good, loads, 'the origin');
      await bench.snapshotIsInvalid();
      rmSync(ballast);
      // What was under way may still fail; then no more does.
      await bench.goesOn(bad, loads, 'the device that has room again');
      const { failed } = bad;
      await bench.goesOn(bad, loads, 'it');
      t.equal(bad.failed, failed, 'without errors');
      await Promise.all(loads.map((load) => load.stop()));
      await bench.logTells(`${folder}/bad.img`, 'ENOSPC');
      await bench.logTells(`${folder}/snap.cow`, 'ENOSPC');
      await bench.logTellsOf('bad', 'ENOSPC');
      await bench.check('bad', bench.bad);
      await bench.check('vol', bench.volume);
    });
  });
  await t.test('that the state directory is on', { skip: cannotMount() }, async (t) => {
    const files = new Scratch(t);
    const folder = await mount(t, files, 'mounted', '-t', 'tmpfs', '-o', 'size=64k', 'none');
    const ballast = `${folder}/ballast`;
    const args = ['--state', `${folder}/state`];
    const table = (name: string): string => `0 ${sectors} linear ${files.sparse(name, bytes)} 0`;
    await withDaemon(t, { engine, args }, async (daemon) => {
      const bench = new Bench(t, files, daemon);
      await daemon.call('create', { name: 'vol', table: table('vol.img') });
      const good = await bench.load('vol', bench.volume);
      await succeed('sh', ['-c', 'cat /dev/zero > "$1" 2>/dev/null || true', 'sh', ballast]);
      const create = daemon.call('create', { name: 'more', table: table('more.img') });
      await t.rejects(create, { code: 'ENOSPC', message: /more.*ENOSPC/ });
      t.same(
        (await daemon.call('ls', {})).map(({ name }) => name),
        ['vol'],
        'there is no half of it',
      );
      await bench.goesOn(good, [good], 'what is there');
      rmSync(ballast);
      await daemon.call('create', { name: 'more', table: table('more.img') });
      await good.stop();
      await bench.check('vol', bench.volume);
    });
    await withDaemon(t, { engine, args }, async (daemon) => {
      t.same((await daemon.call('ls', {})).map(({ name }) => name).sort(), ['more', 'vol']);
    });
  });
  await t.test('files may not become longer', async (t) => {
    const files = new Scratch(t);
    await withDaemon(t, { engine }, async (daemon) => {
      const bench = new Bench(t, files, daemon);
      // The end of "bad", and most of the COW, are behind what is allowed.
      const cow = `0 ${2 * sectors} linear ${files.sparse('long.cow', 4 * bytes)} ${sectors - 512}`;
      await daemon.call('create', { name: 'cow', table: cow });
      await bench.create(files.path, 'dm:cow');
      const table = `0 ${sectors} linear ${files.file('bad.img')} 1024`;
      await daemon.call('load', { name: 'bad', table });
      await daemon.call('resume', { name: 'bad' });
      await succeed('prlimit', ['--pid', `${daemon.pid}`, `--fsize=${bytes}`]);
      const bad = await bench.load('bad', bench.bad, [ENOSPC]);
      const good = await bench.load('vol', bench.volume);
      const loads = [bad, good];
      await bench.until(loads, () => bad.failed > 20 && bad.answered > 20);
      await bench.until(loads, async () => (await bench.status('snap')) === 'Invalid');
      await bench.goesOn(good, loads, 'the origin');
      await bench.snapshotIsInvalid();
      await Promise.all(loads.map((load) => load.stop()));
      await bench.logTells(files.file('bad.img'), 'EFBIG');
      await bench.logTells(files.file('long.cow'), 'EFBIG');
      await bench.logTellsOf('bad', 'EFBIG');
      await bench.check('bad', bench.bad);
      await bench.check('vol', bench.volume);
    });
  });
  await t.test('a COW is full', async (t) => {
    const files = new Scratch(t);
    await withDaemon(t, { engine }, async (daemon) => {
      const bench = new Bench(t, files, daemon);
      const cow = files.sparse('small.cow', bytes / 4);
      await bench.create(files.path, cow, 'PO');
      const snapshot = new Journal(sectors);
      const full = await bench.load('snap', snapshot, [EIO]);
      await bench.until([full], () => full.failed > 20);
      await bench.snapshotIsFull();
      await full.stop();
      await bench.check('snap', snapshot);
      const good = await bench.load('vol', bench.volume);
      await bench.until([good], async () => (await bench.status('snap')) === 'Invalid');
      await bench.goesOn(good, [good], 'the origin');
      await good.stop();
      await bench.snapshotIsInvalid();
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
  await t.test('its file system is shut down', { skip: cannotMountFiles() }, async (t) => {
    const files = new Scratch(t);
    const image = files.sparse('ext4.img', 32 * MiB);
    await succeed('mkfs.ext4', ['-q', '-F', image]);
    const folder = await mount(t, files, 'mounted', '-t', 'ext4', '-o', 'loop', image);
    await withDaemon(t, { engine }, async (daemon) => {
      const bench = new Bench(t, files, daemon);
      await bench.create(folder);
      // EPERM is what NBD has for EROFS, which such a file system says of some of them.
      const bad = await bench.load('bad', bench.bad, [EIO, EPERM]);
      const good = await bench.load('vol', bench.volume);
      const loads = [bad, good];
      await bench.until(loads, () => bad.answered > 50 && good.answered > 50);
      // EXT4_IOC_SHUTDOWN, without flushing anything.
      const shutdown = 'fcntl.ioctl(os.open(sys.argv[1], 0), 0x8004587d, struct.pack("I", 2))';
      await python('-c', `import fcntl, os, struct, sys\n${shutdown}`, folder);
      await bench.until(loads, () => bad.failed > 20);
      await bench.until(loads, async () => (await bench.status('snap')) === 'Invalid');
      await bench.goesOn(good, loads, 'the origin');
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

eachEngine(
  t,
  'a file system that cannot be written',
  ['nbdcopy', 'mkfs.ext4'],
  async (t, engine) => {
    await t.test('from one moment to the next', { skip: cannotMountFiles() }, async (t) => {
      const files = new Scratch(t);
      const image = files.sparse('ext4.img', 32 * MiB);
      await succeed('mkfs.ext4', ['-q', '-F', image]);
      const options = ['-t', 'ext4', '-o', 'loop,errors=remount-ro'];
      const folder = await mount(t, files, 'mounted', ...options, image);
      await withDaemon(t, { engine }, async (daemon) => {
        const bench = new Bench(t, files, daemon);
        await bench.create(folder);
        const bad = await bench.load('bad', bench.bad, [EPERM, EIO]);
        const good = await bench.load('vol', bench.volume);
        const loads = [bad, good];
        await bench.until(loads, () => bad.answered > 50 && good.answered > 50);
        // As ext4 does by itself when its disk has an error.
        await succeed('mount', ['-o', 'remount,abort', folder]);
        await bench.until(loads, () => bad.failed > 20);
        await bench.until(loads, async () => (await bench.status('snap')) === 'Invalid');
        await bench.goesOn(good, loads, 'the origin');
        await Promise.all(loads.map((load) => load.stop()));
        t.equal(await bench.request('bad', CMD.read, 0, 4096), 0, 'it can be read');
        await bench.logTells(`${folder}/bad.img`, 'EROFS');
        await bench.logTellsOf('bad', 'EROFS');
        await bench.snapshotIsInvalid();
        await bench.check('vol', bench.volume);
        for (const name of ['snap', 'bad']) await daemon.call('remove', { name, force: true });
      });
    });
    await t.test('a table says so at once', { skip: cannotMount() }, async (t) => {
      const files = new Scratch(t);
      mkdirSync(files.file('mounted'));
      const image = files.sparse('mounted/disk.img', bytes);
      const folder = await mount(t, files, 'mounted', '--bind', files.file('mounted'));
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
  },
);
