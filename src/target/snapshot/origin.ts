/**
 * An origin: a backing that snapshots were taken of, and those snapshots. Writes come here before
 * they may reach it; each goes on when every snapshot has a committed exception for every chunk it
 * touches:
 *
 *   write -> window by window: have all snapshots copied it? -> yes: to the origin
 *              ^                      | no: copies begin in all of them at once
 *              '--- asked again <-----' when one that is missing is there
 *
 * Snapshots have their copies made in all of them at once; the write waits for one after the other.
 */

import type { Backing } from '../../backing/backing.js';
import { originWindowChunks } from '../../base/limits.js';
import type { Io } from '../../device/io.js';
import type { Snapshot } from './snapshot.js';

/** Something that lets writes through to the origin, and can stop doing so for a moment. */
export interface OriginFrontend {
  /** Resolves when no write is on its way through it. Each call needs one `letGo`. */
  hold(): Promise<void>;
  letGo(): void;
}

/** What a write to an origin has to wait for. It goes to `Origin.write` again afterwards. */
export interface OriginWait {
  waitForOrigin(io: Io): void;
}

export class Origin {
  /** Live snapshots, those with the largest chunks first. */
  readonly snapshots: Snapshot[] = [];
  readonly frontends = new Set<OriginFrontend>();
  /** A snapshot is being merged into this origin, or is about to be. */
  merging = false;
  /** How far a write is looked at in one go. */
  #windowBytes = 0;

  /**
   * A write (or TRIM, or ZERO) to the origin, with `backing` and `backingOffset` set: it goes there
   * as soon as it may.
   */
  write(io: Io): void {
    const wait = this.prepare(io);
    if (wait === null) (io.backing as Backing).submit(io);
    else wait.waitForOrigin(io);
  }

  /**
   * Begins the copies that a write needs. Null: none, it may go to the origin now. `io.progress`
   * keeps how far it has been looked at.
   */
  prepare(io: Io): OriginWait | null {
    const { snapshots } = this;
    const count = snapshots.length;
    if (count === 0) return null;
    const end = io.offset + io.length;
    let from = io.offset + io.progress;
    while (from < end) {
      const to = Math.min(end, from + this.#windowBytes);
      let wait: OriginWait | null = null;
      for (let i = 0; i < count; i++) {
        const missing = (snapshots[i] as Snapshot).copyOut(from, to);
        if (missing !== null) wait = missing;
      }
      if (wait !== null) {
        io.progress = from - io.offset;
        return wait;
      }
      from = to;
    }
    io.progress = 0;
    return null;
  }

  /** From the moment this ends the snapshot keeps what the origin holds. */
  async add(snapshot: Snapshot): Promise<void> {
    const release = await this.holdAll();
    const { snapshots } = this;
    const at = snapshots.findIndex((other) => other.chunkBytes < snapshot.chunkBytes);
    snapshots.splice(at < 0 ? snapshots.length : at, 0, snapshot);
    this.#measure();
    this.noteTrims();
    release();
  }

  remove(snapshot: Snapshot): void {
    const at = this.snapshots.indexOf(snapshot);
    if (at < 0) return;
    this.snapshots.splice(at, 1);
    this.#measure();
  }

  /**
   * A snapshot that passes TRIM down changes the origin past all of them: with it there, none can
   * tell any more what has changed.
   */
  noteTrims(): void {
    if (!this.snapshots.some(({ passesDown }) => passesDown)) return;
    for (const snapshot of this.snapshots) snapshot.recordLost = true;
  }

  /** Resolves, to what ends it, when no write is on its way to the origin through anybody. */
  async holdAll(): Promise<() => void> {
    const held = new Set<OriginFrontend>();
    const missing = (): OriginFrontend[] => [...this.frontends].filter((one) => !held.has(one));
    // Another one may come while this waits.
    for (let more = missing(); more.length > 0; more = missing()) {
      for (const one of more) held.add(one);
      await Promise.all(more.map((one) => one.hold()));
    }
    return () => {
      for (const one of held) one.letGo();
    };
  }

  #measure(): void {
    const smallest = this.snapshots.at(-1)?.chunkBytes ?? 0;
    this.#windowBytes = smallest * originWindowChunks;
  }
}
