/** The scenarios of the device mapper test suite's `snapshot` suite, less those that measure. */

import { Buffer } from 'node:buffer';
import type { Test } from 'tap';
import { READ, WRITE } from '../../src/device/io.js';
import type { Scenarios } from './engines.js';
import type { Rig } from './rig.js';
import { ScriptedRig } from './scripted-rig.js';
import { eachOf, Stamper } from './stamper.js';
import { percent, Volume } from './volume.js';

const types = ['P', 'N'] as const;
type Type = (typeof types)[number];

/** 1 MiB. */
const sectors = 2048;

/** The same scenario with a persistent store and with a transient one. */
function forBoth(title: string, body: (t: Test, rig: Rig, type: Type) => Promise<void>): Scenarios {
  return Object.fromEntries(
    types.map((type) => [`${title} (${type})`, (t: Test, rig: Rig) => body(t, rig, type)]),
  );
}

async function bringUp(t: Test, rig: Rig, type: Type): Promise<void> {
  const volume = await new Volume(rig, sectors).create();
  await volume.take('snap', { type, cow: 2048 });
  t.equal(rig.status('snap'), type === 'P' ? '16/2048 16' : '0/2048 0');
  t.equal(percent(rig.status('snap')), '0.00');
  const cow = volume.cow('snap', { cow: 2048 });
  t.equal(rig.table('snap'), `snapshot dm:vol-real ${cow} ${type} 8`);
  t.equal(rig.table('vol'), 'snapshot-origin dm:vol-real');
  t.equal(rig.status('vol'), '');
  await volume.drop('snap');
  t.equal(rig.devices.find('snap'), undefined);
}

async function lots(t: Test, rig: Rig, type: Type): Promise<void> {
  const volume = await new Volume(rig, 256).create();
  const origin = new Stamper(volume.bytes, 101);
  await origin.stamp(rig.disk('vol'), 30);
  const old = origin.fork();
  const names = Array.from({ length: 101 }, (_, i) => `snap${i}`);
  for (const name of names) await volume.take(name, { type });
  await origin.stamp(rig.disk('vol'), 30);
  await origin.verify(rig.disk('vol'));
  await eachOf(names, (name) => old.verify(rig.disk(name)), 4);
  t.equal(new Set(names.map((name) => rig.status(name))).size, 1, 'all are filled alike');
  for (const name of names) await volume.drop(name);
  await origin.verify(rig.disk('vol'));
}

async function hugeChunk(t: Test, rig: Rig, type: Type): Promise<void> {
  // 256 MiB take a while: each store has them on one of the engines.
  const [huge, less] = [524_288, 1024];
  const chunk = rig.engine.name === (type === 'P' ? 'uring' : 'node') ? huge : less;
  const volume = await new Volume(rig, chunk).create();
  const origin = new Stamper(volume.bytes, 5);
  await origin.stamp(rig.disk('vol'), 0.1);
  const old = origin.fork();
  await volume.take('snap', { type, chunk });
  await origin.stamp(rig.disk('vol'), 0.5);
  await origin.verify(rig.disk('vol'));
  await old.verify(rig.disk('snap'));
  const total = 3 * chunk;
  const meta = type === 'P' ? 2 * chunk : 0;
  t.equal(rig.status('snap'), `${meta + chunk}/${total} ${meta}`, 'one chunk was copied');
}

const chunkSizes: Scenarios = {
  'refuses a chunk size that is no power of 2': async (t, rig) => {
    const volume = await new Volume(rig, sectors).create();
    for (const type of types) {
      const refused = volume.take('snap', { type, chunk: 8 + 57, cow: 2048 });
      await t.rejects(refused, { errno: 22, message: /Couldn't create exception store/ });
    }
    await new Stamper(volume.bytes, 1).verify(rig.disk('vol'));
  },
  'refuses a chunk size above 2^21 sectors': async (t, rig) => {
    const volume = await new Volume(rig, sectors).create();
    for (const type of types) {
      const refused = volume.take('snap', { type, chunk: 2 ** 22, cow: 2048 });
      await t.rejects(refused, { errno: 22, message: /Couldn't create exception store/ });
    }
  },
  'refuses a chunk size of 0 for N, and takes 16 KiB for P': async (t, rig) => {
    const volume = await new Volume(rig, sectors).create();
    const refused = volume.take('snap', { type: 'N', chunk: 0, cow: 2048 });
    await t.rejects(refused, { errno: 22, message: /Chunk size not set/ });
    await volume.take('snap', { type: 'P', chunk: 0, cow: 2048 });
    t.match(rig.table('snap'), / P 32$/);
    t.equal(rig.status('snap'), '64/2048 64');
  },
  'loads the largest chunk size, 2^21 sectors': async (t, rig) => {
    if (rig instanceof ScriptedRig) return;
    const volume = await new Volume(rig, sectors).create();
    const chunk = 2 ** 21;
    const origin = new Stamper(volume.bytes, 2);
    await origin.stamp(rig.disk('vol'), 20);
    const old = origin.fork();
    await volume.take('snap', { type: 'N', chunk, cow: 3 * chunk });
    await origin.stamp(rig.disk('vol'), 20);
    await old.verify(rig.disk('snap'));
    t.equal(rig.status('snap'), `${chunk}/${3 * chunk} 0`);
    if (rig.engine.name === 'node') return;
    // Two chunks of metadata are zeroed, which that engine can only do by writing them.
    await volume.take('kept', { type: 'P', chunk, cow: 3 * chunk });
    t.equal(rig.status('kept'), `${2 * chunk}/${3 * chunk} ${2 * chunk}`);
  },
  'takes every chunk size from 1 sector to 1 MiB, at once': async (t, rig) => {
    const volume = await new Volume(rig, sectors - 3).create();
    const origin = new Stamper(volume.bytes, 77);
    await origin.stamp(rig.disk('vol'), 30);
    const old = origin.fork();
    const names: string[] = [];
    for (let chunk = 1; chunk <= 2048; chunk *= 2) {
      for (const type of types) {
        names.push(`${type}${chunk}`);
        await volume.take(`${type}${chunk}`, { type, chunk });
      }
    }
    await origin.stamp(rig.disk('vol'), 60);
    await origin.verify(rig.disk('vol'));
    for (const name of names) await old.verify(rig.disk(name));
    t.notOk(names.some((name) => rig.status(name) === 'Invalid'));
  },
};

async function parallel(t: Test, rig: Rig, type: Type): Promise<void> {
  const volume = await new Volume(rig, 512).create();
  const origin = new Stamper(volume.bytes, 16);
  await origin.stamp(rig.disk('vol'), 50);
  const disks: [string, Stamper][] = [['vol', origin]];
  for (let i = 0; i < 16; i++) {
    // Not all of one chunk size: writes of 4 KiB are whole chunks, parts and several of them.
    await volume.take(`snap${i}`, { type, chunk: [8, 1, 32, 16][i % 4] as number });
    disks.push([`snap${i}`, origin.fork()]);
  }
  await Promise.all(
    disks.map(async ([name, stamper]) => {
      for (let round = 0; round < 3; round++) {
        await stamper.stamp(rig.disk(name), 15);
        await stamper.verify(rig.disk(name));
      }
    }),
  );
  for (const [name, stamper] of disks) await stamper.verify(rig.disk(name));
  t.notOk(disks.some(([name]) => rig.status(name) === 'Invalid'));
}

async function manyOfOne(t: Test, rig: Rig, type: Type): Promise<void> {
  const volume = await new Volume(rig, 512).create();
  const origin = new Stamper(volume.bytes, 17);
  await origin.stamp(rig.disk('vol'), 40);
  const old = origin.fork();
  const names = Array.from({ length: 16 }, (_, i) => `snap${i}`);
  for (const name of names) await volume.take(name, { type });
  await origin.stamp(rig.disk('vol'), 100);
  await origin.verify(rig.disk('vol'));
  const first = old.fork();
  await first.stamp(rig.disk('snap0'), 100);
  await first.verify(rig.disk('snap0'));
  for (const name of names.slice(1)) await old.verify(rig.disk(name));
  await origin.verify(rig.disk('vol'));
  t.equal(percent(rig.status('snap1')), percent(rig.status('snap15')));
}

/** A snapshot before each change, as of each tag of a tree. */
async function withChanges(t: Test, rig: Rig, type: Type): Promise<void> {
  const volume = await new Volume(rig, sectors).create();
  const origin = new Stamper(volume.bytes, 18);
  const versions: [string, Stamper][] = [];
  for (let i = 0; i < 8; i++) {
    await origin.stamp(rig.disk('vol'), 12);
    await volume.take(`v${i}`, { type });
    versions.push([`v${i}`, origin.fork()]);
  }
  await origin.stamp(rig.disk('vol'), 12);
  for (const [name, stamper] of versions) await stamper.verify(rig.disk(name));
  // In the middle one goes, and the others do not notice.
  await volume.drop('v3');
  await origin.stamp(rig.disk('vol'), 12);
  for (const [name, stamper] of versions) {
    if (name !== 'v3') await stamper.verify(rig.disk(name));
  }
  t.notOk(versions.some(([name]) => name !== 'v3' && rig.status(name) === 'Invalid'));
}

async function snapshotWrites(t: Test, rig: Rig, type: Type): Promise<void> {
  const volume = await new Volume(rig, sectors).create();
  const origin = new Stamper(volume.bytes, 19);
  await origin.stamp(rig.disk('vol'), 20);
  await volume.take('snap', { type });
  const snapshot = origin.fork();
  await snapshot.verify(rig.disk('snap'));
  await snapshot.stamp(rig.disk('snap'), 10);
  await snapshot.verify(rig.disk('snap'));
  await origin.verify(rig.disk('vol'));
  const chunks = Math.round(256 / 10);
  const first = type === 'P' ? 16 : 0;
  t.match(rig.status('snap'), new RegExp(`^${first + chunks * 8}/\\d+ ${first}$`));
}

async function originWrites(t: Test, rig: Rig, type: Type): Promise<void> {
  const volume = await new Volume(rig, sectors).create();
  const origin = new Stamper(volume.bytes, 20);
  await origin.stamp(rig.disk('vol'), 20);
  await volume.take('snap', { type });
  const snapshot = origin.fork();
  await origin.stamp(rig.disk('vol'), 10);
  await snapshot.verify(rig.disk('snap'));
  await origin.verify(rig.disk('vol'));
  const first = type === 'P' ? 16 : 0;
  t.match(rig.status('snap'), new RegExp(`^${first + 26 * 8}/\\d+ ${first}$`));
}

/** More chunks wait to be copied than may be on their way at once, from both sides. */
async function crowd(t: Test, rig: Rig, type: Type): Promise<void> {
  const chunks = 3000;
  const volume = await new Volume(rig, chunks).create();
  const origin = new Stamper(volume.bytes, 23);
  await origin.stamp(rig.disk('vol'), 100);
  await volume.take('snap', { type, chunk: 1 });
  await volume.take('other', { type, chunk: 1 });
  const old = origin.fork();
  const writes: Promise<Buffer>[] = [];
  for (let i = 0; i < chunks; i++) {
    // Parts of chunks, so that all are copied.
    const data = Buffer.alloc(300, 1 + (i % 255));
    for (const name of ['vol', 'snap'])
      writes.push(rig.io(name, WRITE, i * 512 + 100, 300, { data }));
  }
  await rig.wait(Promise.all(writes));
  for (const name of ['vol', 'snap']) {
    const found = await rig.wait(rig.io(name, READ, 0, volume.bytes));
    const wanted = Buffer.concat(Array.from({ length: old.blocks }, (_, i) => old.expected(i)));
    for (let i = 0; i < chunks; i++) wanted.fill(1 + (i % 255), i * 512 + 100, i * 512 + 400);
    t.ok(found.equals(wanted), `${name} has each write and what was around it`);
  }
  await old.verify(rig.disk('other'));
  t.notOk(rig.status('snap') === 'Invalid');
  t.equal(rig.status('snap'), rig.status('other'), 'each chunk once');
}

/** Of a striped device, of a file without a device, of a snapshot. */
const origins: Scenarios = {
  'takes snapshots of a striped device': async (t, rig) => {
    const [a, b] = [rig.file('a', 1024), rig.file('b', 1024)];
    const volume = new Volume(rig, 2048);
    await volume.create(`0 2048 striped 2 16 ${a} 0 ${b} 0`);
    const origin = new Stamper(volume.bytes, 21);
    await origin.stamp(rig.disk('vol'), 50);
    await volume.take('snap', { chunk: 64 });
    const snapshot = origin.fork();
    await origin.stamp(rig.disk('vol'), 50);
    await snapshot.verify(rig.disk('snap'));
    await origin.verify(rig.disk('vol'));
    t.notMatch(rig.status('snap'), 'Invalid');
  },
  'takes a snapshot of a file, and a snapshot of that snapshot': async (t, rig) => {
    const image = rig.file('image', 1024);
    await rig.create('vol', `0 1024 snapshot-origin ${image}`);
    const origin = new Stamper(1024 * 512, 22);
    await origin.stamp(rig.disk('vol'), 50);
    await rig.wait(rig.devices.suspend('vol', false));
    await rig.create('one-real', `0 1024 snapshot ${image} ${rig.file('one.cow', 2048)} P 8`);
    await rig.wait(rig.devices.resume('vol'));
    await rig.create('one', '0 1024 snapshot-origin dm:one-real');
    const one = origin.fork();
    await one.stamp(rig.disk('one'), 20);
    await rig.wait(rig.devices.suspend('one', false));
    await rig.create('two', `0 1024 snapshot dm:one-real ${rig.file('two.cow', 2048)} N 4`);
    await rig.wait(rig.devices.resume('one'));
    const two = one.fork();
    await Promise.all([
      origin.stamp(rig.disk('vol'), 30),
      one.stamp(rig.disk('one'), 30),
      two.stamp(rig.disk('two'), 30),
    ]);
    await origin.verify(rig.disk('vol'));
    await one.verify(rig.disk('one'));
    await two.verify(rig.disk('two'));
    t.notMatch(rig.status('two'), 'Invalid');
  },
};

export const dmtsScenarios: Scenarios = {
  ...forBoth('brings up a snapshot and takes it down', bringUp),
  ...forBoth('holds 101 snapshots at once', lots),
  ...forBoth('copies a chunk of 256 MiB', hugeChunk),
  ...chunkSizes,
  ...forBoth('keeps 16 snapshots and their origin apart under parallel I/O', parallel),
  ...forBoth('copies a whole origin to 16 snapshots, then writes the first', manyOfOne),
  ...forBoth('keeps a version before each of many changes', withChanges),
  ...forBoth('does not let writes of a snapshot reach its origin', snapshotWrites),
  ...forBoth('does not let writes of an origin reach its snapshot', originWrites),
  ...forBoth('takes more writes than chunks may be copied at once', crowd),
  ...origins,
};
