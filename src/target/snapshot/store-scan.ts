/**
 * Reads a persistent store's areas, in order and twelve reads ahead, up to the record that ends the
 * list. What is on the disk is not trusted: a record that names a chunk that cannot be, or that
 * another has named, is refused, since following it would show or overwrite somebody else's data.
 */

import type { Backing } from '../../backing/backing.js';
import { EINVAL, ENOMEM, errnoName } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import type { AwaitedIo } from '../../device/awaited-io.js';
import { READ } from '../../device/io.js';
import type { Arena } from '../../engine/arena.js';
import { ExceptionTable, oldChunksMax } from './exception-table.js';
import {
  damaged,
  exactChunk,
  type Layout,
  readFailed,
  readNewChunk,
  readOldChunk,
  recordBytes,
} from './format.js';
import type { FoundException } from './store.js';

const readAhead = 12;
const readBytesMax = 64 * 1024;
/** Records after which others get the thread: a few milliseconds at the worst. */
const pauseRecords = 4096;

export interface ScanPlan {
  readonly cow: Backing;
  readonly layout: Layout;
  readonly originChunks: number;
  readonly arena: Arena;
  readonly io: AwaitedIo;
  readonly found: FoundException;
}

/** Where the list ends. */
export interface ScanResult {
  /** Past the last area of the COW, if that is full. */
  readonly area: number;
  /** Records in that area. */
  readonly used: number;
  /** Highest chunk of the COW that a record names, or 1. */
  readonly lastChunk: number;
  /** Something other than zeroes is behind the end, in the same area. */
  readonly remains: boolean;
}

/** Throws MapperError. */
export async function scanAreas(plan: ScanPlan): Promise<ScanResult> {
  const { layout, arena, io, cow } = plan;
  const unitBytes = Math.min(layout.chunkBytes, readBytesMax);
  const unitsPerArea = layout.chunkBytes / unitBytes;
  const unitRecords = unitBytes / recordBytes;
  const areas = layout.areasIn(layout.chunksIn(cow.size()));
  const records = new RecordReader(plan);
  const reads: { readonly memory: number; readonly ended: Promise<number> }[] = [];
  let remains = false;
  let end = areas * unitsPerArea;
  let next = 0;
  const begin = (memory: number): void => {
    const offset = layout.areaBytes(Math.floor(next / unitsPerArea));
    const at = offset + (next % unitsPerArea) * unitBytes;
    reads.push({ memory, ended: io.run(cow, READ, at, unitBytes, memory) });
    next++;
  };
  try {
    while (next < Math.min(end, readAhead)) {
      const memory = arena.allocate(unitBytes);
      if (memory >= 0) begin(memory);
      else if (reads.length === 0) throw new MapperError(ENOMEM, `${readFailed}: no memory left`);
      else break;
    }
    for (let unit = 0; unit < end; unit++) {
      const { memory, ended } = reads[0] as (typeof reads)[number];
      const errno = await ended;
      if (errno !== 0) {
        const what = `read of area ${Math.floor(unit / unitsPerArea)}: ${errnoName(errno)}`;
        throw new MapperError(errno, `${readFailed}: ${what}`);
      }
      const read = records.ended ? 0 : records.read(memory, unit * unitRecords, unitRecords);
      if (records.ended) {
        remains ||= !isZero(arena, memory + read * recordBytes, unitBytes - read * recordBytes);
        end = (Math.floor(unit / unitsPerArea) + 1) * unitsPerArea;
      }
      reads.shift();
      if (next < end) begin(memory);
      else arena.free(memory, unitBytes);
      if (((unit + 1) * unitRecords) % pauseRecords === 0) await io.pause();
    }
    records.finish();
  } finally {
    for (const { memory, ended } of reads) {
      await ended;
      arena.free(memory, unitBytes);
    }
  }
  const { count, lastChunk } = records;
  const area = Math.floor(count / layout.recordsPerArea);
  return { area, used: count - area * layout.recordsPerArea, lastChunk, remains };
}

/** Checks records and tells of them in runs. */
class RecordReader {
  /** The record that ends the list was found. */
  ended = false;
  count = 0;
  lastChunk = 1;
  readonly #plan: ScanPlan;
  readonly #view: DataView;
  readonly #chunks: number;
  /** Old chunks that were named, and new ones. */
  readonly #old = new ExceptionTable();
  readonly #new = new ExceptionTable();
  #runOld = 0;
  #runNew = 0;
  #runCount = 0;

  constructor(plan: ScanPlan) {
    this.#plan = plan;
    this.#view = plan.arena.view;
    this.#chunks = plan.layout.chunksIn(plan.cow.size());
  }

  /** Reads at most so many records, of which the first has that number. Returns how many. */
  read(memory: number, first: number, records: number): number {
    for (let i = 0; i < records; i++) {
      const at = memory + i * recordBytes;
      const newChunk = readNewChunk(this.#view, at);
      if (newChunk === 0) {
        this.ended = true;
        return i;
      }
      const oldChunk = readOldChunk(this.#view, at);
      this.#check(at, oldChunk, newChunk, first + i);
      const joins =
        this.#runCount > 0 &&
        oldChunk === this.#runOld + this.#runCount &&
        newChunk === this.#runNew + this.#runCount;
      if (joins) {
        this.#runCount++;
      } else {
        this.finish();
        this.#runOld = oldChunk;
        this.#runNew = newChunk;
        this.#runCount = 1;
      }
      this.lastChunk = Math.max(this.lastChunk, newChunk);
      this.count++;
    }
    return records;
  }

  /** Tells of the last run. */
  finish(): void {
    const count = this.#runCount;
    if (count === 0) return;
    this.#runCount = 0;
    const oldFree = this.#old.gapLength(this.#runOld, count);
    const newFree = this.#new.gapLength(this.#runNew, count);
    if (oldFree < count) throw this.#twice('origin', this.#runOld + oldFree);
    if (newFree < count) throw this.#twice('COW', this.#runNew + newFree);
    this.#old.insertRun(this.#runOld, this.#runNew, count);
    this.#new.insertRun(this.#runNew, this.#runNew, count);
    this.#plan.found(this.#runOld, this.#runNew, count);
  }

  #check(at: number, oldChunk: number, newChunk: number, record: number): void {
    const { layout, originChunks } = this.#plan;
    if (oldChunk >= Math.min(originChunks, oldChunksMax)) {
      const found = `chunk ${exactChunk(this.#view, at)} of the origin in record ${record}`;
      throw damaged(EINVAL, found, `one of its ${originChunks}`);
    }
    if (newChunk >= this.#chunks) {
      const found = `chunk ${exactChunk(this.#view, at + 8)} of the COW in record ${record}`;
      throw damaged(EINVAL, found, `one of its ${this.#chunks}`);
    }
    if (layout.isArea(newChunk)) {
      const found = `chunk ${newChunk} of the COW in record ${record}, which is a metadata area`;
      throw damaged(EINVAL, found, 'one for data');
    }
  }

  #twice(of: string, chunk: number): MapperError {
    return damaged(EINVAL, `chunk ${chunk} of the ${of} in two records`, 'it in one');
  }
}

function isZero(arena: Arena, memory: number, length: number): boolean {
  const { words } = arena;
  const end = (memory + length) / 4;
  for (let i = memory / 4; i < end; i++) if (words[i] !== 0) return false;
  return true;
}
