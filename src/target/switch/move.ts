/**
 * One move that somebody asked for: finds the regions that are meant, and has them carried over in
 * batches, several side by side, until none is left, one fails, or it is stopped.
 */

import { messageOf } from '../../base/errors.js';
import { moveBatchBytes, moveBatches, regionsPerTurn } from '../../base/limits.js';
import { Throttle } from '../../copy/throttle.js';
import type { Io } from '../../device/io.js';
import type { TargetContext } from '../target.js';
import type { SwitchPath } from './arguments.js';
import { BatchCopy } from './batch-copy.js';
import { MoveBatch } from './move-batch.js';
import type { MoveWords } from './move-words.js';
import type { MovingWrites } from './moving-writes.js';
import type { RegionTable } from './region-table.js';
import { nextTurn } from './steps.js';

/** The target, as its moves see it. */
export interface MoveSubject {
  readonly context: TargetContext;
  readonly paths: readonly SwitchPath[];
  readonly regionSectors: number;
  readonly regions: number;
  readonly regionTable: RegionTable;
  /** Sends an Io where it belongs now. */
  route(io: Io): void;
}

/** Those who look after regions that move. */
export interface MoveHost {
  readonly writes: MovingWrites;
  mayBegin(isOver: () => boolean): Promise<void>;
  allStored(isOver: () => boolean): Promise<void>;
  /** Whether the region is in a batch. */
  has(region: number): boolean;
  begin(batch: MoveBatch): void;
  end(batch: MoveBatch): void;
  wake(): void;
}

export class Move {
  state: 'running' | 'done' | 'cancelled' | 'failed' = 'running';
  /** Why it failed. */
  error = '';
  /** Resolves when it has ended. */
  over: Promise<void> = Promise.resolve();
  readonly #words: MoveWords;
  readonly #total: number;
  readonly #subject: MoveSubject;
  readonly #host: MoveHost;
  readonly #throttle: Throttle | null;
  #moved = 0;
  #bytes = 0;
  #stopping = false;
  readonly #isOver = (): boolean => this.#stopping;

  /** `total`: regions that are meant, now. */
  constructor(words: MoveWords, total: number, subject: MoveSubject, host: MoveHost) {
    this.#words = words;
    this.#total = total;
    this.#subject = subject;
    this.#host = host;
    this.#throttle = words.percent < 100 ? new Throttle(words.percent) : null;
  }

  get running(): boolean {
    return this.state === 'running';
  }

  /** `<state> <from> <to> <moved> <total> <bytes>` */
  get words(): string {
    const { from, to } = this.#words;
    return `${this.state} ${from} ${to} ${this.#moved} ${this.#total} ${this.#bytes}`;
  }

  /** No batch is begun any more. */
  stop(): void {
    this.#stopping = true;
  }

  run(): Promise<void> {
    this.over = this.#run();
    return this.over;
  }

  async #run(): Promise<void> {
    // What an earlier move has left on both sides may be among the regions of this one.
    await this.#host.allStored(this.#isOver);
    await Promise.all(Array.from({ length: moveBatches }, () => this.#work()));
    if (this.error !== '') this.state = 'failed';
    else this.state = this.#stopping ? 'cancelled' : 'done';
    const { deviceName: device, log } = this.#subject.context;
    const { from, to } = this.#words;
    const fields = { device, from, to, moved: this.#moved, total: this.#total };
    const text = `move of regions is ${this.state}`;
    if (this.error === '') log.info(fields, text);
    else log.error(fields, `${text}: ${this.error}`);
  }

  /** Batch after batch; several of these run side by side. */
  async #work(): Promise<void> {
    for (;;) {
      await this.#host.mayBegin(this.#isOver);
      if (this.#stopping) return;
      const batch = this.#nextBatch();
      if (batch !== null) await this.#carryOut(batch);
      else if (this.#words.ranges.length === 0) return;
      else await nextTurn(this.#subject.context.engine);
    }
  }

  /** The next regions on the old path that lie side by side. Null: none so far. */
  #nextBatch(): MoveBatch | null {
    const { regionTable, regionSectors, context } = this.#subject;
    const { from, to, ranges } = this.#words;
    const range = ranges[0];
    if (range === undefined) return null;
    const isFree = (region: number): boolean =>
      regionTable.get(region) === from && !this.#host.has(region);
    const end = Math.min(range.last + 1, range.first + regionsPerTurn);
    let firstRegion = range.first;
    while (firstRegion < end && !isFree(firstRegion)) firstRegion++;
    const regionBytes = regionSectors * 512;
    const most = Math.max(1, Math.floor(moveBatchBytes / regionBytes));
    const last = Math.min(range.last, firstRegion + most - 1);
    let next = firstRegion;
    while (next <= last && isFree(next)) next++;
    range.first = next;
    if (range.first > range.last) ranges.shift();
    const count = next - firstRegion;
    if (count === 0) return null;
    const offset = firstRegion * regionBytes;
    const length = Math.min(count * regionBytes, context.lengthSectors * 512 - offset);
    const batch = new MoveBatch({ firstRegion, count }, { from, to }, { offset, length });
    this.#host.begin(batch);
    return batch;
  }

  async #carryOut(batch: MoveBatch): Promise<void> {
    const { context, paths } = this.#subject;
    const { count, firstRegion, length } = batch;
    try {
      await new BatchCopy(batch, paths, this.#throttle, context).run(this.#host.writes);
    } catch (error) {
      batch.abandoned = true;
      if (this.error === '') this.error = messageOf(error);
      this.stop();
      this.#host.wake();
    }
    if (batch.abandoned) {
      this.#words.ranges.push({ first: firstRegion, last: firstRegion + count - 1 });
    } else {
      this.#moved += count;
      this.#bytes += length;
    }
    this.#host.end(batch);
  }
}
