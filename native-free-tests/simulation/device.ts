/**
 * A device as its clients see it: requests go out, answers come in and are held against what the
 * oracle remembers. What else follows from a write or a flush is told to those who have rules.
 */

import { ESHUTDOWN, errnoName } from '../../src/base/errno.js';
import type { Write } from './cells.js';
import { SimFailure } from './failure.js';
import type { History, Reading } from './history.js';
import {
  type ClientOwner,
  ClientRequest,
  CMD,
  CMD_FAST_ZERO,
  CMD_FUA,
  type Command,
  type SimClient,
} from './nbd-client.js';
import { sectorBytes } from './stamps.js';
import type { Tally } from './tally.js';

const ENOTSUP = 95;
/** Transmission flags. */
const offersTrim = 1 << 5;
const offersFastZero = 1 << 11;

/** What else is there to a device. */
export interface DeviceRules {
  /** A write has begun, and ended. */
  wrote(write: Write): void;
  written(write: Write): void;
  /** A flush that began at `start` has ended well. */
  flushed(start: number): void;
  /** Whether an error is something that may happen. */
  mayFail(asked: Asked): boolean;
}

/** A request that was sent, and what the oracle has to do with it. */
export class Asked extends ClientRequest {
  /** When it was sent. */
  start = 0;
  write: Write | null = null;
  reading: Reading | null = null;
}

/** How the world makes connections, and what it counts. */
export interface ClientWorld {
  connect(name: string, owner: ClientOwner): SimClient;
  /** A stamp that no sector has, and room for as many behind it. */
  takeStamps(sectors: number): number;
  tick(): number;
  /** For a person who reads what has happened; only while `tracing`. */
  note(text: string): void;
  readonly tracing: boolean;
  /** The daemon is ending: requests may be refused. */
  readonly ending: boolean;
  readonly tally: Tally;
  inFlight: number;
}

export class ClientDevice implements ClientOwner {
  readonly name: string;
  readonly history: History;
  readonly clients: SimClient[] = [];
  /** When it was suspended; null: it is not. */
  suspendedSince: number | null = null;
  inFlight = 0;
  /** Writes of clients that have gone: nobody knows when they end. */
  readonly lost: Write[] = [];
  readonly #world: ClientWorld;
  readonly #rules: DeviceRules;
  /** Flushes that began before are no promise for what it holds now. */
  #changedAt = 0;

  constructor(world: ClientWorld, name: string, history: History, rules: DeviceRules) {
    this.#world = world;
    this.name = name;
    this.history = history;
    this.#rules = rules;
  }

  get sectors(): number {
    return this.history.sectors;
  }

  connect(): SimClient {
    const client = this.#world.connect(this.name, this);
    this.clients.push(client);
    return client;
  }

  /** The device holds something else from now on. */
  changed(): void {
    this.#changedAt = this.#world.tick();
  }

  /** Whether the export offers that command. */
  offers(client: SimClient, command: Command, flags: number): boolean {
    if (command === CMD.trim) return (client.exportFlags & offersTrim) !== 0;
    if ((flags & CMD_FAST_ZERO) !== 0) return (client.exportFlags & offersFastZero) !== 0;
    if (command === CMD.status) return client.structured;
    return true;
  }

  ask(client: SimClient, command: Command, flags: number, first: number, sectors: number): void {
    const world = this.#world;
    const stamp = command === CMD.write ? world.takeStamps(sectors) : 0;
    const asked = new Asked(command, flags, first, sectors, stamp);
    asked.start = world.tick();
    const fua = (flags & CMD_FUA) !== 0;
    if (command === CMD.write || command === CMD.zero || command === CMD.trim) {
      const maybe = command === CMD.trim;
      asked.write = this.history.began({ first, sectors, stamp, fua, maybe });
      this.#rules.wrote(asked.write);
    } else if (command === CMD.read || command === CMD.status) {
      asked.reading = this.history.reads();
    }
    this.inFlight++;
    world.inFlight++;
    world.tally.requests++;
    client.send(asked);
    if (world.tracing) world.note(`    ${this.name}: ${textOf(asked)}`);
  }

  answered(_client: SimClient, request: ClientRequest): void {
    const asked = request as Asked;
    const { error, write, reading } = asked;
    const world = this.#world;
    this.inFlight--;
    world.inFlight--;
    if (world.tracing) {
      world.note(`    ${this.name}: answer to ${textOf(asked)}${errorText(error)}`);
    }
    const since = this.suspendedSince;
    if (since !== null && asked.start > since && error === 0) {
      this.#fail('suspension', `${textOf(asked)} was answered while it is suspended`);
    }
    if (error !== 0 && !this.#mayFail(asked)) {
      this.#fail('error', `${textOf(asked)}${errorText(error)}`);
    }
    if (write !== null) {
      this.history.ended(write, error === 0);
      this.#rules.written(write);
    } else if (reading !== null) {
      if (asked.command === CMD.status && error === 0) this.#checkExtents(asked, reading);
      const found = error === 0 ? asked.stamps : null;
      const problem = this.history.read(reading, asked.first, found);
      if (problem !== null) this.#fail('read', problem);
    } else if (asked.command === CMD.flush && error === 0) {
      if (asked.start > this.#changedAt) this.#rules.flushed(asked.start);
    }
  }

  #mayFail(asked: Asked): boolean {
    if (this.#world.ending && asked.error === ESHUTDOWN) return true;
    const fast = asked.command === CMD.zero && (asked.flags & CMD_FAST_ZERO) !== 0;
    return (fast && asked.error === ENOTSUP) || this.#rules.mayFail(asked);
  }

  #fail(kind: string, text: string): never {
    throw new SimFailure(kind, `${this.name}: ${text}`);
  }

  /** What is told to be zeroes must be able to be. */
  #checkExtents({ extents, first }: Asked, reading: Reading): void {
    let at = first * sectorBytes;
    for (let i = 0; extents !== null && i < extents.length; i += 2) {
      const end = at + (extents[i] as number);
      if (((extents[i + 1] as number) & 2) !== 0) {
        const from = Math.ceil(at / sectorBytes);
        const sector = this.history.cannotBeZero(reading, from, Math.floor(end / sectorBytes));
        if (sector >= 0) this.#fail('extents', `sector ${sector} is told to be zeroes`);
      }
      at = end;
    }
  }

  /** ClientOwner. */
  disconnected(client: SimClient): void {
    this.#forget(client);
    if (client.inFlight.size === 0 || this.#world.ending) return;
    this.#fail('connection', `closed with ${client.inFlight.size} requests unanswered`);
  }

  /** A client is gone without a word. */
  drop(client: SimClient): void {
    client.drop();
    this.#forget(client);
  }

  #forget(client: SimClient): void {
    const at = this.clients.indexOf(client);
    if (at >= 0) this.clients.splice(at, 1);
    for (const request of client.inFlight.values()) {
      const { reading, write, first } = request as Asked;
      this.inFlight--;
      this.#world.inFlight--;
      if (write !== null) this.lost.push(write);
      if (reading !== null) this.history.read(reading, first, null);
    }
    client.inFlight.clear();
  }

  /** Nothing is inside the device any more. */
  endLost(): void {
    for (const write of this.lost.splice(0)) {
      this.history.ended(write, false);
      this.#rules.written(write);
    }
  }

  /** The daemon is gone with all connections. */
  reset(): void {
    for (const client of this.clients.splice(0)) client.leave();
    this.lost.length = 0;
    this.#world.inFlight -= this.inFlight;
    this.inFlight = 0;
    this.suspendedSince = null;
    this.#changedAt = 0;
  }
}

const names = new Map<number, string>(Object.entries(CMD).map(([name, number]) => [number, name]));

function textOf({ command, cookie, first, flags, sectors, stamp }: ClientRequest): string {
  const range = command === CMD.flush ? '' : ` ${first}+${sectors}`;
  const what = stamp === 0 ? '' : ` stamps ${stamp}..${stamp + sectors - 1}`;
  const fua = (flags & CMD_FUA) !== 0 ? ' fua' : '';
  return `${names.get(command)} ${cookie}${range}${fua}${what}`;
}

function errorText(error: number): string {
  return error === 0 ? '' : `: ${errnoName(error)}`;
}
