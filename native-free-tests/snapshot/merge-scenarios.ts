/**
 * Merging: the volume goes back to what it was when the snapshot was taken, with what was written
 * to the snapshot since, while it is in use.
 */

import { Buffer } from 'node:buffer';
import { FLUSH, READ, WRITE } from '../../src/device/io.js';
import { readCow } from './cow-image.js';
import type { Scenarios } from './engines.js';
import type { Rig } from './rig.js';
import { ScriptedRig } from './scripted-rig.js';
import { Stamper, stampBytes } from './stamper.js';
import { isMerged, Volume } from './volume.js';

const sectors = 1024;
const EIO = { message: /EIO/ };

/** A volume, and a snapshot of it; both have been written since. */
async function diverged(
  rig: Rig,
  chunk: number,
): Promise<{ volume: Volume; origin: Stamper; snapshot: Stamper }> {
  const volume = await new Volume(rig, sectors).create();
  const origin = new Stamper(volume.bytes, 80 + chunk);
  await origin.stamp(rig.disk('vol'), 60);
  await volume.take('snap', { chunk });
  const snapshot = origin.fork();
  await origin.stamp(rig.disk('vol'), 20);
  await snapshot.stamp(rig.disk('snap'), 20);
  await origin.stamp(rig.disk('vol'), 10);
  return { volume, origin, snapshot };
}

const plain: Scenarios = {
  'merges a snapshot, and tells when it has': async (t, rig) => {
    for (const chunk of [8, 1, 32]) {
      const { volume, snapshot } = await diverged(rig, chunk);
      await volume.merge('snap', { chunk });
      t.match(rig.table('vol'), new RegExp(`^snapshot-merge dm:vol-real .* P ${chunk}$`));
      await snapshot.verify(rig.disk('vol'));
      await rig.until('the merge is over', () => isMerged(rig.status('vol')));
      t.match(rig.status('vol'), new RegExp(`^${2 * chunk}/\\d+ ${2 * chunk}$`));
      t.ok(rig.eventNames.includes('vol merged'));
      await snapshot.verify(rig.disk('vol'));
      await snapshot.stamp(rig.disk('vol'), 10);
      await volume.merged();
      await snapshot.verify(rig.disk('vol'));
      t.equal(readCow(rig.contents('snap.cow')).exceptions.size, 0, 'the store is empty');
      await volume.destroy('snap');
      rig.events.length = 0;
    }
  },
  'merges nothing': async (t, rig) => {
    const volume = await new Volume(rig, sectors).create();
    const origin = new Stamper(volume.bytes, 81);
    await origin.stamp(rig.disk('vol'), 10);
    await volume.take('snap', { cow: 1024 });
    await volume.merge('snap', { cow: 1024 });
    await rig.until('the merge is over', () => isMerged(rig.status('vol')));
    t.equal(rig.status('vol'), '16/1024 16');
    await origin.verify(rig.disk('vol'));
  },
  'takes reads and writes while it merges': async (t, rig) => {
    const { volume, snapshot } = await diverged(rig, 8);
    await volume.merge('snap');
    for (let round = 0; round < 4; round++) {
      await snapshot.stamp(rig.disk('vol'), 10);
      await snapshot.verify(rig.disk('vol'));
      await rig.wait(rig.io('vol', FLUSH, 0, 0));
    }
    await volume.merged();
    await snapshot.verify(rig.disk('vol'));
    t.pass('every block is as it was written last');
  },
  'hands over from a snapshot that is there still': async (t, rig) => {
    const { volume, snapshot } = await diverged(rig, 8);
    const { devices } = rig;
    const line = volume.line('snap').replace(' snapshot ', ' snapshot-merge ');
    await rig.wait(devices.load('vol', line));
    await rig.wait(devices.suspend('vol', false));
    await t.rejects(rig.wait(devices.resume('vol')), { errno: 22, message: /source is suspended/ });
    await rig.wait(devices.suspend('snap', false));
    await rig.wait(devices.resume('vol'));
    await rig.wait(devices.resume('snap'));
    t.equal(rig.status('snap'), 'Invalid');
    await rig.wait(devices.remove('snap', false));
    await snapshot.stamp(rig.disk('vol'), 5);
    await volume.merged();
    await snapshot.verify(rig.disk('vol'));
  },
};

const withOthers: Scenarios = {
  'keeps the other snapshots as they were': async (t, rig) => {
    const { volume, origin, snapshot } = await diverged(rig, 8);
    const others: [string, Stamper][] = [];
    for (const [i, chunk] of [8, 1, 64].entries()) {
      await volume.take(`other${i}`, { chunk, type: i === 1 ? 'N' : 'P' });
      const other = origin.fork();
      others.push([`other${i}`, other]);
      await other.stamp(rig.disk(`other${i}`), 10);
      await origin.stamp(rig.disk('vol'), 5);
    }
    await volume.merge('snap');
    await Promise.all([
      snapshot.stamp(rig.disk('vol'), 15),
      ...others.map(([name, other]) => other.stamp(rig.disk(name), 5)),
    ]);
    await volume.merged();
    await snapshot.verify(rig.disk('vol'));
    for (const [name, other] of others) await other.verify(rig.disk(name));
    t.notOk(others.some(([name]) => rig.status(name) === 'Invalid'));
  },
  'refuses a second merge, and a store that cannot be merged': async (t, rig) => {
    const { volume } = await diverged(rig, 8);
    await volume.take('other');
    await volume.take('transient', { type: 'N' });
    const merge = (name: string, type: string): string =>
      volume.line(name).replace(' snapshot ', ' snapshot-merge ').replace(' P ', ` ${type} `);
    await t.rejects(rig.wait(rig.devices.load('vol', merge('transient', 'N'))), {
      errno: 22,
      message: /Snapshot exception store does not support snapshot-merge\./,
    });
    await volume.merge('snap');
    await rig.wait(rig.devices.create('again', undefined, false));
    await t.rejects(
      (async () => {
        await rig.wait(rig.devices.load('again', merge('other', 'P')));
        await rig.wait(rig.devices.suspend('other', false));
        await rig.wait(rig.devices.resume('again'));
      })(),
      { errno: 22, message: /A snapshot is already merging\./ },
    );
    await rig.wait(rig.devices.resume('other'));
    await volume.merged();
  },
};

const rivals: Scenarios = {
  'refuses a second merge that was loaded before the first began': async (t, rig) => {
    const { volume } = await diverged(rig, 8);
    await volume.take('other');
    const { devices } = rig;
    const merge = (name: string): string =>
      volume.line(name).replace(' snapshot ', ' snapshot-merge ');
    await rig.wait(devices.suspend('vol', false));
    for (const name of ['snap', 'other']) await rig.wait(devices.remove(name, false));
    await rig.wait(devices.load('vol', merge('snap')));
    await rig.wait(devices.create('again', undefined, false));
    await t.rejects(
      (async () => {
        await rig.wait(devices.load('again', merge('other')));
        await rig.wait(devices.resume('vol'));
        await rig.wait(devices.resume('again'));
      })(),
      { errno: 22, message: /A snapshot is already merging\./ },
    );
    await rig.wait(devices.resume('vol'));
    await volume.merged();
  },
};

const interrupted: Scenarios = {
  'stops while it is suspended, and goes on': async (t, rig) => {
    const { volume, snapshot } = await diverged(rig, 1);
    await volume.merge('snap', { chunk: 1 });
    for (let i = 0; i < 10 && !isMerged(rig.status('vol')); i++) {
      await rig.turns(3);
      await rig.wait(rig.devices.suspend('vol', false));
      const status = rig.status('vol');
      await rig.turns(3);
      t.equal(rig.status('vol'), status, 'nothing is merged meanwhile');
      await rig.wait(rig.devices.resume('vol'));
      await snapshot.stamp(rig.disk('vol'), 1);
    }
    await volume.merged();
    await snapshot.verify(rig.disk('vol'));
  },
  'goes on after a crash at any moment': async (t, rig) => {
    const { volume, snapshot } = await diverged(rig, 1);
    await volume.merge('snap', { chunk: 1 });
    const states = new Set<string>();
    for (let i = 0; i < 6; i++) {
      await rig.turns(1 + i * 5);
      states.add(rig.status('vol'));
      // The COW first: what it has forgotten by then is in the origin.
      const next = rig.crashed(['snap.cow', 'vol.img']);
      await next.create('vol-real', `0 ${sectors} linear ${next.file('vol.img', sectors)} 0`);
      const cow = next.file('snap.cow', next.contents('snap.cow').length / 512);
      await next.create('vol', `0 ${sectors} snapshot-merge dm:vol-real ${cow} P 1`);
      await snapshot.verify(next.disk('vol'));
      await next.until('the merge is over', () => isMerged(next.status('vol')));
      await snapshot.verify(next.disk('vol'));
      await next.close();
    }
    await volume.merged();
    await snapshot.verify(rig.disk('vol'));
    t.ok(states.size > 0);
  },
  'loses nothing of other snapshots when the daemon goes down meanwhile': async (t, rig) => {
    const large = 8192;
    const volume = await new Volume(rig, large).create();
    const origin = new Stamper(volume.bytes, 91);
    await origin.stamp(rig.disk('vol'), 80);
    await volume.take('snap');
    const snapshot = origin.fork();
    await snapshot.stamp(rig.disk('snap'), 80);
    await volume.take('other');
    const other = origin.fork();
    // Devices go one after the other: what merges is to be the last, and a while after the snapshot.
    const image = rig.file('beside.img', 8);
    for (let i = 0; i < 20; i++) await rig.create(`beside${i}`, `0 8 linear ${image} 0`);
    for (const [from, to] of [
      ['vol', 'last'],
      ['last', 'vol'],
    ] as const) {
      await rig.wait(rig.devices.rename(from, to));
    }
    await volume.merge('snap');
    await rig.turns(4);
    await rig.wait(rig.devices.shutdown());
    const left = readCow(rig.contents('snap.cow')).exceptions.size;
    t.ok(left > 0, `${left} chunks are left to be merged`);
    const next = rig.crashed(['snap.cow', 'other.cow', 'vol.img']);
    const cow = (name: string): string => next.file(name, next.contents(name).length / 512);
    await next.create('vol-real', `0 ${large} linear ${next.file('vol.img', large)} 0`);
    await next.create('other', `0 ${large} snapshot dm:vol-real ${cow('other.cow')} P 8`);
    await other.verify(next.disk('other'));
    const words = `dm:vol-real ${cow('snap.cow')} P 8`;
    await next.create('vol', `0 ${large} snapshot-merge ${words}`);
    await snapshot.verify(next.disk('vol'));
    await next.until('the merge is over', () => isMerged(next.status('vol')));
    await snapshot.verify(next.disk('vol'));
    await other.verify(next.disk('other'));
    await next.close();
  },
};

const failing: Scenarios = {
  'has nothing under way any more when it goes after a failure': async (t, rig) => {
    // Elsewhere nobody can tell.
    if (!(rig instanceof ScriptedRig)) return;
    const { volume } = await diverged(rig, 8);
    let reads = 0;
    // One of many copies cannot be read. The header and the first area are whole.
    rig.onDisk('snap.cow').script = ({ what, offset }) =>
      what === 'read' && offset >= 2 * stampBytes && ++reads === 4 ? -5 : undefined;
    await volume.merge('snap');
    await rig.until('the merge fails', () => rig.status('vol') === 'Merge failed');
    const { devices } = rig;
    await rig.wait(devices.suspend('vol', true));
    await rig.wait(devices.load('vol', `0 ${sectors} error`));
    await rig.wait(devices.resume('vol'));
    t.equal(rig.onDisk('snap.cow').descriptors, 0);
  },
  'shows Merge failed when the COW fails, and merges once that is well again': async (t, rig) => {
    const cow = rig.file('cow', 4096);
    await rig.create('cow', `0 4096 linear ${cow} 0`);
    const volume = await new Volume(rig, sectors).create();
    const origin = new Stamper(volume.bytes, 90);
    await origin.stamp(rig.disk('vol'), 60);
    await volume.take('snap', { cowWord: 'dm:cow' });
    const snapshot = origin.fork();
    await origin.stamp(rig.disk('vol'), 30);
    await snapshot.stamp(rig.disk('snap'), 20);
    // The header and area 0 can be read, the data cannot.
    await change(rig, 'cow', `0 16 linear ${cow} 0\n16 4080 error`);
    await volume.merge('snap', { cowWord: 'dm:cow' });
    await rig.until('the merge fails', () => rig.status('vol') === 'Merge failed');
    t.ok(rig.eventNames.includes('vol merge failed'));
    const { exceptions } = readCow(rig.contents('cow'));
    const merging = [...exceptions.keys()][0] as number;
    await t.rejects(rig.wait(rig.io('vol', READ, merging * stampBytes, stampBytes)), EIO);
    await change(rig, 'cow', `0 4096 linear ${cow} 0`);
    await snapshot.verify(rig.disk('vol'));
    const free = Array.from({ length: sectors / 8 }, (_, i) => i).filter(
      (chunk) => !exceptions.has(chunk),
    );
    await snapshot.stampBlocks(rig.disk('vol'), free.slice(0, 5));
    await rig.wait(rig.devices.suspend('vol', false));
    await rig.wait(rig.devices.resume('vol'));
    t.equal(rig.status('vol'), 'Merge failed', 'suspend and resume do not heal it');
    await rig.wait(rig.devices.remove('vol', false));
    await rig.create('vol', `0 ${sectors} snapshot-merge dm:vol-real dm:cow P 8`);
    await volume.merged();
    await snapshot.verify(rig.disk('vol'));
  },
  'fails when the origin cannot be written, and keeps the exceptions': async (t, rig) => {
    const { volume, snapshot } = await diverged(rig, 8);
    const image = rig.file('vol.img', sectors);
    const { devices } = rig;
    const line = volume.line('snap').replace(' snapshot ', ' snapshot-merge ');
    await rig.wait(devices.suspend('vol', false));
    await rig.wait(devices.remove('snap', false));
    await change(rig, 'vol-real', `0 ${sectors} flakey ${image} 0 0 1000000 1 error_writes`);
    await rig.wait(devices.load('vol', line));
    await rig.wait(devices.resume('vol'));
    await rig.until('the merge fails', () => rig.status('vol') === 'Merge failed');
    await snapshot.verify(rig.disk('vol'));
    const data = Buffer.alloc(512, 1);
    const written = rig.wait(
      rig.io('vol', WRITE, 0, volume.bytes, { data: Buffer.alloc(volume.bytes) }),
    );
    await t.rejects(written, EIO);
    await change(rig, 'vol-real', `0 ${sectors} linear ${image} 0`);
    await rig.wait(rig.io('vol', WRITE, 0, 512, { data }));
    t.equal(rig.status('vol'), 'Merge failed');
  },
};

async function change(rig: Rig, name: string, table: string): Promise<void> {
  await rig.wait(rig.devices.load(name, table));
  await rig.wait(rig.devices.suspend(name, true));
  await rig.wait(rig.devices.resume(name));
}

export const mergeScenarios: Scenarios = {
  ...plain,
  ...withOthers,
  ...rivals,
  ...interrupted,
  ...failing,
};
