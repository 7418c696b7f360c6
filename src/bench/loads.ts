/** The loads that a device is measured with, and what they are to fio. */

import type { FileEngine } from './programs.js';
import { fileArguments } from './programs.js';

export interface Load {
  readonly name: string;
  readonly rw: 'randread' | 'read' | 'randwrite' | 'write';
  readonly blockBytes: number;
  readonly depth: number;
}

const kinds = [
  { words: 'random', block: '4 KiB', blockBytes: 4096, depth: 1 },
  { words: 'random', block: '4 KiB', blockBytes: 4096, depth: 16 },
  { words: 'sequential', block: '128 KiB', blockBytes: 131_072, depth: 8 },
] as const;

/** Latency, rate, throughput: for each direction. */
export function loadsOf(direction: 'read' | 'write'): Load[] {
  return kinds.map(({ words, block, blockBytes, depth }) => ({
    name: `${words} ${direction}, ${block}, depth ${depth}`,
    rw: words === 'random' ? `rand${direction}` : direction,
    blockBytes,
    depth,
  }));
}

export function isWrite({ rw }: Load): boolean {
  return rw === 'randwrite' || rw === 'write';
}

/** The bare files under a device: the same part of each, in turn. */
export interface FilePlace {
  readonly kind: 'files';
  readonly paths: readonly string[];
  readonly direct: boolean;
  readonly offsetBytes: number;
  /** Of each file. */
  readonly lengthBytes: number;
  readonly engine: FileEngine;
}

/** An export of the daemon. */
export interface ExportPlace {
  readonly kind: 'export';
  readonly uri: string;
  readonly lengthBytes: number;
}

export type Place = FilePlace | ExportPlace;

/** fio's command line for a load on a place, for so long. */
export function fioArguments(load: Load, place: Place, milliseconds: number): string[] {
  return [
    '--name=bench',
    ...placeArguments(place),
    `--rw=${load.rw}`,
    `--bs=${load.blockBytes}`,
    `--iodepth=${load.depth}`,
    `--runtime=${milliseconds}ms`,
    '--time_based',
    '--norandommap',
    ...(isWrite(load) ? [] : ['--readonly']),
    '--group_reporting',
    '--lat_percentiles=1',
    '--clat_percentiles=0',
    '--eta=never',
  ];
}

function placeArguments(place: Place): string[] {
  if (place.kind === 'export') {
    return ['--ioengine=nbd', `--uri=${place.uri}`, `--size=${place.lengthBytes}`];
  }
  const { paths, direct, offsetBytes, lengthBytes, engine } = place;
  return [
    `--ioengine=${engine}`,
    ...fileArguments(paths, direct),
    `--offset=${offsetBytes}`,
    `--size=${paths.length * lengthBytes}`,
  ];
}
