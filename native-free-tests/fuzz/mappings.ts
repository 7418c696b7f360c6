/**
 * The words of `set_region_mappings`, carried out in steps. They are compared with the kernel's way
 * of reading them, in arithmetic of 64 bits.
 */

import { Buffer } from 'node:buffer';
import { type MappedRegions, Mappings } from '../../src/target/switch/mappings.js';
import { mix } from '../simulation/random.js';
import type { Input } from './input.js';
import { damagedText } from './mutate.js';
import { Random } from './random.js';
import { expect, refusalOf, type Subject, type SubjectMaker } from './subject.js';

/** What the kernel makes of the words: the table afterwards, and whether there was a wrong one. */
function carryOut(words: readonly string[], regions: number, paths: number) {
  const table = Array.from({ length: regions }, (_, region) => region % paths);
  const number = (digits: string): bigint => BigInt.asUintN(64, BigInt(`0x${digits}`));
  let cursor = 0n;
  for (const word of words) {
    const run = /^[rR]([0-9a-fA-F]+),([0-9a-fA-F]+)$/.exec(word);
    const one = /^([0-9a-fA-F]*):([0-9a-fA-F]+)$/.exec(word);
    if (run !== null) {
      const cycle = number(run[1] as string);
      const repeats = number(run[2] as string);
      if (cycle === 0n || cycle > cursor + 1n) return { table, wrong: true };
      if (cursor + repeats >= BigInt(regions)) return { table, wrong: true };
      for (let left = repeats; left > 0n; left--) {
        cursor++;
        table[Number(cursor)] = table[Number(cursor - cycle)] as number;
      }
    } else if (one !== null) {
      const region = one[1] === '' ? cursor + 1n : number(one[1] as string);
      const path = number(one[2] as string);
      if (region >= BigInt(regions) || path >= BigInt(paths)) return { table, wrong: true };
      cursor = region;
      table[Number(cursor)] = Number(path);
    } else {
      return { table, wrong: true };
    }
  }
  return { table, wrong: false };
}

/** Carries words out; a test puts something broken in its place. */
export type MakeMappings = (words: readonly string[], table: MappedRegions) => Mappings;

function check(make: MakeMappings, { variant, pieces }: Input): void {
  const random = new Random(mix(variant, 6));
  const regions = random.between(1, 200);
  const paths = random.pick([1, 2, 3, 5, 16, 200]);
  const words = pieces.map((piece) => piece.toString('utf8'));
  const wanted = carryOut(words, regions, paths);
  const found = Array.from({ length: regions }, (_, region) => region % paths);
  const table: MappedRegions = {
    regions,
    paths,
    get(region) {
      expect(region >= 0 && region < regions, `asked for region ${region} of ${regions}`);
      return found[region] as number;
    },
    set(region, path) {
      expect(region >= 0 && region < regions, `region ${region} of ${regions} is set`);
      expect(path >= 0 && path < paths, `path ${path} of ${paths}`);
      // Now and then it is being moved.
      if (random.percent(5)) return false;
      found[region] = path;
      return true;
    },
  };
  const mappings = make(words, table);
  const refusal = refusalOf(() => {
    for (let steps = 0; !mappings.done; steps++) {
      expect(steps < 100_000, 'steps without end');
      mappings.step(random.between(1, 20));
    }
  });
  expect((refusal !== null) === wanted.wrong, () => `refused: ${refusal?.message}`);
  expect(
    found.every((path, region) => path === wanted.table[region]),
    () => {
      return `paths [${found}], wanted [${wanted.table}]`;
    },
  );
}

function anyWord(random: Random): string {
  const hex = (most: number): string => random.below(most).toString(16);
  switch (random.below(10)) {
    case 0:
      return `${random.wide().toString(16)}:${hex(4)}`;
    case 1:
      return `R${random.wide().toString(16)},${random.wide().toString(16)}`;
    case 2:
    case 3:
    case 4:
      return `${random.pick(['R', 'r'])}${hex(6)},${hex(40)}`;
    case 5:
    case 6:
      return `:${hex(3)}`;
    default:
      return `${hex(60)}:${hex(3).padStart(random.below(20), '0')}`;
  }
}

export function mappingsSubject(
  make: MakeMappings = (words, table) => new Mappings(words, 0, table),
): Subject {
  return {
    name: 'mappings',
    generate(random) {
      const words: Buffer[] = [];
      for (let left = random.pick([1, 2, 3, 5, 20]); left > 0; left--) {
        const word = anyWord(random);
        words.push(Buffer.from(random.percent(4) ? damagedText(random, word) : word));
      }
      return { variant: random.bits(), pieces: words };
    },
    check: (input) => check(make, input),
  };
}

export const mappings: SubjectMaker = {
  name: 'mappings',
  share: 40,
  make: () => mappingsSubject(),
};
