/** Region tables: as they are uploaded, and as they are in the state directory. */

import { Buffer } from 'node:buffer';
import { MapperError } from '../../src/base/errors.js';
import { Entries } from '../../src/control/entries.js';
import { Incoming } from '../../src/control/incoming.js';
import { RegionFiles } from '../../src/control/region-files.js';
import type { Store } from '../../src/control/state.js';
import type { RegionsAt } from '../../src/queue/commands.js';
import { RegionTable } from '../../src/target/switch/region-table.js';
import {
  decodeRegions,
  decodeSections,
  encodeRegions,
  type RegionSection,
  unpackEntries,
} from '../../src/target/switch/upload-format.js';
import { FakeQueue } from '../control/fake-queue.js';
import { mix } from '../simulation/random.js';
import type { Input } from './input.js';
import { cutUp } from './mutate.js';
import { Random } from './random.js';
import { anySection, type ReadSection, readSections } from './region-sections.js';
import { expect, reasonedRefusal, refusalOf, type Subject, type SubjectMaker } from './subject.js';

function same({ sector, table }: RegionSection, wanted: ReadSection): void {
  const { slots: _, ...about } = table;
  const { entries, ...right } = wanted;
  for (const [key, value] of Object.entries({ ...about, sector })) {
    const other = right[key as keyof typeof right];
    expect(value === other, `${key} is ${value}, wanted ${other}`);
  }
  const found = unpackEntries(table);
  expect(found.length === entries.length && entries.every((path, at) => found[at] === path), () => {
    return `entries [${found.slice(0, 20)}], wanted [${entries.slice(0, 20)}]`;
  });
}

/** How bytes are taken apart; a test puts something broken in its place. */
export type Decode = (bytes: Uint8Array) => RegionSection[];

function checkUpload(decode: Decode, { variant, pieces }: Input): void {
  const bytes = Buffer.concat(pieces);
  const wanted = readSections(bytes);
  let found: RegionSection[] = [];
  const refusal = refusalOf(() => {
    found = decode(bytes);
  });
  expect((refusal === null) === (wanted !== null), () => `refused: ${refusal?.message}`);
  const one = refusalOf(() => void decodeRegions(bytes));
  expect((one === null) === (wanted?.length === 1), () => `as one table: ${one?.message}`);
  checkFrames(bytes, new Random(mix(variant, 5)));
  if (wanted === null) return;
  for (const [at, section] of found.entries()) same(section, wanted[at] as ReadSection);
  const again = Buffer.concat(found.flatMap(encodeRegions));
  expect(again.equals(bytes), 'other bytes when it is encoded again');
  for (const { table } of found) {
    if (!table.whole) continue;
    const regions = RegionTable.fromUpload(table);
    const first = unpackEntries(table);
    for (let at = 0; at < table.count; at++) {
      expect(regions.get(at) === first[at], `region ${at} is on path ${regions.get(at)}`);
    }
  }
}

/** Frames of any length put together what was announced, and no byte more. */
function checkFrames(bytes: Buffer, random: Random): void {
  if (bytes.length === 0) return;
  const incoming = new Incoming(bytes.length);
  incoming.received.catch(() => {});
  let taken = 0;
  for (const frame of cutUp(random, bytes)) {
    expect(!incoming.complete && incoming.take(frame), `refused a frame behind ${taken} bytes`);
    taken += frame.length;
    expect(incoming.complete === (taken === bytes.length), `complete at ${taken}`);
  }
  expect(!incoming.take(Buffer.alloc(1)), 'took more than was announced');
}

export function uploadSubject(decode: Decode = decodeSections): Subject {
  return {
    name: 'upload',
    generate(random) {
      const pieces: Buffer[] = [];
      for (let left = random.pick([1, 1, 1, 2, 3]); left > 0; left--) {
        pieces.push(...anySection(random));
      }
      if (random.percent(3)) pieces.push(random.bytes(random.between(1, 100)));
      return { variant: random.bits(), pieces };
    },
    check: (input) => checkUpload(decode, input),
  };
}

export const upload: SubjectMaker = { name: 'upload', share: 15, make: () => uploadSubject() };

/** A state directory that has nothing but one file of regions. */
function storeOf(bytes: Uint8Array): Store {
  const never = (): Promise<void> => Promise.reject(new Error('nothing is to be written'));
  return {
    write: never,
    remove: never,
    hasRegions: () => true,
    readRegions: async () => bytes,
    writeRegions: never,
    removeRegions: never,
    rename: never,
  };
}

/** How a file is read; a test puts something broken in its place. */
export type Restore = (bytes: Buffer, table: string) => Promise<RegionsAt[]>;

export const restoredRegions: Restore = (bytes, table) =>
  new RegionFiles(new FakeQueue(), storeOf(bytes), new Entries()).restored('vol0', table);

/** Table text in front, and then the sections of the file. */
async function checkFile(restore: Restore, { pieces }: Input): Promise<void> {
  const [text = Buffer.alloc(0), ...rest] = pieces;
  const table = text.toString('utf8');
  const bytes = Buffer.concat(rest);
  let found: RegionsAt[];
  try {
    found = await restore(bytes, table);
  } catch (error) {
    reasonedRefusal(error);
    const named = error instanceof MapperError && error.message.startsWith('"vol0.regions"');
    expect(named, () => `a refusal that names no file: ${(error as Error).message}`);
    return;
  }
  if (found.length === 0) return;
  const stored = readSections(bytes) ?? [];
  expect(stored.length === found.length, `${found.length} tables, wanted ${stored.length}`);
  for (const [at, { sector, table: fitted }] of found.entries()) {
    const before = stored[at] as ReadSection;
    expect(sector === before.sector && fitted.whole, `a table at sector ${sector}`);
    const { regions, paths, count } = fitted;
    expect(count === regions && regions <= 2 ** 28, `${count} of ${regions} regions`);
    expect(fitted.regionSectors === before.regionSectors, 'regions of another size');
    const now = RegionTable.fromUpload(fitted);
    for (let region = 0; region < Math.min(regions, before.entries.length); region++) {
      const path = before.entries[region] as number;
      const kept = path < paths ? path : region % paths;
      expect(now.get(region) === kept, `region ${region}: path ${now.get(region)}, was ${path}`);
    }
  }
}

function anyFile(random: Random): Buffer[] {
  const lines: string[] = [];
  const sections: Buffer[] = [];
  let sector = 0;
  for (let left = random.pick([1, 1, 1, 2, 3]); left > 0; left--) {
    const paths = random.pick([1, 2, 3, 4, 9]);
    const regionSectors = random.pick([1, 8, 128, 1000]);
    const regions = random.between(1, 200);
    const length = random.percent(90) ? regions * regionSectors : random.edge(44) || 1;
    const words = [`${sector}`, `${length}`, 'switch', `${paths}`, `${regionSectors}`, '0'];
    if (random.percent(8)) {
      words[random.between(0, 5)] = random.pick(['x', '0', '-1', '1e9', '99999999', '']);
    }
    for (let path = 0; path < paths; path++) words.push('/a', '0');
    lines.push(words.join(' '));
    const kept = random.percent(70);
    sections.push(
      ...anySection(random, {
        paths: kept ? paths : random.pick([1, 2, 3, 4]),
        regionSectors: random.percent(90) ? regionSectors : 16,
        regions: kept ? regions : random.between(1, 300),
        sector: random.percent(95) ? sector : random.edge(40),
        whole: random.percent(95),
      }),
    );
    sector += length;
  }
  return [Buffer.from(lines.join('\n')), ...sections];
}

export function regionFileSubject(restore: Restore = restoredRegions): Subject {
  return {
    name: 'region-file',
    generate: (random) => ({ variant: random.bits(), pieces: anyFile(random) }),
    check: (input) => checkFile(restore, input),
  };
}

export const regionFile: SubjectMaker = {
  name: 'region-file',
  share: 6,
  make: () => regionFileSubject(),
};
