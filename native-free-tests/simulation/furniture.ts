/** What is on the disks of a world before anything happens there. */

import { type Cells, uniform } from './cells.js';
import type { FileSystem, Inode } from './file-system.js';
import type { Layout, LayoutFile } from './layout.js';
import type { Random } from './random.js';
import { sectorBytes, stamp } from './stamps.js';

/** Gives sectors of a file contents of their own. */
export function fillFile(
  fileSystem: FileSystem,
  { offset, path }: LayoutFile,
  sectors: number,
  firstStamp: number,
): Cells {
  const words = new Int32Array((sectors * sectorBytes) / 4);
  stamp(words, 0, sectors, firstStamp);
  const { medium } = fileSystem.find(path) as Inode;
  const bytes = new Uint8Array(words.buffer);
  medium.answered(medium.apply(offset * sectorBytes, bytes.length, bytes, 0));
  medium.allocate(offset * sectorBytes, bytes.length);
  medium.harden();
  return uniform(sectors, firstStamp);
}

/** Files that snapshots may have, full of what looks like exceptions. Their paths. */
export function addOldCows(fileSystem: FileSystem, layout: Layout, random: Random): string[] {
  return [0, 1].map((number) => {
    const path = `/cows/old${number}.cow`;
    const bytes = (layout.volumeSectors + 16 * 3) * sectorBytes * 2;
    const { medium } = fileSystem.add(path, bytes);
    const words = new Uint32Array(bytes / 4);
    for (let at = 0; at < words.length; at += 2) words[at] = random.below(200);
    medium.answered(medium.apply(0, bytes, new Uint8Array(words.buffer), 0));
    medium.harden();
    return path;
  });
}
