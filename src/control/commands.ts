/** The methods of the control protocol: a row for each, its schema and what it does. */

import { resolve } from 'node:path';
import type { AllowedPaths } from '../base/allowed-paths.js';
import { E2BIG, ENXIO } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { controlReplyBytes, residentBytes } from '../base/limits.js';
import type { ListenAddress } from '../engine/engine.js';
import type { CopyRequest, DeviceInfo, TableLine } from '../queue/commands.js';
import type { QueueCalls } from '../queue/queue.js';
import type { Catalogue } from './catalogue.js';
import { startCopy } from './copy.js';
import { optional } from './entries.js';
import { Exports } from './exports.js';
import type { Received } from './incoming.js';
import {
  type DeviceLines,
  type KnownDeviceInfo,
  type MethodName,
  type Params,
  type Results,
  schemas,
  type Topic,
  type Version,
} from './messages.js';
import type { Regions } from './regions.js';
import type { RpcMethod } from './rpc.js';
import type { Snapshots } from './snapshots.js';
import { deviceStats } from './stats.js';

/** What the methods work on. */
export interface ControlParts {
  readonly queue: QueueCalls;
  readonly catalogue: Catalogue;
  readonly snapshots: Snapshots;
  readonly regions: Regions;
  readonly version: Version;
  /** Where clients may have files opened; left out: anywhere. */
  readonly allowed?: AllowedPaths | null;
  /** Where NBD clients connect; left out: nowhere. */
  readonly listeners?: () => readonly ListenAddress[];
}

/** The client that asks, for one of its requests. */
export interface Subscriber {
  readonly topics: Set<Topic>;
  /** Takes so many bytes of the binary frames that follow the request. Throws MapperError. */
  receive(bytes: number): Promise<Received>;
  /** Sends bytes in binary frames right behind the request's answer. */
  attach(pieces: readonly Uint8Array[]): void;
}

type Handler<M extends MethodName> = (
  params: Params<M>,
  client: Subscriber,
) => Promise<Results[M]> | Results[M];

/** Topics without the log, which is for those who ask for it. */
const usualTopics: readonly Topic[] = ['device', 'target', 'connection'];

export function controlMethods(parts: ControlParts): Map<string, RpcMethod<Subscriber>> {
  const { queue, catalogue, snapshots, regions, version, listeners, allowed = null } = parts;
  const exports = new Exports(catalogue);

  /** Errors of a device's command say which: `resume vol0: ...`. */
  async function about<T>(command: string, name: string, work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      throw error instanceof MapperError ? error.prefixed(`${command} ${name}`) : error;
    }
  }

  /** For a command that changes something: its answer says only that it is done. */
  async function done(command: string, name: string, work: Promise<unknown>): Promise<null> {
    await about(command, name, work);
    return null;
  }

  /** With what only the control thread knows of a device. */
  function known(info: DeviceInfo): KnownDeviceInfo {
    const device = catalogue.known(info.name);
    if (device === null) return info;
    return { ...info, ...optional('created', device.created), export: exports.facts(device) };
  }

  const handlers: { [M in MethodName]: Handler<M> } = {
    create: ({ name, table, readOnly }) =>
      done('create', name, catalogue.create(newDevice(name, table, readOnly))),
    load: ({ name, table }) => done('load', name, catalogue.load(name, table)),
    clear: ({ name }) => done('clear', name, catalogue.clear(name)),
    suspend: ({ name, noFlush }) =>
      done('suspend', name, catalogue.suspend(name, noFlush ?? false)),
    resume: ({ name }) => done('resume', name, catalogue.resume(name)),
    remove: ({ name, force }) => about('remove', name, snapshots.unmake(name, force ?? false)),
    rename: ({ name, newName }) => done('rename', name, catalogue.rename(name, newName)),
    table: ({ name, inactive = false }) => {
      const ask = (one: string): Promise<TableLine[]> =>
        queue.call('table', { name: one, inactive });
      return name === undefined ? linesOfAll(queue, ask) : about('table', name, ask(name));
    },
    status: ({ name }) => {
      const ask = (one: string): Promise<TableLine[]> => queue.call('status', { name: one });
      return name === undefined ? linesOfAll(queue, ask) : about('status', name, ask(name));
    },
    info: async ({ name }) => known(await about('info', name, queue.call('info', { name }))),
    message: (params) => about('message', params.name, regions.message(params)),
    upload: async ({ name, sector, bytes }, client) => {
      const received = await client.receive(bytes);
      return about('upload', name, regions.upload(name, sector, received));
    },
    download: async (params, client) => {
      const { about: told, pieces } = await about(
        'download',
        params.name,
        regions.download(params),
      );
      client.attach(pieces);
      return told;
    },
    ls: async () => (await queue.call('ls', {})).map(known),
    targets: () => queue.call('targets', {}),
    stats: ({ name }) => deviceStats(catalogue, name),
    snapshot: (params) => about('snapshot', params.name, snapshots.snapshot(params)),
    removeSnapshot: (params) => about('remove', params.name, snapshots.remove(params)),
    merge: ({ name }) => about('merge', name, snapshots.merge(name)),
    export: ({ name, ...change }) =>
      name === undefined
        ? exports.all()
        : about('export', name, exports.change({ ...change, name })),
    snapshots: ({ origin }) =>
      origin === undefined ? snapshots.list() : about('snapshots', origin, snapshots.list(origin)),
    copy: (params) =>
      about('copy', params.source, startCopy(queue, withoutUndefined(params), allowed)),
    jobs: () => queue.call('jobs', {}),
    job: ({ id, waitMilliseconds = 0 }) => queue.call('job', { id, waitMilliseconds }),
    cancel: ({ id }) => queue.call('cancel', { id }),
    version: () => version,
    memory: async () => ({
      ...(await queue.call('memory', {})),
      residentBytes: process.memoryUsage.rss(),
      residentBytesMax: residentBytes,
    }),
    listeners: () => (listeners?.() ?? []).map(whole),
    subscribe: ({ topics = usualTopics }, client) => {
      for (const topic of topics) client.topics.add(topic);
      return [...client.topics];
    },
    unsubscribe: ({ topics }, client) => {
      for (const topic of topics ?? [...client.topics]) client.topics.delete(topic);
      return [...client.topics];
    },
  };
  return new Map(
    Object.entries(handlers).map(([name, handle]) => [
      name,
      {
        schema: schemas[name as MethodName],
        alone: name === 'upload' || name === 'download',
        handle: handle as RpcMethod<Subscriber>['handle'],
      },
    ]),
  );
}

/** With a path that means the same wherever it is used; abstract names and no name stay as they are. */
function whole(address: ListenAddress): ListenAddress {
  const isPath = address.kind === 'unix' && /^[^\0]/.test(address.path);
  return isPath ? { ...address, path: resolve(address.path) } : address;
}

/** What was left out stays out, instead of being there and undefined. */
function withoutUndefined(params: Params<'copy'>): CopyRequest {
  const { source, destinations, ...rest } = params;
  const given = Object.entries(rest).filter(([, value]) => value !== undefined);
  return { source, destinations, ...Object.fromEntries(given) };
}

function newDevice(name: string, table: string | undefined, readOnly: boolean | undefined) {
  return {
    name,
    ...(table === undefined ? {} : { table }),
    ...(readOnly === undefined ? {} : { readOnly }),
  };
}

/** Lines of every device; one that is removed in the meantime is left out. */
async function linesOfAll(
  queue: QueueCalls,
  ask: (name: string) => Promise<TableLine[]>,
): Promise<DeviceLines[]> {
  const all: DeviceLines[] = [];
  let characters = 0;
  for (const { name } of await queue.call('ls', {})) {
    try {
      const lines = await ask(name);
      all.push({ name, lines });
      for (const line of lines) characters += line.words.length;
    } catch (error) {
      if (!(error instanceof MapperError) || error.errno !== ENXIO) throw error;
    }
    if (characters > controlReplyBytes) {
      throw new MapperError(E2BIG, `reply is longer than ${controlReplyBytes}: name a device`);
    }
  }
  return all;
}
