/**
 * What a device has done, in shared memory: the queue thread counts, any thread reads without
 * asking. All fields are doubles (exact up to 2^53), one writer.
 *
 *    0..5  operations that ended, by operation (read, write, flush, trim, zero, status)
 *    6..11 bytes of them
 *   12     operations that ended with an error
 *   13     operations inside the device now
 *   14     clients that are connected to its export now
 *   16     latency of reads, then of writes, then of flushes, 35 fields each:
 *          count, sum in microseconds, maximum in microseconds, and 32 buckets; bucket n counts
 *          latencies of at least 2^n and less than 2^(n+1) microseconds (bucket 0: less than 2)
 */

import { FLUSH, type Operation, READ, WRITE } from './io.js';

const OPERATIONS = 0;
const BYTES = 6;
const ERRORS = 12;
const IN_FLIGHT = 13;
const CONNECTIONS = 14;
const LATENCY = 16;
const BUCKETS = 32;
const LATENCY_FIELDS = 3 + BUCKETS;
const FIELDS = LATENCY + 3 * LATENCY_FIELDS;

/** Which latency table an operation goes to; the others have none. */
function latencyAt(operation: Operation): number {
  if (operation === READ) return LATENCY;
  if (operation === WRITE) return LATENCY + LATENCY_FIELDS;
  if (operation === FLUSH) return LATENCY + 2 * LATENCY_FIELDS;
  return -1;
}

export class Counters {
  readonly buffer = new SharedArrayBuffer(FIELDS * 8);
  readonly #fields = new Float64Array(this.buffer);

  setInFlight(count: number): void {
    this.#fields[IN_FLIGHT] = count;
  }

  setConnections(count: number): void {
    this.#fields[CONNECTIONS] = count;
  }

  /** Counts one operation that took that long. */
  ended(operation: Operation, bytes: number, failed: boolean, microseconds: number): void {
    const fields = this.#fields;
    fields[OPERATIONS + operation] = (fields[OPERATIONS + operation] as number) + 1;
    fields[BYTES + operation] = (fields[BYTES + operation] as number) + bytes;
    if (failed) fields[ERRORS] = (fields[ERRORS] as number) + 1;
    const at = latencyAt(operation);
    if (at < 0) return;
    fields[at] = (fields[at] as number) + 1;
    fields[at + 1] = (fields[at + 1] as number) + microseconds;
    if (microseconds > (fields[at + 2] as number)) fields[at + 2] = microseconds;
    const bucket = at + 3 + (31 - Math.clz32(microseconds | 1));
    fields[bucket] = (fields[bucket] as number) + 1;
  }
}

export interface LatencyStats {
  count: number;
  meanMicroseconds: number;
  /** Upper bounds of the buckets that hold the percentiles, but never above the maximum. */
  p50Microseconds: number;
  p99Microseconds: number;
  maxMicroseconds: number;
}

export interface DeviceStats {
  reads: number;
  writes: number;
  flushes: number;
  trims: number;
  zeroes: number;
  readBytes: number;
  writeBytes: number;
  trimBytes: number;
  zeroBytes: number;
  errors: number;
  inFlight: number;
  latency: { read: LatencyStats; write: LatencyStats; flush: LatencyStats };
}

/** Clients that are connected to a device's export. */
export function readConnections(buffer: SharedArrayBuffer): number {
  return new Float64Array(buffer)[CONNECTIONS] as number;
}

/** Reads a device's counters. */
export function readCounters(buffer: SharedArrayBuffer): DeviceStats {
  const fields = new Float64Array(buffer);
  const field = (at: number): number => fields[at] as number;
  return {
    reads: field(OPERATIONS),
    writes: field(OPERATIONS + 1),
    flushes: field(OPERATIONS + 2),
    trims: field(OPERATIONS + 3),
    zeroes: field(OPERATIONS + 4),
    readBytes: field(BYTES),
    writeBytes: field(BYTES + 1),
    trimBytes: field(BYTES + 3),
    zeroBytes: field(BYTES + 4),
    errors: field(ERRORS),
    inFlight: field(IN_FLIGHT),
    latency: {
      read: readLatency(fields, LATENCY),
      write: readLatency(fields, LATENCY + LATENCY_FIELDS),
      flush: readLatency(fields, LATENCY + 2 * LATENCY_FIELDS),
    },
  };
}

function readLatency(fields: Float64Array, at: number): LatencyStats {
  const count = fields[at] as number;
  const maximum = fields[at + 2] as number;
  const percentile = (share: number): number => {
    let left = Math.ceil(count * share);
    for (let n = 0; n < BUCKETS; n++) {
      left -= fields[at + 3 + n] as number;
      if (left <= 0) return Math.min(2 ** (n + 1), maximum);
    }
    return maximum;
  };
  return {
    count,
    meanMicroseconds: count === 0 ? 0 : (fields[at + 1] as number) / count,
    p50Microseconds: count === 0 ? 0 : percentile(0.5),
    p99Microseconds: count === 0 ? 0 : percentile(0.99),
    maxMicroseconds: maximum,
  };
}
