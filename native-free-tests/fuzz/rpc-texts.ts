/** Texts for a control client to send: JSON-RPC requests of all methods, right or wrong. */

import { schemas } from '../../src/control/messages.js';
import { damagedText } from './mutate.js';
import type { Random } from './random.js';
import { anyTable, damagedMessage } from './table-lines.js';

const names = [
  'vol0',
  'vol1',
  'snap',
  '\u00e9',
  'gone',
  '',
  'a/b',
  'x'.repeat(128),
  '\0',
  '\ud800',
];
const methods = Object.keys(schemas);
/** Each key that some method has, with values that fit and some that do not. */
const values: Record<string, (random: Random) => unknown> = {
  name: (random) => random.pick(names),
  newName: (random) => random.pick(names),
  origin: (random) => random.pick(names),
  table: (random) => anyTable(random),
  readOnly: (random) => random.percent(50),
  noFlush: (random) => random.percent(50),
  force: (random) => random.percent(50),
  inactive: (random) => random.percent(50),
  transient: (random) => random.percent(50),
  wipe: (random) => random.percent(50),
  keepCow: (random) => random.percent(50),
  hidden: (random) => random.percent(50),
  sector: (random) => random.edge(53),
  words: (random) => damagedMessage(random),
  bytes: (random) => random.pick([1, 64, 72, 80, 0, random.edge(53)]),
  first: (random) => random.edge(53),
  count: (random) => random.edge(20),
  chunkSectors: (random) => random.pick([1, 8, 16, 3, random.edge(32)]),
  cow: (random) => random.pick(['/none/cow', 'cow', '/\0', `/${'x'.repeat(5000)}`]),
  cowBytes: (random) => 512 * random.edge(40),
  description: (random) =>
    random.pick(['a disk', '', ' x', 'x\n', null, '\u2028', 'd'.repeat(1025)]),
  allow: (random) => random.pick([[], ['10.0.0.0/8'], ['::/0', '1.2.3.4/33'], ['x']]),
  connections: (random) => random.pick([null, 1, 0, 1.5, 1025, random.edge(32)]),
  source: (random) => random.pick(['/a', 'dm:vol0', '']),
  destinations: (random) => random.pick([['/b'], [], ['dm:vol1', '/c'], Array(9).fill('/d')]),
  sourceOffset: (random) => random.edge(53),
  destinationOffset: (random) => random.edge(53),
  length: (random) => random.edge(53),
  throttlePercent: (random) => random.edge(8),
  id: (random) => random.edge(8),
  waitMilliseconds: (random) => random.pick([0, 0, -1, 1e9]),
  topics: (random) => random.pick([[], ['log'], ['device', 'target'], ['none'], 'log']),
};
const strays = [null, true, -1, 0.5, 1e308, '', 'x', [], {}, [[[]]], { name: 'vol0' }];

function anyParams(random: Random, method: string): unknown {
  if (random.percent(4)) return random.pick(strays);
  const params: Record<string, unknown> = {};
  for (const key of keysOf(method)) {
    const make = values[key];
    if (make !== undefined && random.percent(85)) params[key] = make(random);
  }
  if (random.percent(5)) params[random.pick(Object.keys(values))] = random.pick(strays);
  return params;
}

function keysOf(method: string): string[] {
  const schema = schemas[method as keyof typeof schemas] as { entries?: object } | undefined;
  return Object.keys(schema?.entries ?? { name: 0, readOnly: 0, connections: 0 });
}

interface RequestFields {
  jsonrpc?: unknown;
  id?: unknown;
  method: string;
  params?: unknown;
  more?: unknown;
}

export function anyRequest(random: Random): unknown {
  if (random.percent(3)) return random.pick(strays);
  const method = random.percent(97) ? random.pick(methods) : random.pick(['', 'none', '__proto__']);
  const request: RequestFields = { jsonrpc: '2.0', id: random.edge(20), method };
  if (random.percent(90)) request.params = anyParams(random, method);
  if (random.percent(8)) request.id = random.pick([...strays, 'id', undefined]);
  if (random.percent(3)) request.jsonrpc = random.pick(['1.0', 2, undefined]);
  if (random.percent(2)) request.more = 1;
  return request;
}

export function anyText(random: Random): string {
  const message = random.percent(88)
    ? anyRequest(random)
    : Array.from({ length: random.pick([0, 1, 2, 5, 65]) }, () => anyRequest(random));
  const text = JSON.stringify(message) ?? 'undefined';
  if (random.percent(2)) return '['.repeat(random.between(1, 20_000));
  return random.percent(10) ? damagedText(random, text) : text;
}
