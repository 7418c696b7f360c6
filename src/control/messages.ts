/**
 * The methods of the control protocol: their parameters as schemas, their results as types. Schemas
 * are strict: a key that is not named here is refused, so that a misspelt option cannot be taken
 * for its absence.
 */

import * as v from 'valibot';
import { controlTableBytes, deviceBytes, messageWords } from '../base/limits.js';
import type { DeviceStats } from '../device/counters.js';
import type { DeviceInfo, QueueEvent, TableLine, TargetVersion } from '../queue/commands.js';
import { nameProblem } from './names.js';

const name = v.pipe(
  v.string(),
  v.rawCheck(({ dataset, addIssue }) => {
    if (!dataset.typed) return;
    const message = nameProblem(dataset.value);
    if (message !== null) addIssue({ message });
  }),
);

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
  ls: nothing,
  targets: nothing,
  stats: oneOrAll,
  version: nothing,
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
}

export interface Results {
  create: null;
  load: null;
  clear: null;
  suspend: null;
  resume: null;
  remove: null;
  rename: null;
  /** With a name the device's lines, without one those of all devices. */
  table: TableLine[] | DeviceLines[];
  status: TableLine[] | DeviceLines[];
  info: DeviceInfo;
  message: string;
  ls: DeviceInfo[];
  targets: TargetVersion[];
  stats: NamedStats[];
  version: Version;
  /** The topics subscribed to afterwards. */
  subscribe: Topic[];
  unsubscribe: Topic[];
}

/** The params of an `event` notification: what happened, and when (ISO 8601, UTC). */
export type EventParams = QueueEvent & { time: string };
