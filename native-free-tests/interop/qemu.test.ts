/** QEMU's client: patterns by qemu-io, whole images by qemu-img. */

import { readFileSync } from 'node:fs';
import t from 'tap';
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
import { fail, run, succeed } from './programs.js';

const bytes = 32 * MiB;

function qemuIo(uri: string, ...commands: string[]): Promise<string> {
  const words = commands.flatMap((command) => ['-c', command]);
  return succeed('qemu-io', ['-f', 'raw', '-t', 'none', ...words, uri]);
}

/** Commands in the order they are given; qemu-io ends with 1 if a pattern is not found. */
const conversations: Record<string, string[]> = {
  'a pattern': ['write -P 0xa5 0 64k', 'read -P 0xa5 0 64k'],
  'patterns at odd places': [
    'write -P 1 1 511',
    'write -P 2 512 1',
    'write -P 3 513 70001',
    'read -P 1 1 511',
    'read -P 2 512 1',
    'read -P 3 513 70001',
  ],
  'FUA and flush': ['write -f -P 0x3c 60k 4k', 'flush', 'read -P 0x3c 60k 4k'],
  zeroes: [
    'write -P 0xff 0 1M',
    'write -z 4k 8k',
    'write -z -u 32k 4k',
    'write -z -f 100k 100k',
    'write -z -u 513 3',
    'read -P 0xff 0 513',
    'read -P 0 513 3',
    'read -P 0xff 516 3580',
    'read -P 0 4k 8k',
    'read -P 0xff 12k 20k',
    'read -P 0 32k 4k',
    'read -P 0xff 36k 64k',
    'read -P 0 100k 100k',
    'read -P 0xff 200k 824k',
  ],
  discard: [
    'write -P 0x11 1M 1M',
    'discard 1280k 64k',
    'read -P 0x11 1M 256k',
    'read -P 0x11 1344k 704k',
    'write -P 0x22 1280k 64k',
    'read -P 0x22 1280k 64k',
  ],
  'many at once': [
    ...Array.from({ length: 24 }, (_, i) => `aio_write -P ${i + 1} ${i}M 1M`),
    'aio_flush',
    ...Array.from({ length: 24 }, (_, i) => `aio_read -P ${i + 1} ${i}M 1M`),
    'aio_flush',
    'aio_write -z 3M 2M',
    'aio_flush',
    'read -P 3 2M 1M',
    'read -P 0 3M 2M',
    'read -P 6 5M 1M',
  ],
  vectors: ['writev -P 0x66 12345 512 1024 4096 333', 'readv -P 0x66 12345 333 4096 1024 512'],
  'the last bytes': [`write -P 7 ${bytes - 1} 1`, `read -P 7 ${bytes - 1} 1`],
};

eachEngine(t, 'qemu-io', ['qemu-io'], async (t, engine) => {
  const files = new Scratch(t);
  const devices = {
    disk: linear(files.sparse('disk.img', bytes), bytes),
    memory: `0 ${sectorsOf(bytes)} memory`,
  };
  await withDaemon(t, { engine, devices }, async (daemon) => {
    for (const [title, commands] of Object.entries(conversations)) {
      await t.test(title, async (t) => {
        await t.resolves(qemuIo(daemon.uri('disk'), ...commands), 'a file');
        await t.resolves(qemuIo(daemon.tcpUri('memory'), ...commands), 'memory');
      });
    }
    await t.test('finds a wrong pattern', async (t) => {
      const command = ['-f', 'raw', '-c', 'read -P 0x99 0 64k', daemon.uri('disk')];
      t.match(await run('qemu-io', command), {
        code: 1,
        stdout: /Pattern verification failed/,
      });
    });
  });
});

interface MapEntry {
  start: number;
  length: number;
  zero: boolean;
  data: boolean;
}

async function qemuMap(daemon: Daemon, name: string): Promise<MapEntry[]> {
  const args = ['map', '-f', 'raw', '--output=json', daemon.uri(name)];
  return JSON.parse(await succeed('qemu-img', args));
}

eachEngine(t, 'qemu-img', ['qemu-img', 'qemu-io'], async (t, engine) => {
  const files = new Scratch(t);
  const source = files.pattern('source.img', bytes, 9);
  const devices = {
    disk: linear(files.sparse('disk.img', bytes), bytes),
    memory: `0 ${sectorsOf(bytes)} memory`,
    holes: linear(files.sparse('holes.img', bytes), bytes),
  };
  await withDaemon(t, { engine, devices }, async (daemon) => {
    await t.test('info', async (t) => {
      const text = await succeed('qemu-img', ['info', '--output=json', daemon.uri('disk')]);
      t.match(JSON.parse(text), { format: 'raw', 'virtual-size': bytes });
    });
    await t.test('convert raw to an export, compare', async (t) => {
      for (const uri of [daemon.uri('disk'), daemon.tcpUri('memory')]) {
        const to = ['convert', '-n', '-W', '-m', '8', '-f', 'raw', '-O', 'raw'];
        await succeed('qemu-img', [...to, source, uri]);
        t.match(await succeed('qemu-img', compare(source, uri)), /Images are identical/);
      }
      t.ok(sameContent(source, files.file('disk.img')));
    });
    await t.test('compare finds one byte', async (t) => {
      await qemuIo(daemon.uri('memory'), `write -P 0 ${bytes - 5000} 1`);
      const text = await run('qemu-img', compare(source, daemon.uri('memory')));
      t.match(text, { code: 1, stdout: /Content mismatch/ });
    });
    await t.test('convert an export to qcow2 and back', async (t) => {
      const qcow2 = files.file('image.qcow2');
      const there = ['convert', '-c', '-f', 'raw', '-O', 'qcow2', daemon.uri('disk'), qcow2];
      await succeed('qemu-img', there);
      t.match(await succeed('qemu-img', ['check', qcow2]), /No errors were found/);
      const back = ['convert', '-n', '-f', 'qcow2', '-O', 'raw', qcow2, daemon.uri('memory')];
      await succeed('qemu-img', back);
      const same = await succeed('qemu-img', compare(daemon.uri('disk'), daemon.uri('memory')));
      t.match(same, /Images are identical/);
    });
    await t.test('serves qcow2 as raw bytes that qemu can use', async (t) => {
      const make = ['create', '-f', 'qcow2', daemon.uri('holes'), `${4 * MiB}`];
      await succeed('qemu-img', make);
      const io = ['-f', 'qcow2', '-c', 'write -P 0x5a 1M 1M', '-c', 'read -P 0x5a 1M 1M'];
      await succeed('qemu-io', [...io, daemon.uri('holes')]);
      t.match(await succeed('qemu-img', ['check', daemon.uri('holes')]), /No errors were found/);
      t.equal(readFileSync(files.file('holes.img')).toString('latin1', 0, 4), 'QFI\xfb');
    });
    await t.test('map', async (t) => {
      await qemuIo(daemon.uri('memory'), `write -z -u 0 ${bytes}`, 'write -P 1 1M 64k');
      t.match(await qemuMap(daemon, 'memory'), [
        { start: 0, length: MiB, zero: true, data: false },
        { start: MiB, length: 64 * KiB, zero: false, data: true },
        {
          start: MiB + 64 * KiB,
          length: bytes - MiB - 64 * KiB,
          zero: true,
          data: false,
        },
      ]);
      t.match(await qemuMap(daemon, 'disk'), [{ start: 0, length: bytes, data: true }]);
    });
    await t.test('bench', async (t) => {
      const words = ['bench', '-f', 'raw', '-t', 'none', '-c', '2000', '-d', '16', '-s', '4096'];
      await t.resolves(succeed('qemu-img', [...words, daemon.uri('disk')]), 'reads');
      const writes = ['-w', '--flush-interval=50', '--pattern=9'];
      await t.resolves(succeed('qemu-img', [...words, ...writes, daemon.uri('disk')]), 'writes');
    });
    await t.test('resize is refused', async (t) => {
      const grow = ['resize', '-f', 'raw', daemon.uri('disk'), `${2 * bytes}`];
      t.match(await fail('qemu-img', grow), /qemu-img/);
    });
  });
});

function compare(a: string, b: string): string[] {
  return ['compare', '-f', 'raw', '-F', 'raw', a, b];
}
