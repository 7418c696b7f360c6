/**
 * The target suite's world on a real engine, with files in a folder. The engine runs from the first
 * subtest to the last: it blocks its thread, and comes back to the event loop only when a promise
 * was resolved; so while the suite runs a timer sees to it that the test runner gets its turns.
 */

import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deviceNamed } from '../../src/backing/device.js';
import { Backings } from '../../src/backing/open.js';
import { EINVAL } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import { CopyEngine } from '../../src/copy/engine.js';
import { Device } from '../../src/device/device.js';
import { IoPool } from '../../src/device/io.js';
import { SplitPool } from '../../src/device/split.js';
import { type OpenBacking, type Slot, Table } from '../../src/device/table.js';
import type { Completion, Engine } from '../../src/engine/engine.js';
import { linear } from '../../src/target/linear/target.js';
import type { Target } from '../../src/target/target.js';
import { silent, type TargetHarness } from './harness.js';

/** What a word of the suite opens: a file, a file past the page cache, a device over a file. */
export type Beneath = 'file' | 'direct' | 'device';

/** Runs an engine while `body` runs. */
export async function running(engine: Engine, body: () => Promise<void>): Promise<void> {
  let over = false;
  const turn: Completion = {
    done: () => {
      engine.promiseResolved();
      if (!over) engine.timer(1, turn);
    },
  };
  engine.timer(0, turn);
  const run = engine.run();
  try {
    await body();
  } finally {
    over = true;
    engine.stop();
    await run;
  }
}

export class EngineHarness implements TargetHarness {
  readonly engine: Engine;
  readonly ios = new IoPool();
  readonly #beneath: Beneath;
  readonly #folder = mkdtempSync(join(tmpdir(), 'mapperd-'));
  readonly #backings: Backings;
  readonly #user: Device;
  readonly #devices = new Map<string, Device>();
  readonly #splits = new SplitPool(this.ios);
  readonly copies: CopyEngine;
  readonly #open = new Map<string, OpenBacking>();

  constructor(engine: Engine, beneath: Beneath) {
    this.engine = engine;
    this.copies = new CopyEngine(engine, this.ios);
    this.#beneath = beneath;
    this.#backings = new Backings(engine, this.ios, silent, (name) => this.#devices.get(name));
    this.#user = this.#device('subject');
  }

  #device(name: string): Device {
    return new Device(name, false, {
      engine: this.engine,
      ios: this.ios,
      splits: this.#splits,
      log: silent,
      event: () => {},
    });
  }

  makeBacking(name: string, sectors: number): string {
    const path = join(this.#folder, name);
    writeFileSync(path, '');
    truncateSync(path, sectors * 512);
    if (this.#beneath === 'file') return path;
    if (this.#beneath === 'direct') return `file://${path}?direct=1`;
    const device = this.#device(name);
    device.live = this.#halves(device, path, sectors);
    this.#devices.set(name, device);
    return `dm:${name}`;
  }

  /** The file in two parts, so that requests are cut. */
  #halves(device: Device, path: string, sectors: number): Table {
    const backing = this.#backings.open(path, device, false);
    const slot = (beginSectors: number, lengthSectors: number): Slot => {
      const target = linear.create([path, `${beginSectors}`], {
        deviceName: device.name,
        engine: this.engine,
        ios: this.ios,
        copies: this.copies,
        log: silent,
        restored: false,
        host: device,
        beginSectors,
        lengthSectors,
        openBacking: () => backing,
      }) as Target;
      const begin = beginSectors * 512;
      return { begin, end: begin + lengthSectors * 512, target, maxIoBytes: 0 };
    };
    const half = Math.floor(sectors / 2) - 1;
    return new Table([slot(0, half), slot(half, sectors - half)], [backing]);
  }

  openBacking(word: string, sectorsNeeded: number): OpenBacking {
    const backing = this.#open.get(word) ?? this.#backings.open(word, this.#user, false);
    this.#open.set(word, backing);
    const sectors = backing.size() / 512;
    if (sectors < sectorsNeeded) {
      throw new MapperError(EINVAL, `"${word}" has ${sectors} sectors, wanted ${sectorsNeeded}`);
    }
    return backing;
  }

  /** The engine runs by itself. */
  async wait<T>(promise: Promise<T>): Promise<T> {
    return promise;
  }

  async close(): Promise<void> {
    for (const [word, backing] of this.#open) {
      backing.close();
      const name = deviceNamed(word);
      if (name !== null) await this.#devices.get(name)?.live?.destroy();
    }
    rmSync(this.#folder, { recursive: true });
  }
}
