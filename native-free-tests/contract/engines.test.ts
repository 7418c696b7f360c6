/** The suites on the engines that are used: every target on both, and the engine suite on uring. */

import { once } from 'node:events';
import { closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import t from 'tap';
import { messageOf } from '../../src/base/errors.js';
import { connections } from '../../src/base/limits.js';
import { FLUSH, READ, WRITE } from '../../src/device/io.js';
import { Arena } from '../../src/engine/arena.js';
import { chooseEngine } from '../../src/engine/choose.js';
import type { ConnectionHandler, Engine, EngineSocket } from '../../src/engine/engine.js';
import { targetTypes } from '../../src/target/registry.js';
import { IoClient, pattern } from '../device/io-client.js';
import { unavailable } from '../interop/programs.js';
import { type Beneath, EngineHarness, running } from './engine-harness.js';
import { engineSuite } from './engine-suite.js';
import { targetSuite } from './target-suite.js';

const arenaBytes = 64 * 1024 * 1024;
const beneaths: readonly Beneath[] = opensDirectly()
  ? ['file', 'direct', 'device']
  : ['file', 'device'];

/** Whether the file system of temporary files can do O_DIRECT. */
function opensDirectly(): boolean {
  const folder = mkdtempSync(join(tmpdir(), 'mapperd-'));
  try {
    closeSync(
      openSync(join(folder, 'x'), constants.O_DIRECT | constants.O_CREAT | constants.O_RDWR),
    );
    return true;
  } catch {
    return false;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

async function make(name: 'uring' | 'node'): Promise<Engine> {
  return (await chooseEngine(name, new Arena(arenaBytes))).engine;
}

/** Why uring cannot be used here, if it cannot. On Linux that is an error in CI. */
async function whyNot(): Promise<string | false> {
  try {
    const engine = await make('uring');
    engine.stop();
    await engine.run();
    return false;
  } catch (error) {
    const reason = messageOf(error);
    return process.platform === 'linux' ? unavailable(reason) : reason;
  }
}

/** How many descriptors this process may have. */
function descriptorsMax(): number {
  const limits = readFileSync('/proc/self/limits', 'latin1');
  return Number(/Max open files +(\d+)/.exec(limits)?.[1] ?? Number.POSITIVE_INFINITY);
}

const skip = { uring: await whyNot(), node: false } as const;

for (const name of ['uring', 'node'] as const) {
  t.test(`targets on ${name}`, { skip: skip[name] }, async (t) => {
    const engine = await make(name);
    // What the engine keeps for itself does not come back.
    engine.arena.inUse = 0;
    await running(engine, async () => {
      for (const beneath of beneaths) {
        for (const type of targetTypes) {
          await t.test(`${type.name} over a ${beneath}`, (t) =>
            targetSuite(t, type.name, () => new EngineHarness(engine, beneath)),
          );
        }
      }
    });
  });
}

for (const name of ['uring', 'node'] as const) {
  const title = `${name}: keeps direct and buffered writes that lie side by side`;
  t.test(title, { skip: skip[name] || !opensDirectly() }, async (t) => {
    const engine = await make(name);
    await running(engine, async () => {
      const harness = new EngineHarness(engine, 'direct');
      const backing = harness.openBacking(harness.makeBacking('x', 1024), 1024);
      const client = new IoClient(engine, harness.ios, (io) => backing.submit(io));
      const pages = 32;
      let failed = 0;
      for (let round = 0; round < 40; round++) {
        const parts: [number, Buffer][] = [];
        for (let page = 0; page < pages; page++) {
          const at = page * 4096;
          if (page % 3 === 0) parts.push([at, pattern(4096, round + page)]);
          else
            parts.push([at, pattern(512, round)], [at + 1000, pattern(100 + page, round + page)]);
        }
        const all = parts.map(([at, data]) => client.run(WRITE, at, data.length, { data }));
        const written = await Promise.all(all);
        const flush = await client.run(FLUSH, 0, 0);
        failed += [...written, flush].filter(({ errno }) => errno !== 0).length;
        for (const [at, data] of parts) {
          const read = await client.run(READ, at, data.length);
          if (!read.data.equals(data)) failed++;
        }
      }
      t.equal(failed, 0, 'no write, flush or read fails');
      await harness.close();
    });
  });
}

t.test('the engine suite on uring', { skip: skip.uring }, async (t) => {
  engineSuite(t, 'uring', () => make('uring'));
});

/** Both ends of the sockets below, and what else there is. */
const descriptorsWanted = 2 * connections + 200;
const tooFew =
  process.platform === 'linux' && descriptorsMax() < descriptorsWanted
    ? unavailable(`${descriptorsMax()} descriptors allowed, ${descriptorsWanted} wanted`)
    : false;

for (const name of ['uring', 'node'] as const) {
  const title = `${name}: accepts a connection too many, so that it can be refused`;
  t.test(title, { skip: skip[name] || tooFew }, async (t) => {
    const engine = await make(name);
    const accepted: EngineSocket[] = [];
    let refused = 0;
    const handler: ConnectionHandler = {
      accepted: (socket) => {
        if (accepted.length < connections) {
          accepted.push(socket);
        } else {
          refused++;
          socket.close();
        }
        engine.promiseResolved();
      },
    };
    await running(engine, async () => {
      const folder = mkdtempSync(join(tmpdir(), 'mapperd-'));
      t.teardown(() => rmSync(folder, { recursive: true }));
      const path = join(folder, 'socket');
      const listener = await engine.listen({ kind: 'unix', path }, handler);
      const clients: Socket[] = [];
      const ends: Promise<unknown>[] = [];
      for (let i = 0; i < connections + 3; i++) {
        const client = connect(path)
          .on('error', () => {})
          .resume();
        ends.push(once(client, 'close'));
        await once(client, 'connect');
        clients.push(client);
      }
      await Promise.all(ends.slice(connections));
      t.equal(accepted.length, connections);
      t.equal(refused, 3);
      for (const socket of accepted.splice(0)) socket.close();
      const next = connect(path).on('error', () => {});
      await once(next, 'connect');
      while (accepted.length === 0) await setTimeout(1);
      t.pass('there is room again');
      for (const socket of accepted) socket.close();
      for (const client of [...clients, next]) client.destroy();
      listener.close();
      await setTimeout(20);
    });
  });
}
