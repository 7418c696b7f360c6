/** Random writes to an export, as fast as they are answered, each entered in a journal. */

import { CMD, RawClient } from '../interop/raw-client.js';
import { type Journal, sectorBytes, type Written } from './journal.js';

export type Random = (limit: number) => number;

const FUA = 1;
const NO_HOLE = 2;
/** Requests at a time. */
const depth = 16;
const sectorsMax = 96;

export class Load {
  readonly #name: string;
  readonly #client: RawClient;
  readonly #journal: Journal;
  readonly #random: Random;
  readonly #underWay = new Map<bigint, Written | null>();
  #cookie = 0n;
  #stopping = false;
  /** Writes that were answered. */
  answered = 0;
  /** Errors that do not end it, and how often they came. */
  readonly #tolerated: readonly number[];
  failed = 0;
  /** Resolves when it was stopped, or the connection is gone; rejects when a request fails. */
  readonly ended: Promise<void>;

  private constructor(
    name: string,
    client: RawClient,
    journal: Journal,
    random: Random,
    tolerated: readonly number[],
  ) {
    this.#tolerated = tolerated;
    this.#name = name;
    this.#client = client;
    this.#journal = journal;
    this.#random = random;
    this.ended = this.#run();
    // Heard of by whoever waits for it.
    this.ended.catch(() => {});
  }

  static async start(
    socket: string,
    name: string,
    journal: Journal,
    random: Random,
    tolerated: readonly number[] = [],
  ): Promise<Load> {
    const client = await RawClient.ready(socket, name, { structured: true });
    return new Load(name, client, journal, random, tolerated);
  }

  /** Takes the answers that are missing, and no more. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.ended;
    this.#client.destroy();
  }

  async #run(): Promise<void> {
    for (;;) {
      while (!this.#stopping && this.#underWay.size < depth) this.#send();
      if (this.#underWay.size === 0) return;
      const reply = await this.#client.reply().catch((error: Error) => error);
      if (reply instanceof Error) {
        if (/the connection ended/.test(reply.message)) return;
        throw reply;
      }
      const written = this.#underWay.get(reply.cookie);
      if (written === undefined || !this.#underWay.delete(reply.cookie)) {
        throw new Error(`a reply to ${reply.cookie}, which waits for none`);
      }
      if (reply.error !== 0) {
        if (!this.#tolerated.includes(reply.error)) {
          throw new Error(`${this.#name}: a request failed: error ${reply.error}`);
        }
        this.failed++;
        if (written !== null) this.#journal.failed(written);
        continue;
      }
      if (written === null) continue;
      this.#journal.answered(written);
      this.answered++;
    }
  }

  #send(): void {
    const random = this.#random;
    const cookie = ++this.#cookie;
    if (random(24) === 0) {
      this.#underWay.set(cookie, null);
      void this.#client.sendRequest({ type: CMD.flush, cookie });
      return;
    }
    const count = 1 + (random(4) === 0 ? random(sectorsMax) : random(8));
    const first = random(this.#journal.sectors - count + 1);
    if (this.#journal.isBusy(first, count)) {
      // Nothing else may be under way then, so that this is no loop.
      this.#underWay.set(cookie, null);
      void this.#client.sendRequest({ type: CMD.read, cookie, offset: first, length: 1 });
      return;
    }
    const zeroes = random(12) === 0;
    const written = this.#journal.begin(first, count, zeroes);
    this.#underWay.set(cookie, written);
    const offset = first * sectorBytes;
    const flags = random(8) === 0 ? FUA : 0;
    if (zeroes) {
      const how = flags | (random(2) === 0 ? NO_HOLE : 0);
      const length = count * sectorBytes;
      void this.#client.sendRequest({ type: CMD.writeZeroes, cookie, flags: how, offset, length });
    } else {
      const payload = this.#journal.data(written);
      void this.#client.sendRequest({ type: CMD.write, cookie, flags, offset, payload });
    }
  }
}
