/**
 * A registry of devices over files, in process, for tests of snapshots: on a real engine
 * (file-rig.ts), or on the scripted one (scripted-rig.ts).
 */

import { Buffer } from 'node:buffer';
import { Deferred } from '../../src/base/deferred.js';
import { errnoName } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import { blockBytesMax } from '../../src/base/limits.js';
import { IoPool, type Operation, operationNames, READ, WRITE } from '../../src/device/io.js';
import { DeviceRegistry } from '../../src/device/registry.js';
import type { Engine } from '../../src/engine/engine.js';
import type { TargetEvent } from '../../src/target/target.js';
import { silent } from '../contract/harness.js';
import { type Extras, IoClient } from '../device/io-client.js';
import type { StampedDisk } from './stamper.js';

/** What a device told. */
export interface Told {
  readonly device: string;
  readonly event: TargetEvent;
}

export abstract class Rig {
  readonly engine: Engine;
  readonly ios = new IoPool();
  readonly events: Told[] = [];
  readonly devices: DeviceRegistry;
  /** Null: somebody else uses the arena at the same time. */
  readonly #arenaInUse: number | null;

  constructor(engine: Engine, sharesArena = false) {
    this.engine = engine;
    this.#arenaInUse = sharesArena ? null : engine.arena.inUse;
    this.devices = new DeviceRegistry(engine, this.ios, silent, (device, event) => {
      this.events.push({ device: device.name, event });
    });
  }

  /** The word for a file of zeroes that is made if it is not there, and then is so long. */
  abstract file(name: string, sectors: number): string;

  /** The same without what it held. */
  fresh(name: string, sectors: number): string {
    this.file(name, 0);
    return this.file(name, sectors);
  }

  abstract contents(name: string): Buffer;
  abstract put(name: string, offset: number, bytes: Uint8Array): void;
  /** A world with the files as they are now, in that order, and nothing else. */
  abstract crashed(names: readonly string[]): Rig;
  /** Works until the promise settles. */
  abstract wait<T>(promise: Promise<T>): Promise<T>;
  /** Lets some I/O end. */
  abstract turns(count: number): Promise<void>;
  protected abstract release(): void;

  get eventNames(): string[] {
    return this.events.map(({ device, event }) => `${device} ${event.what}`);
  }

  client(name: string): IoClient {
    const device = this.devices.get(name);
    return new IoClient(this.engine, this.ios, (io) => device.submit(io));
  }

  /** An I/O, in pieces of what a buffer holds; rejects with MapperError when it fails. */
  async io(
    name: string,
    operation: Operation,
    offset: number,
    length: number,
    extras: Extras = {},
  ): Promise<Buffer> {
    const most = blockBytesMax / 2;
    const pieces: Promise<Buffer>[] = [];
    for (let at = 0; at === 0 || at < length; at += most) {
      const bytes = Math.min(most, length - at);
      const { data } = extras;
      const part = data === undefined ? extras : { ...extras, data: data.subarray(at, at + bytes) };
      pieces.push(this.#piece(name, operation, offset + at, bytes, part));
    }
    return Buffer.concat(await Promise.all(pieces));
  }

  async #piece(
    name: string,
    operation: Operation,
    offset: number,
    length: number,
    { flags = 0, data }: Extras,
  ): Promise<Buffer> {
    const { arena } = this.engine;
    const memory = arena.allocate(Math.max(1, length));
    if (memory < 0) throw new Error('no memory for a buffer');
    if (data !== undefined) arena.bytes.set(data, memory);
    const done = new Deferred<number>(this.engine);
    const io = this.ios.take(operation, offset, length, {
      finished: (io) => {
        const { error } = io;
        this.ios.give(io);
        done.resolve(error);
      },
    });
    io.flags = flags;
    io.memory = memory;
    this.devices.get(name).submit(io);
    const errno = await done.promise;
    const found = operation === READ && errno === 0 ? length : 0;
    const bytes = Buffer.from(arena.bytes.slice(memory, memory + found));
    arena.free(memory, Math.max(1, length));
    if (errno === 0) return bytes;
    const what = `${operationNames[operation]} of ${length} at ${offset} of ${name}`;
    throw new MapperError(errno, `${what}: ${errnoName(errno)}`);
  }

  disk(name: string): StampedDisk {
    return {
      read: (offset, length) => this.wait(this.io(name, READ, offset, length)),
      write: async (offset, data) => {
        await this.wait(this.io(name, WRITE, offset, data.length, { data }));
      },
    };
  }

  /** The words behind the target's name. */
  status(name: string): string {
    return this.devices.status(name)[0]?.words ?? 'no status';
  }

  table(name: string): string {
    const line = this.devices.table(name, false)[0];
    return line === undefined ? 'no table' : `${line.type} ${line.words}`.trimEnd();
  }

  async create(name: string, table: string): Promise<void> {
    await this.wait(this.devices.create(name, table, false));
  }

  /** Waits until it is so; throws when it does not come to it. */
  async until(what: string, isSo: () => boolean): Promise<void> {
    for (let turn = 0; !isSo(); turn++) {
      if (turn === 20_000) throw new Error(`waited in vain: ${what}`);
      await this.patience();
    }
  }

  /** What is waited for may take a disk some time. */
  protected abstract patience(): Promise<void>;

  /** Ends everything; throws if something is left of it. */
  async close(): Promise<void> {
    await this.wait(this.devices.shutdown());
    this.atRest();
    this.release();
  }

  atRest(): void {
    const arenaBytes = this.engine.arena.inUse - (this.#arenaInUse ?? this.engine.arena.inUse);
    if (this.ios.inUse !== 0) throw new Error(`${this.ios.inUse} ios are left`);
    if (arenaBytes !== 0) throw new Error(`${arenaBytes} bytes of the arena are left`);
  }
}
