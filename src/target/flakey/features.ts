/**
 * The features of a flakey target, and their words in the table line:
 *
 *   [<n> <words>...]   where the n words are
 *     error_reads | drop_writes | error_writes
 *     corrupt_bio_byte <Nth byte> <r|w> <value> <flags>
 *     random_read_corrupt <probability> | random_write_corrupt <probability>
 *
 * Without any, reads and writes fail; that is what the table line then says, too.
 */

import { type ArgumentReader, type Bounds, badArgument, quoted, uint32Max } from '../arguments.js';

/** A probability of 1. */
export const probabilityBase = 1_000_000_000;

/** What happens while the target is down. */
export interface FlakeyFeatures {
  errorReads: boolean;
  dropWrites: boolean;
  errorWrites: boolean;
  /** Null: no byte is replaced. */
  corruptByte: CorruptByte | null;
  /** Parts of `probabilityBase`; 0: never. */
  randomReadCorrupt: number;
  randomWriteCorrupt: number;
}

export interface CorruptByte {
  /** In an Io's data, counted from 1. */
  readonly nth: number;
  readonly direction: 'r' | 'w';
  readonly value: number;
  /** The kernel's bio flags that an Io must have; 0: any Io. */
  readonly flags: number;
}

const bounds = {
  count: { min: 0, max: 11, text: 'Invalid number of feature args' },
  nth: { min: 1, max: uint32Max, text: 'Invalid corrupt bio byte' },
  value: { min: 0, max: 255, text: 'Invalid corrupt value to write into bio byte (0-255)' },
  flags: { min: 0, max: uint32Max, text: 'Invalid corrupt bio flags mask' },
  probability: { min: 0, max: probabilityBase, text: 'Invalid random corrupt argument' },
} satisfies Record<string, Bounds>;

const corruptByteWords = 4;

/** Reads the features; what stands behind the words that the count announces is left. */
export function parseFeatures(reader: ArgumentReader): FlakeyFeatures {
  const features: FlakeyFeatures = {
    errorReads: false,
    dropWrites: false,
    errorWrites: false,
    corruptByte: null,
    randomReadCorrupt: 0,
    randomWriteCorrupt: 0,
  };
  let left = reader.left === 0 ? 0 : reader.count(bounds.count);
  while (left > 0) left -= parseFeature(reader, left - 1, features);
  checkConflicts(features);
  if (isEmpty(features)) {
    features.errorReads = true;
    features.errorWrites = true;
  }
  return features;
}

/** Reads one feature, which may have `left` more words; returns how many it had in all. */
function parseFeature(reader: ArgumentReader, left: number, features: FlakeyFeatures): number {
  const word = reader.next();
  const name = word?.toLowerCase();
  switch (name) {
    case 'error_reads':
      checkOnce(name, features.errorReads);
      features.errorReads = true;
      return 1;
    case 'drop_writes':
      checkOnce(name, features.dropWrites);
      checkConflict(name, 'error_writes', features.errorWrites);
      features.dropWrites = true;
      return 1;
    case 'error_writes':
      checkOnce(name, features.errorWrites);
      checkConflict(name, 'drop_writes', features.dropWrites);
      features.errorWrites = true;
      return 1;
    case 'corrupt_bio_byte':
      checkOnce(name, features.corruptByte !== null);
      if (left < corruptByteWords) {
        throw badArgument(`Feature ${name} requires 4 parameters`, `${left}`, '4');
      }
      features.corruptByte = parseCorruptByte(reader);
      return 1 + corruptByteWords;
    case 'random_read_corrupt':
      features.randomReadCorrupt = parseRandom(reader, name, left, features.randomReadCorrupt);
      return 2;
    case 'random_write_corrupt':
      features.randomWriteCorrupt = parseRandom(reader, name, left, features.randomWriteCorrupt);
      return 2;
    default: {
      const known = 'error_reads, drop_writes, error_writes, corrupt_bio_byte, random_*_corrupt';
      throw badArgument('Unrecognised flakey feature requested', quoted(word), known);
    }
  }
}

function parseCorruptByte(reader: ArgumentReader): CorruptByte {
  const nth = reader.number(bounds.nth);
  const word = reader.next();
  const direction = word?.toLowerCase();
  if (direction !== 'r' && direction !== 'w') {
    throw badArgument('Invalid corrupt bio direction (r or w)', quoted(word), 'r or w');
  }
  const value = reader.number(bounds.value);
  const flags = reader.number(bounds.flags);
  return { nth, direction, value, flags };
}

/** Reads a probability; `before` is what the feature had so far. */
function parseRandom(reader: ArgumentReader, name: string, left: number, before: number): number {
  checkOnce(name, before > 0);
  if (left === 0) throw badArgument(`Feature ${name} requires a parameter`, 'none', '1');
  return reader.number(bounds.probability);
}

function checkOnce(name: string, there: boolean): void {
  if (there) throw badArgument(`Feature ${name} duplicated`, 'it twice', 'it once');
}

function checkConflict(name: string, other: string, there: boolean): void {
  if (!there) return;
  throw badArgument(`Feature ${name} conflicts with feature ${other}`, 'both', 'one of them');
}

/** A feature that ends an operation leaves nothing for another to corrupt. */
function checkConflicts(features: FlakeyFeatures): void {
  const direction = features.corruptByte?.direction;
  const corruptsWrites = direction === 'w' || features.randomWriteCorrupt > 0;
  const corruptsReads = direction === 'r' || features.randomReadCorrupt > 0;
  if (features.dropWrites && corruptsWrites) throw incompatible('drop_writes', 'write');
  if (features.errorWrites && corruptsWrites) throw incompatible('error_writes', 'write');
  if (features.errorReads && corruptsReads) throw incompatible('error_reads', 'read');
}

function incompatible(name: string, direction: 'read' | 'write'): Error {
  const flag = direction.toUpperCase();
  const others = `random_${direction}_corrupt or corrupt_bio_byte with the ${flag} flag set`;
  return badArgument(`${name} is incompatible with ${others}`, 'both', 'one of them');
}

function isEmpty(features: FlakeyFeatures): boolean {
  return (
    !features.errorReads &&
    !features.dropWrites &&
    !features.errorWrites &&
    features.corruptByte === null &&
    features.randomReadCorrupt === 0 &&
    features.randomWriteCorrupt === 0
  );
}

/** The words that `parseFeatures` reads back, their number first. */
export function printFeatures(features: FlakeyFeatures): string {
  const words: (string | number)[] = [];
  if (features.errorReads) words.push('error_reads');
  if (features.dropWrites) words.push('drop_writes');
  if (features.errorWrites) words.push('error_writes');
  if (features.corruptByte !== null) {
    const { nth, direction, value, flags } = features.corruptByte;
    words.push('corrupt_bio_byte', nth, direction, value, flags);
  }
  if (features.randomReadCorrupt > 0) words.push('random_read_corrupt', features.randomReadCorrupt);
  if (features.randomWriteCorrupt > 0) {
    words.push('random_write_corrupt', features.randomWriteCorrupt);
  }
  return [words.length, ...words].join(' ');
}
