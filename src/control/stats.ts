/**
 * Counters of devices. The queue thread counts in shared memory; reading them asks nobody and holds
 * nothing up.
 */

import { ENXIO } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { readCounters } from '../device/counters.js';
import type { Catalogue } from './catalogue.js';
import type { NamedStats } from './messages.js';

/** Of the named device, or of all in the order of their names. Throws MapperError ENXIO. */
export function deviceStats(catalogue: Catalogue, name?: string): NamedStats[] {
  const names = name === undefined ? catalogue.names() : [name];
  return names.flatMap((one) => {
    const counters = catalogue.counters(one);
    if (counters !== null) return [{ name: one, ...readCounters(counters) }];
    if (name === undefined) return [];
    throw new MapperError(ENXIO, `no device "${name}"`);
  });
}
