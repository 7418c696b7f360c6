/**
 * The commands about region tables: `upload` and `download` of the binary format, and `regions`,
 * which turns text into it and back, shows tables, and has regions moved.
 */

import { open, readFile, writeFile } from 'node:fs/promises';
import { EINVAL, errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { regionPaths, regions as regionsMax } from '../base/limits.js';
import { formatBytes, parseBytes } from '../base/sizes.js';
import type { RegionUpload } from '../queue/commands.js';
import { decodeRegions, encodeRegions, RegionEntryReader } from '../target/switch/upload-format.js';
import type { Command, Invocation, OptionValues } from './command.js';
import { cancelMove, moveRegions } from './region-move.js';
import { parseRegionText, pathLines, type Run, regionMessages, runsOf } from './region-text.js';

const any = Number.POSITIVE_INFINITY;
/** Runs that are shown of a table that nobody asked for a part of. */
const runsShown = 20;
/** Words of one message, verb included: what fits into a page. */
const messageBytes = 4096;
/** Text is written in pieces of about this size. */
const pieceCharacters = 1 << 20;

function invalid(text: string): MapperError {
  return new MapperError(EINVAL, text);
}

/** Work on a file that people have named: what fails says which. */
async function withFile<T>(action: string, path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof MapperError) throw error.prefixed(`${action} "${path}"`);
    const { code } = error as NodeJS.ErrnoException;
    throw new MapperError(errnoOf(code), `${action} "${path}": ${messageOf(error)}`);
  }
}

async function readBytes(call: Invocation, path: string): Promise<Uint8Array> {
  if (path === '-') return call.readInputBytes();
  return withFile('read', path, () => readFile(path));
}

async function writePieces(
  call: Invocation,
  path: string,
  pieces: Iterable<Uint8Array>,
): Promise<void> {
  if (path === '-') {
    for (const piece of pieces) call.writeOutput(piece);
    return;
  }
  await withFile('write', path, async () => {
    const file = await open(path, 'w');
    try {
      for (const piece of pieces) await file.writeFile(piece);
    } finally {
      await file.close();
    }
  });
}

/** A number of an option; undefined if it was not given. */
function numberOption(
  options: OptionValues,
  name: string,
  min = 0,
  max = Number.MAX_SAFE_INTEGER,
): number | undefined {
  const text = options.text(name);
  if (text === undefined) return undefined;
  const value = /^[0-9]{1,16}$/.test(text) ? Number(text) : -1;
  if (value >= min && value <= max) return value;
  throw invalid(`--${name}: found "${text}", wanted a number from ${min} to ${max}`);
}

/** The key, if there is a value. */
function given<K extends string>(key: K, value: number | undefined): { [P in K]?: number } {
  return value === undefined ? {} : ({ [key]: value } as { [P in K]: number });
}

async function upload(call: Invocation): Promise<void> {
  const { words, options, client, print } = call;
  const [name, path] = words as [string, string];
  let bytes = await readBytes(call, path);
  const first = numberOption(options, 'first');
  if (first !== undefined) bytes = await withFile('read', path, async () => movedTo(bytes, first));
  const sector = numberOption(options, 'sector');
  const done = await client.upload({ name, ...given('sector', sector) }, bytes);
  const what = done.whole
    ? `all ${done.count} regions`
    : `regions ${done.first} to ${done.first + done.count - 1}`;
  const stored = done.stored ? '' : ' (not stored: the device is not)';
  print(done, `${name}: ${what} uploaded, ${formatBytes(bytes.length)}${stored}\n`);
}

/** The same entries as a segment that begins with another region. */
function movedTo(bytes: Uint8Array, first: number): Uint8Array {
  const { sector, table } = decodeRegions(bytes);
  return Buffer.concat(encodeRegions({ sector, table: { ...table, whole: false, first } }));
}

async function download(call: Invocation): Promise<void> {
  const { words, options, client, print } = call;
  const [name, path] = words as [string, string];
  const params = {
    name,
    ...given('sector', numberOption(options, 'sector')),
    ...given('first', numberOption(options, 'first')),
    ...given('count', numberOption(options, 'count', 1)),
  };
  const { about, bytes } = await client.download(params);
  // What came over the socket is what was sent; the file is to be good as well.
  decodeRegions(bytes);
  if (path === '-') {
    call.writeOutput(bytes);
    return;
  }
  await withFile('write', path, () => writeFile(path, bytes));
  print(about, `${name}: ${about.count} regions in "${path}", ${formatBytes(bytes.length)}\n`);
}

async function pack(call: Invocation): Promise<void> {
  const { words, options, print } = call;
  const [, from, to] = words as [string, string, string];
  const paths = numberOption(options, 'paths', 1, regionPaths);
  const size = options.text('region-size');
  if (paths === undefined || size === undefined) {
    throw invalid('wanted --paths and --region-size: text does not say them');
  }
  const shape = {
    paths,
    regionSectors: regionSectors(size),
    regions: numberOption(options, 'regions', 1, regionsMax) ?? null,
    first: numberOption(options, 'first') ?? null,
  };
  const text = Buffer.from(await readBytes(call, from)).toString('utf8');
  const table = await withFile('read', from, async () => parseRegionText(text, shape));
  const pieces = encodeRegions({ sector: 0, table });
  await withFile('pack', from, async () => decodeRegions(Buffer.concat(pieces)));
  await writePieces(call, to, pieces);
  if (to !== '-') print(aboutOf(table), `${to}: ${describe(table)}\n`);
}

/** Sectors in "128" (sectors, as in a table line), "64k" or "1M". */
function regionSectors(text: string): number {
  const bytes = parseBytes(/^[0-9]+$/.test(text) ? `${text}s` : text);
  if (bytes > 0 && bytes % 512 === 0 && bytes / 512 < 2 ** 32) return bytes / 512;
  throw invalid(`--region-size: found "${text}", wanted sectors, or a size that is some of them`);
}

async function unpack(call: Invocation): Promise<void> {
  const { words, options, print } = call;
  const [, from, to] = words as [string, string, string];
  const bytes = await readBytes(call, from);
  const { table } = await withFile('read', from, async () => decodeRegions(bytes));
  const lines = options.flag('lines') ? pathLines(table) : regionMessages(table, messageBytes);
  await writePieces(call, to, textPieces(lines));
  if (to !== '-') print(aboutOf(table), `${to}: ${describe(table)}\n`);
}

function* textPieces(lines: Iterable<string>): Generator<Uint8Array> {
  let piece = '';
  for (const line of lines) {
    piece += `${line}\n`;
    if (piece.length < pieceCharacters) continue;
    yield Buffer.from(piece);
    piece = '';
  }
  yield Buffer.from(piece);
}

async function show(call: Invocation): Promise<void> {
  const { words, options, client, print } = call;
  const name = words[1] as string;
  const from = numberOption(options, 'from');
  const to = numberOption(options, 'to', from ?? 0);
  const { bytes } = await client.download({
    name,
    ...given('sector', numberOption(options, 'sector')),
    ...given('first', from),
    ...given('count', to === undefined ? undefined : to - (from ?? 0) + 1),
  });
  const { table } = decodeRegions(bytes);
  const shares = sharesOf(table);
  const most = from === undefined && to === undefined ? runsShown : any;
  const runs: Run[] = [];
  let runCount = 0;
  for (const run of runsOf(table)) if (runCount++ < most) runs.push(run);
  const result = { ...aboutOf(table), shares, runCount, runs };
  print(result, showText(name, table, shares, runs, runCount));
}

interface Share {
  readonly path: number;
  readonly regions: number;
}

/** Paths that have any region. */
function sharesOf(table: RegionUpload): Share[] {
  const counts = new Float64Array(table.paths);
  const entries = new RegionEntryReader(table);
  for (let at = 0; at < table.count; at++) {
    const path = entries.next();
    counts[path] = (counts[path] as number) + 1;
  }
  const all = Array.from(counts, (regions, path) => ({ path, regions }));
  return all.filter(({ regions }) => regions > 0);
}

function showText(
  name: string,
  table: RegionUpload,
  shares: readonly Share[],
  runs: readonly Run[],
  runCount: number,
): string {
  const lines = [`${name}: ${describe(table)}`];
  for (const { path, regions } of shares) {
    const percent = ((100 * regions) / table.count).toFixed(2);
    lines.push(`path ${path}: ${regions} region${regions === 1 ? '' : 's'}, ${percent} %`);
  }
  lines.push(`${runCount} ${runCount === 1 ? 'run' : 'runs'}:`);
  for (const { first, last, path } of runs) {
    lines.push(`${first === last ? first : `${first}-${last}`} on path ${path}`);
  }
  if (runs.length < runCount) {
    lines.push(`... ${runCount - runs.length} more (--from and --to show all of a part)`);
  }
  return `${lines.join('\n')}\n`;
}

/** `1572864 regions of 64.0 KiB over 4 paths`, of a part: `regions 0 to 9 of ...`. */
function describe({ whole, first, count, regions, regionSectors, paths }: RegionUpload): string {
  const part = whole || count === regions ? '' : `regions ${first} to ${first + count - 1} of `;
  const of = `${regions} regions of ${formatBytes(regionSectors * 512)}`;
  return `${part}${of} over ${paths} ${paths === 1 ? 'path' : 'paths'}`;
}

function aboutOf({ slots: _, ...about }: RegionUpload): Omit<RegionUpload, 'slots'> {
  return about;
}

async function move(call: Invocation): Promise<void> {
  const { words, options } = call;
  const [, name, ...ranges] = words as [string, string, ...string[]];
  const sector = numberOption(options, 'sector') ?? 0;
  const from = numberOption(options, 'from');
  const to = numberOption(options, 'to');
  const percent = numberOption(options, 'throttle', 1, 100);
  if (options.flag('cancel')) {
    if (from !== undefined || to !== undefined || ranges.length > 0) {
      throw invalid('found --cancel and what to move: they do not go together');
    }
    await cancelMove(call, name, sector);
    return;
  }
  if (from === undefined || to === undefined) throw invalid('wanted --from PATH and --to PATH');
  const request = ['move_regions', `${from}`, `${to}`, ...ranges];
  if (percent !== undefined) request.push('throttle', `${percent}`);
  await moveRegions(call, name, sector, request);
}

interface Part {
  readonly usage: string;
  readonly words: readonly [number, number];
  readonly options: readonly string[];
  run(call: Invocation): Promise<void>;
}

const parts = new Map<string, Part>([
  [
    'pack',
    {
      usage: 'pack IN OUT --paths N --region-size SIZE [--regions N] [--first N]',
      words: [3, 3],
      options: ['paths', 'region-size', 'regions', 'first'],
      run: pack,
    },
  ],
  ['unpack', { usage: 'unpack IN OUT [--lines]', words: [3, 3], options: ['lines'], run: unpack }],
  [
    'show',
    {
      usage: 'show NAME [--from REGION] [--to REGION] [--sector S]',
      words: [2, 2],
      options: ['from', 'to', 'sector'],
      run: show,
    },
  ],
  [
    'move',
    {
      usage: `move NAME --from PATH --to PATH [A-B...]
          [--throttle PERCENT] [--background] [--sector S]`,
      words: [2, any],
      options: ['from', 'to', 'sector', 'throttle', 'background', 'cancel'],
      run: move,
    },
  ],
]);

const value = { type: 'string' } as const;
const flag = { type: 'boolean' } as const;

const partOptions = {
  paths: value,
  'region-size': value,
  regions: value,
  first: value,
  lines: flag,
  from: value,
  to: value,
  sector: value,
  throttle: value,
  background: flag,
  cancel: flag,
} as const;

async function regions(call: Invocation): Promise<void> {
  const { words, options } = call;
  const name = words[0] as string;
  const part = parts.get(name);
  if (part === undefined) {
    throw invalid(`found "${name}", wanted ${[...parts.keys()].join(', ')}`);
  }
  const usage = `mapperctl regions ${part.usage.replace(/\s+/g, ' ')}`;
  const [least, most] = part.words;
  if (words.length < least || words.length > most) {
    throw invalid(`found ${words.length} words, wanted: ${usage}`);
  }
  for (const option of Object.keys(partOptions)) {
    if (!options.flag(option) && options.text(option) === undefined) continue;
    if (!part.options.includes(option)) throw invalid(`found --${option}, wanted: ${usage}`);
  }
  await part.run(call);
}

export const regionCommands: readonly Command[] = [
  {
    name: 'upload',
    usage: 'NAME FILE [--first REGION] [--sector S]',
    summary: 'put a region table in the binary format into a switch target; "-": standard input',
    minWords: 2,
    maxWords: 2,
    options: { first: value, sector: value },
    run: upload,
  },
  {
    name: 'download',
    usage: 'NAME FILE [--first REGION] [--count N] [--sector S]',
    summary: 'write the region table of a switch target, or a part of it, into a file',
    minWords: 2,
    maxWords: 2,
    options: { first: value, count: value, sector: value },
    run: download,
  },
  {
    name: 'regions',
    usage: `${[...parts.values()].map((part) => part.usage).join('\n        | ')}
        | move NAME --cancel`,
    summary: 'region tables from text and to text, what is on which path, and moving regions',
    minWords: 1,
    maxWords: any,
    options: partOptions,
    offline: ([part]) => part === 'pack' || part === 'unpack' || !parts.has(part ?? ''),
    run: regions,
  },
];
