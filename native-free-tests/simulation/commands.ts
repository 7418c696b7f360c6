/** Commands of control clients, as far as they make sense in the state that the world is in. */

import type { ClientDevice } from './device.js';
import { runJob } from './jobs.js';
import { volume } from './layout.js';
import type { SnapshotModel } from './snapshot-model.js';
import type { Stage } from './stage.js';

const snapshotsMax = 3;

export function takeSnapshot(stage: Stage): void {
  const { family } = stage.world;
  family.look();
  const room = family.state !== 'merging' && family.snapshots.size < snapshotsMax;
  if (!stage.familyIsFree || !room) return;
  if (isInTheWay(stage)) removeReal(stage);
  else family.take(stage.random);
}

/**
 * Whether a volume without snapshots has a real device, left where the disk would not let it go,
 * that is no twin of the volume any more. No snapshot is taken then until somebody has removed it.
 */
function isInTheWay({ world }: Stage): boolean {
  const { catalogue } = world.daemon;
  const real = catalogue.known(`${volume}-real`);
  const isLeft = world.family.state === 'plain' && real !== null;
  return isLeft && real.live !== catalogue.known(volume)?.live;
}

function removeReal({ world }: Stage): void {
  const name = `${volume}-real`;
  const begin = (): Promise<void> => world.daemon.catalogue.remove(name, false);
  world.family.job = runJob(world, `remove ${name}`, begin, { done() {}, undone() {} });
}

/** Removes a snapshot, or merges it. */
export async function leaveSnapshot(stage: Stage, merge: boolean): Promise<void> {
  const { family } = stage.world;
  family.look();
  if (!stage.familyIsFree || family.snapshots.size === 0) return;
  const snapshot = stage.random.pick([...family.snapshots.values()]);
  if (merge && (family.state === 'merging' || !canMerge(snapshot))) return;
  await disconnect(stage, snapshot.device);
  if (merge) family.merge(snapshot);
  else family.remove(snapshot, stage.random.chance(400));
}

/** One that runs full while it is being merged leaves its origin as it is. */
function canMerge({ facts, isComplete, mayBeInvalid }: SnapshotModel): boolean {
  return !facts.transient && isComplete && !mayBeInvalid;
}

async function disconnect(stage: Stage, device: ClientDevice): Promise<void> {
  const { world } = stage;
  await world.until('requests end', () => device.inFlight === 0);
  for (const client of device.clients) client.disconnect();
  await world.until('clients go', () => device.clients.length === 0);
  // One that is gone without a word may not have been missed yet.
  await stage.ask(device, 'is used for ever', ({ openCount }) => openCount === 0);
}

/** Another table that means the same, while the device is in use. */
export function reload(stage: Stage): void {
  const { random, world } = stage;
  const { daemon, family, layout } = world;
  family.look();
  if (!stage.familyIsFree) return;
  // A merge, even one that has failed, gives way to no other table of its own.
  if (family.state === 'merging') return;
  const snapshots = [...family.snapshots.values()].filter(({ mayBeInvalid }) => !mayBeInvalid);
  const snapshot = random.chance(400) && snapshots.length > 0 ? random.pick(snapshots) : null;
  if (snapshot !== null) {
    const { name } = snapshot;
    beginReload(stage, name, daemon.catalogue.known(name)?.live ?? '');
  } else {
    // The volume's table is that of the device beneath while there are snapshots.
    const name = family.state === 'plain' ? volume : `${volume}-real`;
    beginReload(stage, name, renamed(stage, layout.volumeTable(random)));
  }
}

function beginReload({ world }: Stage, name: string, table: string): void {
  const { catalogue } = world.daemon;
  const begin = async (): Promise<void> => {
    await catalogue.load(name, table);
    await catalogue.resume(name).catch(async (error: unknown) => {
      await catalogue.clear(name);
      throw error;
    });
  };
  world.family.job = runJob(world, `reload ${name}`, begin, { done() {}, undone() {} });
}

/** With the base device's name as it is now. */
function renamed({ base }: Stage, table: string): string {
  return table.replaceAll(/(dm:|\/dev\/mapper\/)base\S*/g, `$1${base}`);
}

export function rename(stage: Stage): void {
  const { world } = stage;
  const { catalogue } = world.daemon;
  if (world.layout.base === null || !stage.familyIsFree) return;
  const from = stage.base;
  const to = from === 'base' ? 'base-2' : 'base';
  const begin = (): Promise<void> => catalogue.rename(from, to);
  const done = (): void => {
    stage.base = to;
  };
  world.family.job = runJob(world, `rename ${from} ${to}`, begin, { done, undone() {} });
}

export function suspend(stage: Stage): void {
  const { random, world } = stage;
  const device = stage.anyDevice();
  const { catalogue } = world.daemon;
  const { family, flip, switch: model } = world;
  const isFamily = family.devices.includes(device);
  const isFree = device === model?.device ? stage.switchIsFree : stage.flipIsFree;
  if (!(isFamily ? stage.familyIsFree : isFree)) return;
  const owner = isFamily ? family : device === model?.device ? model : flip;
  if (owner === null) return;
  const { name } = device;
  const noFlush = random.chance(500);
  stage.suspended.set(name, device);
  owner.job = runJob(world, `suspend ${name}`, () => catalogue.suspend(name, noFlush), {
    done: () => {
      device.suspendedSince = world.tick();
    },
  });
}

export function flipTable(stage: Stage): void {
  if (stage.flipIsFree) stage.world.flip?.change();
}

export function moveRegions(stage: Stage): void {
  const { switch: model } = stage.world;
  if (stage.switchIsFree && model?.moving === null) model.move(stage.random);
}

export function lookAtMove(stage: Stage): void {
  const { switch: model } = stage.world;
  if (stage.switchIsFree && model !== null && model.moving !== null) model.look(stage.random);
}

export async function mapRegions(stage: Stage, upload: boolean): Promise<void> {
  const { world } = stage;
  const { switch: model } = world;
  const device = model?.device ?? null;
  if (model === null || device === null || model.moving !== null || !stage.switchIsFree) return;
  if (!upload) {
    await world.until('requests end', () => device.inFlight === 0);
    await stage.endLost(device);
  }
  if (stage.switchIsFree) model.map(stage.random, upload);
}
