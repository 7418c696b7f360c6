/**
 * A server with devices, all in this thread, on an engine whose arena is poisoned. What has been
 * sent is poisoned as well, before its memory is used for anything else. Between inputs nothing may
 * be left of the one before.
 */

import type { Log } from '../../src/base/log.js';
import { IoPool } from '../../src/device/io.js';
import { DeviceRegistry } from '../../src/device/registry.js';
import type {
  Completion,
  ConnectionHandler,
  EngineListener,
  ListenSource,
  SendVector,
} from '../../src/engine/engine.js';
import type { ArenaSendVector } from '../../src/engine/send-vector.js';
import { Connection } from '../../src/nbd/connection.js';
import { type ExportPolicy, openPolicy } from '../../src/nbd/export-policy.js';
import { Server } from '../../src/nbd/server.js';
import { Disk, ScriptedEngine } from '../backing/scripted-engine.js';
import { FakeSocket, type Traffic } from '../nbd/fake-socket.js';
import type { JudgedExports } from './handshake-judge.js';
import type { Names } from './nbd-options.js';
import { PoisonedArena, poison } from './poison.js';
import type { Random } from './random.js';
import { expect } from './subject.js';

const KiB = 1024;
const arenaBytes = 8 * KiB * KiB;

export class FuzzEngine extends ScriptedEngine {
  override readonly arena = new PoisonedArena(arenaBytes);
  readonly handlers: ConnectionHandler[] = [];

  constructor() {
    super(2 * KiB * KiB);
  }

  listenTo(source: ListenSource, handler: ConnectionHandler): Promise<EngineListener> {
    this.handlers.push(handler);
    const path = source.kind === 'unix' ? source.path : '';
    return Promise.resolve({ address: { kind: 'unix', path }, close() {} });
  }

  override listen(source?: ListenSource, handler?: ConnectionHandler): Promise<EngineListener> {
    if (source === undefined || handler === undefined) throw new Error('a listener of nobody');
    return this.listenTo(source, handler);
  }
}

/** A socket whose sent bytes cannot be sent once more by mistake. */
export class PoisoningSocket extends FakeSocket {
  readonly #arena: PoisonedArena;

  constructor(engine: FuzzEngine, traffic: Traffic) {
    super(engine, traffic);
    this.#arena = engine.arena;
  }

  override send(vector: SendVector, completion: Completion): void {
    const pieces = vector as ArenaSendVector;
    super.send(vector, {
      done: (result) => {
        for (let piece = 0; piece < pieces.count; piece++) {
          const at = pieces.offsetOf(piece);
          // The zeroes that every hole is made of stay.
          if (at < this.#arena.zeroesBytes) continue;
          this.#arena.bytes.fill(poison, at, at + pieces.lengthOf(piece));
        }
        completion.done(result);
      },
    });
  }
}

const silent: Log = { debug() {}, info() {}, warn() {}, error() {} };

/** Where I/O of `vol0` fails, in bytes. */
export const failing = { begin: 96 * 512, end: 128 * 512 };
const diskBytes = 192 * 512;
const usual = ['base:allocation', 'qemu:allocation-depth'];
/** Beyond 32 bits; what is carried out in steps has some tens of them. */
const bigBytes = 2 ** 37;

export const hostExports: JudgedExports = {
  byName: new Map([
    ['origin', { sizeBytes: diskBytes, contexts: [...usual, 'qemu:dirty-bitmap:snap'] }],
    ['snap', { sizeBytes: diskBytes, contexts: [...usual, 'qemu:dirty-bitmap:snap'] }],
    ['vol0', { sizeBytes: 2 * diskBytes, contexts: usual }],
    ['ro', { sizeBytes: diskBytes, contexts: usual }],
    ['big', { sizeBytes: bigBytes, contexts: usual }],
    ['hidden', { sizeBytes: diskBytes, contexts: usual, hidden: true }],
    ['closed', { sizeBytes: diskBytes, contexts: usual }],
  ]),
  defaultName: 'vol0',
};

/** What those have who come from an address: it is not one for which `closed` is. */
export const foreignExports: JudgedExports = {
  ...hostExports,
  byName: new Map([...hostExports.byName].filter(([name]) => name !== 'closed')),
};

/** What owners have said. */
const policies: readonly (readonly [string, Partial<ExportPolicy>])[] = [
  ['ro', { description: 'a disk, \u00e9', connections: 7 }],
  ['hidden', { hidden: true, readOnly: true }],
  ['closed', { allow: ['10.0.0.0/8', '2001:db8::/32'] }],
];

export const hostNames: Names = {
  exports: ['vol0', 'vol0', 'ro', 'big', 'origin', 'snap', 'hidden', 'closed'],
  contexts: [...usual, 'qemu:dirty-bitmap:snap'],
};

const tables: readonly (readonly [string, string])[] = [
  ['origin', '0 192 snapshot-origin /origin'],
  ['snap', '0 192 snapshot /origin /cow N 8'],
  ['vol0', '0 64 linear /a 0\n64 32 zero\n96 32 error\n128 256 striped 2 16 /b 0 /c 8'],
  ['ro', '0 192 linear /a 0'],
  ['big', `0 ${bigBytes / 512} zero`],
  ['hidden', '0 192 linear /a 0'],
  ['closed', '0 192 linear /a 0'],
];

export class NbdHost {
  readonly engine = new FuzzEngine();
  readonly ios = new IoPool();
  readonly server: Server;
  readonly traffic: Traffic = { sends: 0, mostSends: 0 };
  readonly #devices: DeviceRegistry;
  readonly #disks: Disk[] = [];
  #arenaBytes = 0;
  #users = 0;

  private constructor() {
    this.#devices = new DeviceRegistry(this.engine, this.ios, silent);
    const events = { connection() {} };
    this.server = new Server(this.engine, this.ios, this.#devices, silent, events);
    this.server.defaultExport = 'vol0';
  }

  static async make(): Promise<NbdHost> {
    const host = new NbdHost();
    for (const path of ['/origin', '/a', '/b', '/c']) {
      host.#disks.push(new Disk(host.engine, path, diskBytes));
    }
    new Disk(host.engine, '/cow', 2 ** 20);
    for (const [name, table] of tables) {
      await host.engine.wait(host.#devices.create(name, table, name === 'ro'));
    }
    for (const [name, policy] of policies) {
      host.server.setPolicy(host.#devices.get(name), { ...openPolicy, ...policy });
    }
    await host.engine.wait(host.server.listen({ kind: 'unix', path: '/nbd' }));
    await host.engine.wait(host.server.listen({ kind: 'unix', path: '/gate' }, true));
    host.#arenaBytes = host.engine.arena.inUse;
    host.#users = host.#countUsers();
    return host;
  }

  #countUsers(): number {
    let users = 0;
    for (const device of this.#devices.all()) users += device.users.size;
    return users;
  }

  /** Disks as they are in the beginning: full of zeroes. */
  clear(): void {
    for (const disk of this.#disks) {
      disk.bytes.fill(0);
      disk.allocated.fill(0);
    }
    for (const disk of this.engine.disks.values()) disk.calls.length = 0;
  }

  connect(piped: boolean): PoisoningSocket {
    const socket = new PoisoningSocket(this.engine, this.traffic);
    (this.engine.handlers[piped ? 1 : 0] as ConnectionHandler).accepted(socket, 'unix');
    return socket;
  }

  /** The daemon ends a client that has chosen its device, in one of its ways. */
  evict(shutsDown: boolean): void {
    for (const device of this.#devices.all()) {
      for (const user of [...device.users]) {
        if (!(user instanceof Connection)) continue;
        if (shutsDown) user.shutdown();
        else user.deviceRemoved();
      }
    }
  }

  /** Others hold nearly all memory, until the function that is returned is called. */
  press(random: Random): () => void {
    const { arena } = this.engine;
    const held: { at: number; bytes: number }[] = [];
    for (const bytes of [KiB * KiB, 64 * KiB, 4 * KiB]) {
      for (;;) {
        const at = arena.allocate(bytes);
        if (at < 0) break;
        held.push({ at, bytes });
      }
    }
    const relax = (count: number): void => {
      for (const { at, bytes } of held.splice(-count, count)) arena.free(at, bytes);
    };
    relax(Math.min(held.length, random.pick([0, 1, 4, 10, 30])));
    return () => relax(held.length);
  }

  /** One operation ends, if one is under way. Time stands still. */
  turn(): void {
    if (this.engine.underWay.length > 0) this.engine.turn();
    else this.engine.advance(0);
  }

  /** Nothing is left of any client. */
  checkRest(): void {
    const { poolInUseBytes, connections, requests, replyBytesKept } = this.server.memoryUse();
    const left = {
      poolInUseBytes,
      connections,
      requests,
      ios: this.ios.inUse,
      'bytes of the arena': this.engine.arena.inUse - this.#arenaBytes - replyBytesKept,
      operations: this.engine.underWay.length,
      timers: this.engine.timers,
      users: this.#countUsers() - this.#users,
    };
    for (const [what, count] of Object.entries(left)) {
      expect(count === 0, `${what}: ${count} are left`);
    }
  }
}
