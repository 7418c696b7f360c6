import { setImmediate as nextTurn } from 'node:timers/promises';
import t from 'tap';
import { EIO, ENOSPC, ESHUTDOWN } from '../../src/base/errno.js';
import { deviceNameBytes } from '../../src/base/limits.js';
import { readCounters } from '../../src/device/counters.js';
import { Device, targetAt } from '../../src/device/device.js';
import { FLUSH, READ, STATUS, TRIM, WRITE, ZERO } from '../../src/device/io.js';
import { SplitPool } from '../../src/device/split.js';
import { type Ended, type IoClient, pattern } from './io-client.js';
import { RecordingTarget, tableOf } from './recording-target.js';
import { World } from './world.js';

/** A world with one device over a recording target. */
class Bench extends World {
  readonly target = new RecordingTarget();
  readonly device: Device;
  /** What has ended, by the names that `start` gave. */
  readonly ended: string[] = [];

  constructor() {
    super();
    const context = {
      engine: this.engine,
      ios: this.ios,
      splits: new SplitPool(this.ios),
      log: this.log,
      event() {},
    };
    this.device = new Device('subject', false, context);
    this.device.live = tableOf([[64, this.target]]);
  }

  start(name: string, offset = 0, length = 512): void {
    this.client(this.device).send(READ, offset, length, {}, ({ errno }) => {
      this.ended.push(errno === 0 ? name : `${name}: ${errno}`);
    });
  }

  /** Reads from the sectors that are held, in the order in which they came. */
  get heldSectors(): number[] {
    return this.target.held.map(({ offset }) => offset / 512);
  }
}

t.test('suspends: waits for what is inside, holds what comes, goes on in order', async (t) => {
  const bench = new Bench();
  const { device, target } = bench;
  bench.start('a', 0);
  bench.start('b', 512);
  const suspended = device.suspend(false);
  t.same(target.told, ['suspending']);
  for (const [i, name] of ['c', 'd', 'e', 'f'].entries()) bench.start(name, 1024 + i * 512);
  t.same(bench.heldSectors, [0, 1], 'what comes now waits');
  t.equal(device.inFlight, 6);
  target.end(1);
  t.notOk(await bench.isSettled(suspended));
  target.end(0);
  t.ok(await bench.isSettled(suspended));
  t.same(target.told, ['suspending', 'suspend']);
  t.same(bench.ended, ['b', 'a']);
  await device.suspend(false);
  t.same(target.told, ['suspending', 'suspend'], 'a second time is nothing');
  await device.resume();
  t.same(target.told, ['suspending', 'suspend', 'resume']);
  t.same(bench.heldSectors, [2, 3, 4, 5], 'in the order in which they came');
  t.equal(device.inFlight, 4);
  while (target.held.length > 0) target.end(0);
  t.same(bench.ended, ['b', 'a', 'c', 'd', 'e', 'f']);
  bench.atRest();
});

t.test('holds again what has not gone when it is suspended while going on', async (t) => {
  const bench = new Bench();
  const { device, target } = bench;
  await device.suspend(false);
  for (const [i, name] of ['a', 'b', 'c'].entries()) bench.start(name, i * 512);
  let again: Promise<void> | null = null;
  target.answer = (io) => {
    target.held.push(io);
    again ??= device.suspend(false);
    return 1;
  };
  await device.resume();
  t.same(bench.heldSectors, [0], 'the others wait again');
  target.end(0);
  await again;
  bench.start('d', 1536);
  target.answer = null;
  await device.resume();
  t.same(bench.heldSectors, [1, 2, 3], 'in their order');
  while (target.held.length > 0) target.end(0);
  bench.atRest();
});

t.test('puts the new table in at resume', async (t) => {
  const bench = new Bench();
  const { device, target } = bench;
  const next = new RecordingTarget();
  const never = new RecordingTarget();
  await device.load(tableOf([[32, never]]));
  await device.load(tableOf([[32, next]]));
  t.same(never.told, ['destroy'], 'the table that was there is destroyed');
  bench.start('old');
  t.equal(device.sizeBytes, 64 * 512);
  const { generation, eventNumber } = device;
  const resumed = device.resume();
  bench.start('new');
  bench.start('behind the new end', 40 * 512);
  target.end(0);
  await resumed;
  t.same(target.told, ['suspending', 'suspend', 'destroy']);
  t.same(next.told, ['resume']);
  t.equal(next.held.length, 1);
  next.end(0);
  t.same(bench.ended, ['old', `behind the new end: ${EIO}`, 'new']);
  t.equal(device.sizeBytes, 32 * 512);
  t.equal(device.generation, generation + 1);
  t.equal(device.eventNumber, eventNumber + 1);
  t.equal(device.inactive, null);
  bench.atRest();
});

t.test('does not go on without a table', async (t) => {
  const bench = new Bench();
  bench.device.live = null;
  await t.rejects(bench.device.resume(), {
    code: 'ENXIO',
    message: 'no table loaded into subject, wanted one',
  });
  t.throws(() => targetAt(bench.device, 0), { code: 'ENXIO', message: 'no live table in subject' });
});

t.test('flushes what was written before it is suspended, unless told not to', async (t) => {
  const world = new World();
  const disk = world.disk('/disk', 100);
  await world.create('a', '0 100 linear /disk 0');
  disk.takeCalls();
  await world.wait(world.devices.suspend('a', false));
  // Once while clients go on, and once for the rest when they wait.
  t.same(disk.takeCalls(), ['flush', 'flush']);
  await world.wait(world.devices.resume('a'));
  await world.wait(world.devices.suspend('a', true));
  t.same(disk.takeCalls(), []);
  t.equal(world.devices.info('a').state, 'SUSPENDED');
});

t.test('goes on with its old table when the flush fails', async (t) => {
  const world = new World();
  const disk = world.disk('/disk', 100);
  const spare = world.disk('/spare', 100);
  const device = await world.create('a', '0 100 delay /disk 0 10');
  await world.wait(world.devices.load('a', '0 50 linear /spare 0'));
  disk.script = ({ what }) => (what === 'flush' ? -ENOSPC : undefined);
  const refused = { code: 'ENOSPC', message: 'cannot flush a' };
  const ends: Ended[] = [];
  for (const command of ['suspend', 'resume'] as const) {
    const refusal = world.devices[command]('a', false);
    world.client(device).send(READ, 0, 512, {}, (ended) => ends.push(ended));
    await t.rejects(world.wait(refusal), refused);
    t.equal(world.devices.info('a').state, 'ACTIVE');
    t.equal(world.devices.info('a').tables, 'LIVE & INACTIVE', 'the new table is still there');
    t.equal(device.sizeBytes, 100 * 512);
  }
  while (world.engine.turn());
  t.same(
    ends.map(({ errno }) => errno),
    [0, 0],
    'what waited has gone on',
  );
  t.equal(disk.descriptors, 1);
  const before = world.engine.now;
  await world.wait(world.client(device).run(READ, 0, 512));
  t.equal(world.engine.now - before, 10, 'and the old table works as before');
  disk.script = () => undefined;
  await world.wait(world.devices.resume('a'));
  t.equal(device.sizeBytes, 50 * 512);
  t.equal(disk.descriptors, 0);
  t.equal(spare.descriptors, 1);
  world.atRest();
});

t.test('goes on when a target cannot be suspended', async (t) => {
  const bench = new Bench();
  const { device, target } = bench;
  target.suspend = async () => {
    throw new Error('not now');
  };
  const suspended = device.suspend(false);
  bench.start('a');
  await t.rejects(suspended, { message: 'not now' });
  t.notOk(device.suspended);
  t.same(target.told, ['suspending', 'resume'], 'it is told to go on');
  target.end(0);
  t.same(bench.ended, ['a']);
});

t.test('answers EIO to whatever waits for a device that is removed', async (t) => {
  const bench = new Bench();
  const { device, target } = bench;
  bench.start('inside');
  const removed = device.remove();
  bench.start('waiting');
  t.notOk(await bench.isSettled(removed));
  target.end(0);
  await removed;
  bench.start('late');
  t.same(bench.ended, ['inside', `waiting: ${EIO}`, `late: ${EIO}`]);
  t.same(target.told, ['suspending', 'suspend', 'destroy']);
  t.equal(device.sizeBytes, 0);
  bench.atRest();
});

t.test('sends nothing to a table that is being destroyed', async (t) => {
  const world = new World();
  const disk = world.disk('/disk', 100);
  const device = await world.create('a', '0 100 linear /disk 0');
  disk.script = ({ what }) => (what === 'flush' ? -EIO : undefined);
  const removed = world.devices.remove('a', true);
  await nextTurn();
  const ends: Ended[] = [];
  world.client(device).send(READ, 0, 512, {}, (ended) => ends.push(ended));
  t.equal(ends.length, 0, 'it waits');
  await world.wait(removed);
  while (world.engine.turn());
  t.same(
    ends.map(({ errno }) => errno),
    [EIO],
  );
  t.equal(disk.descriptors, 0, 'it is removed all the same');
  t.equal(disk.takeCalls().includes('read 0+512'), false);
  t.equal(world.devices.find('a'), undefined);
  world.atRest();
});

t.test('fails what waits for a resume that will not come, now and later', async (t) => {
  const bench = new Bench();
  const { device } = bench;
  await device.suspend(false);
  bench.start('a');
  bench.start('b');
  device.failWaiting(ESHUTDOWN);
  t.same(bench.ended, [`a: ${ESHUTDOWN}`, `b: ${ESHUTDOWN}`]);
  bench.start('c');
  t.equal(bench.ended.length, 3, 'nobody will resume it any more');
  t.equal(device.inFlight, 0);
  bench.atRest();
});

t.test('counts what it does', async (t) => {
  const bench = new Bench();
  const { device, target } = bench;
  const stats = () => readCounters(device.counters.buffer);
  const client = bench.client(device);
  const run = (operation: Parameters<IoClient['send']>[0], length: number, errno = 0): void => {
    const data = operation === WRITE ? { data: pattern(length, 1) } : {};
    client.send(operation, 0, length, data, () => {});
    t.equal(stats().inFlight, operation === FLUSH ? 0 : 1);
    bench.engine.now += 3;
    if (operation !== FLUSH) target.end(0, errno);
    t.equal(stats().inFlight, 0);
  };
  run(READ, 512);
  run(READ, 1024, EIO);
  run(WRITE, 2048);
  run(TRIM, 4096);
  run(ZERO, 8192);
  run(STATUS, 512);
  run(FLUSH, 0);
  const { latency, ...counts } = stats();
  t.same(counts, {
    reads: 2,
    writes: 1,
    flushes: 1,
    trims: 1,
    zeroes: 1,
    readBytes: 1536,
    writeBytes: 2048,
    trimBytes: 4096,
    zeroBytes: 8192,
    errors: 1,
    inFlight: 0,
  });
  const three = {
    meanMicroseconds: 3000,
    p50Microseconds: 3000,
    p99Microseconds: 3000,
    maxMicroseconds: 3000,
  };
  t.same(latency.read, { count: 2, ...three });
  t.same(latency.write, { count: 1, ...three });
  t.same(latency.flush.count, 1);
  await device.suspend(false);
  bench.start('a');
  t.equal(stats().inFlight, 1, 'what waits is in flight');
  device.failWaiting(EIO);
  t.equal(stats().inFlight, 0);
});

t.test('tells percentiles as upper bounds of powers of two', async (t) => {
  const bench = new Bench();
  const { device, target, engine } = bench;
  const take = (milliseconds: number): void => {
    bench.start('x');
    engine.now += milliseconds;
    target.end(0);
  };
  for (let i = 0; i < 98; i++) take(0.1);
  take(5);
  take(40);
  const { read } = readCounters(device.counters.buffer).latency;
  t.equal(read.count, 100);
  t.equal(read.p50Microseconds, 128);
  t.equal(read.p99Microseconds, 8192);
  t.equal(read.maxMicroseconds, 40_000);
  t.equal(read.meanMicroseconds, (98 * 100 + 5000 + 40_000) / 100);
  take(3 * 60 * 60 * 1000);
  const late = readCounters(device.counters.buffer).latency.read;
  t.equal(late.maxMicroseconds, 3 * 60 * 60 * 1e6, 'hours of being suspended do not overflow');
  t.equal(late.p50Microseconds, 128);
});

t.test('carries out commands on one device one after the other', async (t) => {
  const world = new World();
  const disk = world.disk('/disk', 100);
  const device = await world.create('a', '0 100 linear /disk 0');
  const order: string[] = [];
  const tell = (what: string) => (): void => void order.push(what);
  const all = Promise.all([
    world.devices.load('a', '0 50 linear /disk 50').then(tell('load')),
    world.devices.suspend('a', false).then(tell('suspend')),
    world.devices.clear('a').then(tell('clear')),
    world.devices.load('a', '0 60 linear /disk 40').then(tell('load')),
    world.devices.resume('a').then(tell('resume')),
    world.devices.load('a', '0 70 nonsense').catch(tell('error')),
    world.devices.rename('a', 'b').then(tell('rename')),
  ]);
  await world.wait(all);
  t.same(order, ['load', 'suspend', 'clear', 'load', 'resume', 'error', 'rename']);
  t.equal(device.sizeBytes, 60 * 512);
  t.equal(world.devices.get('b'), device);
  t.equal(disk.descriptors, 1);
  t.same(world.devices.table('b', false), [
    { beginSectors: 0, lengthSectors: 60, type: 'linear', words: '/disk 40' },
  ]);
});

t.test('refuses commands that come behind a remove', async (t) => {
  const gone = { code: 'ENXIO', message: 'no device "a"' };
  const commands: [string, (world: World) => Promise<unknown>][] = [
    ['load', (world) => world.devices.load('a', '0 1 zero')],
    ['clear', (world) => world.devices.clear('a')],
    ['suspend', (world) => world.devices.suspend('a', false)],
    ['resume', (world) => world.devices.resume('a')],
    ['rename', (world) => world.devices.rename('a', 'b')],
    ['message', (world) => world.devices.message('a', 0, ['x'])],
    ['remove', (world) => world.devices.remove('a', false)],
  ];
  for (const [name, command] of commands) {
    const world = new World();
    const device = await world.create('a', '0 100 zero');
    const removed = world.devices.remove('a', false);
    await t.rejects(world.wait(command(world)), gone, name);
    await world.wait(removed);
    t.same([...world.devices.all()], [], 'and nothing comes back');
    const { errno } = await world.wait(world.client(device).run(READ, 0, 512));
    t.equal(errno, EIO, 'whoever still has it hears so');
  }
});

t.test('leaves nothing of a device that could not be created', async (t) => {
  const world = new World();
  const disk = world.disk('/disk', 100);
  const created = world.devices.create('a', '0 100 linear /disk 0\n100 1 nonsense', false);
  const loaded = world.devices.load('a', '0 100 linear /disk 0');
  await t.rejects(world.wait(created), { message: /unknown target type/ });
  await t.rejects(world.wait(loaded), { code: 'ENXIO', message: 'no device "a"' });
  t.equal(disk.descriptors, 0);
  t.same([...world.devices.all()], []);
});

t.test('removes what nobody uses, and by force what somebody does', async (t) => {
  const world = new World();
  const disk = world.disk('/disk', 100);
  const low = await world.create('low', '0 100 linear /disk 0');
  const high = await world.create('high', '0 50 linear dm:low 10');
  let told = 0;
  const user = { deviceRemoved: (): void => void told++ };
  await t.rejects(world.wait(world.devices.remove('low', false)), {
    code: 'EBUSY',
    message: 'device "low" is in use by device "high"',
  });
  low.users.add(user);
  await t.rejects(world.wait(world.devices.remove('low', false)), {
    message: 'device "low" is in use by device "high", 1 client',
  });
  t.equal(told, 0);
  t.equal(world.devices.info('low').openCount, 2);
  disk.takeCalls();
  await world.wait(world.devices.remove('low', true));
  t.equal(told, 1, 'clients are told to go');
  t.same(disk.takeCalls(), ['flush']);
  t.equal(disk.descriptors, 0);
  const { errno } = await world.wait(world.client(high).run(READ, 0, 512));
  t.equal(errno, EIO, 'what stands on it gets errors');
  t.equal((await world.wait(world.client(high).run(FLUSH, 0, 0))).errno, EIO);
  await t.rejects(world.wait(world.devices.remove('high', false)), { code: 'EIO' });
  t.ok(world.devices.find('high'), 'a device whose last flush fails stays');
  await world.wait(world.devices.remove('high', true));
  t.same([...world.devices.all()], [], 'by force it goes, whatever its last flush says');
  world.atRest();
});

t.test('does not remove a device that comes into use during its last flush', async (t) => {
  const world = new World();
  const disk = world.disk('/disk', 100);
  const device = await world.create('a', '0 100 linear /disk 0');
  disk.stuck = true;
  const removed = world.devices.remove('a', false);
  await nextTurn();
  t.equal(disk.held.length, 1, 'it is being flushed');
  const user = { deviceRemoved: (): void => void t.fail('it was removed') };
  device.users.add(user);
  disk.letGo();
  await t.rejects(world.wait(removed), { code: 'EBUSY', message: /in use by 1 client$/ });
  t.equal(world.devices.find('a'), device);
  t.equal((await world.wait(world.client(device).run(READ, 0, 512))).errno, 0);
});

t.test('renames a device under others', async (t) => {
  const world = new World();
  world.disk('/disk', 100);
  await world.create('low', '0 100 linear /disk 0');
  const lines = '0 50 linear dm:low 10\n50 10 linear /dev/mapper/low 0';
  const high = await world.create('high', lines);
  await world.wait(world.devices.rename('low', 'new name'));
  t.same(
    world.devices.table('high', false).map(({ words }) => words),
    ['dm:new\\ name 10', '/dev/mapper/new\\ name 0'],
  );
  t.same(world.devices.info('high').dependencies, ['new name']);
  t.equal(world.devices.find('low'), undefined);
  const data = pattern(512, 4);
  await world.wait(world.client(high).run(WRITE, 0, 512, { data }));
  t.ok((await world.wait(world.client(high).run(READ, 0, 512))).data.equals(data));
  await t.rejects(world.wait(world.devices.rename('new name', 'high')), {
    code: 'EEXIST',
    message: 'device "high" exists already',
  });
  await t.rejects(world.devices.rename('new name', 'a/b'), { code: 'EINVAL' });
  await t.rejects(world.wait(world.devices.rename('new name', 'new name')), { code: 'EEXIST' });
  await world.create('low', '0 1 zero');
  t.equal(world.devices.ls().length, 3, 'the old name is free');
});

t.test('goes on after a failed suspend, whatever its targets say to that', async (t) => {
  for (const failing of ['suspending', 'suspend', 'both'] as const) {
    await t.test(failing, async (t) => {
      const world = new World();
      const targets = [new RecordingTarget(), new RecordingTarget(), new RecordingTarget()];
      const [first, second, third] = targets as [RecordingTarget, RecordingTarget, RecordingTarget];
      const device = await world.create('a', '0 8 zero');
      device.live = tableOf(targets.map((target) => [8, target]));
      const fail = async (): Promise<void> => {
        throw new Error('it will not');
      };
      if (failing === 'suspending') {
        second.suspending = () => {
          throw new Error('it will not');
        };
      } else {
        third.suspend = fail;
      }
      first.resume = fail;
      if (failing === 'both') second.resume = fail;
      const suspended = device.suspend(true);
      const ends: number[] = [];
      world.client(device).send(READ, 0, 512, {}, ({ errno }) => ends.push(errno));
      await t.rejects(suspended, { message: 'it will not' });
      t.equal(device.suspended, false);
      first.end(0);
      t.strictSame(ends, [0], 'what waited goes on');
      t.ok(third.told.includes('resume'), 'and so do the other targets');
      const logged = world.logged.filter((text) => text.startsWith('cannot resume'));
      t.equal(logged.length, failing === 'both' ? 2 : 1);
      t.equal(logged[0], 'cannot resume after a failure: it will not');
      world.atRest();
    });
  }
});

t.test('goes back to its old table, whatever the targets say to that', async (t) => {
  const world = new World();
  const targets = Array.from({ length: 4 }, () => new RecordingTarget());
  const [old, other, next, last] = targets as [
    RecordingTarget,
    RecordingTarget,
    RecordingTarget,
    RecordingTarget,
  ];
  const fail = (text: string) => async (): Promise<void> => {
    throw new Error(text);
  };
  const device = await world.create('a', '0 8 zero');
  const live = tableOf([
    [8, old],
    [8, other],
  ]);
  device.live = live;
  device.inactive = tableOf([
    [8, next],
    [8, last],
  ]);
  last.resume = fail('refused');
  next.suspend = fail('nor this');
  old.resume = fail('nor that');
  const ends: number[] = [];
  const resumed = device.resume();
  world.client(device).send(READ, 0, 512, {}, ({ errno }) => ends.push(errno));
  await t.rejects(resumed, { message: 'refused' }, 'the first failure is what is told');
  t.equal(device.live, live);
  t.equal(device.suspended, false);
  old.end(0);
  t.strictSame(ends, [0]);
  t.strictSame(other.told.at(-1), 'resume');
  t.strictSame(
    world.logged.filter((text) => text.startsWith('cannot ')),
    ['cannot suspend after a failure: nor this', 'cannot resume after a failure: nor that'],
  );
  world.atRest();
});

t.test('creates devices with names that can be written', async (t) => {
  const world = new World();
  for (const name of ['a', 'A b', 'ä', '"\\', 'n'.repeat(deviceNameBytes), '-', ':']) {
    t.equal((await world.create(name, '0 1 zero')).name, name);
  }
  for (const name of [
    '',
    'a/b',
    'a\nb',
    '\u007f',
    'a\0',
    'n'.repeat(deviceNameBytes + 1),
    'ä'.repeat(64),
  ]) {
    await t.rejects(world.create(name, '0 1 zero'), { code: 'EINVAL', message: /^device name / });
  }
  await t.rejects(world.create('a'), { code: 'EEXIST', message: 'device "a" exists already' });
});

t.test('creates a device without a table, which waits for one', async (t) => {
  const world = new World();
  const device = await world.create('a');
  t.match(world.devices.info('a'), { state: 'SUSPENDED', tables: 'None', sizeSectors: 0 });
  const read = world.client(device).run(READ, 0, 512);
  t.notOk(await world.isSettled(read), 'early requests wait');
  await t.rejects(world.wait(world.devices.resume('a')), { code: 'ENXIO' });
  await world.wait(world.devices.load('a', '0 8 zero'));
  t.match(world.devices.info('a'), { state: 'SUSPENDED', tables: 'INACTIVE', inFlight: 1 });
  await world.wait(world.devices.resume('a'));
  t.match(world.devices.info('a'), { state: 'ACTIVE', tables: 'LIVE', sizeSectors: 8 });
  t.equal((await world.wait(read)).errno, 0);
});

t.test('asks the target at a sector, and says when there is none', async (t) => {
  const world = new World();
  await world.create('a', '0 8 zero\n8 8 error');
  await t.rejects(world.wait(world.devices.message('a', 8, ['go'])), {
    code: 'EINVAL',
    message: /^(error: )?Unrecognised message received \(found "go"\)$/,
  });
  await t.rejects(world.wait(world.devices.message('a', 16, ['go'])), {
    code: 'EINVAL',
    message: 'no target at that sector: sector 16, a has 16',
  });
  await t.rejects(async () => world.devices.get('b'), { code: 'ENXIO', message: 'no device "b"' });
});

t.test('shuts down from the top, with a last flush of each', async (t) => {
  const world = new World();
  const disk = world.disk('/disk', 100);
  await world.create('low', '0 100 linear /disk 0');
  await world.create('middle', '0 100 linear dm:low 0');
  await world.create('high', '0 50 linear dm:middle 0\n50 50 linear dm:low 0');
  disk.takeCalls();
  await world.wait(world.devices.shutdown());
  t.ok(disk.takeCalls().length >= 1);
  t.equal(disk.descriptors, 0);
  t.same([...world.devices.all()], []);
  world.atRest();
});

t.test('shuts down with a device suspended beneath others', async (t) => {
  const world = new World();
  const disk = world.disk('/disk', 100);
  const low = await world.create('low', '0 100 linear /disk 0');
  const high = await world.create('high', '0 100 linear dm:low 0');
  await world.wait(world.devices.suspend('low', false));
  const read = world.client(high).run(READ, 0, 512);
  for (const device of [low, high]) device.failWaiting(ESHUTDOWN);
  t.equal((await world.wait(read)).errno, ESHUTDOWN);
  await t.rejects(world.wait(world.devices.shutdown()), { message: 'cannot flush high' });
  t.equal(disk.descriptors, 0);
  world.atRest();
});

t.test('tells which last flushes failed, and shuts down all the same', async (t) => {
  const world = new World();
  const one = world.disk('/one', 100);
  const two = world.disk('/two', 100);
  await world.create('one', '0 100 linear /one 0');
  await world.create('two', '0 100 linear /two 0');
  one.script = () => -EIO;
  await t.rejects(world.wait(world.devices.shutdown()), { message: 'cannot flush one' });
  t.ok(two.takeCalls().includes('flush'));
  t.equal(world.descriptors, 0);
  t.same([...world.devices.all()], []);
});
