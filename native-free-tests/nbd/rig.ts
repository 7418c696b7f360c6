/** A server with devices on the scripted engine, and clients that the test plays. */

import { Buffer } from 'node:buffer';
import { ECONNRESET } from '../../src/base/errno.js';
import { batchBytes, batchPieces } from '../../src/base/limits.js';
import type { ExportDirectory } from '../../src/nbd/export.js';
import { peerNamed } from '../../src/nbd/peer.js';
import { type ConnectionEvents, Server, type ServerSettings } from '../../src/nbd/server.js';
import type { Disk } from '../backing/scripted-engine.js';
import { World } from '../device/world.js';
import {
  CMD,
  hello,
  type Mode,
  type Reply,
  ReplyReader,
  type RequestFields,
  request,
  simple,
  structured,
} from './client.js';
import { FakeSocket, type Traffic } from './fake-socket.js';

/** What a reply batch keeps for ever: its block, and its vector of 16 bytes a piece. */
const batchBytesKept = batchBytes + 16 * batchPieces;

/** The ACK to GO. */
const acknowledged = '0003e889045565a9000000070000000100000000';

export class Rig extends World {
  readonly server: Server;
  readonly traffic: Traffic = { sends: 0, mostSends: 0 };
  /** What was told of connections: `open peer device`. */
  readonly events: string[] = [];
  readonly clients: Client[] = [];

  constructor(arenaBytes?: number, settings: ServerSettings = {}) {
    super(arenaBytes);
    const events: ConnectionEvents = {
      connection: (what, peer, device) => this.events.push(`${what} ${peer} ${device}`),
    };
    this.server = new Server(this.engine, this.ios, this.devices, this.log, events, settings);
  }

  /** The exports as a client of this machine sees them. */
  get exports(): ExportDirectory {
    return this.server.directory(peerNamed('unix'));
  }

  /** A socket that has just been accepted. */
  accept(atOnce = false): FakeSocket {
    const socket = new FakeSocket(this.engine, this.traffic);
    socket.atOnce = atOnce;
    this.server.accepted(socket, `peer${this.clients.length}`);
    return socket;
  }

  /** A client that has the export and is ready for requests. */
  connect(name: string, mode: Mode = structured, atOnce = false): Client {
    const client = this.tryConnect(name, mode, atOnce);
    if (client === null) throw new Error(`no export "${name}"`);
    return client;
  }

  /** Null when it is refused, or when there is no memory for it within a while. */
  tryConnect(name: string, mode: Mode, atOnce = false): Client | null {
    const socket = this.accept(atOnce);
    socket.push(hello(name, mode));
    let output = Buffer.alloc(0);
    for (let wait = 0; wait < 10; wait++) {
      this.work();
      output = Buffer.concat([output, socket.takeOutput()]);
      // The last option reply is the ACK to GO.
      if (output.toString('hex', output.length - 20) === acknowledged) {
        const client = new Client(this, socket, mode);
        this.clients.push(client);
        return client;
      }
      this.engine.advance(10);
    }
    socket.end(ECONNRESET);
    return null;
  }

  /** One operation ends, if one is under way, and what that wakes is done; time stands still. */
  turn(): void {
    if (this.engine.underWay.length > 0) this.engine.turn();
    else this.engine.advance(0);
  }

  /** Ends everything that is under way, as far as no timer is needed for it. */
  work(): void {
    this.engine.advance(0);
    while (this.engine.underWay.length > 0) this.engine.turn();
  }

  /** Bytes that are out, but for what the pools keep. */
  get heldBytes(): number {
    return this.engine.arena.inUse - this.traffic.mostSends * batchBytesKept;
  }

  /** Nothing is left of any connection. */
  override atRest(): void {
    for (const client of this.clients) {
      if (!client.socket.closed) throw new Error('a socket is open');
    }
    let users = 0;
    for (const device of this.devices.all()) users += device.users.size;
    const left = {
      ios: this.ios.inUse,
      bytes: this.heldBytes,
      operations: this.engine.underWay.length,
      timers: this.engine.timers,
      users,
    };
    for (const [what, count] of Object.entries(left)) {
      if (count !== 0) throw new Error(`${what}: ${count} are left`);
    }
  }
}

export class Client {
  readonly socket: FakeSocket;
  readonly #rig: Rig;
  readonly #reader: ReplyReader;
  readonly #extended: boolean;
  readonly #replies = new Map<number, Reply>();
  /** Cookies in the order of their replies. */
  readonly order: number[] = [];
  #cookie = 0;

  constructor(rig: Rig, socket: FakeSocket, mode: Mode) {
    this.#rig = rig;
    this.socket = socket;
    this.#reader = new ReplyReader(mode);
    this.#extended = mode.extended;
  }

  /** Sends a request; its cookie. */
  ask(type: number, fields: Omit<RequestFields, 'type' | 'cookie'> = {}): number {
    const all: RequestFields = { ...fields, type, cookie: ++this.#cookie };
    this.send(all);
    return this.#cookie;
  }

  /** The bytes of a request that the test pushes by itself, or in pieces. */
  bytes(fields: RequestFields): Buffer {
    this.expect(fields);
    return request(fields, this.#extended);
  }

  send(fields: RequestFields): void {
    this.socket.push(this.bytes(fields));
  }

  read(offset: number, length: number, flags = 0): number {
    return this.ask(CMD.read, { offset, length, flags });
  }

  write(offset: number, payload: Uint8Array, flags = 0): number {
    return this.ask(CMD.write, { offset, payload, flags });
  }

  /** Of a request whose bytes the test pushes by itself. */
  expect(fields: RequestFields): void {
    this.#reader.asked(fields);
    this.#cookie = Math.max(this.#cookie, fields.cookie);
  }

  get unanswered(): number {
    this.#takeReplies();
    return this.#reader.unanswered;
  }

  get partialBytes(): number {
    this.#takeReplies();
    return this.#reader.partialBytes;
  }

  /** The reply to a request, if it has come. */
  reply(cookie: number): Reply | undefined {
    this.#takeReplies();
    return this.#replies.get(cookie);
  }

  /** The reply to a request, after everything has been worked off. */
  answer(cookie: number): Reply {
    this.#rig.work();
    const reply = this.reply(cookie);
    if (reply === undefined) throw new Error(`request ${cookie} has not been answered`);
    return reply;
  }

  /** Leaves, and sees that the server does so too. */
  leave(): void {
    this.socket.push(request({ type: CMD.disconnect, cookie: 0 }, this.#extended));
    this.#rig.work();
    if (!this.socket.closed) throw new Error('the server has not closed');
  }

  #takeReplies(): void {
    for (const reply of this.#reader.take(this.socket.takeOutput())) {
      this.#replies.set(reply.cookie, reply);
      this.order.push(reply.cookie);
    }
  }
}

/** The bytes from hexadecimal text with blanks in it. */
export function hex(text: string): Buffer {
  return Buffer.from(text.replace(/\s+/g, ''), 'hex');
}

/** A device over a disk of 8 MiB, and a connection to it. */
export async function onDisk(
  mode = simple,
  atOnce = false,
): Promise<{ rig: Rig; disk: Disk; client: Client }> {
  const sectors = 16_384;
  const rig = new Rig(32 * 2 ** 20);
  const disk = rig.disk('/disk', sectors);
  await rig.create('it', `0 ${sectors} linear /disk 0`);
  return { rig, disk, client: rig.connect('it', mode, atOnce) };
}
