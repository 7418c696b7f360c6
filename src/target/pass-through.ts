/**
 * A stretch of a backing that lies under a target's whole range: the device's sector `begin` is the
 * backing's sector `start`. Linear is nothing else; delay and flakey pass on to one.
 */

import type { Backing } from '../backing/backing.js';
import type { Io } from '../device/io.js';
import { quoteWord } from '../device/table-text.js';
import { REMAPPED } from './target.js';

export class PassThrough {
  readonly backing: Backing;
  readonly startSectors: number;
  /** From a device offset to the backing's, in bytes; may be negative. */
  readonly shiftBytes: number;

  constructor(backing: Backing, startSectors: number, beginSectors: number) {
    this.backing = backing;
    this.startSectors = startSectors;
    this.shiftBytes = (startSectors - beginSectors) * 512;
  }

  remap(io: Io): number {
    io.backing = this.backing;
    io.backingOffset = io.offset + this.shiftBytes;
    return REMAPPED;
  }

  /** FLUSH has no range. */
  remapFlush(io: Io): number {
    io.backing = this.backing;
    io.backingOffset = 0;
    return REMAPPED;
  }

  /** `<dev> <offset>` for the table line. */
  words(): string {
    return `${quoteWord(this.backing.name)} ${this.startSectors}`;
  }
}
