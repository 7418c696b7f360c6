/** A second daemon on the same files or the same state directory, whichever engine either has. */

import { mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import t from 'tap';
import { ControlClient } from '../../src/ctl/client.js';
import { MiB } from './harness.js';
import { commandOf, ModeDaemon, onEachEngine, runMapperd } from './mode-daemon.js';
import { CMD, RawClient } from './raw-client.js';

const bytes = 4 * MiB;
const sectors = bytes / 512;
const other = { uring: 'node', node: 'uring' } as const;

onEachEngine(t, 'files that are in use', [], async (t, engine, files) => {
  const image = files.sparse('disk.img', bytes);
  const link = files.file('link.img');
  symlinkSync(image, link);
  const socket = (name: string): string => files.file(`${name}.sock`);
  const args = (name: string): string[] => ['-U', socket(name), '--control', socket(`${name}.c`)];
  const start = (name: string, ...more: string[]): Promise<ModeDaemon> =>
    ModeDaemon.start(t, files, commandOf(engine, ...args(name), ...more));
  const inUse = (holder: ModeDaemon) => new RegExp(`\\.img is in use by process ${holder.pid}\\b`);
  const refused = (...more: string[]) => runMapperd(engine, ...args('second'), ...more);

  await t.test('by a writer are refused to all others, by name', async (t) => {
    const first = await start('first', image);
    for (const more of [[image], ['-r', link]]) {
      for (const second of [engine, other[engine]]) {
        const { code, stderr } = await refused('--engine', second, ...more);
        if (stderr.includes(`engine ${second}:`)) continue;
        t.equal(code, 1, `${second} ${more.join(' ')}`);
        t.match(stderr, inUse(first));
      }
    }
    const unlocked = await start('unlocked', '--no-lock', image);
    await unlocked.stop();
    await first.stop();
    const again = await start('again', link);
    await again.stop();
  });

  await t.test('by readers are for all readers', async (t) => {
    const readers = [await start('one', '-r', image), await start('two', '-r', link)];
    const { code, stderr } = await refused(image);
    t.equal(code, 1);
    for (const { pid } of readers) t.match(stderr, new RegExp(`processes .*\\b${pid}\\b`));
    for (const reader of readers) await reader.stop();
    const writer = await start('writer', image);
    await writer.stop();
  });

  await t.test('may be in several tables of one daemon, and are its until the last', async (t) => {
    const first = await start('first', ...['a', 'b'].flatMap(halfOf(image)));
    const client = await ControlClient.connect([socket('first.c')]);
    const table = `0 8 linear ${link} 0`;
    await client.call('create', { name: 'c', readOnly: true, table });
    await client.call('remove', { name: 'a' });
    t.match((await refused(image)).stderr, inUse(first));
    await client.call('remove', { name: 'b' });
    t.match((await refused(image)).stderr, inUse(first), 'a reader that was a writer');
    await client.call('remove', { name: 'c' });
    const second = await start('second', image);
    const busy = { code: 'EBUSY', message: inUse(second) };
    await t.rejects(client.call('create', { name: 'd', table }), busy);
    await client.call('create', { name: 'vol', table: '0 8192 zero' });
    const before = readFileSync(image);
    const snapshot = { origin: 'vol', name: 'snap', cow: image, wipe: true };
    await t.rejects(client.call('snapshot', snapshot), busy, 'nor is it wiped');
    t.ok(before.equals(readFileSync(image)));
    const copy = { source: 'dm:vol', destinations: [image], length: 512 };
    await t.rejects(client.call('copy', copy), busy, 'nor copied to');
    await client.close();
    await first.stop();
    await second.stop();
  });

  await t.test('by one that was killed are free when it has gone', async () => {
    for (let round = 0; round < 2; round++) {
      const daemon = await start('killed', image);
      const client = await RawClient.ready(socket('killed'), '');
      const payload = Buffer.alloc(4096, round);
      await client.request({ type: CMD.write, offset: 0, length: 4096, payload });
      daemon.signal('SIGKILL');
      await daemon.ended.catch(() => {});
      client.destroy();
    }
    const last = await start('killed', image);
    await last.stop();
  });

  await t.test('with a state directory: it is of one daemon', async (t) => {
    const state = files.file('state');
    mkdirSync(state);
    const first = await start('first', '--state', state);
    for (const second of [engine, other[engine]]) {
      const { code, stderr } = await refused('--engine', second, '--state', `${state}/.`);
      if (stderr.includes(`engine ${second}:`)) continue;
      t.equal(code, 1);
      t.match(stderr, `state directory "${state}/." is in use by process ${first.pid}`);
    }
    first.signal('SIGKILL');
    await first.ended.catch(() => {});
    const next = await start('next', '--state', state);
    await next.stop();
  });
});

/** Halves of the image, as options. */
function halfOf(image: string): (name: string, index: number) => string[] {
  const half = sectors / 2;
  return (name, index) => ['--device', `${name}: 0 ${half} linear ${image} ${index * half}`];
}
