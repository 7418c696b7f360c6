/**
 * The devices of a daemon by name, and the commands that make, change and unmake them: dmsetup's,
 * less the text around them. Every command on one device runs after the one before it has ended.
 */

import { type BackingUser, DeviceBacking } from '../backing/device.js';
import { type FileGuard, openToAll } from '../backing/guard.js';
import { Backings, dependencies } from '../backing/open.js';
import { EBUSY, EEXIST, EINVAL, ENXIO, ESHUTDOWN } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { deviceNameBytes, devices as devicesMax } from '../base/limits.js';
import type { Log } from '../base/log.js';
import { CopyEngine } from '../copy/engine.js';
import type { Engine } from '../engine/engine.js';
import type { DeviceInfo, RegionsAt, TableLine } from '../queue/commands.js';
import { type RegionUpload, type Target, unrecognisedMessage } from '../target/target.js';
import { Device, type DeviceContext, type DeviceUser, targetAt } from './device.js';
import type { IoPool } from './io.js';
import { SplitPool } from './split.js';
import { createTable, type OpenBacking, type Slot, type Table } from './table.js';

/** What the end of a daemon waits for, of a device. */
type Waiting = 'the work' | 'a flush';

export class DeviceRegistry {
  readonly #devices = new Map<string, Device>();
  readonly #engine: Engine;
  readonly #ios: IoPool;
  readonly #splits: SplitPool;
  readonly #backings: Backings;
  readonly #log: Log;
  readonly #event: DeviceContext['event'];
  /** The daemon goes down. */
  #ending = false;
  /** Every copy between backings, those of targets and those that people ask for. */
  readonly copies: CopyEngine;

  constructor(
    engine: Engine,
    ios: IoPool,
    log: Log,
    event: DeviceContext['event'] = () => {},
    guard: FileGuard = openToAll,
  ) {
    this.#engine = engine;
    this.#ios = ios;
    this.#event = event;
    this.copies = new CopyEngine(engine, ios);
    this.#splits = new SplitPool(ios);
    this.#log = log;
    this.#backings = new Backings(engine, ios, log, (name) => this.#devices.get(name), guard);
  }

  find(name: string): Device | undefined {
    return this.#devices.get(name);
  }

  all(): Iterable<Device> {
    return this.#devices.values();
  }

  /** The device, or MapperError ENXIO. */
  get(name: string): Device {
    const device = this.#devices.get(name);
    if (device === undefined) throw new MapperError(ENXIO, `no device "${name}"`);
    return device;
  }

  /**
   * With a table the device is live when this ends; otherwise it waits for load and resume.
   * `restored`: the table was live in a daemon before this one. `regions`: tables that its targets
   * get before that.
   */
  async create(
    name: string,
    table: string | undefined,
    readOnly = false,
    restored = false,
    regions: readonly RegionsAt[] = [],
  ): Promise<Device> {
    checkName(name);
    if (this.#ending) throw new MapperError(ESHUTDOWN, 'the daemon is going down');
    if (this.#devices.has(name)) throw new MapperError(EEXIST, `device "${name}" exists already`);
    if (this.#devices.size >= devicesMax) {
      throw new MapperError(EBUSY, `${devicesMax} devices exist, and that is the limit`);
    }
    const device = new Device(name, readOnly, {
      engine: this.#engine,
      ios: this.#ios,
      splits: this.#splits,
      log: this.#log,
      event: this.#event,
    });
    this.#devices.set(name, device);
    try {
      // Nobody has it yet; being suspended keeps early requests waiting rather than failing.
      device.suspended = true;
      if (table !== undefined) {
        await device.exclusively(async () => {
          const made = await this.#createTable(device, table, restored);
          await device.load(made);
          for (const one of regions) {
            const slot = made.find(one.sector * 512);
            if (slot !== null) await upload(slot.target, one.table);
          }
          await device.resume();
        });
      }
      return device;
    } catch (error) {
      this.#devices.delete(name);
      await device.remove();
      throw error;
    }
  }

  /** Runs a command when those before it have ended; one of them may have removed the device. */
  #command<T>(name: string, command: (device: Device) => Promise<T>): Promise<T> {
    const device = this.get(name);
    return device.exclusively(() => {
      if (device.removed) throw new MapperError(ENXIO, `no device "${name}"`);
      return command(device);
    });
  }

  load(name: string, table: string): Promise<void> {
    return this.#command(name, async (device) => {
      await device.load(await this.#createTable(device, table));
    });
  }

  #createTable(device: Device, text: string, restored = false): Promise<Table> {
    return createTable(text, {
      deviceName: device.name,
      engine: this.#engine,
      ios: this.#ios,
      copies: this.copies,
      log: this.#log,
      restored,
      host: device,
      openBacking: (word, _sectorsNeeded, readOnly = device.readOnly) =>
        this.#backings.open(word, device, readOnly),
    });
  }

  /** Opens a backing for somebody who is no device. Throws MapperError. */
  openBacking(word: string, user: BackingUser, readOnly: boolean): OpenBacking {
    return this.#backings.open(word, user, readOnly);
  }

  async clear(name: string): Promise<void> {
    await this.#command(name, (device) => device.clear());
  }

  suspend(name: string, noFlush: boolean): Promise<void> {
    return this.#command(name, async (device) => {
      if (!noFlush) await this.#flushAhead(device);
      await device.suspend(noFlush);
    });
  }

  resume(name: string): Promise<void> {
    return this.#command(name, async (device) => {
      if (device.inactive !== null) await this.#flushAhead(device);
      await device.resume();
    });
  }

  /** Suspending flushes while clients wait: most of that is done before, while they need not. */
  async #flushAhead(device: Device): Promise<void> {
    if (!device.suspended) await device.flush();
  }

  /**
   * All or nothing: a device whose last flush fails stays. By force it goes, clients are told to
   * go, and devices that stand on it get errors.
   */
  async remove(name: string, force: boolean): Promise<void> {
    await this.#command(name, async (device) => {
      if (!force) {
        this.#refuseInUse(device);
        await this.#flushAhead(device);
        // Somebody may have come meanwhile.
        this.#refuseInUse(device);
      }
      const failure = await this.#unmake(device, [...device.users]);
      if (failure !== null) this.#log.error({ device: name }, `removed all the same: ${failure}`);
    });
  }

  /** Throws MapperError EBUSY, with those who use it, if anybody does. */
  #refuseInUse(device: Device): void {
    const users = [...device.users];
    if (users.length === 0) return;
    const tables = users.filter((user) => user instanceof DeviceBacking);
    const clients = users.length - tables.length;
    const found = [...new Set(tables.map(({ userTitle }) => userTitle))];
    if (clients > 0) found.push(`${clients} client${clients === 1 ? '' : 's'}`);
    throw new MapperError(EBUSY, `device "${device.name}" is in use by ${found.join(', ')}`);
  }

  /** Takes a device out of the world. What its last flush failed with, or null. */
  async #unmake(device: Device, users: readonly DeviceUser[]): Promise<string | null> {
    this.#devices.delete(device.name);
    for (const user of users) user.deviceRemoved();
    try {
      await device.remove();
      return null;
    } catch (error) {
      return messageOf(error);
    }
  }

  async rename(name: string, newName: string): Promise<void> {
    checkName(newName);
    await this.#command(name, async (device) => {
      if (this.#devices.has(newName)) {
        throw new MapperError(EEXIST, `device "${newName}" exists already`);
      }
      this.#devices.delete(device.name);
      device.name = newName;
      this.#devices.set(newName, device);
    });
  }

  table(name: string, inactive: boolean): TableLine[] {
    const device = this.get(name);
    const table = inactive ? device.inactive : device.live;
    return (table?.slots ?? []).map((slot) => lineOf(slot, slot.target.table()));
  }

  status(name: string): TableLine[] {
    const slots = this.get(name).live?.slots ?? [];
    return slots.map((slot) => lineOf(slot, slot.target.status()));
  }

  message(name: string, sector: number, words: readonly string[]): Promise<string> {
    return this.#command(name, async (device) => {
      const { target } = targetAt(device, sector);
      if (target.message === undefined) throw unrecognisedMessage(words);
      try {
        return await target.message(words);
      } catch (error) {
        throw error instanceof MapperError ? error.prefixed(target.type.name) : error;
      }
    });
  }

  /** Puts regions into the target at a sector. Throws MapperError; then nothing has changed. */
  upload(name: string, sector: number, regions: RegionUpload): Promise<void> {
    return this.#command(name, async (device) => {
      await upload(targetAt(device, sector).target, regions);
    });
  }

  /** Without `first` from region 0 on, without `count` to the last one. Throws MapperError. */
  download(name: string, sector: number, first = 0, count?: number): RegionsAt {
    const { begin, target } = targetAt(this.get(name), sector);
    if (target.download === undefined) throw noRegions(target);
    const { regions } = target.download(0, 0);
    const found = count ?? regions - first;
    if (first >= regions || found < 1 || first + found > regions) {
      const asked = `${found} from region ${first} on`;
      throw new MapperError(EINVAL, `${target.type.name}: regions ${asked}, it has ${regions}`);
    }
    return { sector: begin / 512, table: target.download(first, found) };
  }

  /** The region tables of all targets that have one. */
  regions(name: string): RegionsAt[] {
    const slots = this.get(name).live?.slots ?? [];
    return slots.flatMap(({ begin, target }) => {
      const regions = target.download?.(0, 0).regions ?? 0;
      if (target.download === undefined || regions === 0) return [];
      return { sector: begin / 512, table: target.download(0, regions) };
    });
  }

  /** For a target that tells of changes it makes by itself; see TargetEvent. */
  async regionsSaved(name: string, sector: number, generation: number): Promise<void> {
    // Not one command after the other: a suspend may wait for a target that waits for this.
    await targetAt(this.get(name), sector).target.message?.(['regions_saved', `${generation}`]);
  }

  info(name: string): DeviceInfo {
    const device = this.get(name);
    const { live, inactive } = device;
    return {
      name: device.name,
      state: device.suspended ? 'SUSPENDED' : 'ACTIVE',
      tables:
        live === null
          ? inactive === null
            ? 'None'
            : 'INACTIVE'
          : inactive === null
            ? 'LIVE'
            : 'LIVE & INACTIVE',
      openCount: device.users.size,
      eventNumber: device.eventNumber,
      targetCount: device.live?.slots.length ?? 0,
      sizeSectors: device.sizeBytes / 512,
      readOnly: device.readOnly,
      inFlight: device.inFlight,
      dependencies: dependencies(device).map((beneath) => beneath.name),
    };
  }

  ls(): DeviceInfo[] {
    return [...this.#devices.keys()].map((name) => this.info(name));
  }

  /**
   * A last flush of every device, those that stand on others first; `tell` hears what is waited for.
   * Before the first of them goes, none works by itself any more: what a merge overwrites, other
   * snapshots of its origin keep, as long as they are there.
   */
  async shutdown(tell: (what: Waiting, name: string) => void = () => {}): Promise<void> {
    this.#ending = true;
    const failures: string[] = [];
    for (const device of [...this.#devices.values()]) {
      tell('the work', device.name);
      const stopped = device.exclusively(() => device.stopWork());
      await stopped.catch((error: unknown) => failures.push(messageOf(error)));
    }
    for (;;) {
      const top = [...this.#devices.values()].find((device) => device.users.size === 0);
      if (top === undefined) break;
      tell('a flush', top.name);
      const failure = await top.exclusively(async () =>
        top.removed ? null : await this.#unmake(top, []),
      );
      this.#devices.delete(top.name);
      if (failure !== null) failures.push(failure);
    }
    if (failures.length > 0) throw new Error(failures.join('; '));
  }
}

/** Throws MapperError; then nothing has changed. */
async function upload(target: Target, regions: RegionUpload): Promise<void> {
  if (target.upload === undefined) throw noRegions(target);
  try {
    await target.upload(regions);
  } catch (error) {
    throw error instanceof MapperError ? error.prefixed(target.type.name) : error;
  }
}

function noRegions({ type }: Target): MapperError {
  return new MapperError(EINVAL, `${type.name}: the target has no table of regions`);
}

function lineOf(slot: Slot, words: string): TableLine {
  return {
    beginSectors: slot.begin / 512,
    lengthSectors: (slot.end - slot.begin) / 512,
    type: slot.target.type.name,
    words,
  };
}

/** A name is a word of a table line, a file name and an export name; throws MapperError. */
export function checkName(name: string): void {
  const bytes = Buffer.byteLength(name);
  if (bytes === 0 || bytes > deviceNameBytes) {
    throw new MapperError(EINVAL, `device name of ${bytes} bytes, wanted 1 to ${deviceNameBytes}`);
  }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (/[\u0000-\u001f\u007f/]/.test(name)) {
    throw new MapperError(EINVAL, `device name "${name}" holds a slash or a control character`);
  }
}
