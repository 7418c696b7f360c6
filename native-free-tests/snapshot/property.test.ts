/** Random schedules of an origin and its snapshots against the oracle, on every engine. */

import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import t from 'tap';
import { onRealEngines } from './engines.js';
import { FileRig } from './file-rig.js';
import { Bytes, capacityOf, statusOf } from './oracle.js';
import { Run } from './run.js';
import { originSectors, schedule } from './schedule.js';
import { ScriptedRig } from './scripted-rig.js';
import { Stamper } from './stamper.js';
import { cowSectors, isMerged, Volume } from './volume.js';

t.test('keeps every byte through any schedule, in any order of completions', async (t) => {
  let requests = 0;
  await fc.assert(
    fc.asyncProperty(schedule, fc.integer(), async (steps, seed) => {
      const rig = scripted(seed);
      const run = await Run.play(rig, steps);
      await rig.close();
      requests += run.sent;
    }),
    { numRuns: 150, endOnFailure: true },
  );
  t.ok(requests > 1000, `${requests} requests`);
});

/** Disks of different abilities. */
function scripted(seed: number): ScriptedRig {
  const rig = new ScriptedRig(seed);
  rig.varied = true;
  return rig;
}

t.test('never shows anything wrong where COWs fail, and never fails the origin', async (t) => {
  let requests = 0;
  await fc.assert(
    fc.asyncProperty(schedule, fc.integer(), async (steps, seed) => {
      const rig = scripted(seed);
      rig.faults = true;
      const run = await Run.play(rig, steps);
      await rig.close();
      requests += run.sent;
    }),
    { numRuns: 100, endOnFailure: true },
  );
  t.ok(requests > 1000, `${requests} requests`);
});

t.test('merges in the end, however often the COW fails', async (t) => {
  let failures = 0;
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.constantFrom(1, 4, 8, 16), async (seed, chunk) => {
      const rig = scripted(seed);
      const volume = await new Volume(rig, originSectors).create();
      const origin = new Stamper(volume.bytes, seed);
      await origin.stamp(rig.disk('vol'), 50);
      await volume.take('snap', { chunk });
      const snapshot = origin.fork();
      await origin.stamp(rig.disk('vol'), 50);
      await snapshot.stamp(rig.disk('snap'), 30);
      await volume.merge('snap', { chunk });
      rig.faults = true;
      const unknown = new Set<number>();
      const settled = (): boolean =>
        isMerged(rig.status('vol')) || rig.status('vol') === 'Merge failed';
      while (!settled()) {
        const block = rig.random(snapshot.blocks);
        await snapshot.stampBlocks(rig.disk('vol'), [block]).then(
          () => unknown.delete(block),
          () => unknown.add(block),
        );
        await rig.turns(1);
      }
      rig.faults = false;
      await snapshot.verify(rig.disk('vol'), unknown);
      if (rig.status('vol') === 'Merge failed') {
        failures++;
        const cow = rig.file('snap.cow', cowSectors(originSectors, chunk));
        await rig.wait(rig.devices.remove('vol', false));
        await rig.create('vol', `0 ${originSectors} snapshot-merge dm:vol-real ${cow} P ${chunk}`);
      }
      await volume.merged();
      await snapshot.verify(rig.disk('vol'), unknown);
      await rig.close();
    }),
    { numRuns: 60, endOnFailure: true },
  );
  t.ok(failures > 0, `${failures} merges failed`);
});

t.test('keeps every byte through any schedule, over files', async (t) => {
  await onRealEngines(t, async (t, engine) => {
    let requests = 0;
    await fc.assert(
      fc.asyncProperty(schedule, async (steps) => {
        const rig = new FileRig(engine);
        const run = await Run.play(rig, steps);
        await rig.close();
        requests += run.sent;
      }),
      { numRuns: 25, endOnFailure: true },
    );
    t.ok(requests > 100, `${requests} requests`);
  });
});

t.test('has an oracle that notices', (t) => {
  const bytes = new Bytes(100);
  bytes.write(10, Buffer.from([1, 2, 3]));
  bytes.check('a read', 9, Buffer.from([0, 1, 2, 3, 0]));
  t.throws(() => bytes.check('a read', 9, Buffer.from([0, 1, 2, 4, 0])), {
    message: 'a read: byte 12 is 4, wanted 3',
  });
  t.throws(() => bytes.checkZero('a status', 9, 2), { message: /byte 10 is told to be zero/ });
  bytes.maybe(10, Buffer.from([0, 0, 0]));
  bytes.check('a read', 10, Buffer.from([0, 2]));
  t.throws(() => bytes.check('a read', 10, Buffer.from([1])), 'what was seen once stays');
  // Figures that the kernel shows.
  t.equal(statusOf('P', 4096, 8, 0), '16/4096 16');
  t.equal(statusOf('N', 2048, 8, 0), '0/2048 0');
  t.equal(statusOf('P', 35, 1, 32), '35/35 3');
  t.equal(statusOf('P', 24, 8, 1), '24/24 16');
  t.equal(capacityOf('P', 24, 8), 1);
  t.equal(capacityOf('P', 35, 1), 32);
  t.equal(capacityOf('P', 34, 1), 31, 'which is ours: the kernel runs into the end there');
  t.equal(capacityOf('N', 35, 8), 4);
  t.end();
});

t.test('has a stamper that notices a changed byte', async (t) => {
  const disk = Buffer.alloc(10_000);
  const stamped = {
    read: async (offset: number, length: number) => disk.subarray(offset, offset + length),
    write: async (offset: number, data: Buffer) => {
      data.copy(disk, offset);
    },
  };
  const stamper = new Stamper(disk.length, 1);
  await stamper.stamp(stamped, 100);
  const old = stamper.fork();
  await old.verify(stamped);
  await stamper.stampBlocks(stamped, [1]);
  await stamper.verify(stamped);
  await t.rejects(old.verify(stamped), { message: /^block 1 .* found stamp 4, wanted stamp/ });
  disk.writeUInt8(disk.readUInt8(9_999) ^ 1, 9_999);
  await t.rejects(stamper.verify(stamped), {
    message: /^block 2 .* other bytes from byte 1807 on/,
  });
});
