/**
 * What a daemon is doing when it is killed: each scenario makes its devices once, and from then on
 * lives in the state directory that the next daemon comes back from. `disturb` is the work that
 * goes on beside the writes; `recovered` looks at what came back.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import type { Daemon, Scratch } from '../interop/harness.js';
import { Journal, sectorBytes } from './journal.js';
import { Load, type Random } from './load.js';

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
  /** What has happened, for the report. */
  report(): string;
}

export type MakeScenario = (files: Scratch, random: Random) => Scenario;

const sectors = 2048;
const bytes = sectors * sectorBytes;

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
  let reloads = 0;
  return {
    name: 'plain',
    mostAnswers: 120,
    subjects: () => [{ name: 'vol', journal }],
    create: async (daemon) => {
      await daemon.call('create', { name: 'vol', table: table() });
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
  let count = 0;
  let taken = 0;
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
    subjects: () => [{ name: 'vol', journal }, ...snaps],
    create: async (daemon) => {
      await daemon.call('create', { name: 'vol', table: `0 ${sectors} linear ${path} 0` });
    },
    prepare: async (daemon) => {
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
  const isMerging = async (daemon: Daemon): Promise<boolean> => {
    const [line] = await daemon.call('table', { name: 'vol' });
    return line !== undefined && 'type' in line && line.type === 'snapshot-merge';
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
    subjects: () => [{ name: 'vol', journal }, ...(snap === null ? [] : [snap])],
    // What is written while a merge begins could be to one side or the other. And without writes
    // it is killed sooner.
    written: () => (snap === null && random(2) === 0 ? [{ name: 'vol', journal }] : []),
    create: async (daemon) => {
      await daemon.call('create', { name: 'vol', table: `0 ${sectors} linear ${path} 0` });
    },
    prepare: async (daemon) => {
      if (await isMerging(daemon)) return;
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
      if (!(await isMerging(daemon))) finished++;
    },
    report: () => `${begun} merges begun, ${finished} times none was under way any more`,
  };
};

/** Regions that move from path to path. */
export const switches: MakeScenario = (files, random) => {
  const paths = ['a', 'b', 'c'].map((name) => `${files.sparse(`${name}.img`, bytes)} 0`);
  const journal = new Journal(sectors);
  let moved = 0;
  let interrupted = 0;
  const message = (daemon: Daemon, ...words: string[]): Promise<string> =>
    daemon.call('message', { name: 'vol', sector: 0, words });
  return {
    name: 'switch',
    mostAnswers: 120,
    subjects: () => [{ name: 'vol', journal }],
    create: async (daemon) => {
      const table = `0 ${sectors} switch 3 50 0 ${paths.join(' ')}`;
      await daemon.call('create', { name: 'vol', table });
    },
    disturb: async (daemon) => {
      for (;;) {
        const from = random(3);
        const throttle = random(2) === 0 ? '30' : '100';
        const sides = [`${from}`, `${(from + 1 + random(2)) % 3}`];
        await message(daemon, 'move_regions', ...sides, 'throttle', throttle);
        interrupted++;
        for (let state = 'running'; state === 'running'; ) {
          await sleep(2);
          state = (await message(daemon, 'move_status')).split(' ')[0] ?? '';
          if (state === 'failed') throw new Error('the move failed');
        }
        interrupted--;
        moved++;
      }
    },
    recovered: async () => {},
    report: () => `${moved} moves ended, ${interrupted} were interrupted`,
  };
};
