/**
 * Brings devices up in the order that their stacking needs. An origin comes after its snapshots,
 * and not at all if one that would be remembered cannot be brought up: what is written to the
 * origin in the meantime would be missing in it.
 */

import { messageOf } from '../base/errors.js';
import { tableFileName } from './names.js';
import { originWords, type SnapshotLine, sameBacking, snapshotsIn } from './snapshot/tables.js';
import type { StateProblem, StoredDevice } from './state.js';
import { tableDependencies } from './table-text.js';

interface Node {
  readonly device: StoredDevice;
  readonly dependencies: readonly string[];
  /** Snapshots of what the device is the origin for. */
  readonly snapshots: readonly string[];
}

interface NamedLine {
  readonly name: string;
  readonly line: SnapshotLine;
}

/**
 * Snapshots whose COW another device merges into their origin: the last daemon ended between
 * storing that and removing their files.
 */
export function supersededDevices(devices: readonly StoredDevice[]): Set<string> {
  const lines = snapshotLines(devices);
  const merges = lines.filter(({ line }) => line.merging);
  const superseded = lines.filter(
    ({ line }) =>
      !line.merging &&
      merges.some(
        (merge) =>
          sameBacking(merge.line.origin, line.origin) && sameBacking(merge.line.cow, line.cow),
      ),
  );
  return new Set(superseded.map(({ name }) => name));
}

/**
 * Calls `create` for each device after those that it stands on. A device that fails is reported and
 * takes down only those that stand on it. `there` tells devices that came up by other means.
 */
export async function restore(
  devices: readonly StoredDevice[],
  there: (name: string) => boolean,
  create: (device: StoredDevice) => Promise<void>,
): Promise<StateProblem[]> {
  const problems: StateProblem[] = [];
  const failed = new Set<string>();
  const report = (name: string, text: string): void => {
    failed.add(name);
    problems.push({ file: tableFileName(name), name, text });
  };
  const nodes = new Map<string, Node>();
  const lines = snapshotLines(devices).filter(({ line }) => !line.merging);
  for (const device of devices) {
    try {
      const dependencies = tableDependencies(device.table);
      const snapshots = snapshotsOf(device, lines);
      nodes.set(device.name, { device, dependencies, snapshots });
    } catch (error) {
      report(device.name, messageOf(error));
    }
  }
  const up = new Set<string>();
  const { order, cycles } = sortNodes(nodes);
  for (const cycle of cycles) {
    const text = `stands on itself: ${[...cycle, cycle[0]].join(' -> ')}`;
    for (const name of cycle) if (!failed.has(name)) report(name, text);
  }
  for (const { device, dependencies, snapshots } of order) {
    const missing = dependencies.find((name) => !up.has(name) && !there(name));
    if (missing !== undefined) {
      const why = failed.has(missing) ? 'could not be brought up' : 'is not there';
      report(device.name, `stands on "${missing}", which ${why}`);
      continue;
    }
    const lost = snapshots.find((name) => failed.has(name) && remembers(nodes.get(name)?.device));
    if (lost !== undefined) {
      const why = `its snapshot "${lost}" could not be brought up, and would miss what is written`;
      report(device.name, `${why}: mend it or remove it, and start again`);
      continue;
    }
    try {
      await create(device);
      up.add(device.name);
    } catch (error) {
      report(device.name, messageOf(error));
    }
  }
  return problems;
}

/** The devices that are snapshots of what this one is the origin for. */
function snapshotsOf(device: StoredDevice, snapshots: readonly NamedLine[]): string[] {
  const words = originWords(device.table);
  const own = snapshots.filter(
    ({ name, line }) =>
      name !== device.name && words.some((word) => sameBacking(word, line.origin)),
  );
  return own.map(({ name }) => name);
}

function snapshotLines(devices: readonly StoredDevice[]): NamedLine[] {
  return devices.flatMap(({ name, table }) => snapshotsIn(table).map((line) => ({ name, line })));
}

/** A transient snapshot is lost with its daemon anyway. */
function remembers(device: StoredDevice | undefined): boolean {
  const lines = snapshotsIn(device?.table ?? null);
  return lines.some((line) => /^p/i.test(line.persistence));
}

/** Depth first. A cycle is told once, by the names on it; what only leads to it is in the order. */
function sortNodes(nodes: ReadonlyMap<string, Node>): { order: Node[]; cycles: string[][] } {
  const order: Node[] = [];
  const cycles: string[][] = [];
  const seen = new Set<string>();
  const onCycle = new Set<string>();
  for (const root of nodes.keys()) {
    if (seen.has(root)) continue;
    seen.add(root);
    // A stack of its own: a chain may be as long as there are devices.
    const path: { name: string; next: number }[] = [{ name: root, next: 0 }];
    while (path.length > 0) {
      const top = path[path.length - 1] as { name: string; next: number };
      const node = nodes.get(top.name) as Node;
      const before = [...node.dependencies, ...node.snapshots];
      const dependency = before[top.next++];
      if (dependency === undefined) {
        path.pop();
        if (!onCycle.has(top.name)) order.push(node);
        continue;
      }
      const at = path.findIndex((step) => step.name === dependency);
      if (at >= 0) {
        const cycle = path.slice(at).map((step) => step.name);
        if (cycle.some((name) => !onCycle.has(name))) cycles.push(cycle);
        for (const name of cycle) onCycle.add(name);
      } else if (nodes.has(dependency) && !seen.has(dependency)) {
        seen.add(dependency);
        path.push({ name: dependency, next: 0 });
      }
    }
  }
  return { order, cycles };
}
