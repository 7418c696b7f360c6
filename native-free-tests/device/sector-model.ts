/**
 * What each sector of a disk may hold while requests overlap: stamps, one for each write, 0 for
 * zeroes.
 *
 *   a write begins          its stamp is possible from now on, also for reads under way
 *   it ends, was alone      its stamp is the only one possible (if it failed: what was, and it)
 *   it ends, was not alone  all of those that overlapped, and what was, stay possible
 *   a read ends             what it saw was possible; if nothing was written meanwhile, it is so
 */

import { Buffer } from 'node:buffer';

export const sectorBytes = 512;

interface Sector {
  possible: Set<number>;
  writers: number;
  /** Writes overlapped, and one of them is still under way. */
  mixed: boolean;
  /** Writes that ever began. */
  began: number;
  readonly readers: Set<Set<number>>;
}

/** A sector with that stamp: every byte of it tells. */
export function stamped(stamp: number): Buffer {
  const sector = Buffer.alloc(sectorBytes);
  if (stamp === 0) return sector;
  for (let at = 0; at < sectorBytes; at += 4) sector.writeUInt32LE(stamp * 1024 + at, at);
  return sector;
}

function stampOf(sector: Buffer): number {
  const stamp = Math.floor(sector.readUInt32LE(0) / 1024);
  if (!stamped(stamp).equals(sector)) throw new Error(`a sector torn, its first stamp ${stamp}`);
  return stamp;
}

export class SectorModel {
  readonly #sectors = new Map<string, Sector>();

  #sector(name: string): Sector {
    let sector = this.#sectors.get(name);
    if (sector === undefined) {
      sector = { possible: new Set([0]), writers: 0, mixed: false, began: 0, readers: new Set() };
      this.#sectors.set(name, sector);
    }
    return sector;
  }

  /** Returns what is to be called when the write has ended. */
  write(names: readonly string[], stamp: number): (failed: boolean) => void {
    const sectors = names.map((name) => this.#sector(name));
    for (const sector of sectors) {
      sector.mixed ||= sector.writers > 0;
      sector.writers++;
      sector.began++;
      sector.possible.add(stamp);
      for (const reader of sector.readers) reader.add(stamp);
    }
    return (failed) => {
      for (const sector of sectors) {
        sector.writers--;
        if (!sector.mixed && !failed) sector.possible = new Set([stamp]);
        if (sector.writers === 0) sector.mixed = false;
      }
    };
  }

  /** Returns what is to be called with the data that was read; it throws if that cannot be. */
  read(names: readonly string[]): (data: Buffer) => void {
    const watched = names.map((name) => {
      const sector = this.#sector(name);
      const allowed = new Set(sector.possible);
      sector.readers.add(allowed);
      return { name, sector, allowed, began: sector.began, alone: sector.writers === 0 };
    });
    return (data) => {
      for (const [i, { name, sector, allowed, began, alone }] of watched.entries()) {
        sector.readers.delete(allowed);
        if (data.length === 0) continue;
        const stamp = stampOf(data.subarray(i * sectorBytes, (i + 1) * sectorBytes));
        if (!allowed.has(stamp)) {
          throw new Error(`${name} reads as ${stamp}, wanted one of ${[...allowed]}`);
        }
        if (alone && sector.began === began) sector.possible = new Set([stamp]);
      }
    };
  }
}
