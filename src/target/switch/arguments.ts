/**
 * The words of a table line behind `switch`:
 *
 *   <paths> <region sectors> <optional words: 0> [<device> <offset>]...
 */

import type { Backing } from '../../backing/backing.js';
import { regionPaths, regions as regionsMax } from '../../base/limits.js';
import { quoteWord } from '../../device/table-text.js';
import {
  ArgumentReader,
  type Bounds,
  badArgument,
  deviceSector,
  openDevice,
  parseNumber,
  plural,
  uint32Max,
} from '../arguments.js';
import type { TargetContext } from '../target.js';

const pathCount: Bounds = { min: 1, max: regionPaths, text: 'Invalid number of paths' };
const regionSize: Bounds = { min: 1, max: uint32Max, text: 'Invalid region size' };
const optionalCount: Bounds = { min: 0, max: 0, text: 'Invalid number of optional args' };
const pathStart: Bounds = { ...deviceSector, text: 'Invalid device starting offset' };

/** A way to the whole of the target's range. */
export interface SwitchPath {
  readonly backing: Backing;
  /** Where the range begins in it. */
  readonly startSectors: number;
}

export interface SwitchWords {
  readonly regionSectors: number;
  readonly regions: number;
  readonly paths: readonly SwitchPath[];
}

/** Opens the paths. Throws MapperError. */
export function parseSwitch(args: readonly string[], context: TargetContext): SwitchWords {
  const words = new ArgumentReader(args);
  const count = words.number(pathCount);
  const regionSectors = words.number(regionSize);
  words.number(optionalCount);
  if (words.left !== 2 * count) {
    const text = 'Incorrect number of path arguments';
    throw badArgument(text, plural(words.left, 'word'), plural(2 * count, 'word'));
  }
  const regions = Math.ceil(context.lengthSectors / regionSectors);
  if (regions > regionsMax) {
    throw badArgument('Region table too large', plural(regions, 'region'), `at most ${regionsMax}`);
  }
  const paths: SwitchPath[] = [];
  while (words.left > 0) paths.push(parsePath(words, context));
  return { regionSectors, regions, paths };
}

function parsePath(words: ArgumentReader, context: TargetContext): SwitchPath {
  const word = words.next() as string;
  const offset = words.next();
  let startSectors = 0;
  try {
    startSectors = parseNumber(offset, pathStart);
  } catch (error) {
    // The kernel looks at the device first.
    openDevice(context, word, 0);
    throw error;
  }
  const backing = openDevice(context, word, startSectors + context.lengthSectors);
  return { backing, startSectors };
}

export function switchText({ regionSectors, paths }: SwitchWords): string {
  const words = paths.map(
    ({ backing, startSectors }) => `${quoteWord(backing.name)} ${startSectors}`,
  );
  return `${paths.length} ${regionSectors} 0 ${words.join(' ')}`;
}
