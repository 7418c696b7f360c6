/**
 * kill -9: the files as they are, without a flush, under a new registry. What crash.test.ts finds
 * for a loss of power it finds on disks in memory; this is for real files.
 */

import type { Buffer } from 'node:buffer';
import { FLAG_FUA, WRITE } from '../../src/device/io.js';
import { readCow } from './cow-image.js';
import type { Scenarios } from './engines.js';
import type { Rig } from './rig.js';
import { Stamper, stampBytes } from './stamper.js';
import { Volume } from './volume.js';

const sectors = 1024;

/** The volume and its snapshots over the files of a rig that crashed. */
async function revive(rig: Rig, snapshots: readonly [string, number][]): Promise<Volume> {
  const image = rig.file('vol.img', sectors);
  const volume = await new Volume(rig, sectors).create(`0 ${sectors} linear ${image} 0`);
  for (const [name, chunk] of snapshots) await volume.take(name, { chunk });
  return volume;
}

export const crashScenarios: Scenarios = {
  'a persistent snapshot comes back as it was': async (t, rig) => {
    const volume = await new Volume(rig, sectors).create();
    const origin = new Stamper(volume.bytes, 95);
    await origin.stamp(rig.disk('vol'), 50);
    const snapshots: [string, number][] = [];
    const stampers: [string, Stamper][] = [];
    for (const chunk of [8, 1, 32]) {
      snapshots.push([`snap${chunk}`, chunk]);
      await volume.take(`snap${chunk}`, { chunk });
      const stamper = origin.fork();
      await origin.stamp(rig.disk('vol'), 20);
      await stamper.stamp(rig.disk(`snap${chunk}`), 20);
      stampers.push([`snap${chunk}`, stamper]);
    }
    const next = rig.crashed(['vol.img', ...snapshots.map(([name]) => `${name}.cow`)]);
    await revive(next, snapshots);
    await origin.verify(next.disk('vol'));
    for (const [name, stamper] of stampers) {
      await stamper.verify(next.disk(name));
      t.equal(next.status(name), rig.status(name));
      await stamper.stamp(next.disk(name), 20);
    }
    await origin.stamp(next.disk('vol'), 20);
    for (const [name, stamper] of stampers) await stamper.verify(next.disk(name));
    await next.close();
  },
  'and as the origin is written': async (t, rig) => {
    const volume = await new Volume(rig, sectors).create();
    const origin = new Stamper(volume.bytes, 96);
    await origin.stamp(rig.disk('vol'), 50);
    await volume.take('snap');
    const snapshot = origin.fork();
    let over = false;
    const writing = (async () => {
      for (let round = 0; round < 4; round++) await origin.stamp(rig.disk('vol'), 20);
      over = true;
    })();
    const sizes: number[] = [];
    while (!over) {
      await rig.turns(3);
      // The origin first: what was written there has its exception in the COW already.
      const next = rig.crashed(['vol.img', 'snap.cow']);
      await revive(next, [['snap', 8]]);
      await snapshot.verify(next.disk('snap'));
      await next.close();
      sizes.push(readCow(rig.contents('snap.cow')).exceptions.size);
      if (sizes.length === 6) break;
    }
    await writing;
    t.ok(sizes.length > 0);
    await snapshot.verify(rig.disk('snap'));
  },
  'and as the snapshot is written, with what was answered': async (t, rig) => {
    const volume = await new Volume(rig, sectors).create();
    const origin = new Stamper(volume.bytes, 97);
    await origin.stamp(rig.disk('vol'), 50);
    await volume.take('snap');
    const snapshot = origin.fork();
    for (const block of [3, 4, 5, 60, 61, 7]) {
      const disk = {
        read: rig.disk('snap').read,
        write: async (offset: number, data: Buffer) => {
          // Halves: both are written into a copy.
          for (const at of [0, stampBytes / 2]) {
            const half = data.subarray(at, at + stampBytes / 2);
            const extras = { data: half, flags: FLAG_FUA };
            await rig.wait(rig.io('snap', WRITE, offset + at, half.length, extras));
          }
        },
      };
      await snapshot.stampBlocks(disk, [block]);
      const next = rig.crashed(['vol.img', 'snap.cow']);
      await revive(next, [['snap', 8]]);
      await snapshot.verify(next.disk('snap'));
      await origin.verify(next.disk('vol'));
      t.equal(next.status('snap'), rig.status('snap'));
      await next.close();
    }
  },
};
