/**
 * The block size that the kernel is told for an export. Larger blocks are better for us, but what
 * is on a disk counts in those it was made with: a partition table in sectors of 512 bytes is not
 * found on a disk that has others, and a file system does not go onto a disk whose blocks are
 * larger than its own.
 */

import { EINVAL } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import type { Probe } from './probe.js';

/** The driver takes these, smaller than a page or as large. */
const blockSizes = [4096, 2048, 1024, 512];

/** Throws MapperError EINVAL. */
export function chooseBlockSize({ sizeBytes, blockBytesMin, beginning }: Probe): number {
  const made = blockSizeIn(Buffer.from(beginning));
  for (const size of blockSizes) {
    if (size <= made && size >= blockBytesMin && sizeBytes % size === 0) return size;
  }
  const wanted = `wanted blocks of at least ${blockBytesMin} bytes`;
  throw new MapperError(EINVAL, `found contents in blocks of ${made} bytes, ${wanted}`);
}

/** Throws MapperError EINVAL. */
export function checkBlockSize(size: number, { sizeBytes, blockBytesMin }: Probe): void {
  if (!blockSizes.includes(size)) {
    throw new MapperError(EINVAL, `--block-size: found ${size}, wanted 512, 1024, 2048 or 4096`);
  }
  if (size < blockBytesMin) {
    throw new MapperError(EINVAL, `--block-size: found ${size}, wanted at least ${blockBytesMin}`);
  }
  if (sizeBytes % size !== 0) {
    const text = `the export has ${sizeBytes} bytes, which is no multiple of it`;
    throw new MapperError(EINVAL, `--block-size: found ${size}: ${text}`);
  }
}

/**
 * Blocks of what a disk begins with. Nothing yet: the largest. What is not known here: the
 * smallest, on which everything works.
 */
function blockSizeIn(beginning: Buffer): number {
  const magic = (text: string, at: number): boolean =>
    beginning.toString('latin1', at, at + text.length) === text;
  if (beginning.every((byte) => byte === 0)) return 4096;
  if (magic('EFI PART', 4096)) return 4096;
  if (magic('EFI PART', 512)) return 512;
  if (magic('XFSB', 0)) return beginning.readUInt16BE(102);
  if (magic('\x53\xef', 1080)) return Math.min(4096, 1024 << beginning.readUInt32LE(1048));
  return 512;
}
