/** A rig on the scripted engine: disks in memory, whose operations end in any order. */

import { Buffer } from 'node:buffer';
import { EIO } from '../../src/base/errno.js';
import { Disk, ScriptedEngine } from '../backing/scripted-engine.js';
import { random } from '../contract/pattern.js';
import { Rig } from './rig.js';

/** A file may grow to that on the scripted engine. */
const diskBytesMax = 4 * 2 ** 20;

export class ScriptedRig extends Rig {
  declare readonly engine: ScriptedEngine;
  readonly random: (limit: number) => number;
  /** New disks can do more or less, and transfers are short now and then. */
  varied = false;
  /** I/O on COW files fails now and then. Only with `varied`. */
  faults = false;

  constructor(seed: number, engine = new ScriptedEngine(16 * 2 ** 20)) {
    super(engine);
    this.random = random(seed);
    engine.shuffle(this.random);
    // Some disks are fair; others leave what came first for long, or do it at once.
    const fair = this.random;
    const near = (count: number): number =>
      fair(6) === 0 ? fair(count) : fair(Math.min(count, 2));
    const ways = [fair, (count: number) => count - 1 - near(count), near];
    engine.pick = ways[this.random(ways.length)] as (count: number) => number;
  }

  onDisk(name: string): Disk {
    const disk = this.engine.disks.get(`/${name}`);
    if (disk === undefined) throw new Error(`no disk ${name}`);
    return disk;
  }

  override file(name: string, sectors: number): string {
    const path = `/${name}`;
    const bytes = sectors * 512;
    const old = this.engine.disks.get(path);
    const disk = old ?? new Disk(this.engine, path, diskBytesMax);
    const before = old?.bytes ?? new Uint8Array();
    disk.bytes = new Uint8Array(bytes);
    disk.bytes.set(before.subarray(0, bytes));
    if (this.varied && old === undefined) this.#vary(path, disk);
    return path;
  }

  #vary(path: string, disk: Disk): void {
    disk.canTrim = this.random(3) !== 0;
    disk.canZero = this.random(2) === 0;
    disk.canExtents = this.random(3) !== 0;
    const fails = path.endsWith('.cow');
    disk.script = ({ what, length }) => {
      if (fails && this.faults && this.random(24) === 0) return -EIO;
      const transfers = what === 'read' || what === 'write';
      return transfers && this.random(16) === 0 ? 1 + this.random(length) : undefined;
    };
  }

  override contents(name: string): Buffer {
    return Buffer.from(this.onDisk(name).bytes);
  }

  override put(name: string, offset: number, bytes: Uint8Array): void {
    const disk = this.onDisk(name);
    disk.bytes.set(bytes, offset);
    disk.allocate(offset, offset + bytes.length);
  }

  override crashed(names: readonly string[]): ScriptedRig {
    const next = new ScriptedRig(this.random(2 ** 30));
    for (const name of names) {
      const { bytes } = this.onDisk(name);
      next.file(name, bytes.length / 512);
      next.put(name, 0, bytes);
    }
    return next;
  }

  /** Several may wait at once, each of them for what another one does next. */
  override async wait<T>(promise: Promise<T>): Promise<T> {
    let settled = false;
    const settle = (): void => {
      settled = true;
    };
    promise.then(settle, settle);
    for (let idle = 0; !settled; ) {
      const worked = this.engine.turn();
      idle = worked ? 0 : idle + 1;
      if (idle > 200) throw new Error('it hangs: nothing is under way that would end it');
      if (!worked) await new Promise((resolve) => setImmediate(resolve));
      for (let i = 0; i < 10; i++) await null;
    }
    return promise;
  }

  override async turns(count: number): Promise<void> {
    for (let i = 0; i < count; i++) {
      if (!this.engine.turn()) await new Promise((resolve) => setImmediate(resolve));
      for (let j = 0; j < 20; j++) await null;
    }
  }

  protected override patience(): Promise<void> {
    return this.turns(1);
  }

  protected override release(): void {
    const left = this.engine.underWay.length;
    if (left > 0) throw new Error(`${left} operations are under way`);
    for (const [path, { descriptors }] of this.engine.disks) {
      if (descriptors > 0) throw new Error(`${path} is open`);
    }
  }
}
