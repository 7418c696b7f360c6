/** A daemon that has just started from what was on the disks, and a look at all that it shows. */

import type { RegionsAt } from '../../src/queue/commands.js';
import { type Loss, problemAfter } from './after-crash.js';
import { outcome, until } from './clock.js';
import { type SimDaemon, socketPath } from './daemon.js';
import type { SimEngine } from './engine.js';
import { SimFailure } from './failure.js';
import { type ClientOwner, ClientRequest, CMD, SimClient } from './nbd-client.js';
import type { Resolution } from './resolution.js';
import type { World } from './world.js';

/** Sectors that are read at once. */
const readSectors = 96;

export class Restart implements ClientOwner {
  /** The live tables of all devices. */
  readonly tables = new Map<string, string | null>();
  regions: RegionsAt | null = null;
  readonly #world: World;
  readonly #engine: SimEngine;
  readonly #daemon: SimDaemon;
  readonly #clients: SimClient[] = [];
  /** Of each client that reads: what was found, and where each answer belongs. */
  readonly #found = new Map<SimClient, Int32Array>();
  /** Snapshots that became invalid while they were read. */
  readonly #lost = new Set<string>();
  #unanswered = 0;
  #leaving = false;

  constructor(world: World, engine: SimEngine, daemon: SimDaemon) {
    this.#world = world;
    this.#engine = engine;
    this.#daemon = daemon;
  }

  async start(): Promise<void> {
    const problems = await outcome(this.#engine, 'a start', this.#daemon.start());
    if (problems.length > 0) {
      const texts = problems.map(({ file, text }) => `${file}: ${text}`);
      throw new SimFailure('start', texts.join('; '));
    }
    for (const { name, live } of this.#daemon.catalogue.all()) this.tables.set(name, live);
    const { switch: model } = this.#world;
    if (model === null) return;
    const { name } = model.layout;
    const asked = this.#daemon.call('download', { name, sector: 0 });
    this.regions = await outcome(this.#engine, 'download', asked);
  }

  /** Reads everything, and throws if something is not as it must be. By device. */
  async check(resolution: Resolution, loss: Loss): Promise<Map<string, Int32Array>> {
    const seen = new Map<string, Int32Array>();
    for (const { name, cells } of resolution.checks) {
      if (await this.#isLost(name)) continue;
      const stamps = new Int32Array(cells.length);
      seen.set(name, stamps);
      this.#read(name, stamps);
    }
    await until(this.#engine, 'all is read', () => this.#unanswered === 0);
    for (const name of this.#lost) seen.delete(name);
    for (const { name, cells } of resolution.checks) {
      const stamps = seen.get(name);
      if (stamps === undefined) continue;
      const problem = problemAfter(loss, cells, stamps);
      if (problem !== null) throw new SimFailure(`after ${loss}`, `${name}: ${problem}`);
    }
    return seen;
  }

  /** Whether it is a snapshot that is invalid, and may be. */
  async #isLost(name: string): Promise<boolean> {
    const { family } = this.#world;
    const { snapshots, change } = family;
    const snapshot = snapshots.get(name);
    const taken = change?.kind === 'take' && change.name === name ? change.facts : null;
    if (snapshot === undefined && taken === null) return false;
    if (this.#world.unmarked.has(snapshot?.facts.cowPath ?? '')) return true;
    const asked = this.#daemon.call('status', { name });
    const [line] = await outcome(this.#engine, 'status', asked);
    const transient = snapshot?.facts.transient ?? taken?.transient ?? false;
    if (line?.words !== 'Invalid') {
      if (transient) throw new SimFailure('status', `${name} is N, and is "${line?.words}"`);
      if (snapshot?.invalid) throw new SimFailure('status', `${name} is valid again`);
      return false;
    }
    if (!transient && !family.mayBeInvalid(name)) {
      throw new SimFailure('status', `${name} is Invalid, and nothing has happened to it`);
    }
    return true;
  }

  #read(name: string, stamps: Int32Array): void {
    const number = 1000 + this.#clients.length;
    const address = { path: socketPath, number };
    const structured = this.#world.random.chance(500);
    const client = new SimClient(this.#engine, address, name, structured, this);
    this.#clients.push(client);
    this.#found.set(client, stamps);
    for (let first = 0; first < stamps.length; first += readSectors) {
      this.#unanswered++;
      const sectors = Math.min(readSectors, stamps.length - first);
      client.send(new ClientRequest(CMD.read, 0, first, sectors));
    }
  }

  answered(client: SimClient, request: ClientRequest): void {
    this.#unanswered--;
    // A merge that goes on may fill it up while it is looked at.
    if (request.error !== 0 && this.#world.family.mayBeInvalid(client.name)) {
      this.#found.delete(client);
      this.#lost.add(client.name);
      return;
    }
    if (request.error !== 0) {
      throw new SimFailure('error', `${client.name} cannot be read: errno ${request.error}`);
    }
    this.#found.get(client)?.set(request.stamps as Int32Array, request.first);
  }

  disconnected(client: SimClient): void {
    if (!this.#leaving) throw new SimFailure('connection', `${client.name}: closed`);
  }

  /** All of it is gone. */
  abandon(): void {
    this.#engine.abandon();
    for (const client of this.#clients) client.leave();
  }

  /** Its clients go. */
  async leave(): Promise<void> {
    this.#leaving = true;
    for (const client of this.#clients) client.disconnect();
    await until(this.#engine, 'clients go', () => this.#clients.every(({ isClosed }) => isClosed));
  }
}
