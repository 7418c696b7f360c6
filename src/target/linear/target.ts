/** Linear: the range is a stretch of a backing. See README.md. */

import { type Backing, commonFeatures, type Features } from '../../backing/backing.js';
import type { Io } from '../../device/io.js';
import { checkCount, deviceSector, openDevice, parseNumber } from '../arguments.js';
import { PassThrough } from '../pass-through.js';
import type { Target, TargetType } from '../target.js';

export const linear: TargetType = {
  name: 'linear',
  version: [1, 4, 0],
  create(args, context) {
    checkCount(args, 'Invalid argument count', 2);
    const [device, sector] = args as [string, string];
    const start = parseNumber(sector, deviceSector);
    const backing = openDevice(context, device, start + context.lengthSectors);
    return new LinearTarget(new PassThrough(backing, start, context.beginSectors));
  },
};

class LinearTarget implements Target {
  readonly type = linear;
  readonly maxIoSectors = 0;
  readonly backings: readonly Backing[];
  readonly features: Features;
  readonly #range: PassThrough;

  constructor(range: PassThrough) {
    this.#range = range;
    this.backings = [range.backing];
    this.features = commonFeatures(this.backings);
  }

  map(io: Io): number {
    return this.#range.remap(io);
  }

  status(): string {
    return '';
  }

  table(): string {
    return this.#range.words();
  }
}
