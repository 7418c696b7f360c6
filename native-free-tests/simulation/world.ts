/**
 * One simulated machine with a daemon on it, its clients, and the oracle that knows what they must
 * see. The daemon may be killed, the power may fail, at any moment; then the next one starts from
 * what is on the disks, and everything is looked at.
 */

import { found, foundInCache, type Loss } from './after-crash.js';
import type { SimArena } from './arena.js';
import { ANY, type Cells, uniform } from './cells.js';
import { moments, outcome, until } from './clock.js';
import { SimDaemon, socketPath, stateDirectory } from './daemon.js';
import type { ClientDevice, ClientWorld } from './device.js';
import { type Machine, SimEngine } from './engine.js';
import { SimFailure } from './failure.js';
import { Family } from './family.js';
import { type FaultRule, Faults } from './faults.js';
import { FileSystem } from './file-system.js';
import { FlipModel } from './flip-model.js';
import { addOldCows, fillFile } from './furniture.js';
import { OracleClock } from './history.js';
import type { JobWorld } from './jobs.js';
import { anyLayout, flip, type Layout, type LayoutFile, volume } from './layout.js';
import { anyMachine } from './machine.js';
import { type ClientOwner, SimClient } from './nbd-client.js';
import { Random } from './random.js';
import { type Resolution, resolveFamily } from './resolution.js';
import { Restart } from './restart.js';
import { SwitchModel } from './switch-model.js';
import type { Tally } from './tally.js';
import type { TraceHash } from './trace.js';

/** What worlds share, one after the other. */
export interface WorldParts {
  readonly arena: SimArena;
  /** For what is tried out beside the world. */
  readonly probeArena: SimArena;
  readonly hash: TraceHash;
  readonly tally: Tally;
  /** What has happened, for a person; null: nobody wants to know. */
  readonly trace: string[] | null;
  /** Files whose flushes do nothing, to see that it is noticed. */
  readonly liars: (path: string) => boolean;
  /** Whenever something has reached a disk, it is tried what a crash would leave. */
  readonly everyEffect: boolean;
}

export class World implements ClientWorld, JobWorld {
  readonly clock = new OracleClock();
  /** Of the machine: what the disks and the network do. */
  readonly random: Random;
  readonly layout: Layout;
  readonly family: Family;
  readonly switch: SwitchModel | null;
  readonly flip: FlipModel | null;
  /** So often the state directory will be full in the next command that can take it. */
  fullPerThousand = 0;
  /** When a disk beneath has last failed an operation. */
  readonly faultTicks = { volume: 0, switch: 0, flip: 0, cow: 0 };
  readonly faults = new Faults();
  /** See SimDaemon: what those snapshots show after a crash nobody can tell. */
  readonly unmarked = new Set<string>();
  engine: SimEngine;
  daemon: SimDaemon;
  readonly fileSystem = new FileSystem();
  ending = false;
  /** Requests of all clients that have not been answered. */
  inFlight = 0;
  readonly tracing: boolean;
  readonly tally: Tally;
  readonly parts: WorldParts;
  readonly #machine: Machine;
  #stamps = 1;
  #clients = 0;
  /** Everything is there that belongs to it. */
  #made = false;
  /** How the last daemon ended, until all has been looked at. */
  #startsAfter: Loss | null = null;

  private constructor(seed: number, parts: WorldParts) {
    const random = new Random(seed);
    this.parts = parts;
    this.tracing = parts.trace !== null;
    this.tally = parts.tally;
    this.random = new Random(random.bits());
    const machine = anyMachine(random);
    // Nothing reaches a disk together with anything else, then.
    const apart = { atOncePerThousand: 0, momentMilliseconds: 0 };
    this.#machine = parts.everyEffect ? { ...machine, ...apart } : machine;
    this.layout = anyLayout(random);
    this.faults.shortPerThousand = random.pick([0, 0, 10, 100]);
    this.faults.liars = parts.liars;
    this.faults.listener = (path) => this.#diskFailed(path);
    for (const { path, sectors } of this.layout.files) this.fileSystem.add(path, sectors * 512);
    this.engine = this.#watchedEngine();
    this.daemon = new SimDaemon(this.engine, this.unmarked);
    const { switch: layout, flip: flipping, volumeSectors } = this.layout;
    this.family = new Family(this, uniform(volumeSectors, 0));
    const paths = Array.from({ length: layout?.paths ?? 0 }, (_, path) =>
      layout?.direct ? this.#fill(`/disks/sw${path}.img`, layout.sectors) : [],
    );
    this.switch = layout === null ? null : new SwitchModel(this, layout, paths);
    const fill = (which: string): Cells =>
      this.#fill(`/disks/flip-${which}.img`, flipping?.sectors);
    this.flip = flipping && new FlipModel(this, flipping.tables, [fill('a'), fill('b')]);
  }

  /** A world with everything in it, and clients connected. */
  static async create(seed: number, parts: WorldParts): Promise<World> {
    const world = new World(seed, parts);
    world.note(`  world: ${JSON.stringify(world.layout.devices)}`);
    world.family.oldCows.push(...addOldCows(world.fileSystem, world.layout, world.random));
    const { engine, daemon } = world;
    await outcome(engine, 'the first start', daemon.start());
    for (const { name, table } of world.layout.devices) {
      await outcome(engine, `create ${name}`, daemon.catalogue.create({ name, table }));
    }
    await world.connectAll();
    world.#made = true;
    return world;
  }

  #newEngine(fileSystem: FileSystem, arena: SimArena): SimEngine {
    const { faults, random } = this;
    const { hash } = this.parts;
    return new SimEngine({ machine: this.#machine, arena, random, fileSystem, faults, hash });
  }

  #fill(path: string, sectors = 0): Cells {
    const file = this.layout.files.find((one) => one.path === path) as LayoutFile;
    return fillFile(this.fileSystem, file, sectors, this.takeStamps(sectors));
  }

  #watchedEngine(): SimEngine {
    const engine = this.#newEngine(this.fileSystem, this.parts.arena);
    if (!this.parts.everyEffect) return engine;
    let seen = 0;
    engine.watcher = async () => {
      if (!this.#made || engine.effects === seen) return;
      seen = engine.effects;
      // Beneath a daemon that starts after a power cut that has left its marks already.
      if (this.#startsAfter !== 'power') await this.probe('kill');
      await this.probe('power');
    };
    return engine;
  }

  // For clients and jobs.

  connect(name: string, owner: ClientOwner): SimClient {
    const address = { path: socketPath, number: ++this.#clients };
    return new SimClient(this.engine, address, name, this.random.chance(600), owner);
  }

  takeStamps(sectors: number): number {
    const first = this.#stamps;
    this.#stamps += sectors;
    return first;
  }

  tick(): number {
    return this.clock.tick();
  }

  note(text: string): void {
    this.parts.trace?.push(text);
  }

  fail(error: unknown): void {
    this.engine.failure ??= error;
    this.engine.continuations = true;
  }

  resolved(): void {
    this.engine.continuations = true;
  }

  mayFail(what: string): ((ok: boolean) => boolean) | null {
    const perThousand = this.fullPerThousand;
    this.fullPerThousand = 0;
    if (perThousand === 0) return null;
    const place = { path: stateDirectory, first: 0, end: 1 };
    const rule: FaultRule = { ...place, operation: 'space', perThousand, once: true };
    this.faults.rules.push(rule);
    const before = this.#tables(what);
    return (ok) => {
      const wasFull = !this.faults.rules.includes(rule);
      this.faults.rules = this.faults.rules.filter((other) => other !== rule);
      const after = this.#tables(what);
      if (ok || after === before) return wasFull;
      throw new SimFailure('undo', `found ${after} after a failure, wanted ${before}`);
    };
  }

  /** Live tables that nobody else changes while that command is carried out. */
  #tables(what: string): string {
    const router = this.layout.switch?.name;
    const isMine = (name: string): boolean => {
      if (what.startsWith(flip)) return name === flip;
      // The volume may get another table during an upload, but no router during anything.
      return what.startsWith('upload') ? name === router : name !== flip;
    };
    const mine = this.daemon.catalogue.all().filter(({ name }) => isMine(name));
    return JSON.stringify(mine.map(({ live, name }) => [name, live]));
  }

  #diskFailed(path: string): void {
    if (path === stateDirectory) return;
    const now = this.tick();
    const { switch: layout } = this.layout;
    if (this.tracing) this.note(`    fault of ${path}`);
    if (path.startsWith('/state/') || path.startsWith('/cows/')) this.faultTicks.cow = now;
    else if (path.startsWith('/disks/flip')) this.faultTicks.flip = now;
    else if (path.startsWith('/disks/sw')) this.faultTicks.switch = now;
    else this.faultTicks.volume = now;
    if (layout?.direct === false && path.startsWith('/disks/sw')) this.faultTicks.volume = now;
    if (!path.startsWith('/disks/flip')) this.family.diskFailed(path);
  }

  // Time.

  /** Every device that clients use. */
  get devices(): ClientDevice[] {
    const others = [this.switch?.device ?? null, this.flip?.device ?? null];
    return [...this.family.devices, ...others.filter((device) => device !== null)];
  }

  get busy(): boolean {
    return this.family.busy || this.switch?.busy === true || this.flip?.busy === true;
  }

  until(what: string, over: () => boolean): Promise<void> {
    return until(this.engine, what, over);
  }

  moments(count: number): Promise<void> {
    return moments(this.engine, count);
  }

  /** Nothing is asked for that has not been answered. */
  async quiet(): Promise<void> {
    await this.until('all requests and commands end', () => this.inFlight === 0 && !this.busy);
  }

  async connectAll(): Promise<void> {
    const all = this.devices.filter(({ clients }) => clients.length === 0);
    const clients = all.map((device) => device.connect());
    await this.until('clients connect', () => clients.every(({ ready }) => ready));
  }

  // Ends and new beginnings.

  /** The daemon ends in that way, and another one starts. */
  async restart(loss: Loss, peacefully: boolean): Promise<void> {
    await this.moments(0);
    this.faults.rules = [];
    this.fullPerThousand = 0;
    if (peacefully) await this.#end();
    this.abandon();
    if (loss === 'power') this.fileSystem.losePower(this.random);
    this.engine = this.#watchedEngine();
    this.daemon = new SimDaemon(this.engine, this.unmarked);
    // What ended in peace has been flushed.
    const remembers = peacefully ? 'kill' : loss;
    this.#startsAfter = remembers;
    const restart = new Restart(this, this.engine, this.daemon);
    await restart.start();
    const resolution = this.#resolve(restart, remembers, loss);
    const stamps = await restart.check(resolution, remembers);
    const all = new Map(resolution.checks.map((check) => [check.name, check.cells]));
    resolution.commit();
    for (const device of this.devices) {
      const cells = all.get(device.name);
      const seen = stamps.get(device.name);
      if (cells !== undefined && seen === undefined) {
        device.history.restarted(uniform(device.sectors, ANY));
      } else if (cells !== undefined && seen !== undefined) {
        const durable = loss === 'power';
        device.history.restarted(
          durable ? found(this.clock, seen) : foundInCache(this.clock, cells, seen),
        );
      }
      device.reset();
    }
    this.#startsAfter = null;
    await restart.leave();
    await this.#tidy();
    await this.connectAll();
    this.tally.restarts++;
  }

  /** Nothing more happens in the daemon that there is. */
  abandon(): void {
    this.tally.seconds += this.engine.now / 1000;
    this.engine.abandon();
  }

  async #end(): Promise<void> {
    this.ending = true;
    const { daemon, engine } = this;
    await outcome(engine, 'shutdown', daemon.shutdown());
    await this.until('clients are gone', () =>
      this.devices.every(({ clients }) => clients.length === 0),
    );
    this.ending = false;
    const blocks = this.parts.arena.blocksHeld;
    if (blocks > 64) throw new SimFailure('leak', `${blocks} blocks of the arena are held`);
  }

  /** What would be found if the daemon ended now; nothing happens to this world. */
  async probe(loss: Loss): Promise<void> {
    const fileSystem = this.fileSystem.twin();
    if (loss === 'power') fileSystem.losePower(this.random);
    const engine = this.#newEngine(fileSystem, this.parts.probeArena);
    const { rules } = this.faults;
    this.faults.rules = [];
    const restart = new Restart(this, engine, new SimDaemon(engine));
    await restart.start();
    await restart.check(this.#resolve(restart, loss, loss), loss);
    restart.abandon();
    this.faults.rules = rules;
    this.tally.probes++;
  }

  /** `unused`: what has become of files that no device stood on. */
  #resolve(restart: Restart, loss: Loss, unused = loss): Resolution {
    const family = resolveFamily(this.family, restart.tables);
    const regions = this.switch?.resolve(restart.regions, loss) ?? null;
    const flipping = this.flip?.resolve(restart.tables.get(flip) ?? null, unused) ?? null;
    const all = [family, regions, flipping].filter((one) => one !== null);
    return {
      checks: all.flatMap(({ checks }) => checks),
      commit: () => {
        for (const one of all) one.commit();
      },
    };
  }

  /** A command that was cut off may have left the device beneath the volume. */
  async #tidy(): Promise<void> {
    const { daemon, engine, family } = this;
    const real = `${volume}-real`;
    if (family.state !== 'plain' || daemon.catalogue.known(real) === null) return;
    await outcome(engine, `remove ${real}`, daemon.catalogue.remove(real, false));
  }
}
