/**
 * The checks of the crash tests, checked: what they are there to notice is done on purpose, and
 * they must say so; what a crash may leave, they must not mind.
 */

import { writeFileSync } from 'node:fs';
import t from 'tap';
import { encodeRegions, packEntries } from '../../src/target/switch/upload-format.js';
import { random as randomFrom } from '../contract/pattern.js';
import { Scratch } from '../interop/harness.js';
import { requires } from '../interop/programs.js';
import { Journal, sectorBytes } from './journal.js';
import { Chain, findEngines } from './kill.js';
import { plain } from './kill-scenarios.js';
import { readRegionFile } from './region-file.js';
import { Replay } from './replay.js';
import { countSeals, cutsOf } from './states.js';
import { flag, WriteLogFile } from './write-log.js';

const sectors = 64;

/** A journal, and a disk that does what it is told. */
class Disk {
  readonly journal = new Journal(sectors);
  readonly bytes = Buffer.alloc(sectors * sectorBytes);

  begin(first: number, count: number, zeroes = false) {
    const written = this.journal.begin(first, count, zeroes);
    return {
      written,
      data: zeroes ? Buffer.alloc(count * sectorBytes) : this.journal.data(written),
    };
  }

  /** Returns what was written. */
  write(first: number, count: number): Buffer {
    const { written, data } = this.begin(first, count);
    data.copy(this.bytes, first * sectorBytes);
    this.journal.answered(written);
    return data;
  }

  check(): void {
    this.journal.check(this.bytes);
  }
}

t.test('the journal takes what a crash may leave', (t) => {
  const disk = new Disk();
  disk.write(0, 8);
  disk.check();
  const { data } = disk.begin(4, 8);
  t.equal(disk.journal.uncertain, 8);
  // Of a write that was under way, some sectors are there.
  data.copy(disk.bytes, 6 * sectorBytes, 2 * sectorBytes, 5 * sectorBytes);
  disk.check();
  t.equal(disk.journal.uncertain, 0, 'and from then on knows what is there');
  disk.bytes.fill(0, 6 * sectorBytes, 7 * sectorBytes);
  t.throws(() => disk.check(), /^sector 6 holds write 0 of sector 0, wanted [0-9]+$/);
  t.end();
});

t.test('the journal notices what is lost, old, misplaced, torn or damaged', (t) => {
  const faults: Record<string, (disk: Disk, old: Buffer) => unknown> = {
    lost: ({ bytes }) => bytes.fill(0, 12 * sectorBytes, 13 * sectorBytes),
    old: ({ bytes }, old) => old.copy(bytes, 8 * sectorBytes, 0, sectorBytes),
    misplaced: ({ bytes }) => bytes.copyWithin(20 * sectorBytes, 8 * sectorBytes, 9 * sectorBytes),
    torn: ({ bytes }, old) => old.copy(bytes, 8 * sectorBytes + 256, 256, sectorBytes),
    damaged: ({ bytes }) => bytes.fill(1, 16 * sectorBytes - 1, 16 * sectorBytes),
    'where nothing was written': ({ bytes }) => bytes.fill(1, 20_580, 20_581),
  };
  for (const [name, spoil] of Object.entries(faults)) {
    const disk = new Disk();
    const old = disk.write(8, 8);
    disk.write(8, 8);
    disk.check();
    spoil(disk, old);
    t.throws(() => disk.check(), /^sector [0-9]+ holds write /, name);
  }
  const disk = new Disk();
  const short = disk.bytes.subarray(sectorBytes);
  t.throws(() => disk.journal.check(short), /^the disk has 32256 bytes, wanted 32768$/);
  t.end();
});

t.test('what began beside a snapshot may be in it or not, what came before must be', (t) => {
  const disk = new Disk();
  disk.write(0, 4);
  const snapshot = disk.journal.fork();
  disk.journal.followers.add(snapshot);
  disk.write(2, 4);
  disk.journal.followers.clear();
  const asTaken = Buffer.from(disk.bytes);
  disk.write(0, 1);
  snapshot.fork().check(asTaken);
  asTaken.fill(0, 4 * sectorBytes, 5 * sectorBytes);
  snapshot.fork().check(asTaken);
  t.throws(() => snapshot.fork().check(disk.bytes), /^sector 0 holds/, 'nor what came behind');
  asTaken.fill(0, 0, sectorBytes);
  t.throws(() => snapshot.check(asTaken), /^sector 0 holds write 0/);
  t.end();
});

/** A log of one-sector writes: the sector, its byte, and flags; or a mark's name. */
function logOf(...entries: (readonly [sector: number, fill: number, flags: bigint] | string)[]) {
  const head = Buffer.alloc(sectorBytes);
  head.writeBigUInt64LE(0x6a736677736872n);
  head.writeBigUInt64LE(1n, 8);
  head.writeBigUInt64LE(BigInt(entries.length), 16);
  head.writeUInt32LE(sectorBytes, 24);
  const parts = [head];
  for (const entry of entries) {
    const header = Buffer.alloc(sectorBytes);
    parts.push(header);
    if (typeof entry === 'string') {
      header.writeBigUInt64LE(flag.mark, 16);
      header.writeBigUInt64LE(BigInt(entry.length), 24);
      header.write(entry, 32);
      continue;
    }
    const [sector, fill, flags] = entry;
    const hasData = fill !== 0;
    header.writeBigUInt64LE(BigInt(sector));
    header.writeBigUInt64LE(hasData ? 1n : 0n, 8);
    header.writeBigUInt64LE(flags, 16);
    if (hasData) parts.push(Buffer.alloc(sectorBytes, fill));
  }
  const all = Buffer.concat(parts);
  return new WriteLogFile((at, length) => all.subarray(at, at + length));
}

t.test('a power cut loses what was not flushed, sometimes, and never what was', (t) => {
  const log = logOf([0, 1, 0n], [0, 0, flag.flush], [1, 2, 0n], [2, 3, flag.fua], [3, 4, 0n]);
  const random = randomFrom(7);
  const seen = new Set<string>();
  for (let i = 0; i < 200; i++) {
    const replay = new Replay(log, 4 * sectorBytes);
    while (replay.step() !== null);
    const disk = replay.cut(random);
    seen.add([0, 1, 2, 3].map((sector) => disk[sector * sectorBytes]).join());
  }
  t.same([...seen].sort(), ['1,0,3,0', '1,0,3,4', '1,2,3,0', '1,2,3,4']);
  t.end();
});

t.test('the power is cut at every flush and FUA mark, or evenly at so many', (t) => {
  const sealed = Array.from({ length: 30 }, (_, i) => [
    [i, i + 1, 0n] as const,
    [0, 0, flag.flush] as const,
  ]).flat();
  const log = logOf(
    [31, 31, flag.fua],
    'begin',
    ...sealed.slice(0, 20),
    'half',
    ...sealed.slice(20),
  );
  t.equal(countSeals(log, 'begin'), 30);
  const options = { bytes: 32 * sectorBytes, from: 'begin', pieceBytes: sectorBytes };
  const cuts = (most: number) => [...cutsOf(log, { ...options, most, random: randomFrom(3) })];
  const all = cuts(100);
  t.equal(all.length, 30);
  for (const [i, { disk, mark }] of all.entries()) {
    t.equal(disk[i * sectorBytes], i + 1, 'what was flushed is there');
    t.equal(disk[31 * sectorBytes], 31, 'and what was there before');
    t.equal(mark, i < 9 ? 'begin' : i > 9 ? 'half' : mark, 'the mark is the latest');
  }
  const some = cuts(10).map(({ when }) => Number(/FUA ([0-9]+) of 30/.exec(when)?.[1]));
  t.same(some, [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]);
  t.end();
});

t.test('a region table that is not whole is none', (t) => {
  const entries = [2, 0, 1, 1, 0];
  const about = {
    whole: true,
    regions: 5,
    regionSectors: 8,
    paths: 3,
    bits: 2,
    first: 0,
    count: 5,
  };
  const table = { ...about, slots: packEntries(entries, 2) };
  const file = (): Buffer => Buffer.concat(encodeRegions({ sector: 0, table }));
  t.same(readRegionFile(file()), entries);
  const spoilt = (at: number): Buffer => {
    const bytes = file();
    bytes[at] = (bytes[at] as number) ^ 1;
    return bytes;
  };
  t.throws(() => readRegionFile(spoilt(0)), /^no region table: magic "lapregns"/);
  t.throws(() => readRegionFile(spoilt(64)), /^the slots are not as they were$/);
  t.throws(() => readRegionFile(spoilt(20)), /^the header is not as it was$/);
  t.throws(() => readRegionFile(file().subarray(0, 64)), /^0 bytes of slots, wanted 8$/);
  t.end();
});

t.test(
  'a daemon that had lost something would be found',
  { skip: requires('nbdcopy', 'fio') },
  async (t) => {
    const engines = await findEngines();
    const chain = (file: string, bytes: number) => {
      const tamper = (files: Scratch): void => {
        writeFileSync(files.file(file), Buffer.alloc(bytes, 0xa5));
      };
      return new Chain(
        { files: new Scratch(t), seed: 11, engines, rounds: 2, tamper },
        plain,
      ).run();
    };
    await t.rejects(chain('plain.img', 2 ** 20), {
      message: /^plain, round 1 of 2, CRASH_SEED=11, .*: sector 0 holds write [0-9]+/,
    });
    await t.rejects(chain('fio.img', 2 ** 24), { message: /fio does not find what it wrote/ });
  },
);
