/**
 * A daemon in one process: the data plane of the queue thread, and the control thread's catalogue,
 * snapshots and regions over a state directory, with the messages between the two on their way for
 * a while. It is put together as src/daemon.ts does it, less the sockets of control clients.
 */

import { MapperError } from '../../src/base/errors.js';
import type { Log } from '../../src/base/log.js';
import { Catalogue } from '../../src/control/catalogue.js';
import { Regions } from '../../src/control/regions.js';
import { Snapshots } from '../../src/control/snapshots.js';
import { StateDirectory, type StateProblem } from '../../src/control/state.js';
import { wholeProtocol } from '../../src/nbd/protocol-options.js';
import type { QueueCommand, QueueCommands } from '../../src/queue/commands.js';
import type { FromQueue } from '../../src/queue/mailbox.js';
import type { QueueCalls } from '../../src/queue/queue.js';
import { Queue } from '../../src/queue/thread.js';
import { ControlFiles } from './control-files.js';
import type { SimEngine } from './engine.js';
import { SimEvent } from './event-queue.js';

export const stateDirectory = '/state';
export const socketPath = '/run/nbd';

const cannotMark = 'cannot mark the snapshot invalid in the COW';

/** What the log says with it. */
interface Marking {
  readonly cow: string;
}

/** How long a message is on its way, at most; milliseconds. */
const wayMilliseconds = 0.05;

interface Waiter {
  resolve(result: unknown): void;
  reject(error: Error): void;
}

/** What is carried out after a while, in its order among others of its kind. */
class Delivery extends SimEvent {
  readonly #work: () => void;

  constructor(work: () => void) {
    super();
    this.#work = work;
  }

  happen(): void {
    this.#work();
  }
}

/** Messages between two threads, first come first served. */
class Channel {
  readonly #engine: SimEngine;
  #last = 0;

  constructor(engine: SimEngine) {
    this.#engine = engine;
  }

  send(deliver: () => void): void {
    const engine = this.#engine;
    const way = (engine.random.below(1000) * wayMilliseconds) / 1000;
    this.#last = Math.max(this.#last, engine.now + way);
    const delivery = new Delivery(() => {
      engine.continuations = true;
      deliver();
    });
    engine.schedule(delivery, this.#last - engine.now);
  }
}

export class SimDaemon implements QueueCalls {
  readonly engine: SimEngine;
  readonly catalogue: Catalogue;
  readonly snapshots: Snapshots;
  readonly regions: Regions;
  /** What it has told of itself at levels that people should look at. */
  readonly complaints: string[] = [];
  /** COWs whose disks would not take the mark that says that the snapshot is invalid. */
  readonly unmarked: Set<string>;
  readonly #state: StateDirectory;
  readonly #queue: Queue;
  readonly #toQueue: Channel;
  readonly #toControl: Channel;
  readonly #waiters = new Map<number, Waiter>();
  #nextId = 1;

  constructor(engine: SimEngine, unmarked = new Set<string>()) {
    this.engine = engine;
    this.unmarked = unmarked;
    this.#toQueue = new Channel(engine);
    this.#toControl = new Channel(engine);
    const outbox = { postMessage: (message: FromQueue) => this.#post(message) };
    this.#queue = new Queue(outbox, engine, {
      engine: 'auto',
      protocol: wholeProtocol,
      allow: [],
      logLevel: 'error',
    });
    const files = new ControlFiles(engine);
    const log = this.#log();
    this.#state = new StateDirectory(stateDirectory, files);
    this.catalogue = new Catalogue(this, this.#state, log);
    this.snapshots = new Snapshots(this, this.catalogue, stateDirectory, log, files);
    const pause = async (milliseconds: number): Promise<void> => {
      await new Promise<void>((resolve) => {
        const woken = new Delivery(() => {
          engine.continuations = true;
          resolve();
        });
        engine.schedule(woken, milliseconds);
      });
    };
    this.regions = new Regions(this, this.catalogue, log, pause);
  }

  /** Brings up what the state directory holds, and listens. */
  async start(): Promise<StateProblem[]> {
    const { devices, problems } = await this.#state.load();
    const all = await this.catalogue.restore(devices, problems, []);
    this.snapshots.started();
    await this.call('listen', { address: { kind: 'unix', path: socketPath } });
    return all;
  }

  /** Ends in peace: everything is flushed. */
  async shutdown(): Promise<void> {
    await this.call('shutdown', {});
    await this.catalogue.settled();
  }

  call<C extends QueueCommand>(
    command: C,
    params: QueueCommands[C]['params'],
  ): Promise<QueueCommands[C]['result']> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const settle = resolve as (result: unknown) => void;
      this.#waiters.set(id, { resolve: settle, reject });
      this.#toQueue.send(() => void this.#queue.carryOut({ id, command, params }));
    });
  }

  /** From the queue thread. */
  #post(message: FromQueue): void {
    if ('event' in message && message.event === 'log') {
      if (message.level === 'error') this.complaints.push(message.text);
      if (message.text === cannotMark) this.unmarked.add((message.fields as Marking).cow);
      return;
    }
    this.#toControl.send(() => this.#received(message));
  }

  #received(message: FromQueue): void {
    if ('event' in message) {
      this.regions.event(message);
      this.snapshots.event(message);
      return;
    }
    if (!('id' in message)) return;
    const waiter = this.#waiters.get(message.id);
    this.#waiters.delete(message.id);
    if ('error' in message) {
      waiter?.reject(new MapperError(message.error.errno, message.error.message));
    } else {
      waiter?.resolve(message.result);
    }
  }

  #log(): Log {
    const complain = (_fields: object, text: string): void => {
      this.complaints.push(text);
    };
    return { debug() {}, info() {}, warn() {}, error: complain };
  }
}
