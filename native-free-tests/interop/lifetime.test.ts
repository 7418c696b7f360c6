/**
 * Clients that stall, vanish or crowd, and a daemon that ends while they are at work. Nobody pays
 * for another's behaviour, and every request is answered before the connection closes.
 */

import t, { type Test } from 'tap';
import {
  Daemon,
  eachEngine,
  linear,
  MiB,
  Scratch,
  sameContent,
  sectorsOf,
  withDaemon,
} from './harness.js';
import { launch, outputOf, succeed } from './programs.js';
import {
  CMD,
  encodeRequest,
  facts,
  infoRequest,
  OPT,
  RawClient,
  type Reply,
  u32,
} from './raw-client.js';

const ESHUTDOWN = 108;
const bytes = 64 * MiB;
const sectors = sectorsOf(bytes);

/** Copies a pattern in and out, and compares. */
async function works(t: Test, daemon: Daemon, files: Scratch, name: string): Promise<void> {
  const source = files.pattern('works.img', 16 * MiB, 30);
  const copy = files.file('works-copy.img');
  await succeed('nbdcopy', ['-C', '4', source, daemon.uri(name)]);
  const part = ['convert', '-n', '-f', 'raw', '-O', 'raw'];
  files.sparse('works-copy.img', bytes);
  await succeed('qemu-img', [...part, daemon.uri(name), copy]);
  await succeed('truncate', ['-s', `${16 * MiB}`, copy]);
  t.ok(sameContent(source, copy), 'another client is served');
}

eachEngine(t, 'other people', ['nbdcopy', 'qemu-img'], async (t, engine) => {
  const files = new Scratch(t);
  const devices = {
    disk: linear(files.sparse('disk.img', bytes), bytes),
    work: linear(files.sparse('work.img', bytes), bytes),
    memory: `0 ${sectors} memory`,
  };
  await withDaemon(t, { engine, devices }, async (daemon) => {
    await t.test('clients that do not read their replies', async (t) => {
      await stalled(t, daemon, files);
    });
    await t.test('clients that vanish in the middle of a write', async (t) => {
      await vanishing(t, daemon, files);
    });
    await t.test('clients killed while they copy', async (t) => {
      const source = files.pattern('long.img', bytes, 31);
      for (let i = 0; i < 5; i++) {
        const child = launch('nbdcopy', ['--request-size=33554432', source, daemon.uri('disk')]);
        child.stdin?.end();
        const ended = outputOf(child, 'nbdcopy', 60);
        await daemon.until('disk', ({ openCount }) => openCount > 0);
        child.kill('SIGKILL');
        await ended;
      }
      await daemon.untilUnused('disk');
      await works(t, daemon, files, 'disk');
    });
    await t.test('a crowd of idle clients', async (t) => {
      const crowd: RawClient[] = [];
      for (let i = 0; i < 300; i++) crowd.push(await RawClient.ready(daemon.socket, 'work'));
      await works(t, daemon, files, 'work');
      for (const client of crowd) {
        const reply = await client.request({ type: CMD.read, length: 100_000 });
        if (reply.error !== 0) t.fail(`an idle client got error ${reply.error}`);
        client.destroy();
      }
      await daemon.untilUnused('work');
    });
    await t.test('clients of a device that is removed by force', async (t) => {
      await daemon.call('create', { name: 'doomed', table: '0 2048 memory' });
      const client = await RawClient.ready(daemon.socket, 'doomed');
      const other = await RawClient.ready(daemon.socket, 'memory');
      await t.rejects(daemon.call('remove', { name: 'doomed' }), { message: /in use/ });
      await daemon.call('remove', { name: 'doomed', force: true });
      t.equal((await client.closed()).length, 0);
      t.equal((await other.request({ type: CMD.read, length: 512 })).error, 0);
      other.destroy();
    });
  });
});

/** Each asks for 256 MiB and takes nothing; in the end it gets it all. */
async function stalled(t: Test, daemon: Daemon, files: Scratch): Promise<void> {
  const reads = 256;
  const clients: RawClient[] = [];
  for (let i = 0; i < 6; i++) {
    const where = i % 2 === 0 ? daemon.socket : daemon.port;
    const client = await RawClient.ready(where, i < 3 ? 'disk' : 'memory', { structured: i > 3 });
    client.socket.pause();
    for (let j = 0; j < reads; j++) {
      void client.sendRequest({ type: CMD.read, length: MiB, cookie: BigInt(j) });
    }
    clients.push(client);
  }
  await works(t, daemon, files, 'work');
  await works(t, daemon, files, 'disk');
  const [first] = clients as [RawClient];
  first.socket.resume();
  const seen = new Set<bigint>();
  for (let j = 0; j < reads; j++) {
    const reply = await first.reply();
    if (reply.error === 0 && reply.data.length === MiB) seen.add(reply.cookie);
  }
  t.equal(seen.size, reads, 'one that reads again gets all its replies');
  for (const client of clients) client.destroy();
  await daemon.untilUnused('disk');
  await daemon.untilUnused('memory');
}

/** Together they promise far more than there is memory for. */
async function vanishing(t: Test, daemon: Daemon, files: Scratch): Promise<void> {
  const part = Buffer.alloc(3 * MiB, 0x55);
  const write = encodeRequest({ type: CMD.write, length: 48 * MiB, payload: part });
  for (let round = 0; round < 8; round++) {
    const clients: RawClient[] = [];
    for (let i = 0; i < 8; i++) {
      const where = i % 2 === 0 ? daemon.socket : daemon.port;
      clients.push(await RawClient.ready(where, 'disk'));
    }
    await Promise.all(clients.map((client) => client.send(write)));
    for (const client of clients) client.destroy();
  }
  await daemon.untilUnused('disk');
  await works(t, daemon, files, 'disk');
}

/** The replies to so many requests, then the end of the connection. */
async function allReplies(client: RawClient, count: number): Promise<Reply[]> {
  const replies: Reply[] = [];
  for (let i = 0; i < count; i++) replies.push(await client.reply());
  const rest = await client.closed();
  if (rest.length > 0) throw new Error(`${rest.length} bytes behind the last reply`);
  return replies;
}

eachEngine(t, 'SIGTERM', [], async (t, engine) => {
  const count = 64;
  const block = 512;
  await t.test('answers what is in flight, then closes', async (t) => {
    const files = new Scratch(t);
    const path = files.sparse('disk.img', bytes);
    const devices = { slow: `0 ${sectors} delay ${path} 0 500` };
    await withDaemon(t, { engine, devices }, async (daemon) => {
      const clients = [
        await RawClient.ready(daemon.socket, 'slow'),
        await RawClient.ready(daemon.port, 'slow', { structured: true }),
      ];
      for (const [index, client] of clients.entries()) {
        for (let i = 0; i < count; i++) {
          const offset = (index * count + i) * block;
          const payload = Buffer.alloc(block, 1 + i);
          void client.sendRequest({ type: CMD.write, offset, payload, cookie: BigInt(i) });
        }
      }
      await daemon.until('slow', ({ inFlight }) => inFlight === 2 * count);
      const closing = Promise.all(clients.map((client) => allReplies(client, count)));
      daemon.terminate();
      const all = await closing;
      t.match(await daemon.stop(), { code: 0 });
      for (const [index, replies] of all.entries()) {
        const cookies = new Set(replies.map(({ cookie }) => cookie));
        t.equal(cookies.size, count, 'each is answered once');
        const odd = replies.filter(({ error }) => error !== 0 && error !== ESHUTDOWN);
        t.strictSame(odd.map(facts), [], 'done, or refused as the server shuts down');
        const wrong = replies.filter(({ error, cookie }) => {
          const offset = (index * count + Number(cookie)) * block;
          return error === 0 && !written(files.read('disk.img', offset, block), cookie);
        });
        t.strictSame(wrong.map(facts), [], 'what is answered as done is done');
      }
    });
  });
  await t.test('answers what waits in a suspended device', async (t) => {
    await withDaemon(t, { engine, devices: { disk: '0 2048 memory' } }, async (daemon) => {
      const client = await RawClient.ready(daemon.socket, 'disk', { structured: true });
      await daemon.call('suspend', { name: 'disk' });
      for (let i = 0; i < count; i++) {
        void client.sendRequest({ type: CMD.read, length: 512, cookie: BigInt(i) });
      }
      await daemon.until('disk', ({ inFlight }) => inFlight === count);
      daemon.terminate();
      const replies = await allReplies(client, count);
      const odd = replies.filter(({ error }) => error !== ESHUTDOWN && error !== 0);
      t.strictSame(odd.map(facts), []);
    });
  });
  await t.test('does not wait for clients that haggle, idle or stall', async (t) => {
    await withDaemon(t, { engine, devices: { disk: `0 ${sectors} memory` } }, async (daemon) => {
      const haggling = await RawClient.greeted(daemon.socket);
      await haggling.option(OPT.info, infoRequest('disk'));
      const silent = await RawClient.connect(daemon.port);
      const halfway = await RawClient.ready(daemon.socket, 'disk');
      await halfway.send(encodeRequest({ type: CMD.write, length: MiB, payload: u32(0) }));
      const idle = await RawClient.ready(daemon.socket, 'disk');
      const stalled = await RawClient.ready(daemon.socket, 'disk');
      stalled.socket.pause();
      for (let i = 0; i < 100; i++) await stalled.sendRequest({ type: CMD.read, length: MiB });
      t.match(await daemon.stop(), { code: 0, signal: null });
      for (const client of [haggling, silent, halfway, idle]) await client.closed();
      stalled.destroy();
    });
  });
});

function written(found: Buffer, cookie: bigint): boolean {
  return found.every((byte) => byte === 1 + Number(cookie));
}

eachEngine(t, 'SIGKILL', ['qemu-io'], async (t, engine) => {
  await t.test('loses nothing that was flushed, and the next daemon takes over', async (t) => {
    const files = new Scratch(t);
    const state = files.file('state');
    const path = files.sparse('disk.img', bytes);
    const args = ['--state', state];
    const daemon = await Daemon.start({ engine, args });
    await daemon.call('create', { name: 'disk', table: linear(path, bytes) });
    await daemon.call('create', { name: 'top', table: '0 2048 linear dm:disk 0' });
    const io = ['-f', 'raw', '-c', 'write -P 0x42 0 1M', '-c', 'flush', daemon.uri('top')];
    await succeed('qemu-io', io);
    await daemon.kill();
    await withDaemon(t, { engine, args }, async (daemon) => {
      const names = (await daemon.call('ls', {})).map(({ name }) => name).sort();
      t.strictSame(names, ['disk', 'top']);
      const read = ['-f', 'raw', '-c', 'read -P 0x42 0 1M'];
      await t.resolves(succeed('qemu-io', [...read, daemon.uri('disk')]));
    });
  });
});
