/**
 * What a simulated daemon serves: a volume that snapshots are taken of, over files side by side,
 * striped, delayed, past the page cache, or over other devices; a switch; and a device with two
 * tables over two files, between which it goes back and forth. A table can be written in several
 * ways that mean the same.
 */

import type { Random } from './random.js';

export interface LayoutFile {
  readonly path: string;
  readonly sectors: number;
  /** Where what is used of it begins; sectors. */
  readonly offset: number;
}

export interface LayoutDevice {
  readonly name: string;
  readonly table: string;
}

export interface SwitchLayout {
  readonly name: string;
  readonly sectors: number;
  readonly regionSectors: number;
  readonly paths: number;
  /** Clients use it; otherwise the volume stands on it. */
  readonly direct: boolean;
}

export interface Layout {
  readonly files: readonly LayoutFile[];
  /** In the order in which they are made. */
  readonly devices: readonly LayoutDevice[];
  readonly volumeSectors: number;
  /** Chunks of the volume's snapshots are multiples of it. */
  readonly blockSectors: number;
  /** A table of the volume's. */
  volumeTable(random: Random): string;
  /** The device that the volume stands on, which may be renamed; null if there is none. */
  readonly base: string | null;
  readonly switch: SwitchLayout | null;
  /** The sectors of the device that flips, and its two tables; null if there is none. */
  readonly flip: { readonly sectors: number; readonly tables: readonly [string, string] } | null;
}

export const volume = 'vol';
export const flip = 'flip';

class Builder {
  readonly files: LayoutFile[] = [];
  readonly devices: LayoutDevice[] = [];
  /** Some file is past the page cache. */
  direct = false;
  readonly #random: Random;

  constructor(random: Random) {
    this.#random = random;
  }

  /** A file with room for so many sectors behind some others: `path offset`. */
  place(name: string, sectors: number): { word: string; offset: number } {
    const random = this.#random;
    const offset = random.chance(300) ? random.below(24) : 0;
    const path = `/disks/${name}.img`;
    this.files.push({ path, sectors: offset + sectors + random.below(2), offset });
    const direct = random.chance(100);
    this.direct ||= direct;
    return { word: direct ? `file://${path}?direct=1` : path, offset };
  }

  striped(name: string, sectors: number, stripes: number, chunk: number): string {
    const words = Array.from({ length: stripes }, (_, i) => {
      const { word, offset } = this.place(`${name}${i}`, sectors / stripes);
      return `${word} ${offset}`;
    });
    return `0 ${sectors} striped ${stripes} ${chunk} ${words.join(' ')}`;
  }

  /** A switch over files, round robin. */
  switch(name: string, sectors: number, direct: boolean): SwitchLayout {
    const random = this.#random;
    const paths = random.between(2, 3);
    const regionSectors = random.pick([5, 8, 8, 16, 32]);
    const words = Array.from({ length: paths }, (_, i) => {
      const { word, offset } = this.place(`${name}${i}`, sectors);
      return `${word} ${offset}`;
    });
    const table = `0 ${sectors} switch ${paths} ${regionSectors} 0 ${words.join(' ')}`;
    this.devices.push({ name, table });
    return { name, sectors, regionSectors, paths, direct };
  }
}

/** Lines of linear targets that together map what one or several places have. */
class Segments {
  readonly #places: readonly { word: string; offset: number; sectors: number }[];

  constructor(builder: Builder, name: string, sectors: number, count: number) {
    const share = Math.floor(sectors / count);
    this.#places = Array.from({ length: count }, (_, i) => {
      const length = i === count - 1 ? sectors - share * (count - 1) : share;
      return { ...builder.place(`${name}${i}`, length), sectors: length };
    });
  }

  /** Cut at other places each time. */
  table(random: Random): string {
    const lines: string[] = [];
    let begin = 0;
    for (const { word, offset, sectors } of this.#places) {
      const cut = random.chance(500) && sectors > 1 ? random.between(1, sectors - 1) : 0;
      if (cut > 0) lines.push(`${begin} ${cut} linear ${word} ${offset}`);
      lines.push(`${begin + cut} ${sectors - cut} linear ${word} ${offset + cut}`);
      begin += sectors;
    }
    return lines.join('\n');
  }
}

/** A device's name as a word of a table, in either way. */
function deviceWord(name: string, random: Random): string {
  return random.chance(500) ? `dm:${name}` : `/dev/mapper/${name}`;
}

export function anyLayout(random: Random): Layout {
  const builder = new Builder(random);
  const kind = random.below(7);
  let sectors = 8 * random.between(12, 36) + (random.chance(400) ? random.below(8) : 0);
  let base: string | null = null;
  let switchLayout: SwitchLayout | null = null;
  let table: (random: Random) => string;
  if (kind === 0) {
    const segments = new Segments(builder, 'vol', sectors, random.between(1, 3));
    table = (random) => segments.table(random);
  } else if (kind === 1 || kind === 2) {
    const stripes = random.between(2, 3);
    const chunk = random.pick([4, 8, 16]);
    sectors = Math.ceil(sectors / (stripes * chunk)) * stripes * chunk;
    const striped = builder.striped('vol', sectors, stripes, chunk);
    if (kind === 1) {
      table = () => striped;
    } else {
      base = 'base';
      builder.devices.push({ name: base, table: striped });
      table = (random) => `0 ${sectors} linear ${deviceWord('base', random)} 0`;
    }
  } else if (kind === 3) {
    switchLayout = builder.switch('sw', sectors, false);
    table = (random) => `0 ${sectors} linear ${deviceWord('sw', random)} 0`;
  } else if (kind === 4) {
    base = 'base';
    const { word, offset } = builder.place('vol', sectors);
    const milliseconds = random.between(1, 5);
    const delayed = `0 ${sectors} delay ${word} ${offset} ${milliseconds}`;
    builder.devices.push({ name: base, table: delayed });
    table = (random) => `0 ${sectors} linear ${deviceWord('base', random)} 0`;
  } else {
    const segments = new Segments(builder, 'vol', sectors, 1);
    table = (random) => segments.table(random);
  }
  if (kind !== 3 && random.chance(700)) {
    switchLayout = builder.switch('sw', 8 * random.between(8, 24), true);
  }
  builder.devices.push({ name: volume, table: table(random) });
  const flipping = random.chance(500) ? flipTables(builder, random) : null;
  if (flipping !== null) builder.devices.push({ name: flip, table: flipping.tables[0] });
  return {
    files: builder.files,
    devices: builder.devices,
    volumeSectors: sectors,
    blockSectors: builder.direct ? 8 : 1,
    volumeTable: table,
    base,
    switch: switchLayout,
    flip: flipping,
  };
}

function flipTables(
  builder: Builder,
  random: Random,
): { sectors: number; tables: readonly [string, string] } {
  const sectors = 8 * random.between(4, 8);
  const half = sectors / 2;
  const [a, b] = ['a', 'b'].map((name) => {
    const { word, offset } = builder.place(`flip-${name}`, sectors);
    return `0 ${half} linear ${word} ${offset}\n${half} ${half} linear ${word} ${offset + half}`;
  }) as [string, string];
  return { sectors, tables: [a, b] };
}
