/** Switch: a table says for each region which of several paths it is on. See README.md. */

import { type Backing, commonFeatures, type Features } from '../../backing/backing.js';
import { EBUSY, EINVAL } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { regionsPerPiece, regionsPerTurn } from '../../base/limits.js';
import { type Io, type Operation, READ, STATUS } from '../../device/io.js';
import { quoted } from '../arguments.js';
import {
  REMAPPED,
  type RegionUpload,
  type Target,
  type TargetContext,
  type TargetType,
  unrecognisedMessage,
} from '../target.js';
import { parseSwitch, type SwitchPath, type SwitchWords, switchText } from './arguments.js';
import { type MappedRegions, Mappings } from './mappings.js';
import type { MoveSubject } from './move.js';
import { refuseWords } from './move-words.js';
import { RegionMoves } from './moves.js';
import { type Placed, Predecessors } from './predecessors.js';
import { RegionTable } from './region-table.js';
import { nextTurn } from './steps.js';

export const switchTarget: TargetType = {
  name: 'switch',
  version: [1, 1, 0],
  create(args, context) {
    return new SwitchTarget(parseSwitch(args, context), context);
  },
};

const switches = new Predecessors<SwitchTarget>();

class SwitchTarget implements Target, MoveSubject, Placed {
  readonly type = switchTarget;
  readonly context: TargetContext;
  readonly maxIoSectors: number;
  readonly backings: readonly Backing[];
  readonly features: Features;
  readonly regionSectors: number;
  readonly regions: number;
  // Plain fields: map is hot.
  regionTable: RegionTable;
  private readonly words: SwitchWords;
  private readonly destinations: readonly Backing[];
  /** Where each path begins in its backing, in bytes. */
  private readonly starts: Float64Array;
  private readonly regionBytes: number;
  private readonly beginBytes: number;
  private readonly moves: RegionMoves;
  private suspended = false;
  /** It has taken over from this one, which tells it when it is live. */
  private successor: SwitchTarget | null = null;

  constructor(words: SwitchWords, context: TargetContext) {
    const { paths, regions, regionSectors } = words;
    this.words = words;
    this.context = context;
    this.maxIoSectors = regionSectors;
    this.regionSectors = regionSectors;
    this.regions = regions;
    this.regionTable = new RegionTable(regions, paths.length);
    this.destinations = paths.map((path) => path.backing);
    this.backings = [...new Set(this.destinations)];
    this.features = commonFeatures(this.backings);
    this.starts = Float64Array.from(paths, (path) => path.startSectors * 512);
    this.regionBytes = regionSectors * 512;
    this.beginBytes = context.beginSectors * 512;
    this.moves = new RegionMoves(this);
    switches.add(this);
  }

  get paths(): readonly SwitchPath[] {
    return this.words.paths;
  }

  map(io: Io): number {
    const offset = io.offset - this.beginBytes;
    // Doubles, since offsets pass 2^32; see striped for why this is exact.
    const region = Math.floor(offset / this.regionBytes);
    const path = this.regionTable.get(region);
    io.backing = this.destinations[path] as Backing;
    io.backingOffset = (this.starts[path] as number) + offset;
    return this.moves.active ? this.moves.map(io, region, path) : REMAPPED;
  }

  /** MoveSubject. */
  route(io: Io): void {
    const result = this.map(io);
    if (result === REMAPPED) (io.backing as Backing).submit(io);
    else if (result < 0) io.complete(-result);
  }

  /**
   * Regions that follow one another on one path follow one another there, too. Writes to a region
   * that is being moved come by themselves.
   */
  pieceBytes(operation: Operation, offset: number, length: number): number {
    const { moves, regionBytes, regionTable } = this;
    const begin = offset - this.beginBytes;
    const first = Math.floor(begin / regionBytes);
    const watched = moves.active && operation !== READ && operation !== STATUS;
    if (!watched && this.destinations.length === 1) return length;
    const path = regionTable.get(first);
    const touched = Math.floor((begin + length - 1) / regionBytes);
    const last = Math.min(touched, first + regionsPerPiece);
    let next = first + 1;
    if (!watched) {
      while (next <= last && regionTable.get(next) === path) next++;
    } else if (!moves.has(first)) {
      while (next <= last && regionTable.get(next) === path && !moves.has(next)) next++;
    }
    return Math.min(length, next * regionBytes - begin);
  }

  async message(args: readonly string[]): Promise<string> {
    const verb = args[0] ?? '';
    if (verb.toLowerCase() === 'set_region_mappings') return this.#setMappings(args);
    switch (verb) {
      case 'move_regions':
        return this.moves.start(args);
      case 'move_status':
        refuseWords(args);
        return this.moves.status();
      case 'move_cancel':
        refuseWords(args);
        await this.moves.cancel();
        return '';
      case 'regions_saved':
        this.moves.confirm(parseGeneration(args));
        return '';
      default:
        throw unrecognisedMessage(args);
    }
  }

  async #setMappings(args: readonly string[]): Promise<string> {
    const { moves } = this;
    const before = moves.generation;
    const mapped: MappedRegions = {
      regions: this.regions,
      paths: this.destinations.length,
      get: (region) => this.regionTable.get(region),
      set: (region, path) => this.#set(region, path),
    };
    const mappings = new Mappings(args, 1, mapped);
    let paused = false;
    try {
      for (;;) {
        const busy = mappings.step(regionsPerTurn);
        if (mappings.done) return '';
        if (busy < 0) {
          await nextTurn(this.context.engine);
          continue;
        }
        if (!paused) moves.pause();
        paused = true;
        await moves.abandon(busy, 1);
      }
    } finally {
      if (paused) moves.goOn();
      // Of other changes whoever has sent the message knows.
      if (moves.generation !== before) moves.tell();
    }
  }

  #set(region: number, path: number): boolean {
    if (this.moves.active) {
      if (this.regionTable.get(region) === path) return true;
      if (!this.moves.mayChange(region)) return false;
    }
    this.regionTable.set(region, path);
    return true;
  }

  async upload(table: RegionUpload): Promise<void> {
    this.#checkUpload(table);
    const { moves, regionTable } = this;
    const { count, first, whole } = table;
    if (whole) {
      if (moves.running) {
        throw new MapperError(EBUSY, 'a move is under way, wanted its end before a whole table');
      }
      this.regionTable = RegionTable.fromUpload(table);
      moves.changed(0, count);
    } else {
      moves.pause();
      try {
        await moves.abandon(first, count);
        for (let from = 0; from < count; from += regionsPerTurn) {
          if (from > 0) await nextTurn(this.context.engine);
          regionTable.apply(table, from, Math.min(regionsPerTurn, count - from));
        }
        moves.changed(first, count);
      } finally {
        moves.goOn();
      }
    }
  }

  #checkUpload(table: RegionUpload): void {
    const { regionTable } = this;
    check('regions', table.regions, this.regions);
    check('region sectors', table.regionSectors, this.regionSectors);
    check('paths', table.paths, regionTable.paths);
    check('bits', table.bits, regionTable.bits);
    const end = table.first + table.count;
    if (end > this.regions) {
      const found = `found region ${end - 1}, wanted one before ${this.regions}`;
      throw new MapperError(EINVAL, `upload does not fit: ${found}`);
    }
  }

  download(first: number, count: number): RegionUpload {
    return { ...this.regionTable.download(first, count), regionSectors: this.regionSectors };
  }

  status(): string {
    return '';
  }

  table(): string {
    return switchText(this.words);
  }

  async resume(): Promise<void> {
    // For as long as the table before this one is there, it may go on and this one come again.
    const old = switches.before(this);
    if (old !== null) await this.#takeOver(old);
    if (this.suspended) this.moves.goOn();
    this.suspended = false;
  }

  /** Every region that still is one keeps its path, if there still is one. */
  async #takeOver(old: SwitchTarget): Promise<void> {
    const { log, deviceName: device } = this.context;
    const [mine, its] = [this.regionTable, old.regionTable];
    if (old.regionSectors !== this.regionSectors) {
      const found = `${old.regionSectors} sectors before, ${this.regionSectors} now`;
      log.warn({ device }, `regions have another size, all are on their default paths (${found})`);
    } else if (mine.regions === its.regions && mine.paths === its.paths) {
      this.regionTable = its;
    } else {
      const table = new RegionTable(mine.regions, mine.paths);
      const count = Math.min(mine.regions, its.regions);
      for (let from = 0; from < count; from += regionsPerTurn) {
        if (from > 0) await nextTurn(this.context.engine);
        table.keep(its, from, Math.min(count, from + regionsPerTurn));
      }
      this.regionTable = table;
    }
    this.moves.takeOver(old.moves, old.regionSectors === this.regionSectors);
    old.successor = this;
  }

  async stopWork(): Promise<void> {
    this.moves.pause();
    await this.moves.abandonAll();
  }

  async suspend(): Promise<void> {
    if (!this.suspended) this.moves.pause();
    this.suspended = true;
    await this.moves.abandonAll();
  }

  async destroy(): Promise<void> {
    await this.moves.cancel();
    switches.remove(this);
    // Only now it is in the device's live table, which is what will be stored.
    this.successor?.moves.tell();
  }
}

function check(what: string, found: number, wanted: number): void {
  if (found === wanted) return;
  throw new MapperError(EINVAL, `upload does not fit: found ${found} ${what}, wanted ${wanted}`);
}

function parseGeneration(args: readonly string[]): number {
  const word = args[1];
  const value = word !== undefined && /^[0-9]+$/.test(word) ? Number(word) : Number.NaN;
  if (args.length === 2 && Number.isSafeInteger(value)) return value;
  const text = `invalid regions_saved generation (found ${quoted(word)}, wanted one number)`;
  throw new MapperError(EINVAL, text);
}
