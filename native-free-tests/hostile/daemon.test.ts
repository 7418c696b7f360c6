/**
 * The daemon among clients that do what no client should. One well-behaved client works on
 * throughout and must find every byte right; at the end all is as it was before.
 */

import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { residentBytes } from '../../src/base/limits.js';
import { fillPattern } from '../contract/pattern.js';
import { type Daemon, eachEngine, linear, MiB, Scratch, withDaemon } from '../interop/harness.js';
import { CMD, RawClient } from '../interop/raw-client.js';
import { Crowd } from './crowd.js';

const diskBytes = 64 * MiB;
const limitMilliseconds = 60_000;

/** Writes, reads and compares, with several requests at a time. */
class GoodClient {
  readonly #client: RawClient;
  readonly #bytes = 128 * 1024;
  #round = 0;

  constructor(client: RawClient) {
    this.#client = client;
  }

  static async connect(daemon: Daemon): Promise<GoodClient> {
    return new GoodClient(await RawClient.ready(daemon.socket, 'good', { structured: true }));
  }

  /** Throws unless everything comes back as it was written. */
  async work(rounds: number): Promise<void> {
    for (let i = 0; i < rounds; i++) await this.#rounds(++this.#round);
  }

  async #rounds(round: number): Promise<void> {
    const written = Array.from({ length: 8 }, (_, i) => {
      const payload = Buffer.alloc(this.#bytes);
      const offset = ((round * 8 + i) % 64) * this.#bytes;
      fillPattern(payload, offset, round);
      return { payload, offset, cookie: BigInt(i + 1) };
    });
    await this.#all(written.map((one) => ({ type: CMD.write, ...one })));
    const length = this.#bytes;
    const asked = written.map(({ offset, cookie }) => ({ type: CMD.read, offset, cookie, length }));
    const replies = await this.#all(asked);
    for (const { payload, cookie, offset } of written) {
      if (!replies.get(cookie)?.equals(payload)) throw new Error(`other bytes at ${offset}`);
    }
  }

  async #all(requests: readonly { type: number; cookie: bigint }[]): Promise<Map<bigint, Buffer>> {
    for (const request of requests) void this.#client.sendRequest(request);
    const replies = new Map<bigint, Buffer>();
    while (replies.size < requests.length) {
      const { cookie, error, data } = await this.#client.reply();
      if (error !== 0) throw new Error(`error ${error}: ${data}`);
      replies.set(cookie, data);
    }
    return replies;
  }

  /** A read that is much larger than the part that it has for certain. */
  async readMuch(): Promise<void> {
    const request = { type: CMD.read, cookie: 99n, length: 32 * MiB };
    const { error, data } = await this.#client.request(request);
    if (error !== 0 || data.length !== request.length) throw new Error(`error ${error}`);
  }

  leave(): void {
    this.#client.destroy();
  }
}

function descriptors(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

function residentNow(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
}

/** What a daemon has when nobody is there. */
interface Rest {
  readonly descriptors: number;
  readonly arena: number;
  readonly pool: number;
  readonly connections: number;
  readonly requests: number;
  readonly operations: number;
}

async function restOf(daemon: Daemon): Promise<Rest> {
  const memory = await daemon.call('memory', {});
  return {
    descriptors: descriptors(daemon.pid),
    arena: memory.arenaInUseBytes - memory.replyBytesKept,
    pool: memory.poolInUseBytes,
    connections: memory.connections,
    requests: memory.requests,
    operations: memory.operations,
  };
}

/** Waits until it is as it was: connections that have ended are closed when that is known. */
async function backTo(t: Test, daemon: Daemon, before: Rest): Promise<void> {
  const deadline = Date.now() + limitMilliseconds;
  for (;;) {
    const now = await restOf(daemon);
    if (JSON.stringify(now) === JSON.stringify(before) || Date.now() > deadline) {
      t.strictSame(now, before, 'nothing is left');
      return;
    }
    await sleep(50);
  }
}

/** A daemon, what it is at rest, and the test's body with a good client there. */
async function among(
  t: Test,
  engine: 'uring' | 'node',
  args: readonly string[],
  body: (daemon: Daemon, good: GoodClient) => Promise<void>,
): Promise<void> {
  const scratch = new Scratch(t);
  const devices = {
    good: linear(scratch.sparse('good', diskBytes), diskBytes),
    bad: linear(scratch.pattern('bad', diskBytes, 3), diskBytes),
  };
  const quiet = ['--log-level', 'info', ...args];
  await withDaemon(t, { engine, devices, args: quiet }, async (daemon) => {
    // What is made when it is first needed is there from now on.
    const first = await GoodClient.connect(daemon);
    await first.work(2);
    first.leave();
    await daemon.call('memory', {});
    await daemon.untilUnused('good');
    const before = await restOf(daemon);
    const good = await GoodClient.connect(daemon);
    await body(daemon, good);
    await good.work(2);
    t.ok(residentNow(daemon.pid) < residentBytes, `${residentNow(daemon.pid) / MiB} MiB`);
    good.leave();
    await backTo(t, daemon, before);
  });
}

eachEngine(t, 'a thousand connections of every bad sort', [], async (t, engine) => {
  await among(t, engine, ['--timeout', '0'], async (daemon, good) => {
    const sorts: [string, number][] = [
      ['readers', 250],
      ['greedy', 100],
      ['writers', 200],
      ['unfinished', 250],
      ['half-open', 100],
      ['stalled', 100],
    ];
    const crowds: Crowd[] = [];
    try {
      for (const [i, [kind, count]] of sorts.entries()) {
        const where = i % 2 === 0 ? daemon.socket : daemon.port;
        crowds.push(await Crowd.start(where, 'bad', kind, count));
        t.comment(`${count} ${kind}`);
        await good.work(1);
      }
      t.ok((await daemon.call('memory', {})).connections > 900);
      await good.work(10);
      await good.readMuch();
      const late = await GoodClient.connect(daemon);
      await late.work(5);
      await late.readMuch();
      late.leave();
      const { arenaInUseBytes, residentBytes } = await daemon.call('memory', {});
      t.comment(`arena ${arenaInUseBytes / MiB} MiB, resident ${residentBytes / MiB} MiB`);
    } finally {
      for (const crowd of crowds) crowd.kill();
    }
  });
});

eachEngine(t, 'thousands of connects a second', [], async (t, engine) => {
  await among(t, engine, [], async (daemon, good) => {
    const crowds = [
      await Crowd.start(daemon.port, 'bad', 'churn', 2000),
      await Crowd.start(daemon.socket, 'bad', 'garbage', 2000),
    ];
    const deadline = Date.now() + 3000;
    let rounds = 0;
    while (Date.now() < deadline) {
      await good.work(1);
      rounds++;
    }
    const made = await Promise.all(crowds.map((crowd) => crowd.end()));
    t.ok(made.every((count) => count > 100));
    t.comment(`${made} connections made, ${rounds} rounds beside them`);
    const late = await GoodClient.connect(daemon);
    await late.work(1);
    late.leave();
    const lines = daemon.log.filter(({ level }) => level === 'warn').length;
    t.ok(lines < 1000, `${lines} warnings`);
  });
});

eachEngine(t, 'a handshake that stalls is ended by --timeout', [], async (t, engine) => {
  await among(t, engine, ['--timeout', '500ms'], async (daemon, good) => {
    const crowd = await Crowd.start(daemon.port, 'bad', 'stalled', 50);
    const silent = await RawClient.connect(daemon.socket);
    await silent.closed();
    await good.work(1);
    const deadline = Date.now() + limitMilliseconds;
    while ((await daemon.call('memory', {})).connections > 1 && Date.now() < deadline) {
      await sleep(20);
    }
    t.equal((await daemon.call('memory', {})).connections, 1, 'the good one has stayed');
    t.ok(daemon.log.some(({ msg }) => /no export chosen within 500 ms/.test(msg)));
    await crowd.end();
  });
});
