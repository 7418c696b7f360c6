/**
 * What a daemon is doing when it is killed: each scenario makes its devices once, and from then on
 * lives in the state directory that the next daemon comes back from. `disturb` is the work that
 * goes on beside the writes; `recovered` looks at what came back.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import type { Daemon, Scratch } from '../interop/harness.js';
import { Journal, sectorBytes } from './journal.js';
import { Load, type Random } from './load.js';

/** The volume beside the others that fio writes to, and reads. */
export interface FioVolume {
  readonly bytes: number;
  /** The device that it writes to in this round, asked for when `prepare` has ended; null: none. */
  writes(): string | null;
  /** Where what it wrote last must be. */
  reads(): string;
}

/** A device that is written to, and what it may hold. */
export interface Subject {
  readonly name: string;
  readonly journal: Journal;
}

export interface Scenario {
  readonly name: string;
  /** The daemon is killed when so many writes have been answered, at the latest. */
  readonly mostAnswers: number;
  create(daemon: Daemon): Promise<void>;
  /** Before the writes of a round; nothing is killed meanwhile. */
  prepare?(daemon: Daemon): Promise<void>;
  /** Beside the writes; it may be cut short anywhere, and then rejects. */
  disturb(daemon: Daemon): Promise<void>;
  /** The next daemon is up. Throws if what was answered is not there. */
  recovered(daemon: Daemon): Promise<void>;
  subjects(): readonly Subject[];
  /** Those that are written to, if that is not all of them. */
  written?(): readonly Subject[];
  readonly fio: FioVolume;
  /** What has happened, for the report. */
  report(): string;
}

export type MakeScenario = (files: Scratch, random: Random) => Scenario;

const sectors = 2048;
const bytes = sectors * sectorBytes;
const fioSectors = 32_768;
const fioBytes = fioSectors * sectorBytes;

/** One that fio writes to in every round. */
const fioVolume: FioVolume = { bytes: fioBytes, writes: () => 'fio', reads: () => 'fio' };

/** Plain files, under tables that are changed for others that map alike. */
export const plain: MakeScenario = (files, random) => {
  const path = files.sparse('plain.img', bytes);
  const journal = new Journal(sectors);
  const tables = [
    `0 ${sectors} linear ${path} 0`,
    `0 1000 linear ${path} 0\n1000 ${sectors - 1000} linear ${path} 1000`,
    `0 ${sectors} striped 1 8 ${path} 0`,
    `0 ${sectors} snapshot-origin ${path}`,
  ];
  const table = (): string => tables[random(tables.length)] as string;
  const fioTable = `0 ${fioSectors} linear ${files.sparse('fio.img', fioBytes)} 0`;
  let reloads = 0;
  return {
    name: 'plain',
    mostAnswers: 120,
    fio: fioVolume,
    subjects: () => [{ name: 'vol', journal }],
    create: async (daemon) => {
      await daemon.call('create', { name: 'vol', table: table() });
      await daemon.call('create', { name: 'fio', table: fioTable });
    },
    disturb: async (daemon) => {
      for (;;) {
        await daemon.call('load', { name: 'vol', table: table() });
        await daemon.call('resume', { name: 'vol' });
        reloads++;
        await sleep(random(10));
      }
    },
    recovered: async () => journal.check(files.read('plain.img', 0, bytes)),
    report: () => `${reloads} reloads`,
  };
};

interface Snap extends Subject {
  /** Whether its making was answered. */
  sure: boolean;
}

/** Snapshots of type P: taken, written to and removed while the origin is written to. */
export const snapshots: MakeScenario = (files, random) => {
  const path = files.sparse('origin.img', bytes);
  const journal = new Journal(sectors);
  let snaps: Snap[] = [];
  const fioTable = `0 ${fioSectors} linear ${files.sparse('fio.img', fioBytes)} 0`;
  let fioSnap: string | null = null;
  let count = 0;
  let taken = 0;
  /** What fio overwrites is copied first, time and again. */
  const takeOfFio = async (daemon: Daemon): Promise<void> => {
    if (fioSnap !== null && random(3) !== 0) return;
    if (fioSnap !== null) await daemon.call('removeSnapshot', { name: fioSnap, force: true });
    fioSnap = `fiosnap${count++}`;
    const cow = { cow: files.file(`${fioSnap}.cow`), cowBytes: 2 * fioBytes };
    await daemon.call('snapshot', { origin: 'fio', name: fioSnap, chunkSectors: 16, ...cow });
  };
  const take = async (daemon: Daemon): Promise<void> => {
    const snap = { name: `snap${count++}`, journal: journal.fork(), sure: false };
    snaps.push(snap);
    journal.followers.add(snap.journal);
    const chunkSectors = [8, 16, 32][random(3)] as number;
    const cow = { cow: files.file(`${snap.name}.cow`), cowBytes: 2 * bytes };
    await daemon.call('snapshot', { origin: 'vol', name: snap.name, chunkSectors, ...cow });
    journal.followers.delete(snap.journal);
    snap.sure = true;
    taken++;
  };
  return {
    name: 'snapshot P',
    mostAnswers: 120,
    fio: fioVolume,
    subjects: () => [{ name: 'vol', journal }, ...snaps],
    create: async (daemon) => {
      await daemon.call('create', { name: 'vol', table: `0 ${sectors} linear ${path} 0` });
      await daemon.call('create', { name: 'fio', table: fioTable });
    },
    prepare: async (daemon) => {
      await takeOfFio(daemon);
      if (snaps.length < 2 && random(2) === 0) await take(daemon);
      if (snaps.length < 3) return;
      const [oldest] = snaps.splice(0, 1) as [Snap];
      await daemon.call('removeSnapshot', { name: oldest.name, force: true });
    },
    disturb: async (daemon) => {
      await sleep(random(60));
      if (snaps.length < 3) await take(daemon);
    },
    recovered: async (daemon) => {
      journal.followers.clear();
      const there = await daemon.call('snapshots', {});
      const missing = snaps.filter(({ name }) => !there.some((one) => one.name === name));
      const lost = missing.find(({ sure }) => sure);
      if (lost !== undefined) throw new Error(`${lost.name} was made and is gone`);
      const invalid = there.find(({ state }) => state !== 'active');
      if (invalid !== undefined) throw new Error(`${invalid.name} is ${invalid.state}`);
      snaps = snaps.filter((snap) => !missing.includes(snap));
      for (const snap of snaps) snap.sure = true;
    },
    report: () => `${taken} snapshots taken`,
  };
};

/** A snapshot that is merged into its origin, which goes on being written to. */
export const merges: MakeScenario = (files, random) => {
  const path = files.sparse('merged.img', bytes);
  let journal = new Journal(sectors);
  let snap: Subject | null = null;
  let count = 0;
  let begun = 0;
  let finished = 0;
  const fioTable = `0 ${fioSectors} linear ${files.sparse('fio.img', fioBytes)} 0`;
  let fioSnap: string | null = null;
  let fioWrites: string | null = null;
  const isMerging = async (daemon: Daemon, name: string): Promise<boolean> => {
    const [line] = await daemon.call('table', { name });
    return line !== undefined && 'type' in line && line.type === 'snapshot-merge';
  };
  /** fio writes to a snapshot; later that is merged, and perhaps written to meanwhile. */
  const prepareFio = async (daemon: Daemon): Promise<void> => {
    fioWrites = null;
    if (await isMerging(daemon, 'fio')) {
      if (random(2) === 0) fioWrites = 'fio';
    } else if (fioSnap === null) {
      fioSnap = `fiosnap${count++}`;
      fioWrites = fioSnap;
      const cow = { cow: files.file(`${fioSnap}.cow`), cowBytes: 2 * fioBytes };
      await daemon.call('snapshot', { origin: 'fio', name: fioSnap, chunkSectors: 8, ...cow });
    } else {
      await daemon.untilUnused(fioSnap);
      await daemon.call('merge', { name: fioSnap });
      fioSnap = null;
      begun++;
    }
  };
  /** Both sides of a new snapshot go their own ways. */
  const diverge = async (daemon: Daemon): Promise<void> => {
    const name = `snap${count++}`;
    const made = { name, journal: journal.fork() };
    const cow = { cow: files.file(`${name}.cow`), cowBytes: 2 * bytes };
    await daemon.call('snapshot', { origin: 'vol', name, chunkSectors: 8, ...cow });
    snap = made;
    const loads = await Promise.all([
      Load.start(daemon.socket, 'vol', journal, random),
      Load.start(daemon.socket, name, made.journal, random),
    ]);
    await sleep(100);
    await Promise.all(loads.map((load) => load.stop()));
    for (const used of ['vol', name]) await daemon.untilUnused(used);
  };
  const merge = async (daemon: Daemon): Promise<void> => {
    const merged = snap as Subject;
    await daemon.untilUnused(merged.name);
    await daemon.call('merge', { name: merged.name });
    journal = merged.journal;
    snap = null;
    begun++;
  };
  return {
    name: 'merge',
    mostAnswers: 8,
    fio: { bytes: fioBytes, writes: () => fioWrites, reads: () => fioSnap ?? 'fio' },
    subjects: () => [{ name: 'vol', journal }, ...(snap === null ? [] : [snap])],
    // What is written while a merge begins could be to one side or the other. And without writes
    // it is killed sooner.
    written: () => (snap === null && random(2) === 0 ? [{ name: 'vol', journal }] : []),
    create: async (daemon) => {
      await daemon.call('create', { name: 'vol', table: `0 ${sectors} linear ${path} 0` });
      await daemon.call('create', { name: 'fio', table: fioTable });
    },
    prepare: async (daemon) => {
      await prepareFio(daemon);
      if (await isMerging(daemon, 'vol')) return;
      if (snap === null) await diverge(daemon);
      // Otherwise it is killed while the merge begins.
      if (random(4) !== 0) await merge(daemon);
    },
    disturb: async (daemon) => {
      if (snap === null) return;
      await daemon.untilUnused(snap.name);
      await daemon.call('merge', { name: snap.name });
    },
    recovered: async (daemon) => {
      if (snap !== null) {
        const there = await daemon.call('snapshots', {});
        const name = snap.name;
        if (!there.some((one) => one.name === name)) {
          journal = snap.journal;
          snap = null;
          begun++;
        }
      }
      if (!(await isMerging(daemon, 'vol'))) finished++;
    },
    report: () => `${begun} merges begun, ${finished} times none was under way any more`,
  };
};

/** Regions that move from path to path. */
export const switches: MakeScenario = (files, random) => {
  const pathsOf = (name: string, length: number): string =>
    ['a', 'b', 'c'].map((path) => `${files.sparse(`${name}-${path}`, length)} 0`).join(' ');
  const journal = new Journal(sectors);
  let moved = 0;
  let interrupted = 0;
  const moveAndMove = async (daemon: Daemon, name: string): Promise<void> => {
    const message = (...words: string[]): Promise<string> =>
      daemon.call('message', { name, sector: 0, words });
    for (;;) {
      const from = random(3);
      const throttle = random(2) === 0 ? '30' : '100';
      const sides = [`${from}`, `${(from + 1 + random(2)) % 3}`];
      await message('move_regions', ...sides, 'throttle', throttle);
      interrupted++;
      for (let state = 'running'; state === 'running'; ) {
        await sleep(2);
        state = (await message('move_status')).split(' ')[0] ?? '';
        if (state === 'failed') throw new Error('the move failed');
      }
      interrupted--;
      moved++;
    }
  };
  return {
    name: 'switch',
    mostAnswers: 120,
    fio: fioVolume,
    subjects: () => [{ name: 'vol', journal }],
    create: async (daemon) => {
      const table = `0 ${sectors} switch 3 50 0 ${pathsOf('vol', bytes)}`;
      await daemon.call('create', { name: 'vol', table });
      const fioTable = `0 ${fioSectors} switch 3 200 0 ${pathsOf('fio', fioBytes)}`;
      await daemon.call('create', { name: 'fio', table: fioTable });
    },
    disturb: async (daemon) => {
      await Promise.all(['vol', 'fio'].map((name) => moveAndMove(daemon, name)));
    },
    recovered: async () => {},
    report: () => `${moved} moves ended, ${interrupted} were interrupted`,
  };
};
