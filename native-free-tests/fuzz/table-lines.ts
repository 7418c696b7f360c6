/** Table text and messages for all targets there are, right or wrong. */

import { damagedText } from './mutate.js';
import type { Random } from './random.js';

/** Words that open something: see the host of `table.ts`. */
const devices = ['/a', '/a', '/b', '/c', '/tiny', 'dm:base', '/dev/mapper/base', 'file:///b'];
const strayDevices = [
  '/none',
  'dm:none',
  'dm:subject',
  '/a?direct=1',
  'file:///a?direct=1',
  '',
  'a',
];

function device(random: Random): string {
  return random.pick(random.percent(93) ? devices : strayDevices);
}

function sector(random: Random): string {
  if (random.percent(85)) return `${8 * random.below(6)}`;
  return `${random.edge(53)}`;
}

function small(random: Random): string {
  return random.percent(90) ? `${random.below(4)}` : `${random.wide()}`;
}

function chunk(random: Random): string {
  return random.percent(85) ? random.pick(['1', '2', '8', '16', '0']) : `${random.edge(33)}`;
}

function snapshotWords(random: Random): string[] {
  const words = [device(random), device(random)];
  words.push(random.pick(['P', 'PO', 'N', 'n', 'persistent', 'PX', 'O']), chunk(random));
  const features = ['discard_zeroes_cow', 'discard_passdown_origin'];
  if (random.percent(30)) {
    const chosen = features.filter(() => random.percent(60));
    words.push(random.percent(90) ? `${chosen.length}` : small(random), ...chosen);
  }
  return words;
}

function flakeyFeatures(random: Random): string[] {
  const all = [
    ['drop_writes'],
    ['error_writes'],
    ['error_reads'],
    ['corrupt_bio_byte', `${random.edge(12)}`, random.pick(['r', 'w']), small(random), '0'],
    ['random_read_corrupt', `${random.edge(31)}`],
    ['random_write_corrupt', `${random.edge(31)}`],
  ];
  const chosen = all.filter(() => random.percent(20)).flat();
  return chosen.length === 0 ? [] : [`${chosen.length}`, ...chosen];
}

function switchWords(random: Random): string[] {
  const count = random.pick([1, 2, 2, 3, 5]);
  const words = [`${count}`, random.percent(90) ? random.pick(['1', '8', '16', '100']) : '0', '0'];
  for (let left = count; left > 0; left--) words.push(device(random), sector(random));
  return words;
}

function argumentsOf(random: Random, type: string): string[] {
  switch (type) {
    case 'linear':
      return [device(random), sector(random)];
    case 'striped': {
      const count = random.between(1, 4);
      const words = [`${count}`, random.pick(['8', '16', '1', '32'])];
      for (let left = count; left > 0; left--) words.push(device(random), sector(random));
      return words;
    }
    case 'delay': {
      const words: string[] = [];
      for (let left = random.between(1, 3); left > 0; left--) {
        words.push(device(random), sector(random), small(random));
      }
      return words;
    }
    case 'flakey': {
      const intervals = [small(random), small(random)];
      return [device(random), sector(random), ...intervals, ...flakeyFeatures(random)];
    }
    case 'snapshot':
    case 'snapshot-merge':
      return snapshotWords(random);
    case 'snapshot-origin':
      return [device(random)];
    case 'log-writes':
      return [device(random), device(random)];
    case 'switch':
      return switchWords(random);
    case 'error':
      return random.percent(80) ? [] : [device(random), sector(random)];
    default:
      return [];
  }
}

const types = [
  ...['linear', 'striped', 'delay', 'flakey', 'snapshot', 'snapshot-merge', 'snapshot-origin'],
  ...['log-writes', 'switch', 'error', 'zero', 'memory'],
];

/** A line that begins at that sector. */
export function anyLine(random: Random, begin: number, length: number): string {
  const type = random.percent(98) ? random.pick(types) : random.pick(['none', '', 'Linear']);
  const words = [`${begin}`, `${length}`, type, ...argumentsOf(random, type)];
  if (random.percent(10)) {
    const at = random.below(words.length);
    words[at] = damagedText(random, words[at] as string);
  }
  if (random.percent(3)) words.splice(random.below(words.length), 1);
  if (random.percent(3)) words.push(device(random));
  return words.join(random.percent(97) ? ' ' : '\t ');
}

export function anyTable(random: Random): string {
  const lines: string[] = [];
  let begin = 0;
  for (let left = random.pick([1, 1, 1, 2, 3]); left > 0; left--) {
    const length = random.percent(95) ? 8 * random.between(1, 12) : random.edge(44);
    lines.push(anyLine(random, random.percent(98) ? begin : begin + 1, length));
    begin += length;
  }
  if (random.percent(5)) lines.splice(random.below(lines.length + 1), 0, '# a remark', '');
  return lines.join('\n');
}

/** Words of a message that some target may understand. */
export function anyMessage(random: Random): string[] {
  const region = (): string => random.below(20).toString(16);
  switch (random.below(9)) {
    case 0:
      return ['mark', 'x'.repeat(random.pick([1, 30, 300, 4000]))];
    case 1:
    case 2:
      return ['set_region_mappings', `${region()}:${small(random)}`, ':0', `R1,${region()}`];
    case 3:
    case 4: {
      const words = ['move_regions', small(random), small(random)];
      if (random.percent(50)) words.push(`${random.below(9)}-${random.below(20)}`);
      if (random.percent(30)) words.push('throttle', `${random.edge(8)}`);
      return words;
    }
    case 5:
      return ['move_status'];
    case 6:
      return ['move_cancel'];
    case 7:
      return ['regions_saved', `${random.edge(54)}`];
    default:
      return [random.pick(['', 'mark', '@cancel_deferred_remove', 'set_region_mappings', 'x'])];
  }
}

export function damagedMessage(random: Random): string[] {
  const words = anyMessage(random);
  if (random.percent(15)) {
    const at = random.below(words.length);
    words[at] = damagedText(random, words[at] as string);
  }
  return words;
}
