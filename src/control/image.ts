/** An image named on the command line, as a device: a linear target over the whole of it. */

import { accessSync, constants, type Stats, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { EINVAL, errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { quoteWord } from '../device/table-text.js';

export interface Image {
  /** The device's name, if nothing else is asked for. */
  readonly name: string;
  readonly table: string;
  readonly writable: boolean;
  /** Bytes at the end that make no whole sector, and are not served. */
  readonly cutBytes: number;
}

/** Looks at a file or block device. Throws MapperError. */
export async function describeImage(path: string): Promise<Image> {
  const full = resolve(path);
  let bytes: number;
  try {
    bytes = await sizeOf(full);
  } catch (error) {
    if (error instanceof MapperError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    throw new MapperError(errnoOf(code), `open "${path}": ${messageOf(error)}`);
  }
  const sectors = Math.floor(bytes / 512);
  if (sectors === 0) {
    throw new MapperError(EINVAL, `"${path}" has ${bytes} bytes, wanted at least one sector (512)`);
  }
  return {
    name: basename(full),
    table: `0 ${sectors} linear ${quoteWord(backingWord(full))} 0`,
    writable: isWritable(full),
    cutBytes: bytes % 512,
  };
}

/** A path as a word of a table line; one with control characters only fits into a URI. */
export function backingWord(path: string): string {
  return /\p{Cc}/u.test(path) ? pathToFileURL(path).href : path;
}

/** Bytes of a file or block device. Throws MapperError or a system error. */
export async function sizeOf(path: string): Promise<number> {
  const stats = statSync(path);
  if (stats.isFile()) return stats.size;
  if (stats.isBlockDevice()) return blockDeviceBytes(stats);
  throw new MapperError(EINVAL, `"${path}" is neither a file nor a block device`);
}

/** sysfs counts every block device in units of 512 bytes. */
async function blockDeviceBytes(stats: Stats): Promise<number> {
  const { major, minor } = deviceNumbers(stats.rdev);
  const text = await readFile(`/sys/dev/block/${major}:${minor}/size`, 'utf8');
  return Number(text) * 512;
}

/** Linux's dev_t in user space: 12 + 20 bits of major, 8 + 24 bits of minor, interleaved. */
export function deviceNumbers(rdev: number): { major: number; minor: number } {
  const value = BigInt(rdev);
  const major = ((value >> 8n) & 0xfffn) | ((value >> 32n) & 0xfffff000n);
  const minor = (value & 0xffn) | ((value >> 12n) & 0xffffff00n);
  return { major: Number(major), minor: Number(minor) };
}

function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
