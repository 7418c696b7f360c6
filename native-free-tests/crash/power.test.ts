/**
 * Power cuts. All that a device writes goes through a log-writes target, on a real daemon and its
 * engines; afterwards the disk is made again as it may have been at every moment of the log, and
 * must hold what was promised: what was flushed, and snapshots of the moment they were taken.
 *
 *   vol     snapshot-origin dm:real       snap   snapshot dm:real dm:cow P
 *   real    linear dm:disk 0              cow    linear dm:disk behind it
 *   disk    log-writes disk.img disk.log
 */

import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { random as randomFrom } from '../contract/pattern.js';
import {
  type Daemon,
  type EngineName,
  eachEngine,
  Scratch,
  withDaemon,
} from '../interop/harness.js';
import { requires, succeed } from '../interop/programs.js';
import { KernelSide } from '../oracle/kernel-side.js';
import { type Disk, kernelPrograms } from '../oracle/uml.js';
import { readCow } from '../snapshot/cow-image.js';
import { Journal, sectorBytes } from './journal.js';
import { Load } from './load.js';
import { Replay } from './replay.js';
import { countSeals, cutsOf } from './states.js';
import { told, withLog } from './write-log.js';

const sectors = 1024;
const bytes = sectors * sectorBytes;
const chunkSectors = 8;
const chunkBytes = chunkSectors * sectorBytes;
/** Room for all chunks, and their metadata. */
const cowSectors = sectors + 64;
const diskSectors = sectors + cowSectors;
const logBytes = 2 ** 30;
const endMark = 'dm-log-writes-end';

/** States that are looked at more closely, by the daemon and by the kernel. */
const closer = 3;

/** A device, all its writes logged, and what was on it at the marks. */
class Bench {
  readonly files: Scratch;
  readonly daemon: Daemon;
  readonly random: (limit: number) => number;
  readonly seed = Date.now() % 2 ** 31;

  constructor(t: Test, files: Scratch, daemon: Daemon) {
    this.files = files;
    this.daemon = daemon;
    this.random = randomFrom(this.seed);
    t.comment(`seed ${this.seed}`);
  }

  create(name: string, table: string): Promise<unknown> {
    return this.daemon.call('create', { name, table });
  }

  /** "disk", logged. */
  async logged(diskSectors: number): Promise<void> {
    const image = this.files.sparse('disk.img', diskSectors * sectorBytes);
    const log = this.files.sparse('disk.log', logBytes);
    await this.create('disk', `0 ${diskSectors} log-writes ${image} ${log}`);
  }

  /** "vol" over a part of it, and room for a COW. */
  async volume(): Promise<void> {
    await this.logged(diskSectors);
    await this.create('real', `0 ${sectors} linear dm:disk 0`);
    await this.create('cow', `0 ${cowSectors} linear dm:disk ${sectors}`);
    await this.create('vol', `0 ${sectors} snapshot-origin dm:real`);
  }

  async mark(name: string): Promise<void> {
    await this.daemon.call('message', { name: 'disk', sector: 0, words: ['mark', name] });
  }

  /** Writes until so many are answered, then takes the answers that are missing. */
  async write(name: string, journal: Journal, wanted: number): Promise<void> {
    const load = await Load.start(this.daemon.socket, name, journal, this.random);
    while (load.answered < wanted) {
      await Promise.race([sleep(1), load.ended]);
    }
    await load.stop();
    await this.daemon.untilUnused(name);
  }

  /** "snap" of "vol" as it is now; what that is. */
  async take(): Promise<Buffer> {
    const { daemon } = this;
    await daemon.call('suspend', { name: 'vol' });
    const content = this.files.read('disk.img', 0, bytes);
    await this.create('snap', `0 ${sectors} snapshot dm:real dm:cow P ${chunkSectors}`);
    await daemon.call('resume', { name: 'vol' });
    return content;
  }
}

/** The disk's two parts. */
function parts(disk: Buffer): [origin: Buffer, cow: Buffer] {
  return [disk.subarray(0, bytes), disk.subarray(bytes)];
}

/** What a snapshot, or a volume under a merge, shows of that disk. */
function shown(disk: Buffer): Buffer {
  const [origin, cow] = parts(disk);
  const content = Buffer.from(origin);
  // The header of a new store need not be on the medium before the first exception is.
  if (cow.readUInt32LE(0) === 0) return content;
  const { valid, exceptions } = readCow(cow);
  if (!valid) throw new Error('the store is marked invalid');
  for (const [oldChunk, newChunk] of exceptions) {
    cow.copy(content, oldChunk * chunkBytes, newChunk * chunkBytes, (newChunk + 1) * chunkBytes);
  }
  return content;
}

function compare(found: Buffer, wanted: Buffer, when: string): void {
  if (found.equals(wanted)) return;
  const at = wanted.findIndex((byte, i) => found[i] !== byte);
  const sector = Math.floor(at / sectorBytes);
  const [is, should] = [found, wanted].map((disk) => disk.readUInt32LE(sector * sectorBytes));
  throw new Error(`${when}: sector ${sector} holds write ${is}, wanted ${should}`);
}

/** Looks at the disk after each record from that mark on; some of those states are returned. */
function eachState(
  bench: Bench,
  mark: string,
  body: (state: Buffer, when: string) => void,
): { count: number; some: Buffer[] } {
  const { files, random } = bench;
  return withLog(files.file('disk.log'), (log) => {
    const replay = new Replay(log, diskSectors * sectorBytes);
    replay.toMark(mark);
    const some: Buffer[] = [];
    let count = 0;
    for (let record = replay.step(); record !== null; record = replay.step()) {
      count++;
      const state = replay.cut(random);
      body(state, `record ${count}, ${told(record)}`);
      if (random(count) < closer) some[some.length < closer ? some.length : random(closer)] = state;
    }
    return { count, some };
  });
}

async function plain(t: Test, engine: EngineName): Promise<void> {
  const files = new Scratch(t);
  const journal = new Journal(sectors);
  /** What may be there from a mark on: what was flushed before it, or what began since. */
  const marked: Journal[] = [];
  let random!: (limit: number) => number;
  await withDaemon(t, { engine }, async (daemon) => {
    const bench = new Bench(t, files, daemon);
    random = bench.random;
    await bench.logged(sectors);
    for (let i = 0; i < 4; i++) {
      await bench.write('disk', journal, 100);
      await daemon.call('suspend', { name: 'disk' });
      await daemon.call('resume', { name: 'disk' });
      await bench.mark(`${i}`);
      const since = journal.fork();
      marked.push(since);
      journal.followers.clear();
      journal.followers.add(since);
    }
    await bench.write('disk', journal, 100);
  });
  withLog(files.file('disk.log'), (log) => {
    const cuts = { bytes, from: '0', most: 1000, pieceBytes: sectorBytes, random };
    let count = 0;
    for (const { disk, mark, when } of cutsOf(log, cuts)) {
      count++;
      const since = marked[mark === endMark ? marked.length - 1 : Number(mark)] as Journal;
      try {
        since.fork().check(disk);
      } catch (error) {
        throw new Error(`${when}, behind mark "${mark}": ${(error as Error).message}`);
      }
    }
    const all = countSeals(log, '0');
    t.equal(count, Math.min(all, 1000));
    t.comment(`counted: ${count} of ${all} power cuts, plain, ${engine}`);
    t.ok(count > 20, `what was flushed is there, at ${count} of ${all} flush and FUA marks`);
    const replay = new Replay(log, bytes);
    replay.toMark(endMark);
    t.ok(replay.whole().equals(readFileSync(files.file('disk.img'))), 'and all at the end');
    t.equal(replay.step(), null);
  });
}

eachEngine(t, 'what is flushed', [], plain);

eachEngine(t, 'fio with fsync', ['fio'], async (t, engine) => {
  const files = new Scratch(t);
  await withDaemon(t, { engine }, async (daemon) => {
    const bench = new Bench(t, files, daemon);
    await bench.logged(8192);
    const how = ['--rw=randwrite', '--bsrange=512-64k', '--fsync=8', '--verify=crc32c'];
    const size = ['--size=4m', '--iodepth=16', '--verify_state_save=0'];
    const job = ['--name=job', '--ioengine=nbd', `--uri=${daemon.uri('disk')}`];
    await succeed('fio', [...job, ...how, ...size]);
  });
  withLog(files.file('disk.log'), (log) => {
    const flushes = log.records.filter((record) => told(record) === 'flush').length;
    t.ok(flushes > 20, `${flushes} flushes are in the log`);
    const replay = new Replay(log, 8192 * sectorBytes);
    replay.toMark(endMark);
    t.ok(replay.whole().equals(readFileSync(files.file('disk.img'))), 'the disk is made again');
  });
});

/** The daemon, and the kernel, open some of the states. */
async function lookCloser(
  t: Test,
  engine: EngineName,
  states: readonly Buffer[],
  wanted: Buffer,
): Promise<void> {
  const files = new Scratch(t);
  const disks = states.flatMap((state, i): Disk[] =>
    parts(state).map((part, kind) => {
      const name = `${kind === 0 ? 'origin' : 'cow'}${i}`;
      writeFileSync(files.file(name), part);
      return { name, path: files.file(name) };
    }),
  );
  const table = (origin: string, cow: string): string =>
    `0 ${sectors} snapshot ${origin} ${cow} P ${chunkSectors}`;
  await withDaemon(t, { engine }, async (daemon) => {
    for (const i of states.keys()) {
      const name = `snap${i}`;
      const made = table(files.file(`origin${i}`), files.file(`cow${i}`));
      await daemon.call('create', { name, table: made });
      await succeed('nbdcopy', [daemon.uri(name), files.file(`copy${i}`)]);
      compare(readFileSync(files.file(`copy${i}`)), wanted, `state ${i} in a new daemon`);
    }
    t.pass('a new daemon shows the moment');
  });
  if (engine !== 'uring' || requires(...kernelPrograms) !== false) return;
  const steps = states.flatMap((_, i) => [
    `create snap${i} ${table(`@origin${i}`, `@cow${i}`)}`,
    `read snap${i}`,
  ]);
  const digest = createHash('sha256').update(wanted).digest('hex').slice(0, 32);
  const answers = await new KernelSide(t, disks).run(steps);
  for (const [i, step] of steps.entries()) {
    t.equal(answers[i], `${step} -> ${i % 2 === 0 ? 'ok' : digest}`, `the kernel: ${step}`);
  }
}

eachEngine(t, 'a snapshot while its origin is written', ['nbdcopy'], async (t, engine) => {
  const files = new Scratch(t);
  let bench!: Bench;
  let wanted!: Buffer;
  await withDaemon(t, { engine }, async (daemon) => {
    bench = new Bench(t, files, daemon);
    await bench.volume();
    const journal = new Journal(sectors);
    await bench.write('vol', journal, 100);
    wanted = await bench.take();
    await bench.mark('taken');
    await bench.write('vol', journal, 400);
  });
  const { count, some } = eachState(bench, 'taken', (state, when) =>
    compare(shown(state), wanted, when),
  );
  t.comment(`counted: ${count} power cuts, snapshot, ${engine}`);
  t.ok(count > 400, `it shows the moment it was taken, after each of ${count} writes`);
  await lookCloser(t, engine, some, wanted);
});

eachEngine(t, 'a merge', ['nbdcopy'], async (t, engine) => {
  const files = new Scratch(t);
  let bench!: Bench;
  let wanted!: Buffer;
  const half = bytes / 2;
  await withDaemon(t, { engine }, async (daemon) => {
    bench = new Bench(t, files, daemon);
    await bench.volume();
    await bench.write('vol', new Journal(sectors), 50);
    await bench.take();
    await bench.write('vol', new Journal(sectors), 50);
    await bench.write('snap', new Journal(sectors), 150);
    await daemon.call('suspend', { name: 'vol' });
    await daemon.call('remove', { name: 'snap' });
    wanted = shown(files.read('disk.img', 0, diskSectors * sectorBytes));
    const table = `0 ${sectors} snapshot-merge dm:real dm:cow P ${chunkSectors}`;
    await daemon.call('load', { name: 'vol', table });
    await bench.mark('merging');
    await daemon.call('resume', { name: 'vol' });
    // The first half of the volume stays as it is; the other half is written to, and not compared.
    const upper = `0 ${sectors / 2} linear dm:vol ${sectors / 2}`;
    await bench.create('upper', upper);
    await bench.write('upper', new Journal(sectors / 2), 200);
    for (;;) {
      const [line] = await daemon.call('status', { name: 'vol' });
      const words = line !== undefined && 'words' in line ? line.words : '';
      const [, used, metadata] = /^([0-9]+)\/[0-9]+ ([0-9]+)$/.exec(words) ?? [];
      if (used === undefined) throw new Error(`the merge is ${words}`);
      if (used === metadata) break;
      await sleep(5);
    }
  });
  const lower = (disk: Buffer): Buffer => disk.subarray(0, half);
  const { count } = eachState(bench, 'merging', (state, when) =>
    compare(lower(shown(state)), lower(wanted), when),
  );
  t.comment(`counted: ${count} power cuts, merge, ${engine}`);
  t.ok(count > 100, `the volume is the snapshot, after each of ${count} writes`);
});
