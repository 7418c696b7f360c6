/**
 * The devices as the control thread knows them, and the commands that change them (steps.ts), each
 * under its devices' lock. An answer means that the queue thread and the state directory are done.
 *
 * Commands on one device follow one another; commands on different devices do not wait for each
 * other, because one may have to (a suspended device holds up those that stand on it).
 */

import { EEXIST } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import type { Log } from '../base/log.js';
import type { QueueCalls } from '../queue/queue.js';
import type { KnownDevice } from './entries.js';
import { KeyedLock } from './keyed-lock.js';
import { restore, supersededDevices } from './restore.js';
import type { StateProblem, Store, StoredDevice } from './state.js';
import { type NewDevice, Steps } from './steps.js';

export class Catalogue {
  readonly #store: Store | null;
  readonly #log: Log;
  readonly #steps: Steps;
  readonly #lock = new KeyedLock();

  /**
   * Without a store nothing is written anywhere. `allReadOnly`: every device refuses writes,
   * whatever its file says; files do not change for it.
   */
  constructor(queue: QueueCalls, store: Store | null, log: Log, allReadOnly = false) {
    this.#store = store;
    this.#log = log;
    this.#steps = new Steps(queue, store, log, allReadOnly);
  }

  /**
   * Brings up what the state directory holds and what the command line names, in the order of their
   * stacking. Devices of the command line come from there each time: they are never stored.
   */
  async restore(
    stored: readonly StoredDevice[],
    problems: readonly StateProblem[],
    commandLine: readonly StoredDevice[],
  ): Promise<StateProblem[]> {
    const given = new Set(commandLine.map((device) => device.name));
    const twice = stored.find((device) => given.has(device.name));
    if (twice !== undefined) {
      const text = `device "${twice.name}" is in the state directory and on the command line`;
      throw new MapperError(EEXIST, text);
    }
    const superseded = await this.#dropSuperseded(stored);
    const wanted = stored.filter((device) => !superseded.has(device.name));
    const all = [...problems];
    const isThere = (name: string): boolean => this.#steps.entries.has(name);
    const failed = await restore([...wanted, ...commandLine], isThere, (device) =>
      this.#steps.bringUp(device, !given.has(device.name)),
    );
    all.push(...failed);
    for (const problem of all) {
      if (problem.name !== null && !given.has(problem.name)) {
        this.#steps.setBroken(problem.name, problem);
      }
    }
    return all;
  }

  /** Snapshots that were being merged when the last daemon ended: the merge goes on without. */
  async #dropSuperseded(stored: readonly StoredDevice[]): Promise<Set<string>> {
    const names = supersededDevices(stored);
    for (const name of names) {
      try {
        await this.#store?.remove(name);
        this.#log.info({ device: name }, 'snapshot is being merged: its file is removed');
      } catch (error) {
        const text = 'the file of a snapshot that is being merged cannot be removed';
        this.#log.error({ device: name, error: messageOf(error) }, text);
      }
    }
    return names;
  }

  create(device: NewDevice): Promise<void> {
    const { stores } = this.#steps;
    return this.#alone(device.name, (steps) => steps.create(device, { stored: stores }));
  }

  load(name: string, table: string): Promise<void> {
    return this.#alone(name, (steps) => steps.load(name, table));
  }

  clear(name: string): Promise<void> {
    return this.#alone(name, (steps) => steps.clear(name));
  }

  suspend(name: string, noFlush: boolean): Promise<void> {
    return this.#alone(name, (steps) => steps.suspend(name, noFlush));
  }

  resume(name: string): Promise<void> {
    return this.#alone(name, (steps) => steps.resume(name));
  }

  remove(name: string, force: boolean): Promise<void> {
    return this.#alone(name, (steps) => steps.remove(name, force));
  }

  rename(name: string, newName: string): Promise<void> {
    return this.exclusively([name, newName], (steps) => steps.rename(name, newName));
  }

  /** Several commands as one, on these devices: nobody else's come between. */
  exclusively<T>(names: readonly string[], work: (steps: Steps) => Promise<T>): Promise<T> {
    return this.#lock.run(names, () => work(this.#steps));
  }

  #alone<T>(name: string, work: (steps: Steps) => Promise<T>): Promise<T> {
    return this.exclusively([name], work);
  }

  /** A device's counters; null for a device that is not there. */
  counters(name: string): SharedArrayBuffer | null {
    return this.#steps.entries.get(name)?.counters ?? null;
  }

  /** What stores the regions that the device of this name has, whatever it is called by then. */
  regionSaver(name: string): () => Promise<void> {
    const { entries, regions } = this.#steps;
    const entry = entries.get(name);
    return async () => {
      if (entry !== undefined) await regions.save(entry);
    };
  }

  /** Stores regions that a target has changed by itself, and tells it. Throws MapperError. */
  confirmRegions(name: string, sector: number, generation: number): Promise<void> {
    return this.#steps.regions.confirm(name, sector, generation);
  }

  known(name: string): KnownDevice | null {
    return this.#steps.entries.known(name);
  }

  /** In the order of their names. */
  all(): KnownDevice[] {
    return this.#steps.entries.all();
  }

  names(): string[] {
    return this.#steps.entries.names();
  }

  /** Resolves when no command is under way. */
  settled(): Promise<void> {
    return this.#lock.settled();
  }
}
