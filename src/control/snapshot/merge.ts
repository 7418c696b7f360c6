/**
 * Merging a snapshot into its origin, which stays in use: `beginMerge` puts a snapshot-merge target
 * in the place of snapshot-origin, which takes over from the snapshot's own device; when it has
 * nothing left to merge, `endMerge` gives the origin what it would have without that snapshot.
 */

import { deviceNamed } from '../../backing/device.js';
import { EBUSY, EINVAL, EROFS } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import type { SnapshotNotes } from '../messages.js';
import type { Steps } from '../steps.js';
import {
  hasInactive,
  knownDevice,
  Notes,
  refuseInUse,
  refuseUnsettled,
  type SnapshotContext,
  snapshotLine,
} from './context.js';
import { parseUsage } from './list.js';
import { plainTable, removeOwnCow, removeReal } from './remove.js';
import { swapTable } from './swap.js';
import {
  originOf,
  realName,
  type SnapshotLine,
  sameBacking,
  sectorsOf,
  snapshotOf,
  snapshotsIn,
  tableLine,
} from './tables.js';

/** The caller has the lock. Throws MapperError. */
export async function beginMerge(
  context: SnapshotContext,
  steps: Steps,
  origin: string | null,
  name: string,
): Promise<SnapshotNotes> {
  const line = snapshotLine(steps.entries, name);
  if (origin === null) {
    const text = `no device is the origin of "${name}"`;
    throw new MapperError(EINVAL, `${text}: wanted snapshot-origin ${line.origin} live`);
  }
  await refuse(context, steps, origin, name, line);
  const { live } = knownDevice(steps.entries, origin);
  const table = tableLine(sectorsOf(live ?? ''), 'snapshot-merge', [
    originOf(live)?.word ?? line.origin,
    line.cow,
    ...line.rest,
  ]);
  await swapTable(steps, origin, table, {
    work: () => steps.suspend(name, true),
    back: () => steps.resume(name),
  });
  // The snapshot as a point in time is gone: from here on there is no way back.
  const notes = new Notes(context.log);
  try {
    await leave(steps, name);
  } catch (error) {
    notes.failed(name, `remove "${name}"`, error);
    // It is invalid: who still asks gets errors rather than no answer.
    await steps.resume(name).catch(() => {});
  }
  return { origin, notes: notes.texts };
}

/** What the merge has taken over is of no use any more. */
async function leave(steps: Steps, name: string): Promise<void> {
  await steps.unfile(name);
  await steps.unmake(name, true);
}

async function refuse(
  context: SnapshotContext,
  steps: Steps,
  origin: string,
  name: string,
  line: SnapshotLine,
): Promise<void> {
  const { queue } = context;
  if (!/^p/i.test(line.persistence)) {
    const text = 'Snapshot exception store does not support snapshot-merge.';
    throw new MapperError(EINVAL, `${text} (found ${line.persistence}, wanted P or PO)`);
  }
  const over = knownDevice(steps.entries, origin);
  if (originOf(over.live)?.merging === true) {
    throw new MapperError(EBUSY, `A snapshot is already merging. (into "${origin}")`);
  }
  if (over.readOnly) throw new MapperError(EROFS, `origin "${origin}" is read-only`);
  refuseInUse(await queue.call('info', { name }));
  await refuseUnsettled(context, name);
  await refuseUnsettled(context, origin);
  const [status] = await queue.call('status', { name });
  const { state } = parseUsage(status?.words ?? '', false);
  if (state !== 'active') {
    throw new MapperError(EINVAL, `snapshot "${name}" is ${state}, wanted an active one`);
  }
}

/**
 * Gives the origin its table back, if its merge is one that `beginMerge` began and is over. False:
 * somebody is changing it, and it is to be looked at again when it has been resumed.
 */
export async function endMerge(
  context: SnapshotContext,
  steps: Steps,
  origin: string,
): Promise<boolean> {
  const live = steps.entries.known(origin)?.live ?? null;
  const over = originOf(live);
  const [line] = snapshotsIn(live);
  if (live === null || over?.merging !== true || line === undefined) return true;
  const real = realName(origin);
  if (deviceNamed(over.word) !== real || !steps.entries.has(real)) return true;
  const { queue, log } = context;
  const [status] = await queue.call('status', { name: origin });
  if (parseUsage(status?.words ?? '', true).state !== 'merged') return true;
  const info = await queue.call('info', { name: origin });
  if (info.state === 'SUSPENDED' || hasInactive(info)) return false;
  // As long as the snapshot has a file, only the merge keeps it from coming back at a restart.
  for (const { name, live } of steps.entries.all()) {
    if (isMergedBy(snapshotOf(live), line)) await leave(steps, name);
  }
  const notes = new Notes(log);
  const plain = plainTable(steps, origin, origin, notes);
  await swapTable(
    steps,
    origin,
    plain ?? tableLine(sectorsOf(live), 'snapshot-origin', [over.word]),
  );
  if (plain !== null) await removeReal(steps, origin, notes);
  await removeOwnCow(context, steps, line, null, notes);
  log.info({ device: origin, notes: notes.texts }, 'merge has ended');
  return true;
}

function isMergedBy(snapshot: SnapshotLine | null, merge: SnapshotLine): boolean {
  return (
    snapshot !== null &&
    sameBacking(snapshot.origin, merge.origin) &&
    sameBacking(snapshot.cow, merge.cow)
  );
}
