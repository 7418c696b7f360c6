/** Change maps of origins and snapshots: what they call clean is as it was. */

import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { EIO } from '../../src/base/errno.js';
import { changeSteps } from '../../src/base/limits.js';
import { type ChangeMap, EXTENT_DIRTY } from '../../src/device/change-map.js';
import { ExtentList } from '../../src/device/extent-list.js';
import { TRIM, WRITE } from '../../src/device/io.js';
import { type Ended, pattern } from '../device/io-client.js';
import type { Rig } from '../snapshot/rig.js';
import { ScriptedRig } from '../snapshot/scripted-rig.js';
import { Volume } from '../snapshot/volume.js';
import { ChangeRun, steps } from './change-run.js';

const GiB = 2 ** 30;

function mapsOf(rig: Rig, device: string): readonly ChangeMap[] {
  return rig.devices.get(device).changeMaps();
}

/** The device's map of that name. */
function mapOf(rig: Rig, device: string, name: string): ChangeMap {
  const map = mapsOf(rig, device).find((one) => one.name === name);
  if (map === undefined) throw new Error(`${device} offers no map "${name}"`);
  return map;
}

/** Pairs of length and flags, or the errno. */
function told(
  map: ChangeMap,
  offset: number,
  length: number,
  capacity = 64,
): [number, number][] | number {
  const list = new ExtentList(capacity);
  const errno = map.extents(offset, length, list);
  if (errno !== 0) return errno;
  return Array.from({ length: list.count }, (_, i) => [
    list.lengths[i] as number,
    list.flags[i] as number,
  ]);
}

async function write(rig: Rig, name: string, offset: number, length: number): Promise<void> {
  const data = pattern(length, offset % 200);
  await rig.wait(rig.io(name, WRITE, offset, length, { data }));
}

t.test('never calls clean what has changed, whatever goes on', async (t) => {
  let [answers, refusals] = [0, 0];
  await fc.assert(
    fc.asyncProperty(steps, fc.integer(), async (list, seed) => {
      const rig = new ScriptedRig(seed);
      rig.varied = true;
      const run = await ChangeRun.play(rig, list);
      await rig.close();
      answers += run.answers;
      refusals += run.refusals;
    }),
    { numRuns: 100, endOnFailure: true },
  );
  t.ok(answers > 1000, `${answers} answers`);
  t.ok(refusals > 0, `${refusals} refusals`);
});

t.test('tells of a TiB with three exceptions in one answer', async (t) => {
  const rig = new ScriptedRig(1);
  const size = 1024 * GiB;
  const lines = `0 ${size / 512}`;
  await rig.create('real', `${lines} zero`);
  await rig.create('vol', `${lines} snapshot-origin dm:real`);
  for (const [name, chunk] of [
    ['small', 8],
    ['large', 64],
  ] as const) {
    await rig.create(name, `${lines} snapshot dm:real ${rig.file(name, 2048)} N ${chunk}`);
  }
  for (const at of [5, 700 * GiB + 4096, size - 100]) await write(rig, 'vol', at, 50);
  t.strictSame(told(mapOf(rig, 'vol', 'small'), 0, size), [
    [4096, 1],
    [700 * GiB, 0],
    [4096, 1],
    [size - 700 * GiB - 3 * 4096, 0],
    [4096, 1],
  ]);
  await write(rig, 'small', 500 * GiB, 512);
  t.strictSame(told(mapOf(rig, 'small', 'large'), 0, size), [
    [32_768, 1],
    [500 * GiB - 32_768, 0],
    [4096, 1],
    [200 * GiB - 4096, 0],
    [32_768, 1],
    [size - 700 * GiB - 2 * 32_768, 0],
    [32_768, 1],
  ]);
  t.strictSame(told(mapOf(rig, 'vol', 'small'), 600 * GiB + 1, 7), [[7, 0]], 'any bytes');
  t.strictSame(told(mapOf(rig, 'vol', 'small'), 4095, 2, 1), [[1, 1]], 'as many as there is room');
  await rig.close();
});

t.test('stops when enough was looked at, and goes on from there', async (t) => {
  const rig = new ScriptedRig(2);
  const chunks = 2 * changeSteps;
  const volume = await new Volume(rig, chunks).create();
  await volume.take('snap', { chunk: 1 });
  for (let chunk = 0; chunk < chunks; chunk += 2) await write(rig, 'vol', chunk * 512, 512);
  const map = mapOf(rig, 'vol', 'snap');
  const first = told(map, 0, volume.bytes, 4 * chunks);
  const alternating = Array.from({ length: changeSteps }, (_, i) => [512, 1 - (i % 2)]);
  t.strictSame(first, alternating);
  t.strictSame(told(map, changeSteps * 512, volume.bytes / 2, 4 * chunks), alternating);
  await rig.close();
});

t.test('counts a chunk as changed from the moment it is to be copied', async (t) => {
  for (const type of ['P', 'N'] as const) {
    await t.test(type, async (t) => {
      const rig = new ScriptedRig(3);
      const volume = await new Volume(rig, 256).create();
      await volume.take('snap', { type });
      await volume.take('other', { type, chunk: 32 });
      const map = mapOf(rig, 'vol', 'snap');
      const own = mapOf(rig, 'snap', 'snap');
      t.strictSame(told(map, 0, volume.bytes), [[volume.bytes, 0]]);
      rig.onDisk('snap.cow').stuck = true;
      const ended: Ended[] = [];
      const data = Buffer.alloc(9000, 1);
      for (const [name, offset] of [
        ['vol', 65_000],
        ['snap', 4096],
        ['vol', 20_000],
      ] as const) {
        rig.client(name).send(WRITE, offset, 9000, { data }, (end) => ended.push(end));
      }
      const wanted = [
        [4096, 0],
        [32_768 - 4096, 1],
        [61_440 - 32_768, 0],
        [77_824 - 61_440, 1],
        [volume.bytes - 77_824, 0],
      ];
      t.strictSame(told(map, 0, volume.bytes), wanted, 'while none is committed');
      t.strictSame(told(own, 0, volume.bytes), wanted);
      t.strictSame(told(map, 65_000, 10, 1), [[10, 1]], 'from the middle of one');
      await rig.turns(30);
      t.strictSame(ended, [], 'and nothing has been answered');
      rig.onDisk('snap.cow').letGo();
      await rig.until('the writes have ended', () => ended.length === 3);
      t.strictSame(told(map, 0, volume.bytes), wanted, 'as when they are');
      await rig.close();
    });
  }
});

t.test('knows nothing clean beyond what the snapshot ever covered', async (t) => {
  const rig = new ScriptedRig(4);
  const volume = await new Volume(rig, 256).create();
  const line = (length: number): string => volume.line('snap').replace(/^0 \d+/, `0 ${length}`);
  await volume.quietly(() => rig.create('snap', line(100)));
  const map = mapOf(rig, 'vol', 'snap');
  const wanted = [
    [51_200, 0],
    [volume.bytes - 51_200, 1],
  ];
  t.strictSame(told(map, 0, volume.bytes), wanted);
  t.strictSame(told(map, 51_199, 2), [
    [1, 0],
    [1, 1],
  ]);
  await write(rig, 'vol', 60_000, 512);
  await volume.reload('snap', line(256));
  t.strictSame(told(map, 0, volume.bytes), wanted, 'a longer table does not make up for it');
  await volume.reload('snap', line(50));
  await volume.reload('snap', line(256));
  t.strictSame(told(map, 0, volume.bytes), [
    [25_600, 0],
    [volume.bytes - 25_600, 1],
  ]);
  await rig.close();
});

t.test('fails for a snapshot that is', async (t) => {
  const begin = async (type: 'P' | 'PO' | 'N', features?: string) => {
    const rig = new ScriptedRig(5);
    const volume = await new Volume(rig, 256).create();
    const more = features === undefined ? {} : { features };
    await volume.take('snap', { type, cow: type === 'N' ? 16 : 32, ...more });
    await volume.take('other');
    await write(rig, 'vol', 0, 8192);
    const kept = ['vol', 'snap', 'other'].map((device) => mapOf(rig, device, 'snap'));
    const others = ['vol', 'other'].map((device) => mapOf(rig, device, 'other'));
    for (const map of [...kept, ...others]) t.type(told(map, 0, 512), Array);
    const check = (t: Test, what: string): void => {
      for (const map of kept) t.equal(told(map, 0, 512), EIO, what);
      for (const map of others) t.strictSame(told(map, 0, 512), [[512, EXTENT_DIRTY]]);
      for (const device of ['vol', 'snap', 'other']) {
        if (rig.devices.find(device) === undefined) continue;
        const names = mapsOf(rig, device).map(({ name }) => name);
        t.strictSame(names, device === 'snap' ? [] : ['other'], `${device} offers it no more`);
      }
    };
    return { rig, volume, check };
  };

  t.test('full, by the origin', async (t) => {
    for (const type of ['P', 'N'] as const) {
      const { rig, check } = await begin(type);
      await write(rig, 'vol', 20_000, 512);
      t.equal(rig.status('snap'), 'Invalid');
      check(t, type);
      await rig.close();
    }
  });
  t.test('overflowed', async (t) => {
    const { rig, check } = await begin('PO');
    await t.rejects(write(rig, 'snap', 20_000, 512));
    t.equal(rig.status('snap'), 'Overflow');
    check(t, 'PO');
    await rig.close();
  });
  t.test('removed, and made again', async (t) => {
    const { rig, volume, check } = await begin('P');
    await volume.drop('snap');
    check(t, 'removed');
    await volume.take('snap', { cow: 32 });
    const map = mapOf(rig, 'vol', 'snap');
    t.strictSame(told(map, 0, 512), [[512, EXTENT_DIRTY]], 'the new one tells what is in the COW');
    await rig.close();
  });
  t.end();
});

t.test('fails, too, for who has asked the target itself', async (t) => {
  const rig = new ScriptedRig(10);
  const volume = await new Volume(rig, 256).create();
  await volume.take('snap');
  const maps = ['vol', 'snap'].map((name) => {
    const target = rig.devices.get(name).live?.slots[0]?.target;
    return target?.changeMaps?.()[0] as ChangeMap;
  });
  for (const map of maps) t.strictSame(told(map, 0, 512), [[512, 0]]);
  await volume.drop('snap');
  for (const map of maps) t.equal(told(map, 0, 512), EIO);
  await rig.close();
});

t.test('offers none where TRIM passes by', async (t) => {
  const rig = new ScriptedRig(6);
  const volume = await new Volume(rig, 256).create();
  const features = '2 discard_zeroes_cow discard_passdown_origin';
  await volume.take('old');
  const old = mapOf(rig, 'vol', 'old');
  await volume.take('trimming', { features });
  t.equal(told(old, 0, 512), EIO, 'of one that was there before');
  await volume.take('young');
  for (const device of ['vol', 'old', 'trimming', 'young']) {
    t.strictSame(mapsOf(rig, device), [], device);
  }
  await rig.wait(rig.io('trimming', TRIM, 0, 4096));
  await volume.drop('trimming');
  t.strictSame(mapsOf(rig, 'vol'), [], 'nobody knows what went by');
  await volume.take('next');
  t.strictSame(
    mapsOf(rig, 'vol').map(({ name }) => name),
    ['next'],
    'but who comes afterwards knows all',
  );
  await volume.reload('next', volume.line('next', { features }));
  t.strictSame(mapsOf(rig, 'vol'), [], 'nor with a table that passes it down now');
  await rig.close();
});

t.test('says nothing of a mix while the origin is merged into', async (t) => {
  const rig = new ScriptedRig(7);
  const volume = await new Volume(rig, 2048).create();
  await write(rig, 'vol', 0, 500_000);
  await volume.take('first');
  await volume.take('second', { chunk: 1 });
  await write(rig, 'vol', 0, 200_000);
  await write(rig, 'second', 300_000, 512);
  const [first, second] = ['first', 'second'].map((name) => mapOf(rig, 'vol', name)) as [
    ChangeMap,
    ChangeMap,
  ];
  await volume.merge('second', { chunk: 1 });
  t.strictSame(mapsOf(rig, 'vol'), []);
  t.equal(told(first, 0, 512), EIO);
  t.equal(told(second, 0, 512), EIO);
  t.type(told(mapOf(rig, 'first', 'first'), 0, 512), Array, 'the other snapshot is what it was');
  await volume.merged();
  t.equal(told(second, 0, 512), EIO);
  t.strictSame(
    told(first, 0, volume.bytes),
    [
      [200_704, 1],
      [299_008 - 200_704, 0],
      [4096, 1],
      [volume.bytes - 303_104, 0],
    ],
    'all that was put back counts',
  );
  await rig.close();
});

t.test('moves with a handover to another device', async (t) => {
  const rig = new ScriptedRig(8);
  const volume = await new Volume(rig, 256).create();
  await volume.take('snap');
  await write(rig, 'vol', 0, 512);
  const fromOrigin = mapOf(rig, 'vol', 'snap');
  const fromSnapshot = mapOf(rig, 'snap', 'snap');
  const { devices } = rig;
  await rig.wait(devices.create('next', undefined, false));
  await rig.wait(devices.load('next', volume.line('snap')));
  t.strictSame(mapsOf(rig, 'next'), [], 'which has none before');
  await rig.wait(devices.suspend('snap', false));
  await rig.wait(devices.resume('next'));
  await rig.wait(devices.resume('snap'));
  t.equal(fromOrigin.name, 'next');
  t.strictSame(told(fromOrigin, 0, 8192), [
    [4096, 1],
    [4096, 0],
  ]);
  t.equal(told(fromSnapshot, 0, 512), EIO, 'the old device shows nothing any more');
  t.strictSame(mapsOf(rig, 'snap'), []);
  t.strictSame(
    mapsOf(rig, 'next').map(({ name }) => name),
    ['next'],
  );
  await rig.close();
});

t.test('offers each name once, and none for a part of a device', async (t) => {
  const rig = new ScriptedRig(9);
  const volume = await new Volume(rig, 256).create();
  const [one, two] = [rig.file('one', 1024), rig.file('two', 1024)];
  const halves = `0 128 snapshot dm:vol-real ${one} P 8\n128 128 snapshot dm:vol-real ${two} P 8`;
  await volume.quietly(() => rig.create('halves', halves));
  t.strictSame(mapsOf(rig, 'halves'), [], 'a device of two targets');
  t.strictSame(
    mapsOf(rig, 'vol').map(({ name }) => name),
    ['halves'],
    'the origin has a map of it',
  );
  await write(rig, 'vol', 30_000, 512);
  await write(rig, 'vol', 90_000, 512);
  const extents = told(mapOf(rig, 'vol', 'halves'), 0, volume.bytes) as [number, number][];
  let at = 0;
  for (const [length, flags] of extents) {
    const changed = [30_000, 90_000].some((one) => one >= at && one < at + length);
    if (changed) t.equal(flags, EXTENT_DIRTY);
    at += length;
  }
  t.equal(at, volume.bytes);
  await rig.close();
});
