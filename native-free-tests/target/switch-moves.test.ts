/** Regions that move while clients work: nothing is lost, nothing is stale, at any moment. */

import fc from 'fast-check';
import t from 'tap';
import { EIO } from '../../src/base/errno.js';
import { FLAG_FUA, type Operation, READ, WRITE, ZERO } from '../../src/device/io.js';
import { random } from '../contract/pattern.js';
import { SwitchRig } from './switch-rig.js';

const sectors = 150;
const regionSectors = 7;
const regions = Math.ceil(sectors / regionSectors);

/** Random requests; with `cold`, none that writes below that sector. */
function request(rig: SwitchRig, next: (limit: number) => number, cold: number): void {
  const all: Operation[] = [READ, READ, WRITE, WRITE, WRITE, ZERO];
  const operation = all[next(all.length)] as Operation;
  const from = operation === READ ? 0 : cold;
  const sector = from + next(sectors - from);
  const count = 1 + next(Math.min(12, sectors - sector));
  rig.send(operation, sector, count, operation === WRITE && next(4) === 0 ? FLAG_FUA : 0);
}

interface Course {
  readonly seed: number;
  readonly steps: number;
  readonly cold: number;
  readonly suspends: boolean;
}

/** Moves about under random requests; ends anywhere. */
async function course(rig: SwitchRig, { seed, steps, cold, suspends }: Course): Promise<void> {
  const next = random(seed);
  const { world, devices } = rig;
  const commands: Promise<unknown>[] = [];
  const command = (run: Promise<unknown>): void => void commands.push(run.catch(() => {}));
  world.engine.shuffle(next);
  for (let i = 0; i < steps; i++) {
    const what = next(1000);
    if (what < 200) {
      if (rig.client.underWay < 12) request(rig, next, cold);
    } else if (what < 212) {
      await rig.control();
    } else if (what < 213) {
      command(rig.message('move_cancel'));
    } else if (what < 220) {
      const from = next(3);
      const to = (from + 1 + next(2)) % 3;
      const first = next(regions);
      const range = next(2) === 0 ? [] : [`${first}-${first + next(regions - first)}`];
      command(rig.message('move_regions', `${from}`, `${to}`, ...range));
    } else if (what === 220 && suspends) {
      const replace = next(2) === 0;
      command(
        (async () => {
          if (replace) await devices.load('vol', rig.line());
          await devices.suspend('vol', false);
          await devices.resume('vol');
        })(),
      );
    } else {
      world.engine.turn();
      await null;
    }
    rig.check();
  }
  const over = Promise.all(commands);
  // What is asked for may have to wait for requests that are under way.
  rig.finishing = over;
}

function all(): number[] {
  return Array.from({ length: sectors }, (_, sector) => sector);
}

const seeds = fc.integer({ min: 1, max: 2 ** 31 - 1 });

async function begun(): Promise<SwitchRig> {
  const rig = await new SwitchRig({ paths: 3, regionSectors, sectors }).create();
  await rig.fill();
  return rig;
}

t.test('loses nothing and reads nothing stale', async (t) => {
  await fc.assert(
    fc.asyncProperty(seeds, async (seed) => {
      const rig = await begun();
      await course(rig, { seed, steps: 4000, cold: 0, suspends: true });
      await rig.world.wait(rig.finishing);
      await rig.drain();
      await rig.finish();
      for (const sector of all()) rig.send(READ, sector, 1);
      await rig.drain();
      await rig.world.wait(rig.device.flush());
      rig.restarted(
        rig.disks.map(({ bytes }) => bytes),
        all(),
      );
      await rig.world.wait(rig.devices.remove('vol', false));
      rig.world.atRest();
    }),
    { numRuns: 60 },
  );
  t.pass();
});

t.test(
  'has everything on the sides that the stored table names, whenever it is killed',
  async (t) => {
    await fc.assert(
      fc.asyncProperty(seeds, fc.integer({ min: 10, max: 4000 }), async (seed, steps) => {
        const rig = await begun();
        await course(rig, { seed, steps, cold: 0, suspends: true });
        rig.restarted(
          rig.disks.map(({ bytes }) => bytes),
          all(),
        );
      }),
      { numRuns: 150 },
    );
    t.pass();
  },
);

t.test('has there what was flushed, whenever the power fails', async (t) => {
  await fc.assert(
    fc.asyncProperty(seeds, fc.integer({ min: 10, max: 4000 }), async (seed, steps) => {
      const rig = await begun();
      const cold = 100;
      await course(rig, { seed, steps, cold, suspends: false });
      rig.restarted(rig.durable, all().slice(0, cold));
    }),
    { numRuns: 150 },
  );
  t.pass();
});

/** Turns until something holds. */
async function until(rig: SwitchRig, holds: () => boolean): Promise<void> {
  for (let i = 0; !holds(); i++) {
    if (i > 10_000) throw new Error('it never holds');
    rig.world.engine.turn();
    await null;
  }
}

async function twoPaths(sectors = 14): Promise<SwitchRig> {
  const rig = await new SwitchRig({ paths: 2, regionSectors, sectors }).create();
  await rig.fill();
  for (const disk of rig.disks) disk.takeCalls();
  return rig;
}

t.test('refuses a move that makes no sense', async (t) => {
  const rig = await begun();
  const { devices, world } = rig;
  for (const [words, text] of [
    [[], 'path the end of the line'],
    [['0'], 'path the end of the line'],
    [['0', '3'], 'path "3", wanted a number from 0 to 2'],
    [['1', '1'], 'wanted another than they come from'],
    [['0', '1', '5-4'], 'wanted the lower one first'],
    [['0', '1', '0-22'], 'region "22", wanted a number from 0 to 21'],
    [['0', '1', '1-2-3'], 'wanted <first>-<last>'],
    [['0', '1', 'x'], 'region "x"'],
    [['0', '1', 'throttle', '0'], 'throttle "0", wanted a number from 1 to 100'],
  ] as const) {
    const found = rig.message('move_regions', ...words);
    await t.rejects(found, { code: 'EINVAL', message: text }, words.join(' '));
  }
  await world.wait(rig.message('move_regions', '0', '1'));
  await t.rejects(rig.message('move_regions', '0', '1'), { code: 'EBUSY' });
  const whole = rig.table();
  await t.rejects(devices.upload('vol', 0, whole), { code: 'EBUSY' });
  await rig.finish();
  const same = '0 100 switch 2 7 0 /p0 0 /p0 50';
  await world.create('same', same);
  const words = ['move_regions', '0', '1'];
  await t.rejects(world.devices.message('same', 0, words), {
    code: 'EINVAL',
    message: 'two places',
  });
  await world.create('read', rig.line(), true);
  await t.rejects(world.devices.message('read', 0, words), { code: 'EROFS' });
});

t.test('moves the regions that are meant, and no other', async (t) => {
  const rig = await begun();
  const { world } = rig;
  t.equal(await world.wait(rig.message('move_status')), 'idle - - 0 0 0 0 0');
  t.equal(
    await world.wait(rig.message('move_regions', '0', '2', '3', '0-1', '9-12', '10-11')),
    '4',
  );
  t.equal(await rig.finish(), 'done 0 2 4 4');
  const wanted = Array.from({ length: regions }, (_, i) => i % 3);
  for (const region of [0, 3, 9, 12]) wanted[region] = 2;
  t.strictSame(rig.entries(), wanted);
  t.equal(await world.wait(rig.message('move_regions', '0', '2', '0-3')), '0');
  t.equal(await rig.finish(), 'done 0 2 0 0');
  for (const sector of all()) rig.send(READ, sector, 1);
  await rig.drain();
  t.equal(world.logged.filter((line) => line === 'move of regions is done').length, 2);
});

t.test(
  'copies and flushes before a region is elsewhere, and mirrors it until it is stored',
  async (t) => {
    const rig = await twoPaths(7);
    const [from, to] = rig.disks;
    await rig.world.wait(rig.message('move_regions', '0', '1'));
    await until(rig, () => rig.entries()[0] === 1);
    t.strictSame(to?.takeCalls(), ['write 512+3584', 'flush']);
    t.strictSame(from?.takeCalls(), ['read 0+3584']);
    rig.send(WRITE, 1, 2);
    await rig.drain();
    t.strictSame([from?.takeCalls(), to?.takeCalls()], [['write 512+1024'], ['write 1024+1024']]);
    t.equal(await rig.finish(), 'done 0 1 1 1');
    rig.send(WRITE, 1, 2);
    await rig.drain();
    t.strictSame([from?.takeCalls(), to?.takeCalls()], [[], ['write 1024+1024']]);
  },
);

t.test('copies again, and flushes again, what was written meanwhile', async (t) => {
  const rig = await twoPaths(7);
  const [from, to] = rig.disks;
  if (from === undefined || to === undefined) throw new Error('no disks');
  from.stuck = true;
  await rig.message('move_regions', '0', '1');
  await until(rig, () => from.calls.length === 1);
  // The copy reads; the write overtakes it.
  rig.send(WRITE, 1, 2);
  from.letGo(1);
  await rig.drain();
  from.letGo();
  await until(rig, () => rig.entries()[0] === 1);
  t.strictSame(to.takeCalls(), ['write 512+3584', 'flush', 'write 512+3584', 'flush']);
  await rig.finish();
  rig.send(READ, 0, 7);
  await rig.drain();
});

t.test('keeps both sides over a reload that comes before the table is stored', async (t) => {
  for (const same of [true, false]) {
    const rig = await twoPaths(7);
    const { devices, disks, world } = rig;
    await rig.message('move_regions', '0', '1');
    await until(rig, () => rig.entries()[0] === 1);
    const line = same ? rig.line() : rig.line().replace('/p0 0', '/p0 5');
    await world.wait(devices.load('vol', line));
    await world.wait(devices.resume('vol'));
    for (const disk of disks) disk.takeCalls();
    rig.send(WRITE, 1, 2);
    await rig.drain();
    const wanted = [same ? ['write 512+1024'] : [], ['write 1024+1024']];
    t.strictSame(
      disks.map((disk) => disk.takeCalls()),
      wanted,
    );
    const lost = world.logged.filter((text) => text.includes('their paths are gone'));
    t.equal(lost.length, same ? 0 : 1);
    t.equal(await rig.finish(), 'idle - - 0 0');
    rig.send(WRITE, 1, 2);
    await rig.drain();
    t.strictSame(
      disks.map((disk) => disk.takeCalls()),
      [[], ['write 1024+1024']],
    );
  }
});

t.test('does not copy over what somebody else says is there', async (t) => {
  const rig = await twoPaths(14);
  const { world } = rig;
  const [from, to] = rig.disks;
  if (from === undefined || to === undefined) throw new Error('no disks');
  await rig.message('set_region_mappings', '1:0');
  to.stuck = true;
  await rig.message('move_regions', '0', '1');
  await until(rig, () => to.held.length === 1);
  const set = rig.message('set_region_mappings', '0:1');
  t.equal(await world.isSettled(set), false, 'the copy is under way');
  to.letGo();
  await world.wait(set);
  to.takeCalls();
  t.equal(rig.entries()[0], 1);
  t.equal(await rig.finish(), 'done 0 1 1 2');
  t.strictSame(to.takeCalls(), ['write 4096+3584', 'flush'], 'the other region alone');
});

t.test('fails when a side fails, and everything is where it was', async (t) => {
  for (const [broken, what, text] of [
    [0, 'read', 'read of /p0 failed: EIO'],
    [1, 'write', 'write to /p1 failed: EIO'],
    [1, 'flush', 'flush of /p1 failed: EIO'],
  ] as const) {
    const rig = await twoPaths(7);
    const disk = rig.disks[broken];
    if (disk === undefined) throw new Error('no disk');
    disk.script = (call) => (call.what === what ? -EIO : undefined);
    await rig.message('move_regions', '0', '1');
    const status = await rig.finish();
    t.equal(status, 'failed 0 1 0 1');
    const { world } = rig;
    t.equal(await world.wait(rig.message('move_status')), `failed 0 1 0 1 0 0 0 ${text}`);
    t.equal(rig.entries()[0], 0);
    t.ok(world.logged.includes(`move of regions is failed: ${text}`));
    disk.script = () => undefined;
    rig.send(WRITE, 0, 7);
    await rig.drain();
    await rig.message('move_regions', '0', '1');
    t.equal(await rig.finish(), 'done 0 1 1 1');
    rig.send(READ, 0, 7);
    await rig.drain();
  }
});

t.test('is cancelled, and goes when its device does', async (t) => {
  const rig = await twoPaths(7 * 40);
  const { devices, world } = rig;
  await world.wait(rig.message('move_regions', '0', '1', 'throttle', '1'));
  await until(rig, () => rig.entries()[0] === 1);
  await world.wait(rig.message('move_cancel'));
  const status = (await rig.finish()).split(' ');
  t.equal(status[0], 'cancelled');
  t.ok(Number(status[3]) < 20, `${status[3]} of 20 are moved`);
  for (let at = 0; at < 280; at += 20) rig.send(READ, at, 20);
  await rig.drain();
  await world.wait(rig.message('move_regions', '0', '1'));
  await world.wait(devices.remove('vol', false));
  world.atRest();
});

t.test('copies a large region in passes while somebody writes', async (t) => {
  const rig = await new SwitchRig({ paths: 2, regionSectors: 12_288, sectors: 12_288 }).create();
  const next = random(7);
  await rig.fill();
  await rig.message('move_regions', '0', '1');
  for (let i = 0; rig.entries()[0] === 0; i++) {
    if (i > 100_000) throw new Error('it does not end');
    if (i % 2 === 0 && rig.client.underWay < 8) rig.send(WRITE, next(12_200), 64);
    rig.world.engine.turn();
    await null;
  }
  const written = rig.disks[1]?.calls.filter(({ what }) => what === 'write') ?? [];
  const bytes = written.reduce((sum, { length }) => sum + length, 0);
  t.ok(bytes > 12_288 * 512, `${bytes} bytes are copied`);
  t.equal(await rig.finish(), 'done 0 1 1 1');
  for (let at = 0; at < 12_288; at += 128) rig.send(READ, at, 128);
  await rig.drain();
});
