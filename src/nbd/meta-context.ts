/**
 * Metadata contexts: what BLOCK_STATUS can tell of an export. A context's name is a namespace, a
 * colon and a leaf name. A query that names nothing we have, in whichever namespace, is no error.
 */

import { BASE_ALLOCATION, BASE_NAMESPACE } from './constants.js';

/** A context as it goes into a reply: `id` tags the extents of BLOCK_STATUS. */
export interface MetaContext {
  readonly id: number;
  readonly name: string;
}

/** The id that a list of contexts carries, where none has been selected. */
export const LISTED_ID = 0;

/** Ids differ from LISTED_ID, so that one taken from a list by mistake shows up. */
export const baseAllocation: MetaContext = { id: 1, name: BASE_ALLOCATION };

const offered: readonly MetaContext[] = [baseAllocation];

/** What LIST_META_CONTEXT shows: all without a query, all of `base:`, or those that are named. */
export function listContexts(queries: readonly string[]): readonly MetaContext[] {
  if (queries.length === 0 || queries.includes(BASE_NAMESPACE)) return offered;
  return selectContexts(queries);
}

/** What SET_META_CONTEXT selects: those that are named in full, each once; `base:` names none. */
export function selectContexts(queries: readonly string[]): readonly MetaContext[] {
  return offered.filter((context) => queries.includes(context.name));
}
