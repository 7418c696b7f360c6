/** The size of a block device: Node has no lseek, and stat says 0, but Linux tells in sysfs. */

import { readFileSync } from 'node:fs';
import { EOPNOTSUPP } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';

/** sysfs counts in these, whatever the device's own block size is. */
const sectorBytes = 512;

/** `device` is the st_rdev of its node. Throws MapperError where there is no sysfs. */
export function blockDeviceBytes(device: bigint, sysfs = '/sys'): number {
  const file = `${sysfs}/dev/block/${majorMinor(device)}/size`;
  try {
    const sectors = Number(readFileSync(file, 'latin1'));
    if (Number.isSafeInteger(sectors * sectorBytes)) return sectors * sectorBytes;
  } catch {
    // Told below, with the path.
  }
  throw new MapperError(EOPNOTSUPP, `size of block device: no number of sectors in "${file}"`);
}

/** `8:1`, from the kernel's 64-bit dev_t: major bits 8 to 19 and 44 up, minor the rest. */
export function majorMinor(device: bigint): string {
  const major = ((device >> 32n) & 0xfffff000n) | ((device >> 8n) & 0xfffn);
  const minor = ((device >> 12n) & 0xffffff00n) | (device & 0xffn);
  return `${major}:${minor}`;
}
