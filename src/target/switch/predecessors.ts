/**
 * Which switch a new table's one takes over from: the one in the same place of the same device that
 * was made before it and is still there. While a table is resumed, the old one is.
 */

import type { TargetHost } from '../target.js';

/** What stands in a place of a device. */
export interface Placed {
  readonly context: { readonly host: TargetHost; readonly beginSectors: number };
}

export class Predecessors<T extends Placed> {
  /** In the order in which they were made. */
  readonly #all = new WeakMap<TargetHost, T[]>();

  add(target: T): void {
    const { host } = target.context;
    const all = this.#all.get(host);
    if (all === undefined) this.#all.set(host, [target]);
    else all.push(target);
  }

  remove(target: T): void {
    const all = this.#all.get(target.context.host) ?? [];
    const at = all.indexOf(target);
    if (at >= 0) all.splice(at, 1);
  }

  before(target: T): T | null {
    const { beginSectors, host } = target.context;
    const all = this.#all.get(host) ?? [];
    const older = all.slice(0, all.indexOf(target));
    return older.findLast(({ context }) => context.beginSectors === beginSectors) ?? null;
  }
}
