/** Devices on disks in memory, on an engine whose arena is poisoned, and a client for their I/O. */

import type { Log } from '../../src/base/log.js';
import type { Device } from '../../src/device/device.js';
import { IoPool } from '../../src/device/io.js';
import { DeviceRegistry } from '../../src/device/registry.js';
import { Disk } from '../backing/scripted-engine.js';
import { IoClient } from '../device/io-client.js';
import { FuzzEngine } from './nbd-host.js';
import { expect } from './subject.js';

const silent: Log = { debug() {}, info() {}, warn() {}, error() {} };

/** Turns after which something hangs. */
const turnsMost = 100_000;

export class DeviceHost {
  readonly engine = new FuzzEngine();
  readonly ios = new IoPool();
  readonly devices: DeviceRegistry;
  #arenaBytes = 0;
  #timers = 0;
  #descriptors = 0;

  constructor() {
    this.devices = new DeviceRegistry(this.engine, this.ios, silent);
  }

  disk(path: string, bytes: number): Disk {
    return new Disk(this.engine, path, bytes);
  }

  /** What is held from now on is to come back. */
  settleDown(): void {
    this.#arenaBytes = this.engine.arena.inUse;
    this.#timers = this.engine.timers;
    this.#descriptors = this.descriptors;
  }

  client(device: Device): IoClient {
    return new IoClient(this.engine, this.ios, (io) => device.submit(io));
  }

  /** Works until the promise settles; throws if it does not within a number of turns. */
  async wait<T>(promise: Promise<T>): Promise<T> {
    let settled = false;
    const settle = (): void => {
      settled = true;
    };
    promise.then(settle, settle);
    await null;
    for (let turns = 0, idle = 0; !settled; turns++) {
      expect(turns < turnsMost, `${turnsMost} turns, and it has not ended`);
      if (this.engine.turn()) {
        idle = 0;
      } else {
        expect(idle++ < 4, 'nothing is under way, and somebody waits');
        await new Promise((resolve) => setImmediate(resolve));
      }
      await null;
    }
    return promise;
  }

  checkRest(): void {
    const left = {
      ios: this.ios.inUse,
      'bytes of the arena': this.engine.arena.inUse - this.#arenaBytes,
      operations: this.engine.underWay.length,
      timers: this.engine.timers - this.#timers,
      descriptors: this.descriptors - this.#descriptors,
    };
    for (const [what, count] of Object.entries(left)) {
      expect(count === 0, `${what}: ${count} are left`);
    }
  }

  /** Those that are open on all disks. */
  get descriptors(): number {
    let descriptors = 0;
    for (const disk of this.engine.disks.values()) descriptors += disk.descriptors;
    return descriptors;
  }
}
