/** Carries out operations in a world, as far as they make sense in the state that it is in. */

import type { DeviceInfo } from '../../src/queue/commands.js';
import { outcome } from './clock.js';
import type { ClientDevice } from './device.js';
import { SimFailure } from './failure.js';
import type { FaultRule } from './faults.js';
import { runJob } from './jobs.js';
import { volume } from './layout.js';
import {
  CMD,
  CMD_FAST_ZERO,
  CMD_FUA,
  CMD_NO_HOLE,
  CMD_REQ_ONE,
  type Command,
} from './nbd-client.js';
import type { Operation, OperationKind } from './operations.js';
import { mix, Random } from './random.js';
import type { SnapshotModel } from './snapshot-model.js';
import { World, type WorldParts } from './world.js';

/** Operations that a crash is worth while in the middle of. */
const commands: ReadonlySet<OperationKind> = new Set<OperationKind>([
  'snapshot',
  'removeSnapshot',
  'merge',
  'reload',
  'move',
  'map',
  'upload',
  'flip',
  'rename',
]);

const regionCommands: ReadonlySet<OperationKind> = new Set<OperationKind>([
  'move',
  'map',
  'upload',
]);

/** Requests that clients wait for, at most. */
const depth = 16;

export class Player {
  readonly #parts: WorldParts;
  #world: World | null = null;
  /** What is drawn for the operation at hand. */
  readonly #random = new Random(1);
  /** Devices that are suspended now. */
  readonly #suspended = new Map<string, ClientDevice>();
  #base = 'base';
  #answers = 0;

  constructor(parts: WorldParts) {
    this.#parts = parts;
  }

  get answers(): number {
    return this.#answers + (this.#world?.answers ?? 0);
  }

  get world(): World {
    return this.#world as World;
  }

  async play(operation: Operation): Promise<void> {
    const { index, kind, seed } = operation;
    const world = this.#world;
    this.#random.seed(seed);
    if (world?.tracing) world.note(`#${index} ${kind}`);
    if (kind === 'world') {
      await this.#newWorld(seed);
      return;
    }
    // What disks and network do from here on does not depend on how many drew before.
    this.world.random.seed(mix(seed, 2));
    if (commands.has(kind)) this.#fill();
    await this.#carryOut(kind);
    this.world.fullPerThousand = 0;
    if (commands.has(kind) && this.world.busy) await this.#stir(kind);
    if (this.world.inFlight >= depth) await this.#wait();
    else await this.world.moments(this.#random.below(3));
  }

  async #newWorld(seed: number): Promise<void> {
    await this.end();
    this.#world = await World.create(seed, this.#parts);
    this.#suspended.clear();
    this.#base = 'base';
  }

  /** Ends the world in peace, and looks at everything. */
  async end(): Promise<void> {
    const world = this.#world;
    if (world === null) return;
    await this.#check();
    this.#answers += world.answers;
    world.engine.abandon();
    this.#world = null;
  }

  /** The state directory may have no room when a command wants to write there. */
  #fill(): void {
    const { world } = this;
    world.family.look();
    const { state } = world.family;
    // A merge that ends by itself takes its time to tidy up.
    const ends = state === 'plain' && world.daemon.catalogue.known(`${volume}-real`) !== null;
    const quiet = !world.busy && state !== 'merging' && !ends;
    if (quiet && this.#random.chance(100)) {
      world.fullPerThousand = this.#random.pick([100, 400, 1000]);
    }
  }

  /**
   * A command has begun: requests come while it is carried out, and at some moment, perhaps, the
   * daemon is killed or the power fails.
   */
  async #stir(kind: OperationKind): Promise<void> {
    const { world } = this;
    const random = this.#random;
    const way = random.below(10);
    const { family, switch: model } = world;
    const device = regionCommands.has(kind) ? (model?.device ?? family.volume) : family.volume;
    // Moments until the end of it all, or requests for certain.
    const end = way < 3 ? random.below(random.pick([20, 60, 200])) : 0;
    const burst = random.below(10);
    let probes = way === 3 ? random.between(1, 3) : 0;
    let passed = 0;
    for (let i = 0; i < 40; i++) {
      if (end > 0 ? passed >= end : i >= burst && !world.busy) break;
      if (world.inFlight < depth) await this.#stirOnce(kind, device);
      const moments = random.below(10);
      await world.moments(moments);
      passed += moments;
      if (probes > 0 && random.chance(300)) {
        probes--;
        await world.probe();
      }
    }
    if (end > 0) await this.#restart(random.pick(['kill', 'power', 'power'] as const), false);
    else if (kind === 'snapshot' && way < 8) await this.#readTwice();
  }

  async #stirOnce(kind: OperationKind, device: ClientDevice): Promise<void> {
    const random = this.#random;
    const command = random.chance(800) ? CMD.write : CMD.read;
    const where = random.chance(700) ? device : this.#anyDevice();
    if (kind === 'flip' && random.chance(500)) this.#readAcross();
    else await this.#request(command, random.pick([0, CMD_FUA]), where);
  }

  /** A read that sees both halves of a device's table, while that is changed. */
  #readAcross(): void {
    const device = this.world.flip?.device;
    const client = device?.clients.find(({ ready }) => ready);
    if (device !== undefined && client !== undefined) {
      device.ask(client, CMD.read, 0, 0, device.sectors);
    }
  }

  /** What a snapshot shows at first it shows for ever, whatever was on its way to the origin. */
  async #readTwice(): Promise<void> {
    const { world } = this;
    const { family } = world;
    await world.until('the snapshot is taken', () => !family.busy);
    const device = [...family.snapshots.values()].at(-1)?.device;
    const [client] = device?.clients ?? [];
    if (device === undefined || client === undefined) return;
    await world.until('a client connects', () => client.ready || client.isClosed);
    for (let i = 0; i < 2 && !client.isClosed; i++) {
      device.ask(client, CMD.read, 0, 0, Math.min(64, device.sectors));
      await world.moments(this.#random.below(30));
    }
  }

  /** There is room for more requests. */
  async #wait(): Promise<void> {
    const { world } = this;
    if (this.#suspended.size > 0) await this.#resumeAll();
    await world.until('requests are answered', () => world.inFlight <= depth / 2);
  }

  #carryOut(kind: OperationKind): Promise<void> | void {
    const { world } = this;
    switch (kind) {
      case 'write':
        return this.#request(CMD.write, 0);
      case 'fua':
        return this.#request(CMD.write, CMD_FUA);
      case 'read':
        return this.#request(CMD.read, 0);
      case 'flush':
        return this.#request(CMD.flush, 0);
      case 'zero':
        return this.#request(
          CMD.zero,
          this.#random.pick([0, 0, CMD_FUA, CMD_NO_HOLE, CMD_FAST_ZERO]),
        );
      case 'trim':
        return this.#request(CMD.trim, this.#random.pick([0, 0, CMD_FUA]));
      case 'status':
        return this.#request(CMD.status, this.#random.pick([0, CMD_REQ_ONE]));
      case 'moments':
        return world.moments(this.#random.below(40));
      case 'snapshot':
        return this.#takeSnapshot();
      case 'removeSnapshot':
        return this.#leaveSnapshot(false);
      case 'merge':
        return this.#leaveSnapshot(true);
      case 'reload':
        return this.#reload();
      case 'suspend':
        return this.#suspend();
      case 'resume':
        return this.#resumeAll();
      case 'move':
        return this.#move();
      case 'lookAtMove':
        return this.#lookAtMove();
      case 'map':
        return this.#map(false);
      case 'upload':
        return this.#map(true);
      case 'flip':
        return this.#flip();
      case 'rename':
        return this.#rename();
      case 'drop':
        return this.#drop();
      case 'connect':
        return this.#connect();
      case 'fault':
        return this.#fault();
      case 'mend':
        return this.#mend();
      case 'check':
        return this.#check();
      case 'probe':
        return world.probe();
      case 'kill':
        return this.#restart('kill', false);
      case 'power':
        return this.#restart('power', false);
      case 'restart':
        return this.#restartInPeace();
      default:
        throw new Error(`nobody carries out ${kind}`);
    }
  }

  // Requests.

  async #request(command: Command, flags: number, device = this.#anyDevice()): Promise<void> {
    const { world } = this;
    const random = this.#random;
    if (device.clients.length === 0) return;
    const client = random.pick(device.clients);
    if (!client.ready)
      await world.until('a client connects', () => client.ready || client.isClosed);
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
    const held = this.#mayNotWrite(device) && command !== CMD.read && command !== CMD.status;
    if (!held) device.ask(client, command, flags, first, sectors);
  }

  #anyDevice(): ClientDevice {
    const { family, switch: model, flip } = this.world;
    const random = this.#random;
    const which = random.below(100);
    const { snapshots } = family;
    if (which < 30 && snapshots.size > 0) return random.pick([...snapshots.values()]).device;
    if (which < 55 && model !== null && model.device !== null) return model.device;
    if (which < 65 && flip !== null) return flip.device;
    return family.volume;
  }

  /** Regions are mapped by hand while nobody writes to them. */
  #mayNotWrite(device: ClientDevice): boolean {
    const { switch: model } = this.world;
    return model?.device === device && model.busy && model.mapsByHand;
  }

  // Snapshots.

  /** The volume and its snapshots are as they were made, and nobody changes them. */
  get #familyIsFree(): boolean {
    const { faults, family } = this.world;
    const mine = [volume, ...family.snapshots.keys()];
    return (
      !family.busy && faults.rules.length === 0 && !mine.some((name) => this.#suspended.has(name))
    );
  }

  #takeSnapshot(): void {
    const { family } = this.world;
    family.look();
    if (!this.#familyIsFree || family.state === 'merging' || family.snapshots.size >= 3) return;
    family.take(this.#random);
  }

  async #leaveSnapshot(merge: boolean): Promise<void> {
    const { family } = this.world;
    const random = this.#random;
    family.look();
    if (!this.#familyIsFree || family.snapshots.size === 0) return;
    const snapshot = random.pick([...family.snapshots.values()]);
    const { transient } = snapshot.facts;
    const cannot = family.state === 'merging' || transient || snapshot.mayBeInvalid;
    if (merge && cannot) return;
    await this.#disconnect(snapshot);
    // It may have run full in the meantime.
    if (merge && snapshot.mayBeInvalid) snapshot.device.connect();
    else if (merge) family.merge(snapshot);
    else family.remove(snapshot, random.chance(400));
  }

  async #disconnect({ device }: SnapshotModel): Promise<void> {
    const { world } = this;
    await world.until('requests end', () => device.inFlight === 0);
    for (const client of device.clients) client.disconnect();
    await world.until('clients go', () => device.clients.length === 0);
    // One that is gone without a word may not have been missed yet.
    await this.#ask(device, 'is used for ever', ({ openCount }) => openCount === 0);
  }

  /** Lets time pass until the daemon says so of the device. */
  async #ask(
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

  // Tables.

  /** Another table that means the same, while the device is in use. */
  #reload(): void {
    const { world } = this;
    const { family, daemon, layout } = world;
    const random = this.#random;
    family.look();
    // A merge that ends by itself changes tables, too.
    if (!this.#familyIsFree || family.state === 'merging') return;
    const snapshots = [...family.snapshots.values()].filter(({ mayBeInvalid }) => !mayBeInvalid);
    const snapshot = random.chance(400) && snapshots.length > 0 ? random.pick(snapshots) : null;
    const plain = family.state === 'plain' ? volume : `${volume}-real`;
    const name = snapshot?.name ?? plain;
    const live = daemon.catalogue.known(name)?.live ?? '';
    const table = snapshot === null ? this.#renamed(layout.volumeTable(random)) : live;
    const { catalogue } = daemon;
    const begin = async (): Promise<void> => {
      await catalogue.load(name, table);
      await catalogue.resume(name).catch(async (error: unknown) => {
        await catalogue.clear(name);
        throw error;
      });
    };
    family.job = runJob(world, `reload ${name}`, begin, { done() {}, undone() {} });
  }

  /** With the base device's name as it is now. */
  #renamed(table: string): string {
    return table.replaceAll(/(dm:|\/dev\/mapper\/)base\S*/g, `$1${this.#base}`);
  }

  #suspend(): void {
    const { world } = this;
    const device = this.#anyDevice();
    const { family, switch: model, flip, daemon } = world;
    const isFamily = family.devices.includes(device);
    if (isFamily && !this.#familyIsFree) return;
    const owner = isFamily ? family : device === model?.device ? model : flip;
    if (owner === null || owner.busy || world.faults.rules.length > 0) return;
    const { name } = device;
    if (this.#suspended.has(name)) return;
    const noFlush = this.#random.chance(500);
    this.#suspended.set(name, device);
    owner.job = runJob(world, `suspend ${name}`, () => daemon.catalogue.suspend(name, noFlush), {
      done: () => {
        device.suspendedSince = world.tick();
      },
    });
  }

  async #resumeAll(): Promise<void> {
    const { world } = this;
    for (const [name, device] of this.#suspended) {
      await world.until('a suspend ends', () => !world.busy || device.suspendedSince !== null);
      device.suspendedSince = null;
      this.#suspended.delete(name);
      await outcome(world.engine, `resume ${name}`, world.daemon.catalogue.resume(name));
    }
  }

  #flip(): void {
    const { flip, faults } = this.world;
    if (flip === null || flip.busy || faults.rules.length > 0) return;
    if (this.#suspended.has(flip.device.name)) return;
    flip.change();
  }

  #rename(): void {
    const { world } = this;
    const { family, daemon, layout } = world;
    if (layout.base === null || !this.#familyIsFree) return;
    const from = this.#base;
    const to = from === 'base' ? 'base-2' : 'base';
    family.job = runJob(world, `rename ${from} ${to}`, () => daemon.catalogue.rename(from, to), {
      done: () => {
        this.#base = to;
      },
      undone() {},
    });
  }

  // Regions.

  get #switchIsFree(): boolean {
    const { switch: model, faults } = this.world;
    const name = model?.layout.name ?? '';
    return model !== null && !model.busy && faults.rules.length === 0 && !this.#suspended.has(name);
  }

  #move(): void {
    const { switch: model } = this.world;
    if (this.#switchIsFree && model?.moving === null) model.move(this.#random);
  }

  #lookAtMove(): void {
    const { switch: model } = this.world;
    if (this.#switchIsFree && model !== null && model.moving !== null) model.look(this.#random);
  }

  async #map(upload: boolean): Promise<void> {
    const { world } = this;
    const { switch: model } = world;
    if (!this.#switchIsFree || model === null || model.moving !== null) return;
    const { device } = model;
    if (device === null) return;
    if (!upload) {
      await world.until('requests end', () => device.inFlight === 0);
      await this.#endLost(device);
      if (!this.#switchIsFree || model.moving !== null) return;
    }
    model.map(this.#random, upload);
  }

  // Clients.

  #drop(): void {
    const device = this.#anyDevice();
    if (device.clients.length > 0) device.drop(this.#random.pick(device.clients));
  }

  #connect(): void {
    const device = this.#anyDevice();
    if (this.world.family.change !== null) return;
    if (device.clients.length < 3) device.connect();
  }

  // Faults.

  #fault(): void {
    const { world } = this;
    const { faults, fileSystem, layout } = world;
    const random = this.#random;
    if (world.busy || this.#suspended.size > 0 || faults.rules.length > 2) return;
    const cows = [...world.family.snapshots.values()].map(({ facts }) => facts.cowPath);
    const disks = layout.files.map(({ path }) => path);
    const path = random.pick(random.chance(500) && cows.length > 0 ? cows : disks);
    const bytes = fileSystem.find(path)?.medium.size ?? 0;
    const first = random.chance(500) ? 0 : random.below(bytes);
    const rule: FaultRule = {
      path,
      operation: random.pick(['read', 'write', 'flush', 'space', 'trim', 'zero']),
      first,
      end: first === 0 ? bytes : Math.min(bytes, first + 4096 * random.between(1, 8)),
      perThousand: random.pick([100, 500, 1000]),
    };
    faults.rules.push(rule);
    if (world.tracing) world.note(`    ${JSON.stringify(rule)}`);
  }

  #mend(): void {
    this.world.faults.rules = [];
  }

  // Looking at everything.

  async #check(): Promise<void> {
    const { world } = this;
    const { family } = world;
    this.#mend();
    await this.#resumeAll();
    await world.quiet();
    await world.connectAll();
    for (const device of world.devices) this.#readAll(device);
    await world.until('all is read', () => world.inFlight === 0);
    for (const device of world.devices) await this.#endLost(device);
    family.look();
    for (const { name } of family.snapshots.values()) {
      const asked = world.daemon.call('status', { name });
      const [line] = await outcome(world.engine, `status ${name}`, asked);
      family.checkStatus(name, line?.words ?? '');
    }
  }

  #readAll(device: ClientDevice): void {
    const client = this.#random.pick(device.clients);
    for (let first = 0; first < device.sectors; first += 64) {
      device.ask(client, CMD.read, 0, first, Math.min(64, device.sectors - first));
    }
  }

  /** What clients that are gone have written has ended when nothing is inside. */
  async #endLost(device: ClientDevice): Promise<void> {
    if (device.lost.length === 0) return;
    await this.#ask(device, 'has requests inside for ever', ({ inFlight }) => inFlight === 0);
    device.endLost();
  }

  // Ends.

  async #restart(loss: 'kill' | 'power', peacefully: boolean): Promise<void> {
    const { world } = this;
    await world.restart(loss, peacefully);
    this.#suspended.clear();
    const { base } = world.layout;
    if (base === null) return;
    const names = world.daemon.catalogue.names();
    this.#base = names.find((name) => name.startsWith('base')) ?? base;
  }

  async #restartInPeace(): Promise<void> {
    const { world } = this;
    this.#mend();
    await world.until('commands end', () => !world.busy);
    await this.#restart(this.#random.pick(['kill', 'power'] as const), true);
  }
}
