/**
 * A merge that one side begins and the other ends. It is broken off half-way, by a suspend and by a
 * power cut, while clients write to it; what is merged so far and the exceptions that are left
 * must make up the snapshot at every moment.
 */

import { readFileSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { type EngineName, eachEngine, Scratch } from '../interop/harness.js';
import { contentOf, fullCowSectors, readCow } from './cow-format.js';
import { DaemonSide } from './daemon-side.js';
import { KernelSide } from './kernel-side.js';
import { digestOf, SECTOR, type Side } from './steps.js';
import { type Disk, kernelPrograms } from './uml.js';
import { chooseSeed, Workload } from './workload.js';

/** How the side that begins is stopped. All stores have several areas. */
const breaks = [
  { how: 'suspend', chunkSectors: 2, sectors: 2203 },
  { how: 'poweroff', chunkSectors: 8, sectors: 15_001 },
] as const;
type Break = (typeof breaks)[number];

type Store = Break & {
  readonly cowSectors: number;
  readonly workload: Workload;
  readonly snapshot: string;
  readonly disks: readonly Disk[];
};

function makeStore(files: Scratch, broken: Break, seed: number): Store {
  const { how: name, chunkSectors, sectors } = broken;
  const cowSectors = fullCowSectors(sectors, chunkSectors);
  const snapshot = `${name}-snapshot`;
  const snapshots = [{ name: snapshot, chunkSectors }];
  const workload = new Workload({ name, sectors, snapshots }, 'P', seed);
  writeFileSync(files.file(name), workload.contents.get(workload.top) as Buffer);
  files.sparse(`${snapshot}-cow`, cowSectors * SECTOR);
  const disks = [name, `${snapshot}-cow`].map((name) => ({ name, path: files.file(name) }));
  return { ...broken, cowSectors, workload, snapshot, disks };
}

function content({ workload, snapshot }: Store): Buffer {
  return workload.contents.get(snapshot) as Buffer;
}

function table(origin: string, { snapshot, sectors, chunkSectors }: Store): string {
  return `0 ${sectors} snapshot-merge ${origin} @${snapshot}-cow P ${chunkSectors}`;
}

/** The status of a merge that has come to the lower half of the COW. */
function halfWay({ chunkSectors, cowSectors }: Store): string {
  const sizes: number[] = [];
  for (let size = 3 * chunkSectors; size < cowSectors / 2; size += chunkSectors) sizes.push(size);
  return `snapshot-merge (${sizes.join('|')})/${cowSectors} `;
}

/** Makes a store, and merges half of it, so slowly that half-way is found. */
function begin(store: Store, writeMilliseconds: number): string[] {
  const { how, sectors, workload, snapshot } = store;
  const { name } = workload.spec;
  const merge = `${name}-merge`;
  const lines = [
    ...workload.activate(),
    ...workload.writes(60),
    ...workload.fill(),
    ...workload.deactivate(),
    `create ${name}-slow 0 ${sectors} delay @${name} 0 0 @${name} 0 ${writeMilliseconds}`,
    `create ${merge} ${table(`dm:${name}-slow`, store)}`,
    'together',
    ...workload.writesApart(6, merge, snapshot),
    'done',
    `read ${merge}`,
    `until ${merge} ${halfWay(store)}`,
  ];
  if (how === 'poweroff') return [...lines, 'poweroff'];
  return [...lines, `suspend ${merge}`, `remove ${merge}`, `remove ${name}-slow`];
}

/** Merges the rest. */
function finish(store: Store): string[] {
  const { chunkSectors, cowSectors, workload, snapshot } = store;
  const { name } = workload.spec;
  const merge = `${name}-merge`;
  return [
    `create ${merge} ${table(`@${name}`, store)}`,
    ...workload.writesApart(3, merge, snapshot),
    `until ${merge} snapshot-merge ${2 * chunkSectors}/${cowSectors} ${2 * chunkSectors}$`,
    `table ${merge}`,
    `read ${merge}`,
    `remove ${merge}`,
  ];
}

/** `writeMilliseconds`: what a write to the origin takes while the first side merges. */
async function relay(
  t: Test,
  from: SideMaker,
  to: SideMaker,
  writeMilliseconds: number,
): Promise<void> {
  const seed = chooseSeed(t);
  const files = new Scratch(t);
  const stores = breaks.map((one, at) => makeStore(files, one, (seed + at) * 1000));
  const disks = stores.flatMap((store) => store.disks);
  const first = stores.flatMap((store) => begin(store, writeMilliseconds));
  noneFails(t, await from(disks).run(first));
  for (const store of stores) {
    const [origin, cow] = filesOf(store);
    t.ok(contentOf(cow, origin).equals(content(store)), 'nothing is lost half-way');
    const left = readCow(cow).exceptions.length;
    t.comment(`${left} exceptions are left`);
    t.ok(left > 0, 'it is not over');
  }
  const transcript = await to(disks).run(stores.flatMap(finish));
  noneFails(t, transcript);
  for (const store of stores) {
    const merge = `${store.workload.spec.name}-merge`;
    t.ok(transcript.includes(`read ${merge} -> ${digestOf(content(store))}`), 'the merge shows it');
    const [origin, cow] = filesOf(store);
    t.ok(origin.equals(content(store)), 'the origin is what the snapshot was');
    t.equal(readCow(cow).exceptions.length, 0, 'no exception is left');
  }
}

type SideMaker = (disks: readonly Disk[]) => Side;

function filesOf({ disks }: Store): [Buffer, Buffer] {
  return disks.map(({ path }) => readFileSync(path)) as [Buffer, Buffer];
}

function noneFails(t: Test, transcript: readonly string[]): void {
  const lines = transcript.filter((line) => !/^(read|table|status) /.test(line));
  t.strictSame(
    lines.filter((line) => !line.endsWith(' -> ok')),
    [],
    'nothing fails',
  );
}

eachEngine(t, 'merges', [...kernelPrograms, 'nbdcopy'], async (t, engine: EngineName) => {
  const kernel: SideMaker = (disks) => new KernelSide(t, disks, ['dm-delay']);
  const daemon: SideMaker = (disks) => new DaemonSide(t, engine, disks);
  await t.test('begun by the kernel, ended by mapperd', (t) => relay(t, kernel, daemon, 20));
  // It merges many runs at once.
  await t.test('begun by mapperd, ended by the kernel', (t) => relay(t, daemon, kernel, 200));
});
