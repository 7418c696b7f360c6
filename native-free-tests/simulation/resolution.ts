/**
 * What has become of the devices in a crash: what they must show now, by what was there before and
 * by the tables that the next daemon has found; and what follows from it, if all is well.
 */

import type { Cells } from './cells.js';
import { SimFailure } from './failure.js';
import { type Change, type Family, stateOf } from './family.js';
import type { Job } from './jobs.js';
import { volume } from './layout.js';
import type { SnapshotModel } from './snapshot-model.js';

/** A device, and what it may show. */
export interface Check {
  readonly name: string;
  readonly cells: Cells;
}

export interface Resolution {
  readonly checks: readonly Check[];
  commit(): void;
}

/** Live tables by device. */
export type Tables = ReadonlyMap<string, string | null>;

/** Of the volume and its snapshots. Throws SimFailure if something is lost. */
export function resolveFamily(family: Family, tables: Tables): Resolution {
  const { change } = family;
  const state = stateOf(tables.get(volume) ?? null);
  const checks: Check[] = [];
  const commits: (() => void)[] = [];
  const merged = mergedSnapshot(family, tables);
  for (const snapshot of family.snapshots.values()) {
    if (tables.has(snapshot.name)) {
      checks.push({ name: snapshot.name, cells: snapshot.device.history.cells });
    } else if (snapshot !== merged) {
      if (!isLeaving(change, snapshot)) {
        throw new SimFailure('lost', `snapshot ${snapshot.name} is not there any more`);
      }
      commits.push(() => family.snapshots.delete(snapshot.name));
    }
  }
  if (change?.kind === 'take' && tables.has(change.name)) {
    const { facts, name } = change;
    const cells = family.volume.history.fork((family.job as Job).start);
    checks.push({ name, cells });
    commits.push(() => family.add(name, facts, cells));
  }
  if (checks.length > 0 && state === 'plain') {
    throw new SimFailure('lost', `${volume} has snapshots and can be written past them`);
  }
  const { cells, next } = family.volume.history;
  checks.push({ name: volume, cells: merged === null ? cells : (next as Cells) });
  if (merged !== null) commits.push(() => family.merged(merged));
  return {
    checks,
    commit: () => {
      for (const commit of commits) commit();
      family.restarted(state);
    },
  };
}

function isLeaving(change: Change | null, snapshot: SnapshotModel): boolean {
  return change !== null && change.kind !== 'take' && change.snapshot === snapshot;
}

/** The snapshot that the volume has become, although nobody was told so; or null. */
function mergedSnapshot({ change, snapshots }: Family, tables: Tables): SnapshotModel | null {
  if (change?.kind !== 'merge' || tables.has(change.snapshot.name)) return null;
  if (stateOf(tables.get(volume) ?? null) === 'origin' && snapshots.size === 1) {
    throw new SimFailure('lost', `${change.snapshot.name} is gone, and was not merged`);
  }
  return change.snapshot;
}
