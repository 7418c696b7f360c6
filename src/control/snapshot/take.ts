/**
 * Taking a snapshot of a device that may be in use. The first one of an origin moves the origin's
 * table to a device of its own, the real one, which origin and snapshots then stand on.
 */

import { EBUSY, EEXIST, EINVAL, ENXIO } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { openPolicy } from '../../nbd/export-policy.js';
import type { KnownDevice } from '../entries.js';
import { backingWord } from '../image.js';
import type { Params, SnapshotMade } from '../messages.js';
import type { Steps } from '../steps.js';
import { knownDevice, refuseUnsettled, type SnapshotContext } from './context.js';
import { ownCowPath, prepareCow } from './cow-file.js';
import { swapTable } from './swap.js';
import {
  linesOf,
  originOf,
  originOver,
  realName,
  realPolicy,
  sectorsOf,
  tableLine,
} from './tables.js';
import { Undo } from './undo.js';

const defaultChunkSectors = 8;

/** Targets with more in them than their text says: a second one of the same text lacks it. */
const holdsMore = new Map([
  ['memory', 'its data'],
  ['switch', 'its regions'],
]);

/** Where the COW goes. Throws MapperError. */
export function cowPathFor({ directory }: SnapshotContext, params: Params<'snapshot'>): string {
  if (params.cow !== undefined) return params.cow;
  if (directory !== null) return ownCowPath(directory, params.name);
  const text = 'no place for the COW without a state directory';
  throw new MapperError(EINVAL, `${text}: wanted a file (--cow), or a daemon with --state`);
}

/** `word` is what the snapshot is to stand on. The caller has the lock. Throws MapperError. */
export async function takeSnapshot(
  context: SnapshotContext,
  steps: Steps,
  word: string,
  params: Params<'snapshot'>,
): Promise<SnapshotMade> {
  const { name, transient = false, chunkSectors = defaultChunkSectors, readOnly = false } = params;
  const origin = knownDevice(steps.entries, params.origin);
  const { live, stored } = origin;
  if (live === null) throw new MapperError(ENXIO, `device "${origin.name}" has no live table`);
  const stacked = originOf(live) !== null;
  await refuse(context, steps, origin, name, stacked);
  const sectors = sectorsOf(live);
  const path = cowPathFor(context, params);
  const undo = new Undo();
  try {
    const request = {
      path,
      given: params.cow !== undefined,
      bytes: params.cowBytes ?? null,
      originSectors: sectors,
      chunkSectors,
      persistent: !transient,
      wipe: params.wipe ?? false,
    };
    const cow = await prepareCow(context.files, request, steps.entries.tables());
    undo.did(`put COW "${path}" back`, () => cow.undo());
    if (!stacked) await makeReal(steps, origin, live, undo);
    const created = new Date().toISOString();
    const words = [word, backingWord(path), transient ? 'N' : 'P', `${chunkSectors}`];
    const table = tableLine(sectors, 'snapshot', words);
    // It has the origin's data, so it is for whom they are.
    const policy = { ...openPolicy, allow: origin.policy.allow };
    const device = { name, table, readOnly, created, policy };
    const unmake = (): Promise<void> => steps.unmake(name, true);
    const above = stacked ? null : tableLine(sectors, 'snapshot-origin', [word]);
    await swapTable(steps, origin.name, above, {
      work: () => steps.create(device, { stored, unfiled: true }),
      back: unmake,
    });
    if (!stacked) {
      const back = (): Promise<void> => swapTable(steps, origin.name, live);
      undo.did(`give "${origin.name}" its table back`, back);
    }
    undo.did(`remove "${name}"`, () => swapTable(steps, origin.name, null, { work: unmake }));
    undo.did(`remove the file of "${name}"`, () => steps.unfile(name));
    await steps.file(name);
    const { bytes } = cow;
    return { name, origin: origin.name, cow: path, cowBytes: bytes, chunkSectors, created, stored };
  } catch (error) {
    return undo.takeBack(error);
  }
}

/**
 * The device that gets the origin's table, or its twin that is there already. Clients are to have
 * the origin instead: what is written past that is missing in its snapshots.
 */
async function makeReal(
  steps: Steps,
  { name, readOnly, stored, policy }: KnownDevice,
  table: string,
  undo: Undo,
): Promise<void> {
  const real = realName(name);
  const hidden = realPolicy(policy.allow);
  const there = steps.entries.known(real);
  if (there === null) {
    await steps.create({ name: real, table, readOnly, policy: hidden }, { stored });
    undo.did(`remove "${real}"`, () => steps.remove(real, false));
    return;
  }
  undo.did(`give "${real}" its policy back`, () => steps.setPolicy(real, there.policy));
  await steps.setPolicy(real, hidden);
}

/** Throws MapperError if it cannot be done, before anything is. */
async function refuse(
  context: SnapshotContext,
  steps: Steps,
  origin: KnownDevice,
  name: string,
  stacked: boolean,
): Promise<void> {
  const real = realName(origin.name);
  if (steps.entries.has(name)) throw new MapperError(EEXIST, `device "${name}" exists already`);
  if (name === real) {
    throw new MapperError(EEXIST, `"${name}" is where the table of "${origin.name}" goes`);
  }
  if (originOf(origin.live)?.merging === true) {
    const text = `a snapshot is being merged into "${origin.name}"`;
    throw new MapperError(EBUSY, `${text}: take another when that has ended`);
  }
  const types = linesOf(origin.live).map(({ type }) => type);
  if (types.includes('snapshot')) {
    throw new MapperError(EINVAL, `"${origin.name}" is a snapshot itself, wanted a volume`);
  }
  const holder = types.find((type) => holdsMore.has(type));
  if (holder !== undefined) {
    const text = `"${origin.name}" has ${holdsMore.get(holder)} in its own table (${holder})`;
    const advice = 'put a linear device on it, and take the snapshot of that one';
    throw new MapperError(EINVAL, `${text}: ${advice}`);
  }
  const above = originOver(steps.entries.all(), `dm:${origin.name}`);
  if (above !== null) {
    const text = `"${origin.name}" is what "${above.name}" has its snapshots over`;
    throw new MapperError(EINVAL, `${text}: take the snapshot of "${above.name}"`);
  }
  await refuseUnsettled(context, origin.name);
  const there = stacked ? null : steps.entries.known(real);
  if (there === null) return;
  // One that is its twin was left by a crash, or because a client would not let go of it.
  const twin =
    there.live === origin.live &&
    there.readOnly === origin.readOnly &&
    there.stored === origin.stored;
  if (!twin) {
    const text = `device "${real}" exists already, with a table of its own`;
    throw new MapperError(EEXIST, `${text}: remove it if an earlier snapshot has left it`);
  }
  await refuseUnsettled(context, real);
}
