import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { WebSocket } from 'ws';
import { ENOSPC } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import { controlMessageBytes, uploadBytes } from '../../src/base/limits.js';
import { Catalogue } from '../../src/control/catalogue.js';
import { controlMethods } from '../../src/control/commands.js';
import { Regions } from '../../src/control/regions.js';
import { Rpc } from '../../src/control/rpc.js';
import { ControlServer } from '../../src/control/server.js';
import { Snapshots } from '../../src/control/snapshots.js';
import { StateDirectory } from '../../src/control/state.js';
import { ControlClient } from '../../src/ctl/client.js';
import type { RegionUpload } from '../../src/queue/commands.js';
import { entryBits } from '../../src/target/switch/region-table.js';
import {
  decodeRegions,
  encodeRegions,
  packEntries,
  unpackEntries,
} from '../../src/target/switch/upload-format.js';
import { CrashFiles } from './crash-files.js';
import { FakeQueue } from './fake-queue.js';
import { QuietLog } from './quiet-log.js';
import { someVersion as version } from './some-version.js';

/** Regions of 8 sectors; a fresh table has region i on path i modulo paths. */
const switchOf = (regions: number, paths: number, regionSectors = 8, begin = 0): string => {
  const words = Array.from({ length: paths }, (_, path) => `/p${path} 0`).join(' ');
  return `${begin} ${regions * regionSectors} switch ${paths} ${regionSectors} 0 ${words}`;
};

/** Entries of a table with so many paths; a segment if it is to begin anywhere. */
function tableOf(entries: readonly number[], paths: number, more: Partial<RegionUpload> = {}) {
  const bits = entryBits(paths);
  const count = entries.length;
  const about = { whole: true, regions: count, regionSectors: 8, paths, bits, first: 0, count };
  return { ...about, slots: packEntries(entries, bits), ...more };
}

const bytesOf = (table: RegionUpload, sector = 0): Buffer =>
  Buffer.concat(encodeRegions({ sector, table }));

const fresh = (regions: number, paths: number): number[] =>
  Array.from({ length: regions }, (_, region) => region % paths);

/** A control plane over a directory that may be left from one before. */
async function start(files = new CrashFiles(), queue = new FakeQueue()) {
  const log = new QuietLog();
  const state = new StateDirectory('/s', files);
  const { devices, problems } = await state.load();
  const catalogue = new Catalogue(queue, state, log);
  const unrestored = await catalogue.restore(devices, problems, []);
  const regions = new Regions(queue, catalogue, log);
  const upload = (name: string, table: RegionUpload, sector?: number) => {
    const [header, slots] = encodeRegions({ sector: sector ?? 0, table });
    return regions.upload(name, sector, { header, slots: slots.buffer as SharedArrayBuffer });
  };
  const message = (name: string, ...words: string[]) =>
    regions.message({ name, sector: 0, words: ['set_region_mappings', ...words] });
  return { files, queue, log, state, catalogue, regions, upload, message, unrestored };
}

/** The same directory after its daemon was killed. */
const restarted = ({ files }: { files: CrashFiles }) =>
  start(new CrashFiles(files.afterCrash(files.unsynced)));

/** What one tells of a table's file: nothing, or who has it. */
const regionFiles = (files: CrashFiles): string[] =>
  files.names.filter((name) => name.endsWith('.regions'));

t.test('stored regions', async (t) => {
  t.test('come back with their device, whole tables and segments', async (t) => {
    const one = await start();
    await one.catalogue.create({ name: 'vol', table: switchOf(10, 4) });
    t.same(regionFiles(one.files), []);
    const all = [3, 3, 3, 0, 0, 0, 1, 1, 2, 2];
    t.match(await one.upload('vol', tableOf(all, 4)), { whole: true, count: 10, stored: true });
    await one.upload('vol', tableOf([1, 2], 4, { whole: false, regions: 10, first: 4 }));
    const wanted = [3, 3, 3, 0, 1, 2, 1, 1, 2, 2];
    t.same(one.queue.routes('vol'), wanted);
    t.same(regionFiles(one.files), ['vol.regions']);
    t.same((await restarted(one)).queue.routes('vol'), wanted);
  });

  t.test('are in the file before they are live', async (t) => {
    const one = await start();
    await one.catalogue.create({ name: 'vol', table: switchOf(4, 2) });
    let seen: string[] = [];
    one.queue.before = (command) => {
      if (command === 'upload') seen = regionFiles(one.files);
    };
    await one.upload('vol', tableOf([1, 1, 1, 1], 2));
    t.same(seen, ['vol.regions']);
  });

  t.test('are as before when the target refuses, or the disk', async (t) => {
    const one = await start();
    await one.catalogue.create({ name: 'vol', table: switchOf(4, 2) });
    await one.upload('vol', tableOf([1, 1, 1, 1], 2));
    one.queue.before = (command) => {
      if (command === 'upload') throw new MapperError(ENOSPC, 'a move is under way');
    };
    await t.rejects(one.upload('vol', tableOf([0, 0, 0, 0], 2)), { message: /a move is under/ });
    one.queue.before = () => {};
    t.same((await restarted(one)).queue.routes('vol'), [1, 1, 1, 1]);
    one.files.operationsLeft = 0;
    await t.rejects(one.upload('vol', tableOf([0, 0, 0, 0], 2)), {
      message: /^store the regions of "vol": /,
    });
    t.same(one.queue.routes('vol'), [1, 1, 1, 1]);
  });

  t.test('are not written over while regions move: the file never says what is past', async (t) => {
    const one = await start();
    await one.catalogue.create({ name: 'vol', table: switchOf(4, 2) });
    await one.upload('vol', tableOf([1, 1, 1, 1], 2));
    one.queue.moveStatus = 'running 0 1 1 4 512 3 2';
    let asked = false;
    one.queue.before = (command) => {
      if (command === 'upload') asked = true;
    };
    const refused = { code: 'EBUSY', message: /a move is under way/ };
    await t.rejects(one.upload('vol', tableOf([0, 0, 0, 0], 2)), refused);
    t.notOk(asked);
    t.same((await restarted(one)).queue.routes('vol'), [1, 1, 1, 1]);
  });

  t.test('of a device of the command line are nowhere', async (t) => {
    const one = await start();
    const vol = { name: 'vol', table: switchOf(4, 2), readOnly: false };
    await one.catalogue.restore([], [], [vol]);
    t.match(await one.upload('vol', tableOf([1, 1, 1, 1], 2)), { stored: false });
    t.same(one.queue.routes('vol'), [1, 1, 1, 1]);
    await one.message('vol', '0:0');
    t.same(one.files.names, []);
  });

  t.test('are stored when a message has changed them, even one that goes wrong', async (t) => {
    const one = await start();
    await one.catalogue.create({ name: 'vol', table: switchOf(4, 2) });
    await one.message('vol', '0:1', '2:1');
    t.same((await restarted(one)).queue.routes('vol'), [1, 1, 1, 1]);
    await t.rejects(one.message('vol', '3:0', 'nonsense'), { message: 'nonsense' });
    t.same((await restarted(one)).queue.routes('vol'), [1, 1, 1, 0]);
    one.files.operationsLeft = 0;
    await t.rejects(one.message('vol', '0:0'), { message: /^store the regions/ });
    const both = /^nonsense; what it did is not stored: store the regions of "vol"/;
    await t.rejects(one.message('vol', '0:1', 'nonsense'), { message: both });
  });

  t.test('of messages that come together are stored together', async (t) => {
    const one = await start();
    await one.catalogue.create({ name: 'vol', table: switchOf(100, 2) });
    const before = one.queue.calls.length;
    await Promise.all(
      Array.from({ length: 50 }, (_, at) => one.message('vol', `${(2 * at).toString(16)}:1`)),
    );
    const saves = one.queue.calls.slice(before).filter((call) => call === 'regions vol');
    t.ok(saves.length <= 3, `${saves.length} saves`);
    t.same((await restarted(one)).queue.routes('vol'), new Array(100).fill(1));
  });

  t.test('go along with a rename, and away with the device', async (t) => {
    const one = await start();
    await one.catalogue.create({ name: 'vol', table: switchOf(4, 2) });
    await one.catalogue.create({ name: 'above', table: '0 8 linear dm:vol 0' });
    await one.upload('vol', tableOf([1, 1, 1, 1], 2));
    await one.catalogue.rename('vol', 'new');
    t.same(regionFiles(one.files), ['new.regions']);
    t.same((await restarted(one)).queue.routes('new'), [1, 1, 1, 1]);
    await one.catalogue.remove('above', false);
    await one.catalogue.remove('new', false);
    t.same(one.files.names, []);
  });

  t.test('that a removed device has left are not those of the next one', async (t) => {
    const one = await start();
    await one.catalogue.create({ name: 'vol', table: switchOf(4, 2) });
    await one.upload('vol', tableOf([1, 1, 1, 1], 2));
    const left = new Map(one.files.afterCrash(one.files.unsynced));
    left.delete('vol.table');
    const two = await start(new CrashFiles(left));
    t.same([two.queue.devices.size, two.unrestored], [0, []]);
    await two.catalogue.create({ name: 'vol', table: switchOf(4, 2) });
    t.same((await restarted(two)).queue.routes('vol'), [0, 1, 0, 1]);
  });

  t.test('follow the table: more paths, other lengths, no switch at all', async (t) => {
    const one = await start();
    const load = async (table: string): Promise<void> => {
      await one.catalogue.load('vol', table);
      await one.catalogue.resume('vol');
    };
    await one.catalogue.create({ name: 'vol', table: switchOf(5, 2) });
    // The default of two paths, kept under three, is not the default of three.
    await load(switchOf(5, 3));
    t.same(one.queue.routes('vol'), [0, 1, 0, 1, 0]);
    t.same((await restarted(one)).queue.routes('vol'), [0, 1, 0, 1, 0]);
    await load(switchOf(7, 3));
    t.same(one.queue.routes('vol'), [0, 1, 0, 1, 0, 2, 0]);
    t.same((await restarted(one)).queue.routes('vol'), [0, 1, 0, 1, 0, 2, 0]);
    await load('0 40 linear /a 0');
    t.same(regionFiles(one.files), []);
    await load(switchOf(5, 3));
    t.same((await restarted(one)).queue.routes('vol'), [0, 1, 2, 0, 1]);
  });

  t.test('of two switch targets do not get mixed up', async (t) => {
    const one = await start();
    const table = `${switchOf(4, 2)}\n32 8 zero\n${switchOf(3, 5, 4, 40)}`;
    await one.catalogue.create({ name: 'vol', table });
    const second = tableOf([4, 4, 4], 5, { regionSectors: 4 });
    t.match(await one.upload('vol', second, 47), { sector: 40, stored: true });
    await one.upload('vol', tableOf([1, 1, 1, 1], 2));
    const two = await restarted(one);
    const found = [...(two.queue.devices.get('vol')?.routes.values() ?? [])];
    t.same(
      found.map(({ regions }) => fresh(regions.regions, 1).map((_, at) => regions.get(at))),
      [
        [1, 1, 1, 1],
        [4, 4, 4],
      ],
    );
    await t.rejects(one.upload('vol', second, 33), { message: 'no regions' });
  });

  t.test('that are broken keep their device down, by name', async (t) => {
    const one = await start();
    await one.catalogue.create({ name: 'vol', table: switchOf(4, 2) });
    await one.catalogue.create({ name: 'other', table: switchOf(4, 2) });
    await one.upload('vol', tableOf([1, 1, 1, 1], 2));
    await one.upload('other', tableOf([1, 1, 1, 1], 2));
    const kept = one.files.afterCrash(one.files.unsynced);
    const good = kept.get('vol.regions') as Uint8Array;
    const flipped = Buffer.from(good);
    flipped[64] = 0;
    const segment = bytesOf(tableOf([1, 1], 2, { whole: false, regions: 4 }));
    const large = bytesOf(tableOf([1, 1, 1, 1], 2, { regionSectors: 16 }));
    const wrong: [Uint8Array, RegExp][] = [
      [flipped, /^"vol.regions": CRC-32C of the slots is /],
      [good.subarray(0, 60), /^"vol.regions": region table has 60 bytes/],
      [Buffer.concat([good, good.subarray(0, 10)]), /^"vol.regions": region table has 10 bytes/],
      [Buffer.alloc(0), /^"vol.regions": region table has 0 bytes/],
      [segment, /^"vol.regions": segment of a table, wanted a whole one$/],
      [large, /region size: found 16 sectors, the table has 8$/],
      [bytesOf(tableOf([1, 1, 1, 1], 2), 64), /regions of sector 64, where the table has no/],
    ];
    for (const [bytes, text] of wrong) {
      const two = await start(new CrashFiles(new Map(kept).set('vol.regions', bytes)));
      t.match(two.unrestored, [{ name: 'vol', text }]);
      t.same([...two.queue.devices.keys()], ['other']);
      t.same(two.queue.routes('other'), [1, 1, 1, 1]);
      await t.rejects(two.catalogue.create({ name: 'vol', table: '0 8 zero' }), { code: 'EEXIST' });
      await two.catalogue.remove('vol', false);
      t.notOk(two.files.names.some((name) => name.startsWith('vol')));
    }
  });

  t.test('are the old ones or the new ones, wherever the power fails', async () => {
    const entries = (paths: number) => fc.array(fc.nat(paths - 1), { minLength: 6, maxLength: 6 });
    const steps = fc.array(
      fc.oneof(
        fc.record({ what: fc.constant('upload' as const), to: entries(3) }),
        fc.record({ what: fc.constant('rename' as const), to: entries(1) }),
      ),
      { minLength: 1, maxLength: 4 },
    );
    await fc.assert(
      fc.asyncProperty(steps, fc.nat(40), fc.nat(4), async (steps, operations, kept) => {
        const one = await start();
        await one.catalogue.create({ name: 'a', table: switchOf(6, 3) });
        await one.catalogue.create({ name: 'above', table: '0 8 linear dm:a 0' });
        let name = 'a';
        let acknowledged = fresh(6, 3);
        let asked = acknowledged;
        one.files.operationsLeft = operations;
        try {
          for (const { what, to } of steps) {
            if (what === 'upload') {
              asked = to;
              await one.upload(name, tableOf(to, 3));
              acknowledged = to;
            } else {
              const next = name === 'a' ? 'b' : 'a';
              await one.catalogue.rename(name, next);
              name = next;
            }
          }
        } catch (error) {
          if (!(error instanceof MapperError)) throw error;
        }
        const two = await start(new CrashFiles(one.files.afterCrash(kept)));
        if (two.unrestored.length > 0) return false;
        const found = [...two.queue.devices.keys()].find((one) => one !== 'above') as string;
        const routes = `${two.queue.routes(found)}`;
        return routes === `${acknowledged}` || routes === `${asked}`;
      }),
      { numRuns: 200 },
    );
  });

  t.test('are those of the old table or the new one, wherever a reload breaks off', async (t) => {
    const before = [0, 1, 0, 1, 0];
    const uploaded = [1, 1, 0, 0, 1];
    for (const first of [before, uploaded]) {
      const seen = new Set<string>();
      for (let operations = 0; operations < 16; operations++) {
        for (let kept = 0; kept < 4; kept++) {
          const one = await start();
          await one.catalogue.create({ name: 'vol', table: switchOf(5, 2) });
          if (first === uploaded) await one.upload('vol', tableOf(uploaded, 2));
          await one.catalogue.load('vol', switchOf(7, 3));
          one.files.operationsLeft = operations;
          await one.catalogue.resume('vol').catch(() => {});
          const two = await start(new CrashFiles(one.files.afterCrash(kept)));
          t.same(two.unrestored, []);
          seen.add(`${two.queue.routes('vol')}`);
        }
      }
      t.same([...seen].sort(), [`${first}`, `${[...first, 2, 0]}`].sort());
    }
  });

  t.test('that a target changes by itself are stored, and then it is told', async (t) => {
    const one = await start();
    await one.catalogue.create({ name: 'vol', table: switchOf(4, 2) });
    const until = async (condition: () => boolean): Promise<void> => {
      while (!condition()) await new Promise((resolve) => setImmediate(resolve));
    };
    const flip = (region: number, generation: number): void => {
      one.queue.devices.get('vol')?.routes.get(0)?.regions.set(region, 1);
      one.regions.event({ event: 'target', name: 'vol', what: 'regions', sector: 0, generation });
    };
    flip(0, 1);
    flip(2, 2);
    await until(() => one.queue.saved.length === 2);
    t.same(one.queue.saved, [
      ['vol', 0, 1],
      ['vol', 0, 2],
    ]);
    t.same((await restarted(one)).queue.routes('vol'), [1, 1, 1, 1]);
    // One that is renamed meanwhile hears of it under its new name.
    one.queue.devices.get('vol')?.routes.get(0)?.regions.set(1, 0);
    one.queue.before = (command) => {
      if (command !== 'rename') return;
      one.regions.event({ event: 'target', name: 'new', what: 'regions', generation: 3 });
    };
    await one.catalogue.rename('vol', 'new');
    await until(() => one.queue.saved.length === 3);
    t.same(one.queue.saved[2], ['new', 0, 3]);
    t.same((await restarted(one)).queue.routes('new'), [1, 0, 1, 1]);
    // Of one that is gone nobody need hear.
    one.regions.event({ event: 'target', name: 'gone', what: 'regions', generation: 1 });
    await one.catalogue.settled();
    t.equal(one.queue.saved.length, 3);
  });
});

const directory = mkdtempSync(join(tmpdir(), 'mapperd-regions-'));
t.teardown(() => rmSync(directory, { recursive: true }));
let sockets = 0;

/** A control socket over devices that are not there. */
async function serve(t: Test) {
  const one = await start();
  const { queue, catalogue, regions, log } = one;
  const snapshots = new Snapshots(queue, catalogue, null, log);
  const methods = controlMethods({ queue, catalogue, snapshots, regions, version });
  const server = new ControlServer(new Rpc(methods, log), log);
  const path = join(directory, `${sockets++}.sock`);
  await server.listen(path);
  const open = (): Promise<WebSocket> =>
    new Promise((resolve, reject) => {
      const socket = new WebSocket('ws://x/', { createConnection: () => connect(path) });
      socket.once('open', () => resolve(socket)).once('error', reject);
      t.teardown(() => socket.terminate());
    });
  const client = await ControlClient.connect([path]);
  t.teardown(async () => {
    await client.close();
    server.close();
  });
  await catalogue.create({ name: 'vol', table: switchOf(10, 4) });
  return { ...one, open, client };
}

const request = (id: number, method: string, params: object): string =>
  JSON.stringify({ jsonrpc: '2.0', id, method, params });
const nextMessage = (socket: WebSocket): Promise<string> =>
  new Promise((resolve) => socket.once('message', (data) => resolve(data.toString())));
const nextClose = (socket: WebSocket): Promise<[number, string]> =>
  new Promise((resolve) =>
    socket.once('close', (code, reason) => resolve([code, reason.toString()])),
  );

t.test('uploads', async (t) => {
  const all = [3, 3, 3, 0, 0, 0, 1, 1, 2, 2];

  t.test('are put together from frames of any size', async (t) => {
    const { open, queue } = await serve(t);
    const socket = await open();
    const bytes = bytesOf(tableOf(all, 4));
    for (const size of [1, 7, 63, 64, 65, bytes.length]) {
      await queue.call('upload', { name: 'vol', sector: 0, table: tableOf(fresh(10, 4), 4) });
      socket.send(request(1, 'upload', { name: 'vol', bytes: bytes.length }));
      for (let at = 0; at < bytes.length; at += size) socket.send(bytes.subarray(at, at + size));
      t.match(JSON.parse(await nextMessage(socket)), {
        id: 1,
        result: { count: 10, stored: true },
      });
      t.same(queue.routes('vol'), all, `${size}`);
    }
  });

  t.test('that are refused say why, change nothing, and end nothing', async (t) => {
    const { client, queue } = await serve(t);
    const refused = async (message: RegExp, bytes: Uint8Array, name = 'vol'): Promise<void> => {
      await t.rejects(client.upload({ name }, bytes), { message });
      t.same(queue.routes('vol'), fresh(10, 4));
    };
    const good = bytesOf(tableOf(all, 4));
    const flipped = Buffer.from(good);
    flipped[70] = 1;
    await refused(/^upload vol: CRC-32C of the slots/, flipped);
    await refused(/^upload vol: region table has 5 bytes/, good.subarray(0, 5));
    await refused(/^upload vol: slots have 0 bytes/, good.subarray(0, 64));
    const third = tableOf([0, 1, 3], 3, { slots: packEntries([0, 1, 3], 2) });
    await refused(/^upload vol: region 2 is on path 3, wanted less than 3$/, bytesOf(third));
    await refused(/number of regions: found 3, the target has 10/, bytesOf(tableOf([0, 1, 2], 4)));
    await refused(/number of paths: found 3, the target has 4/, bytesOf(tableOf(fresh(10, 3), 3)));
    const large = tableOf(all, 4, { regionSectors: 9 });
    await refused(/region size in sectors: found 9, the target has 8/, bytesOf(large));
    await refused(/^upload nope: no device "nope"|no regions/, good, 'nope');
    await t.rejects(client.upload({ name: 'vol' }, new Uint8Array(uploadBytes + 1)), {
      code: 'E2BIG',
    });
    t.match(await client.upload({ name: 'vol', sector: 79 }, good), { sector: 0 });
    t.same(queue.routes('vol'), all);
  });

  t.test('end the connection with bytes that nobody announced', async (t) => {
    const { open, queue } = await serve(t);
    const early = await open();
    early.send(Buffer.of(1));
    t.same(await nextClose(early), [1003, 'nobody announced binary frames']);
    const good = bytesOf(tableOf(all, 4));
    const long = await open();
    long.send(request(1, 'upload', { name: 'vol', bytes: good.length }));
    long.send(Buffer.concat([good, Buffer.of(0)]));
    t.same(await nextClose(long), [1003, 'more than was announced']);
    const wrong = await open();
    wrong.send(request(1, 'upload', { name: 'vol', bytes: uploadBytes + 1 }));
    wrong.send(Buffer.of(1));
    t.equal((await nextClose(wrong))[0], 1003);
    t.same(queue.routes('vol'), fresh(10, 4));
  });

  t.test('that break off change nothing', async (t) => {
    const { open, queue, client, log } = await serve(t);
    const socket = await open();
    const good = bytesOf(tableOf(all, 4));
    socket.send(request(1, 'upload', { name: 'vol', bytes: good.length }));
    socket.send(good.subarray(0, 70));
    socket.close();
    await nextClose(socket);
    t.same((await client.call('ls', {})).length, 1);
    t.same(queue.routes('vol'), fresh(10, 4));
    t.same(log.texts, []);
  });

  t.test('come one after the other, and not in a batch', async (t) => {
    const { open, queue } = await serve(t);
    const socket = await open();
    const good = bytesOf(tableOf(all, 4));
    const ask = (id: number) => request(id, 'upload', { name: 'vol', bytes: good.length });
    socket.send(ask(1));
    socket.send(ask(2));
    const busy = 'an upload on this connection waits for its bytes';
    t.match(JSON.parse(await nextMessage(socket)), {
      id: 2,
      error: { message: busy, data: { code: 'EBUSY' } },
    });
    socket.send(good);
    t.match(JSON.parse(await nextMessage(socket)), { id: 1, result: { count: 10 } });
    t.same(queue.routes('vol'), all);
    socket.send(`[${ask(3)},${request(4, 'download', { name: 'vol' })}]`);
    const refused = { error: { code: -32600 } };
    t.match(JSON.parse(await nextMessage(socket)), [
      { id: 3, ...refused },
      { id: 4, ...refused },
    ]);
  });

  t.test('and other requests go on meanwhile', async (t) => {
    const { open } = await serve(t);
    const socket = await open();
    const good = bytesOf(tableOf(all, 4));
    socket.send(request(1, 'upload', { name: 'vol', bytes: good.length }));
    socket.send(good.subarray(0, 10));
    socket.send(request(2, 'info', { name: 'vol' }));
    t.match(JSON.parse(await nextMessage(socket)), { id: 2, result: { name: 'vol' } });
    socket.send(good.subarray(10));
    t.match(JSON.parse(await nextMessage(socket)), { id: 1, result: { whole: true } });
  });
});

t.test('downloads', async (t) => {
  t.test('are what was uploaded, or a part of it', async (t) => {
    const { client } = await serve(t);
    const bytes = bytesOf(tableOf([3, 3, 3, 0, 0, 0, 1, 1, 2, 2], 4));
    await client.upload({ name: 'vol' }, bytes);
    const whole = await client.download({ name: 'vol' });
    t.match(whole.about, { bytes: 72, whole: true, regions: 10, paths: 4, bits: 2, sector: 0 });
    t.same(whole.bytes, bytes);
    const part = await client.download({ name: 'vol', first: 2, count: 3 });
    const { table } = decodeRegions(part.bytes);
    t.match(table, { whole: false, first: 2, count: 3, regions: 10 });
    t.same([...unpackEntries(table)], [3, 0, 0]);
    const rest = decodeRegions((await client.download({ name: 'vol', first: 7 })).bytes).table;
    t.match(rest, { whole: false, first: 7, count: 3 });
    t.same([...unpackEntries(rest)], [1, 2, 2]);
    const beyond = { code: 'EINVAL', message: /regions 9 from region 2 on, it has 10$/ };
    await t.rejects(client.download({ name: 'vol', first: 2, count: 9 }), beyond);
    await t.rejects(client.download({ name: 'vol', count: 0 }), {
      message: /^download: count: cou/,
    });
    await t.rejects(client.download({ name: 'nope' }), { code: 'ENXIO' });
  });

  t.test('of several frames follow their answers, and one another', async (t) => {
    const { client, catalogue } = await serve(t);
    const regions = 3 * (controlMessageBytes / 4);
    await catalogue.create({ name: 'large', table: `0 ${regions} switch 65536 1 0 /p 0` });
    const [large, small, info] = await Promise.all([
      client.download({ name: 'large' }),
      client.download({ name: 'vol' }),
      client.call('info', { name: 'vol' }),
    ]);
    t.equal(large.bytes.length, 64 + 2 * regions);
    const { table } = decodeRegions(large.bytes);
    t.ok(unpackEntries(table).every((path, region) => path === region % 65_536));
    t.equal(small.bytes.length, 72);
    t.equal(info.name, 'vol');
    t.match(await client.upload({ name: 'large' }, large.bytes), { count: regions });
  });
});
