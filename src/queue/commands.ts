/**
 * What the control thread can ask of the queue thread, and what comes back. Everything is plain
 * data: it crosses threads by structured clone. Names are dmsetup's. Failures come back as
 * MapperError.
 */

import type { ListenAddress } from '../engine/engine.js';
import type { TargetEvent } from '../target/target.js';

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

export interface TargetVersion {
  name: string;
  version: [number, number, number];
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
    params: { name: string; table?: string; readOnly?: boolean; restored?: boolean };
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
  ls: { params: Record<string, never>; result: DeviceInfo[] };
  targets: { params: Record<string, never>; result: TargetVersion[] };
  /** Starts serving NBD; resolves to the address really listened on. */
  listen: { params: { address: ListenAddress }; result: ListenAddress };
  /** The device that the empty export name means; null: the only one there is, if there is one. */
  defaultExport: { params: { name: string | null }; result: null };
  /** Stops accepting, drains, flushes, answers ESHUTDOWN, closes everything. */
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
