/**
 * What all connections of a queue share: pools, and the memory that they divide among themselves.
 * Half of the arena is divided into equal shares; the other half is for reads that are larger than
 * a share, which take what they need as a whole and in the order in which they asked.
 */

import { assert } from '../base/assert.js';
import {
  arenaBytes,
  connectionBytesMax,
  connectionBytesMin,
  extentsPerReply,
  largeReadBytes,
  receiveBytesMin,
  receiveWindows,
} from '../base/limits.js';
import type { Log } from '../base/log.js';
import type { ErrorLog } from '../device/error-log.js';
import { ExtentList } from '../device/extent-list.js';
import type { IoPool } from '../device/io.js';
import type { Arena } from '../engine/arena.js';
import type { Engine, TurnEnd } from '../engine/engine.js';
import { BatchPool } from './reply.js';
import { RequestPool } from './request.js';

/** Who waits for memory for a large read. */
export interface LargeReader {
  largeFree(): void;
}

export class Resources implements TurnEnd {
  readonly engine: Engine;
  readonly arena: Arena;
  readonly ios: IoPool;
  readonly log: Log;
  readonly errors: ErrorLog;
  readonly requests = new RequestPool();
  readonly batches: BatchPool;
  /** Bytes that one connection may hold for replies; as many again are for receiving. */
  shareBytes = 0;
  /** Largest receive window. */
  windowBytesMax = 0;

  #largeInUse = 0;
  #waking = false;
  readonly #largeWaiting = new Set<LargeReader>();
  readonly #extents: ExtentList[] = [];

  constructor(engine: Engine, ios: IoPool, log: Log, errors: ErrorLog) {
    this.engine = engine;
    this.arena = engine.arena;
    this.ios = ios;
    this.log = log;
    this.errors = errors;
    this.batches = new BatchPool(engine);
    this.setConnections(0);
  }

  /** Divides the shared half of the arena anew. */
  setConnections(count: number): void {
    const share = arenaBytes / 2 / Math.max(1, count);
    this.shareBytes = Math.min(connectionBytesMax, Math.max(connectionBytesMin, share)) / 2;
    const window = 2 ** Math.floor(Math.log2(this.shareBytes / receiveWindows));
    this.windowBytesMax = Math.max(receiveBytesMin, window);
  }

  /** False: none to be had now; `largeFree` is called when it is worth asking again. */
  takeLarge(bytes: number, reader: LargeReader): boolean {
    const first = this.#largeWaiting.values().next().value;
    const mayGo = first === undefined || first === reader;
    if (!mayGo || this.#largeInUse + bytes > largeReadBytes) {
      this.#largeWaiting.add(reader);
      return false;
    }
    this.#largeWaiting.delete(reader);
    this.#largeInUse += bytes;
    // There may be enough for the next one too, but not on top of this call.
    this.#wakeAtTurnEnd();
    return true;
  }

  giveLarge(bytes: number): void {
    this.#largeInUse -= bytes;
    assert(this.#largeInUse >= 0, 'more memory for large reads came back than went out');
    this.#wakeAtTurnEnd();
  }

  /** The reader does not wait any more. */
  forgetLarge(reader: LargeReader): void {
    if (this.#largeWaiting.delete(reader)) this.#wakeAtTurnEnd();
  }

  #wakeAtTurnEnd(): void {
    if (this.#waking || this.#largeWaiting.size === 0) return;
    this.#waking = true;
    this.engine.atTurnEnd(this);
  }

  /** TurnEnd: the one that has waited longest tries again. */
  turnEnd(): void {
    this.#waking = false;
    this.#largeWaiting.values().next().value?.largeFree();
  }

  takeExtents(): ExtentList {
    return this.#extents.pop() ?? new ExtentList(extentsPerReply);
  }

  giveExtents(list: ExtentList): void {
    list.clear();
    this.#extents.push(list);
  }
}
