/**
 * Snapshots as people ask for them: the dance of tables that makes, removes and merges one while
 * the origin is in use (snapshot/tables.ts has the roles). Here each command gets the devices that
 * it changes to itself, and merges that have ended are seen to.
 *
 * Whatever fails, all is as it was before, and the error says so if it is not. A crash at any point
 * never leaves a state directory in which an origin can be written past a snapshot: files come in
 * the order real device, origin, snapshot, and go in the reverse. A snapshot that is being merged
 * goes as the merge is stored: restore.ts drops its file if a crash came between.
 */

import { deviceNamed } from '../backing/device.js';
import { messageOf } from '../base/errors.js';
import type { Log } from '../base/log.js';
import type { QueueEvent } from '../queue/commands.js';
import type { QueueCalls } from '../queue/queue.js';
import type { Catalogue } from './catalogue.js';
import { type Files, files as systemFiles } from './files.js';
import type {
  Params,
  RemovalNotes,
  SnapshotInfo,
  SnapshotMade,
  SnapshotNotes,
} from './messages.js';
import { knownDevice, type SnapshotContext, snapshotLine } from './snapshot/context.js';
import { listSnapshots } from './snapshot/list.js';
import { beginMerge, endMerge } from './snapshot/merge.js';
import { freeOrigin, leftBehind, removeSnapshot } from './snapshot/remove.js';
import { originOf, originOver, realName, realUnder } from './snapshot/tables.js';
import { cowPathFor, takeSnapshot } from './snapshot/take.js';
import type { Steps } from './steps.js';

/** What changes together with a snapshot. */
interface Family {
  /** null: no device is the origin of that snapshot. */
  readonly origin: string | null;
  /** What origin and snapshots stand on. */
  readonly word: string;
  /** The COW that is to be made; no device has a name like that. */
  readonly path?: string;
}

export class Snapshots {
  readonly #context: SnapshotContext;
  readonly #catalogue: Catalogue;
  /** Origins whose merges have ended, and that have not got their tables back yet. */
  readonly #merged = new Set<string>();
  #started = false;

  /** `directory` is the state directory, absolute, if there is one. */
  constructor(
    queue: QueueCalls,
    catalogue: Catalogue,
    directory: string | null,
    log: Log,
    files: Files = systemFiles,
  ) {
    this.#context = { queue, log, directory, files };
    this.#catalogue = catalogue;
  }

  /** Every device is up that will be: merges that have ended meanwhile are seen to. */
  started(): void {
    this.#started = true;
    for (const origin of [...this.#merged]) this.#end(origin);
  }

  /** What the queue thread tells. */
  event(event: QueueEvent): void {
    if (event.event === 'target') {
      if (event.what !== 'merged') return;
      this.#merged.add(event.name);
    } else if (event.event !== 'device' || event.what !== 'resume') {
      return;
    }
    if (this.#merged.has(event.name)) this.#end(event.name);
  }

  /** All snapshots, or those of one origin. Throws MapperError. */
  async list(origin?: string): Promise<SnapshotInfo[]> {
    if (origin !== undefined) knownDevice(this.#catalogue, origin);
    return listSnapshots(this.#catalogue, this.#context.queue, origin);
  }

  /** Takes a snapshot of a device that may be in use. Throws MapperError. */
  snapshot(params: Params<'snapshot'>): Promise<SnapshotMade> {
    const { origin, name } = params;
    const find = (): Family => {
      const over = originOf(knownDevice(this.#catalogue, origin).live);
      const word = over?.word ?? `dm:${realName(origin)}`;
      return { origin, word, path: cowPathFor(this.#context, params) };
    };
    return this.#together(name, find, (steps, { word }) =>
      takeSnapshot(this.#context, steps, word, params),
    );
  }

  /**
   * Removes a snapshot; with the last one its origin gets its table back. So does an origin whose
   * snapshots went by other means, if that is what is named. Throws MapperError.
   */
  remove(params: Params<'removeSnapshot'>): Promise<SnapshotNotes> {
    const { name, force = false, keepCow = false } = params;
    return this.#together(
      name,
      () => this.#familyOf(name),
      (steps, { origin }) =>
        origin === name
          ? freeOrigin(this.#context, steps, name)
          : removeSnapshot(this.#context, steps, { name, origin, force, keepCow }),
    );
  }

  /** Removes a device and nothing else; null, or what of a snapshot is left. Throws MapperError. */
  async unmake(name: string, force: boolean): Promise<RemovalNotes | null> {
    const live = this.#catalogue.known(name)?.live ?? null;
    await this.#catalogue.remove(name, force);
    const notes = leftBehind(this.#context, live, this.#catalogue.all());
    return notes.length === 0 ? null : { notes };
  }

  /** Begins to merge a snapshot into its origin, which stays in use. Throws MapperError. */
  merge(name: string): Promise<SnapshotNotes> {
    return this.#together(
      name,
      () => this.#familyOf(name),
      (steps, { origin }) => beginMerge(this.#context, steps, origin, name),
    );
  }

  #end(origin: string): void {
    if (!this.#started) return;
    this.#merged.delete(origin);
    const family: Family = { origin, word: `dm:${realName(origin)}` };
    const ended = this.#together(
      origin,
      () => family,
      async (steps) => {
        if (!(await endMerge(this.#context, steps, origin))) this.#merged.add(origin);
      },
    );
    ended.catch((error) => {
      const text = 'snapshot is merged, but its origin did not get its table back';
      this.#context.log.error({ device: origin, error: messageOf(error) }, text);
    });
  }

  /** Of a device that is a snapshot, or an origin over its own real device. Throws MapperError. */
  #familyOf(name: string): Family {
    const over = realUnder(knownDevice(this.#catalogue, name));
    if (over !== null && !over.merging) return { origin: name, word: over.word };
    const { origin: word } = snapshotLine(this.#catalogue, name);
    return { origin: originOver(this.#catalogue.all(), word)?.name ?? null, word };
  }

  /** Runs `work` with the family locked; who belongs to it may change until it is. */
  async #together<T>(
    name: string,
    find: () => Family,
    work: (steps: Steps, family: Family) => Promise<T>,
  ): Promise<T> {
    for (;;) {
      const { origin, word, path = null } = find();
      const names = [name, origin, deviceNamed(word), path].filter((one) => one !== null);
      const done = await this.#catalogue.exclusively([...new Set(names)], async (steps) => {
        const family = find();
        if (family.origin !== origin || family.word !== word) return null;
        return { result: await work(steps, family) };
      });
      if (done !== null) return done.result;
    }
  }
}
