/** The exact numbers of LVM2's scripts for snapshots, and what else they insist on. */

import { Buffer } from 'node:buffer';
import { createHash } from 'node:crypto';
import { FLAG_FUA, READ, WRITE } from '../../src/device/io.js';
import { readCow } from './cow-image.js';
import type { Scenarios } from './engines.js';
import type { Rig } from './rig.js';
import { ScriptedRig } from './scripted-rig.js';
import { Stamper, stampBytes } from './stamper.js';
import { percent, Volume } from './volume.js';

const EIO = { message: /EIO/ };

function write(rig: Rig, name: string, offset: number, length: number, flags = 0): Promise<Buffer> {
  const data = Buffer.alloc(length, 1 + (offset % 251));
  return rig.wait(rig.io(name, WRITE, offset, length, { data, flags }));
}

async function digest(rig: Rig, name: string): Promise<string> {
  const { sizeSectors } = rig.devices.info(name);
  const hash = createHash('md5');
  for (let at = 0; at < sizeSectors * 512; at += 2 ** 20) {
    const length = Math.min(2 ** 20, sizeSectors * 512 - at);
    hash.update(await rig.wait(rig.io(name, READ, at, length)));
  }
  return hash.digest('hex');
}

/** snapshot-usage. */
const usage: Scenarios = {
  'takes one write of 4 KiB into a COW of 3 chunks, and shows 100 %': async (t, rig) => {
    for (const chunk of [8, 16]) {
      const volume = await new Volume(rig, 2048, `vol${chunk}`).create();
      const snap = `snap${chunk}`;
      await volume.take(snap, { chunk, cow: 3 * chunk });
      t.equal(percent(rig.status(snap)), '0.00');
      await write(rig, snap, 0, chunk * 512);
      t.equal(rig.status(snap), `${3 * chunk}/${3 * chunk} ${2 * chunk}`);
      t.equal(percent(rig.status(snap)), '100.00');
      await write(rig, snap, 0, 512);
      await t.rejects(write(rig, snap, chunk * 512, 4096), EIO);
      t.equal(rig.status(snap), 'Invalid');
    }
  },
  'shows 12.00 % for 4 KiB in a COW of 100 KiB': async (t, rig) => {
    const volume = await new Volume(rig, 2048).create();
    await volume.take('snap', { cow: 200 });
    await write(rig, 'snap', 0, 4096);
    t.equal(rig.status('snap'), '24/200 16');
    t.equal(percent(rig.status('snap')), '12.00');
  },
  'takes a whole overwrite into a COW of 100 %ORIGIN': async (t, rig) => {
    for (const [type, chunk] of [
      ['P', 8],
      ['N', 8],
      ['P', 1],
      ['P', 16],
    ] as const) {
      const volume = await new Volume(rig, 2048, `vol${type}${chunk}`).create();
      const snap = `snap${type}${chunk}`;
      await volume.take(snap, { type, chunk });
      const old = await digest(rig, snap);
      await write(rig, volume.name, 0, volume.bytes);
      t.equal(await digest(rig, snap), old);
      const [used, total] = rig.status(snap).split(/[/ ]/).map(Number) as [number, number];
      if (type === 'P') t.equal(used, total, `${snap} is full to the last sector`);
      await write(rig, volume.name, 0, volume.bytes);
      t.not(rig.status(snap), 'Invalid');
    }
  },
  'takes 32 KiB, and not 33, into 25 %ORIGIN of 128 KiB': async (t, rig) => {
    const volume = await new Volume(rig, 256).create();
    const cow = 10 * 8;
    await volume.take('snap', { cow });
    await write(rig, 'snap', 0, 32 * 1024);
    t.equal(percent(rig.status('snap')), '100.00');
    await volume.take('other', { cow });
    await t.rejects(write(rig, 'other', 0, 33 * 1024), EIO);
    t.equal(rig.status('other'), 'Invalid');
  },
  'leaves a stale header alone, and makes a new store where it was wiped': async (t, rig) => {
    const volume = await new Volume(rig, 2048).create();
    const origin = new Stamper(volume.bytes, 40);
    await origin.stamp(rig.disk('vol'), 50);
    await volume.take('snap');
    const changed = origin.fork();
    await changed.stamp(rig.disk('snap'), 20);
    const status = rig.status('snap');
    await volume.drop('snap');
    await volume.take('snap');
    t.equal(rig.status('snap'), status, 'not wiped: it is as it was');
    await changed.verify(rig.disk('snap'));
    await volume.drop('snap');
    // The area keeps its old exceptions, which must not come back.
    rig.put('snap.cow', 0, new Uint8Array(4096));
    await volume.take('snap');
    t.match(rig.status('snap'), /^16\/\d+ 16$/);
    await origin.verify(rig.disk('snap'));
    await origin.stamp(rig.disk('vol'), 10);
    await volume.drop('snap');
    t.equal(readCow(rig.contents('snap.cow')).exceptions.size, 26);
  },
  'refuses what is no store, or one of another version; an invalid one it shows': async (
    t,
    rig,
  ) => {
    const volume = await new Volume(rig, 2048).create();
    await volume.take('snap');
    await volume.drop('snap');
    const text = /Failed to read snapshot metadata/;
    const header = rig.contents('snap.cow').subarray(0, 16);
    const changed = (at: number, byte: number): Buffer => {
      const copy = Buffer.from(header);
      copy[at] = byte;
      return copy;
    };
    rig.put('snap.cow', 0, changed(0, 0x54));
    await t.rejects(volume.take('snap'), { errno: 6, message: text });
    rig.put('snap.cow', 0, changed(8, 2));
    await t.rejects(volume.take('snap'), { errno: 22, message: text });
    rig.put('snap.cow', 0, changed(4, 0));
    await volume.take('snap');
    t.equal(rig.status('snap'), 'Invalid');
    await t.rejects(rig.wait(rig.io('snap', READ, 0, 512)), EIO);
    await write(rig, 'vol', 0, 4096);
  },
  'takes the chunk size that is in the header': async (t, rig) => {
    const volume = await new Volume(rig, 2048).create();
    await volume.take('snap', { chunk: 32 });
    await volume.drop('snap');
    await volume.quietly(() => rig.create('snap', volume.line('snap', { chunk: 8, cow: 4096 })));
    t.match(rig.table('snap'), / P 32$/);
    t.equal(rig.status('snap'), '64/4096 64');
    await write(rig, 'vol', 0, 512);
    t.equal(rig.status('snap'), '96/4096 64');
  },
};

/** snapshot-usage-exa. */
const exa: Scenarios = {
  'writes both ends of a snapshot of 4 PiB': async (t, rig) => {
    const sectors = 2 ** 43;
    const volume = await new Volume(rig, sectors).create(`0 ${sectors} zero`);
    await volume.take('snap', { cow: 2048 });
    for (const at of [0, sectors * 512 - 4096]) {
      await write(rig, 'snap', at, 4096);
      const read = await rig.wait(rig.io('snap', READ, at, 4096));
      t.equal(read[5], 1 + (at % 251));
    }
    t.equal(rig.status('snap'), '32/2048 16');
    await volume.drop('snap');
    await volume.take('snap', { cow: 2048 });
    const at = sectors * 512 - 4096;
    t.equal((await rig.wait(rig.io('snap', READ, at, 4096)))[5], 1 + (at % 251));
    // A snapshot of zeroes has nothing to write back here.
    await volume.drop('snap');
  },
};

/** snapshot-maxsize, snapshot-cow-reduce. */
const sizes: Scenarios = {
  'overwrites a snapshot of 1 MiB in a COW of 2 MiB': async (t, rig) => {
    const volume = await new Volume(rig, 2048).create();
    const snapshot = new Stamper(volume.bytes, 41);
    await volume.take('snap', { cow: 4096 });
    await snapshot.stamp(rig.disk('snap'), 100);
    await snapshot.verify(rig.disk('snap'));
    // 256 exceptions fill an area, so that there are two.
    t.equal(rig.status('snap'), '2072/4096 24');
  },
  'counts 4 MiB in a COW of 8 MiB, and is Invalid when more comes than it holds': async (
    t,
    rig,
  ) => {
    if (rig instanceof ScriptedRig) return;
    const volume = await new Volume(rig, 32_768).create();
    await volume.take('snap', { cow: 16_384 });
    await write(rig, 'vol', 0, 4 * 2 ** 20);
    t.equal(rig.status('snap'), '8240/16384 48');
    await t.rejects(write(rig, 'snap', 4 * 2 ** 20, 12 * 2 ** 20), EIO);
    t.equal(rig.status('snap'), 'Invalid');
    t.ok(rig.eventNames.includes('snap invalid'));
    await write(rig, 'vol', 0, 12 * 2 ** 20);
  },
};

/** snapshot-reactivate. */
const reactivate: Scenarios = {
  'keeps its content over origin writes of odd size and being taken down': async (t, rig) => {
    const volume = await new Volume(rig, 4096).create();
    await new Stamper(volume.bytes, 42).stamp(rig.disk('vol'), 70);
    await volume.take('snap');
    const old = await digest(rig, 'snap');
    for (const [at, length] of [
      [0, 1_234_567],
      [1_234_567, 654_321],
      [777, 333],
    ] as const) {
      await write(rig, 'vol', at, length);
      t.equal(await digest(rig, 'snap'), old);
      await rig.wait(rig.devices.remove('snap', false));
      await rig.wait(rig.devices.remove('vol', false));
      await rig.create('vol', '0 4096 snapshot-origin dm:vol-real');
      await volume.take('snap');
      t.equal(await digest(rig, 'snap'), old);
    }
    const cow = rig.contents('snap.cow');
    const chunks = Math.ceil((1_234_567 + 654_321) / stampBytes);
    t.equal(readCow(cow).exceptions.size, chunks);
  },
};

/** snapshot-remove-dmsetup. */
const removal: Scenarios = {
  'suspends without a flush, and goes, while what is beneath is suspended': async (t, rig) => {
    for (const type of ['P', 'N'] as const) {
      for (const beneath of ['vol-real', 'cow']) {
        const volume = await new Volume(rig, 2048).create();
        await rig.create('cow', `0 4096 linear ${rig.file(`${type}.${beneath}`, 4096)} 0`);
        await volume.take('snap', { type, cowWord: 'dm:cow' });
        await write(rig, 'snap', 0, 4096, FLAG_FUA);
        await write(rig, 'vol', 8192, 4096);
        const { devices } = rig;
        await rig.wait(devices.suspend('vol', false));
        await rig.wait(devices.suspend(beneath, true));
        await rig.wait(devices.suspend('snap', true));
        await rig.wait(devices.load('snap', '0 2048 error'));
        await rig.wait(devices.resume('snap'));
        await t.rejects(rig.wait(rig.io('snap', READ, 0, 512)), EIO);
        await rig.wait(devices.remove('snap', false));
        await rig.wait(devices.resume(beneath));
        await rig.wait(devices.resume('vol'));
        for (const name of ['vol', 'vol-real', 'cow']) {
          await rig.wait(devices.remove(name, false));
        }
      }
    }
  },
};

export const lvmScenarios: Scenarios = {
  ...usage,
  ...exa,
  ...sizes,
  ...reactivate,
  ...removal,
};
