/**
 * The methods of the control protocol: their parameters as schemas, their results as types. Schemas
 * are strict: a key that is not named here is refused, so that a misspelt option cannot be taken
 * for its absence.
 */

import * as v from 'valibot';
import {
  chunkSectorsMax,
  controlTableBytes,
  copyDestinations,
  copyJobWaitMilliseconds,
  deviceBytes,
  messageWords,
  stringBytes,
  uploadBytes,
} from '../base/limits.js';
import type { DeviceStats } from '../device/counters.js';
import type { ListenAddress } from '../engine/engine.js';
import type { ExportPolicy } from '../nbd/export-policy.js';
import type {
  CopyJobInfo,
  DeviceInfo,
  MemoryUse,
  QueueEvent,
  TableLine,
  TargetVersion,
} from '../queue/commands.js';
import { allowProblem, connectionsProblem, descriptionProblem } from './export-text.js';
import { nameProblem } from './names.js';

/** What is wrong with a value is told by a function; null: nothing is. */
function checked<T>(problem: (value: T) => string | null) {
  return v.rawCheck<T>(({ dataset, addIssue }) => {
    if (!dataset.typed) return;
    const message = problem(dataset.value);
    if (message !== null) addIssue({ message });
  });
}

const name = v.pipe(v.string(), checked(nameProblem));

const table = v.pipe(
  v.string(),
  v.check(
    (text) => Buffer.byteLength(text) <= controlTableBytes,
    `table is too long, at most ${controlTableBytes} bytes`,
  ),
  v.check((text) => !/[^\P{Cc}\t\r\n]|\p{Cs}/u.test(text), 'table has a control character'),
);

const word = v.pipe(
  v.string(),
  v.check((text) => text !== '', 'word is empty'),
  v.check((text) => !/\p{Cc}|\p{Cs}/u.test(text), 'word has a control character'),
);

const sector = v.pipe(
  v.number(),
  v.check(
    (n) => Number.isInteger(n) && n >= 0 && n < deviceBytes / 512,
    `sector is no integer from 0 to below ${deviceBytes / 512}`,
  ),
);

const chunkSectors = v.pipe(
  v.number(),
  v.check(
    (n) => Number.isInteger(n) && n >= 1 && n <= chunkSectorsMax && Number.isInteger(Math.log2(n)),
    `chunk is no power of two from 1 to ${chunkSectorsMax} sectors`,
  ),
);

const filePath = v.pipe(
  v.string(),
  v.check((text) => text.startsWith('/'), 'path is not absolute'),
  v.check((text) => !/\0|\p{Cs}/u.test(text), 'path has a NUL character'),
  v.check((text) => Buffer.byteLength(text) < stringBytes, 'path is too long'),
);

const fileBytes = v.pipe(
  v.number(),
  v.check(
    (n) => Number.isInteger(n) && n >= 512 && n <= deviceBytes && n % 512 === 0,
    `size is no multiple of 512 from 512 to ${deviceBytes}`,
  ),
);

const backingWord = v.pipe(
  word,
  v.check((text) => Buffer.byteLength(text) < stringBytes, 'word is too long'),
);

const bytes = v.pipe(
  v.number(),
  v.check(
    (n) => Number.isInteger(n) && n >= 0 && n <= deviceBytes,
    `no whole number from 0 to ${deviceBytes}`,
  ),
);

const wholeNumber = v.pipe(
  v.number(),
  v.check((n) => Number.isSafeInteger(n) && n >= 0, 'no whole number from 0 on'),
);

const jobId = v.pipe(v.number(), v.integer('job is no whole number'), v.minValue(1, 'no such job'));

export const topics = ['device', 'target', 'connection', 'log'] as const;
export type Topic = (typeof topics)[number];

const nothing = v.strictObject({});
const one = v.strictObject({ name });
const oneOrAll = v.strictObject({ name: v.optional(name) });
const topicList = v.strictObject({ topics: v.optional(v.array(v.picklist(topics))) });

export const schemas = {
  create: v.strictObject({
    name,
    table: v.optional(table),
    readOnly: v.optional(v.boolean()),
  }),
  load: v.strictObject({ name, table }),
  clear: one,
  suspend: v.strictObject({ name, noFlush: v.optional(v.boolean()) }),
  resume: one,
  remove: v.strictObject({ name, force: v.optional(v.boolean()) }),
  rename: v.strictObject({ name, newName: name }),
  table: v.strictObject({ name: v.optional(name), inactive: v.optional(v.boolean()) }),
  status: oneOrAll,
  info: one,
  message: v.strictObject({
    name,
    sector,
    words: v.pipe(
      v.array(word),
      v.check((words) => words.length >= 1, 'message has no words'),
      v.check((words) => words.length <= messageWords, `at most ${messageWords} words`),
    ),
  }),
  upload: v.strictObject({
    name,
    sector: v.optional(sector),
    bytes: v.pipe(
      v.number(),
      v.check(
        (n) => Number.isInteger(n) && n >= 1 && n <= uploadBytes,
        `upload is not 1 to ${uploadBytes} bytes`,
      ),
    ),
  }),
  download: v.strictObject({
    name,
    sector: v.optional(sector),
    first: v.optional(wholeNumber),
    count: v.optional(
      v.pipe(
        wholeNumber,
        v.check((n) => n > 0, 'count is no whole number from 1 on'),
      ),
    ),
  }),
  ls: nothing,
  targets: nothing,
  stats: oneOrAll,
  snapshot: v.strictObject({
    origin: name,
    name,
    transient: v.optional(v.boolean()),
    chunkSectors: v.optional(chunkSectors),
    cow: v.optional(filePath),
    cowBytes: v.optional(fileBytes),
    wipe: v.optional(v.boolean()),
    readOnly: v.optional(v.boolean()),
  }),
  removeSnapshot: v.strictObject({
    name,
    force: v.optional(v.boolean()),
    keepCow: v.optional(v.boolean()),
  }),
  merge: one,
  export: v.pipe(
    v.strictObject({
      name: v.optional(name),
      readOnly: v.optional(v.boolean()),
      description: v.optional(v.nullable(v.pipe(v.string(), checked(descriptionProblem)))),
      hidden: v.optional(v.boolean()),
      allow: v.optional(v.pipe(v.array(v.string()), checked<string[]>(allowProblem))),
      connections: v.optional(
        v.nullable(
          v.pipe(
            v.number(),
            checked<number>((count) => connectionsProblem(count)),
          ),
        ),
      ),
    }),
    v.check(
      ({ name, ...change }) => name !== undefined || Object.keys(change).length === 0,
      'name is missing: a change is for one device',
    ),
  ),
  snapshots: v.strictObject({ origin: v.optional(name) }),
  copy: v.strictObject({
    source: backingWord,
    destinations: v.pipe(
      v.array(backingWord),
      v.check((words) => words.length >= 1, 'copy has no destination'),
      v.check((words) => words.length <= copyDestinations, `at most ${copyDestinations} copies`),
    ),
    sourceOffset: v.optional(bytes),
    destinationOffset: v.optional(bytes),
    length: v.optional(bytes),
    throttlePercent: v.optional(
      v.pipe(
        v.number(),
        v.check((n) => Number.isInteger(n) && n >= 1 && n <= 100, 'throttle is not 1 to 100'),
      ),
    ),
    zeroes: v.optional(v.boolean()),
    noHoles: v.optional(v.boolean()),
    noOffload: v.optional(v.boolean()),
    flush: v.optional(v.boolean()),
  }),
  jobs: nothing,
  job: v.strictObject({
    id: jobId,
    waitMilliseconds: v.optional(
      v.pipe(
        v.number(),
        v.check(
          (n) => n >= 0 && n <= copyJobWaitMilliseconds,
          `wait is not 0 to ${copyJobWaitMilliseconds}`,
        ),
      ),
    ),
  }),
  cancel: v.strictObject({ id: jobId }),
  version: nothing,
  memory: nothing,
  listeners: nothing,
  subscribe: topicList,
  unsubscribe: topicList,
} as const;

export type MethodName = keyof typeof schemas;
export type Params<M extends MethodName> = v.InferOutput<(typeof schemas)[M]>;

/** A device's lines, where all devices were asked for. */
export interface DeviceLines {
  name: string;
  lines: TableLine[];
}

export interface NamedStats extends DeviceStats {
  name: string;
}

/** What the owner of a device says of its export, and how many clients have it now. */
export interface ExportFacts extends ExportPolicy {
  allow: string[];
  clients: number;
}

export interface NamedExport extends ExportFacts {
  name: string;
  /** False: it is not in the state directory, and ends with the daemon. */
  stored: boolean;
}

/** A device as `info` and `ls` tell it. */
export interface KnownDeviceInfo extends DeviceInfo {
  export?: ExportFacts;
  /** Of a snapshot that `snapshot` made: when. ISO 8601, UTC. */
  created?: string;
}

/** What `snapshot` has made. */
export interface SnapshotMade {
  name: string;
  origin: string;
  cow: string;
  cowBytes: number;
  chunkSectors: number;
  /** When, ISO 8601, UTC. */
  created: string;
  /** False: origin and snapshot are not in the state directory. */
  stored: boolean;
}

/** What `remove` has left behind; for people. */
export interface RemovalNotes {
  notes: string[];
}

/** What `removeSnapshot` and `merge` have to say besides that it is done; for people. */
export interface SnapshotNotes {
  origin: string | null;
  notes: string[];
}

export type SnapshotState =
  | 'active'
  | 'invalid'
  | 'overflow'
  | 'merging'
  /** Nothing is left to be merged, and the origin is about to get its table back. */
  | 'merged'
  | 'merge failed'
  | 'unknown';

export interface SnapshotInfo {
  /** The device; while it is merged that is the origin, for the snapshot's own is gone. */
  name: string;
  /** The origin's name, or the word in the table if no device is the origin. */
  origin: string;
  /** P, PO or N, as in the table. */
  type: string;
  state: SnapshotState;
  chunkSectors: number;
  /** Chunks that have been copied; this and the next three are null where they are not known. */
  exceptions: number | null;
  /** Of the COW, metadata included. */
  usedBytes: number | null;
  totalBytes: number | null;
  /** As LVM2 counts it. */
  percent: number | null;
  /** ISO 8601, UTC; null for a snapshot that `create` made. */
  created: string | null;
  /** The COW as the table names it. */
  cow: string;
}

/** What an upload has changed. */
export interface Uploaded {
  /** Where the target begins in its device. */
  sector: number;
  whole: boolean;
  first: number;
  count: number;
  /** Whether it is in the state directory; false: the device is not. */
  stored: boolean;
}

/** What is downloaded: the binary frames that follow have so many bytes. */
export interface Downloaded {
  bytes: number;
  sector: number;
  whole: boolean;
  regions: number;
  regionSectors: number;
  paths: number;
  bits: number;
  first: number;
  count: number;
}

export interface Version {
  name: 'mapperd';
  version: string;
  /** Counts changes of this protocol that a client must know of. */
  protocol: number;
  engine: string;
  /** Why it is not uring, if it is not. */
  engineReason: string | null;
  node: string;
  pid: number;
  /** The state directory, absolute; null if there is none. */
  state: string | null;
}

/** What the daemon holds, and the most that its clients can make it hold resident. */
export interface MemoryFacts extends MemoryUse {
  residentBytes: number;
  residentBytesMax: number;
}

export interface Results {
  create: null;
  load: null;
  clear: null;
  suspend: null;
  resume: null;
  /** Null, unless there is something left to be told. */
  remove: RemovalNotes | null;
  rename: null;
  /** With a name the device's lines, without one those of all devices. */
  table: TableLine[] | DeviceLines[];
  status: TableLine[] | DeviceLines[];
  info: KnownDeviceInfo;
  message: string;
  upload: Uploaded;
  download: Downloaded;
  ls: KnownDeviceInfo[];
  targets: TargetVersion[];
  stats: NamedStats[];
  snapshot: SnapshotMade;
  removeSnapshot: SnapshotNotes;
  merge: SnapshotNotes;
  /** With a name one, without those of all devices. */
  export: NamedExport | NamedExport[];
  snapshots: SnapshotInfo[];
  copy: { id: number };
  jobs: CopyJobInfo[];
  job: CopyJobInfo;
  cancel: null;
  version: Version;
  memory: MemoryFacts;
  /** Where NBD clients connect, in the order of the daemon's options. */
  listeners: ListenAddress[];
  /** The topics subscribed to afterwards. */
  subscribe: Topic[];
  unsubscribe: Topic[];
}

/** The params of an `event` notification: what happened, and when (ISO 8601, UTC). */
export type EventParams = QueueEvent & { time: string };
