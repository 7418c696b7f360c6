/** Listeners and connections of a queue, and the exports they serve: every device, by its name. */

import { Deferred } from '../base/deferred.js';
import { connections as connectionsMax, connectionsSpare } from '../base/limits.js';
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
  ListenSource,
} from '../engine/engine.js';
import type { MemoryUse } from '../queue/commands.js';
import { Connection, type ConnectionOwner, type Exports } from './connection.js';
import type { ExportDirectory } from './export.js';
import { ExportAccess } from './export-access.js';
import { type Devices, type ExportSource, PeerDirectory } from './export-directory.js';
import type { ExportPolicy } from './export-policy.js';
import { type Peer, peerNamed } from './peer.js';
import { type Preamble, readPreamble } from './piped.js';
import { type ProtocolOptions, wholeProtocol } from './protocol-options.js';
import { Resources } from './resources.js';

export interface ConnectionEvents {
  connection(what: 'open' | 'close', peer: string, device: string | null): void;
}

export interface ServerSettings {
  readonly protocol?: ProtocolOptions;
  /** Addresses (CIDR) that are served at all; empty: all. */
  readonly allow?: readonly string[];
}

export class Server implements ConnectionHandler, ConnectionOwner, Exports, ExportSource {
  defaultExport: string | null = null;
  readonly devices: Devices;
  readonly access: ExportAccess;
  readonly log: Log;

  readonly #engine: Engine;
  readonly #events: ConnectionEvents;
  readonly #resources: Resources;
  readonly #listeners: EngineListener[] = [];
  readonly #connections = new Set<Connection>();
  /** The devices of those that have chosen one. */
  readonly #chosen = new Map<Connection, Device>();
  /** Of the gate, which has not said yet whom it brings. */
  readonly #arriving = new Set<EngineSocket>();
  #allClosed: Deferred<void> | null = null;

  /** Throws MapperError for an address in `allow` that is none. */
  constructor(
    engine: Engine,
    ios: IoPool,
    devices: Devices,
    log: Log,
    events: ConnectionEvents,
    { protocol = wholeProtocol, allow = [] }: ServerSettings = {},
  ) {
    this.access = new ExportAccess(allow);
    this.devices = devices;
    this.log = log;
    this.#engine = engine;
    this.#events = events;
    this.#resources = new Resources(engine, ios, log, new ErrorLog(engine, log), protocol);
  }

  /** `piped`: what connects there is the gate, and says first whom it brings. */
  async listen(source: ListenSource, piped = false): Promise<ListenAddress> {
    const handler: ConnectionHandler = piped
      ? { accepted: (socket, name) => this.#acceptedPiped(socket, name) }
      : this;
    const listener = await this.#engine.listen(source, handler);
    this.#listeners.push(listener);
    return listener.address;
  }

  /** ConnectionHandler. */
  accepted(socket: EngineSocket, name: string): void {
    if (this.#hasRoom(socket, name)) this.#connect(socket, peerOf(name), null);
  }

  #acceptedPiped(socket: EngineSocket, name: string): void {
    if (!this.#hasRoom(socket, name)) return;
    this.#arriving.add(socket);
    readPreamble(this.#engine, socket, (preamble) => {
      this.#arriving.delete(socket);
      if (preamble !== null && this.#allClosed === null) {
        this.#connect(socket, preamble.peer, preamble.resume);
        return;
      }
      // Without a preamble it is closed already.
      if (preamble !== null) socket.close();
      this.#tellIfAllClosed();
    });
  }

  /** Closes the socket if not. */
  #hasRoom(socket: EngineSocket, name: string): boolean {
    const isOpen = this.#allClosed === null;
    if (isOpen && this.#connections.size + this.#arriving.size < connectionsMax) return true;
    const why = isOpen ? `${connectionsMax} connections are open` : 'the daemon is ending';
    this.#resources.warnings.report({ peer: name }, `${name}: refused, ${why}`);
    socket.close();
    return false;
  }

  #connect(socket: EngineSocket, peer: Peer, resume: Preamble['resume']): void {
    const connection = new Connection(this, this, this.#resources, socket, peer, resume);
    this.#connections.add(connection);
    this.#resources.setConnections(this.#connections.size);
    connection.start();
    if (this.#connections.size > connectionsMax - connectionsSpare) this.#makeRoomFor(connection);
  }

  /** Handshakes that stall, however many, do not keep others out until they are too late. */
  #makeRoomFor(newcomer: Connection): void {
    for (const connection of this.#connections) {
      if (!connection.haggling) continue;
      if (connection !== newcomer) connection.giveWay();
      return;
    }
  }

  /** ExportSource. */
  get warnings(): ErrorLog {
    return this.#resources.warnings;
  }

  /** ConnectionOwner: others may have come while the client made up its mind. */
  admit(device: Device): string | null {
    const full = this.access.full(device);
    return full === null ? null : `export "${device.name}": ${full}`;
  }

  /** ConnectionOwner. */
  opened(connection: Connection, device: Device): void {
    const { name } = connection.peer;
    this.#chosen.set(connection, device);
    this.access.opened(device);
    this.log.debug({ peer: name }, `${name}: uses ${device.name}`);
    this.#events.connection('open', name, device.name);
  }

  /** ConnectionOwner. */
  closed(connection: Connection): void {
    this.#connections.delete(connection);
    this.#resources.setConnections(this.#connections.size);
    const device = this.#chosen.get(connection);
    if (device !== undefined) {
      this.#chosen.delete(connection);
      this.access.closed(device);
      this.#events.connection('close', connection.peer.name, device.name);
    }
    this.#tellIfAllClosed();
  }

  /** Exports. */
  directory(peer: Peer): ExportDirectory {
    return new PeerDirectory(this, peer);
  }

  /** Exports. */
  device(name: string): Device | null {
    return this.devices.find(name) ?? null;
  }

  /** Counts for clients that come from now on. Throws MapperError; then nothing has changed. */
  setPolicy(device: Device, policy: ExportPolicy): void {
    this.access.setPolicy(device, policy);
  }

  memoryUse(): Omit<MemoryUse, 'arenaBytes' | 'arenaInUseBytes' | 'operations'> {
    const { batches, memory, requestsInFlight } = this.#resources;
    return {
      replyBytesKept: batches.keptBytes,
      poolInUseBytes: memory.inUse,
      poolBytes: memory.size,
      connections: this.#connections.size + this.#arriving.size,
      requests: requestsInFlight,
    };
  }

  /** No new clients; those there are get their answers and are disconnected. */
  async shutdown(): Promise<void> {
    for (const listener of this.#listeners) listener.close();
    this.#allClosed = new Deferred(this.#engine);
    for (const connection of [...this.#connections]) connection.shutdown();
    for (const socket of this.#arriving) socket.shutdown();
    this.#tellIfAllClosed();
    await this.#allClosed.promise;
  }

  #tellIfAllClosed(): void {
    if (this.#connections.size + this.#arriving.size === 0) this.#allClosed?.resolve();
  }
}

/**
 * Who is named like that. A TCP peer that has gone already may have no address any more, and what
 * it has sent is carried out all the same: it is nobody whom a list of addresses lets in.
 */
function peerOf(name: string): Peer {
  const peer = peerNamed(name);
  return peer.host === null && !name.startsWith('unix') ? { ...peer, host: name } : peer;
}
