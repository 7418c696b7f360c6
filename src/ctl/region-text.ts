/**
 * Region tables as text, in two forms:
 *
 *   words   of the message set_region_mappings (hexadecimal, see target/switch/mappings.ts); each
 *           line is a message of its own, with or without its name in front, and begins with I:P
 *   paths   one path a line, decimal, in the order of the regions
 *
 * Empty lines, and lines that begin with #, say nothing.
 */

import { EINVAL } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import type { RegionUpload } from '../queue/commands.js';
import { Mappings } from '../target/switch/mappings.js';
import { entryBits, RegionTable } from '../target/switch/region-table.js';
import { packEntries, RegionEntryReader } from '../target/switch/upload-format.js';

const verb = 'set_region_mappings';

/** Regions that follow one another on one path. */
export interface Run {
  readonly first: number;
  readonly last: number;
  readonly path: number;
}

/** What the text does not say of the table. */
export interface TableShape {
  readonly paths: number;
  readonly regionSectors: number;
  /** Null: as many as the text has paths. */
  readonly regions: number | null;
  /** The region of the first path in the text, if that is not all. */
  readonly first: number | null;
}

function invalid(text: string): MapperError {
  return new MapperError(EINVAL, text);
}

/** Throws MapperError with the line. */
export function parseRegionText(text: string, shape: TableShape): RegionUpload {
  const lines = text.split('\n').map((line, at) => ({ number: at + 1, text: line.trim() }));
  const told = lines.filter((line) => line.text !== '' && !line.text.startsWith('#'));
  const isPaths = /^[0-9]+$/.test(told[0]?.text ?? '');
  return isPaths ? parsePaths(told, shape) : parseWords(told, shape);
}

interface Line {
  readonly number: number;
  readonly text: string;
}

function parsePaths(lines: readonly Line[], shape: TableShape): RegionUpload {
  const { paths, regionSectors } = shape;
  const first = shape.first ?? 0;
  const found = new Uint16Array(lines.length);
  for (const [at, line] of lines.entries()) {
    const path = /^[0-9]{1,9}$/.test(line.text) ? Number(line.text) : paths;
    if (path >= paths) {
      const wanted = `wanted a path from 0 to ${paths - 1}`;
      throw invalid(`line ${line.number}: found "${line.text}", ${wanted}`);
    }
    found[at] = path;
  }
  const count = found.length;
  const regions = shape.regions ?? first + count;
  const whole = shape.first === null;
  if (whole ? count !== regions : first + count > regions) {
    const from = whole ? '' : ` from region ${first} on`;
    throw invalid(`found ${count} paths${from}, the table has ${regions} regions`);
  }
  const bits = entryBits(paths);
  const slots = packEntries(found, bits);
  return { whole, regions, regionSectors, paths, bits, first, count, slots };
}

/** What the words leave out stays as a new target has it. */
function parseWords(lines: readonly Line[], shape: TableShape): RegionUpload {
  const { paths, regionSectors, regions } = shape;
  if (regions === null) throw invalid('words do not say how many regions there are (--regions)');
  if (shape.first !== null) throw invalid('words say themselves which regions they are for');
  const table = new RegionTable(regions, paths);
  const mapped = {
    regions,
    paths,
    get: (region: number) => table.get(region),
    set: (region: number, path: number) => {
      table.set(region, path);
      return true;
    },
  };
  for (const line of lines) {
    const words = line.text.split(/\s+/);
    if (words[0]?.toLowerCase() === verb) words.shift();
    try {
      const mappings = new Mappings(words, 0, mapped);
      while (!mappings.done) mappings.step(regions);
    } catch (error) {
      throw error instanceof MapperError ? error.prefixed(`line ${line.number}`) : error;
    }
  }
  return { ...table.download(0, regions), regionSectors };
}

/** The runs of a table, or of a part of it, in order. */
export function* runsOf(table: RegionUpload): Generator<Run> {
  const entries = new RegionEntryReader(table);
  const end = table.first + table.count;
  let first = table.first;
  let path = entries.next();
  for (let region = first + 1; region < end; region++) {
    const next = entries.next();
    if (next === path) continue;
    yield { first, last: region - 1, path };
    first = region;
    path = next;
  }
  yield { first, last: end - 1, path };
}

/** A table as messages of at most so many bytes, the verb and blanks included. */
export function* regionMessages(table: RegionUpload, bytesMost: number): Generator<string> {
  let message = '';
  for (const { first, last, path } of runsOf(table)) {
    const length = last - first;
    const repeat = length === 0 ? '' : ` R1,${length.toString(16)}`;
    const word = ` :${path.toString(16)}${repeat}`;
    if (message !== '' && message.length + word.length <= bytesMost) {
      message += word;
      continue;
    }
    if (message !== '') yield message;
    message = `${verb} ${first.toString(16)}${word.trimStart()}`;
  }
  yield message;
}

/** One path a line, in pieces. */
export function* pathLines(table: RegionUpload): Generator<string> {
  const entries = new RegionEntryReader(table);
  for (let at = 0; at < table.count; at++) yield `${entries.next()}`;
}
