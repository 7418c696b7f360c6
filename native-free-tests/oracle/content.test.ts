/**
 * Stores go to and fro between the kernel and mapperd: one makes them, then each in turn activates
 * them, finds what the other left, and writes on. After each turn the files are also read by the
 * format's description alone.
 *
 *   stores a   the kernel -> mapperd -> the kernel -> mapperd
 *   stores b                 mapperd -> the kernel -> mapperd
 */

import { readFileSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { type EngineName, eachEngine, Scratch } from '../interop/harness.js';
import { contentOf, fullCowSectors, readCow, usageOf } from './cow-format.js';
import { DaemonSide } from './daemon-side.js';
import { KernelSide } from './kernel-side.js';
import { answerTo, fillStream, SECTOR, type Side, transcriptLength } from './steps.js';
import { type Disk, kernelPrograms } from './uml.js';
import { chooseSeed, type OriginSpec, Workload } from './workload.js';

/** An origin; neither it nor its COWs end with a whole chunk. */
function spec(name: string, sectors: number, ...chunks: number[]): OriginSpec {
  const snapshots = chunks.map((chunkSectors) => ({
    name: `${name}-${chunkSectors}`,
    chunkSectors,
  }));
  return { name, sectors, snapshots };
}

const kernelMade = [
  spec('a-small', 2203, 1, 8, 256),
  // So many chunks that their exceptions fill an area at 16 sectors.
  spec('a-large', 8707, 16, 32),
];
const daemonMade = [spec('b-small', 2203, 1, 16, 32)];

/** A workload's files: its origin with the first content, COWs of garbage behind a zero chunk. */
function makeDisks(files: Scratch, workload: Workload, seed: number): Disk[] {
  const { name, sectors, snapshots } = workload.spec;
  const disk = (name: string, bytes: Buffer): Disk => {
    writeFileSync(files.file(name), bytes);
    return { name, path: files.file(name) };
  };
  const cows = snapshots.map((one) => {
    const room = fullCowSectors(sectors, one.chunkSectors) + Math.floor(one.chunkSectors / 2);
    const garbage = fillStream(Buffer.alloc(room * SECTOR), 0, seed);
    return disk(`${one.name}-cow`, garbage.fill(0, 0, one.chunkSectors * SECTOR));
  });
  return [disk(name, workload.contents.get(workload.top) as Buffer), ...cows];
}

interface Turn {
  readonly side: Side;
  readonly workloads: readonly Workload[];
  /** It writes all of the origin, besides. */
  readonly fills?: boolean;
  /** It ends with a power cut, and not as one should. */
  readonly cut?: boolean;
}

/** One side's turn with some workloads. `left`: what the side before it had said at its end. */
async function turn(
  t: Test,
  { side, workloads, fills = false, cut = false }: Turn,
  files: Scratch,
  left: Map<Workload, string[]>,
): Promise<void> {
  const script: string[] = [];
  const looks: { workload: Workload; from: number; expected: string[]; isLast: boolean }[] = [];
  const look = (workload: Workload, isLast: boolean): void => {
    const from = transcriptLength(script);
    looks.push({ workload, from, expected: workload.expected(), isLast });
    script.push(...workload.look());
  };
  for (const workload of workloads) {
    script.push(...workload.activate());
    look(workload, false);
    script.push(...workload.writes(14), ...(fills ? workload.fill() : []));
    look(workload, true);
    if (!cut) script.push(...workload.deactivate());
  }
  if (cut) script.push('poweroff');
  const transcript = await side.run(script);
  const changes = transcript.filter((line) => !/^(read|table|status) /.test(line));
  const failed = changes.filter((line) => !line.endsWith(' -> ok'));
  t.strictSame(failed, [], `${side.name}: nothing fails`);
  for (const { workload, from, expected, isLast } of looks) {
    const found = transcript.slice(from, from + workload.look().length);
    const name = `${side.name}: ${workload.spec.name}`;
    const contents = found.filter((line) => line.startsWith('read '));
    t.strictSame(contents, expected, `${name} holds what was written`);
    const before = left.get(workload);
    if (!isLast && before !== undefined) t.strictSame(found, before, `${name} is as it was left`);
    left.set(workload, found);
    if (isLast) checkFiles(t, workload, files, found);
  }
}

/** The files say what the side said, by the format's description. */
function checkFiles(t: Test, workload: Workload, files: Scratch, said: readonly string[]): void {
  const { name, sectors, snapshots } = workload.spec;
  const origin = readFileSync(files.file(name));
  t.ok(origin.equals(workload.contents.get(workload.top) as Buffer), `file ${name}`);
  for (const one of snapshots) {
    const cow = readFileSync(files.file(`${one.name}-cow`));
    t.ok(contentOf(cow, origin).equals(workload.contents.get(one.name) as Buffer), one.name);
    const store = readCow(cow);
    t.match(store, { valid: true, chunkSectors: one.chunkSectors });
    t.comment(`${one.name}: ${store.exceptions.length} exceptions, ${store.areas} areas`);
    // The areas' own chunks and the header's are the only ones besides the data's: nothing leaks.
    t.equal(store.usedChunks - store.exceptions.length, 1 + usedAreas(store.usedChunks, one));
    const status = answerTo(said, `status ${one.name}`);
    t.equal(status, `0 ${sectors} snapshot ${usageOf(cow)}`, `status of ${one.name}`);
  }
}

/** Areas that lie before a chunk. */
function usedAreas(chunk: number, { chunkSectors }: { chunkSectors: number }): number {
  return Math.ceil((chunk - 1) / (chunkSectors * 32 + 1));
}

async function relay(t: Test, engine: EngineName, type: 'P' | 'PO'): Promise<void> {
  const seed = chooseSeed(t);
  const files = new Scratch(t);
  const groups = [kernelMade, daemonMade].map((specs, group) =>
    specs.map((spec, at) => new Workload(spec, type, (10 * seed + 5 * group + at) * 1000)),
  );
  const [a, b] = groups as [Workload[], Workload[]];
  const disks = [...a, ...b].flatMap((workload) => makeDisks(files, workload, seed));
  const kernel = new KernelSide(t, disks);
  const daemon = new DaemonSide(t, engine, disks);
  const left = new Map<Workload, string[]>();
  const all = [...a, ...b];
  // In one of the middle turns every chunk is written, so that areas are full.
  const [daemonFills, kernelFills] = [type === 'P', type === 'PO'];
  await turn(t, { side: kernel, workloads: a, cut: true }, files, left);
  await turn(
    t,
    { side: daemon, workloads: all, fills: daemonFills, cut: kernelFills },
    files,
    left,
  );
  await turn(
    t,
    { side: kernel, workloads: all, fills: kernelFills, cut: daemonFills },
    files,
    left,
  );
  await turn(t, { side: daemon, workloads: all }, files, left);
}

for (const type of ['P', 'PO'] as const) {
  eachEngine(t, `${type} stores, to and fro`, [...kernelPrograms, 'nbdcopy'], (t, engine) =>
    relay(t, engine, type),
  );
}
