/**
 * Power cuts of a machine whose daemon has all it needs on one ext4: the paths of its switches, and
 * the state directory with their region tables. Whatever flush the power is cut at, a table there
 * is the one from before a change or the one from after it, whole, and by it the volume has what
 * was written and flushed.
 *
 *   vol    three paths, whose regions move while it is written to
 *   wide   many regions, whose whole table is uploaded again and again
 */

import { open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { ControlClient } from '../../src/ctl/client.js';
import { encodeRegions, packEntries } from '../../src/target/switch/upload-format.js';
import { random as randomFrom } from '../contract/pattern.js';
import { Daemon, type EngineName, eachEngine } from '../interop/harness.js';
import { CMD, RawClient } from '../interop/raw-client.js';
import { Journal, sectorBytes } from './journal.js';
import { Load } from './load.js';
import { ext4Programs, LoggedExt4, type ReadThen } from './logged-ext4.js';
import { cannotMountFiles } from './mounts.js';
import { readRegionFile } from './region-file.js';

const sectors = 2048;
const regionSectors = 64;
const regions = sectors / regionSectors;
const pathNames = ['a', 'b', 'c'];
const paths = pathNames.length;
const wideRegions = 100_000;
const steps = 8;

/** Between two marks. */
interface Step {
  /** What the volume may hold: as it was flushed before, and what was begun since. */
  readonly volume: Journal;
  /** The table of "wide" that was there at the mark; it was the first so many. */
  readonly table: number;
}

/** Table 0 is that of a new switch. */
function wideTable(generation: number): number[] {
  if (generation === 0) return Array.from({ length: wideRegions }, (_, region) => region % paths);
  const random = randomFrom(generation);
  return Array.from({ length: wideRegions }, () => random(paths));
}

function wideBytes(generation: number): Buffer {
  const bits = 2;
  const about = { whole: true, regions: wideRegions, regionSectors: 1, paths, bits, first: 0 };
  const slots = packEntries(wideTable(generation), bits);
  return Buffer.concat(
    encodeRegions({ sector: 0, table: { ...about, count: wideRegions, slots } }),
  );
}

async function move(daemon: Daemon, from: number, to: number): Promise<void> {
  const message = (...words: string[]): Promise<string> =>
    daemon.call('message', { name: 'vol', sector: 0, words });
  await message('move_regions', `${from}`, `${to}`);
  for (;;) {
    const words = (await message('move_status')).split(' ');
    const [state, , , , , , generation, saved] = words;
    if (state === 'done' && generation === saved) return;
    if (state !== 'running' && state !== 'done') throw new Error(words.join(' '));
    await sleep(5);
  }
}

async function flush(daemon: Daemon): Promise<void> {
  const client = await RawClient.ready(daemon.socket, 'vol', { structured: true });
  const { error } = await client.request({ type: CMD.flush });
  client.destroy();
  if (error !== 0) throw new Error(`FLUSH: error ${error}`);
}

/** Uses both switches, and puts a mark into the log before each step. */
async function work(disk: LoggedExt4, daemon: Daemon, seed: number): Promise<Step[]> {
  const random = randomFrom(seed);
  const journal = new Journal(sectors);
  const control = await ControlClient.connect([daemon.controlSocket]);
  const done: Step[] = [];
  let table = 0;
  const begin = async (): Promise<void> => {
    await flush(daemon);
    const volume = journal.fork();
    await disk.mark(`${done.length}`);
    done.push({ volume, table });
    journal.followers.clear();
    journal.followers.add(volume);
  };
  for (let step = 0; step < steps; step++) {
    await begin();
    const load = await Load.start(daemon.socket, 'vol', journal, random);
    const from = random(paths);
    const changes = [move(daemon, from, (from + 1 + random(paths - 1)) % paths)];
    for (let i = 0; i < 2; i++) {
      await control.upload({ name: 'wide' }, wideBytes(table + 1));
      table++;
    }
    await Promise.all(changes);
    while (load.answered < 40) await Promise.race([sleep(1), load.ended]);
    await load.stop();
  }
  await begin();
  await control.close();
  return done;
}

async function run(t: Test, disk: LoggedExt4, engine: EngineName): Promise<Step[]> {
  const seed = Date.now() % 2 ** 31;
  const path = (name: string): string => `${disk.folder}/${name}`;
  const daemon = await Daemon.start({ engine, args: ['--state', path('state')] });
  try {
    const image = async (name: string, bytes: number): Promise<void> => {
      const file = await open(path(name), 'w');
      await file.truncate(bytes);
      await file.close();
    };
    for (const name of pathNames) await image(name, sectors * sectorBytes);
    await image('wide', wideRegions * sectorBytes);
    const create = (name: string, length: number, region: number, files: string[]) => {
      const words = files.map((file) => `${path(file)} 0`).join(' ');
      const table = `0 ${length} switch ${paths} ${region} 0 ${words}`;
      return daemon.call('create', { name, table });
    };
    await create('vol', sectors, regionSectors, pathNames);
    await create('wide', wideRegions, 1, ['wide', 'wide', 'wide']);
    return await work(disk, daemon, seed);
  } catch (error) {
    t.comment(`seed ${seed}`, daemon.log.slice(-40));
    throw error;
  } finally {
    await daemon.stop();
  }
}

/** The volume, by the table that the daemon would come back with. */
async function volumeThen(read: ReadThen): Promise<Buffer> {
  const stored = await read('/state/vol.regions');
  const routes =
    stored === null
      ? Array.from({ length: regions }, (_, region) => region % paths)
      : readRegionFile(stored);
  const files: (Buffer | null)[] = [];
  for (const name of pathNames) files.push(await read(`/${name}`));
  const regionBytes = regionSectors * sectorBytes;
  return Buffer.concat(
    routes.map((path, region) => {
      const file = files[path];
      if (file === undefined || file === null)
        throw new Error(`region ${region} is on path ${path}, which is gone`);
      return file.subarray(region * regionBytes, (region + 1) * regionBytes);
    }),
  );
}

const texts = new Map<number, string>();

function wideText(generation: number): string {
  const text = texts.get(generation) ?? wideTable(generation).join();
  texts.set(generation, text);
  return text;
}

/** Which of the tables it is. */
async function tableThen(read: ReadThen, candidates: readonly number[]): Promise<number> {
  const stored = await read('/state/wide.regions');
  if (stored === null) return 0;
  const found = readRegionFile(stored).join();
  const table = candidates.find((generation) => wideText(generation) === found);
  if (table === undefined) throw new Error(`the table is none of ${candidates.join(', ')}`);
  return table;
}

eachEngine(t, 'switches after a power cut', ext4Programs, async (t, engine) => {
  await t.test('tables old or new, data by them', { skip: cannotMountFiles() }, async (t) => {
    const disk = await LoggedExt4.make(t, engine);
    const done = await run(t, disk, engine);
    await disk.end();
    let looked = 0;
    await disk.eachCut(t, async (read, mark) => {
      const step = done[Number(mark)];
      if (step === undefined) return;
      looked++;
      step.volume.fork().check(await volumeThen(read));
      const last = done[Number(mark) + 1]?.table ?? step.table;
      const candidates = [];
      for (let table = step.table; table <= last; table++) candidates.push(table);
      const table = await tableThen(read, candidates);
      if (!candidates.includes(table)) throw new Error(`table ${table}, wanted ${candidates}`);
    });
    t.ok(looked > 0, `${looked} of them while it was in use`);
  });
});
