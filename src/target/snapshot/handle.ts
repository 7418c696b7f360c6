/**
 * A table's hold on a snapshot. The first table on a COW opens the store; one that is loaded later
 * on the same COW reads nothing: it takes the snapshot over when it is resumed, provided that the
 * first is suspended (the kernel's handover).
 *
 *   load      source has the snapshot      destination has none
 *   resume    source has none, for good    destination has it
 */

import { EINVAL } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import type { TargetContext } from '../target.js';
import type { SnapshotWords } from './arguments.js';
import { ExceptionTable } from './exception-table.js';
import type { Origin } from './origin.js';
import { type CowUse, type SnapshotRegistry, snapshotsOf } from './registry.js';
import { Snapshot } from './snapshot.js';
import { createStore } from './stores.js';

export class SnapshotHandle {
  readonly words: SnapshotWords;
  readonly context: TargetContext;
  readonly origin: Origin;
  /** Null: not yet, or not any more. */
  snapshot: Snapshot | null = null;
  /** Nothing comes from its device. */
  suspended = true;
  readonly #registry: SnapshotRegistry;
  readonly #use: CowUse;

  private constructor(words: SnapshotWords, context: TargetContext, registry: SnapshotRegistry) {
    this.words = words;
    this.context = context;
    this.#registry = registry;
    this.origin = registry.origin(words.origin);
    const { cows } = registry;
    const known = cows.get(words.cow.identity);
    this.#use = known ?? { origin: this.origin, source: null, destination: null };
    if (known === undefined) cows.set(words.cow.identity, this.#use);
  }

  /** Throws MapperError with the kernel's text. */
  static async create(words: SnapshotWords, context: TargetContext): Promise<SnapshotHandle> {
    const registry = snapshotsOf(context.engine);
    const handle = new SnapshotHandle(words, context, registry);
    const use = handle.#use;
    try {
      if (use.origin !== handle.origin) {
        const found = `"${words.cow.name}" is in use by a snapshot of another origin`;
        throw new MapperError(EINVAL, `Cannot get COW device: ${found}`);
      }
      if (use.source === null && use.destination === null) {
        use.source = handle;
        handle.snapshot = await handle.#open();
      } else if (use.destination === null) {
        use.destination = handle;
      } else {
        const text = 'Snapshot cow pairing for exception table handover failed';
        throw new MapperError(EINVAL, `${text}: found two tables on "${words.cow.name}" already`);
      }
      return handle;
    } catch (error) {
      handle.#leave();
      throw error;
    }
  }

  async #open(): Promise<Snapshot> {
    const { words, context } = this;
    // biome-ignore lint/complexity/useLiteralKeys: the compiler wants an index signature so
    const serial = process.env['MAPPERD_SNAPSHOT_ORDER'] === 'serial';
    const store = createStore(words, context, serial);
    const table = new ExceptionTable();
    const valid = await store.open((oldChunk, newChunk, count) => {
      table.insertRun(oldChunk, newChunk, count);
    });
    const snapshot = new Snapshot({
      context,
      origin: this.origin,
      table,
      store,
      words,
      serial,
    });
    if (!valid) {
      snapshot.valid = false;
      context.log.warn({ device: context.deviceName }, 'Snapshot is marked invalid.');
    } else if (context.restored && words.type === 'N') {
      snapshot.valid = false;
      const text = 'a transient snapshot does not outlive its daemon: it is invalid now';
      context.log.warn({ device: context.deviceName }, text);
    }
    return snapshot;
  }

  /** Sectors; what the snapshot will have once it is taken over. */
  get chunkSectors(): number {
    const snapshot = this.snapshot ?? this.#use.source?.snapshot;
    return snapshot?.chunkSectors ?? this.words.chunkSectors;
  }

  /** Takes the snapshot over, if that is what the table was loaded for. Throws MapperError. */
  async resume(): Promise<void> {
    const use = this.#use;
    const { source } = use;
    if (use.destination === this && source !== null) {
      if (!source.suspended) {
        const text = 'Unable to perform snapshot handover until source is suspended.';
        throw new MapperError(EINVAL, `${text} (device "${source.context.deviceName}")`);
      }
      const release = await this.origin.holdAll();
      try {
        await source.snapshot?.idle();
        this.snapshot = source.snapshot;
        source.snapshot = null;
        use.source = this;
        use.destination = null;
        this.snapshot?.moveTo(this.context, this.words);
      } finally {
        release();
      }
    }
    this.suspended = false;
  }

  suspend(): void {
    this.suspended = true;
  }

  /** The table goes; with it the snapshot, unless it was taken over. */
  async destroy(): Promise<void> {
    const { snapshot } = this;
    const { destination } = this.#use;
    if (this.#use.source === this && destination !== null) {
      destination.context.log.warn(
        { device: destination.context.deviceName },
        'Cancelling snapshot handover.',
      );
    }
    // Whoever comes to the COW meanwhile finds it in use, and nothing to take over.
    this.snapshot = null;
    if (snapshot !== null) {
      this.origin.remove(snapshot);
      await snapshot.idle();
      snapshot.store.close();
    }
    this.#leave();
  }

  #leave(): void {
    const use = this.#use;
    if (use.source === this) use.source = null;
    if (use.destination === this) use.destination = null;
    const { cow, origin } = this.words;
    if (use.source === null && use.destination === null) this.#registry.cows.delete(cow.identity);
    this.#registry.release(origin);
  }
}
