/**
 * The power goes while many clients write to an origin. Which of the writes have reached it nobody
 * knows, but no snapshot may show any of them: a chunk is copied, and its exception written, before
 * the origin is. The other side activates what is left and must find the snapshots as they were.
 */

import { readFileSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { type EngineName, eachEngine, Scratch } from '../interop/harness.js';
import { contentOf, fullCowSectors, readCow } from './cow-format.js';
import { DaemonSide } from './daemon-side.js';
import { KernelSide } from './kernel-side.js';
import { answerTo, digestOf, SECTOR, type Side } from './steps.js';
import { type Disk, kernelPrograms } from './uml.js';
import { chooseSeed, Workload } from './workload.js';

const sectors = 6007;
const snapshots = [1, 8, 32].map((chunkSectors) => ({ name: `s${chunkSectors}`, chunkSectors }));

function makeDisks(files: Scratch, { top, contents }: Workload): Disk[] {
  writeFileSync(files.file('origin'), contents.get(top) as Buffer);
  const cows = snapshots.map(({ name, chunkSectors }) => {
    const bytes = fullCowSectors(sectors, chunkSectors) * SECTOR;
    return { name: `${name}-cow`, path: files.sparse(`${name}-cow`, bytes) };
  });
  return [{ name: 'origin', path: files.file('origin') }, ...cows];
}

async function crash(t: Test, from: SideMaker, to: SideMaker): Promise<void> {
  const seed = chooseSeed(t);
  const files = new Scratch(t);
  const workload = new Workload({ name: 'origin', sectors, snapshots }, 'P', seed * 1000);
  const disks = makeDisks(files, workload);
  const script = [...workload.activate(), ...workload.writes(10), 'together'];
  // What the snapshots hold now they must hold for good.
  const wanted = snapshots.map(({ name }) => workload.contents.get(name) as Buffer);
  script.push(...workload.writesApart(160, workload.top, workload.top), 'poweroff');
  await from(disks).run(script);

  const origin = readFileSync(files.file('origin'));
  for (const [at, { name }] of snapshots.entries()) {
    const cow = readFileSync(files.file(`${name}-cow`));
    t.comment(`${name}: ${readCow(cow).exceptions.length} exceptions`);
    t.ok(contentOf(cow, origin).equals(wanted[at] as Buffer), `files of ${name}`);
  }
  const transcript = await to(disks).run([...workload.activate(), ...workload.look()]);
  for (const [at, { name }] of snapshots.entries()) {
    t.equal(answerTo(transcript, `read ${name}`), digestOf(wanted[at] as Buffer), name);
  }
}

type SideMaker = (disks: readonly Disk[]) => Side;

eachEngine(t, 'crashes', [...kernelPrograms, 'nbdcopy'], async (t, engine: EngineName) => {
  const kernel: SideMaker = (disks) => new KernelSide(t, disks);
  const daemon: SideMaker = (disks) => new DaemonSide(t, engine, disks);
  await t.test('the kernel crashes, mapperd finds it', (t) => crash(t, kernel, daemon));
  await t.test('mapperd crashes, the kernel finds it', (t) => crash(t, daemon, kernel));
});
