/**
 * A table: the targets of a device, side by side from its first sector to its last, and the
 * backings they opened. Made by `createTable`, unchanged until it is destroyed.
 */

import type { Backing, Features } from '../backing/backing.js';
import { commonFeatures } from '../backing/backing.js';
import { EINVAL } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { findTarget } from '../target/registry.js';
import type { Target, TargetContext } from '../target/target.js';
import { parseTable } from './table-text.js';

/** A target and its place in the device, in bytes. */
export interface Slot {
  readonly begin: number;
  readonly end: number;
  readonly target: Target;
  /** Pieces do not cross multiples of it, counted from `begin`; 0: no such limit. */
  readonly maxIoBytes: number;
}

/** A backing that somebody opened and must close. */
export interface OpenBacking extends Backing {
  close(): void;
}

/** What a table is made with. */
export interface TableContext extends Omit<TargetContext, 'beginSectors' | 'lengthSectors'> {
  openBacking(word: string, sectorsNeeded: number, readOnly?: boolean): OpenBacking;
}

export class Table {
  readonly slots: readonly Slot[];
  readonly sizeBytes: number;
  readonly features: Features;
  /** Each backing once. */
  readonly backings: readonly OpenBacking[];
  /** For FLUSH: targets with a way of their own, and the backings of all others. */
  readonly flushTargets: readonly Target[];
  readonly flushBackings: readonly Backing[];

  constructor(slots: readonly Slot[], backings: readonly OpenBacking[]) {
    this.slots = slots;
    this.sizeBytes = slots.at(-1)?.end ?? 0;
    this.features = commonFeatures(slots.map((slot) => slot.target));
    this.backings = backings;
    const targets = slots.map((slot) => slot.target);
    this.flushTargets = targets.filter((target) => target.flush !== undefined);
    const plain = targets.filter((target) => target.flush === undefined);
    this.flushBackings = [...new Set(plain.flatMap((target) => target.backings))];
  }

  /** The slot that holds that byte, or null behind the end. */
  find(offset: number): Slot | null {
    const slots = this.slots;
    const first = slots[0] as Slot;
    if (offset < first.end) return first;
    if (offset >= this.sizeBytes) return null;
    let low = 1;
    let high = slots.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (offset < (slots[middle] as Slot).end) high = middle;
      else low = middle + 1;
    }
    return slots[low] as Slot;
  }

  /** Waits for what targets still do of their own accord, then closes the backings. */
  async destroy(): Promise<void> {
    await endAll(this.slots, this.backings);
  }
}

/** Makes the targets that a table's text asks for. Throws MapperError, having closed everything. */
export async function createTable(text: string, context: TableContext): Promise<Table> {
  const slots: Slot[] = [];
  const backings = new Map<string, OpenBacking>();
  const openBacking = (word: string, sectorsNeeded: number, readOnly?: boolean): Backing => {
    const key = `${readOnly ?? ''} ${word}`;
    let backing = backings.get(key);
    if (backing === undefined) {
      backing = context.openBacking(word, sectorsNeeded, readOnly);
      backings.set(key, backing);
    }
    const sectors = Math.floor(backing.size() / 512);
    if (sectors < sectorsNeeded) {
      const found = `${word} has ${sectors} sectors, wanted ${sectorsNeeded}`;
      throw new MapperError(EINVAL, `device too small for target: ${found}`);
    }
    return backing;
  };
  try {
    for (const line of parseTable(text)) {
      const prefix = `line ${line.number}: ${line.type}`;
      const type = findTarget(line.type);
      if (type === null) throw new MapperError(EINVAL, `${prefix}: unknown target type`);
      const { beginSectors, lengthSectors } = line;
      try {
        const target = await type.create(line.args, {
          ...context,
          beginSectors,
          lengthSectors,
          openBacking,
        });
        slots.push({
          begin: beginSectors * 512,
          end: (beginSectors + lengthSectors) * 512,
          target,
          maxIoBytes: target.maxIoSectors * 512,
        });
      } catch (error) {
        throw error instanceof MapperError
          ? error.prefixed(prefix)
          : new Error(`${prefix}: ${messageOf(error)}`, { cause: error });
      }
    }
    return new Table(slots, [...backings.values()]);
  } catch (error) {
    await endAll(slots, [...backings.values()]);
    throw error;
  }
}

async function endAll(slots: readonly Slot[], backings: readonly OpenBacking[]): Promise<void> {
  for (const slot of slots) await slot.target.destroy?.();
  for (const backing of backings) backing.close();
}
