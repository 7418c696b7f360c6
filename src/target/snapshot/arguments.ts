/**
 * The words of a snapshot's table line, which snapshot-merge shares:
 *
 *   <origin> <COW> <P|PO|N> <chunk sectors> [<#features> <feature>...]
 *
 * A word that starts with P or N, in either case, is that type; behind P, O says that the user
 * knows of Overflow. Features are discard_zeroes_cow and discard_passdown_origin.
 */

import type { Backing } from '../../backing/backing.js';
import { EINVAL, ENODEV } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { chunkSectorsMax } from '../../base/limits.js';
import { quoteWord } from '../../device/table-text.js';
import { badArgument, openDevice, quoted } from '../arguments.js';
import type { TargetContext } from '../target.js';

export interface SnapshotWords {
  readonly origin: Backing;
  readonly cow: Backing;
  readonly type: 'P' | 'N';
  /** Behind P: when the COW is full, writes fail and what is there stays readable. */
  readonly knowsOverflow: boolean;
  /** What was asked for; 0 has become the default. */
  readonly chunkSectors: number;
  readonly discardZeroesCow: boolean;
  readonly discardPassdownOrigin: boolean;
}

const featuresMax = 2;
/** 16 KiB, for P alone. */
const chunkSectorsDefault = 32;
const storeText = "Couldn't create exception store";

/** Reads the words and opens both devices. `writesOrigin`: for merging. Throws MapperError. */
export function parseSnapshot(
  args: readonly string[],
  context: TargetContext,
  writesOrigin: boolean,
): SnapshotWords {
  if (args.length < 4) {
    const found = `${args.length} argument${args.length === 1 ? '' : 's'}`;
    throw badArgument('requires 4 or more arguments', found, '4 or more');
  }
  const [originWord, cowWord, typeWord, chunkWord] = args as [string, string, string, string];
  const features = parseFeatures(args.slice(4));
  const end = context.beginSectors + context.lengthSectors;
  const readOnly = writesOrigin || features.discardPassdownOrigin ? undefined : true;
  const origin = open(context, originWord, end, 'Cannot get origin device', readOnly);
  // Copies go there whatever the snapshot's own users may do.
  const cow = open(context, cowWord, 0, 'Cannot get COW device', false);
  if (origin.identity === cow.identity) {
    const text = 'COW device cannot be the same as origin device';
    throw badArgument(text, `"${originWord}" and "${cowWord}"`, 'two devices');
  }
  const { type, knowsOverflow } = parseType(typeWord);
  const blockSectors = Math.max(origin.features.blockBytes, cow.features.blockBytes) / 512;
  const chunkSectors = parseChunk(chunkWord, type, Math.max(1, blockSectors));
  if (context.beginSectors % chunkSectors !== 0) {
    const found = `sector ${context.beginSectors}`;
    throw badArgument('Invalid start', found, `a multiple of the chunk, ${chunkSectors} sectors`);
  }
  return { origin, cow, type, knowsOverflow, chunkSectors, ...features };
}

/** The words again; `chunkSectors` as it is now. */
export function snapshotText(words: SnapshotWords, chunkSectors: number): string {
  const { origin, cow, type, knowsOverflow, discardZeroesCow, discardPassdownOrigin } = words;
  const text = [
    quoteWord(origin.name),
    quoteWord(cow.name),
    knowsOverflow ? `${type}O` : type,
    `${chunkSectors}`,
  ];
  const features: string[] = [];
  if (discardZeroesCow) features.push('discard_zeroes_cow');
  if (discardPassdownOrigin) features.push('discard_passdown_origin');
  if (features.length > 0) text.push(`${features.length}`, ...features);
  return text.join(' ');
}

function open(
  context: TargetContext,
  word: string,
  sectorsNeeded: number,
  text: string,
  readOnly: boolean | undefined,
): Backing {
  try {
    return openDevice(context, word, sectorsNeeded, text, readOnly);
  } catch (error) {
    throw error instanceof MapperError ? asInKernel(error) : error;
  }
}

/** The kernel says ENODEV whatever the reason was, but for a device that is too small. */
export function asInKernel(error: MapperError): MapperError {
  return error.errno === EINVAL ? error : new MapperError(ENODEV, error.message);
}

function parseFeatures(words: readonly string[]) {
  const features = { discardZeroesCow: false, discardPassdownOrigin: false };
  const [countWord, ...rest] = words;
  if (countWord === undefined) return features;
  const count = /^[0-9]+$/.test(countWord) ? Number(countWord) : -1;
  if (count < 0 || count > featuresMax || count > rest.length) {
    const wanted = `a number from 0 to ${Math.min(featuresMax, rest.length)}`;
    throw badArgument('Invalid number of feature arguments', quoted(countWord), wanted);
  }
  for (const word of rest.slice(0, count)) {
    if (word.toLowerCase() === 'discard_zeroes_cow') features.discardZeroesCow = true;
    else if (word.toLowerCase() === 'discard_passdown_origin')
      features.discardPassdownOrigin = true;
    else {
      const wanted = 'discard_zeroes_cow or discard_passdown_origin';
      throw badArgument('Unrecognised feature requested', quoted(word), wanted);
    }
  }
  if (features.discardPassdownOrigin && !features.discardZeroesCow) {
    const text = 'discard_passdown_origin feature depends on discard_zeroes_cow';
    throw badArgument(text, 'the first alone', 'both');
  }
  return features;
}

function parseType(word: string): { type: 'P' | 'N'; knowsOverflow: boolean } {
  const letter = word.charAt(0).toUpperCase();
  if (letter === 'N') return { type: 'N', knowsOverflow: false };
  const option = word.charAt(1).toUpperCase();
  if (letter === 'P' && (option === '' || option === 'O')) {
    return { type: 'P', knowsOverflow: option === 'O' };
  }
  const text = `${storeText}: Exception store type is not P or N`;
  throw badArgument(text, quoted(word), 'P, PO or N');
}

function parseChunk(word: string, type: 'P' | 'N', blockSectors: number): number {
  const sectors = /^[0-9]{1,10}$/.test(word) ? Number(word) : -1;
  if (sectors < 0) throw badArgument(`${storeText}: Invalid chunk size`, quoted(word), 'a number');
  if (sectors === 0) {
    if (type === 'P') return Math.max(chunkSectorsDefault, blockSectors);
    throw badArgument('Chunk size not set', '"0"', 'a power of two');
  }
  const problem = chunkProblem(sectors, blockSectors);
  if (problem !== null) throw new MapperError(EINVAL, `${storeText}: ${problem}`);
  return sectors;
}

/** Why a chunk cannot have that size, or null. */
export function chunkProblem(sectors: number, blockSectors: number): string | null {
  const found = `found ${sectors} sectors`;
  if (sectors % blockSectors !== 0) {
    return `Chunk size is not a multiple of device blocksize (${found}, blocks of ${blockSectors})`;
  }
  if (!Number.isInteger(Math.log2(sectors))) return `Chunk size is not a power of 2 (${found})`;
  if (sectors > chunkSectorsMax) {
    return `Chunk size is too high (${found}, wanted at most ${chunkSectorsMax})`;
  }
  return null;
}
