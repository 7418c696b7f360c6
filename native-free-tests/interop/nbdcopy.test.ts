/**
 * Whole devices copied in and out by nbdcopy, with several connections and requests of many sizes,
 * and compared byte for byte; nbdkit's plugins as oracles of what was written.
 */

import t, { type Test } from 'tap';
import {
  type Daemon,
  eachEngine,
  linear,
  MiB,
  Scratch,
  sameContent,
  sectorsOf,
  withDaemon,
} from './harness.js';
import { fail, succeed } from './programs.js';

const bytes = 24 * MiB;
const sectors = sectorsOf(bytes);

eachEngine(t, 'nbdcopy', ['nbdcopy'], async (t, engine) => {
  const files = new Scratch(t);
  const source = files.pattern('source.img', bytes, 4);
  const disk = files.sparse('disk.img', bytes);
  const other = files.sparse('other.img', bytes);
  const devices = {
    disk: linear(disk, bytes),
    other: linear(other, bytes),
    memory: `0 ${sectors} memory`,
  };
  await withDaemon(t, { engine, devices }, async (daemon) => {
    await t.test('writes a file into a device', async (t) => {
      await succeed('nbdcopy', ['-C', '4', '-T', '2', source, daemon.uri('disk')]);
      t.ok(sameContent(source, disk));
    });
    await t.test('reads a device into a file', async (t) => {
      const copy = files.file('copy.img');
      await succeed('nbdcopy', ['-C', '4', '-R', '32', daemon.uri('disk'), copy]);
      t.ok(sameContent(source, copy));
    });
    await t.test('copies from device to device', async (t) => {
      await succeed('nbdcopy', ['-C', '4', daemon.uri('disk'), daemon.tcpUri('memory')]);
      await succeed('nbdcopy', ['-C', '4', daemon.tcpUri('memory'), daemon.uri('other')]);
      t.ok(sameContent(source, other));
    });
    await t.test('copies synchronously and flushes', async (t) => {
      const args = ['--synchronous', '--flush', source, daemon.uri('memory')];
      await succeed('nbdcopy', args);
      t.ok(await holds(files, daemon.uri('memory'), source));
    });
    await t.test('copies with requests of every size', async (t) => requestSizes(t, daemon, files));
    await t.test('keeps holes apart from data', async (t) => sparse(t, daemon, files));
    await t.test('reads all into nothing', async (t) => {
      await t.resolves(succeed('nbdcopy', [daemon.uri('disk'), 'null:']));
    });
  });
});

/** Whether an export reads like the file. */
async function holds(files: Scratch, uri: string, wanted: string): Promise<boolean> {
  const copy = files.file('back.img');
  await succeed('nbdcopy', [uri, copy]);
  return sameContent(copy, wanted);
}

async function requestSizes(t: Test, daemon: Daemon, files: Scratch): Promise<void> {
  for (const [seed, size] of [4096, 65_536, 262_144, 8 * MiB, 32 * MiB].entries()) {
    const source = files.pattern('sized.img', bytes, 100 + seed);
    const option = `--request-size=${size}`;
    await succeed('nbdcopy', [option, source, daemon.uri('other')]);
    t.ok(sameContent(source, files.file('other.img')), `${option}, written`);
    const copy = files.file('sized-copy.img');
    await succeed('nbdcopy', [option, daemon.tcpUri('other'), copy]);
    t.ok(sameContent(source, copy), `${option}, read`);
  }
}

/** A source with holes into a device full of data: what was there must be gone. */
async function sparse(t: Test, daemon: Daemon, files: Scratch): Promise<void> {
  const source = files.sparse('sparse.img', bytes);
  const at = (offset: number, length: number): Promise<string> =>
    succeed('dd', [
      'if=/dev/urandom',
      `of=${source}`,
      `seek=${offset}`,
      `count=${length}`,
      'bs=1',
      'oflag=seek_bytes',
      'conv=notrunc',
      'status=none',
    ]);
  await at(0, 1000);
  await at(5 * MiB + 123, 4097);
  await at(bytes - 513, 513);
  for (const name of ['disk', 'memory']) {
    for (const option of [[], ['--allocated'], ['--destination-is-zero']]) {
      const zero = option[0] === '--destination-is-zero';
      const before = zero
        ? files.sparse('before.img', bytes)
        : files.pattern('before.img', bytes, 5);
      await succeed('nbdcopy', ['--allocated', before, daemon.uri(name)]);
      await succeed('nbdcopy', [...option, source, daemon.uri(name)]);
      t.ok(await holds(files, daemon.uri(name), source), `${name} ${option.join('')}`);
    }
  }
}

eachEngine(t, 'nbdkit', ['nbdkit', 'nbdcopy', 'qemu-io'], async (t, engine) => {
  const files = new Scratch(t);
  const bytes = 256 * MiB;
  const disk = files.sparse('disk.img', bytes);
  const devices = {
    disk: linear(disk, bytes),
    memory: `0 ${sectorsOf(bytes)} memory`,
  };
  await withDaemon(t, { engine, devices }, async (daemon) => {
    const plugin = ['-U', '-', 'sparse-random', `${bytes}`, 'seed=7', 'percent=5', '--run'];
    for (const uri of [daemon.uri('disk'), daemon.tcpUri('memory')]) {
      const there = `nbdcopy "$uri" '${uri}'`;
      const back = `nbdcopy '${uri}' "$uri"`;
      await t.test('sparse-random finds again what it gave', async (t) => {
        await t.resolves(succeed('nbdkit', [...plugin, `${there} && ${back}`]));
      });
      await t.test('sparse-random finds a byte that was changed', async (t) => {
        await succeed('qemu-io', ['-f', 'raw', '-c', `write -P 0x77 ${bytes / 2 + 1} 1`, uri]);
        t.match(await fail('nbdkit', [...plugin, back]), /data|error/i);
      });
    }
    await t.test('checkwrite finds an export equal to the file', async (t) => {
      const source = files.pattern('source.img', 16 * MiB, 6);
      await daemon.control('create', 'checked', '--table', `0 ${sectorsOf(16 * MiB)} memory`);
      await succeed('nbdcopy', [source, daemon.uri('checked')]);
      const proxy = ['-U', '-', '--filter=checkwrite', 'nbd', `uri=${daemon.uri('checked')}`];
      const compare = (file: string): string[] => [...proxy, '--run', `nbdcopy '${file}' "$uri"`];
      await t.resolves(succeed('nbdkit', compare(source)), 'the file');
      const wrong = files.pattern('wrong.img', 16 * MiB, 7);
      t.match(await fail('nbdkit', compare(wrong)), /data|error/i, 'another file');
    });
    await t.test('its nbd plugin passes requests on', async (t) => {
      const proxy = ['-U', '-', '--filter=log', 'nbd', `uri=${daemon.tcpUri('checked')}`];
      const log = `logfile=${files.file('requests.log')}`;
      const copy = files.file('through.img');
      await succeed('nbdkit', [...proxy, log, '--run', `nbdcopy "$uri" '${copy}'`]);
      t.ok(sameContent(copy, files.file('source.img')));
    });
  });
});
