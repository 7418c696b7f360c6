/**
 * The switch: which region is on which path, as far as it has been answered, and what else it may
 * be. Moving regions changes nothing of what the device shows; mapping them by hand does: on
 * another path they show what was written there before, if that is known.
 */

import type { RegionsAt } from '../../src/queue/commands.js';
import { RegionTable } from '../../src/target/switch/region-table.js';
import { encodeRegions } from '../../src/target/switch/upload-format.js';
import { type Loss, unseen } from './after-crash.js';
import { ANY, type Cell, type Cells, uniform } from './cells.js';
import { type Asked, ClientDevice, type DeviceRules } from './device.js';
import { SimFailure } from './failure.js';
import { History } from './history.js';
import { type Job, runJob } from './jobs.js';
import type { SwitchLayout } from './layout.js';
import type { Random } from './random.js';
import type { Check, Resolution } from './resolution.js';
import type { World } from './world.js';

interface Moving {
  readonly from: number;
  readonly to: number;
}

export class SwitchModel implements DeviceRules {
  readonly layout: SwitchLayout;
  /** Null: the volume stands on it. */
  readonly device: ClientDevice | null;
  job: Job | null = null;
  /** A move that has begun, and is not known to be over and stored. */
  moving: Moving | null = null;
  /** The path of each region, when nothing is moving. */
  #map: number[];
  /** A command under way maps regions without a care for those who write. */
  mapsByHand = false;
  /** That of a command under way. */
  #next: number[] | null = null;
  /** What a region has on a path that it is not on, by region and path; all else may be anything. */
  readonly #elsewhere = new Map<string, Cells>();
  readonly #world: World;

  constructor(world: World, layout: SwitchLayout, contents: readonly Cells[]) {
    this.#world = world;
    this.layout = layout;
    const { regionSectors, sectors, paths } = layout;
    const regions = Math.ceil(sectors / regionSectors);
    this.#map = Array.from({ length: regions }, (_, region) => region % paths);
    if (!layout.direct) {
      this.device = null;
      return;
    }
    const cells: Cells = [];
    for (let region = 0; region < regions; region++) {
      for (let path = 0; path < paths; path++) {
        const [begin, end] = this.#sectorsOf(region);
        const part = (contents[path] as Cells).slice(begin, end);
        if (path === this.#map[region]) cells.push(...part);
        else this.#elsewhere.set(`${region} ${path}`, part);
      }
    }
    this.device = new ClientDevice(world, layout.name, new History(world.clock, cells), this);
  }

  get regions(): number {
    return this.#map.length;
  }

  get busy(): boolean {
    return this.job !== null && !this.job.ended;
  }

  #sectorsOf(region: number): [number, number] {
    const { regionSectors, sectors } = this.layout;
    const begin = region * regionSectors;
    return [begin, Math.min(sectors, begin + regionSectors)];
  }

  // DeviceRules.

  wrote(): void {}

  written(): void {}

  flushed(start: number): void {
    this.device?.history.flushed(start);
    for (const cells of this.#elsewhere.values()) {
      for (const list of cells) {
        for (const cell of list) if (cell.dead < start && cell.firm) cell.gone = true;
      }
    }
  }

  mayFail(asked: Asked): boolean {
    return this.#world.faultTicks.switch > asked.start;
  }

  /** Begins to move regions, while they are in use. */
  move(random: Random): void {
    const { name, paths } = this.layout;
    const world = this.#world;
    const from = random.below(paths);
    const to = (from + 1 + random.below(paths - 1)) % paths;
    const words = ['move_regions', `${from}`, `${to}`];
    if (random.chance(600)) {
      const first = random.below(this.regions);
      words.push(`${first}-${Math.min(this.regions - 1, first + random.below(8))}`);
    }
    if (random.chance(200)) words.push('throttle', `${random.pick([10, 50, 90])}`);
    // What was there is being overwritten.
    for (const key of this.#elsewhere.keys()) {
      if (key.endsWith(` ${to}`)) this.#elsewhere.delete(key);
    }
    this.moving = { from, to };
    const message = { name, sector: 0, words };
    const begin = (): Promise<string> => world.daemon.regions.message(message);
    this.job = runJob(world, words.join(' '), begin, { done() {} });
  }

  /** Ends a move, or asks whether it has ended; then what it has done becomes known. */
  look(random: Random): void {
    const { name } = this.layout;
    const { daemon } = this.#world;
    const ask = async (): Promise<RegionsAt | null> => {
      const message = (word: string): Promise<string> =>
        daemon.regions.message({ name, sector: 0, words: [word] });
      if (random.chance(200)) await message('move_cancel');
      const words = (await message('move_status')).split(' ');
      if (words[0] === 'running' || words[6] !== words[7]) return null;
      return daemon.call('download', { name, sector: 0 });
    };
    this.job = runJob(this.#world, 'look at the move', ask, {
      done: (table) => {
        if (table !== null) this.#moved(mapOf(table));
      },
    });
  }

  #moved(map: readonly number[]): void {
    const moving = this.moving as Moving;
    for (const [region, path] of map.entries()) {
      const before = this.#map[region] as number;
      if (path === before) continue;
      this.#checkPath(region, path, [moving.to]);
      this.#elsewhere.delete(`${region} ${before}`);
    }
    this.#map = [...map];
    this.moving = null;
  }

  #checkPath(region: number, path: number, wanted: readonly number[]): void {
    if (wanted.includes(path)) return;
    const text = `region ${region} is on path ${path}, wanted ${wanted.join(' or ')}`;
    throw new SimFailure('regions', text);
  }

  /** Maps some regions by hand, by a message: nothing writes meanwhile. Or by an upload. */
  map(random: Random, upload: boolean): void {
    const world = this.#world;
    const { name, paths } = this.layout;
    const next = [...this.#map];
    const first = random.below(this.regions);
    const count = Math.min(this.regions - first, 1 + random.below(6));
    const whole = upload && random.chance(500);
    const words = ['set_region_mappings'];
    for (let i = 0; i < count; i++) {
      next[first + i] = random.below(paths);
      words.push(`${(first + i).toString(16)}:${(next[first + i] as number).toString(16)}`);
    }
    this.#next = next;
    this.mapsByHand = !upload;
    this.device?.history.mayBecome(this.#contentsWith(next));
    const table = whole ? this.#table(next, 0, this.regions) : this.#table(next, first, count);
    const [header] = encodeRegions({ sector: 0, table: { ...table, whole } });
    const begin = async (): Promise<void> => {
      if (upload) {
        const received = { header: header as Uint8Array, slots: table.slots };
        await world.daemon.regions.upload(name, 0, received);
      } else {
        await world.daemon.regions.message({ name, sector: 0, words });
      }
    };
    const what = upload ? `upload ${whole ? 'all' : count} regions` : words.join(' ');
    const done = (): void => this.#mapped(next);
    // A message that cannot be stored has been carried out all the same.
    const undone = (): void => {
      this.#next = null;
      this.device?.history.became(false);
    };
    this.job = runJob(world, what, begin, upload ? { done, undone } : { done });
  }

  #table(map: readonly number[], first: number, count: number): RegionsAt['table'] {
    const { paths, regionSectors } = this.layout;
    const table = new RegionTable(map.length, paths);
    for (const [region, path] of map.entries()) table.set(region, path);
    return { ...table.download(first, count), regionSectors };
  }

  /** What the device shows with that map, as far as it is known. */
  #contentsWith(next: readonly number[]): Cells {
    const cells = (this.device as ClientDevice).history.cells.slice();
    for (const [region, path] of next.entries()) {
      if (path === this.#map[region]) continue;
      const [begin, end] = this.#sectorsOf(region);
      const there = this.#elsewhere.get(`${region} ${path}`) ?? uniform(end - begin, ANY);
      for (let sector = begin; sector < end; sector++) {
        cells[sector] = (there[sector - begin] as Cell[]).slice();
      }
    }
    return cells;
  }

  #mapped(next: number[]): void {
    const { history } = this.device as ClientDevice;
    const before = history.cells;
    history.became(true);
    this.device?.changed();
    this.#leave(before, next);
  }

  /** Regions have come to other paths; what they held stays where it was. */
  #leave(before: Cells, next: number[]): void {
    for (const [region, path] of next.entries()) {
      const old = this.#map[region] as number;
      if (path === old) continue;
      const [begin, end] = this.#sectorsOf(region);
      this.#elsewhere.set(`${region} ${old}`, before.slice(begin, end));
      this.#elsewhere.delete(`${region} ${path}`);
    }
    this.#map = next;
    this.#next = null;
  }

  /** What must hold under a daemon that has started anew and has that table. */
  resolve(table: RegionsAt | null, loss: Loss): Resolution {
    if (table === null) return { checks: [], commit() {} };
    const map = mapOf(table);
    const { moving, device } = this;
    const next = this.#next;
    const isNew = next?.every((path, region) => map[region] === path) === true;
    if (!isNew) {
      for (const [region, path] of map.entries()) {
        const before = this.#map[region] as number;
        this.#checkPath(region, path, moving?.from === before ? [before, moving.to] : [before]);
      }
    }
    const history = device?.history ?? null;
    const cells = isNew ? (history?.next ?? null) : (history?.cells ?? null);
    const checks: Check[] = cells === null ? [] : [{ name: this.layout.name, cells }];
    return {
      checks,
      commit: () => {
        if (isNew && history !== null) this.#leave(history.cells, map);
        else if (moving !== null) this.#moved(map);
        for (const [key, there] of this.#elsewhere) {
          this.#elsewhere.set(key, unseen(this.#world.clock, loss, there));
        }
        this.#next = null;
        this.moving = null;
        this.job = null;
      },
    };
  }
}

function mapOf({ table }: RegionsAt): number[] {
  const regions = RegionTable.fromUpload(table);
  return Array.from({ length: table.regions }, (_, region) => regions.get(region));
}
