/** What the commands about snapshots share: what they work on, and what they refuse. */

import { EBUSY, EINVAL, ENXIO } from '../../base/errno.js';
import { MapperError, messageOf } from '../../base/errors.js';
import type { Log } from '../../base/log.js';
import type { DeviceInfo } from '../../queue/commands.js';
import type { QueueCalls } from '../../queue/queue.js';
import type { KnownDevice } from '../entries.js';
import type { Files } from '../files.js';
import { linesOf, type SnapshotLine, snapshotOf } from './tables.js';

export interface SnapshotContext {
  readonly queue: QueueCalls;
  readonly log: Log;
  /** The state directory, absolute; null if there is none. */
  readonly directory: string | null;
  readonly files: Files;
}

/** Where devices are looked up: the catalogue, or what it knows. */
export interface Lookup {
  known(name: string): KnownDevice | null;
}

/** The device, or MapperError ENXIO. */
export function knownDevice(lookup: Lookup, name: string): KnownDevice {
  const device = lookup.known(name);
  if (device === null) throw new MapperError(ENXIO, `no device "${name}"`);
  return device;
}

/** The line of a device that is a snapshot and nothing else. Throws MapperError. */
export function snapshotLine(lookup: Lookup, name: string): SnapshotLine {
  const { live } = knownDevice(lookup, name);
  const line = snapshotOf(live);
  if (line !== null) return line;
  const types = [...new Set(linesOf(live).map(({ type }) => type))].join(', ');
  throw new MapperError(EINVAL, `"${name}" is no snapshot (its table is ${types || 'empty'})`);
}

export function refuseInUse({ name, openCount }: DeviceInfo): void {
  if (openCount === 0) return;
  throw new MapperError(EBUSY, `device "${name}" is in use (open count ${openCount})`);
}

/** People may have a device suspended, or half changed: then it is theirs. */
export async function refuseUnsettled({ queue }: SnapshotContext, name: string): Promise<void> {
  const info = await queue.call('info', { name });
  if (info.state === 'SUSPENDED') {
    throw new MapperError(EBUSY, `device "${name}" is suspended: resume it first`);
  }
  if (!hasInactive(info)) return;
  throw new MapperError(EBUSY, `device "${name}" has an inactive table: resume or clear it first`);
}

export function hasInactive({ tables }: DeviceInfo): boolean {
  return tables.includes('INACTIVE');
}

/** What a command has to say besides that it is done: it was not all that it might have been. */
export class Notes {
  readonly texts: string[] = [];
  readonly #log: Log;

  constructor(log: Log) {
    this.#log = log;
  }

  add(text: string): void {
    this.texts.push(text);
  }

  /** Something that failed when all that matters was done. */
  failed(device: string, action: string, error: unknown): void {
    this.add(`cannot ${action}: ${messageOf(error)}`);
    this.#log.warn({ device, error: messageOf(error) }, `cannot ${action}`);
  }
}
