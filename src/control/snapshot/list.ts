/**
 * The snapshots that there are, and how full they are: the tables say which, the targets' status
 * lines say the rest. The numbers of a status line are sectors of the COW:
 *
 *   <allocated>/<total> <metadata>   or   Invalid   Overflow   Merge failed   Unknown
 */

import { ENXIO } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { splitWords } from '../../device/table-text.js';
import type { TableLine } from '../../queue/commands.js';
import type { QueueCalls } from '../../queue/queue.js';
import type { Catalogue } from '../catalogue.js';
import type { KnownDevice } from '../entries.js';
import type { SnapshotInfo, SnapshotState } from '../messages.js';
import { originOf, originOver, snapshotsIn, snapshotWords } from './tables.js';

/** What a status line says. */
export interface SnapshotUsage {
  readonly state: SnapshotState;
  /** Sectors; null where the line has no numbers. */
  readonly allocated: number | null;
  readonly total: number | null;
  readonly metadata: number | null;
}

const states = new Map<string, SnapshotState>([
  ['Invalid', 'invalid'],
  ['Overflow', 'overflow'],
  ['Merge failed', 'merge failed'],
]);

export function parseUsage(words: string, merging: boolean): SnapshotUsage {
  const match = /^(\d+)\/(\d+)(?: (\d+))?$/.exec(words.trim());
  if (match === null) {
    const state = states.get(words.trim()) ?? 'unknown';
    return { state, allocated: null, total: null, metadata: null };
  }
  const [allocated, total, metadata] = [1, 2, 3].map((at) => Number(match[at] ?? 0)) as [
    number,
    number,
    number,
  ];
  const active = !merging ? 'active' : allocated === metadata ? 'merged' : 'merging';
  return { state: active, allocated, total, metadata };
}

/** LVM2's percentage: metadata count as soon as there is one exception. */
export function fillPercent(allocated: number, total: number, metadata: number): number {
  if (allocated === total) return 100;
  return allocated === metadata ? 0 : (100 * allocated) / total;
}

/** All snapshots, or those of one origin, in the order of their names. */
export async function listSnapshots(
  catalogue: Catalogue,
  queue: QueueCalls,
  origin?: string,
): Promise<SnapshotInfo[]> {
  const found: SnapshotInfo[] = [];
  const devices = catalogue.all();
  const origins = devices.filter(({ live }) => originOf(live) !== null);
  for (const device of devices) {
    if (snapshotsIn(device.live).length === 0) continue;
    const all = await snapshotsOn(device, queue, origins);
    found.push(...all.filter((one) => origin === undefined || one.origin === origin));
  }
  return found;
}

/** The snapshots in a device's live table; none if it has just been removed. */
async function snapshotsOn(
  device: KnownDevice,
  queue: QueueCalls,
  origins: readonly KnownDevice[],
): Promise<SnapshotInfo[]> {
  const { name } = device;
  let table: TableLine[];
  let status: TableLine[];
  try {
    [table, status] = await Promise.all([
      queue.call('table', { name }),
      queue.call('status', { name }),
    ]);
  } catch (error) {
    if (error instanceof MapperError && error.errno === ENXIO) return [];
    throw error;
  }
  return table.flatMap((line, at) => {
    const usage = status[at]?.words;
    const merging = line.type === 'snapshot-merge';
    if ((line.type !== 'snapshot' && !merging) || usage === undefined) return [];
    return snapshotInfo(device, line, usage, origins) ?? [];
  });
}

function snapshotInfo(
  { name, created }: KnownDevice,
  line: TableLine,
  statusWords: string,
  origins: readonly KnownDevice[],
): SnapshotInfo | null {
  const merging = line.type === 'snapshot-merge';
  const words = snapshotWords(splitWords(line.words), merging);
  if (words === null) return null;
  const { state, allocated, total, metadata } = parseUsage(statusWords, merging);
  const chunkSectors = Number(words.rest[1] ?? 0);
  const numbers = allocated !== null && total !== null && metadata !== null;
  const over = originOver(origins, words.origin);
  return {
    name,
    origin: merging ? name : (over?.name ?? words.origin),
    type: words.persistence,
    state,
    chunkSectors,
    exceptions: numbers && chunkSectors > 0 ? (allocated - metadata) / chunkSectors : null,
    usedBytes: numbers ? allocated * 512 : null,
    totalBytes: numbers ? total * 512 : null,
    percent: numbers ? fillPercent(allocated, total, metadata) : null,
    created: created ?? null,
    cow: words.cow,
  };
}
