/** Requests of clients, one at a time. */

import type { ClientDevice } from './device.js';
import { CMD, CMD_FUA, type Command } from './nbd-client.js';
import type { Stage } from './stage.js';

/** Some range of some device, or of that one. */
export async function request(
  stage: Stage,
  command: Command,
  flags: number,
  device = stage.anyDevice(),
): Promise<void> {
  const { random, world } = stage;
  if (device.clients.length === 0) return;
  const client = random.pick(device.clients);
  const isThere = (): boolean => client.ready || client.isClosed;
  if (!client.ready) await world.until('a client connects', isThere);
  if (client.isClosed || !device.offers(client, command, flags)) return;
  if (command === CMD.flush) {
    device.ask(client, command, flags, 0, 0);
    return;
  }
  const { sectors: size } = device;
  const most = random.pick([1, 4, 8, 16, 64]);
  const sectors = Math.min(size, 1 + random.below(most));
  // Half of them meet in one place.
  const room = random.chance(500) ? Math.min(24, size) : size;
  const first = Math.min(size - sectors, random.below(room));
  const reads = command === CMD.read || command === CMD.status;
  if (reads || !mayNotWrite(stage, device)) device.ask(client, command, flags, first, sectors);
}

/** Regions are mapped by hand while nobody writes to them. */
function mayNotWrite({ world }: Stage, device: ClientDevice): boolean {
  const { switch: model } = world;
  return model?.device === device && model.busy && model.mapsByHand;
}

/** A write, mostly, to the device that a command is about, mostly. */
export async function requestNear(stage: Stage, device: ClientDevice): Promise<void> {
  const { random } = stage;
  const command = random.chance(800) ? CMD.write : CMD.read;
  const where = random.chance(700) ? device : stage.anyDevice();
  await request(stage, command, random.pick([0, CMD_FUA]), where);
}

/** A short write where others are, mostly in the same sectors; durable when it is answered. */
export function writeShortly({ random }: Stage, device: ClientDevice, place: number): void {
  const client = device.clients.find(({ ready }) => ready);
  if (client === undefined) return;
  const same = random.chance(600);
  const first = place + (same ? 0 : random.below(4));
  device.ask(client, CMD.write, CMD_FUA, first, same ? 1 + (place & 1) : random.between(1, 3));
}

/** A read that sees both halves of a device's table, while that is changed. */
export function readAcross({ world }: Stage): void {
  const device = world.flip?.device;
  const client = device?.clients.find(({ ready }) => ready);
  if (device === undefined || client === undefined) return;
  device.ask(client, CMD.read, 0, 0, device.sectors);
}

/** What a snapshot shows at first it shows for ever, whatever was on its way to the origin. */
export async function readTwice({ random, world }: Stage): Promise<void> {
  const { family } = world;
  await world.until('the snapshot is taken', () => !family.busy);
  const device = [...family.snapshots.values()].at(-1)?.device;
  const [client] = device?.clients ?? [];
  if (device === undefined || client === undefined) return;
  await world.until('a client connects', () => client.ready || client.isClosed);
  for (let i = 0; i < 2 && !client.isClosed; i++) {
    device.ask(client, CMD.read, 0, 0, Math.min(64, device.sectors));
    await world.moments(random.below(30));
  }
}

/** All of it. */
export function readAll({ random }: Stage, device: ClientDevice): void {
  const client = random.pick(device.clients);
  for (let first = 0; first < device.sectors; first += 64) {
    device.ask(client, CMD.read, 0, first, Math.min(64, device.sectors - first));
  }
}
