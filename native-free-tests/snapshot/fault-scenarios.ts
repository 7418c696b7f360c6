/** Overflow, invalidation and handover: what becomes of a snapshot when something goes wrong. */

import { Buffer } from 'node:buffer';
import type { Test } from 'tap';
import { EOPNOTSUPP } from '../../src/base/errno.js';
import { FLAG_FAST, FLUSH, READ, TRIM, WRITE, ZERO } from '../../src/device/io.js';
import { readCow } from './cow-image.js';
import type { Scenarios } from './engines.js';
import type { Rig } from './rig.js';
import { Stamper, stampBytes } from './stamper.js';
import { Volume } from './volume.js';

const EIO = { message: /EIO/ };
const sectors = 512;

function isValid(rig: Rig, file: string): boolean {
  return readCow(rig.contents(file)).valid;
}

async function put(rig: Rig, name: string, block: number): Promise<void> {
  const data = Buffer.alloc(stampBytes, 1 + (block % 255));
  await rig.wait(rig.io(name, WRITE, block * stampBytes, stampBytes, { data }));
}

/** A volume with stamps on it, and a snapshot with room for two chunks, one of them taken. */
async function nearlyFull(
  rig: Rig,
  type: 'P' | 'PO' | 'N',
): Promise<{ volume: Volume; origin: Stamper; snapshot: Stamper }> {
  const volume = await new Volume(rig, sectors).create();
  const origin = new Stamper(volume.bytes, 50);
  await origin.stamp(rig.disk('vol'), 100);
  await volume.take('snap', { type, cow: type === 'N' ? 16 : 32 });
  const snapshot = origin.fork();
  await snapshot.stampBlocks(rig.disk('snap'), [3]);
  await origin.stampBlocks(rig.disk('vol'), [4]);
  await snapshot.verify(rig.disk('snap'));
  expectStatus(rig, type === 'N' ? '16/16 0' : '32/32 16');
  return { volume, origin, snapshot };
}

function expectStatus(rig: Rig, wanted: string): void {
  const found = rig.status('snap');
  if (found !== wanted) throw new Error(`status ${found}, wanted ${wanted}`);
}

/** No I/O of the snapshot succeeds, but for a flush; its origin does not mind. */
async function checkInvalid(t: Test, rig: Rig, origin: Stamper): Promise<void> {
  t.equal(rig.status('snap'), 'Invalid');
  for (const block of [3, 4, 9]) {
    await t.rejects(rig.wait(rig.io('snap', READ, block * stampBytes, 512)), EIO);
    await t.rejects(put(rig, 'snap', block), EIO);
  }
  await origin.stamp(rig.disk('vol'), 30);
  await origin.verify(rig.disk('vol'));
  t.strictSame(
    rig.eventNames.filter((name) => name === 'snap invalid'),
    ['snap invalid'],
    'it is told once',
  );
}

const refusals: Scenarios = {
  'a ZERO that is to be fast does all of it or nothing': async (t, rig) => {
    const volume = await new Volume(rig, sectors).create();
    const snapshot = new Stamper(volume.bytes, 49);
    await volume.take('snap');
    await snapshot.stampBlocks(rig.disk('snap'), [1, 2, 5]);
    // The first chunks are in the COW, the others would have to be copied.
    const { errno } = await rig.wait(
      rig.client('snap').run(ZERO, stampBytes, 5 * stampBytes, { flags: FLAG_FAST }),
    );
    if (errno === EOPNOTSUPP) return snapshot.verify(rig.disk('snap'));
    t.equal(errno, 0);
    const zeroes = await rig.wait(rig.io('snap', READ, stampBytes, 5 * stampBytes));
    t.ok(zeroes.every((byte) => byte === 0));
  },
};

const discards: Scenarios = {
  'TRIM does nothing without features': async (t, rig) => {
    const volume = await new Volume(rig, sectors).create();
    const origin = new Stamper(volume.bytes, 51);
    await origin.stamp(rig.disk('vol'), 100);
    await volume.take('snap');
    const snapshot = origin.fork();
    await snapshot.stampBlocks(rig.disk('snap'), [2]);
    await rig.wait(rig.io('snap', TRIM, 0, volume.bytes));
    await snapshot.verify(rig.disk('snap'));
    t.match(rig.status('snap'), /^24\//);
  },
  'TRIM makes zeroes of chunks in the COW, and of the origin where it is passed down': async (
    t,
    rig,
  ) => {
    for (const words of ['1 discard_zeroes_cow', '2 discard_zeroes_cow discard_passdown_origin']) {
      const volume = await new Volume(rig, sectors).create();
      const origin = new Stamper(volume.bytes, 52);
      await origin.stamp(rig.disk('vol'), 100);
      await volume.take('snap', { features: words });
      t.ok(rig.table('snap').endsWith(` P 8 ${words}`));
      const snapshot = origin.fork();
      await snapshot.stampBlocks(rig.disk('snap'), [2, 3]);
      await rig.wait(rig.io('snap', TRIM, 2 * stampBytes, 3 * stampBytes));
      const read = (name: string, block: number): Promise<Buffer> =>
        rig.wait(rig.io(name, READ, block * stampBytes, stampBytes));
      const isZero = (data: Buffer): boolean => data.every((byte) => byte === 0);
      t.ok(isZero(await read('snap', 2)) && isZero(await read('snap', 3)));
      t.match(rig.status('snap'), /^32\//, 'nothing is copied');
      const down = words.startsWith('2');
      // Not every file system can, and then nothing happens.
      const trimmed = down && isZero(await read('vol', 4));
      for (const block of [2, 3, 4]) t.equal(isZero(await read('vol', block)), trimmed);
      t.equal(isZero(await read('snap', 4)), trimmed, 'which the snapshot does not keep');
      for (const block of [1, 5]) t.ok((await read('snap', block)).equals(origin.expected(block)));
      await volume.destroy('snap');
    }
  },
};

const overflow: Scenarios = {
  'a snapshot write that finds P or N full makes it Invalid': async (t, rig) => {
    for (const type of ['P', 'N'] as const) {
      await t.test(type, async (t) => {
        const { volume, origin } = await nearlyFull(rig, type);
        await t.rejects(put(rig, 'snap', 9), EIO);
        await checkInvalid(t, rig, origin);
        await volume.drop('snap');
        if (type === 'P') t.notOk(isValid(rig, 'snap.cow'), 'the header says so too');
        await volume.destroy('snap');
        rig.events.length = 0;
      });
    }
  },
  'an origin write that finds it full makes it Invalid, PO too': async (t, rig) => {
    for (const type of ['P', 'PO', 'N'] as const) {
      await t.test(type, async (t) => {
        const { volume, origin } = await nearlyFull(rig, type);
        await origin.stampBlocks(rig.disk('vol'), [9, 10]);
        await checkInvalid(t, rig, origin);
        await volume.drop('snap');
        if (type !== 'N') t.notOk(isValid(rig, 'snap.cow'), 'the header says so too');
        await volume.destroy('snap');
        rig.events.length = 0;
      });
    }
  },
  'a snapshot write that finds PO full makes it Overflow: reads go on': async (t, rig) => {
    const { volume, origin, snapshot } = await nearlyFull(rig, 'PO');
    await t.rejects(put(rig, 'snap', 9), EIO);
    t.equal(rig.status('snap'), 'Overflow');
    t.strictSame(rig.eventNames.includes('snap overflow'), true);
    t.notOk(rig.eventNames.includes('snap invalid'));
    await snapshot.verify(rig.disk('snap'));
    await t.rejects(put(rig, 'snap', 3), EIO, 'no write is taken, to an old chunk neither');
    await origin.stampBlocks(rig.disk('vol'), [3, 4]);
    await snapshot.verify(rig.disk('snap'));
    // Down and up again: the store is just full.
    await volume.drop('snap');
    t.ok(isValid(rig, 'snap.cow'));
    await volume.take('snap', { type: 'PO', cow: 32 });
    t.equal(rig.status('snap'), '32/32 16');
    await snapshot.stampBlocks(rig.disk('snap'), [3, 4]);
    await snapshot.verify(rig.disk('snap'));
    await origin.stampBlocks(rig.disk('vol'), [12]);
    t.equal(rig.status('snap'), 'Invalid', 'an origin write cannot be refused');
  },
  'goes on where a COW that ran full grows, by itself or by reload': async (t, rig) => {
    const { volume, origin, snapshot } = await nearlyFull(rig, 'PO');
    rig.file('snap.cow', 48);
    await origin.stampBlocks(rig.disk('vol'), [20]);
    t.equal(rig.status('snap'), '40/48 16');
    await snapshot.stampBlocks(rig.disk('snap'), [21]);
    await t.rejects(put(rig, 'snap', 22), EIO);
    t.equal(rig.status('snap'), 'Overflow');
    await volume.reload('snap', volume.line('snap', { type: 'PO', cow: 128 }));
    t.equal(rig.status('snap'), 'Overflow', 'that goes with the snapshot, as in the kernel');
    await volume.drop('snap');
    await volume.take('snap', { type: 'PO', cow: 128 });
    t.equal(rig.status('snap'), '48/128 16');
    await snapshot.stampBlocks(rig.disk('snap'), [22, 23]);
    await origin.stampBlocks(rig.disk('vol'), [24, 21]);
    await snapshot.verify(rig.disk('snap'));
    await origin.verify(rig.disk('vol'));
    t.equal(rig.status('snap'), '72/128 16');
  },
};

/** Always up, or always failing in that way. */
function flakey(path: string, length: number, fault?: 'error_reads' | 'error_writes'): string {
  const times = fault === undefined ? '1000000 0' : `0 1000000 1 ${fault}`;
  return `0 ${length} flakey ${path} 0 ${times}`;
}

async function change(rig: Rig, name: string, table: string): Promise<void> {
  await rig.wait(rig.devices.load(name, table));
  await rig.wait(rig.devices.suspend(name, true));
  await rig.wait(rig.devices.resume(name));
}

const invalidation: Scenarios = {
  'a copy that cannot be read makes it Invalid, and the write is done': async (t, rig) => {
    for (const type of ['P', 'N'] as const) {
      await t.test(type, async (t) => {
        const image = rig.fresh('vol.img', sectors);
        const volume = await new Volume(rig, sectors).create(flakey(image, sectors));
        const origin = new Stamper(volume.bytes, 60);
        await origin.stamp(rig.disk('vol'), 100);
        await volume.take('snap', { type });
        await origin.stampBlocks(rig.disk('vol'), [1]);
        await change(rig, 'vol-real', flakey(image, sectors, 'error_reads'));
        await origin.stampBlocks(rig.disk('vol'), [2]);
        await change(rig, 'vol-real', flakey(image, sectors));
        await checkInvalid(t, rig, origin);
        await volume.drop('snap');
        if (type === 'P') t.notOk(isValid(rig, 'snap.cow'));
        await volume.destroy('snap');
        rig.events.length = 0;
      });
    }
  },
  'a read error of the snapshot itself does not make it Invalid': async (t, rig) => {
    const [image, cow] = [rig.file('vol.img', sectors), rig.file('cow', 1024)];
    const volume = await new Volume(rig, sectors).create(flakey(image, sectors));
    const snapshot = new Stamper(volume.bytes, 61);
    await rig.create('cow', flakey(cow, 1024));
    await volume.take('snap', { cowWord: 'dm:cow' });
    await snapshot.stampBlocks(rig.disk('snap'), [1, 5]);
    await change(rig, 'cow', flakey(cow, 1024, 'error_reads'));
    await change(rig, 'vol-real', flakey(image, sectors, 'error_reads'));
    await t.rejects(rig.wait(rig.io('snap', READ, stampBytes, 512)), EIO);
    await t.rejects(rig.wait(rig.io('snap', READ, 0, 512)), EIO);
    await change(rig, 'cow', flakey(cow, 1024));
    await change(rig, 'vol-real', flakey(image, sectors));
    await snapshot.verify(rig.disk('snap'));
    t.equal(rig.status('snap'), '32/1024 16');
  },
  'a COW that cannot be written makes it Invalid': async (t, rig) => {
    for (const type of ['P', 'N'] as const) {
      for (const writer of ['origin', 'whole chunk', 'part of a chunk'] as const) {
        await t.test(`${type}, ${writer}`, async (t) => {
          const cow = rig.fresh('cow', 1024);
          const volume = await new Volume(rig, sectors).create();
          await rig.create('cow', flakey(cow, 1024));
          const origin = new Stamper(volume.bytes, 62);
          await origin.stamp(rig.disk('vol'), 100);
          await volume.take('snap', { type, cowWord: 'dm:cow' });
          await origin.stampBlocks(rig.disk('vol'), [1]);
          await change(rig, 'cow', flakey(cow, 1024, 'error_writes'));
          if (writer === 'origin') {
            await origin.stampBlocks(rig.disk('vol'), [1, 2]);
          } else {
            const length = writer === 'whole chunk' ? stampBytes : 1000;
            const data = Buffer.alloc(length, 7);
            await t.rejects(rig.wait(rig.io('snap', WRITE, 3 * stampBytes, length, { data })), EIO);
          }
          await change(rig, 'cow', flakey(cow, 1024));
          await checkInvalid(t, rig, origin);
          await volume.drop('snap');
          await rig.wait(rig.devices.remove('cow', false));
          await volume.destroy();
          rig.events.length = 0;
        });
      }
    }
  },
  'a failing flush of the COW loses no promise': async (t, rig) => {
    const cow = rig.file('cow', 1024);
    const volume = await new Volume(rig, sectors).create();
    await rig.create('cow', flakey(cow, 1024));
    await volume.take('snap', { cowWord: 'dm:cow' });
    await put(rig, 'snap', 1);
    await change(rig, 'cow', flakey(cow, 1024, 'error_writes'));
    await t.rejects(rig.wait(rig.io('snap', FLUSH, 0, 0)), EIO);
    await rig.wait(rig.io('vol', FLUSH, 0, 0));
    await change(rig, 'cow', flakey(cow, 1024));
    await rig.wait(rig.io('snap', FLUSH, 0, 0));
    t.equal(rig.status('snap'), '24/1024 16');
  },
};

const handover: Scenarios = {
  'a reload of the snapshot takes everything over': async (t, rig) => {
    for (const type of ['P', 'N'] as const) {
      await t.test(type, async (t) => {
        const volume = await new Volume(rig, sectors).create();
        const origin = new Stamper(volume.bytes, 70);
        await origin.stamp(rig.disk('vol'), 50);
        await volume.take('snap', { type });
        const snapshot = origin.fork();
        await origin.stamp(rig.disk('vol'), 20);
        await snapshot.stamp(rig.disk('snap'), 20);
        const status = rig.status('snap');
        await rig.wait(rig.devices.load('snap', volume.line('snap', { type })));
        t.match(rig.devices.table('snap', true)[0]?.words, new RegExp(` ${type} 0$`));
        await rig.wait(rig.devices.resume('snap'));
        t.match(rig.table('snap'), new RegExp(` ${type} 8$`));
        t.equal(rig.status('snap'), status);
        await snapshot.verify(rig.disk('snap'));
        await Promise.all([
          origin.stamp(rig.disk('vol'), 40),
          snapshot.stamp(rig.disk('snap'), 40),
          (async () => {
            for (let i = 0; i < 5; i++) {
              await rig.wait(rig.devices.load('snap', volume.line('snap', { type })));
              await rig.wait(rig.devices.resume('snap'));
            }
          })(),
        ]);
        await snapshot.verify(rig.disk('snap'));
        await origin.verify(rig.disk('vol'));
        await volume.destroy('snap');
      });
    }
  },
  'another device on the same COW is refused until the first is suspended': async (t, rig) => {
    const volume = await new Volume(rig, sectors).create();
    const origin = new Stamper(volume.bytes, 71);
    await origin.stamp(rig.disk('vol'), 50);
    await volume.take('snap');
    const snapshot = origin.fork();
    await origin.stamp(rig.disk('vol'), 20);
    await rig.wait(rig.devices.create('next', undefined, false));
    await rig.wait(rig.devices.load('next', volume.line('snap')));
    await t.rejects(rig.wait(rig.devices.resume('next')), {
      errno: 22,
      message: /Unable to perform snapshot handover until source is suspended/,
    });
    await snapshot.verify(rig.disk('snap'));
    await rig.wait(rig.devices.create('third', undefined, false));
    await t.rejects(rig.wait(rig.devices.load('third', volume.line('snap'))), {
      errno: 22,
      message: /Snapshot cow pairing for exception table handover failed/,
    });
    await rig.wait(rig.devices.suspend('snap', false));
    await rig.wait(rig.devices.resume('next'));
    await rig.wait(rig.devices.resume('snap'));
    t.equal(rig.status('snap'), 'Invalid');
    t.match(rig.table('snap'), / P 0$/);
    await t.rejects(rig.wait(rig.io('snap', READ, 0, 512)), EIO);
    await snapshot.verify(rig.disk('next'));
    await origin.stamp(rig.disk('vol'), 20);
    await snapshot.verify(rig.disk('next'));
    await rig.wait(rig.devices.remove('snap', false));
    await origin.stamp(rig.disk('vol'), 20);
    await snapshot.verify(rig.disk('next'));
    t.ok(isValid(rig, 'snap.cow'));
  },
  'the end of the source cancels a handover': async (t, rig) => {
    const volume = await new Volume(rig, sectors).create();
    const origin = new Stamper(volume.bytes, 72);
    await volume.take('snap');
    const snapshot = origin.fork();
    await origin.stamp(rig.disk('vol'), 20);
    await rig.wait(rig.devices.create('next', undefined, false));
    await rig.wait(rig.devices.load('next', volume.line('snap')));
    await rig.wait(rig.devices.remove('snap', false));
    await rig.wait(rig.devices.resume('next'));
    t.equal(rig.status('next'), 'Invalid');
    await t.rejects(rig.wait(rig.io('next', READ, 0, 512)), EIO);
    await rig.wait(rig.devices.remove('next', false));
    // What is on disk is as good as ever.
    await volume.take('snap');
    await snapshot.verify(rig.disk('snap'));
  },
};

export const faultScenarios: Scenarios = {
  ...refusals,
  ...discards,
  ...overflow,
  ...invalidation,
  ...handover,
};
