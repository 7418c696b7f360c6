/**
 * A table of regions, or a part of one, as bytes: in binary frames of the control socket, in the
 * state directory, in files of mapperctl. All numbers are little-endian.
 *
 *    0   8  magic "mapregns"
 *    8   2  version 1
 *   10   2  flags: 1 a whole table (which replaces the present one), 0 a segment of it
 *   12   4  bits of an entry: the smallest with 2^bits >= paths, at least 1
 *   16   4  paths, 1 to 65536
 *   20   4  region size in sectors of 512 bytes
 *   24   8  regions of the table
 *   32   8  first region that is here (0 of a whole table)
 *   40   8  count of regions that are here (all of a whole table)
 *   48   8  sector of its device where the switch target begins; who uploads may leave 0
 *   56   4  CRC-32C of the slots
 *   60   4  CRC-32C of bytes 0 to 59
 *   64      slots of 8 bytes, ceil(count / floor(64 / bits)) of them
 *
 * A slot holds floor(64 / bits) path numbers, the first in its lowest bits, and none crosses into
 * the next; region `first` is in the lowest bits of the first slot. Bits that are left over are 0
 * and are not looked at. The slots are what RegionTable has in memory.
 */

import { crc32c } from '../../base/crc32c.js';
import { EINVAL } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { regionPaths, regions as regionsMax } from '../../base/limits.js';
import type { RegionUpload } from '../target.js';
import { entryBits, readEntry, slotBytes, writeEntry } from './region-table.js';

export const regionHeaderBytes = 64;
const magic = 'mapregns';
const version = 1;

/** What the header says; `slotBytes` follow it. */
export interface RegionHeader extends Omit<RegionUpload, 'slots'> {
  /** Where the target begins in its device. */
  readonly sector: number;
  readonly slotBytes: number;
  readonly slotsCrc: number;
}

/** A table, and the target that it is for. */
export interface RegionSection {
  readonly sector: number;
  readonly table: RegionUpload;
}

function invalid(text: string): MapperError {
  return new MapperError(EINVAL, text);
}

const hex = (value: number): string => `0x${value.toString(16).padStart(8, '0')}`;

/** Reads the first 64 bytes of `bytes`. Throws MapperError. */
export function parseRegionHeader(bytes: Uint8Array): RegionHeader {
  if (bytes.length < regionHeaderBytes) {
    throw invalid(`region table has ${bytes.length} bytes, its header alone ${regionHeaderBytes}`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, regionHeaderBytes);
  const found = Buffer.from(bytes.subarray(0, magic.length)).toString('latin1');
  if (found !== magic) {
    throw invalid(`region table begins with ${JSON.stringify(found)}, wanted "${magic}"`);
  }
  const foundVersion = view.getUint16(8, true);
  if (foundVersion === 256 * version) {
    throw invalid('numbers are in big-endian order, wanted little-endian');
  }
  if (foundVersion !== version) throw invalid(`version is ${foundVersion}, wanted ${version}`);
  const crc = crc32c(bytes.subarray(0, 60));
  const foundCrc = view.getUint32(60, true);
  if (foundCrc !== crc) {
    throw invalid(`CRC-32C of the header is ${hex(foundCrc)}, wanted ${hex(crc)}`);
  }
  const flags = view.getUint16(10, true);
  if (flags > 1) throw invalid(`flags are ${hex(flags)}, wanted 0 or 1`);
  const bits = view.getUint32(12, true);
  const count = wideNumber(view, 40, 'count of regions here');
  const header = {
    whole: flags === 1,
    regions: wideNumber(view, 24, 'number of regions'),
    regionSectors: view.getUint32(20, true),
    paths: view.getUint32(16, true),
    bits,
    first: wideNumber(view, 32, 'first region'),
    count,
    sector: wideNumber(view, 48, 'sector'),
    slotsCrc: view.getUint32(56, true),
  };
  checkNumbers(header);
  return { ...header, slotBytes: slotBytes(count, bits) };
}

function wideNumber(view: DataView, at: number, what: string): number {
  const value = view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
  if (Number.isSafeInteger(value)) return value;
  throw invalid(`${what} is ${value}, wanted less than 2^53`);
}

function checkNumbers(header: Omit<RegionHeader, 'slotBytes'>): void {
  const { whole, regions, regionSectors, paths, bits, first, count } = header;
  if (paths < 1 || paths > regionPaths) throw invalid(`${paths} paths, wanted 1 to ${regionPaths}`);
  const wantedBits = entryBits(paths);
  if (bits !== wantedBits) {
    throw invalid(`entries of ${bits} bits, wanted ${wantedBits} for ${paths} paths`);
  }
  if (regionSectors === 0) throw invalid('region size is 0 sectors, wanted 1 or more');
  if (regions < 1 || regions > regionsMax) {
    throw invalid(`table of ${regions} regions, wanted 1 to ${regionsMax}`);
  }
  if (count === 0) throw invalid('entries of 0 regions, wanted 1 or more');
  if (first + count > regions) {
    throw invalid(`regions ${first} to ${first + count - 1}, the table has ${regions}`);
  }
  if (whole && count !== regions) {
    throw invalid(`whole table with entries of ${count} regions, wanted all ${regions}`);
  }
}

/**
 * The table of a header and the slots that follow it, or MapperError: the slots' length, their
 * checksum, and every path number are checked.
 */
export function checkedRegions(header: RegionHeader, slots: SharedArrayBuffer): RegionUpload {
  const { slotBytes, slotsCrc, sector: _, ...about } = header;
  if (slots.byteLength !== slotBytes) {
    const wanted = `wanted ${slotBytes} for ${about.count} regions of ${about.bits} bits`;
    throw invalid(`slots have ${slots.byteLength} bytes, ${wanted}`);
  }
  const crc = crc32c(new Uint8Array(slots));
  if (crc !== slotsCrc)
    throw invalid(`CRC-32C of the slots is ${hex(slotsCrc)}, wanted ${hex(crc)}`);
  const table = { ...about, slots };
  const at = firstWrongEntry(table);
  if (at >= 0) {
    const path = new RegionEntryReader(table).next(at);
    const wanted = `wanted less than ${table.paths}`;
    throw invalid(`region ${table.first + at} is on path ${path}, ${wanted}`);
  }
  return table;
}

/** The first entry that is no path of the table; -1: there is none. */
function firstWrongEntry({ paths, bits, count, slots }: RegionUpload): number {
  const mask = 2 ** bits - 1;
  if (paths > mask) return -1;
  const halves = new Uint32Array(slots);
  const perSlot = Math.floor(64 / bits);
  for (let slot = 0, at = 0; at < count; slot++) {
    const end = Math.min(count, at + perSlot);
    for (let shift = 0; at < end; at++, shift += bits) {
      if (readEntry(halves, slot, shift, mask) >= paths) return at;
    }
  }
  return -1;
}

/** Entries of a table one after the other, or from a place on. */
export class RegionEntryReader {
  readonly #halves: Uint32Array;
  readonly #bits: number;
  readonly #perSlot: number;
  readonly #mask: number;
  #at = 0;

  constructor({ slots, bits }: Pick<RegionUpload, 'slots' | 'bits'>) {
    this.#halves = new Uint32Array(slots);
    this.#bits = bits;
    this.#perSlot = Math.floor(64 / bits);
    this.#mask = 2 ** bits - 1;
  }

  /** The entry number `at` of those that are here; without it the one behind the last asked for. */
  next(at = this.#at): number {
    this.#at = at + 1;
    const slot = Math.floor(at / this.#perSlot);
    return readEntry(this.#halves, slot, (at - slot * this.#perSlot) * this.#bits, this.#mask);
  }
}

/** Packs path numbers into slots, the first into the lowest bits. */
export function packEntries(paths: ArrayLike<number>, bits: number): SharedArrayBuffer {
  const slots = new SharedArrayBuffer(slotBytes(paths.length, bits));
  const halves = new Uint32Array(slots);
  const perSlot = Math.floor(64 / bits);
  const mask = 2 ** bits - 1;
  for (let slot = 0, at = 0; at < paths.length; slot++) {
    const end = Math.min(paths.length, at + perSlot);
    for (let shift = 0; at < end; at++, shift += bits) {
      writeEntry(halves, slot, shift, mask, paths[at] as number);
    }
  }
  return slots;
}

/** The table without so many entries at its beginning: a segment that is packed anew. */
export function withoutFirst(table: RegionUpload, skipped: number): RegionUpload {
  if (skipped === 0) return table;
  const count = table.count - skipped;
  const slots = packEntries(unpackEntries(table).subarray(skipped), table.bits);
  return { ...table, whole: false, first: table.first + skipped, count, slots };
}

/** The path numbers in a table's slots. */
export function unpackEntries(table: Pick<RegionUpload, 'slots' | 'bits' | 'count'>): Uint16Array {
  const paths = new Uint16Array(table.count);
  const entries = new RegionEntryReader(table);
  for (let at = 0; at < paths.length; at++) paths[at] = entries.next();
  return paths;
}

/** Header and slots; the slots are not copied. */
export function encodeRegions({ sector, table }: RegionSection): [Uint8Array, Uint8Array] {
  const { whole, regions, regionSectors, paths, bits, first, count } = table;
  const slots = new Uint8Array(table.slots);
  const header = new Uint8Array(regionHeaderBytes);
  const view = new DataView(header.buffer);
  header.set(Buffer.from(magic, 'latin1'));
  view.setUint16(8, version, true);
  view.setUint16(10, whole ? 1 : 0, true);
  view.setUint32(12, bits, true);
  view.setUint32(16, paths, true);
  view.setUint32(20, regionSectors, true);
  setWide(view, 24, regions);
  setWide(view, 32, first);
  setWide(view, 40, count);
  setWide(view, 48, sector);
  view.setUint32(56, crc32c(slots), true);
  view.setUint32(60, crc32c(header.subarray(0, 60)), true);
  return [header, slots];
}

function setWide(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

/** One table and nothing else. Throws MapperError. */
export function decodeRegions(bytes: Uint8Array): RegionSection {
  const { section, rest } = decodeOne(bytes);
  if (rest.length === 0) return section;
  throw invalid(`${rest.length} bytes too many: found ${bytes.length}`);
}

/** Tables one behind the other, as a device with several switch targets has them. */
export function decodeSections(bytes: Uint8Array): RegionSection[] {
  const sections: RegionSection[] = [];
  let left = bytes;
  do {
    const { section, rest } = decodeOne(left);
    sections.push(section);
    left = rest;
  } while (left.length > 0);
  return sections;
}

function decodeOne(bytes: Uint8Array): { section: RegionSection; rest: Uint8Array } {
  const header = parseRegionHeader(bytes);
  const end = regionHeaderBytes + header.slotBytes;
  const found = bytes.subarray(regionHeaderBytes, end);
  const slots = new SharedArrayBuffer(found.length);
  new Uint8Array(slots).set(found);
  const table = checkedRegions(header, slots);
  return { section: { sector: header.sector, table }, rest: bytes.subarray(end) };
}
