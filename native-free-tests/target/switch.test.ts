/** The switch target: its table line, where requests go, messages, and what a reload keeps. */

import fc from 'fast-check';
import t from 'tap';
import { EINVAL } from '../../src/base/errno.js';
import type { MapperError } from '../../src/base/errors.js';
import { moveUnsavedBatches, regions as regionsMax } from '../../src/base/limits.js';
import { READ, TRIM, WRITE, ZERO } from '../../src/device/io.js';
import { RegionTable } from '../../src/target/switch/region-table.js';
import type { RegionUpload } from '../../src/target/target.js';
import { World } from '../device/world.js';
import { SwitchRig, type SwitchShape } from './switch-rig.js';

const shape: SwitchShape = { paths: 3, regionSectors: 7, sectors: 150 };
const regions = 22;

async function rigOf(own: Partial<SwitchShape> = {}): Promise<SwitchRig> {
  return new SwitchRig({ ...shape, ...own }).create();
}

function roundRobin(count: number, paths: number): number[] {
  return Array.from({ length: count }, (_, i) => i % paths);
}

function uploadOf(rig: SwitchRig, entries: readonly number[], first = 0): RegionUpload {
  const whole = rig.table();
  const table = new RegionTable(whole.regions, whole.paths);
  for (const [i, path] of entries.entries()) table.set(first + i, path);
  const { regionSectors } = whole;
  return { ...table.download(first, entries.length), regionSectors };
}

t.test('refuses what the kernel refuses', async (t) => {
  const world = new World();
  world.disk('/a', 100);
  world.disk('/b', 1000);
  for (const [line, text] of [
    ['0 100 switch', 'Invalid number of paths'],
    ['0 100 switch 0 8 0', 'Invalid number of paths'],
    ['0 100 switch x 8 0', 'Invalid number of paths'],
    ['0 100 switch 65537 8 0', 'Invalid number of paths'],
    ['0 100 switch 1', 'Invalid region size'],
    ['0 100 switch 1 0 0 /a 0', 'Invalid region size'],
    ['0 100 switch 1 4294967296 0 /a 0', 'Invalid region size'],
    ['0 100 switch 1 8', 'Invalid number of optional args'],
    ['0 100 switch 1 8 1 /a 0', 'Invalid number of optional args'],
    ['0 100 switch 1 8 0', 'Incorrect number of path arguments'],
    ['0 100 switch 2 8 0 /a 0', 'Incorrect number of path arguments'],
    ['0 100 switch 1 8 0 /a 0 /b', 'Incorrect number of path arguments'],
    ['0 100 switch 1 8 0 /a x', 'Invalid device starting offset'],
    ['0 100 switch 1 8 0 /none x', 'Device lookup failed'],
    ['0 100 switch 1 8 0 /none 0', 'Device lookup failed'],
    ['0 100 switch 2 8 0 /b 0 /a 1', 'device too small for target'],
    [`0 ${regionsMax + 1} switch 1 1 0 /a 0`, 'Region table too large'],
  ] as const) {
    await t.rejects(world.create('vol', line), { message: new RegExp(text) }, line);
  }
  await t.rejects(world.create('vol', '0 100 switch 1 8 0 /none 0'), { code: 'ENOENT' });
  t.equal(world.descriptors, 0);
  await world.create('vol', '0 100 switch 2 07 0 /b 0900 /a 0');
  const { devices } = world;
  t.equal(devices.table('vol', false)[0]?.words, '2 7 0 /b 900 /a 0');
  t.equal(devices.status('vol')[0]?.words, '');
});

t.test('sends everything to the path of its region, at the same sector', async (t) => {
  const rig = await rigOf();
  const { client, disks, world } = rig;
  await world.wait(rig.message('set_region_mappings', '0:1', ':1', ':2'));
  for (const disk of disks) disk.takeCalls();
  const calls = (): string[][] => disks.map((disk) => disk.takeCalls());
  // Regions 0 and 1 are on path 1, 2 and 5 on path 2, 3 on 0, 4 on 1: path i begins at sector i.
  for (const [operation, what] of [
    [WRITE, 'write'],
    [READ, 'read'],
    [TRIM, 'trim'],
    [ZERO, 'trim'],
  ] as const) {
    const { errno } = await world.wait(client.run(operation, 512, 27 * 512));
    t.equal(errno, 0);
    const wanted = [[`${what} 10752+3584`], [`${what} 1024+6656`], [`${what} 8192+3584`]];
    t.strictSame(calls(), wanted, what);
  }
  await world.wait(rig.device.flush());
  t.strictSame(calls(), [['flush'], ['flush'], ['flush']]);
  // The last region is short.
  await world.wait(client.run(READ, 147 * 512, 3 * 512));
  t.strictSame(calls(), [['read 75264+1536'], [], []]);
});

t.test('routes any request by any table, as a model does', async (t) => {
  const request = fc.tuple(fc.constantFrom(READ, WRITE, WRITE, ZERO), fc.nat(149), fc.nat(60));
  const step = fc.oneof(
    request,
    fc.tuple(fc.constant('set'), fc.nat(regions - 1), fc.nat(2)),
    fc.tuple(fc.constant('upload'), fc.nat(regions - 1), fc.nat(1000)),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const rig = await rigOf();
      const { devices, disks, world } = rig;
      const table = roundRobin(regions, 3);
      const model = disks.map((disk) => disk.bytes.slice());
      let byte = 1;
      for (const [what, a, b] of steps) {
        if (what === 'set') {
          await rig.message('set_region_mappings', `${a.toString(16)}:${b}`);
          table[a] = b;
        } else if (what === 'upload') {
          const first = b % 2 === 0 ? 0 : a;
          const entries = Array.from({ length: regions - first }, (_, i) => (i * 7 + b) % 3);
          await world.wait(devices.upload('vol', 0, uploadOf(rig, entries, first)));
          for (const [i, path] of entries.entries()) table[first + i] = path;
        } else {
          const count = Math.min(b + 1, 150 - a);
          const data = Buffer.alloc(count * 512, what === ZERO ? 0 : byte++);
          const extras = what === WRITE ? { data } : {};
          const ended = await world.wait(rig.client.run(what as 0, a * 512, count * 512, extras));
          if (ended.errno !== 0) throw new Error(`errno ${ended.errno}`);
          for (let i = 0; i < count; i++) {
            const path = table[Math.floor((a + i) / 7)] as number;
            const at = (a + i + path) * 512;
            const sector = data.subarray(i * 512, (i + 1) * 512);
            if (what !== READ) model[path]?.set(sector, at);
            else if (
              Buffer.compare(
                ended.data.subarray(i * 512, (i + 1) * 512),
                (model[path] as Uint8Array).subarray(at, at + 512),
              ) !== 0
            ) {
              throw new Error(`sector ${a + i}`);
            }
          }
        }
      }
      for (const [path, disk] of disks.entries()) {
        if (Buffer.compare(disk.bytes, model[path] as Uint8Array) !== 0)
          throw new Error(`path ${path}`);
      }
      const found = rig.entries();
      if (found.some((path, i) => path !== table[i])) throw new Error('table');
    }),
    { numRuns: 60 },
  );
  t.pass();
});

/** `set_region_mappings`, character by character. The text of an error, or null. */
function slowly(words: readonly string[], table: number[], paths: number): string | null {
  let cursor = 0n;
  const count = BigInt(table.length);
  for (const word of words) {
    let at = 0;
    const number = (): bigint => {
      let value = 0n;
      for (; '0123456789abcdef'.includes((word[at] ?? 'x').toLowerCase()); at++) {
        value = BigInt.asUintN(64, value * 16n + BigInt(`0x${word[at]}`));
      }
      return value;
    };
    const wrong = `invalid set_region_mappings argument: '${word}'`;
    if (word[0] === 'R' || word[0] === 'r') {
      at++;
      if (word[at] === ',') return wrong;
      const cycle = number();
      if (word[at++] !== ',') return wrong;
      if (at === word.length) return wrong;
      const times = number();
      if (at !== word.length) return wrong;
      if (cycle === 0n || cycle - 1n > cursor) {
        const before = BigInt.asUintN(64, cycle - 1n);
        return `invalid set_region_mappings cycle length: ${before} > ${cursor}`;
      }
      if (cursor + times >= count) {
        return `invalid set_region_mappings region number: ${cursor} + ${times} >= ${count}`;
      }
      for (let i = 0n; i < times; i++) {
        cursor++;
        table[Number(cursor)] = table[Number(cursor - cycle)] as number;
      }
      continue;
    }
    if (word[0] === ':') cursor++;
    else cursor = number();
    if (word[at++] !== ':') return wrong;
    if (at === word.length) return wrong;
    const path = number();
    if (at !== word.length) return wrong;
    if (cursor >= count) return `invalid set_region_mappings region number: ${cursor} >= ${count}`;
    if (path >= BigInt(paths)) return `invalid set_region_mappings device: ${path} >= ${paths}`;
    table[Number(cursor)] = Number(path);
  }
  return null;
}

const hex = fc.oneof(
  { weight: 8, arbitrary: fc.nat(30).map((n) => n.toString(16)) },
  { weight: 2, arbitrary: fc.nat(30).map((n) => n.toString(16).toUpperCase().padStart(4, '0')) },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      '10000000000000001',
      'ffffffffffffffff',
      '20000000000000',
      'g',
      '',
      '-1',
    ),
  },
);
const path = fc.oneof(
  { weight: 9, arbitrary: fc.nat(2).map(String) },
  { weight: 1, arbitrary: hex },
);
const word = fc.oneof(
  { weight: 5, arbitrary: fc.tuple(hex, path).map(([i, p]) => `${i}:${p}`) },
  { weight: 5, arbitrary: path.map((p) => `:${p}`) },
  {
    weight: 5,
    arbitrary: fc
      .tuple(fc.constantFrom('R', 'r'), fc.integer({ min: 1, max: 3 }), fc.nat(6))
      .map(([r, n, m]) => `${r}${n},${m.toString(16)}`),
  },
  { weight: 1, arbitrary: fc.tuple(hex, hex).map(([n, m]) => `R${n},${m}`) },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      '0x1:1',
      '1:',
      ':',
      '1',
      'R',
      'R1',
      'R1,',
      'R,1',
      'R1,1,1',
      '1:1,2',
      '1:0:1',
    ),
  },
);

t.test('carries out set_region_mappings as a slow model does', async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(word, { maxLength: 12 }), { maxLength: 6 }),
      async (messages) => {
        const rig = await rigOf();
        const model = roundRobin(regions, 3);
        for (const words of messages) {
          const wanted = slowly(words, model, 3);
          const found = await rig.message('Set_Region_MAPPINGS', ...words).then(
            () => null,
            (error: MapperError) => `${error.errno} ${error.message}`,
          );
          t.equal(found, wanted === null ? null : `${EINVAL} switch: ${wanted}`);
        }
        t.strictSame(rig.entries(), model);
      },
    ),
    { numRuns: 150 },
  );
});

t.test('knows no other message', async (t) => {
  const rig = await rigOf();
  for (const words of [
    ['set_region_mapping', '1:1'],
    ['move'],
    ['regions_saved'],
    ['move_status', 'x'],
  ]) {
    await t.rejects(rig.message(...words), { code: 'EINVAL' }, words.join(' '));
  }
  await t.rejects(rig.message('set-table'), /Unrecognised message received/);
  await t.rejects(rig.message('regions_saved', '1'), /the table is at 0/);
});

t.test('sets many regions without holding up others for long', async (t) => {
  const rig = await rigOf({ paths: 2, regionSectors: 1, sectors: 70_000 });
  let over = false;
  const set = rig.message('set_region_mappings', '0:1', 'R1,1116f').then(() => {
    over = true;
  });
  await rig.world.settle();
  t.equal(over, false, 'others have had their turn');
  await rig.world.wait(set);
  t.ok(rig.entries().every((entry) => entry === 1));
});

t.test('keeps the path of every region when another table is resumed', async (t) => {
  const words = ['0:2', ':2', ':2', '5:1', 'R1,10'];
  for (const [other, wanted] of [
    [{}, (before: number[]) => before],
    [{ sectors: 80 }, (before: number[]) => before.slice(0, 12)],
    [{ sectors: 155 }, (before: number[]) => [...before, 22 % 3]],
    [{ paths: 9 }, (before: number[]) => before],
    [{ paths: 2 }, (before: number[]) => before.map((path, i) => (path < 2 ? path : i % 2))],
    [{ paths: 1, sectors: 100 }, () => roundRobin(15, 1)],
    [{ regionSectors: 8 }, () => roundRobin(19, 3)],
  ] as const) {
    const rig = await rigOf();
    const { devices, world } = rig;
    for (let i = 3; i < 9; i++) world.disk(`/p${i}`, 200);
    await rig.message('set_region_mappings', '0:2');
    await world.wait(devices.load('vol', rig.line({ ...shape, ...other })));
    // Between load and resume the old table still is the one that is changed.
    await rig.message('set_region_mappings', ...words);
    const before = rig.entries();
    await world.wait(devices.resume('vol'));
    t.strictSame(rig.entries(), wanted(before), JSON.stringify(other));
    t.equal(rig.table().bits, 'paths' in other && other.paths === 9 ? 4 : rig.table().bits);
    const logged = world.logged.filter((line) => line.includes('another size'));
    t.equal(logged.length, 'regionSectors' in other ? 1 : 0);
    t.equal(rig.events.at(-1)?.what, 'regions', 'it asks to be stored');
    await world.wait(devices.remove('vol', false));
  }
});

t.test('is as it was when another table could not be resumed', async (t) => {
  const rig = await rigOf({ sectors: 152 });
  const { devices, world } = rig;
  world.disk('/cow', 500);
  world.disk('/origin', 500);
  await world.wait(devices.create('other', '0 104 snapshot /origin /cow N 8'));
  await rig.message('set_region_mappings', '0:2');
  // The second line is refused: its COW is in use by a device that is not suspended.
  const two = `${rig.line()}\n152 104 snapshot /origin /cow N 8`;
  await world.wait(devices.load('vol', two));
  await t.rejects(world.wait(devices.resume('vol')));
  await rig.message('set_region_mappings', '1:2');
  t.strictSame(rig.entries().slice(0, 3), [2, 2, 2], 'it still takes messages');
  await t.rejects(world.wait(devices.resume('vol')));
  await world.wait(devices.load('vol', rig.line()));
  await rig.message('set_region_mappings', '3:2');
  await world.wait(devices.resume('vol'));
  t.strictSame(rig.entries().slice(0, 4), [2, 2, 2, 2]);
});

t.test('takes tables from another thread', async (t) => {
  const rig = await rigOf();
  const { devices, world } = rig;
  const good = uploadOf(rig, roundRobin(regions, 3).reverse());
  await world.wait(devices.upload('vol', 0, good));
  t.strictSame(rig.entries(), roundRobin(regions, 3).reverse());
  for (const [own, text] of [
    [{ regions: 21 }, '21 regions, wanted 22'],
    [{ regionSectors: 8 }, '8 region sectors, wanted 7'],
    [{ paths: 4 }, '4 paths, wanted 3'],
    [{ bits: 3 }, '3 bits, wanted 2'],
    [{ whole: false, first: 1 }, 'region 22, wanted one before 22'],
  ] as const) {
    await t.rejects(world.wait(devices.upload('vol', 0, { ...good, ...own })), {
      code: 'EINVAL',
      message: new RegExp(text),
    });
  }
  t.strictSame(rig.entries(), roundRobin(regions, 3).reverse());
  const part = devices.download('vol', 0, 5, 3).table;
  t.strictSame(new Uint8Array(part.slots), new Uint8Array([0b10_00_01, 0, 0, 0, 0, 0, 0, 0]));
});

t.test('takes a few KiB for a table that is new', async (t) => {
  const tables = Array.from({ length: 512 }, () => new RegionTable(1_572_864, 4));
  const fresh = tables.reduce((sum, table) => sum + table.bytes, 0) / 512;
  t.ok(fresh < 1024, `${fresh} bytes`);
});

t.test('stops moving when nobody stores the table', async (t) => {
  const rig = await rigOf({ paths: 2, sectors: 7 * 300, regionSectors: 7 });
  const { world } = rig;
  await rig.fill();
  t.equal(await world.wait(rig.message('move_regions', '0', '1')), '150');
  for (let i = 0; i < 5000; i++) {
    world.engine.turn();
    await null;
  }
  const status = (): Promise<string> => world.wait(rig.message('move_status'));
  const stalled = Number((await status()).split(' ')[3]);
  t.ok(stalled >= moveUnsavedBatches && stalled < moveUnsavedBatches + 4, `${stalled} are moved`);
  t.equal(await rig.finish(), 'done 0 1 150 150');
  t.ok(rig.entries().every((entry) => entry === 1));
  for (let at = 0; at < 2100; at += 70) rig.send(READ, at, 70);
  await rig.drain();
});
