/**
 * The volume and its snapshots: the commands that make, remove and merge them while all of them are
 * in use, and what each device may show at any moment and after a crash at any moment.
 *
 *   plain -> origin (with snapshots) -> merging -> origin or plain
 */

import { originOf } from '../../src/control/snapshot/tables.js';
import { type Cells, never, type Write } from './cells.js';
import { type Asked, ClientDevice, type DeviceRules } from './device.js';
import { History } from './history.js';
import { type Job, runJob } from './jobs.js';
import { volume } from './layout.js';
import type { Random } from './random.js';
import { mayRunFull, type SnapshotFacts, SnapshotModel } from './snapshot-model.js';
import type { World } from './world.js';

export type FamilyState = 'plain' | 'origin' | 'merging';

/** What a command under way may have changed when the daemon dies. */
export type Change =
  | { readonly kind: 'take'; readonly name: string; readonly facts: TakeFacts }
  | { readonly kind: 'remove'; readonly snapshot: SnapshotModel }
  | { readonly kind: 'merge'; readonly snapshot: SnapshotModel };

export interface TakeFacts {
  readonly transient: boolean;
  readonly chunkSectors: number;
  readonly cowPath: string;
  /** Writes to the volume that were under way then, or have begun since. */
  readonly writes: Write[];
}

export class Family implements DeviceRules {
  readonly volume: ClientDevice;
  readonly snapshots = new Map<string, SnapshotModel>();
  state: FamilyState = 'plain';
  job: Job | null = null;
  change: Change | null = null;
  /** COW files that removed snapshots have left, full of what they held. */
  readonly oldCows: string[] = [];
  readonly #world: World;
  #taken = 0;
  /** When the last merge was begun. */
  #mergedAt = 0;

  constructor(world: World, cells: Cells) {
    this.#world = world;
    this.volume = new ClientDevice(world, volume, new History(world.clock, cells), this);
  }

  get busy(): boolean {
    return this.job !== null && !this.job.ended;
  }

  get devices(): ClientDevice[] {
    return [this.volume, ...[...this.snapshots.values()].map(({ device }) => device)];
  }

  // DeviceRules of the volume.

  wrote(write: Write): void {
    for (const snapshot of this.snapshots.values()) snapshot.touches(write);
    if (this.change?.kind === 'take') this.change.facts.writes.push(write);
  }

  written(write: Write): void {
    // While something is merged, writes go to its COW until their chunks are there.
    if (this.state === 'merging' || this.change?.kind === 'merge') return;
    for (const snapshot of this.snapshots.values()) snapshot.touched(write);
  }

  flushed(start: number): void {
    this.volume.history.flushed(start);
    for (const { device } of this.snapshots.values()) device.history.flushedOrigin(start);
  }

  /** No snapshot's trouble is its origin's, but for one that is being merged. */
  mayFail(asked: Asked): boolean {
    const { volume: below, cow } = this.#world.faultTicks;
    // Writes wait for what is being merged, and fail with it.
    if (this.state === 'merging') return Math.max(below, cow) > this.#mergedAt;
    return below > asked.start;
  }

  #rulesOf(snapshot: () => SnapshotModel): DeviceRules {
    return {
      wrote: (write) => snapshot().touches(write),
      written: (write) => snapshot().touched(write),
      flushed: (start) => snapshot().device.history.flushedOwn(start),
      mayFail: (asked) => {
        const { volume: below, cow } = this.#world.faultTicks;
        return snapshot().mayBeInvalid || Math.max(below, cow) > asked.start;
      },
    };
  }

  /** A disk has failed an operation: snapshots may suffer. */
  diskFailed(path: string): void {
    const isCow = path.startsWith('/state/') || path.startsWith('/cows/');
    for (const snapshot of this.snapshots.values()) {
      if (!isCow || snapshot.facts.cowPath === path) snapshot.failed = true;
    }
  }

  /** Takes a snapshot, in some way. */
  take(random: Random): void {
    if (this.state === 'origin' && random.chance(500)) this.#takeByTable(random);
    else this.#takeByCommand(random);
  }

  /** As with dmsetup, and nobody suspends the origin. */
  #takeByTable(random: Random): void {
    const world = this.#world;
    const name = `s${++this.#taken}`;
    const { blockSectors, volumeSectors } = world.layout;
    const chunkSectors = Math.max(blockSectors, random.pick([1, 2, 4, 8]));
    const type = random.pick(['P', 'P', 'PO', 'N']);
    const cowPath = `/cows/${name}.cow`;
    const all = Math.ceil(volumeSectors / chunkSectors);
    const chunks = random.chance(250) ? 3 + random.below(all) : all + 3 + Math.ceil(all / 32);
    world.fileSystem.add(cowPath, chunks * chunkSectors * 512);
    const features = random.pick(['', '', ' 1 discard_zeroes_cow']);
    const words = `dm:${volume}-real ${cowPath} ${type} ${chunkSectors}${features}`;
    const table = `0 ${volumeSectors} snapshot ${words}`;
    const transient = type === 'N';
    this.#begin(name, { transient, chunkSectors, cowPath }, () =>
      world.daemon.catalogue.create({ name, table }),
    );
  }

  #takeByCommand(random: Random): void {
    const world = this.#world;
    const name = `s${++this.#taken}`;
    const transient = random.chance(350);
    const { blockSectors, volumeSectors } = world.layout;
    const chunkSectors = Math.max(blockSectors, random.pick([1, 1, 1, 2, 2, 4, 8, 8, 16]));
    const old = random.chance(700) ? this.#oldCowFor(chunkSectors) : undefined;
    const small = old === undefined && random.chance(150);
    const chunks = Math.ceil(volumeSectors / chunkSectors);
    const cowBytes = small ? (4 + random.below(chunks)) * chunkSectors * 512 : undefined;
    const params = {
      origin: volume,
      name,
      transient,
      chunkSectors,
      ...(old === undefined ? {} : { cow: old, wipe: true }),
      ...(cowBytes === undefined ? {} : { cowBytes }),
    };
    const facts = { transient, chunkSectors, cowPath: old ?? `/state/${name}.cow` };
    this.#begin(name, facts, () => world.daemon.snapshots.snapshot(params));
  }

  /** One that is not too small, if there is one; it is nobody else's from now on. */
  #oldCowFor(chunkSectors: number): string | undefined {
    const { fileSystem } = this.#world;
    const at = this.oldCows.findLastIndex(
      (path) => (fileSystem.find(path)?.medium.size ?? 0) >= 3 * chunkSectors * 512,
    );
    return at < 0 ? undefined : this.oldCows.splice(at, 1)[0];
  }

  #begin(
    name: string,
    { transient, chunkSectors, cowPath }: Omit<TakeFacts, 'writes'>,
    take: () => Promise<unknown>,
  ): void {
    const world = this.#world;
    const { history } = this.volume;
    const writes = [...history.writing];
    const facts: TakeFacts = { transient, chunkSectors, cowPath, writes };
    this.change = { kind: 'take', name, facts };
    world.unmarked.delete(cowPath);
    history.remember(world.tick());
    const what = `snapshot ${name} of ${chunkSectors} sectors${transient ? ', transient' : ''}`;
    this.job = runJob(world, what, take, {
      done: () => this.#isTaken(name, facts),
      undone: () => this.#undone(),
    });
  }

  /** A command has failed, and left all as it was. */
  #undone(): void {
    const { history } = this.volume;
    history.remember(never);
    if (this.change?.kind === 'merge') history.became(false);
    this.change = null;
    this.look();
    for (const { device } of this.snapshots.values()) {
      if (device.clients.length === 0) device.connect();
    }
  }

  #isTaken(name: string, facts: TakeFacts): void {
    const cells = this.volume.history.fork((this.job as Job).start);
    this.volume.history.remember(never);
    this.add(name, facts, cells).device.connect();
    this.state = 'origin';
    this.change = null;
  }

  /** A snapshot that shows that is there. */
  add(name: string, facts: TakeFacts, cells: Cells): SnapshotModel {
    const world = this.#world;
    const history = new History(world.clock, cells);
    const device: ClientDevice = new ClientDevice(
      world,
      name,
      history,
      this.#rulesOf((): SnapshotModel => model),
    );
    const model: SnapshotModel = new SnapshotModel(
      this.#factsOf(name, facts),
      device,
      world.tick(),
    );
    for (const write of facts.writes) model.touches(write);
    this.snapshots.set(name, model);
    return model;
  }

  #factsOf(name: string, facts: TakeFacts): SnapshotFacts {
    const bytes = this.#world.fileSystem.find(facts.cowPath)?.medium.size ?? 0;
    return { name, ...facts, cowSectors: Math.floor(bytes / 512) };
  }

  /** Whether a snapshot may be invalid, which may be one that was being taken. */
  mayBeInvalid(name: string): boolean {
    const { change } = this;
    if (change?.kind === 'take' && change.name === name) {
      return mayRunFull(this.#factsOf(name, change.facts), change.facts.writes);
    }
    return this.snapshots.get(name)?.mayBeInvalid === true;
  }

  /** Its clients have gone. */
  remove(snapshot: SnapshotModel, keepCow: boolean): void {
    const world = this.#world;
    const { name } = snapshot;
    this.change = { kind: 'remove', snapshot };
    this.job = runJob(
      world,
      `remove ${name}`,
      () => world.daemon.snapshots.remove({ name, keepCow }),
      {
        done: () => {
          this.#forget(snapshot);
          const { cowPath } = snapshot.facts;
          if (world.fileSystem.find(cowPath) !== undefined) this.oldCows.push(cowPath);
        },
        undone: () => this.#undone(),
      },
    );
  }

  #forget(snapshot: SnapshotModel): void {
    this.snapshots.delete(snapshot.name);
    this.change = null;
    this.look();
  }

  /** Its clients have gone. */
  merge(snapshot: SnapshotModel): void {
    const world = this.#world;
    const { name, device } = snapshot;
    this.change = { kind: 'merge', snapshot };
    for (const other of this.snapshots.values()) other.losesTo(snapshot);
    this.volume.history.mayBecome(copyOf(device.history.cells));
    this.job = runJob(world, `merge ${name}`, () => world.daemon.snapshots.merge(name), {
      done: () => {
        this.merged(snapshot);
        this.change = null;
      },
      undone: () => this.#undone(),
    });
  }

  /** The volume is what the snapshot was. */
  merged(snapshot: SnapshotModel): void {
    this.snapshots.delete(snapshot.name);
    this.volume.history.became(true);
    this.volume.changed();
    this.#mergedAt = this.#world.tick();
    this.state = 'merging';
    // Again: it has got more in the meantime.
    for (const other of this.snapshots.values()) other.losesTo(snapshot);
    this.look();
  }

  /** A merge ends by itself, and so does an origin without snapshots. */
  look(): void {
    const { live } = this.#world.daemon.catalogue.known(volume) ?? { live: null };
    this.state = stateOf(live);
  }

  /** The daemon is another one, and the volume has come to that. */
  restarted(state: FamilyState): void {
    this.change = null;
    this.job = null;
    this.state = state;
    for (const snapshot of this.snapshots.values()) {
      const { cowPath, transient } = snapshot.facts;
      // What is in memory alone is lost with it, and so is what the disk would not take down.
      if (transient) snapshot.invalid = true;
      else if (this.#world.unmarked.has(cowPath)) snapshot.invalid = false;
    }
  }

  /** No request is under way: the status lines must be true, and say what is on the disks. */
  checkStatus(name: string, words: string): void {
    const snapshot = this.snapshots.get(name);
    if (snapshot === undefined) return;
    const quiet = this.state !== 'merging';
    snapshot.checkStatus(words, quiet);
    const inode = this.#world.fileSystem.find(snapshot.facts.cowPath);
    if (quiet && inode !== undefined) snapshot.checkCow(words, inode.medium.contents);
  }
}

/** A snapshot's cells as the volume's own. */
function copyOf(all: Cells): Cells {
  return all.map((cells) =>
    cells.map((cell) => ({ ...cell, inherited: false, originDead: Number.POSITIVE_INFINITY })),
  );
}

export function stateOf(table: string | null): FamilyState {
  const origin = originOf(table);
  if (origin === null) return 'plain';
  return origin.merging ? 'merging' : 'origin';
}
