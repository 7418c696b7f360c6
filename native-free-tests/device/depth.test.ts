/** How deep data is, through devices over one another (STATUS with FLAG_DEPTH). */

import fc from 'fast-check';
import t from 'tap';
import { EIO } from '../../src/base/errno.js';
import { FLAG_DEPTH, FLAG_ONE, STATUS, WRITE } from '../../src/device/io.js';
import { pattern } from './io-client.js';
import { World } from './world.js';

/** Depths of extents that the device tells, one for each sector; it is asked until the end. */
async function depthsOf(
  world: World,
  name: string,
  first: number,
  count: number,
  capacity = 64,
  flags = 0,
): Promise<number[]> {
  const client = world.client(world.devices.get(name));
  const depths: number[] = [];
  while (depths.length < count) {
    const [at, left] = [first + depths.length, count - depths.length];
    const extras = { flags: FLAG_DEPTH | flags, capacity };
    const { errno, extents } = await world.wait(client.run(STATUS, at * 512, left * 512, extras));
    if (errno !== 0 || extents.length === 0) throw new Error(`errno ${errno}`);
    for (const [i, [bytes, depth]] of extents.entries()) {
      if (bytes % 512 !== 0) throw new Error(`an extent of ${bytes} bytes`);
      if (i > 0 && extents[i - 1]?.[1] === depth) throw new Error('two extents that are one');
      for (let j = 0; j < bytes / 512; j++) depths.push(depth);
    }
  }
  if (depths.length > count) throw new Error('extents pass the end');
  return depths;
}

async function write(world: World, name: string, first: number, count: number): Promise<void> {
  const client = world.client(world.devices.get(name));
  const data = pattern(count * 512, first);
  const { errno } = await world.wait(client.run(WRITE, first * 512, count * 512, { data }));
  if (errno !== 0) throw new Error(`errno ${errno}`);
}

const sectors = 1024;
const pageSectors = 128;

/** Memory, a hole and a file; a snapshot of that, a snapshot of the snapshot, and a view of it. */
async function tower(): Promise<World> {
  const world = new World();
  world.disk('/file', sectors);
  for (const name of ['/low.cow', '/high.cow']) world.disk(name, 4 * sectors);
  const base = ['0 512 memory', '512 256 zero', '768 256 linear /file 0'];
  await world.create('base', base.join('\n'));
  await world.create('low', `0 ${sectors} snapshot dm:base /low.cow N 8`);
  await world.create('high', `0 ${sectors} snapshot dm:low /high.cow P 2`);
  const view = ['0 512 linear dm:high 0', '512 512 striped 2 64 dm:high 512 dm:high 768'];
  await world.create('view', view.join('\n'));
  return world;
}

/** Sector of `high` beneath a sector of `view`. */
function beneath(sector: number): number {
  if (sector < 512) return sector;
  const chunk = Math.floor((sector - 512) / 64);
  return 512 + (chunk % 2) * 256 + Math.floor(chunk / 2) * 64 + (sector % 64);
}

const step = fc.record({
  name: fc.constantFrom('base', 'base', 'low', 'high', 'high', 'view'),
  first: fc.nat(sectors - 1),
  count: fc.integer({ min: 1, max: 90 }),
  flags: fc.constantFrom(0, FLAG_ONE),
  capacity: fc.constantFrom(1, 3, 64),
});

t.test('tells each sector the layer that it is in', async (t) => {
  let asked = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 25 }), async (steps) => {
      const world = await tower();
      // Whether a layer has the sector, in units of its own.
      const has = {
        base: Array.from({ length: sectors }, (_, i) => i >= 768),
        low: new Array<boolean>(sectors).fill(false),
        high: new Array<boolean>(sectors).fill(false),
      };
      const depth = (name: string, at: number): number => {
        if (name === 'view') return depth('high', beneath(at));
        if (name === 'base') return has.base[at] === true ? 1 : 0;
        if (has[name as 'low' | 'high'][at] === true) return 1;
        const deeper = depth(name === 'high' ? 'low' : 'base', at);
        return deeper === 0 ? 0 : deeper + 1;
      };
      for (const { name, first, count: wanted, flags, capacity } of steps) {
        const count = Math.min(wanted, sectors - first);
        if (name !== 'view') {
          await write(world, name, first, count);
          const unit = { base: pageSectors, low: 8, high: 2 }[name] as number;
          for (let at = first; at < first + count; at++) {
            if (name === 'base' && at >= 512) continue;
            const from = Math.floor(at / unit) * unit;
            has[name as keyof typeof has].fill(true, from, from + unit);
          }
        }
        for (const device of ['base', 'low', 'high', 'view']) {
          const found = await depthsOf(world, device, first, sectors - first, capacity, flags);
          for (const [i, one] of found.entries()) {
            const right = depth(device, first + i);
            if (one === right) continue;
            throw new Error(`${device}, sector ${first + i}: ${one}, wanted ${right}`);
          }
          asked++;
        }
      }
      await world.wait(world.devices.shutdown());
      world.atRest();
    }),
    { numRuns: 40 },
  );
  t.ok(asked > 100, `${asked} answers`);
});

t.test('answers EIO when what is beneath cannot tell', async (t) => {
  const world = await tower();
  await write(world, 'low', 0, 8);
  await world.wait(world.devices.suspend('base', true));
  await world.wait(world.devices.remove('base', true));
  const status = (name: string, first: number) =>
    world.wait(
      world
        .client(world.devices.get(name))
        .run(STATUS, first * 512, 512, { flags: FLAG_DEPTH, capacity: 4 }),
    );
  t.equal((await status('high', 8)).errno, EIO);
  t.strictSame((await status('high', 0)).extents, [[512, 2]], 'what the COW has is known still');
  await world.wait(world.devices.shutdown());
  world.atRest();
});

t.test('counts what is still to be merged as in the device', async (t) => {
  const world = new World();
  world.disk('/cow', 1024);
  await world.create('base', '0 256 memory');
  await world.create('snap', '0 256 snapshot dm:base /cow P 8');
  await write(world, 'snap', 9, 30);
  t.strictSame(
    await depthsOf(world, 'snap', 0, 48),
    Array.from({ length: 48 }, (_, i) => (i >= 8 && i < 40 ? 1 : 0)),
  );
  const cow = world.engine.disks.get('/cow');
  if (cow === undefined) throw new Error('no disk');
  await world.wait(world.devices.remove('snap', false));
  // The merge cannot read the COW's data, and stays where it is.
  cow.script = ({ what, offset }) => (what === 'read' && offset >= 8192 ? -EIO : undefined);
  await world.create('merge', '0 256 snapshot-merge dm:base /cow P 8');
  t.strictSame(
    await depthsOf(world, 'merge', 0, 48),
    Array.from({ length: 48 }, (_, i) => (i >= 8 && i < 40 ? 1 : 0)),
  );
  await world.wait(world.devices.shutdown());
});
