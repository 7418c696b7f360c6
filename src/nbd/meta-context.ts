/**
 * Metadata contexts: what BLOCK_STATUS can tell of an export. A context's name is a namespace, a
 * colon and a leaf name. A query that names nothing we have, in whichever namespace, is no error.
 *
 *   base:allocation           1     holes and zeroes
 *   qemu:allocation-depth     2     how many layers down the data is
 *   qemu:dirty-bitmap:NAME    3...  what has changed since the snapshot NAME was taken
 */

import type { ChangeMap } from '../device/change-map.js';
import {
  BASE_ALLOCATION,
  BASE_NAMESPACE,
  QEMU_ALLOCATION_DEPTH,
  QEMU_DIRTY_BITMAP,
  QEMU_NAMESPACE,
} from './constants.js';

/** A context as it goes into a reply: `id` tags the extents of BLOCK_STATUS. */
export interface MetaContext {
  readonly id: number;
  readonly name: string;
  /** Where its extents come from: the device (holes and zeroes, or depths), or a record. */
  readonly source: 'allocation' | 'depth' | ChangeMap;
}

/** The id that a list of contexts carries, where none has been selected. */
export const LISTED_ID = 0;

/** Ids differ from LISTED_ID, so that one taken from a list by mistake shows up. */
const ofEveryExport: readonly MetaContext[] = [
  { id: 1, name: BASE_ALLOCATION, source: 'allocation' },
  { id: 2, name: QEMU_ALLOCATION_DEPTH, source: 'depth' },
];
const firstChangeMapId = 3;

/** All contexts of an export that has those records of changes. */
export function contextsOf(changeMaps: readonly ChangeMap[]): readonly MetaContext[] {
  const records = changeMaps.map((map, i) => ({
    id: firstChangeMapId + i,
    name: QEMU_DIRTY_BITMAP + map.name,
    source: map,
  }));
  return [...ofEveryExport, ...records];
}

/** Queries that stand for all names which begin with them. */
const families: readonly string[] = [BASE_NAMESPACE, QEMU_NAMESPACE, QEMU_DIRTY_BITMAP];

/** What LIST_META_CONTEXT shows: all without a query, those of a family, those that are named. */
export function listContexts(
  contexts: readonly MetaContext[],
  queries: readonly string[],
): readonly MetaContext[] {
  if (queries.length === 0) return contexts;
  const asked = families.filter((family) => queries.includes(family));
  return contexts.filter(
    ({ name }) => queries.includes(name) || asked.some((family) => name.startsWith(family)),
  );
}

/** What SET_META_CONTEXT selects: those that are named in full, each once; `base:` names none. */
export function selectContexts(
  contexts: readonly MetaContext[],
  queries: readonly string[],
): readonly MetaContext[] {
  return contexts.filter(({ name }) => queries.includes(name));
}
