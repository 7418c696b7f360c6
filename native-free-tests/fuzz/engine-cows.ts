/**
 * The place for snapshots on a real engine: origin and COW are devices in memory, and the snapshot
 * stands on them. The arena is poisoned here, too.
 */

import { Buffer } from 'node:buffer';
import { memoryTargetBytes } from '../../src/base/limits.js';
import type { Log } from '../../src/base/log.js';
import type { Device } from '../../src/device/device.js';
import { IoPool, READ, WRITE } from '../../src/device/io.js';
import { DeviceRegistry } from '../../src/device/registry.js';
import { chooseEngine } from '../../src/engine/choose.js';
import type { Engine } from '../../src/engine/engine.js';
import { IoClient } from '../device/io-client.js';
import { type CowPlace, originContent } from './cow.js';
import { PoisonedArena } from './poison.js';
import { expect } from './subject.js';

const silent: Log = { debug() {}, info() {}, warn() {}, error() {} };
const arenaBytes = 16 * 2 ** 20;

export async function makeEngine(name: 'uring' | 'node'): Promise<Engine> {
  return (await chooseEngine(name, new PoisonedArena(arenaBytes))).engine;
}

export class EngineCows implements CowPlace {
  readonly devices: DeviceRegistry;
  readonly originWord = 'dm:origin';
  readonly cowWord = 'dm:cow';
  readonly #engine: Engine;
  readonly #ios = new IoPool();
  #cow: Device | null = null;
  #origin: Device | null = null;
  #arenaBytes = 0;

  constructor(engine: Engine) {
    this.#engine = engine;
    this.devices = new DeviceRegistry(engine, this.#ios, silent);
  }

  async start(): Promise<void> {
    this.#origin = await this.#make('origin', originContent);
    this.#arenaBytes = this.#engine.arena.inUse;
  }

  client(device: Device): IoClient {
    return new IoClient(this.#engine, this.#ios, (io) => device.submit(io));
  }

  /** The engine runs by itself. */
  wait<T>(promise: Promise<T>): Promise<T> {
    return promise;
  }

  async #make(name: string, contents: Buffer): Promise<Device> {
    const sectors = contents.length / 512;
    expect(sectors < memoryTargetBytes / 512, `${sectors} sectors in memory`);
    const device = await this.devices.create(name, `0 ${sectors} memory`);
    for (let at = 0; at < contents.length; at += 2 ** 19) {
      const data = contents.subarray(at, at + 2 ** 19);
      const { errno } = await this.client(device).run(WRITE, at, data.length, { data });
      expect(errno === 0, `${name} is written with errno ${errno}`);
    }
    return device;
  }

  async #contents(device: Device): Promise<Buffer> {
    const pieces: Buffer[] = [];
    for (let at = 0; at < device.sizeBytes; at += 2 ** 19) {
      const length = Math.min(2 ** 19, device.sizeBytes - at);
      pieces.push((await this.client(device).run(READ, at, length)).data);
    }
    return Buffer.concat(pieces);
  }

  /** The image has whole sectors. */
  async putCow(image: Buffer): Promise<void> {
    if (this.#cow !== null) await this.devices.remove('cow', true);
    this.#cow = await this.#make('cow', image);
  }

  storedCow(): Promise<Buffer> {
    return this.#contents(this.#cow as Device);
  }

  origin(): Promise<Buffer> {
    return this.#contents(this.#origin as Device);
  }

  checkRest(): void {
    expect(this.#ios.inUse === 0, `${this.#ios.inUse} ios are left`);
    const bytes = this.#engine.arena.inUse - this.#arenaBytes;
    expect(bytes === 0, `${bytes} bytes of the arena are left`);
  }
}
