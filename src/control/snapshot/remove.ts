/**
 * Removing a snapshot while its origin is in use. With the last one the origin gets the table back
 * that it had before the first, and the real device goes. A snapshot that was removed as a device
 * and nothing else leaves both as they are: the origin gets its table back when it is asked for.
 */

import { deviceNamed } from '../../backing/device.js';
import { EINVAL } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import type { KnownDevice } from '../entries.js';
import type { SnapshotNotes } from '../messages.js';
import type { Steps } from '../steps.js';
import { tableDependencies } from '../table-text.js';
import {
  hasInactive,
  Notes,
  refuseInUse,
  refuseUnsettled,
  type SnapshotContext,
  snapshotLine,
} from './context.js';
import { cowPath, ownerOfCow, removeCow, userOf } from './cow-file.js';
import { swapTable } from './swap.js';
import {
  originOf,
  originOver,
  realName,
  realUnder,
  type SnapshotLine,
  sameBacking,
  snapshotOf,
  snapshotsIn,
} from './tables.js';
import { Undo } from './undo.js';

export interface Removal {
  readonly name: string;
  /** null: no device is the origin of that snapshot. */
  readonly origin: string | null;
  readonly force: boolean;
  readonly keepCow: boolean;
}

/** The caller has the lock. Throws MapperError. */
export async function removeSnapshot(
  context: SnapshotContext,
  steps: Steps,
  { name, origin, force, keepCow }: Removal,
): Promise<SnapshotNotes> {
  const line = snapshotLine(steps.entries, name);
  const info = await context.queue.call('info', { name });
  if (!force) refuseInUse(info);
  const notes = new Notes(context.log);
  if (origin !== null) await refuseUnsettled(context, origin);
  const plain = origin === null ? null : plainTable(steps, origin, name, notes);
  const undo = new Undo();
  try {
    if (!force && info.state === 'ACTIVE' && !hasInactive(info)) {
      // A flush, while nobody has to wait for it: the one when it is removed finds little to do.
      undo.did(`resume "${name}"`, async () => {
        if (steps.entries.has(name)) await steps.resume(name);
      });
      await steps.suspend(name, false);
      await steps.resume(name);
    }
    undo.did(`put the file of "${name}" back`, () => steps.file(name));
    await steps.unfile(name);
    const unmake = (): Promise<void> => steps.unmake(name, force);
    if (origin === null) await unmake();
    else await swapTable(steps, origin, plain, { work: unmake });
  } catch (error) {
    await undo.takeBack(error);
  }
  if (origin !== null && plain !== null) await removeReal(steps, origin, notes);
  if (!keepCow) await removeOwnCow(context, steps, line, name, notes);
  return { origin, notes: notes.texts };
}

/** Gives an origin that has no snapshots any more its table back. The caller has the lock. */
export async function freeOrigin(
  context: SnapshotContext,
  steps: Steps,
  origin: string,
): Promise<SnapshotNotes> {
  await refuseUnsettled(context, origin);
  const notes = new Notes(context.log);
  const plain = plainTable(steps, origin, origin, notes);
  if (plain === null) {
    const word = `dm:${realName(origin)}`;
    const snapshots = steps.entries.all().filter(({ live }) => isSnapshotOver(live, word));
    const found = snapshots.map(({ name }) => `, its snapshot is "${name}"`);
    const why = notes.texts.map((text) => `; ${text}`);
    throw new MapperError(EINVAL, `"${origin}" is no snapshot${[...found, ...why].join('')}`);
  }
  await swapTable(steps, origin, plain);
  await removeReal(steps, origin, notes);
  return { origin, notes: notes.texts };
}

/** What is left of a snapshot that was removed as a device and nothing else, in words. */
export function leftBehind(
  { directory }: SnapshotContext,
  live: string | null,
  devices: readonly KnownDevice[],
): string[] {
  const line = snapshotOf(live);
  if (line === null) return [];
  const notes: string[] = [];
  const over = originOver(devices, line.origin);
  const isLast = !devices.some((device) => isSnapshotOver(device.live, line.origin));
  if (over !== null && realUnder(over) !== null && isLast) {
    const left = `"${over.name}" still is an origin, and stands on "${realName(over.name)}"`;
    notes.push(`${left}: "snapshot --remove ${over.name}" gives it its table back`);
  }
  const path = cowPath(line.cow);
  if (path !== null && ownerOfCow(directory, path) !== null) {
    notes.push(`COW ${path} is left where it is`);
  }
  return notes;
}

function isSnapshotOver(live: string | null, word: string): boolean {
  return snapshotsIn(live).some((one) => sameBacking(one.origin, word));
}

/**
 * The table that the origin gets back when `leaving` is gone; null if others stand on the real
 * device still, or if that is not one that `snapshot` made.
 */
export function plainTable(
  steps: Steps,
  origin: string,
  leaving: string,
  notes: Notes,
): string | null {
  const real = realName(origin);
  const over = originOf(steps.entries.known(origin)?.live ?? null);
  if (over === null || deviceNamed(over.word) !== real) return null;
  // A merge that is under way has to come to its end first.
  if (over.merging && leaving !== origin) return null;
  const others = new Map<string, boolean>();
  for (const { name, table } of steps.entries.tables()) {
    if (name === origin || name === leaving || !standsOn(table, real)) continue;
    const isSnapshot = snapshotsIn(table).some((one) => sameBacking(one.origin, over.word));
    others.set(name, isSnapshot || (others.get(name) ?? false));
  }
  for (const [name, isSnapshot] of others) {
    if (!isSnapshot) notes.add(`"${origin}" keeps "${real}", which "${name}" stands on`);
  }
  return others.size > 0 ? null : (steps.entries.known(real)?.live ?? null);
}

/** The origin has its table back; a client of the real device itself may still be in the way. */
export async function removeReal(steps: Steps, origin: string, notes: Notes): Promise<void> {
  const real = realName(origin);
  try {
    await steps.remove(real, false);
  } catch (error) {
    notes.failed(real, `remove "${real}"`, error);
  }
}

/** Removes a COW that is ours by its place; `owner`: only if it was made for that snapshot. */
export async function removeOwnCow(
  { directory, files }: SnapshotContext,
  steps: Steps,
  line: SnapshotLine,
  owner: string | null,
  notes: Notes,
): Promise<void> {
  const path = cowPath(line.cow);
  const found = path === null ? null : ownerOfCow(directory, path);
  if (path === null || found === null || (owner !== null && found !== owner)) {
    notes.add(`COW ${line.cow} is left where it is`);
    return;
  }
  try {
    const user = await userOf(files, path, steps.entries.tables());
    if (user === null) await removeCow(files, path);
    else notes.add(`COW ${path} is left: device "${user}" uses it`);
  } catch (error) {
    notes.failed(found, `remove COW "${path}"`, error);
  }
}

function standsOn(table: string, name: string): boolean {
  try {
    return tableDependencies(table).includes(name);
  } catch {
    return false;
  }
}
