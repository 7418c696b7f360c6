/** What both engines need to know of a file, from Node's own calls. */

import { type BigIntStats, closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { EINVAL, EIO } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import type { OpenOptions } from './engine.js';

/** Opens a regular file or block device; throws MapperError with the system's errno. */
export function openFile(path: string, options: OpenOptions): number {
  let flags = options.writable ? constants.O_RDWR : constants.O_RDONLY;
  if (options.direct) flags |= constants.O_DIRECT;
  let fd: number;
  try {
    // Without O_NONBLOCK the open of a FIFO would wait for its other end.
    fd = openSync(path, flags | constants.O_NONBLOCK);
  } catch (error) {
    const { errno, code } = error as NodeJS.ErrnoException;
    const how = options.writable ? 'for reading and writing' : 'for reading';
    throw new MapperError(-(errno ?? -EIO), `cannot open ${path} ${how}: ${code}`);
  }
  const stat = fstatSync(fd);
  if (!stat.isFile() && !stat.isBlockDevice()) {
    closeSync(fd);
    throw new MapperError(EINVAL, `${path} is neither a regular file nor a block device`);
  }
  return fd;
}

/** The same for every path that leads to the file, or every node of the block device. */
export function fileIdentity(stat: BigIntStats): string {
  return stat.isBlockDevice() ? `block:${stat.rdev}` : `${stat.dev}:${stat.ino}`;
}

/** `8:1` in the kernel's numbering of a 64-bit dev_t. */
function majorMinor(dev: bigint): string {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & ~0xfffn);
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xffffff00n);
  return `${major}:${minor}`;
}

/** The directory in sysfs of the disk that the file is on, or is. */
function sysfsOf(stat: BigIntStats): string {
  return `/sys/dev/block/${majorMinor(stat.isBlockDevice() ? stat.rdev : stat.dev)}`;
}

/** Whether the disk beneath turns. Unknown (a network file system, say) counts as no. */
export function isRotational(stat: BigIntStats): boolean {
  // A partition has no queue of its own: its disk is one up.
  for (const place of ['queue/rotational', '../queue/rotational']) {
    try {
      return readFileSync(`${sysfsOf(stat)}/${place}`, 'latin1').trim() === '1';
    } catch {}
  }
  return false;
}
