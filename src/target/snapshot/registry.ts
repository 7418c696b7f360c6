/**
 * Which targets of an engine belong together. A snapshot and its origin name the same backing; two
 * tables of one snapshot name the same COW.
 */

import type { Backing } from '../../backing/backing.js';
import type { Engine } from '../../engine/engine.js';
import type { SnapshotHandle } from './handle.js';
import { Origin } from './origin.js';

/** The tables that stand on one COW: the one that has the snapshot, and one that will take over. */
export interface CowUse {
  readonly origin: Origin;
  source: SnapshotHandle | null;
  destination: SnapshotHandle | null;
}

export class SnapshotRegistry {
  readonly #origins = new Map<object, { origin: Origin; users: number }>();
  readonly cows = new Map<object, CowUse>();

  /** The origin that a backing is; `release` it once for each time. */
  origin(backing: Backing): Origin {
    let known = this.#origins.get(backing.identity);
    if (known === undefined) {
      known = { origin: new Origin(), users: 0 };
      this.#origins.set(backing.identity, known);
    }
    known.users++;
    return known.origin;
  }

  release(backing: Backing): void {
    const known = this.#origins.get(backing.identity);
    if (known !== undefined && --known.users === 0) this.#origins.delete(backing.identity);
  }
}

const registries = new WeakMap<Engine, SnapshotRegistry>();

export function snapshotsOf(engine: Engine): SnapshotRegistry {
  let registry = registries.get(engine);
  if (registry === undefined) {
    registry = new SnapshotRegistry();
    registries.set(engine, registry);
  }
  return registry;
}
