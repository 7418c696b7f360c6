/**
 * The region tables of switch targets, kept in step with the state directory. A device has a file
 * for them once one of them has been changed: all that the live table has, one behind the other, as
 * target/switch/upload-format.ts says.
 *
 *   upload    file, then queue       no write goes by a route that a restart would not know
 *   message   queue, then file       only the target knows what it changes; the answer waits
 *   moves     queue, then file       and then the target is told: until then both sides are right
 *   resume    the target takes over what its predecessor had; the file is written before, in case
 *             there is none yet, and after
 *
 * One thing at a time for each device. This lock is not that of the device's commands, since a
 * command (suspend, say) may wait for requests that wait for a region to be stored.
 */

import { EBUSY, EINVAL } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { regionFileBytes, regionPaths, regions as regionsMax } from '../base/limits.js';
import { parseTable } from '../device/table-text.js';
import type { RegionsAt } from '../queue/commands.js';
import type { QueueCalls } from '../queue/queue.js';
import { RegionTable } from '../target/switch/region-table.js';
import { decodeSections, encodeRegions } from '../target/switch/upload-format.js';
import type { Entries, Entry } from './entries.js';
import { KeyedLock } from './keyed-lock.js';
import { regionsFileName } from './names.js';
import type { Store } from './state.js';

/** A switch target as a table's text has it. */
export interface SwitchLine {
  readonly sector: number;
  readonly endSector: number;
  readonly regions: number;
  readonly regionSectors: number;
  readonly paths: number;
}

/** The switch targets of a table; none of one that is no table. */
export function switchLines(table: string | null): SwitchLine[] {
  if (table === null) return [];
  try {
    return parseTable(table)
      .filter(({ type }) => type === 'switch')
      .map(({ beginSectors, lengthSectors, args }) => ({
        sector: beginSectors,
        endSector: beginSectors + lengthSectors,
        paths: Number(args[0]),
        regionSectors: Number(args[1]),
        regions: Math.ceil(lengthSectors / Number(args[1])),
      }));
  } catch {
    return [];
  }
}

export class RegionFiles {
  readonly #queue: QueueCalls;
  readonly #store: Store | null;
  readonly #entries: Entries;
  readonly #lock = new KeyedLock();
  /** Saves that have not begun: whoever comes meanwhile shares them. */
  readonly #waiting = new Map<Entry, Promise<void>>();

  constructor(queue: QueueCalls, store: Store | null, entries: Entries) {
    this.#queue = queue;
    this.#store = store;
    this.#entries = entries;
  }

  /** Whether the device's regions are stored. */
  keeps(name: string): boolean {
    const entry = this.#entries.get(name);
    return entry !== undefined && this.#keeps(entry);
  }

  /** Work on these devices' files, with nobody else at them. */
  exclusively<T>(names: readonly string[], work: () => Promise<T>): Promise<T> {
    return this.#lock.run(names, work);
  }

  /**
   * The tables that a device comes up with. Throws MapperError if the file is broken or for another
   * table: with a wrong one the device would read wrong data.
   */
  async restored(name: string, table: string): Promise<RegionsAt[]> {
    if (this.#store === null || !this.#store.hasRegions(name)) return [];
    const lines = switchLines(table);
    // A crash came between storing a table without switch and removing this.
    if (lines.length === 0) return [];
    const bytes = await this.#store.readRegions(name);
    try {
      if (bytes.length > regionFileBytes) {
        const text = `file has ${bytes.length} bytes, at most ${regionFileBytes}`;
        throw new MapperError(EINVAL, text);
      }
      return decodeSections(bytes).map((section) => fitted(section, lines));
    } catch (error) {
      throw error instanceof MapperError ? error.prefixed(`"${regionsFileName(name)}"`) : error;
    }
  }

  /** A device takes this name that has no file yet: what another one has left goes. */
  async forget(name: string): Promise<void> {
    if (this.#store?.hasRegions(name) === true) await this.#store.removeRegions(name);
  }

  /** Puts regions, checked in themselves, into a target and into the file. Throws MapperError. */
  upload(name: string, sector: number, table: RegionsAt['table']): Promise<RegionsAt> {
    return this.#lock.run([name], async () => {
      const here = await this.#queue.call('download', { name, sector, first: 0, count: 1 });
      refuseOther(table, here.table);
      const at = { sector: here.sector, table };
      const entry = this.#entries.get(name);
      if (entry === undefined || !this.#keeps(entry)) {
        await this.#queue.call('upload', { name, sector, table });
        return at;
      }
      if (table.whole) await this.#refuseMoving(name, here.sector);
      await this.#write(name, await this.#after(name, entry, at));
      try {
        await this.#queue.call('upload', { name, sector, table });
      } catch (error) {
        await this.#saveNow(name).catch((second) => {
          const text = `${messageOf(error)}; the state directory has it all the same`;
          throw new MapperError(EINVAL, `${text}: ${messageOf(second)}`);
        });
        throw error;
      }
      return at;
    });
  }

  /**
   * The target would refuse a whole table while it moves regions, but the file comes first: after a
   * crash between the two, regions would be where they have been moved away from.
   */
  async #refuseMoving(name: string, sector: number): Promise<void> {
    const status = await this.#queue.call('message', { name, sector, words: ['move_status'] });
    if (!status.startsWith('running ')) return;
    throw new MapperError(EBUSY, 'a move is under way, wanted its end before a whole table');
  }

  /** The tables as they are to be after an upload. */
  async #after(name: string, { texts }: Entry, upload: RegionsAt): Promise<RegionsAt[]> {
    if (upload.table.whole && switchLines(texts.live).length === 1) return [upload];
    const live = await this.#queue.call('regions', { name });
    return live.map((one) => (one.sector === upload.sector ? changed(one, upload.table) : one));
  }

  /** Resolves when the tables as they are now, or later ones, are durable. Throws MapperError. */
  save(entry: Entry): Promise<void> {
    if (!this.#keeps(entry)) return Promise.resolve();
    let saved = this.#waiting.get(entry);
    if (saved === undefined) {
      saved = this.#save(entry);
      this.#waiting.set(entry, saved);
    }
    return saved;
  }

  /** A table of other lines is about to take over: what it takes must be known after a crash. */
  async saveAhead(name: string, entry: Entry): Promise<void> {
    const { live, inactive } = entry.texts;
    if (this.#store?.hasRegions(name) === true || live === inactive) return;
    if (switchLines(live).length > 0 && switchLines(inactive).length > 0) await this.save(entry);
  }

  /** Another table is live: it may have other tables of regions, or none. */
  async saveAfter(name: string, entry: Entry): Promise<void> {
    if (this.#store?.hasRegions(name) === true) await this.save(entry);
  }

  /** What a target tells that changes regions by itself. */
  async confirm(name: string, sector: number, generation: number): Promise<void> {
    // A rename may be under way, of which the queue thread knows more.
    const entry = await this.#lock.run([name], async () => this.#entries.get(name));
    if (entry === undefined) return;
    await this.save(entry);
    const now = this.#entries.nameOf(entry);
    if (now === null) return;
    // A target that is gone by now has nothing to hear.
    await this.#queue.call('regionsSaved', { name: now, sector, generation }).catch(() => {});
  }

  async #save(entry: Entry): Promise<void> {
    for (;;) {
      const name = this.#entries.nameOf(entry);
      const done = await this.#lock.run(name === null ? [] : [name], async () => {
        if (this.#entries.nameOf(entry) !== name) return false;
        this.#waiting.delete(entry);
        if (name !== null) await this.#saveNow(name);
        return true;
      });
      if (done) return;
    }
  }

  async #saveNow(name: string): Promise<void> {
    const live = await this.#queue.call('regions', { name });
    if (live.length > 0) await this.#write(name, live);
    else await this.forget(name);
  }

  async #write(name: string, tables: readonly RegionsAt[]): Promise<void> {
    const pieces = tables.flatMap(encodeRegions);
    const bytes = pieces.reduce((sum, piece) => sum + piece.length, 0);
    if (bytes > regionFileBytes) {
      const text = `regions of "${name}" take ${bytes} bytes, at most ${regionFileBytes}`;
      throw new MapperError(EINVAL, text);
    }
    await this.#store?.writeRegions(name, pieces);
  }

  #keeps(entry: Entry): boolean {
    return this.#store !== null && entry.stored;
  }
}

/** Throws MapperError if regions are for a target of another kind. */
function refuseOther(found: RegionsAt['table'], wanted: RegionsAt['table']): void {
  const refuse = (what: string, a: number, b: number): void => {
    if (a !== b) throw new MapperError(EINVAL, `switch: ${what}: found ${a}, the target has ${b}`);
  };
  refuse('number of regions', found.regions, wanted.regions);
  refuse('region size in sectors', found.regionSectors, wanted.regionSectors);
  refuse('number of paths', found.paths, wanted.paths);
  refuse('bits of an entry', found.bits, wanted.bits);
}

/** The table after an upload. */
function changed(live: RegionsAt, table: RegionsAt['table']): RegionsAt {
  if (table.whole) return { sector: live.sector, table };
  const regions = RegionTable.fromUpload(live.table);
  regions.apply(table);
  return live;
}

/**
 * A stored table for the target at its sector. One of another length or number of paths is changed
 * in the way that loading the target's line over the stored one's would change it.
 */
function fitted({ sector, table }: RegionsAt, lines: readonly SwitchLine[]): RegionsAt {
  const line = lines.find((one) => one.sector === sector);
  if (line === undefined) {
    const text = `regions of sector ${sector}, where the table has no switch target`;
    throw new MapperError(EINVAL, text);
  }
  if (!table.whole) throw new MapperError(EINVAL, 'segment of a table, wanted a whole one');
  const { regions, paths, regionSectors } = line;
  if (table.regionSectors !== regionSectors) {
    const found = `found ${table.regionSectors} sectors, the table has ${regionSectors}`;
    throw new MapperError(EINVAL, `region size: ${found}`);
  }
  if (table.regions === regions && table.paths === paths) return { sector, table };
  checkBound('regions', regions, regionsMax);
  checkBound('paths', paths, regionPaths);
  const resized = RegionTable.fromUpload(table).resized(regions, paths).download(0, regions);
  return { sector, table: { ...resized, regionSectors } };
}

/** The words of a line are whatever the file has: its target has not been made yet. */
function checkBound(what: string, found: number, most: number): void {
  if (Number.isInteger(found) && found >= 1 && found <= most) return;
  throw new MapperError(EINVAL, `the table has ${found} ${what}, wanted 1 to ${most}`);
}
