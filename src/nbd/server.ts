/** Listeners and connections of a queue, and the exports they serve: every device, by its name. */

import { Deferred } from '../base/deferred.js';
import { connections as connectionsMax, payloadBytes } from '../base/limits.js';
import type { Log } from '../base/log.js';
import type { Device } from '../device/device.js';
import { ErrorLog } from '../device/error-log.js';
import type { IoPool } from '../device/io.js';
import type {
  ConnectionHandler,
  Engine,
  EngineListener,
  EngineSocket,
  ListenAddress,
} from '../engine/engine.js';
import { Connection, type ConnectionOwner, type Exports } from './connection.js';
import type { ExportEntry, ExportInfo } from './export.js';
import { Resources } from './resources.js';

/** Where the exports come from. */
export interface Devices {
  find(name: string): Device | undefined;
  all(): Iterable<Device>;
}

export interface ConnectionEvents {
  connection(what: 'open' | 'close', peer: string, device: string | null): void;
}

const preferredBlockBytes = 4096;

export class Server implements ConnectionHandler, ConnectionOwner, Exports {
  /** The device that the empty name means; null: the only one, if there is only one. */
  defaultExport: string | null = null;

  readonly #engine: Engine;
  readonly #devices: Devices;
  readonly #events: ConnectionEvents;
  readonly #resources: Resources;
  readonly #log: Log;
  readonly #listeners: EngineListener[] = [];
  readonly #connections = new Set<Connection>();
  #allClosed: Deferred<void> | null = null;

  constructor(engine: Engine, ios: IoPool, devices: Devices, log: Log, events: ConnectionEvents) {
    this.#engine = engine;
    this.#devices = devices;
    this.#events = events;
    this.#log = log;
    this.#resources = new Resources(engine, ios, log, new ErrorLog(engine, log));
  }

  async listen(address: ListenAddress): Promise<ListenAddress> {
    const listener = await this.#engine.listen(address, this);
    this.#listeners.push(listener);
    return listener.address;
  }

  /** ConnectionHandler. */
  accepted(socket: EngineSocket, peer: string): void {
    if (this.#connections.size >= connectionsMax) {
      this.#log.warn({ peer }, `${peer}: refused, ${connectionsMax} connections are open`);
      socket.close();
      return;
    }
    const connection = new Connection(this, this, this.#resources, socket, peer);
    this.#connections.add(connection);
    this.#resources.setConnections(this.#connections.size);
    connection.start();
  }

  /** ConnectionOwner. */
  opened(connection: Connection, device: Device): void {
    this.#log.debug({ peer: connection.peer }, `${connection.peer}: uses ${device.name}`);
    this.#events.connection('open', connection.peer, device.name);
  }

  /** ConnectionOwner. */
  closed(connection: Connection): void {
    this.#connections.delete(connection);
    this.#resources.setConnections(this.#connections.size);
    if (connection.device !== null) {
      this.#events.connection('close', connection.peer, connection.device.name);
    }
    if (this.#connections.size === 0) this.#allClosed?.resolve();
  }

  /** ExportDirectory. Devices without a table have nothing to export. */
  list(): ExportEntry[] {
    const live = [...this.#devices.all()].filter((device) => device.live !== null);
    return live.map((device) => ({ name: device.name, description: describe(device) }));
  }

  /** ExportDirectory. */
  find(name: string): ExportInfo | null {
    const device = this.device(name);
    const features = device?.live?.features;
    if (device === null || features === undefined) return null;
    return {
      name: device.name,
      description: describe(device),
      sizeBytes: device.sizeBytes,
      readOnly: device.readOnly || !features.writable,
      trim: features.trim,
      fastZero: features.fastZero,
      cache: true,
      rotational: features.rotational,
      // All connections share one device, which keeps no cache for each.
      multiConn: true,
      blockBytesMin: 1,
      blockBytesPreferred: Math.max(preferredBlockBytes, features.blockBytes),
      payloadBytesMax: payloadBytes,
    };
  }

  /** Exports. */
  device(name: string): Device | null {
    if (name !== '') return this.#devices.find(name) ?? null;
    if (this.defaultExport !== null) return this.#devices.find(this.defaultExport) ?? null;
    const [first, second] = this.list();
    return first !== undefined && second === undefined
      ? (this.#devices.find(first.name) ?? null)
      : null;
  }

  /** No new clients; those there are get their answers and are disconnected. */
  async shutdown(): Promise<void> {
    for (const listener of this.#listeners) listener.close();
    if (this.#connections.size === 0) return;
    this.#allClosed = new Deferred(this.#engine);
    for (const connection of [...this.#connections]) connection.shutdown();
    await this.#allClosed.promise;
  }
}

/** What LIST and INFO tell a person: the kinds of targets, in order, each once. */
function describe(device: Device): string {
  const types = (device.live?.slots ?? []).map((slot) => slot.target.type.name);
  return [...new Set(types)].slice(0, 8).join(', ');
}
