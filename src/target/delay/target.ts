/**
 * Delay: reads, writes and flushes wait, each class its own time, and then go to its own backing.
 * See README.md.
 *
 * Classes that wait the same time share a queue, so that each queue is in the order of arrival and
 * needs a timer for its oldest Io only. What expires in one turn leaves in the order of arrival,
 * whichever queue it was in.
 */

import { type Backing, commonFeatures, type Features } from '../../backing/backing.js';
import { timerMilliseconds } from '../../base/limits.js';
import { FLUSH, type Io, READ, STATUS } from '../../device/io.js';
import type { Engine } from '../../engine/engine.js';
import {
  type Bounds,
  checkCount,
  deviceSector,
  openDevice,
  parseNumber,
  uint32Max,
} from '../arguments.js';
import { PassThrough } from '../pass-through.js';
import { SUBMITTED, type Target, type TargetContext, type TargetType } from '../target.js';
import { DelayQueue, type QueueOwner } from './queue.js';

const delayBounds: Bounds = { min: 0, max: uint32Max, text: 'Invalid delay' };

export const delay: TargetType = {
  name: 'delay',
  version: [1, 4, 0],
  create(args, context) {
    checkCount(args, 'Requires exactly 3, 6 or 9 arguments', 3, 6, 9);
    const parts: Part[] = [];
    for (let at = 0; at < args.length; at += 3) parts.push(parsePart(args, at, context));
    return new DelayTarget(parts, context.engine);
  },
};

/** `<dev> <offset> <delay>`: where a class of operations goes, and how late. */
interface Part {
  readonly range: PassThrough;
  readonly milliseconds: number;
}

function parsePart(args: readonly string[], at: number, context: TargetContext): Part {
  const start = parseNumber(args[at + 1], deviceSector);
  const milliseconds = parseNumber(args[at + 2], delayBounds);
  const backing = openDevice(context, args[at] as string, start + context.lengthSectors);
  return { range: new PassThrough(backing, start, context.beginSectors), milliseconds };
}

/** Reads, writes or flushes. */
class DelayClass {
  readonly range: PassThrough;
  /** Null: they do not wait. */
  readonly queue: DelayQueue | null;
  waiting = 0;

  constructor(part: Part, queue: DelayQueue | null) {
    this.range = part.range;
    this.queue = queue;
  }
}

class DelayTarget implements Target, QueueOwner {
  readonly type = delay;
  readonly maxIoSectors = 0;
  readonly backings: readonly Backing[];
  readonly features: Features;
  readonly #engine: Engine;
  readonly #parts: readonly Part[];
  readonly #queues: DelayQueue[] = [];
  readonly #reads: DelayClass;
  readonly #writes: DelayClass;
  readonly #flushes: DelayClass;
  #arrivals = 0;
  /** Between `suspending` and `resume` nothing waits. */
  #hasty = false;

  /** One part is for everything, the second for writes and flushes, the third for flushes. */
  constructor(parts: readonly Part[], engine: Engine) {
    this.#engine = engine;
    this.#parts = parts;
    const read = parts[0] as Part;
    const write = parts[1] ?? read;
    const flush = parts[2] ?? write;
    this.#reads = new DelayClass(read, this.#queueFor(read.milliseconds));
    this.#writes = new DelayClass(write, this.#queueFor(write.milliseconds));
    this.#flushes = new DelayClass(flush, this.#queueFor(flush.milliseconds));
    this.backings = [...new Set(parts.map((part) => part.range.backing))];
    this.features = commonFeatures(this.backings);
  }

  map(io: Io): number {
    if (io.operation === STATUS) return this.#reads.range.remap(io);
    const kind = io.operation === READ ? this.#reads : this.#writes;
    const result = kind.range.remap(io);
    return kind.queue === null || this.#hasty ? result : this.#delay(io, kind, kind.queue);
  }

  flush(io: Io): number {
    const kind = this.#flushes;
    const result = kind.range.remapFlush(io);
    return kind.queue === null || this.#hasty ? result : this.#delay(io, kind, kind.queue);
  }

  status(): string {
    return `${this.#reads.waiting} ${this.#writes.waiting} ${this.#flushes.waiting}`;
  }

  table(): string {
    return this.#parts.map((part) => `${part.range.words()} ${part.milliseconds}`).join(' ');
  }

  /** What waits goes now: whoever suspends the device waits for it. */
  suspending(): void {
    this.#hasty = true;
    this.#passOn(Number.POSITIVE_INFINITY);
  }

  resume(): void {
    this.#hasty = false;
  }

  destroy(): void {
    for (const queue of this.#queues) {
      if (queue.timer !== null) this.#engine.cancelTimer(queue.timer);
      queue.timer = null;
    }
  }

  /** QueueOwner: passes on whatever is due, oldest first. */
  expired(): void {
    this.#passOn(this.#engine.now);
  }

  #passOn(now: number): void {
    let queue = this.#oldestDue(now);
    while (queue !== null) {
      const io = queue.shift();
      this.#classOf(io).waiting--;
      // This may bring new Ios, which are not due before the next turn.
      (io.backing as Backing).submit(io);
      queue = this.#oldestDue(now);
    }
    for (const each of this.#queues) this.#arm(each);
  }

  #delay(io: Io, kind: DelayClass, queue: DelayQueue): number {
    kind.waiting++;
    queue.push(io, this.#engine.now + queue.milliseconds, this.#arrivals++);
    this.#arm(queue);
    return SUBMITTED;
  }

  /** Sets the timer for the oldest Io, unless it is set. */
  #arm(queue: DelayQueue): void {
    if (queue.count === 0 || queue.timer !== null) return;
    const milliseconds = Math.max(0, queue.due() - this.#engine.now);
    queue.timer = this.#engine.timer(Math.min(milliseconds, timerMilliseconds), queue);
  }

  #oldestDue(now: number): DelayQueue | null {
    let oldest: DelayQueue | null = null;
    for (const queue of this.#queues) {
      if (queue.count === 0 || queue.due() > now) continue;
      if (oldest === null || queue.arrival() < oldest.arrival()) oldest = queue;
    }
    return oldest;
  }

  #classOf(io: Io): DelayClass {
    if (io.operation === FLUSH) return this.#flushes;
    return io.operation === READ ? this.#reads : this.#writes;
  }

  #queueFor(milliseconds: number): DelayQueue | null {
    if (milliseconds === 0) return null;
    const known = this.#queues.find((queue) => queue.milliseconds === milliseconds);
    if (known !== undefined) return known;
    const queue = new DelayQueue(milliseconds, this);
    this.#queues.push(queue);
    return queue;
  }
}
