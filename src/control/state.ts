/**
 * The state directory: what must be there again after a restart. One text file for each device
 * (state-text.ts, names.ts), made so that a crash at any point leaves the old file or the new one:
 *
 *   write    temporary file, fsync, rename over the old one, fsync of the directory
 *   rename   the file says what it was called before, is renamed, the tables above it are
 *            rewritten, the note goes away; `load` finishes what was cut short
 *
 * A device whose region tables were changed has a file for them as well, which follows: it goes
 * after the table and is renamed after it.
 *
 * One operation at a time. Besides the tables the directory holds the daemon's lock and sockets,
 * and volumes if somebody put them there; temporary files are `.tmp-*`.
 */

import { join } from 'node:path';
import { EIO, errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import {
  deviceOfRegionsFile,
  deviceOfTableFile,
  isTableFile,
  regionsFileName,
  tableFileName,
} from './names.js';
import { type StateFiles, stateFiles } from './state-files.js';
import { formatTableFile, parseTableFile, type StoredTable } from './state-text.js';
import { renameInTable, stripComments } from './table-text.js';

export interface StoredDevice extends StoredTable {
  readonly name: string;
}

/** Something in the state directory that could not be brought up. */
export interface StateProblem {
  /** The file's name in the directory. */
  readonly file: string;
  /** The device, if the file's name says one. */
  readonly name: string | null;
  readonly text: string;
}

export interface StateContents {
  readonly devices: StoredDevice[];
  readonly problems: StateProblem[];
}

/** What the catalogue needs of a state directory. */
export interface Store {
  /** Makes or replaces a device's file; durable when it resolves. Throws MapperError. */
  write(device: StoredDevice): Promise<void>;
  /** Removes the device's files. */
  remove(name: string): Promise<void>;
  /** There is a file of region tables under that name. */
  hasRegions(name: string): boolean;
  readRegions(name: string): Promise<Uint8Array>;
  writeRegions(name: string, contents: readonly Uint8Array[]): Promise<void>;
  removeRegions(name: string): Promise<void>;
  /**
   * Gives the device's file another name and rewrites the tables that name it. Either all of it
   * or nothing is done, as far as the file system lets it be undone.
   */
  rename(device: StoredDevice, newName: string, above: readonly Rewrite[]): Promise<void>;
}

/** A device above a renamed one: before and after. */
export interface Rewrite {
  readonly before: StoredDevice;
  readonly after: StoredDevice;
}

const temporaryPrefix = '.tmp-';

export class StateDirectory implements Store {
  readonly path: string;
  readonly #files: StateFiles;
  /** Devices, or names of former ones, with a file of region tables. */
  readonly #regions = new Set<string>();
  #temporaries = 0;
  #last: Promise<unknown> = Promise.resolve();

  /** The caller has the directory's lock. */
  constructor(path: string, files: StateFiles = stateFiles) {
    this.path = path;
    this.#files = files;
  }

  /**
   * Reads every table file, finishes renames, removes temporary files. A file that cannot be read
   * is a problem of its own. Throws MapperError when the directory itself cannot be read.
   */
  load(): Promise<StateContents> {
    return this.#next('read the state directory', () => this.#load());
  }

  write(device: StoredDevice): Promise<void> {
    return this.#next(`store the table of "${device.name}"`, async () => {
      await this.#replace(device);
      await this.#files.syncDirectory(this.path);
    });
  }

  remove(name: string): Promise<void> {
    return this.#next(`remove the stored table of "${name}"`, async () => {
      await this.#files.unlink(this.#pathOf(name));
      await this.#files.syncDirectory(this.path);
      // Without its table it means nothing; one that stays goes when a device takes the name.
      if (this.hasRegions(name)) await this.#removeRegions(name).catch(() => {});
    });
  }

  hasRegions(name: string): boolean {
    return this.#regions.has(name);
  }

  readRegions(name: string): Promise<Uint8Array> {
    return this.#next(`read "${regionsFileName(name)}"`, () =>
      this.#files.read(this.#regionsPathOf(name)),
    );
  }

  writeRegions(name: string, contents: readonly Uint8Array[]): Promise<void> {
    return this.#next(`store the regions of "${name}"`, async () => {
      await this.#replaceFile(this.#regionsPathOf(name), contents);
      this.#regions.add(name);
      await this.#files.syncDirectory(this.path);
    });
  }

  removeRegions(name: string): Promise<void> {
    return this.#next(`remove the stored regions of "${name}"`, () => this.#removeRegions(name));
  }

  async #removeRegions(name: string): Promise<void> {
    await this.#files.unlink(this.#regionsPathOf(name)).catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    });
    this.#regions.delete(name);
    await this.#files.syncDirectory(this.path);
  }

  rename(device: StoredDevice, newName: string, above: readonly Rewrite[]): Promise<void> {
    return this.#next(`store the new name of "${device.name}"`, async () => {
      const renamed = { ...device, name: newName };
      const undo: (() => Promise<void>)[] = [];
      try {
        const regions = this.hasRegions(device.name);
        // What a removed device has left.
        if (this.hasRegions(newName)) await this.#removeRegions(newName);
        if (above.length > 0 || regions) {
          undo.push(() => this.#replace(device));
          await this.#replace(device, device.name);
        }
        await this.#files.rename(this.#pathOf(device.name), this.#pathOf(newName));
        undo.push(() => this.#files.rename(this.#pathOf(newName), this.#pathOf(device.name)));
        await this.#files.syncDirectory(this.path);
        if (regions) {
          undo.push(() => this.#renameRegions(newName, device.name));
          await this.#renameRegions(device.name, newName);
        }
        for (const { before, after } of above) {
          undo.push(() => this.#replace(before));
          await this.#replace(after);
        }
        await this.#files.syncDirectory(this.path);
        await this.#replace(renamed);
        await this.#files.syncDirectory(this.path);
      } catch (error) {
        await this.#undo(undo, error);
        throw error;
      }
    });
  }

  async #renameRegions(name: string, newName: string): Promise<void> {
    if (!this.hasRegions(name)) return;
    await this.#files.rename(this.#regionsPathOf(name), this.#regionsPathOf(newName));
    this.#regions.delete(name);
    this.#regions.add(newName);
  }

  /** Backwards, all of it even if a step fails: each step stands for a file of its own. */
  async #undo(steps: (() => Promise<void>)[], cause: unknown): Promise<void> {
    const failures: string[] = [];
    for (const step of [...steps.reverse(), () => this.#files.syncDirectory(this.path)]) {
      await step().catch((error) => failures.push(messageOf(error)));
    }
    if (failures.length === 0) return;
    throw new MapperError(EIO, `${messageOf(cause)}; undoing it failed: ${failures.join('; ')}`);
  }

  async #load(): Promise<StateContents> {
    // What a daemon left that was killed in the middle of a command may not be durable yet. It is
    // before anything is done on the strength of it.
    await this.#files.syncDirectory(this.path);
    const names = (await this.#files.list(this.path)).sort();
    for (const name of names) {
      if (name.startsWith(temporaryPrefix)) await this.#files.unlink(join(this.path, name));
    }
    this.#regions.clear();
    for (const file of names) {
      const name = deviceOfRegionsFile(file);
      if (name !== null) this.#regions.add(name);
    }
    const devices = new Map<string, StoredDevice>();
    const formerNames = new Map<string, string>();
    const problems: StateProblem[] = [];
    for (const file of names.filter(isTableFile)) {
      const name = deviceOfTableFile(file);
      if (name === null) {
        problems.push({ file, name, text: 'file name is not one that a device has' });
        continue;
      }
      try {
        const bytes = await this.#files.read(join(this.path, file));
        const { formerly, ...stored } = parseTableFile(bytes);
        devices.set(name, { name, ...stored });
        if (formerly !== null) formerNames.set(name, formerly);
      } catch (error) {
        problems.push({ file, name, text: messageOf(error) });
      }
    }
    for (const [name, former] of formerNames) {
      const taken = names.includes(tableFileName(former));
      await this.#finishRename(devices, name, taken ? null : former);
    }
    return { devices: [...devices.values()], problems };
  }

  /** Rewrites the tables that still name the former device (null: none do), drops the note. */
  async #finishRename(
    devices: Map<string, StoredDevice>,
    name: string,
    former: string | null,
  ): Promise<void> {
    const rewrite = async (device: StoredDevice, table: string): Promise<void> => {
      const rewritten = { ...device, table };
      await this.#replace(rewritten);
      devices.set(device.name, rewritten);
    };
    if (former !== null && !this.hasRegions(name)) await this.#renameRegions(former, name);
    for (const device of [...devices.values()]) {
      if (former === null) break;
      const table = renameInTable(device.table, former, name);
      if (table !== device.table) await rewrite(device, stripComments(table));
    }
    await this.#files.syncDirectory(this.path);
    const device = devices.get(name) as StoredDevice;
    await rewrite(device, stripComments(device.table));
    await this.#files.syncDirectory(this.path);
  }

  #replace(device: StoredDevice, formerly?: string): Promise<void> {
    const text = formatTableFile(device.name, device, formerly);
    return this.#replaceFile(this.#pathOf(device.name), text);
  }

  async #replaceFile(path: string, contents: string | readonly Uint8Array[]): Promise<void> {
    const temporary = join(this.path, `${temporaryPrefix}${process.pid}-${++this.#temporaries}`);
    try {
      await this.#files.create(temporary, contents);
      await this.#files.rename(temporary, path);
    } catch (error) {
      await this.#files.unlink(temporary).catch(() => {});
      throw error;
    }
  }

  #pathOf(name: string): string {
    return join(this.path, tableFileName(name));
  }

  #regionsPathOf(name: string): string {
    return join(this.path, regionsFileName(name));
  }

  /** Operations follow one another; a system error becomes a MapperError that says the action. */
  #next<T>(action: string, work: () => Promise<T>): Promise<T> {
    const result = this.#last.then(work).catch((error: unknown) => {
      if (error instanceof MapperError) throw error.prefixed(action);
      const { code } = error as NodeJS.ErrnoException;
      throw new MapperError(errnoOf(code), `${action}: ${messageOf(error)}`);
    });
    this.#last = result.catch(() => {});
    return result;
  }
}
