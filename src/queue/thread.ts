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
import { EIO, ESHUTDOWN } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { arenaBytes } from '../base/limits.js';
import type { Log } from '../base/log.js';
import { CopyJobs } from '../copy/jobs.js';
import { IoPool } from '../device/io.js';
import { DeviceRegistry } from '../device/registry.js';
import { Arena } from '../engine/arena.js';
import { chooseEngine, type EngineChoice } from '../engine/choose.js';
import type { Engine } from '../engine/engine.js';
import { Server } from '../nbd/server.js';
import { targetTypes } from '../target/registry.js';
import type { QueueCommand, QueueCommands, QueueEvent } from './commands.js';
import type { Answer, Call, FromQueue } from './mailbox.js';

export interface QueueOptions {
  readonly engine: EngineChoice;
}

type Handlers = {
  [C in QueueCommand]: (
    params: QueueCommands[C]['params'],
  ) => QueueCommands[C]['result'] | Promise<QueueCommands[C]['result']>;
};

class Queue {
  readonly #port: MessagePort;
  readonly #engine: Engine;
  readonly #devices: DeviceRegistry;
  readonly #server: Server;
  readonly #jobs: CopyJobs;
  readonly #handlers: Handlers;

  constructor(port: MessagePort, engine: Engine) {
    this.#port = port;
    this.#engine = engine;
    const log = this.#makeLog();
    const ios = new IoPool();
    this.#devices = new DeviceRegistry(engine, ios, log, (device, event) =>
      this.#post({ event: 'target', name: device.name, ...event }),
    );
    this.#server = new Server(engine, ios, this.#devices, log, {
      connection: (what, peer, device) => this.#post({ event: 'connection', what, peer, device }),
    });
    this.#jobs = new CopyJobs(engine, ios, this.#devices);
    this.#handlers = this.#makeHandlers();
  }

  #post(message: FromQueue): void {
    this.#port.postMessage(message);
  }

  #makeLog(): Log {
    type Level = Extract<QueueEvent, { event: 'log' }>['level'];
    const at =
      (level: Level) =>
      (fields: object, text: string): void =>
        this.#post({ event: 'log', level, fields, text });
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
      listen: ({ address }) => this.#server.listen(address),
      defaultExport: ({ name }) => {
        this.#server.defaultExport = name;
        return null;
      },
      backingSize: ({ word }) => this.#jobs.sizeOf(word),
      copy: (request) => ({ id: this.#jobs.start(request) }),
      jobs: () => this.#jobs.list(),
      job: ({ id, waitMilliseconds }) => this.#jobs.ended(id, waitMilliseconds ?? 0),
      cancel: ({ id }) => {
        this.#jobs.cancel(id);
        return null;
      },
      shutdown: async () => {
        for (const device of devices.all()) device.failWaiting(ESHUTDOWN);
        await this.#jobs.shutdown();
        await this.#server.shutdown();
        await devices.shutdown();
        return null;
      },
    };
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
    chosen = await chooseEngine(options.engine, new Arena(arenaBytes));
  } catch (error) {
    port.postMessage({ failed: messageOf(error) } satisfies FromQueue);
    return;
  }
  const { engine, reason } = chosen;
  const queue = new Queue(port, engine);
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
