/**
 * Change maps out of exceptions. A chunk that differs from what it was when a snapshot was taken
 * has an exception in it, complete or pending; the other way round need not be so: the snapshot's
 * own writes have exceptions too, and who writes what was there before changes nothing.
 *
 *   what the origin shows              since S   exceptions of S
 *   what the snapshot S shows          since S   exceptions of S
 *   what another snapshot T shows      since S   exceptions of S and of T
 *
 * The last needs both: what was written to T is in T alone, and if T is the older one, so is what
 * the origin has changed before S was taken.
 *
 *   sector             0   4   8   12  16
 *   exceptions of S    ....####........####   chunks of 4
 *   exceptions of T    ......####..........   chunks of 2
 *   dirty in T         ....######......####
 */

import { EIO } from '../../base/errno.js';
import { changeSteps } from '../../base/limits.js';
import { type ChangeMap, EXTENT_DIRTY } from '../../device/change-map.js';
import type { ExtentList } from '../../device/extent-list.js';
import type { Origin } from './origin.js';
import type { Snapshot } from './snapshot.js';

/** One for each snapshot that shows something, and each since whose moment it may have changed. */
const made = new WeakMap<Snapshot, WeakMap<Snapshot, ChangeMap>>();

/** Maps of what an origin shows, one for each of its snapshots. */
export function originChanges(origin: Origin): ChangeMap[] {
  return apart(origin.snapshots.map((since) => [since, since]));
}

/** Maps of what a snapshot shows: its own, and one for each other snapshot of its origin. */
export function snapshotChanges(shown: Snapshot): ChangeMap[] {
  if (!shown.keepsRecord) return [];
  const others = shown.origin.snapshots.filter((since) => since !== shown);
  return apart([shown, ...others].map((since) => [since, shown]));
}

/** Those that have something to tell, of each name one: a device may have several snapshots. */
function apart(pairs: readonly (readonly [Snapshot, Snapshot])[]): ChangeMap[] {
  const maps = new Map<string, ChangeMap>();
  for (const [since, shown] of pairs) {
    if (since.keepsRecord && !maps.has(since.name)) maps.set(since.name, mapOf(since, shown));
  }
  return [...maps.values()];
}

/** The same object each time. */
function mapOf(since: Snapshot, shown: Snapshot): ChangeMap {
  let maps = made.get(shown);
  if (maps === undefined) {
    maps = new WeakMap();
    made.set(shown, maps);
  }
  let map = maps.get(since);
  if (map === undefined) {
    map = new ExceptionMap(since === shown ? [since] : [since, shown]);
    maps.set(since, map);
  }
  return map;
}

class ExceptionMap implements ChangeMap {
  /** What has an exception in any of them may have changed; the first gives the name. */
  readonly #records: readonly Snapshot[];

  constructor(records: readonly Snapshot[]) {
    this.#records = records;
  }

  get name(): string {
    return (this.#records[0] as Snapshot).name;
  }

  extents(offset: number, length: number, list: ExtentList): number {
    if (this.#records.some((record) => !record.keepsRecord)) return EIO;
    const end = offset + length;
    const walks = this.#records.map((record) => new Walk(record, offset, end));
    let at = offset;
    for (let steps = 0; at < end && steps < changeSteps; steps++) {
      let dirty = false;
      let until = end;
      for (const walk of walks) {
        walk.look(at);
        if (walk.dirty) until = dirty ? Math.max(until, walk.until) : walk.until;
        else if (!dirty) until = Math.min(until, walk.until);
        dirty ||= walk.dirty;
      }
      if (!list.push(until - at, dirty ? EXTENT_DIRTY : 0)) break;
      at = until;
    }
    return 0;
  }
}

/** Goes forwards through what one snapshot's exceptions say of a range. */
class Walk {
  /** What lies between the last place that was asked for and `until`. */
  dirty = false;
  until = 0;
  readonly #snapshot: Snapshot;
  readonly #end: number;
  /** Chunks in the range with pending exceptions, sorted, and the first that is not behind. */
  readonly #pending: readonly number[];
  #nextPending = 0;

  constructor(snapshot: Snapshot, from: number, end: number) {
    this.#snapshot = snapshot;
    this.#end = end;
    this.#pending = snapshot.pendingChunks(snapshot.chunkOf(from), snapshot.chunkOf(end - 1));
  }

  look(at: number): void {
    if (at < this.until) return;
    const { chunkBytes, recordedBytes, table } = this.#snapshot;
    if (at >= recordedBytes) {
      // The snapshot does not reach so far, and nothing is copied for it there.
      this.dirty = true;
      this.until = this.#end;
      return;
    }
    const end = Math.min(this.#end, recordedBytes);
    const chunk = this.#snapshot.chunkOf(at);
    const most = Math.ceil(end / chunkBytes) - chunk;
    const clean = Math.min(table.gapLength(chunk, most), this.#untilPending(chunk));
    this.dirty = clean === 0;
    // A pending exception is none yet in the table.
    const count = this.dirty ? Math.max(1, table.filledLength(chunk, most)) : clean;
    this.until = Math.min((chunk + count) * chunkBytes, end);
  }

  /** Chunks from there to the next pending exception. */
  #untilPending(chunk: number): number {
    while ((this.#pending[this.#nextPending] ?? chunk) < chunk) this.#nextPending++;
    return (this.#pending[this.#nextPending] ?? Number.POSITIVE_INFINITY) - chunk;
  }
}
