/**
 * What a sector holds: a stamp of 32 bits, and 127 words that are made from it. Each sector of each
 * write has a stamp of its own, so that a sector tells which write it came from, and one that is
 * part of two writes is noticed. Stamp 0 is a sector of zeroes.
 */

export const sectorBytes = 512;
const words = sectorBytes / 4;
const factor = 0x9e3779b1;
const step = 0x85ebca6b;

/** Fills sectors with consecutive stamps from `first` on; 0: all of them with zeroes. */
export function stamp(target: Int32Array, at: number, sectors: number, first: number): void {
  if (first === 0) {
    target.fill(0, at, at + sectors * words);
    return;
  }
  let index = at;
  for (let sector = 0; sector < sectors; sector++) {
    const stamp = first + sector;
    let value = Math.imul(stamp, factor);
    target[index++] = stamp;
    for (let i = 1; i < words; i++) {
      value = (value + step) | 0;
      target[index++] = value;
    }
  }
}

/** The stamp of the sector at that word, or -1: it is no whole sector of any write. */
export function readStamp(source: Int32Array, at: number): number {
  const stamp = source[at] as number;
  const end = at + words;
  if (stamp === 0) {
    for (let index = at + 1; index < end; index++) if (source[index] !== 0) return -1;
    return 0;
  }
  let value = Math.imul(stamp, factor);
  for (let index = at + 1; index < end; index++) {
    value = (value + step) | 0;
    if (source[index] !== value) return -1;
  }
  return stamp;
}
