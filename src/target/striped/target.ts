/**
 * Striped: chunks go to the stripes in turn. See README.md.
 *
 *   chunk of the target   0  1  2  3  4  5  6 ...
 *   stripe                0  1  2  0  1  2  0
 *   chunk of the stripe   0  0  0  1  1  1  2
 *
 * Offsets pass 2^32, where JavaScript's bit operators lose the upper half, so the chunk is found by
 * dividing doubles, whether or not the sizes are powers of two. That is exact: below 2^53 a
 * quotient of integers that is not an integer never rounds up to the next one.
 */

import { type Backing, commonFeatures, type Features } from '../../backing/backing.js';
import type { Io } from '../../device/io.js';
import { quoteWord } from '../../device/table-text.js';
import {
  type Bounds,
  badArgument,
  deviceSector,
  openDevice,
  parseNumber,
  plural,
  uint32Max,
} from '../arguments.js';
import { REMAPPED, type Target, type TargetContext, type TargetType } from '../target.js';

const stripeCount: Bounds = { min: 1, max: uint32Max, text: 'Invalid stripe count' };
const chunkSize: Bounds = { min: 1, max: uint32Max, text: 'Invalid chunk_size' };
const destination = "Couldn't parse stripe destination";
const stripeStart: Bounds = { ...deviceSector, text: destination };

interface Stripe {
  readonly backing: Backing;
  readonly startSectors: number;
}

export const striped: TargetType = {
  name: 'striped',
  version: [1, 6, 0],
  create(args, context) {
    if (args.length < 2) {
      throw badArgument('Not enough arguments', plural(args.length, 'argument'), 'at least 2');
    }
    const count = parseNumber(args[0], stripeCount);
    const chunkSectors = parseNumber(args[1], chunkSize);
    const width = stripeSectors(context.lengthSectors, count, chunkSectors);
    if (args.length !== 2 + 2 * count) {
      const wanted = plural(2 * count, 'word');
      throw badArgument('Not enough destinations specified', `${args.length - 2}`, wanted);
    }
    const stripes: Stripe[] = [];
    for (let at = 2; at < args.length; at += 2) {
      const startSectors = parseNumber(args[at + 1], stripeStart);
      const word = args[at] as string;
      const backing = openDevice(context, word, startSectors + width, destination);
      stripes.push({ backing, startSectors });
    }
    return new StripedTarget(stripes, chunkSectors, context);
  },
};

/** Sectors of each stripe; the length must be so many whole chunks for each of them. */
function stripeSectors(lengthSectors: number, count: number, chunkSectors: number): number {
  const length = plural(lengthSectors, 'sector');
  if (lengthSectors % count !== 0) {
    const text = 'Target length not divisible by number of stripes';
    throw badArgument(text, length, `a multiple of ${count}`);
  }
  const width = lengthSectors / count;
  if (width % chunkSectors !== 0) {
    const text = 'Target length not divisible by chunk size';
    throw badArgument(text, length, `a multiple of ${count} times ${chunkSectors}`);
  }
  return width;
}

class StripedTarget implements Target {
  readonly type = striped;
  readonly maxIoSectors: number;
  readonly backings: readonly Backing[];
  readonly features: Features;
  // Plain fields: map is hot.
  private readonly stripes: readonly Stripe[];
  private readonly destinations: readonly Backing[];
  /** Where each stripe begins in its backing, in bytes. */
  private readonly starts: Float64Array;
  private readonly count: number;
  private readonly chunkBytes: number;
  private readonly beginBytes: number;

  constructor(stripes: readonly Stripe[], chunkSectors: number, context: TargetContext) {
    this.stripes = stripes;
    this.destinations = stripes.map((stripe) => stripe.backing);
    this.starts = Float64Array.from(stripes, (stripe) => stripe.startSectors * 512);
    this.count = stripes.length;
    this.chunkBytes = chunkSectors * 512;
    this.beginBytes = context.beginSectors * 512;
    this.maxIoSectors = chunkSectors;
    this.backings = [...new Set(this.destinations)];
    this.features = commonFeatures(this.backings);
  }

  map(io: Io): number {
    const offset = io.offset - this.beginBytes;
    const chunkBytes = this.chunkBytes;
    const chunk = Math.floor(offset / chunkBytes);
    const row = Math.floor(chunk / this.count);
    const stripe = chunk - row * this.count;
    io.backing = this.destinations[stripe] as Backing;
    io.backingOffset =
      (this.starts[stripe] as number) + row * chunkBytes + (offset - chunk * chunkBytes);
    return REMAPPED;
  }

  status(): string {
    const names = this.destinations.map((backing) => quoteWord(backing.name));
    return `${this.count} ${names.join(' ')} 1 ${'A'.repeat(this.count)}`;
  }

  table(): string {
    const words = this.stripes.map(
      (stripe) => `${quoteWord(stripe.backing.name)} ${stripe.startSectors}`,
    );
    return `${this.count} ${this.maxIoSectors} ${words.join(' ')}`;
  }
}
