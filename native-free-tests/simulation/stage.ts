/** A world, and what is known of it while steps are carried out there. */

import type { DeviceInfo } from '../../src/queue/commands.js';
import { outcome } from './clock.js';
import type { ClientDevice } from './device.js';
import { SimFailure } from './failure.js';
import { volume } from './layout.js';
import type { Random } from './random.js';
import type { World } from './world.js';

/** Requests that clients wait for, at most. */
export const depth = 16;

export class Stage {
  readonly world: World;
  /** What is drawn for the step at hand. */
  readonly random: Random;
  /** Devices that are suspended now. */
  readonly suspended = new Map<string, ClientDevice>();
  /** What the device is called now that the volume stands on. */
  base = 'base';

  constructor(world: World, random: Random) {
    this.world = world;
    this.random = random;
  }

  anyDevice(): ClientDevice {
    const { family, switch: model, flip } = this.world;
    const { random } = this;
    const which = random.below(100);
    const { snapshots } = family;
    if (which < 30 && snapshots.size > 0) return random.pick([...snapshots.values()]).device;
    if (which < 55 && model !== null && model.device !== null) return model.device;
    if (which < 65 && flip !== null) return flip.device;
    return family.volume;
  }

  get #disksAreWell(): boolean {
    return this.world.faults.rules.length === 0;
  }

  /** The volume and its snapshots are as they were made, and nobody changes them. */
  get familyIsFree(): boolean {
    const { family } = this.world;
    const mine = [volume, ...family.snapshots.keys()];
    return !family.busy && this.#disksAreWell && !mine.some((name) => this.suspended.has(name));
  }

  get switchIsFree(): boolean {
    const { switch: model } = this.world;
    if (model === null || model.busy) return false;
    return this.#disksAreWell && !this.suspended.has(model.layout.name);
  }

  get flipIsFree(): boolean {
    const { flip } = this.world;
    if (flip === null || flip.busy) return false;
    return this.#disksAreWell && !this.suspended.has(flip.device.name);
  }

  /** Lets time pass until the daemon says so of the device. */
  async ask(
    device: ClientDevice,
    what: string,
    over: (info: DeviceInfo) => boolean,
  ): Promise<void> {
    const { world } = this;
    const { name } = device;
    for (let tries = 0; tries < 300; tries++) {
      const asked = world.daemon.call('info', { name });
      if (over(await outcome(world.engine, `info ${name}`, asked))) return;
      await world.moments(20);
    }
    throw new SimFailure('stuck', `${name} ${what}`);
  }

  /** What clients that are gone have written has ended when nothing is inside. */
  async endLost(device: ClientDevice): Promise<void> {
    if (device.lost.length === 0) return;
    await this.ask(device, 'has requests inside for ever', ({ inFlight }) => inFlight === 0);
    device.endLost();
  }

  async resumeAll(): Promise<void> {
    const { world } = this;
    for (const [name, device] of this.suspended) {
      await world.until('a suspend ends', () => !world.busy || device.suspendedSince !== null);
      device.suspendedSince = null;
      this.suspended.delete(name);
      world.tally.commands++;
      await outcome(world.engine, `resume ${name}`, world.daemon.catalogue.resume(name));
    }
  }

  /** The daemon is another one. */
  restarted(): void {
    const { daemon, layout } = this.world;
    this.suspended.clear();
    if (layout.base === null) return;
    const names = daemon.catalogue.names();
    this.base = names.find((name) => name.startsWith('base')) ?? layout.base;
  }
}
