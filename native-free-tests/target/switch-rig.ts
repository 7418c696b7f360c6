/**
 * A switch over scripted disks, with somebody who stores its table as the control thread does:
 * late, one after the other, and never a moment that has not been.
 */

import type { Device } from '../../src/device/device.js';
import { type Operation, READ, WRITE } from '../../src/device/io.js';
import { DeviceRegistry } from '../../src/device/registry.js';
import { RegionTable } from '../../src/target/switch/region-table.js';
import type { RegionUpload, TargetEvent } from '../../src/target/target.js';
import type { Disk } from '../backing/scripted-engine.js';
import type { IoClient } from '../device/io-client.js';
import { SectorModel, sectorBytes, stamped } from '../device/sector-model.js';
import { World } from '../device/world.js';

export interface SwitchShape {
  readonly paths: number;
  readonly regionSectors: number;
  readonly sectors: number;
}

/** What disks hold before anybody writes: nobody may ever read it. */
const poison = 4_000_000;

export class SwitchRig {
  readonly world = new World();
  readonly devices: DeviceRegistry;
  readonly shape: SwitchShape;
  readonly disks: Disk[];
  /** What a power cut would leave on each disk. */
  readonly durable: Uint8Array[] = [];
  readonly model = new SectorModel();
  readonly events: TargetEvent[] = [];
  device!: Device;
  client!: IoClient;
  /** The table in the state directory. */
  stored!: RegionUpload;
  /** Commands that somebody gave and does not wait for. */
  finishing: Promise<unknown> = Promise.resolve();
  #told = 0;
  #saving: { table: RegionUpload; generation: number; written: boolean } | null = null;
  #stamp = 1;
  #failure: unknown = null;

  constructor(shape: SwitchShape) {
    const { world } = this;
    this.shape = shape;
    this.devices = new DeviceRegistry(world.engine, world.ios, world.log, (_device, event) => {
      this.events.push(event);
      if (event.what === 'regions') this.#told = event.generation ?? 0;
    });
    this.disks = Array.from({ length: shape.paths }, (_, path) => {
      const disk = world.disk(`/p${path}`, shape.sectors + 20);
      for (let at = 0; at < disk.bytes.length; at += sectorBytes)
        disk.bytes.set(stamped(poison), at);
      disk.allocate(0, disk.bytes.length);
      this.durable[path] = disk.bytes.slice();
      disk.script = ({ what }) => {
        if (what === 'flush') this.durable[path] = disk.bytes.slice();
        return undefined;
      };
      return disk;
    });
  }

  /** Path i begins at sector i of its disk. */
  line({ paths, regionSectors, sectors } = this.shape): string {
    const words = Array.from({ length: paths }, (_, path) => `/p${path} ${path}`);
    return `0 ${sectors} switch ${paths} ${regionSectors} 0 ${words.join(' ')}`;
  }

  async create(): Promise<this> {
    this.device = await this.world.wait(this.devices.create('vol', this.line()));
    this.client = this.world.client(this.device);
    this.stored = this.table();
    return this;
  }

  table(): RegionUpload {
    const { table } = this.devices.regions('vol')[0] ?? {};
    if (table === undefined) throw new Error('no region table');
    return table;
  }

  entries(table = this.table()): number[] {
    const regions = RegionTable.fromUpload(table);
    return Array.from({ length: table.regions }, (_, region) => regions.get(region));
  }

  message(...words: string[]): Promise<string> {
    return this.devices.message('vol', 0, words);
  }

  /** Somebody writes stamps, or reads what may be there. */
  send(operation: Operation, sector: number, count: number, flags = 0): void {
    const names = Array.from({ length: count }, (_, i) => `${sector + i}`);
    const offset = sector * sectorBytes;
    const length = count * sectorBytes;
    if (operation === READ) {
      const check = this.model.read(names);
      this.client.send(READ, offset, length, {}, ({ errno, data }) =>
        this.#guard(() => {
          if (errno !== 0) throw new Error(`read: errno ${errno}`);
          check(data);
        }),
      );
      return;
    }
    const stamp = operation === WRITE ? this.#stamp++ : 0;
    const ended = this.model.write(names, stamp);
    const sectors = Array.from({ length: count }, () => stamped(stamp));
    const extras = operation === WRITE ? { data: Buffer.concat(sectors), flags } : { flags };
    this.client.send(operation, offset, length, extras, ({ errno }) => ended(errno !== 0));
  }

  /** Everything that is under way ends. */
  async drain(): Promise<void> {
    while (this.client.underWay > 0) {
      if (!this.world.engine.turn()) await this.world.settle();
      await null;
    }
    this.check();
  }

  /** Writes all of it and flushes: what was there before is gone. */
  async fill(): Promise<void> {
    const { sectors } = this.shape;
    for (let at = 0; at < sectors; at += 16) this.send(WRITE, at, Math.min(16, sectors - at));
    await this.drain();
    await this.world.wait(this.device.flush());
  }

  #guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#failure ??= error;
    }
  }

  check(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  /** The control thread goes on by a step. False: it has nothing to do. */
  async control(): Promise<boolean> {
    const saving = this.#saving;
    if (saving === null) {
      if (this.#told === 0) return false;
      this.#saving = { table: this.table(), generation: this.#told, written: false };
      this.#told = 0;
    } else if (!saving.written) {
      this.stored = saving.table;
      saving.written = true;
    } else {
      this.#saving = null;
      await this.devices.regionsSaved('vol', 0, saving.generation);
    }
    return true;
  }

  /** Works, the control thread too, until the move has ended and everything is stored. */
  async finish(): Promise<string> {
    for (let i = 0; i < 100_000; i++) {
      const words = (await this.world.wait(this.message('move_status'))).split(' ');
      if (words[0] !== 'running' && words[6] === words[7]) return words.slice(0, 5).join(' ');
      await this.control();
      this.world.engine.turn();
      await null;
    }
    throw new Error('the move does not end');
  }

  /** Throws unless these disks and the stored table have everything that was acknowledged. */
  restarted(disks: readonly Uint8Array[], sectors: Iterable<number>): void {
    const { paths, regionSectors } = this.shape;
    const table = RegionTable.fromUpload(this.stored);
    for (const sector of sectors) {
      const path = table.get(Math.floor(sector / regionSectors));
      if (path >= paths) throw new Error(`path ${path}`);
      const at = (sector + path) * sectorBytes;
      const data = Buffer.from((disks[path] as Uint8Array).slice(at, at + sectorBytes));
      this.model.read([`${sector}`])(data);
    }
  }
}
