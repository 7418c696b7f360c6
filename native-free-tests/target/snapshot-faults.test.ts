/** A snapshot of which a copy fails at once, and a COW that fills and grows. */

import { Buffer } from 'node:buffer';
import t from 'tap';
import { READ, WRITE } from '../../src/device/io.js';
import type { Ended } from '../device/io-client.js';
import { readCow } from '../snapshot/cow-image.js';
import type { Rig } from '../snapshot/rig.js';
import { ScriptedRig } from '../snapshot/scripted-rig.js';
import { Volume } from '../snapshot/volume.js';

const chunkBytes = 4096;
const sectors = 64;

/**
 * An origin and a COW in memory, where all ends at once: a copy has failed before `map` returns. Of
 * the origin, reads of the second chunk fail. The COW's header is on a disk that a test can stop.
 */
async function failing(): Promise<ScriptedRig> {
  const rig = new ScriptedRig(1);
  await rig.create('memory', `0 ${sectors} memory`);
  const bad = 'flakey dm:memory 8 0 1000000 1 error_reads';
  const lines = ['0 8 linear dm:memory 0', `8 8 ${bad}`, `16 ${sectors - 16} linear dm:memory 16`];
  await rig.create('real', lines.join('\n'));
  await rig.create('vol', `0 ${sectors} snapshot-origin dm:real`);
  await rig.create('cow', `0 8 linear ${rig.file('header', 8)} 0\n8 256 memory`);
  await rig.create('snap', `0 ${sectors} snapshot dm:real dm:cow P 8`);
  return rig;
}

for (const [title, from, count] of [
  ['is the first that it needs', 1, 1],
  ['comes behind one that has succeeded', 0, 2],
  ['comes before others', 1, 4],
] as const) {
  t.test(`a write whose failing copy ${title} waits for the invalid mark`, async (t) => {
    const rig = await failing();
    const header = rig.onDisk('header');
    header.stuck = true;
    const data = Buffer.alloc(count * chunkBytes, 7);
    const ended: Ended[] = [];
    rig
      .client('vol')
      .send(WRITE, from * chunkBytes, data.length, { data }, (end) => ended.push(end));
    t.equal(rig.status('snap'), 'Invalid');
    await rig.turns(20);
    t.strictSame(ended, [], 'it is not answered');
    const before = await rig.wait(rig.io('memory', READ, from * chunkBytes, data.length));
    t.ok(
      before.every((byte) => byte === 0),
      'nor has it reached the origin',
    );
    t.ok(readCow(rig.contents('header')).valid, 'while a crash would leave a valid snapshot');
    header.letGo();
    await rig.until('the write has ended', () => ended.length > 0);
    t.equal(ended[0]?.errno, 0);
    t.notOk(readCow(rig.contents('header')).valid);
    const after = await rig.wait(rig.io('memory', READ, from * chunkBytes, data.length));
    t.ok(after.equals(data));
    await rig.close();
  });
}

/** Percents that were told, in order. */
function fills(rig: Rig): (number | undefined)[] {
  return rig.events.splice(0).flatMap(({ event }) => (event.what === 'fill' ? event.percent : []));
}

t.test('tells again how full a COW is that has grown', async (t) => {
  for (const type of ['P', 'N'] as const) {
    await t.test(type, async (t) => {
      const rig = new ScriptedRig(2);
      const volume = await new Volume(rig, 2048).create();
      // Of a persistent one, the header and the area are in use from the start.
      const metadata = type === 'P' ? 2 : 0;
      let chunk = 0;
      const copyTo = async (used: number): Promise<void> => {
        while (metadata + chunk < used) {
          const data = Buffer.alloc(512, 1);
          await rig.wait(rig.io('vol', WRITE, chunk++ * chunkBytes, 512, { data }));
        }
      };
      await volume.take('snap', { type, cow: 8 * 20 });
      await copyTo(15);
      t.strictSame(fills(rig), []);
      await copyTo(16);
      t.strictSame(fills(rig), [80]);
      rig.file('snap.cow', 8 * 40);
      await copyTo(31);
      t.strictSame(fills(rig), [], 'it is half empty again');
      await copyTo(37);
      t.strictSame(fills(rig), [80, 85, 90]);
      await copyTo(40);
      t.strictSame(fills(rig), [95, 100]);
      rig.file('snap.cow', 8 * 50);
      await copyTo(41);
      t.strictSame(fills(rig), [], 'it never was below the first');
      await copyTo(43);
      t.strictSame(fills(rig), [85]);
      rig.file('snap.cow', 8 * 100);
      await copyTo(85);
      t.strictSame(fills(rig), [80, 85]);
      t.equal(rig.status('snap'), type === 'P' ? '680/800 16' : '680/800 0');
      await rig.close();
    });
  }
});
