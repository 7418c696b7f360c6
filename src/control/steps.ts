/**
 * The commands that change devices, one step each: it asks the queue thread and keeps the state
 * directory in step with it. Who calls them holds the devices' lock.
 *
 *   create   queue, then file       a file that cannot be written: the device is removed again
 *   resume   file, then queue       no write goes through a table that a restart would not know;
 *                                   a resume that fails: the old file is put back
 *   remove   queue, then file       a file that cannot be removed: the device is made again
 *   rename   queue, then files      files that cannot be changed: the device is renamed back
 *   policy   file, then queue       a file that cannot be written: it stays as it was
 *
 * What belongs to a device besides its table, the region tables of switch targets, goes along: see
 * region-files.ts.
 *
 * `file`, `fileAhead`, `unfile` and `unmake` are halves of these, for those who change several
 * devices at once and have an order of their own.
 */

import { EEXIST, EIO, ENOENT, ENXIO } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import type { Log } from '../base/log.js';
import { type ExportPolicy, openPolicy } from '../nbd/export-policy.js';
import type { Created, QueueCommands } from '../queue/commands.js';
import type { QueueCalls } from '../queue/queue.js';
import { Entries, type Entry, optional, storedDevice, type Texts, unsure } from './entries.js';
import { isOpen } from './export-text.js';
import { RegionFiles } from './region-files.js';
import type { Rewrite, StateProblem, Store, StoredDevice } from './state.js';
import { stripComments } from './table-text.js';

export interface NewDevice {
  readonly name: string;
  readonly table?: string;
  readonly readOnly?: boolean;
  /** Of a snapshot: what it shows the origin as of; ISO 8601, UTC. */
  readonly created?: string;
  /** Of its export; without one it is for everybody. */
  readonly policy?: ExportPolicy;
}

/** How a device is made. */
export interface Making {
  /** It has a file, or gets one with its first live table. */
  readonly stored: boolean;
  /** The table was live in a daemon before this one. */
  readonly restored?: boolean;
  /** Its file is written later, by `file`. */
  readonly unfiled?: boolean;
}

export class Steps {
  readonly #queue: QueueCalls;
  readonly #store: Store | null;
  readonly #log: Log;
  /** What is known; changed here only. */
  readonly entries = new Entries();
  readonly regions: RegionFiles;
  /** Files that could not be brought up, by device: they are kept until somebody removes them. */
  readonly #broken = new Map<string, StateProblem>();
  readonly #allReadOnly: boolean;

  constructor(queue: QueueCalls, store: Store | null, log: Log, allReadOnly: boolean) {
    this.#queue = queue;
    this.#store = store;
    this.#log = log;
    this.#allReadOnly = allReadOnly;
    this.regions = new RegionFiles(queue, store, this.entries);
  }

  /** There is a state directory. */
  get stores(): boolean {
    return this.#store !== null;
  }

  /** A file that was not brought up, and stays until somebody removes it. */
  setBroken(name: string, problem: StateProblem): void {
    this.#broken.set(name, problem);
  }

  async create(device: NewDevice, making: Making): Promise<void> {
    this.#refuseBroken(device.name);
    const entry = await this.#make(device, making);
    if (making.unfiled || entry.texts.live === null || !entry.stored) return;
    try {
      await this.file(device.name);
    } catch (error) {
      await this.#undoCreate(device.name);
      throw error;
    }
  }

  /** Makes a device whose file, if it has one, is there already. */
  async bringUp(device: StoredDevice, stored: boolean): Promise<void> {
    const entry = await this.#make(device, { stored, restored: stored });
    if (stored) entry.filed = entry.texts.file = entry.texts.live;
  }

  async load(name: string, table: string): Promise<void> {
    const texts = this.#textsOf(name);
    texts.loading = stripComments(table);
    try {
      await this.#queue.call('load', { name, table });
      texts.inactive = texts.loading;
    } finally {
      texts.loading = null;
    }
  }

  async clear(name: string): Promise<void> {
    await this.#queue.call('clear', { name });
    this.#textsOf(name).inactive = null;
  }

  async suspend(name: string, noFlush: boolean): Promise<void> {
    await this.#queue.call('suspend', { name, noFlush });
  }

  async resume(name: string): Promise<void> {
    const entry = this.entries.get(name);
    if (entry === undefined || entry.texts.inactive === null) {
      await this.#queue.call('resume', { name });
      return;
    }
    const { texts } = entry;
    await this.regions.saveAhead(name, entry);
    texts.previous = texts.live;
    texts.live = texts.inactive;
    try {
      // It may be there already: see fileAhead.
      if (entry.filed !== texts.live) await this.file(name);
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
    await this.regions.saveAfter(name, entry);
  }

  async remove(name: string, force: boolean): Promise<void> {
    const entry = this.entries.get(name);
    const store = this.#store;
    if (entry === undefined && store !== null && this.#broken.has(name)) {
      await store.remove(name);
      this.#broken.delete(name);
      return;
    }
    await this.unmake(name, force);
    if (entry === undefined || entry.filed === null) return;
    try {
      await this.regions.exclusively([name], () => (store as Store).remove(name));
    } catch (error) {
      throw await this.#putBack(name, entry, error);
    }
  }

  async rename(name: string, newName: string): Promise<void> {
    this.#refuseBroken(newName);
    this.entries.refuseTooLong(name, newName);
    await this.regions.exclusively([name, newName], async () => {
      await this.#queue.call('rename', { name, newName });
      const before = this.entries.rename(name, newName);
      try {
        await this.#storeRename(name, newName, before);
      } catch (error) {
        await this.#undoRename(name, newName);
        throw error;
      }
    });
  }

  /** What the owner says of a device's export; a device without a file has it until it goes. */
  async setPolicy(name: string, policy: ExportPolicy): Promise<void> {
    const entry = this.entries.get(name);
    if (entry === undefined) throw new MapperError(ENXIO, `no device "${name}"`);
    const before = entry.policy;
    // A rename beneath it in the meantime writes this one.
    entry.policy = policy;
    try {
      await this.file(name);
      await this.#queue.call('policy', { name, policy });
    } catch (error) {
      entry.policy = before;
      await this.file(name).catch((second: unknown) => {
        const text = 'the state directory may hold a policy that was refused';
        this.#log.error({ device: name, error: messageOf(second) }, text);
      });
      throw error;
    }
  }

  /** Writes the live table into the device's file, if it has one and is to have one. */
  async file(name: string): Promise<void> {
    const entry = this.entries.get(name);
    if (entry !== undefined) await this.#write(name, entry, entry.texts.live);
  }

  /** Writes the inactive table into the file, so that the resume that is to come need not. */
  async fileAhead(name: string): Promise<void> {
    const entry = this.entries.get(name);
    if (entry !== undefined) await this.#write(name, entry, entry.texts.inactive);
  }

  /** Removes the file of a device that is to be unmade. */
  async unfile(name: string): Promise<void> {
    const entry = this.entries.get(name);
    if (entry === undefined || entry.filed === null) return;
    const sure = entry.filed !== unsure;
    const removed = this.regions.exclusively([name], async () => this.#store?.remove(name));
    await removed.catch((error: unknown) => {
      if (sure || !(error instanceof MapperError) || error.errno !== ENOENT) throw error;
    });
    entry.filed = entry.texts.file = null;
  }

  /** Removes the device and leaves its file, if it has one. */
  async unmake(name: string, force: boolean): Promise<void> {
    await this.#queue.call('remove', { name, force });
    this.entries.delete(name);
  }

  async #make(device: NewDevice, making: Making): Promise<Entry> {
    const { name, table, readOnly = false, created, policy = openPolicy } = device;
    const { stored, restored = false } = making;
    const known = this.entries.get(name);
    const text = table === undefined ? null : stripComments(table);
    const texts: Texts = { live: text, inactive: null, loading: null, previous: null, file: null };
    const rest = { created, policy, filed: null, counters: null };
    const entry: Entry = { texts, readOnly, stored, ...rest };
    // Known before the queue answers, so that a rename beneath it in the meantime reaches it. One
    // that is there already stays as it is: the queue refuses a second of its name.
    if (known === undefined) this.entries.set(name, entry);
    try {
      const params = { name, readOnly: readOnly || this.#allReadOnly, restored };
      const regions = text !== null && restored ? await this.regions.restored(name, text) : [];
      const made = await this.#createWith(
        // One that is there already is refused, and keeps what it has.
        known === undefined ? policy : openPolicy,
        table === undefined ? params : { ...params, table, regions },
      );
      entry.counters = made.counters;
      this.entries.set(name, entry);
      return entry;
    } catch (error) {
      if (known === undefined) this.entries.delete(name);
      throw error;
    }
  }

  /** Both are asked for in one go: nobody sees the device without its policy. */
  async #createWith(
    policy: ExportPolicy,
    params: QueueCommands['create']['params'],
  ): Promise<Created> {
    const { name } = params;
    const creating = this.#queue.call('create', params);
    if (isOpen(policy)) return creating;
    const setting = this.#queue.call('policy', { name, policy });
    // If the device cannot be made, that is what there is to tell.
    setting.catch(() => {});
    const made = await creating;
    try {
      await setting;
    } catch (error) {
      await this.#queue.call('remove', { name, force: true });
      throw error;
    }
    return made;
  }

  async #undoCreate(name: string): Promise<void> {
    this.entries.delete(name);
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
      this.entries.rename(newName, name);
    } catch (error) {
      const text = `the device is called "${newName}" although that could not be stored`;
      this.#log.error({ device: newName, error: messageOf(error) }, text);
    }
  }

  async #write(name: string, entry: Entry, table: string | null): Promise<void> {
    if (this.#store === null || !entry.stored || table === null) return;
    if (entry.filed === null) await this.regions.forget(name);
    const { texts } = entry;
    const before = texts.file;
    entry.filed = unsure;
    texts.file = table;
    try {
      await this.#store.write(storedDevice(name, entry, table));
    } catch (error) {
      if (texts.file === table) texts.file = before;
      throw error;
    }
    // A rename beneath it in the meantime writes the file once more.
    if (texts.file === table) entry.filed = table;
  }

  /** The file and the inactive slot as they are now that the queue has refused to swap. */
  async #afterFailedResume(name: string, entry: Entry): Promise<void> {
    const { texts } = entry;
    try {
      const info = await this.#queue.call('info', { name });
      if (!info.tables.includes('INACTIVE')) texts.inactive = null;
      if (texts.live !== null) await this.file(name);
      else await this.unfile(name);
    } catch (error) {
      const text = 'the state directory may hold a table that is not live';
      this.#log.error({ device: name, error: messageOf(error) }, text);
    }
  }

  async #putBack(name: string, entry: Entry, cause: unknown): Promise<unknown> {
    const errno = cause instanceof MapperError ? cause.errno : EIO;
    try {
      const table = entry.texts.live;
      const { readOnly, created, policy } = entry;
      const device = { name, readOnly, policy, ...optional('created', created) };
      // Restored: a snapshot that forgets with its device must not claim to remember.
      const again = await this.#make(
        { ...device, ...(table === null ? {} : { table }) },
        { stored: entry.stored, restored: true },
      );
      again.filed = unsure;
      again.texts.file = table;
      return new MapperError(errno, `${messageOf(cause)}; the device was put back`);
    } catch (error) {
      const text = `the device is gone until the next start (${messageOf(error)})`;
      return new MapperError(errno, `${messageOf(cause)}; ${text}`);
    }
  }

  async #storeRename(
    name: string,
    newName: string,
    before: ReadonlyMap<string, string | null>,
  ): Promise<void> {
    const store = this.#store;
    if (store === null) return;
    const above: Rewrite[] = [];
    for (const [other, entry] of this.entries) {
      // Which need not be the live table: a swap that is under way has written the next one.
      const { file } = entry.texts;
      const old = before.get(other) ?? null;
      if (entry.filed === null || old === null || file === null || file === old) continue;
      entry.filed = unsure;
      above.push({
        before: storedDevice(other, entry, old),
        after: storedDevice(other, entry, file),
      });
    }
    const renamed = this.entries.get(newName);
    if (renamed !== undefined && renamed.filed !== null && renamed.texts.file !== null) {
      await store.rename(storedDevice(name, renamed, renamed.texts.file), newName, above);
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

  /** A device that the queue does not know gets no entry: these texts go nowhere. */
  #textsOf(name: string): Texts {
    const texts = this.entries.get(name)?.texts;
    return texts ?? { live: null, inactive: null, loading: null, previous: null, file: null };
  }
}
