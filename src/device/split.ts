/**
 * Carries out an Io that touches several targets, or several pieces of one, as parts:
 *
 *   parent   |-----------------------------------|
 *   slots    |  linear         |  striped, 64 KiB pieces   |
 *   parts    |-----------------|------|------|---|
 *
 * A bounded number of parts is under way at a time, however long the parent is (a TRIM may cover
 * the whole device). STATUS goes one part after the other, since its parts append to one list.
 */

import { EIO } from '../base/errno.js';
import { splitParts, statusParts } from '../base/limits.js';
import {
  FLAG_FUA,
  FLAG_HOLES_OK,
  FLAG_ONE,
  type Io,
  type IoOwner,
  type IoPool,
  type Operation,
  STATUS,
} from './io.js';
import type { Slot, Table } from './table.js';

/** Where the piece that starts at `offset` ends: at `end`, or before, where the slot wants it to. */
export function pieceEnd(slot: Slot, operation: Operation, offset: number, end: number): number {
  const last = Math.min(end, slot.end);
  const max = slot.maxIoBytes;
  if (max === 0) return last;
  const multiple = offset + max - ((offset - slot.begin) % max);
  if (multiple >= last) return last;
  const { target } = slot;
  if (target.pieceBytes === undefined) return multiple;
  return offset + target.pieceBytes(operation, offset, last - offset);
}

/** Sends a part, which lies within one piece of the slot, to the slot's target. */
export type Dispatch = (slot: Slot, part: Io) => void;

export class Split implements IoOwner {
  readonly #splits: SplitPool;
  readonly #ios: IoPool;
  #dispatch: Dispatch | null = null;
  #parent: Io | null = null;
  #table: Table | null = null;
  #next = 0;
  #underWay = 0;
  #error = 0;
  #issuing = false;
  /** Bytes that a STATUS found in its list: a device above may have put some there already. */
  #listedBefore = 0;
  /** Parts of a STATUS so far. */
  #statusParts = 0;

  constructor(splits: SplitPool, ios: IoPool) {
    this.#splits = splits;
    this.#ios = ios;
  }

  start(parent: Io, table: Table, dispatch: Dispatch): void {
    this.#parent = parent;
    this.#table = table;
    this.#dispatch = dispatch;
    this.#next = parent.offset;
    this.#underWay = 0;
    this.#error = 0;
    this.#listedBefore = parent.extents?.bytes ?? 0;
    this.#statusParts = 0;
    this.#issue();
  }

  finished(part: Io): void {
    const parent = this.#parent as Io;
    if (part.error !== 0 && this.#error === 0) this.#error = part.error;
    if (parent.operation === STATUS && this.#error === 0) {
      // The list may have filled up, or the part's target knew only the beginning.
      const list = parent.extents;
      const known = list === null ? 0 : parent.offset + list.bytes - this.#listedBefore;
      const enough = (parent.flags & FLAG_ONE) !== 0 || ++this.#statusParts === statusParts;
      if (known < part.offset + part.length || enough) {
        this.#next = parent.offset + parent.length;
      }
    }
    this.#ios.give(part);
    this.#underWay--;
    if (!this.#issuing) this.#issue();
  }

  /** Sends parts until enough are under way; ends the parent when none is left. */
  #issue(): void {
    const parent = this.#parent as Io;
    const table = this.#table as Table;
    const end = parent.offset + parent.length;
    const most = parent.operation === STATUS ? 1 : splitParts;
    // A part may complete before dispatch returns, and must not come back in here.
    this.#issuing = true;
    while (this.#next < end && this.#underWay < most && this.#error === 0) {
      const offset = this.#next;
      const slot = table.find(offset);
      if (slot === null) {
        this.#error = EIO;
        break;
      }
      const length = pieceEnd(slot, parent.operation, offset, end) - offset;
      const part = this.#ios.take(parent.operation, offset, length, this);
      part.flags = parent.flags & ~FLAG_HOLES_OK;
      part.memory = parent.memory + (offset - parent.offset);
      if (parent.operation === STATUS) part.extents = parent.extents;
      this.#next = offset + length;
      this.#underWay++;
      (this.#dispatch as Dispatch)(slot, part);
    }
    this.#issuing = false;
    if (this.#underWay > 0) return;
    const error = this.#error;
    this.#parent = null;
    this.#table = null;
    this.#splits.give(this);
    parent.complete(error);
  }
}

/** FLUSH of a table that has several places to flush: all of them at once. */
export class FlushAll implements IoOwner {
  readonly #ios: IoPool;
  #parent: Io | null = null;
  #underWay = 0;
  #error = 0;

  constructor(ios: IoPool) {
    this.#ios = ios;
  }

  start(parent: Io, table: Table): void {
    this.#parent = parent;
    // One more than there are, so that the parent does not end while parts are being sent.
    this.#underWay = 1;
    for (const backing of table.flushBackings) {
      backing.submit(this.#part(parent));
    }
    for (const target of table.flushTargets) {
      const part = this.#part(parent);
      const result = target.flush?.(part) ?? 0;
      if (result === 0) part.backing?.submit(part);
      else if (result < 0) part.complete(-result);
    }
    this.#ended(0);
  }

  finished(part: Io): void {
    const error = part.error;
    this.#ios.give(part);
    this.#ended(error);
  }

  #part(parent: Io): Io {
    this.#underWay++;
    const part = this.#ios.take(parent.operation, 0, 0, this);
    part.flags = parent.flags & FLAG_FUA;
    return part;
  }

  #ended(error: number): void {
    if (error !== 0 && this.#error === 0) this.#error = error;
    if (--this.#underWay === 0) (this.#parent as Io).complete(this.#error);
  }
}

/** Splits that are not in use. */
export class SplitPool {
  readonly #free: Split[] = [];
  readonly #ios: IoPool;

  constructor(ios: IoPool) {
    this.#ios = ios;
  }

  take(): Split {
    return this.#free.pop() ?? new Split(this, this.#ios);
  }

  give(split: Split): void {
    this.#free.push(split);
  }
}
