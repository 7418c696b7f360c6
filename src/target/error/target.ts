/** Error: all I/O fails. See README.md. */

import { type Backing, commonFeatures, type Features } from '../../backing/backing.js';
import { EIO } from '../../base/errno.js';
import type { ExtentList } from '../../device/extent-list.js';
import { type Io, STATUS } from '../../device/io.js';
import { deviceSector, openDevice, parseNumber } from '../arguments.js';
import { SUBMITTED, type Target, type TargetContext, type TargetType } from '../target.js';

export const error: TargetType = {
  name: 'error',
  version: [1, 7, 0],
  create(args, context) {
    if (args.length === 2) return new ErrorTarget([modelDevice(args, context)]);
    if (args.length > 0) {
      // The kernel takes any number of words, so we must too; but they are likely a mistake.
      const fields = { device: context.deviceName, arguments: args.length };
      context.log.warn(fields, 'error target ignores its arguments, wanted none or 2');
    }
    return new ErrorTarget([]);
  },
};

/** The device that this one pretends to be; nothing but its limits is used. */
function modelDevice(args: readonly string[], context: TargetContext): Backing {
  const start = parseNumber(args[1], deviceSector);
  return openDevice(context, args[0] as string, start + context.lengthSectors);
}

class ErrorTarget implements Target {
  readonly type = error;
  readonly maxIoSectors = 0;
  /** None: FLUSH does not come here, nor go to the model device. */
  readonly backings: readonly Backing[] = [];
  readonly features: Features;

  constructor(models: readonly Backing[]) {
    this.features = { ...commonFeatures(models), extents: false };
  }

  map(io: Io): number {
    if (io.operation !== STATUS) return -EIO;
    // Data, so that nobody skips the range as a hole and misses the error. As a depth: nothing.
    (io.extents as ExtentList).push(io.length, 0);
    io.complete(0);
    return SUBMITTED;
  }

  status(): string {
    return '';
  }

  table(): string {
    return '';
  }
}
