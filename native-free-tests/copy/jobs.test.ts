import t, { type Test } from 'tap';
import { EAGAIN, EIO, ENOSPC, ENOSYS, EOPNOTSUPP } from '../../src/base/errno.js';
import {
  copyJobsAtOnce,
  copyJobsEnded,
  copyJobsWaiting,
  copySliceBytes,
} from '../../src/base/limits.js';
import { CopyJobs } from '../../src/copy/jobs.js';
import { Throttle } from '../../src/copy/throttle.js';
import { COPY_BY_CLONE } from '../../src/engine/engine.js';
import type { CopyJobInfo, CopyRequest } from '../../src/queue/commands.js';
import { fillPattern } from '../contract/pattern.js';
import { World } from '../device/world.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const sectors = (8 * MiB) / 512;

/** Two disks of 8 MiB, the first with data in its first 3 MiB, and a device over the first. */
async function rig(t: Test) {
  const world = new World(96 * MiB);
  const source = world.disk('/source', sectors);
  fillPattern(source.bytes.subarray(0, 3 * MiB), 0, 5);
  source.allocate(0, 3 * MiB);
  const destination = world.disk('/destination', sectors);
  const jobs = new CopyJobs(world.engine, world.ios, world.devices);
  await world.create('vol0', `0 ${sectors} linear /source 0`);
  const over = ({ state }: CopyJobInfo): boolean => state !== 'waiting' && state !== 'running';
  const run = async (id: number): Promise<CopyJobInfo> => {
    while (jobs.list().some((one) => one.id === id && !over(one)) && world.engine.turn());
    return jobs.ended(id, 0);
  };
  t.teardown(() => world.atRest());
  return { world, source, destination, jobs, run };
}

const request = (source: string, ...destinations: string[]): CopyRequest => ({
  source,
  destinations,
});

t.test('copies between files and devices, holes as holes, and says how', async (t) => {
  const { world, source, destination, jobs, run } = await rig(t);
  destination.bytes.fill(7);
  destination.allocate(0, 8 * MiB);
  const other = world.disk('/other', sectors);
  const id = jobs.start({ ...request('dm:vol0', '/destination', '/other'), flush: true });
  t.equal(world.descriptors, 3);
  const info = await run(id);
  t.match(info, {
    id,
    source: 'dm:vol0',
    destinations: ['/destination', '/other'],
    state: 'done',
    error: null,
    totalBytes: 8 * MiB,
    doneBytes: 8 * MiB,
    skippedBytes: 5 * MiB,
    offloadedBytes: 0,
    methods: ['read and write'],
    secondsLeft: null,
  });
  for (const disk of [destination, other]) {
    t.equal(Buffer.compare(disk.bytes, source.bytes), 0);
    t.same(disk.allocated, source.allocated);
    t.equal(disk.calls.at(-1)?.what, 'flush');
  }
  t.equal(world.descriptors, 1, 'all is closed but the device');
});

t.test('copies a part to another place', async (t) => {
  const { source, destination, jobs, run } = await rig(t);
  const part = { sourceOffset: 4096, destinationOffset: 512, length: 2 * MiB + 1 };
  t.match(await run(jobs.start({ ...request('/source', '/destination'), ...part })), {
    state: 'done',
    totalBytes: 2 * MiB + 1,
  });
  const wanted = new Uint8Array(8 * MiB);
  wanted.set(source.bytes.subarray(4096, 4096 + 2 * MiB + 1), 512);
  t.equal(Buffer.compare(destination.bytes, wanted), 0);
});

t.test('rejects what cannot be, with the figures, and leaves nothing open', async (t) => {
  const { world, jobs } = await rig(t);
  world.disk('/small', 1000);
  await world.create('frozen', `0 ${sectors} linear /destination 0`, true);
  const open = world.descriptors;
  const rejects = (message: RegExp, one: CopyRequest): void => {
    t.throws(() => jobs.start(one), { message });
  };
  rejects(/^"\/small" has 512000 bytes, wanted 8388608$/, request('/source', '/small'));
  const beyond = { sourceOffset: 8 * MiB - 512, length: 1024 };
  const far = { ...request('/source', '/destination'), ...beyond };
  rejects(/^"\/source" has 8388608 bytes, wanted 8389120$/, far);
  const further = { ...request('/source', '/destination'), sourceOffset: 9 * MiB };
  rejects(/^"\/source" has 8388608 bytes, wanted 9437184$/, further);
  rejects(/^"dm:frozen" is read-only$/, request('/source', 'dm:frozen'));
  rejects(/^"\/source" would be copied over itself$/, request('/source', '/source'));
  rejects(/^two destinations are the same$/, request('/source', '/destination', '/destination'));
  rejects(/^no device "nowhere"$/, request('dm:nowhere', '/small'));
  rejects(/^found "small", wanted an absolute path/, request('/source', 'small'));
  t.throws(() => jobs.cancel(1), { message: 'no copy 1' });
  t.same(jobs.list(), []);
  t.equal(world.descriptors, open);
});

t.test('says which destination failed, and why', async (t) => {
  const { destination, source, jobs, run } = await rig(t);
  destination.script = ({ what, offset }) =>
    what === 'write' && offset === copySliceBytes ? -ENOSPC : undefined;
  const info = await run(jobs.start(request('/source', '/destination')));
  t.match(info, { state: 'failed', error: 'write to /destination failed: ENOSPC' });
  source.script = () => -EIO;
  t.match(await run(jobs.start(request('dm:vol0', '/destination'))), {
    state: 'failed',
    error: 'read of dm:vol0 failed: EIO',
  });
  destination.script = ({ what }) => (what === 'flush' ? -EIO : undefined);
  source.script = () => undefined;
  const flushed = { ...request('dm:vol0', '/destination'), flush: true };
  t.match(await run(jobs.start(flushed)), {
    state: 'failed',
    error: 'flush of /destination failed: EIO',
  });
});

t.test('holds the devices that it uses, and fails when one is removed by force', async (t) => {
  const { world, source, jobs } = await rig(t);
  source.stuck = true;
  const id = jobs.start(request('dm:vol0', '/destination'));
  await t.rejects(world.wait(world.devices.remove('vol0', false)), {
    code: 'EBUSY',
    message: 'device "vol0" is in use by copy 1',
  });
  const removed = world.devices.remove('vol0', true);
  source.letGo();
  await world.wait(removed);
  await world.wait(jobs.ended(id, 10_000));
  t.match(jobs.list(), [{ state: 'failed', error: 'device "vol0" was removed' }]);
  t.equal(world.descriptors, 0);
});

t.test('cancels what runs, and what waits', async (t) => {
  const { world, source, jobs } = await rig(t);
  source.stuck = true;
  const disks = Array.from({ length: copyJobsAtOnce + copyJobsWaiting }, (_, i) => {
    world.disk(`/d${i}`, sectors);
    return `/d${i}`;
  });
  const ids = disks.map((disk) => jobs.start(request('/source', disk)));
  const states = () => jobs.list().map(({ state }) => state);
  t.equal(states().filter((state) => state === 'running').length, copyJobsAtOnce);
  t.throws(() => jobs.start(request('/source', '/destination')), { code: 'EBUSY' });
  const last = ids.at(-1) as number;
  jobs.cancel(last);
  t.equal(states().at(-1), 'cancelled', 'what has not begun ends at once');
  t.throws(() => jobs.cancel(last), { message: `copy ${last} has ended already` });
  jobs.cancel(1);
  t.equal(states()[0], 'running', 'what is under way is waited for');
  const shutdown = jobs.shutdown();
  t.throws(() => jobs.start(request('/source', '/destination')), { code: 'ESHUTDOWN' });
  source.letGo();
  await world.wait(shutdown);
  t.same(new Set(states()), new Set(['cancelled']));
  t.equal(jobs.list().length, copyJobsEnded, 'those that ended long ago are forgotten');
  t.equal(world.descriptors, 1);
});

t.test('waits for the end as long as it was asked to', async (t) => {
  const { world, source, jobs } = await rig(t);
  source.stuck = true;
  const id = jobs.start(request('/source', '/destination'));
  t.match(await jobs.ended(id, 0), { state: 'running' });
  t.match(await world.wait(jobs.ended(id, 500)), { state: 'running' });
  t.equal(world.engine.now, 500);
  const ended = jobs.ended(id, 9_000);
  source.letGo();
  t.match(await world.wait(ended), { state: 'done' });
});

/** How the system answers: an errno for each way, and what must come of it. */
const offloads = [
  { clone: 0, system: 0, methods: ['clone', 'copy_file_range'], asked: ['clone', 'system'] },
  { clone: EOPNOTSUPP, system: 0, methods: ['copy_file_range'], asked: ['clone', 'system'] },
  { clone: EOPNOTSUPP, system: ENOSYS, methods: ['read and write'], asked: ['clone', 'system'] },
  { clone: EAGAIN, system: 0, methods: ['copy_file_range', 'read and write'], asked: null },
] as const;

t.test('has the system copy where it can', async (t) => {
  for (const { clone, system, methods, asked } of offloads) {
    const { world, source, destination, jobs, run } = await rig(t);
    const other = world.disk('/other', sectors);
    await world.create('vol1', `0 ${sectors} linear /other 0`);
    const calls: string[] = [];
    const { engine } = world;
    const open = engine.open.bind(engine);
    engine.open = (path, options) => {
      const file = open(path, options);
      file.copyTo = (to, from, at, length, way, completion) => {
        calls.push(way === COPY_BY_CLONE ? 'clone' : 'system');
        const errno = way === COPY_BY_CLONE ? clone : system;
        const bytes = way === COPY_BY_CLONE ? length : Math.min(length, 256 * KiB);
        if (errno === 0) {
          t.equal(to.path, '/destination', 'only from file to file');
          destination.bytes.set(source.bytes.subarray(from, from + bytes), at);
          destination.allocate(at, at + bytes);
        }
        completion.done(errno === 0 ? bytes : -errno);
      };
      return file;
    };
    const length = 3 * MiB - 100;
    const id = jobs.start({ ...request('/source', '/destination'), length });
    t.match(await run(id), { state: 'done', doneBytes: length, methods });
    const wanted = source.bytes.subarray(0, length);
    t.equal(Buffer.compare(destination.bytes.subarray(0, length), wanted), 0);
    if (asked !== null) t.same([...new Set(calls)], asked);
    if (system !== 0) t.same(calls, asked, 'what never works is tried once');

    // One destination by the system, the other read and written.
    const two = jobs.start({ ...request('/source', '/destination', 'dm:vol1'), length });
    t.match(await run(two), { state: 'done', doneBytes: length, offloadedBytes: 0 });
    t.equal(Buffer.compare(other.bytes.subarray(0, length), wanted), 0);
    const without = calls.length;
    await run(jobs.start({ ...request('/source', '/destination'), noOffload: true }));
    t.equal(calls.length, without, 'it is not asked for what is not wanted');
  }
});

t.test('a throttle keeps copies to their part of the time', async (t) => {
  const throttle = new Throttle(25);
  t.notOk(throttle.mustSleep(0, 0), 'nothing was done yet');
  let now = 0;
  let busy = 0;
  for (let i = 0; i < 200; i++) {
    for (let slept = 0; throttle.mustSleep(now, slept); slept++) now += 100;
    throttle.started(now);
    now += 10;
    busy += 10;
    throttle.ended(now);
  }
  t.ok(busy / now > 0.1 && busy / now < 0.3, `${busy} of ${now}`);
  throttle.started(now);
  now += 500;
  throttle.ended(now);
  t.ok(throttle.mustSleep(now, 9));
  t.notOk(throttle.mustSleep(now, 10), 'ten times at most');
  throttle.percent = 100;
  t.notOk(throttle.mustSleep(now, 0));
});
