/**
 * What one side leaves behind in a store that has come to an end of some kind, the other finds:
 * invalid, overflowed, full to the last chunk, empty, grown. Both do the same with the other's
 * files, so that their transcripts are the same.
 */

import { truncateSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { type EngineName, eachEngine, Scratch } from '../interop/harness.js';
import { DaemonSide } from './daemon-side.js';
import { KernelSide } from './kernel-side.js';
import { answerTo, fillStream, SECTOR, withoutTexts } from './steps.js';
import { type Disk, kernelPrograms } from './uml.js';

interface Store {
  readonly name: string;
  readonly words: string;
  readonly cowSectors: number;
  /** What is done to it by the side that makes it; `%` stands for the device. */
  readonly writes: readonly string[];
  /** The COW's length when the other side gets it. */
  readonly grownSectors?: number;
}

const stores: readonly Store[] = [
  { name: 'empty', words: 'P 8', cowSectors: 200, writes: [] },
  {
    name: 'invalid',
    words: 'P 8',
    cowSectors: 24,
    writes: ['write % 0 8 1', 'write % 8 8 2'],
  },
  {
    name: 'overflowed',
    words: 'PO 8',
    cowSectors: 32,
    writes: ['write % 0 16 1', 'write % 16 8 2', 'write % 0 8 3'],
  },
  {
    name: 'full',
    words: 'PO 1',
    cowSectors: 35,
    writes: ['write % 0 31 1', 'write % 31 1 2'],
  },
  {
    name: 'grown',
    words: 'P 4',
    cowSectors: 16,
    writes: ['write % 50 8 1'],
    grownSectors: 49,
  },
];

/** The next area does not fit: only we leave the store as it was. */
const tight: Store = {
  name: 'tight',
  words: 'PO 1',
  cowSectors: 34,
  writes: ['write % 0 31 1', 'write % 31 1 2'],
};

const create = (maker: string, { name, words }: Store): string =>
  `create ${maker}-${name} 0 100 snapshot @${maker}-origin @${maker}-${name}-cow ${words}`;

const look = (device: string): string[] => [
  `table ${device}`,
  `status ${device}`,
  `read ${device}`,
];

/** Makes the stores. */
function leave(maker: string, all: readonly Store[]): string[] {
  return all.flatMap((store) => {
    const device = `${maker}-${store.name}`;
    const writes = store.writes.map((line) => line.replace('%', device));
    return [create(maker, store), ...writes, ...look(device), `remove ${device}`];
  });
}

/** Takes them as they are, and writes to chunks that have an exception and to one that has none. */
function find(maker: string, all: readonly Store[]): string[] {
  return all.flatMap((store) => {
    const device = `${maker}-${store.name}`;
    return [
      create(maker, store),
      ...look(device),
      `write ${device} 0 8 7`,
      `write ${device} 53 2 8`,
      `write ${device} 90 1 9`,
      ...look(device),
      `remove ${device}`,
    ];
  });
}

function makeDisks(files: Scratch, maker: string, all: readonly Store[]): Disk[] {
  const origin = `${maker}-origin`;
  writeFileSync(files.file(origin), fillStream(Buffer.alloc(100 * SECTOR), 0, 5));
  const cows = all.map(({ name, cowSectors }) => {
    const disk = `${maker}-${name}-cow`;
    return { name: disk, path: files.sparse(disk, cowSectors * SECTOR) };
  });
  return [{ name: origin, path: files.file(origin) }, ...cows];
}

function growDisks(files: Scratch, maker: string): void {
  for (const { name, grownSectors } of stores) {
    if (grownSectors === undefined) continue;
    truncateSync(files.file(`${maker}-${name}-cow`), grownSectors * SECTOR);
  }
}

/** The transcript as if the kernel had made everything. */
function comparable(transcript: readonly string[]): string[] {
  return withoutTexts(transcript.map((line) => line.replaceAll('mapperd-', 'kernel-')));
}

async function exchange(t: Test, engine: EngineName): Promise<void> {
  const files = new Scratch(t);
  const ours = makeDisks(files, 'mapperd', [...stores, tight]);
  const theirs = makeDisks(files, 'kernel', stores);
  const daemon = new DaemonSide(t, engine, [...ours, ...theirs]);
  const kernel = new KernelSide(t, [...ours, ...theirs]);

  const ourTight = await daemon.run(leave('mapperd', [tight]));
  const weLeft = await daemon.run(leave('mapperd', stores));
  growDisks(files, 'mapperd');
  const kernelRun = await kernel.run([
    ...find('mapperd', stores),
    ...leave('kernel', stores),
    create('mapperd', tight),
    ...look('mapperd-tight'),
    'remove mapperd-tight',
  ]);
  growDisks(files, 'kernel');
  const weFound = await daemon.run(find('kernel', stores));

  const foundLines = find('mapperd', stores).length;
  const kernelFound = kernelRun.slice(0, foundLines);
  const kernelLeft = kernelRun.slice(foundLines, foundLines + weLeft.length);
  t.strictSame(comparable(weLeft), comparable(kernelLeft), 'we leave what the kernel leaves');
  t.strictSame(comparable(weFound), comparable(kernelFound), 'we find what the kernel finds');
  t.equal(answerTo(ourTight, 'status mapperd-tight'), '0 100 snapshot Overflow');
  t.equal(answerTo(kernelRun, 'status mapperd-tight'), '0 100 snapshot 33/34 2');
  const read = 'read mapperd-tight';
  t.equal(answerTo(kernelRun, read), answerTo(ourTight, read), 'nothing of it is lost');
}

eachEngine(t, 'stores that are found', [...kernelPrograms, 'nbdcopy'], exchange);
