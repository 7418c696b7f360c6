/**
 * Layouts of region tables, the same for the same seed. Ramsay's is that of his figures on dm-devel:
 * of 1,572,864 regions half are in runs of 1, a fifth in runs of 2, and a tenth each in runs of 5,
 * 10 and 20, which makes 998,768 runs.
 */

import type { RegionUpload } from '../../src/queue/commands.js';
import { entryBits } from '../../src/target/switch/region-table.js';
import { packEntries } from '../../src/target/switch/upload-format.js';

export const ramsayRegions = 1_572_864;
const shares = [
  { length: 1, part: 0.5 },
  { length: 2, part: 0.2 },
  { length: 5, part: 0.1 },
  { length: 10, part: 0.1 },
  { length: 20, part: 0.1 },
];

/** Numbers of 32 bits that look random (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
}

/** The path of each region: the runs in random order, neighbours on different paths. */
export function ramsayLayout(paths: number, seed: number): Uint16Array {
  const random = seeded(seed);
  const runs = ramsayRuns();
  for (let at = runs.length - 1; at > 0; at--) {
    const other = random() % (at + 1);
    [runs[at], runs[other]] = [runs[other] as number, runs[at] as number];
  }
  const layout = new Uint16Array(ramsayRegions);
  let region = 0;
  let path = random() % paths;
  for (const length of runs) {
    layout.fill(path, region, region + length);
    region += length;
    path = (path + 1 + (random() % (paths - 1))) % paths;
  }
  return layout;
}

/** Lengths, which make up the table; the last one takes what rounding has left over. */
function ramsayRuns(): Uint8Array {
  const counts = shares.map(({ length, part }) => Math.round((ramsayRegions * part) / length));
  const runs = new Uint8Array(counts.reduce((sum, count) => sum + count, 0));
  let at = 0;
  let left = ramsayRegions;
  for (const [index, { length }] of shares.entries()) {
    const count = counts[index] as number;
    runs.fill(length, at, at + count);
    at += count;
    left -= count * length;
  }
  runs[runs.length - 1] = (runs.at(-1) as number) + left;
  return runs;
}

/** Each region on a path of its own choice. */
export function randomLayout(regions: number, paths: number, seed: number): Uint16Array {
  const random = seeded(seed);
  return Uint16Array.from({ length: regions }, () => random() % paths);
}

/** As a whole table. */
export function tableOf(layout: Uint16Array, paths: number, regionSectors: number): RegionUpload {
  const bits = entryBits(paths);
  const regions = layout.length;
  const about = { whole: true, regions, regionSectors, paths, bits, first: 0, count: regions };
  return { ...about, slots: packEntries(layout, bits) };
}
