/**
 * The change maps of a device, for those who keep them while the device changes. A target's map is
 * the same object for as long as it is the same record, whichever table shows it; so what was asked
 * for before a reload goes on if the new table shows the same thing, and fails if it does not.
 */

import { EIO } from '../base/errno.js';
import type { ChangeMap } from './change-map.js';
import type { ExtentList } from './extent-list.js';
import type { Table } from './table.js';

/** The device, as far as its maps are concerned. */
interface Shown {
  readonly live: Table | null;
}

export function changeMapsOf(device: Shown): ChangeMap[] {
  return targetMaps(device).map((map) => new DeviceChanges(device, map));
}

/** Those of the one target that the table is, if it is one that has any. */
function targetMaps({ live }: Shown): readonly ChangeMap[] {
  const [slot, ...others] = live?.slots ?? [];
  if (slot === undefined || others.length > 0) return [];
  return slot.target.changeMaps?.() ?? [];
}

class DeviceChanges implements ChangeMap {
  readonly #device: Shown;
  readonly #map: ChangeMap;

  constructor(device: Shown, map: ChangeMap) {
    this.#device = device;
    this.#map = map;
  }

  get name(): string {
    return this.#map.name;
  }

  extents(offset: number, length: number, list: ExtentList): number {
    if (!targetMaps(this.#device).includes(this.#map)) return EIO;
    return this.#map.extents(offset, length, list);
  }
}
