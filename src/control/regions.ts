/**
 * Region tables as clients and targets ask for them: uploads and downloads, messages that change
 * regions, and regions that a target moves by itself. What is answered is in the state directory.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import { E2BIG, EINVAL, ESHUTDOWN } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { regionSaveMilliseconds, uploadBytes } from '../base/limits.js';
import type { Log } from '../base/log.js';
import type { QueueEvent, RegionsAt } from '../queue/commands.js';
import type { QueueCalls } from '../queue/queue.js';
import {
  checkedRegions,
  encodeRegions,
  parseRegionHeader,
  withoutFirst,
} from '../target/switch/upload-format.js';
import type { Catalogue } from './catalogue.js';
import type { Received } from './incoming.js';
import type { Downloaded, Params, Uploaded } from './messages.js';
import { switchLines } from './region-files.js';

/** The messages after which a switch target's table may be another. */
const changingMessages = new Set(['set_region_mappings']);
const beginsMove = 'move_regions';

/** Resolves after so many milliseconds. */
export type Pause = (milliseconds: number) => Promise<void>;

/** Keeps no process alive. */
const sleepUnref: Pause = (milliseconds) => sleep(milliseconds, undefined, { ref: false });

export class Regions {
  readonly #queue: QueueCalls;
  readonly #catalogue: Catalogue;
  readonly #log: Log;
  readonly #pause: Pause;

  constructor(queue: QueueCalls, catalogue: Catalogue, log: Log, pause: Pause = sleepUnref) {
    this.#queue = queue;
    this.#catalogue = catalogue;
    this.#log = log;
    this.#pause = pause;
  }

  /** Without a sector: the one in the header. Throws MapperError; then nothing has changed. */
  async upload(name: string, sector: number | undefined, received: Received): Promise<Uploaded> {
    const header = parseRegionHeader(received.header);
    const table = checkedRegions(header, received.slots);
    const { whole, first, count } = table;
    return this.#catalogue.exclusively([name], async ({ regions }) => {
      const at = await regions.upload(name, sector ?? header.sector, table);
      const stored = regions.keeps(name);
      return { sector: at.sector, whole, first, count, stored };
    });
  }

  /** What to tell of it, and its bytes. Throws MapperError. */
  async download(
    params: Params<'download'>,
  ): Promise<{ about: Downloaded; pieces: readonly Uint8Array[] }> {
    const found = await this.#part(params);
    const pieces = encodeRegions(found);
    const { slots: _, ...table } = found.table;
    const bytes = pieces.reduce((sum, piece) => sum + piece.length, 0);
    if (bytes > uploadBytes) {
      throw new MapperError(
        E2BIG,
        `${bytes} bytes, at most ${uploadBytes}: ask for less at a time`,
      );
    }
    return { about: { bytes, sector: found.sector, ...table }, pieces };
  }

  /**
   * A part that begins within a slot is packed anew, which takes some milliseconds for a million
   * entries: here they are in nobody's way.
   */
  async #part({ name, sector = 0, first, count }: Params<'download'>): Promise<RegionsAt> {
    const end = count === undefined ? {} : { count };
    if (first === undefined || first === 0) {
      return this.#queue.call('download', { name, sector, ...end });
    }
    // It says how many entries are in a slot, or that there is no such region.
    const { table } = await this.#queue.call('download', { name, sector, first, count: 1 });
    const { regions } = table;
    if (count !== undefined && first + count > regions) {
      const text = `switch: regions ${count} from region ${first} on, it has ${regions}`;
      throw new MapperError(EINVAL, text);
    }
    const skipped = first % Math.floor(64 / table.bits);
    const found = await this.#queue.call('download', {
      name,
      sector,
      first: first - skipped,
      ...(count === undefined ? {} : { count: count + skipped }),
    });
    return { sector: found.sector, table: withoutFirst(found.table, skipped) };
  }

  /** Any message; one that changes regions is answered when they are stored. Throws MapperError. */
  async message(params: Params<'message'>): Promise<string> {
    const { name, sector, words } = params;
    const live = this.#catalogue.known(name)?.live ?? null;
    const isSwitch = switchLines(live).some(
      (line) => line.sector <= sector && sector < line.endSector,
    );
    const verb = (words[0] as string).toLowerCase();
    if (isSwitch && verb === beginsMove) {
      // Not between an upload's look at what is moving and its end.
      return this.#catalogue.exclusively([name], () => this.#queue.call('message', params));
    }
    if (!isSwitch || !changingMessages.has(verb)) return this.#queue.call('message', params);
    const save = this.#catalogue.regionSaver(name);
    let failure: unknown = null;
    const answer = await this.#queue.call('message', params).catch((error: unknown) => {
      failure = error;
      return '';
    });
    // What stands before a wrong word has been done.
    try {
      await save();
    } catch (error) {
      if (failure === null) throw error;
      const text = `${messageOf(failure)}; what it did is not stored: ${messageOf(error)}`;
      throw error instanceof MapperError ? new MapperError(error.errno, text) : error;
    }
    if (failure !== null) throw failure;
    return answer;
  }

  /** What the queue thread tells. */
  event(event: QueueEvent): void {
    if (event.event !== 'target' || event.what !== 'regions') return;
    const { name, sector = 0, generation = 0 } = event;
    void this.#confirm(name, sector, generation);
  }

  async #confirm(name: string, sector: number, generation: number): Promise<void> {
    for (;;) {
      try {
        await this.#catalogue.confirmRegions(name, sector, generation);
        return;
      } catch (error) {
        if (error instanceof MapperError && error.errno === ESHUTDOWN) return;
        const text = 'regions that were moved cannot be stored: trying again';
        this.#log.error({ device: name, error: messageOf(error) }, text);
        await this.#pause(regionSaveMilliseconds);
      }
    }
  }
}
