/**
 * What the control thread can ask of the queue thread, and what comes back. Everything is plain
 * data: it crosses threads by structured clone. Names are dmsetup's. Failures come back as
 * MapperError.
 */

import type { ListenAddress, ListenSource } from '../engine/engine.js';
import type { ExportPolicy } from '../nbd/export-policy.js';
import type { RegionUpload, TargetEvent } from '../target/target.js';

export interface DeviceInfo {
  name: string;
  state: 'ACTIVE' | 'SUSPENDED';
  /** Which table slots are filled. */
  tables: 'LIVE' | 'INACTIVE' | 'LIVE & INACTIVE' | 'None';
  /** Users: connected clients and devices that stack on this one. */
  openCount: number;
  eventNumber: number;
  /** Targets in the live table. */
  targetCount: number;
  sizeSectors: number;
  readOnly: boolean;
  /** Requests inside the device now, those that wait for a resume included. */
  inFlight: number;
  /** Names of the devices that its live table stacks on. */
  dependencies: string[];
}

export interface TableLine {
  beginSectors: number;
  lengthSectors: number;
  type: string;
  /** Arguments (table) or status words (status), perhaps empty. */
  words: string;
}

/** A copy, as people ask for it. Backings are named as in table lines; sizes are bytes. */
export interface CopyRequest {
  source: string;
  destinations: string[];
  /** Where it begins in the source, and in the destinations. */
  sourceOffset?: number;
  destinationOffset?: number;
  /** Without it: to the source's end. */
  length?: number;
  /** Per cent of the time that it may be copying; 100: no throttle. */
  throttlePercent?: number;
  /** Look for zeroes in the data; do not look for holes; have nothing copied by the system. */
  zeroes?: boolean;
  noHoles?: boolean;
  noOffload?: boolean;
  /** What was copied is durable when the job is done. */
  flush?: boolean;
  /** The destinations are new: they read as zeroes. */
  intoZeroes?: boolean;
}

export type CopyState = 'waiting' | 'running' | 'done' | 'failed' | 'cancelled';

/** How data was copied: blocks shared, by the system, or read and written. */
export type CopyMethod = 'clone' | 'copy_file_range' | 'read and write';

export interface CopyJobInfo {
  id: number;
  source: string;
  destinations: string[];
  state: CopyState;
  /** Why it failed. */
  error: string | null;
  totalBytes: number;
  /** Done with, those skipped included. */
  doneBytes: number;
  /** Holes and zeroes, which were not copied as data. */
  skippedBytes: number;
  /** Cloned or copied by the system. */
  offloadedBytes: number;
  methods: CopyMethod[];
  throttlePercent: number;
  /** When it was asked for, ISO 8601, UTC. */
  started: string;
  /** How long it has been running, or ran. */
  milliseconds: number;
  bytesPerSecond: number;
  /** Null: not known (yet), or it has ended. */
  secondsLeft: number | null;
}

export interface TargetVersion {
  name: string;
  version: [number, number, number];
}

export type { RegionUpload };

/** A region table, or a part of one, and where in its device the target begins that has it. */
export interface RegionsAt {
  sector: number;
  table: RegionUpload;
}

/** What connections and I/O hold of the queue thread's memory; sizes are bytes. */
export interface MemoryUse {
  /** All buffers for data. */
  arenaBytes: number;
  /** Of these, in use; among them those for replies that are kept for the next ones. */
  arenaInUseBytes: number;
  replyBytesKept: number;
  /** What connections hold beyond what each has for certain, and the most of it. */
  poolInUseBytes: number;
  poolBytes: number;
  connections: number;
  /** Requests of clients that are not answered, and operations that are under way. */
  requests: number;
  operations: number;
}

export interface Hanging {
  /** `copies`, `clients`, `the work of NAME` (a merge), `a flush of NAME`. */
  stage: string;
  /** Those with requests in flight, and the one that is flushed for the last time. */
  devices: { name: string; inFlight: number; flushing: boolean }[];
}

/** What `create` gives back: the device's counters, for reading without asking. */
export interface Created {
  counters: SharedArrayBuffer;
}

/** Each command's parameters and result. */
export interface QueueCommands {
  /** Makes a device; with a table it becomes live at once, without one it is empty. */
  create: {
    /** `restored`: the table was live in a daemon before this one. */
    params: {
      name: string;
      table?: string;
      readOnly?: boolean;
      restored?: boolean;
      /** Region tables that its targets have before anybody can see them. */
      regions?: readonly RegionsAt[];
    };
    result: Created;
  };
  /** Puts a table into the inactive slot (replacing one that is there). */
  load: { params: { name: string; table: string }; result: null };
  /** Empties the inactive slot. */
  clear: { params: { name: string }; result: null };
  /** Waits for what is in flight and flushes; later requests wait. Twice is the same as once. */
  suspend: { params: { name: string; noFlush?: boolean }; result: null };
  /** Swaps the inactive table in, if there is one, and goes on. */
  resume: { params: { name: string }; result: null };
  /** Refused while it is in use, unless `force` (then clients are disconnected). */
  remove: { params: { name: string; force?: boolean }; result: null };
  rename: { params: { name: string; newName: string }; result: null };
  table: { params: { name: string; inactive?: boolean }; result: TableLine[] };
  status: { params: { name: string }; result: TableLine[] };
  info: { params: { name: string }; result: DeviceInfo };
  message: { params: { name: string; sector: number; words: string[] }; result: string };
  /** Puts regions, which have been checked in themselves, into the target at a sector. */
  upload: { params: { name: string; sector: number; table: RegionUpload }; result: null };
  /** Regions of the target at a sector; all of them if no part is asked for. */
  download: {
    params: { name: string; sector: number; first?: number; count?: number };
    result: RegionsAt;
  };
  /** The whole tables of all targets in the live table that have one, as they are at one moment. */
  regions: { params: { name: string }; result: RegionsAt[] };
  /** Tells a target that changes it has told of are stored. It waits for no other command. */
  regionsSaved: { params: { name: string; sector: number; generation: number }; result: null };
  ls: { params: Record<string, never>; result: DeviceInfo[] };
  targets: { params: Record<string, never>; result: TargetVersion[] };
  /** The size of a backing, if it can be read, or written; it is opened for a moment. */
  backingSize: { params: { word: string; writable?: boolean }; result: number };
  /** Starts a copy. */
  copy: { params: CopyRequest; result: { id: number } };
  /** Every copy that is under way, and those that ended lately; the oldest first. */
  jobs: { params: Record<string, never>; result: CopyJobInfo[] };
  /** One of them, when it has ended or so many milliseconds have passed. */
  job: { params: { id: number; waitMilliseconds?: number }; result: CopyJobInfo };
  /** It ends when what is under way has. */
  cancel: { params: { id: number }; result: null };
  /**
   * Starts serving NBD; resolves to the address really listened on. `piped`: what connects there is
   * the gate, which says first whom it brings (src/nbd/piped.ts).
   */
  listen: { params: { address: ListenSource; piped?: boolean }; result: ListenAddress };
  /** What the owner of a device says about its export; it counts for clients from now on. */
  policy: { params: { name: string; policy: ExportPolicy }; result: null };
  /** The device that the empty export name means; null: the only one there is, if there is one. */
  defaultExport: { params: { name: string | null }; result: null };
  /** What the data plane holds now. */
  memory: { params: Record<string, never>; result: MemoryUse };
  /** What a shutdown that has begun waits for. */
  hanging: { params: Record<string, never>; result: Hanging };
  /** Stops accepting, drains, flushes, ends what was not begun with ESHUTDOWN, closes everything. */
  shutdown: { params: Record<string, never>; result: null };
}

export type QueueCommand = keyof QueueCommands;

/** What the queue thread tells without being asked. */
export type QueueEvent =
  | { event: 'log'; level: 'debug' | 'info' | 'warn' | 'error'; fields: object; text: string }
  /** A table event of a device (the kernel's uevent): the live table, a state or a status changed. */
  | { event: 'device'; name: string; what: 'create' | 'remove' | 'rename' | 'resume' | 'suspend' }
  /** What a target has come to: see TargetEvent. */
  | ({ event: 'target'; name: string } & TargetEvent)
  | { event: 'connection'; what: 'open' | 'close'; peer: string; device: string | null };
