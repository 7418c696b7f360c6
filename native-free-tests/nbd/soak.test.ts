/**
 * Several clients at once on one device, with little memory and a slow disk: they ask for whatever
 * they like, in pieces, stop taking replies, leave or break off, while the device gets other tables
 * of the same layout. What is read must be possible, and in the end everything is given back.
 */

import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import t from 'tap';
import { ECONNRESET, EIO } from '../../src/base/errno.js';
import { disconnectMilliseconds } from '../../src/base/limits.js';
import type { Disk } from '../backing/scripted-engine.js';
import { random } from '../contract/pattern.js';
import { SectorModel, sectorBytes, stamped } from '../device/sector-model.js';
import {
  CMD,
  CMD_FLAG,
  extended,
  type Mode,
  type Reply,
  type RequestFields,
  request,
  simple,
  statusPayload,
  structured,
} from './client.js';
import { cut, randomCuts } from './cuts.js';
import { type Client, Rig } from './rig.js';

const sectors = 600;

const several: Mode = { ...extended, contexts: ['base:allocation', 'qemu:allocation-depth'] };

const tables = [
  '0 600 linear /a 0',
  '0 100 linear /a 0\n100 500 striped 1 4 /a 100',
  '0 301 linear dm:low 0\n301 299 linear /a 301',
  '0 600 linear file:///a?direct=1 0',
] as const;

class Soak extends Rig {
  readonly model = new SectorModel();
  readonly storage: Disk;
  readonly #next: (limit: number) => number;
  /** What is to be done with the reply to a request, or when there will be none. */
  readonly #waiting = new Map<Client, Map<number, (reply: Reply | null) => void>>();
  readonly #modes = new Map<Client, Mode>();
  readonly #commands: Promise<unknown>[] = [];
  #stamps = 0;
  #cookies = 0;
  answered = 0;

  constructor(seed: number, arenaBytes: number) {
    super(arenaBytes);
    this.#next = random(seed);
    this.engine.shuffle(this.#next);
    this.storage = this.disk('/a', sectors);
    this.storage.script = ({ what, length }) => {
      if (this.#next(25) !== 0 || (what !== 'read' && what !== 'write')) return undefined;
      return this.#next(2) === 0 ? -EIO : sectorBytes * (1 + this.#next(length / sectorBytes));
    };
  }

  get open(): Client[] {
    return this.clients.filter(({ socket }) => !socket.closed);
  }

  step(): void {
    const { open } = this;
    const client = open[this.#next(open.length)];
    const chance = this.#next(40);
    if (client === undefined || (chance === 0 && open.length < 6)) this.#connect();
    else if (chance === 1) this.#leave(client);
    else if (chance < 4) client.socket.takeReplies(this.#next(2) === 0);
    else if (chance < 6) this.#command();
    else if (chance < 22) this.#ask(client);
    for (let turns = this.#next(6); turns > 0; turns--) this.turn();
    this.look();
  }

  #connect(): void {
    this.look();
    const mode = [simple, structured, extended, several][this.#next(4)] as Mode;
    const client = this.tryConnect('it', mode);
    if (client === null) return;
    this.#waiting.set(client, new Map());
    this.#modes.set(client, mode);
  }

  #leave(client: Client): void {
    const how = this.#next(4);
    const extended = this.#modes.get(client)?.extended ?? false;
    if (how === 0) client.socket.push(request({ type: CMD.disconnect, cookie: 0 }, extended));
    else if (how === 1) client.socket.end();
    else client.socket.end(ECONNRESET);
    if (how === 3) client.socket.breakSends();
  }

  #command(): void {
    const which = this.#next(5);
    const started =
      which < 2
        ? this.devices.load('it', tables[this.#next(tables.length)] as string)
        : which === 2
          ? this.devices.suspend('it', this.#next(2) === 0)
          : this.devices.resume('it');
    this.#commands.push(started);
  }

  #ask(client: Client): void {
    const first = this.#next(sectors);
    const most = this.#next(4) === 0 ? sectors : 12;
    const count = 1 + this.#next(Math.min(most, sectors - first));
    const names = Array.from({ length: count }, (_, i) => `${first + i}`);
    const range = { offset: first * sectorBytes, length: count * sectorBytes };
    const cookie = ++this.#cookies;
    const kind = this.#next(11);
    const mode = this.#modes.get(client) ?? simple;
    let fields: RequestFields;
    let ended: (reply: Reply | null) => void = () => {};
    if (kind < 4) {
      const stamp = ++this.#stamps;
      const payload = Buffer.concat(names.map(() => stamped(stamp)));
      const flags = this.#next(2) | (mode.extended ? CMD_FLAG.payloadLen * this.#next(2) : 0);
      fields = { type: CMD.write, cookie, offset: range.offset, payload, flags };
      const done = this.model.write(names, stamp);
      ended = (reply) => done(reply === null || reply.error !== 0);
    } else if (kind < 8) {
      fields = { type: CMD.read, cookie, ...range };
      const check = this.model.read(names);
      ended = (reply) => check(reply?.error === 0 ? reply.data : Buffer.alloc(0));
    } else if (kind === 8) {
      const flags = this.#next(2) === 0 ? CMD_FLAG.noHole : 0;
      fields = { type: CMD.writeZeroes, cookie, ...range, flags };
      const done = this.model.write(names, 0);
      ended = (reply) => done(reply === null || reply.error !== 0);
    } else if (kind === 9 && mode.contexts.length > 0) {
      [fields, ended] = this.#askStatus(mode, cookie, range);
    } else {
      const type = [CMD.flush, CMD.cache, CMD.trim][this.#next(3)] as number;
      fields = type === CMD.flush ? { type, cookie } : { type, cookie, ...range };
      const done = type === CMD.trim ? this.model.write(names, 0) : null;
      ended = () => done?.(true);
    }
    this.#waiting.get(client)?.set(cookie, ended);
    const bytes = client.bytes(fields);
    const pieces = cut(bytes, randomCuts(bytes.length, 1 + this.#next(200_000), this.#next));
    for (const piece of pieces) {
      client.socket.push(piece);
      if (this.#next(2) === 0) this.turn();
    }
  }

  /** A BLOCK_STATUS, sometimes of chosen contexts; each has extents, none too many. */
  #askStatus(
    { extended, contexts }: Mode,
    cookie: number,
    { offset, length }: { offset: number; length: number },
  ): [RequestFields, (reply: Reply | null) => void] {
    const one = this.#next(3) === 0;
    const chooses = extended && this.#next(2) === 0;
    const asked = chooses ? [contexts.length] : contexts.map((_, i) => i + 1);
    const flags = (one ? CMD_FLAG.reqOne : 0) | (chooses ? CMD_FLAG.payloadLen : 0);
    const how = chooses ? { payload: statusPayload(length, ...asked) } : { length };
    const check = (reply: Reply | null): void => {
      if (reply?.error !== 0) return;
      for (const id of asked) {
        const tag = id === 1 ? /^(\d+):/ : new RegExp(`^${id}/(\\d+):`);
        const lengths = reply.chunks.map((chunk) => Number(tag.exec(chunk)?.[1] ?? 0));
        const known = lengths.filter((bytes) => bytes > 0);
        const sum = known.reduce((all, bytes) => all + bytes, 0);
        if (known.length === 0 || sum > length || (one && known.length !== 1)) {
          throw new Error(`context ${id} of ${length} bytes: ${reply.chunks}`);
        }
      }
    };
    return [{ type: CMD.blockStatus, cookie, offset, ...how, flags }, check];
  }

  /** Takes the replies that have come. */
  look(): void {
    for (const [client, waiting] of this.#waiting) {
      for (const [cookie, ended] of waiting) {
        const reply = client.reply(cookie);
        if (reply === undefined && !client.socket.closed) continue;
        waiting.delete(cookie);
        if (reply !== undefined) this.answered++;
        ended(reply ?? null);
      }
    }
  }

  async end(): Promise<void> {
    this.#commands.push(this.devices.resume('it'));
    for (const client of this.open) client.socket.takeReplies(true);
    await this.wait(Promise.all(this.#commands));
    for (let i = 0; i < 20; i++) {
      this.work();
      this.engine.advance(10);
    }
    this.look();
    this.storage.script = () => undefined;
    for (const client of this.open) {
      // An end of its side may have come, or half a request; if not, everything was answered.
      client.socket.end();
      this.work();
      this.engine.advance(disconnectMilliseconds);
      this.work();
    }
    this.look();
    const last = this.connect('it', structured);
    for (let sector = 0; sector < sectors; sector += 8) {
      const check = this.model.read(Array.from({ length: 8 }, (_, i) => `${sector + i}`));
      const { error, data } = last.answer(last.read(sector * sectorBytes, 8 * sectorBytes));
      if (error !== 0) throw new Error(`error ${error} at last`);
      check(data);
    }
    last.leave();
    await this.wait(this.devices.shutdown());
    this.atRest();
    if (this.descriptors !== 0) throw new Error(`${this.descriptors} descriptors are open`);
  }
}

t.test('serves many clients at once, whatever they and the device do', async (t) => {
  let answered = 0;
  const memory = fc.constantFrom(2, 3, 8, 64).map((mebibytes) => mebibytes * 2 ** 20);
  await fc.assert(
    fc.asyncProperty(fc.integer(), memory, async (seed, arenaBytes) => {
      const soak = new Soak(seed, arenaBytes);
      await soak.create('low', '0 600 linear /a 0');
      await soak.create('it', tables[0]);
      for (let i = 0; i < 300; i++) {
        soak.step();
        if (i % 5 === 0) await soak.settle();
      }
      await soak.end();
      answered += soak.answered;
    }),
    { numRuns: 40 },
  );
  t.ok(answered > 1000, `${answered} requests were answered`);
});
