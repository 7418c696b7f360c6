/**
 * What all connections of a queue share: pools, and the memory that they divide among themselves.
 * A part of it each has for certain; what is beyond comes out of one pool.
 */

import {
  arenaBytes,
  connectionBytesMax,
  connectionBytesMin,
  connectionLogsPerSecond,
  extentsPerReply,
  poolBytes,
  receiveBytesMin,
  receiveWindows,
} from '../base/limits.js';
import type { Log } from '../base/log.js';
import { ErrorLog, type LogKind } from '../device/error-log.js';
import { ExtentList } from '../device/extent-list.js';
import type { IoPool } from '../device/io.js';
import type { Arena } from '../engine/arena.js';
import type { Engine } from '../engine/engine.js';
import { type ProtocolOptions, wholeProtocol } from './protocol-options.js';
import { BatchPool } from './reply.js';
import { RequestPool } from './request.js';
import { SharedPool } from './shared-pool.js';

const aboutConnections: LogKind = {
  level: 'warn',
  perSecond: connectionLogsPerSecond,
  more: 'more warnings about connections, not logged',
};

export class Resources {
  readonly engine: Engine;
  readonly arena: Arena;
  readonly ios: IoPool;
  readonly log: Log;
  readonly errors: ErrorLog;
  /** Clients that come, go wrong and come again. */
  readonly warnings: ErrorLog;
  readonly protocol: ProtocolOptions;
  readonly requests = new RequestPool();
  readonly batches: BatchPool;
  /** Bytes that one connection may hold for replies; as many again are for receiving. */
  shareBytes = 0;
  /** Largest receive window. */
  windowBytesMax = 0;
  /** Of the arena, what connections hold beyond what they have for certain. */
  readonly memory = new SharedPool(poolBytes);
  /** Requests taken by all connections and not answered, and answers that those hold. */
  requestsInFlight = 0;
  extentsInUse = 0;
  /** Bytes of handshake replies that wait to be sent. */
  handshakeOutputBytes = 0;

  readonly #extents: ExtentList[] = [];

  constructor(
    engine: Engine,
    ios: IoPool,
    log: Log,
    errors: ErrorLog,
    protocol: ProtocolOptions = wholeProtocol,
  ) {
    this.engine = engine;
    this.arena = engine.arena;
    this.ios = ios;
    this.log = log;
    this.errors = errors;
    this.warnings = new ErrorLog(engine, log, aboutConnections);
    this.protocol = protocol;
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

  takeExtents(): ExtentList {
    this.extentsInUse++;
    return this.#extents.pop() ?? new ExtentList(extentsPerReply);
  }

  giveExtents(list: ExtentList): void {
    list.clear();
    this.extentsInUse--;
    this.#extents.push(list);
  }
}
