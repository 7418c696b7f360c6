/**
 * The files and block devices that a device stands on in the end, found by following its table down
 * through other devices. Several are measured in turn, the same part of each: fio cannot do more
 * with one job. So of tables with many different parts only the largest like ones count.
 */

import { deviceNamed } from '../backing/device.js';
import { parseFileWord } from '../backing/open.js';
import { stackDepth } from '../base/limits.js';
import { splitWords } from '../device/table-text.js';
import type { TableLine } from '../queue/commands.js';

/** A part of a file. */
export interface FilePart {
  readonly path: string;
  readonly direct: boolean;
  readonly offsetSectors: number;
  readonly lengthSectors: number;
}

/** Parts of several files that are alike. */
export interface LikeParts {
  readonly paths: readonly string[];
  readonly direct: boolean;
  readonly offsetSectors: number;
  readonly lengthSectors: number;
}

export type TableOf = (name: string) => Promise<readonly TableLine[]>;

/** How a target's words name what is beneath, and how much of its range falls to each. */
interface Shape {
  readonly devices: (args: readonly string[]) => readonly (readonly [string, string])[];
  readonly share: (count: number) => number;
}

const whole = (): number => 1;

/** `<device> <offset>` again and again, from that word on. */
function pairsFrom(first: number) {
  return (args: readonly string[]): [string, string][] => {
    const pairs: [string, string][] = [];
    for (let at = first; at + 1 < args.length; at += 2) {
      pairs.push([args[at] as string, args[at + 1] as string]);
    }
    return pairs;
  };
}

const firstPair = (args: readonly string[]) => pairsFrom(0)(args).slice(0, 1);
const firstDevice = (args: readonly string[]) =>
  args[0] === undefined ? [] : ([[args[0], '0']] as const);

/** Targets that are not here (memory, zero, error) stand on nothing. */
const shapes: Readonly<Record<string, Shape>> = {
  linear: { devices: firstPair, share: whole },
  delay: { devices: firstPair, share: whole },
  flakey: { devices: firstPair, share: whole },
  striped: { devices: pairsFrom(2), share: (count) => 1 / count },
  switch: { devices: pairsFrom(3), share: whole },
  'snapshot-origin': { devices: firstDevice, share: whole },
  // What was not copied is in the origin.
  snapshot: { devices: firstDevice, share: whole },
  'snapshot-merge': { devices: firstDevice, share: whole },
};

/** Through these, writing to a file beneath is writing to the device and nothing else. */
const plainTypes = new Set(['linear', 'striped']);

export interface Beneath {
  readonly parts: readonly FilePart[];
  /** Types of targets that were met on the way down. */
  readonly types: ReadonlySet<string>;
}

export async function partsBeneath(name: string, tableOf: TableOf): Promise<Beneath> {
  const parts: FilePart[] = [];
  const types = new Set<string>();
  const look = async (word: string, first: number, count: number, depth: number): Promise<void> => {
    const device = deviceNamed(word);
    if (device === null) {
      parts.push({ ...parseFileWord(word), offsetSectors: first, lengthSectors: count });
    } else if (depth > 0) {
      await lookInto(device, first, count, depth - 1);
    }
  };
  const lookInto = async (
    device: string,
    first: number,
    count: number,
    depth: number,
  ): Promise<void> => {
    for (const { beginSectors, lengthSectors, type, words } of await tableOf(device)) {
      const begin = Math.max(first, beginSectors);
      const end = Math.min(first + count, beginSectors + lengthSectors);
      if (begin >= end) continue;
      types.add(type);
      const shape = shapes[type];
      const devices = shape?.devices(splitWords(words)) ?? [];
      const share = shape?.share(devices.length) ?? 0;
      for (const [word, offset] of devices) {
        const at = Number(offset) + Math.floor((begin - beginSectors) * share);
        await look(word, at, Math.floor((end - begin) * share), depth);
      }
    }
  };
  await lookInto(name, 0, Number.MAX_SAFE_INTEGER, stackDepth);
  return { parts, types };
}

export function isPlain({ types }: Beneath): boolean {
  return [...types].every((type) => plainTypes.has(type));
}

/** The like parts with the most sectors together; null where there are none at all. */
export function largestLike(parts: readonly FilePart[]): LikeParts | null {
  const groups = new Map<string, FilePart[]>();
  for (const part of parts) {
    const key = `${part.direct} ${part.offsetSectors} ${part.lengthSectors}`;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [part]);
    else if (group.every(({ path }) => path !== part.path)) group.push(part);
  }
  let largest: FilePart[] = [];
  const sectorsIn = (group: FilePart[]): number => group.length * (group[0]?.lengthSectors ?? 0);
  for (const group of groups.values()) {
    if (sectorsIn(group) > sectorsIn(largest)) largest = group;
  }
  const [first] = largest;
  if (first === undefined) return null;
  return { ...first, paths: largest.map(({ path }) => path) };
}
