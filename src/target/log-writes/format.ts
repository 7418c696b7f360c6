/**
 * The log on disk, as the kernel's dm-log-writes has it; numbers are little-endian, and everything
 * is in sectors of 512 bytes (the super block says so):
 *
 *   sector 0   super block: u64 magic | u64 version 1 | u64 entries | u32 bytes in a sector
 *   then       an entry, its data, an entry, its data, ...
 *   entry      one sector: u64 first sector | u64 sectors | u64 flags | u64 bytes of the mark's
 *              name | the name | zeroes
 *   data       the sectors that were written; none follow a TRIM, a FLUSH or a mark
 */

import { EINVAL } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';

export const sectorBytes = 512;

/** The magic's halves, low and high: 0x006a736677736872. */
const magicLow = 0x77736872;
const magicHigh = 0x006a7366;
const version = 1;

export const ENTRY_FLUSH = 1;
export const ENTRY_FUA = 2;
export const ENTRY_DISCARD = 4;
export const ENTRY_MARK = 8;

const entryHeadBytes = 32;
/** Bytes of a mark's name: what is left of its sector, less the kernel's NUL. */
export const markBytes = sectorBytes - entryHeadBytes - 1;
/** The mark that ends a log whose target went in an orderly way. */
export const endMark = 'dm-log-writes-end';

/** What an entry says. */
export interface EntryFields {
  /** Sectors. */
  readonly first: number;
  readonly sectors: number;
  readonly flags: number;
}

function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

/** Fills the sector at `at`. */
export function packSuper(bytes: Uint8Array, view: DataView, at: number, entries: number): void {
  bytes.fill(0, at, at + sectorBytes);
  view.setUint32(at, magicLow, true);
  view.setUint32(at + 4, magicHigh, true);
  putU64(view, at + 8, version);
  putU64(view, at + 16, entries);
  view.setUint32(at + 24, sectorBytes, true);
}

/** Fills the sector at `at`; a mark has a name. */
export function packEntry(
  bytes: Uint8Array,
  view: DataView,
  at: number,
  entry: EntryFields,
  name: Uint8Array | null,
): void {
  bytes.fill(0, at, at + sectorBytes);
  putU64(view, at, entry.first);
  putU64(view, at + 8, entry.sectors);
  putU64(view, at + 16, entry.flags);
  if (name === null) return;
  putU64(view, at + 24, name.length);
  bytes.set(name, at + entryHeadBytes);
}

/** A mark's name in bytes. Throws MapperError for one that an entry has no room for. */
export function markName(text: string): Uint8Array {
  const name = Buffer.from(text);
  if (name.length >= 1 && name.length <= markBytes && !name.includes(0)) return name;
  const found = name.includes(0) ? 'a NUL in it' : `${name.length} bytes`;
  throw new MapperError(EINVAL, `invalid mark (found ${found}, wanted 1 to ${markBytes} bytes)`);
}
