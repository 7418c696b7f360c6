/** A registry of devices on the scripted engine, driven by its test. */

import type { Log } from '../../src/base/log.js';
import type { Device } from '../../src/device/device.js';
import { IoPool } from '../../src/device/io.js';
import { DeviceRegistry } from '../../src/device/registry.js';
import { Disk, ScriptedEngine } from '../backing/scripted-engine.js';
import { IoClient } from './io-client.js';

export class World {
  readonly engine: ScriptedEngine;
  readonly ios = new IoPool();
  readonly logged: string[] = [];
  readonly log: Log;
  readonly devices: DeviceRegistry;

  constructor(arenaBytes?: number) {
    this.engine = new ScriptedEngine(arenaBytes);
    const log = (_fields: object, text: string): void => void this.logged.push(text);
    this.log = { debug() {}, info: log, warn: log, error: log };
    this.devices = new DeviceRegistry(this.engine, this.ios, this.log);
  }

  /** A disk of so many sectors at that path. */
  disk(path: string, sectors: number): Disk {
    return new Disk(this.engine, path, sectors * 512);
  }

  /** Works until the promise settles. */
  wait<T>(promise: Promise<T>): Promise<T> {
    return this.engine.wait(promise);
  }

  create(name: string, table?: string, readOnly = false): Promise<Device> {
    return this.wait(this.devices.create(name, table, readOnly));
  }

  client(device: Device): IoClient {
    return new IoClient(this.engine, this.ios, (io) => device.submit(io));
  }

  /** Descriptors open on all disks. */
  get descriptors(): number {
    let count = 0;
    for (const disk of this.engine.disks.values()) count += disk.descriptors;
    return count;
  }

  /** Nothing is left of what was done; throws otherwise. */
  atRest(): void {
    const left = {
      ios: this.ios.inUse,
      arenaBytes: this.engine.arena.inUse,
      underWay: this.engine.underWay.length,
    };
    for (const [what, count] of Object.entries(left)) {
      if (count !== 0) throw new Error(`${what}: ${count} are left`);
    }
  }

  /** Lets promises run, without the engine: for commands that are to wait for something. */
  async settle(): Promise<void> {
    for (let i = 0; i < 20; i++) await null;
  }

  /** Whether the promise has settled once all promises have run. */
  async isSettled(promise: Promise<unknown>): Promise<boolean> {
    let settled = false;
    const settle = (): void => {
      settled = true;
    };
    promise.then(settle, settle);
    await this.settle();
    return settled;
  }
}
