/**
 * The kernel's dm-switch and ours are told the same: tables, messages good and bad, writes. They
 * refuse the same for the same reasons, print the same tables, and every sector that is written is
 * on the same path at the same place.
 */

import { readFileSync } from 'node:fs';
import t from 'tap';
import { MapperError } from '../../src/base/errors.js';
import { WRITE } from '../../src/device/io.js';
import { findTarget } from '../../src/target/registry.js';
import { random } from '../contract/pattern.js';
import { World } from '../device/world.js';
import { Scratch } from '../interop/harness.js';
import { requires } from '../interop/programs.js';
import { fillStream } from './steps.js';
import { askKernel, type SwitchStep } from './switch-guest.js';
import { kernelPrograms } from './uml.js';

/** Another one each time; the name of the test has it. */
const { SEED = `${Date.now() % 1_000_000}` } = process.env;
const seed = Number(SEED);
const next = random(seed);
const diskCount = 4;
const diskSectors = 262_144;
const rounds = 16;

function pick<T>(all: readonly T[]): T {
  return all[next(all.length)] as T;
}

/** Words of a message; now and then one that is wrong in some way. */
function words(regions: number, paths: number): string[] {
  const hex = (limit: number): string => {
    const text = next(limit).toString(16);
    return next(4) === 0 ? text.toUpperCase().padStart(6, '0') : text;
  };
  return Array.from({ length: 1 + next(25) }, () => {
    const kind = next(60);
    if (kind < 20) return `${hex(regions)}:${hex(paths)}`;
    if (kind < 40) return `:${hex(paths)}`;
    if (kind < 57) return `${pick(['R', 'r'])}${1 + next(3)},${hex(Math.min(12, regions))}`;
    return pick([
      `${regions.toString(16)}:0`,
      `0:${paths.toString(16)}`,
      `R1,${regions.toString(16)}`,
      'R0,1',
      'Rffff,1',
      'R1',
      'R1,',
      'R,1',
      'R',
      '1:',
      ':',
      '1',
      'x:1',
      '0x1:0',
      '1:0,2',
      '10000000000000000:0',
      '0:10000000000000000',
      'ffffffffffffffff:0',
      'R1,ffffffffffffffff',
      'R10000000000000001,1',
      '+1:0',
    ]);
  });
}

/** One device after another, each on its own part of the disks. */
function script(): SwitchStep[] {
  const steps: SwitchStep[] = [['version', 'switch']];
  let free = 0;
  for (let round = 0; round < rounds; round++) {
    const name = `s${round}`;
    const paths = pick([1, 2, 3, 4, 5, 7, 9, 16, 17, 33, 70, 130]);
    const region = pick([1, 2, 3, 7, 8, 13, 64, 1000]);
    const sectors = 20 + next(400);
    const regions = Math.ceil(sectors / region);
    const places = Array.from({ length: paths }, (_, path) => {
      const start = free + Math.floor(path / diskCount) * sectors;
      return `@d${path % diskCount} ${start}`;
    });
    free += Math.ceil(paths / diskCount) * sectors;
    steps.push(['create', name, `0 ${sectors} switch ${paths} ${region} 0 ${places.join(' ')}`]);
    steps.push(['write', name, '0', `${sectors}`, `${round}`]);
    for (let i = 0; i < 6; i++) {
      const verb = pick(['set_region_mappings', 'set_region_mappings', 'SET_Region_mappings']);
      steps.push(['message', name, verb, ...(i === 0 ? [] : words(regions, paths))]);
      const sector = next(sectors);
      const count = 1 + next(Math.min(40, sectors - sector));
      steps.push(['write', name, `${sector}`, `${count}`, `${1000 + round * 10 + i}`]);
    }
    steps.push(['message', name, 'set_region_mapping', '0:0'], ['message', name, 'x']);
    steps.push(['table', name], ['status', name], ['remove', name]);
  }
  if (free > diskSectors) throw new Error(`the disks have too few sectors, wanted ${free}`);
  for (const [i, table] of refused.entries()) steps.push(['create', `r${i}`, table]);
  return steps;
}

const refused: readonly string[] = [
  '0 100 switch',
  '0 100 switch 0 8 0',
  '0 100 switch x 8 0',
  '0 100 switch 1',
  '0 100 switch 1 0 0 @d0 0',
  '0 100 switch 1 4294967296 0 @d0 0',
  '0 100 switch 1 8k 0 @d0 0',
  '0 100 switch 1 8',
  '0 100 switch 1 8 1 @d0 0',
  '0 100 switch 1 8 x @d0 0',
  '0 100 switch 1 8 0',
  '0 100 switch 2 8 0 @d0 0',
  '0 100 switch 1 8 0 @d0 0 @d1',
  '0 100 switch 1 8 0 @d0',
  '0 100 switch 1 8 0 @d0 x',
  '0 100 switch 1 8 0 @d0 -1',
  '0 100 switch 1 8 0 @none 0',
  '0 100 switch 1 8 0 @none x',
  '0 100 switch 2 8 0 @d0 x @none 0',
];

class Ours {
  readonly world = new World();
  readonly disks = Array.from({ length: diskCount }, (_, i) =>
    this.world.disk(`/dev/d${i}`, diskSectors),
  );

  async answer([verb, name, ...rest]: SwitchStep): Promise<string> {
    try {
      return await this.#carryOut(verb, name, rest);
    } catch (error) {
      if (!(error instanceof MapperError)) throw error;
      return `refused: ${error.message}`;
    }
  }

  async #carryOut(verb: string, name: string, rest: readonly string[]): Promise<string> {
    const { world } = this;
    const { devices } = world;
    switch (verb) {
      case 'version':
        return findTarget(name)?.version.join('.') ?? 'none';
      case 'create':
        await world.create(name, (rest[0] as string).replaceAll('@', '/dev/'));
        return '';
      case 'message':
        return world.wait(devices.message(name, 0, rest));
      case 'remove':
        await world.wait(devices.remove(name, false));
        return '';
      case 'write': {
        const [sector, count, stream] = rest.map(Number) as [number, number, number];
        const data = fillStream(Buffer.alloc(count * 512), sector, stream);
        const client = world.client(devices.get(name));
        const ended = await world.wait(client.run(WRITE, sector * 512, data.length, { data }));
        return ended.errno === 0 ? 'ok' : `errno ${ended.errno}`;
      }
      default: {
        const lines = verb === 'table' ? devices.table(name, false) : devices.status(name);
        const texts = lines.map(
          (line) => `${line.beginSectors} ${line.lengthSectors} ${line.type} ${line.words}`,
        );
        return texts.join('\n').trimEnd().replaceAll('/dev/', '@');
      }
    }
  }
}

const skip = requires(...kernelPrograms);

t.test(`the kernel's dm-switch and ours, seed ${seed}`, { skip }, async (t) => {
  const files = new Scratch(t);
  const disks = Array.from({ length: diskCount }, (_, i) => ({
    name: `d${i}`,
    path: files.sparse(`d${i}`, diskSectors * 512),
  }));
  const steps = script();
  const theirs = await askKernel(files, disks, steps);
  const ours = new Ours();
  let refusals = 0;
  for (const [i, step] of steps.entries()) {
    const [wanted, found] = [theirs[i] as string, await ours.answer(step)];
    const about = step.join(' ').slice(0, 300);
    if (!wanted.startsWith('refused: ')) {
      if (found !== wanted) t.equal(found, wanted, about);
      continue;
    }
    refusals++;
    t.not(wanted, 'refused: ', 'the kernel has said why');
    const text = wanted.slice('refused: '.length).replace(/\.$/, '');
    t.ok(found.startsWith('refused: ') && found.includes(text), `${text} (${about})`, { found });
  }
  t.ok(refusals > rounds, `${refusals} refusals of ${steps.length} steps`);
  for (const [i, { path }] of disks.entries()) {
    const [theirs, mine] = [readFileSync(path), Buffer.from(ours.disks[i]?.bytes ?? [])];
    const sectors = Array.from({ length: diskSectors }, (_, sector) => sector * 512);
    const other = sectors.filter(
      (at) => Buffer.compare(theirs.subarray(at, at + 512), mine.subarray(at, at + 512)) !== 0,
    );
    t.strictSame(other, [], `disk ${i} has the same data in the same places`);
  }
});
