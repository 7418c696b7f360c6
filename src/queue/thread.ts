/**
 * The queue thread: the data plane. It has the engine, the devices and the connections to itself;
 * the control thread asks it for things by messages, and reads counters from shared memory.
 */

import {
  type MessagePort,
  parentPort,
  receiveMessageOnPort,
  workerData,
} from 'node:worker_threads';
import { AllowedPaths } from '../base/allowed-paths.js';
import { EIO, ESHUTDOWN } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { arenaBytes } from '../base/limits.js';
import type { Log } from '../base/log.js';
import { type LogLevel, logLevels } from '../base/log-level.js';
import { CopyJobs } from '../copy/jobs.js';
import { IoPool } from '../device/io.js';
import { DeviceRegistry } from '../device/registry.js';
import { Arena } from '../engine/arena.js';
import { chooseEngine, type EngineChoice } from '../engine/choose.js';
import type { Engine } from '../engine/engine.js';
import { FileLocks } from '../engine/file-lock.js';
import { loadFlock } from '../engine/uring/flock.js';
import type { ProtocolOptions } from '../nbd/protocol-options.js';
import { type ConnectionEvents, Server } from '../nbd/server.js';
import { targetTypes } from '../target/registry.js';
import type { Hanging, QueueCommand, QueueCommands, QueueEvent } from './commands.js';
import { OptionsGuard } from './file-guard.js';
import type { Answer, Call, FromQueue } from './mailbox.js';

export interface QueueOptions {
  readonly engine: EngineChoice;
  readonly protocol: ProtocolOptions;
  /** Addresses (CIDR) that are served at all, checked already; empty: all. */
  readonly allow: readonly string[];
  /** Files are locked against other daemons. */
  readonly lock?: boolean;
  /** Real paths of what may be opened; null: all. */
  readonly allowedPaths?: readonly string[] | null;
  /** Milliseconds to look for work before sleeping, at most; 0: none. */
  readonly busyPoll?: number;
  /** Log lines of lesser levels are not sent. */
  readonly logLevel: LogLevel;
}

type Handlers = {
  [C in QueueCommand]: (
    params: QueueCommands[C]['params'],
  ) => QueueCommands[C]['result'] | Promise<QueueCommands[C]['result']>;
};

/** Where answers and events go. */
type Outbox = Pick<MessagePort, 'postMessage'>;

export class Queue {
  readonly #port: Outbox;
  readonly #engine: Engine;
  readonly #devices: DeviceRegistry;
  readonly server: Server;
  readonly #jobs: CopyJobs;
  readonly #handlers: Handlers;
  readonly #ios = new IoPool();
  /** What a shutdown is at. */
  #stage = 'nothing';

  /** `locks`: of files, against other daemons. */
  constructor(port: Outbox, engine: Engine, options: QueueOptions, locks: FileLocks | null = null) {
    const { protocol, allow, allowedPaths = null, logLevel } = options;
    this.#port = port;
    this.#engine = engine;
    const log = this.#makeLog(logLevel);
    const ios = this.#ios;
    const event: ConstructorParameters<typeof DeviceRegistry>[3] = (device, event) =>
      this.#post({ event: 'target', name: device.name, ...event });
    const allowed = allowedPaths === null ? null : new AllowedPaths(allowedPaths);
    const guard = new OptionsGuard(allowed, locks);
    this.#devices = new DeviceRegistry(engine, ios, log, event, guard);
    const connection: ConnectionEvents['connection'] = (what, peer, device) =>
      this.#post({ event: 'connection', what, peer, device });
    this.server = new Server(engine, ios, this.#devices, log, { connection }, { protocol, allow });
    this.#jobs = new CopyJobs(engine, ios, this.#devices);
    this.#handlers = this.#makeHandlers();
  }

  #post(message: FromQueue): void {
    this.#port.postMessage(message);
  }

  #makeLog(least: LogLevel): Log {
    type Level = Extract<QueueEvent, { event: 'log' }>['level'];
    const at = (level: Level): Log[Level] => {
      if (logLevels.indexOf(level) > logLevels.indexOf(least)) return () => {};
      return (fields, text) => this.#post({ event: 'log', level, fields, text });
    };
    return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
  }

  #makeHandlers(): Handlers {
    const devices = this.#devices;
    type What = Extract<QueueEvent, { event: 'device' }>['what'];
    const changed = (name: string, what: What): null => {
      this.#post({ event: 'device', name, what });
      return null;
    };
    return {
      create: async ({ name, table, readOnly, restored, regions }) => {
        const device = await devices.create(name, table, readOnly, restored, regions);
        changed(name, 'create');
        return { counters: device.counters.buffer };
      },
      load: async ({ name, table }) => {
        await devices.load(name, table);
        return null;
      },
      clear: async ({ name }) => {
        await devices.clear(name);
        return null;
      },
      suspend: async ({ name, noFlush }) => {
        await devices.suspend(name, noFlush ?? false);
        return changed(name, 'suspend');
      },
      resume: async ({ name }) => {
        await devices.resume(name);
        return changed(name, 'resume');
      },
      remove: async ({ name, force }) => {
        await devices.remove(name, force ?? false);
        return changed(name, 'remove');
      },
      rename: async ({ name, newName }) => {
        await devices.rename(name, newName);
        return changed(newName, 'rename');
      },
      table: ({ name, inactive }) => devices.table(name, inactive ?? false),
      status: ({ name }) => devices.status(name),
      info: ({ name }) => devices.info(name),
      message: ({ name, sector, words }) => devices.message(name, sector, words),
      upload: async ({ name, sector, table }) => {
        await devices.upload(name, sector, table);
        return null;
      },
      download: ({ name, sector, first, count }) => devices.download(name, sector, first, count),
      regions: ({ name }) => devices.regions(name),
      regionsSaved: async ({ name, sector, generation }) => {
        await devices.regionsSaved(name, sector, generation);
        return null;
      },
      ls: () => devices.ls(),
      targets: () => targetTypes.map(({ name, version }) => ({ name, version: [...version] })),
      listen: ({ address, piped }) => this.server.listen(address, piped ?? false),
      policy: ({ name, policy }) => {
        this.server.setPolicy(devices.get(name), policy);
        return null;
      },
      defaultExport: ({ name }) => {
        this.server.defaultExport = name;
        return null;
      },
      backingSize: ({ word, writable }) => this.#jobs.sizeOf(word, writable),
      copy: (request) => ({ id: this.#jobs.start(request) }),
      jobs: () => this.#jobs.list(),
      job: ({ id, waitMilliseconds }) => this.#jobs.ended(id, waitMilliseconds ?? 0),
      cancel: ({ id }) => {
        this.#jobs.cancel(id);
        return null;
      },
      memory: () => ({
        arenaBytes: this.#engine.arena.size,
        arenaInUseBytes: this.#engine.arena.inUse,
        operations: this.#ios.inUse,
        ...this.server.memoryUse(),
      }),
      hanging: () => this.#hanging(),
      shutdown: async () => {
        for (const device of devices.all()) device.failWaiting(ESHUTDOWN);
        this.#stage = 'copies';
        await this.#jobs.shutdown();
        this.#stage = 'clients';
        await this.server.shutdown();
        await devices.shutdown((what, name) => {
          this.#stage = `${what} of ${name}`;
        });
        return null;
      },
    };
  }

  #hanging(): Hanging {
    const stage = this.#stage;
    const devices = this.#devices.ls().map(({ name, inFlight }) => {
      return { name, inFlight, flushing: stage === `a flush of ${name}` };
    });
    return { stage, devices: devices.filter((one) => one.inFlight > 0 || one.flushing) };
  }

  async carryOut(call: Call): Promise<void> {
    let answer: Answer;
    try {
      const handler = this.#handlers[call.command] as (params: unknown) => unknown;
      answer = { id: call.id, result: await handler(call.params) };
    } catch (error) {
      const errno = error instanceof MapperError ? error.errno : EIO;
      answer = { id: call.id, error: { errno, message: messageOf(error) } };
    }
    this.#post(answer);
    if (call.command === 'shutdown') this.#engine.stop();
  }
}

async function main(port: MessagePort, options: QueueOptions): Promise<void> {
  let chosen: Awaited<ReturnType<typeof chooseEngine>>;
  try {
    chosen = await chooseEngine(options.engine, new Arena(arenaBytes), options.busyPoll);
  } catch (error) {
    port.postMessage({ failed: messageOf(error) } satisfies FromQueue);
    return;
  }
  const { engine, reason } = chosen;
  const locks = options.lock ? new FileLocks(await loadFlock()) : null;
  const queue = new Queue(port, engine, options, locks);
  const wakeFd = engine.onWake(() => {
    for (;;) {
      const received = receiveMessageOnPort(port) as { message: Call } | undefined;
      if (received === undefined) return;
      void queue.carryOut(received.message);
    }
  });
  if (wakeFd === null) port.on('message', (call: Call) => void queue.carryOut(call));
  port.postMessage({ ready: { engine: engine.name, reason, wakeFd } } satisfies FromQueue);
  await engine.run();
  port.close();
}

if (parentPort !== null) void main(parentPort, workerData as QueueOptions);
