/** What a run sends requests to, and how their ends are judged. */

import type { Buffer } from 'node:buffer';
import { EXTENT_HOLE, EXTENT_ZERO } from '../../src/device/extent-list.js';
import { TRIM, WRITE, ZERO } from '../../src/device/io.js';
import type { Ended, IoClient } from '../device/io-client.js';
import type { Bytes, Exceptions } from './oracle.js';
import type { Request, Take } from './schedule.js';

export interface Pending {
  readonly subject: Subject;
  readonly request: Request;
  readonly offset: number;
  readonly length: number;
  readonly data: Buffer;
}

/** The origin, or a snapshot. */
export interface Subject {
  readonly name: string;
  readonly client: IoClient;
  bytes: Bytes;
  /** Null for the origin. */
  readonly snapshot: SnapshotState | null;
  readonly underWay: Set<Pending>;
  readonly queue: Pending[];
  /** It goes, and with it the promise that I/O succeeds. */
  going: boolean;
}

export interface SnapshotState {
  readonly take: Take;
  cow: number;
  exceptions: Exceptions;
}

export function isChange(operation: Request['operation']): boolean {
  return operation === WRITE || operation === ZERO || operation === TRIM;
}

export function conflict(a: Pending, b: Pending): boolean {
  if (!isChange(a.request.operation) && !isChange(b.request.operation)) return false;
  return a.offset < b.offset + b.length && b.offset < a.offset + a.length;
}

/** What a client sees: what it is told to be a hole is not sent. */
export function shown({ data, extents }: Ended): Buffer {
  let at = 0;
  for (const [length, flags] of extents) {
    if ((flags & EXTENT_HOLE) !== 0) data.fill(0, at, at + length);
    at += length;
  }
  if (extents.length > 0 && at !== data.length) throw new Error(`${at} of ${data.length} bytes`);
  return data;
}

export function checkStatus(
  what: string,
  bytes: Bytes,
  offset: number,
  length: number,
  { extents }: Ended,
): void {
  let at = offset;
  for (const [count, flags] of extents) {
    if ((flags & EXTENT_ZERO) !== 0) bytes.checkZero(what, at, count);
    at += count;
  }
  if (at === offset || at > offset + length) throw new Error(`${what}: extents of ${at - offset}`);
}
