/**
 * What the control thread knows about each device, and the commands that change it: each asks the
 * queue thread and keeps the state directory in step. An answer means that both are done.
 *
 *   create   queue, then file       a file that cannot be written: the device is removed again
 *   resume   file, then queue       no write goes through a table that a restart would not know;
 *                                   a resume that fails: the old file is put back
 *   remove   queue, then file       a file that cannot be removed: the device is made again
 *   rename   queue, then files      files that cannot be changed: the device is renamed back
 *
 * Commands on one device follow one another; commands on different devices do not wait for each
 * other, because one may have to (a suspended device holds up those that stand on it).
 */

import { E2BIG, EEXIST, EIO } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { controlTableBytes } from '../base/limits.js';
import type { Log } from '../base/log.js';
import type { QueueCalls } from '../queue/queue.js';
import { KeyedLock } from './keyed-lock.js';
import { restore } from './restore.js';
import type { Rewrite, StateProblem, Store, StoredDevice } from './state.js';
import { renameInTable, stripComments } from './table-text.js';

export interface NewDevice {
  readonly name: string;
  readonly table?: string;
  readonly readOnly?: boolean;
}

/** A device's table texts; all of them follow when a device beneath is renamed. */
interface Texts {
  /** The live table, null when there is none; this is what the file holds. */
  live: string | null;
  inactive: string | null;
  /** On its way into the inactive slot. */
  loading: string | null;
  /** The live table before a resume that has not succeeded yet. */
  previous: string | null;
}

interface Entry {
  readonly texts: Texts;
  readonly readOnly: boolean;
  /** It has a file, or gets one with its first live table. */
  readonly stored: boolean;
  /** Its file is there, or on its way there. */
  filed: boolean;
  counters: SharedArrayBuffer | null;
}

export class Catalogue {
  readonly #queue: QueueCalls;
  readonly #store: Store | null;
  readonly #log: Log;
  readonly #entries = new Map<string, Entry>();
  /** Files that could not be brought up, by device: they are kept until somebody removes them. */
  readonly #broken = new Map<string, StateProblem>();
  readonly #lock = new KeyedLock();

  readonly #allReadOnly: boolean;

  /**
   * Without a store nothing is written anywhere. `allReadOnly`: every device refuses writes,
   * whatever its file says; files do not change for it.
   */
  constructor(queue: QueueCalls, store: Store | null, log: Log, allReadOnly = false) {
    this.#queue = queue;
    this.#store = store;
    this.#log = log;
    this.#allReadOnly = allReadOnly;
  }

  /**
   * Brings up what the state directory holds and what the command line names, in the order of their
   * stacking. Devices of the command line come from there each time: they are never stored.
   */
  async restore(
    stored: readonly StoredDevice[],
    problems: readonly StateProblem[],
    commandLine: readonly StoredDevice[],
  ): Promise<StateProblem[]> {
    const given = new Set(commandLine.map((device) => device.name));
    const twice = stored.find((device) => given.has(device.name));
    if (twice !== undefined) {
      const text = `device "${twice.name}" is in the state directory and on the command line`;
      throw new MapperError(EEXIST, text);
    }
    const all = [...problems];
    const isThere = (name: string): boolean => this.#entries.has(name);
    const failed = await restore([...stored, ...commandLine], isThere, async (device) => {
      const stored = !given.has(device.name);
      const entry = await this.#create(device, device.table, stored, stored);
      entry.filed = entry.stored;
    });
    all.push(...failed);
    for (const problem of all) {
      if (problem.name !== null && !given.has(problem.name)) {
        this.#broken.set(problem.name, problem);
      }
    }
    return all;
  }

  create(device: NewDevice): Promise<void> {
    return this.#lock.run([device.name], async () => {
      this.#refuseBroken(device.name);
      const entry = await this.#create(device, device.table ?? null, this.#store !== null);
      if (entry.texts.live === null || !entry.stored) return;
      try {
        await this.#storeLive(device.name, entry);
      } catch (error) {
        await this.#undoCreate(device.name);
        throw error;
      }
    });
  }

  load(name: string, table: string): Promise<void> {
    return this.#lock.run([name], async () => {
      const texts = this.#textsOf(name);
      texts.loading = stripComments(table);
      try {
        await this.#queue.call('load', { name, table });
        texts.inactive = texts.loading;
      } finally {
        texts.loading = null;
      }
    });
  }

  clear(name: string): Promise<void> {
    return this.#lock.run([name], async () => {
      await this.#queue.call('clear', { name });
      this.#textsOf(name).inactive = null;
    });
  }

  suspend(name: string, noFlush: boolean): Promise<void> {
    return this.#lock.run([name], async () => {
      await this.#queue.call('suspend', { name, noFlush });
    });
  }

  resume(name: string): Promise<void> {
    return this.#lock.run([name], async () => {
      const entry = this.#entries.get(name);
      if (entry === undefined || entry.texts.inactive === null) {
        await this.#queue.call('resume', { name });
        return;
      }
      const { texts } = entry;
      texts.previous = texts.live;
      texts.live = texts.inactive;
      try {
        if (entry.stored) await this.#storeLive(name, entry);
      } catch (error) {
        texts.live = texts.previous;
        texts.previous = null;
        throw error;
      }
      try {
        await this.#queue.call('resume', { name });
        texts.inactive = null;
      } catch (error) {
        texts.live = texts.previous;
        await this.#afterFailedResume(name, entry);
        throw error;
      } finally {
        texts.previous = null;
      }
    });
  }

  remove(name: string, force: boolean): Promise<void> {
    return this.#lock.run([name], async () => {
      const entry = this.#entries.get(name);
      if (entry === undefined && this.#store !== null && this.#broken.has(name)) {
        await this.#store.remove(name);
        this.#broken.delete(name);
        return;
      }
      await this.#queue.call('remove', { name, force });
      this.#entries.delete(name);
      if (entry === undefined || !entry.filed) return;
      try {
        await (this.#store as Store).remove(name);
      } catch (error) {
        throw await this.#putBack(name, entry, error);
      }
    });
  }

  rename(name: string, newName: string): Promise<void> {
    return this.#lock.run([name, newName], async () => {
      this.#refuseBroken(newName);
      this.#refuseTooLong(name, newName);
      await this.#queue.call('rename', { name, newName });
      const before = this.#rename(name, newName);
      try {
        await this.#storeRename(name, newName, before);
      } catch (error) {
        await this.#undoRename(name, newName);
        throw error;
      }
    });
  }

  /** A device's counters; null for a device that is not there. */
  counters(name: string): SharedArrayBuffer | null {
    return this.#entries.get(name)?.counters ?? null;
  }

  names(): string[] {
    return [...this.#entries.keys()].sort();
  }

  /** Resolves when no command is under way. */
  settled(): Promise<void> {
    return this.#lock.settled();
  }

  async #create(
    device: NewDevice,
    table: string | null,
    stored: boolean,
    restored = false,
  ): Promise<Entry> {
    const { name, readOnly = false } = device;
    const known = this.#entries.get(name);
    const text = table === null ? null : stripComments(table);
    const texts: Texts = { live: text, inactive: null, loading: null, previous: null };
    const entry: Entry = { texts, readOnly, stored, filed: false, counters: null };
    // Known before the queue answers, so that a rename beneath it in the meantime reaches it. One
    // that is there already stays as it is: the queue refuses a second of its name.
    if (known === undefined) this.#entries.set(name, entry);
    try {
      const params = { name, readOnly: readOnly || this.#allReadOnly, restored };
      const created = await this.#queue.call(
        'create',
        table === null ? params : { ...params, table },
      );
      entry.counters = created.counters;
      this.#entries.set(name, entry);
      return entry;
    } catch (error) {
      if (known === undefined) this.#entries.delete(name);
      throw error;
    }
  }

  async #undoCreate(name: string): Promise<void> {
    this.#entries.delete(name);
    try {
      await this.#queue.call('remove', { name, force: true });
      // A rename beneath it may have written the file that its own command could not write.
      await this.#store?.remove(name).catch(() => {});
    } catch (error) {
      const text = 'the device is there although it could not be stored';
      this.#log.error({ device: name, error: messageOf(error) }, text);
    }
  }

  async #undoRename(name: string, newName: string): Promise<void> {
    try {
      await this.#queue.call('rename', { name: newName, newName: name });
      this.#rename(newName, name);
    } catch (error) {
      const text = `the device is called "${newName}" although that could not be stored`;
      this.#log.error({ device: newName, error: messageOf(error) }, text);
    }
  }

  async #storeLive(name: string, entry: Entry): Promise<void> {
    const table = entry.texts.live;
    if (this.#store === null || table === null) return;
    entry.filed = true;
    await this.#store.write({ name, table, readOnly: entry.readOnly });
  }

  /** The file and the inactive slot as they are now that the queue has refused to swap. */
  async #afterFailedResume(name: string, entry: Entry): Promise<void> {
    const { texts } = entry;
    try {
      const info = await this.#queue.call('info', { name });
      if (!info.tables.includes('INACTIVE')) texts.inactive = null;
      if (!entry.stored) return;
      if (texts.live !== null) await this.#storeLive(name, entry);
      else if (entry.filed) await this.#store?.remove(name);
      entry.filed = texts.live !== null;
    } catch (error) {
      const text = 'the state directory may hold a table that is not live';
      this.#log.error({ device: name, error: messageOf(error) }, text);
    }
  }

  async #putBack(name: string, entry: Entry, cause: unknown): Promise<unknown> {
    const errno = cause instanceof MapperError ? cause.errno : EIO;
    try {
      const again = await this.#create(
        { name, readOnly: entry.readOnly },
        entry.texts.live,
        entry.stored,
      );
      again.filed = true;
      return new MapperError(errno, `${messageOf(cause)}; the device was put back`);
    } catch (error) {
      const text = `the device is gone until the next start (${messageOf(error)})`;
      return new MapperError(errno, `${messageOf(cause)}; ${text}`);
    }
  }

  /** Moves the entry, changes every text that names it, gives back the live texts as they were. */
  #rename(name: string, newName: string): Map<string, string | null> {
    const moved = this.#entries.get(name);
    if (moved !== undefined) {
      this.#entries.delete(name);
      this.#entries.set(newName, moved);
    }
    const before = new Map<string, string | null>();
    for (const [other, { texts }] of this.#entries) {
      before.set(other, texts.live);
      for (const slot of ['live', 'inactive', 'loading', 'previous'] as const) {
        const text = texts[slot];
        if (text !== null) texts[slot] = renameInTable(text, name, newName);
      }
    }
    return before;
  }

  async #storeRename(
    name: string,
    newName: string,
    before: ReadonlyMap<string, string | null>,
  ): Promise<void> {
    const store = this.#store;
    if (store === null) return;
    const above: Rewrite[] = [];
    for (const [other, { texts, filed, readOnly }] of this.#entries) {
      const old = before.get(other) ?? null;
      if (!filed || old === null || texts.live === null || texts.live === old) continue;
      const device = { name: other, readOnly };
      above.push({ before: { ...device, table: old }, after: { ...device, table: texts.live } });
    }
    const renamed = this.#entries.get(newName);
    if (renamed?.filed && renamed.texts.live !== null) {
      const { readOnly } = renamed;
      await store.rename({ name, readOnly, table: renamed.texts.live }, newName, above);
    } else {
      // A device of the command line has no file; those above it may have.
      for (const { after } of above) await store.write(after);
    }
  }

  #refuseBroken(name: string): void {
    const problem = this.#broken.get(name);
    if (problem === undefined) return;
    const why = `the state directory has a file for "${name}" that was not brought up`;
    throw new MapperError(EEXIST, `${why} (${problem.text}): remove the device first`);
  }

  #refuseTooLong(name: string, newName: string): void {
    for (const [other, { texts }] of this.#entries) {
      const text = texts.live === null ? '' : renameInTable(texts.live, name, newName);
      if (text !== texts.live && Buffer.byteLength(text) > controlTableBytes) {
        throw new MapperError(E2BIG, `the table of "${other}" would become too long`);
      }
    }
  }

  /** A device that the queue does not know gets no entry: these texts go nowhere. */
  #textsOf(name: string): Texts {
    const texts = this.#entries.get(name)?.texts;
    return texts ?? { live: null, inactive: null, loading: null, previous: null };
  }
}
