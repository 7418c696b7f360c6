/**
 * The target contract: what a line of a device table is made of. One folder a target; `registry.ts`
 * lists them. The session has validated every request and the device has cut it, so a target trusts
 * what it is given and only asserts.
 *
 * A target lives from `create` (load) through `resume` ... `suspend` to `destroy`. While it is
 * suspended nothing is mapped, and before `suspend` is called everything mapped has completed.
 */

import type { Backing, Features } from '../backing/backing.js';
import { EINVAL } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import type { Log } from '../base/log.js';
import type { CopyEngine } from '../copy/engine.js';
import type { ChangeMap } from '../device/change-map.js';
import type { Io, IoPool, Operation } from '../device/io.js';
import type { Engine } from '../engine/engine.js';

/** Results of `map`; an error is a negative errno. */
export const REMAPPED = 0;
export const SUBMITTED = 1;

export interface TargetType {
  /** The word in the table line. */
  readonly name: string;
  /** As the kernel's target of that name counts it: it tells which features are there. */
  readonly version: readonly [number, number, number];
  /**
   * Makes a target from the words behind its name. Throws MapperError with the kernel's text,
   * followed by what was found and what was wanted. What it opened so far is closed by the caller.
   */
  create(args: readonly string[], context: TargetContext): Target | Promise<Target>;
}

/** What a target gets to be made from. Sectors are 512 bytes. */
export interface TargetContext {
  readonly deviceName: string;
  readonly beginSectors: number;
  readonly lengthSectors: number;
  readonly engine: Engine;
  readonly ios: IoPool;
  readonly copies: CopyEngine;
  readonly log: Log;
  /** The daemon has just started, and the table is one that an earlier daemon had live. */
  readonly restored: boolean;
  /** The device that the table is for. */
  readonly host: TargetHost;
  /**
   * Opens the backing that a word of the table line names (a path, a file:// URI, dm:NAME), which
   * is closed with the table. Throws MapperError; the target puts the kernel's text before it.
   * `sectorsNeeded`: the backing must reach this far, or it is refused. `readOnly`: whether the
   * target will not write there; by default it will, unless the device is read-only.
   */
  openBacking(word: string, sectorsNeeded: number, readOnly?: boolean): Backing;
}

/** Entries of a region table on their way between threads, as they are in the target's memory. */
export interface RegionUpload {
  /** The table is replaced by this one; otherwise entries are changed in place. */
  readonly whole: boolean;
  readonly regions: number;
  readonly regionSectors: number;
  readonly paths: number;
  /** An entry's size; `floor(64 / bits)` of them are in a slot of 64 bits, the first lowest. */
  readonly bits: number;
  readonly first: number;
  readonly count: number;
  /** Little-endian slots; the first entry is that of region `first`. */
  readonly slots: SharedArrayBuffer;
}

/** What a target may ask of its device, apart from I/O. */
export interface TargetHost {
  /**
   * Requests to the device wait from now on; resolves when those inside have ended (without a
   * flush, whether the device is suspended or not). Each call needs one `letGo`.
   */
  hold(): Promise<void>;
  letGo(): void;
  /** What the device is called now. */
  readonly name: string;
  /** Tells whoever watches the device that its target has come to a state (the kernel's uevent). */
  event(event: TargetEvent): void;
}

/** A state that a target has come to. */
export interface TargetEvent {
  readonly what: 'invalid' | 'overflow' | 'fill' | 'merged' | 'merge failed' | 'regions';
  /** With `fill`: the part of the space that is in use has passed this. */
  readonly percent?: number;
  /**
   * With `regions`: the target that begins at `sector` has changed its region table by itself, for
   * the `generation`th time. When the table as it is then is in the state directory (or the device
   * is not stored), the target gets the message `regions_saved GENERATION`.
   */
  readonly sector?: number;
  readonly generation?: number;
}

export interface Target {
  readonly type: TargetType;
  /** Where I/O may go; FLUSH goes to all of them unless `flush` is there. */
  readonly backings: readonly Backing[];
  /**
   * The largest piece that `map` wants to see: pieces do not cross multiples of it, counted from
   * the target's start. 0: no limit. (Chunk, region, stripe.)
   */
  readonly maxIoSectors: number;
  /**
   * With `maxIoSectors`: how many bytes from `offset` on map takes as one piece all the same, at
   * least to the next multiple, at most `length`. It is asked for requests that are longer.
   */
  pieceBytes?(operation: Operation, offset: number, length: number): number;
  /** What this target can do; see `commonFeatures` for those that pass everything on. */
  readonly features: Features;

  /**
   * Decides where an Io goes. `io.offset` is in the device (bytes), and lies within the target.
   * REMAPPED: `io.backing` and `io.backingOffset` are set, the caller submits. SUBMITTED: the
   * target has it and will complete it (or has already). Negative errno: the caller completes it.
   * Synchronous; allocates nothing. Every operation but FLUSH comes here.
   */
  map(io: Io): number;

  /** Carries out FLUSH, if it is more than flushing the backings. Results as for `map`. */
  flush?(io: Io): number;

  /** Carries out a message's words; the answer may be empty. Without it: "Unrecognised message". */
  message?(args: readonly string[]): string | Promise<string>;

  /**
   * Takes a table of regions, whole or a part of it, that the control thread has checked in
   * itself; throws MapperError, nothing having changed, if it does not fit this target. A whole
   * one is there for the next Io. Resolves when it is all there.
   */
  upload?(table: RegionUpload): void | Promise<void>;
  /** So many regions from `first` on, in the same form. */
  download?(first: number, count: number): RegionUpload;

  /**
   * Records of what has changed in what this target shows, each since a moment of its own; offsets
   * count from the target's begin. They change from call to call, as snapshots come and go.
   */
  changeMaps?(): readonly ChangeMap[];

  /** The kernel's INFO line behind the target name, perhaps empty. */
  status(): string;
  /** The arguments that would create it again. */
  table(): string;

  /** The device is to be suspended: what the target holds back must go now, it is waited for. */
  suspending?(): void;
  resume?(): void | Promise<void>;
  suspend?(): void | Promise<void>;
  /** The daemon goes down: what the target does by itself (merging, moving) ends for good. */
  stopWork?(): Promise<void>;
  /** Gives back what `create` took, but for the backings, which are closed when this has ended. */
  destroy?(): void | Promise<void>;
}

/** What a target without messages, or with other ones, answers: the kernel's words. */
export function unrecognisedMessage(args: readonly string[]): MapperError {
  const found = args.length === 0 ? 'found none' : `found "${args[0]}"`;
  return new MapperError(EINVAL, `Unrecognised message received (${found})`);
}
