/**
 * Export policies on a queue thread with its engine: clients over TCP and unix sockets, and those
 * that a gate brings.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type NetConnectOpts, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { readConnections } from '../../src/device/counters.js';
import type { ListenAddress } from '../../src/engine/engine.js';
import { type ExportPolicy, openPolicy } from '../../src/nbd/export-policy.js';
import type { Peer } from '../../src/nbd/peer.js';
import { packPreamble } from '../../src/nbd/piped.js';
import { wholeProtocol } from '../../src/nbd/protocol-options.js';
import type { QueueEvent } from '../../src/queue/commands.js';
import { Queue, type QueueStart } from '../../src/queue/queue.js';

const directory = mkdtempSync(join(tmpdir(), 'mapperd-exports-'));
t.teardown(() => rmSync(directory, { recursive: true }));

const ERR_POLICY = 0x80000002;
const ACK = 1;
const policy = (changes: Partial<ExportPolicy>): ExportPolicy => ({ ...openPolicy, ...changes });

/** A client that has sent all it has to say; `ended` has what it got. */
interface RawClient {
  readonly socket: Socket;
  has(bytes: number): Promise<Buffer>;
}

function client(where: NetConnectOpts, ...bytes: Buffer[]): RawClient {
  const socket = connect(where);
  socket.on('error', () => {});
  socket.write(Buffer.concat(bytes));
  let got = Buffer.alloc(0);
  let heard = (): void => {};
  let over = false;
  socket.on('data', (chunk) => {
    got = Buffer.concat([got, chunk]);
    heard();
  });
  socket.on('close', () => {
    over = true;
    heard();
  });
  return {
    socket,
    async has(bytes) {
      while (got.length < bytes && !over) await new Promise<void>((done) => (heard = done));
      return got;
    },
  };
}

function u32(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [at, value] of values.entries()) bytes.writeUInt32BE(value, 4 * at);
  return bytes;
}

function option(number: number, data: Buffer): Buffer {
  return Buffer.concat([Buffer.from('IHAVEOPT'), u32(number, data.length), data]);
}

const go = (name: string): Buffer =>
  option(7, Buffer.concat([u32(name.length), Buffer.from(name), Buffer.alloc(2)]));
const greetingBytes = 18;
const headerBytes = 20;

/** The type of the first option reply. */
async function firstReply(raw: RawClient, skipped: number): Promise<number> {
  const got = await raw.has(skipped + headerBytes);
  return got.length < skipped + headerBytes ? 0 : got.readUInt32BE(skipped + 12);
}

const INFO = 3;

async function start(t: Test, engine: 'uring' | 'node', settings: QueueStart) {
  const events: QueueEvent[] = [];
  let heard = (): void => {};
  const listener = {
    event: (event: QueueEvent) => {
      events.push(event);
      heard();
    },
    failed: (error: Error) => void t.fail(error.message),
  };
  let queue: Queue;
  try {
    queue = await Queue.start(engine, listener, settings);
  } catch (error) {
    if (engine === 'node') throw error;
    t.pass('this machine has no such engine', { skip: String(error) });
    return null;
  }
  t.teardown(() => queue.kill());
  const until = async (isSo: () => boolean): Promise<void> => {
    while (!isSo()) await new Promise<void>((done) => (heard = done));
  };
  const { counters } = await queue.call('create', { name: 'vol', table: '0 8 memory' });
  return { queue, events, until, counters };
}

let sockets = 0;
const newPath = (): string => join(directory, `${++sockets}`);
const port = (address: ListenAddress): number => (address.kind === 'tcp' ? address.port : 0);

for (const engine of ['uring', 'node'] as const) {
  t.test(`on the ${engine} engine`, async (t) => {
    t.test('an address is let in by the daemon, and then by the export', async (t) => {
      const started = await start(t, engine, { allow: ['127.0.0.0/30'] });
      if (started === null) return;
      const { queue, events, until, counters } = started;
      const address = { kind: 'tcp', host: '127.0.0.1', port: 0 } as const;
      const at = port(await queue.call('listen', { address }));
      const unix = newPath();
      await queue.call('listen', { address: { kind: 'unix', path: unix } });
      const reply = async (localAddress: string): Promise<number> => {
        const where = { port: at, host: '127.0.0.1', localAddress };
        const raw = client(where, u32(3), go('vol'));
        const type = await firstReply(raw, greetingBytes);
        raw.socket.destroy();
        return type;
      };
      t.equal(await reply('127.0.0.1'), INFO);
      t.equal(await reply('127.0.0.2'), INFO);
      t.equal(await reply('127.0.0.4'), ERR_POLICY, 'not served at all');
      await queue.call('policy', { name: 'vol', policy: policy({ allow: ['127.0.0.2'] }) });
      t.equal(await reply('127.0.0.1'), ERR_POLICY);
      t.equal(await reply('127.0.0.2'), INFO);
      const local = client({ path: unix }, u32(3), go('vol'));
      t.equal(await firstReply(local, greetingBytes), INFO, 'a unix socket always may');
      t.equal(readConnections(counters) >= 1, true);
      local.socket.destroy();
      const closed = (): QueueEvent[] =>
        events.filter((event) => event.event === 'connection' && event.what === 'close');
      await until(() => closed().length === 4);
      t.equal(readConnections(counters), 0);
      const refused = events.filter((event) => event.event === 'log' && event.level === 'warn');
      t.match(refused, [
        { text: /^127\.0\.0\.4:\d+: refused export "vol": address 127\.0\.0\.4 is not allowed$/ },
        { fields: { device: 'vol' }, text: /address 127\.0\.0\.1 is not allowed$/ },
      ]);
      await t.rejects(queue.call('policy', { name: 'none', policy: openPolicy }), {
        code: 'ENXIO',
      });
    });

    t.test('a policy that is asked for behind the device is there with it', async (t) => {
      const started = await start(t, engine, {});
      if (started === null) return;
      const { queue } = started;
      const path = newPath();
      await queue.call('listen', { address: { kind: 'unix', path } });
      const creating = queue.call('create', { name: 'late', table: '0 8 zero' });
      const setting = queue.call('policy', { name: 'late', policy: policy({ hidden: true }) });
      // The default export is the only one in the list.
      const raw = client({ path }, u32(3), go(''));
      t.equal(await firstReply(raw, greetingBytes), INFO);
      raw.socket.destroy();
      t.ok((await creating).counters);
      t.equal(await setting, null);
    });

    t.test('an IPv4 client of a socket for both families is an IPv4 client', async (t) => {
      const started = await start(t, engine, {});
      if (started === null) return;
      const { queue } = started;
      await queue.call('policy', { name: 'vol', policy: policy({ allow: ['127.0.0.2'] }) });
      let address: ListenAddress = { kind: 'tcp', host: '::', port: 0 };
      try {
        address = await queue.call('listen', { address });
      } catch (error) {
        t.pass('this machine has no IPv6', { skip: String(error) });
        return;
      }
      for (const [localAddress, wanted] of [
        ['127.0.0.2', INFO],
        ['127.0.0.1', ERR_POLICY],
      ] as const) {
        const where = { port: port(address), host: '127.0.0.1', localAddress };
        const raw = client(where, u32(3), go('vol'));
        t.equal(await firstReply(raw, greetingBytes), wanted, localAddress);
        raw.socket.destroy();
      }
    });

    t.test('a client that a gate brings is who the gate says', async (t) => {
      const started = await start(t, engine, {});
      if (started === null) return;
      const { queue, events, until } = started;
      await queue.call('policy', { name: 'vol', policy: policy({ allow: ['192.0.2.0/24'] }) });
      const path = newPath();
      await queue.call('listen', { address: { kind: 'unix', path }, piped: true });
      const bring = (peer: Peer, flags: number | null, ...bytes: Buffer[]): RawClient => {
        const resume = flags === null ? null : { clientFlags: flags, spentMilliseconds: 0 };
        return client({ path }, packPreamble({ peer, resume }), ...bytes);
      };
      const peer = (host: string | null): Peer => ({ name: `${host}:1`, host, secure: true });
      const lan = bring(peer('192.0.2.7'), 3, go('vol'));
      t.equal(await firstReply(lan, 0), INFO, 'the greeting was the gate’s');
      const other = bring(peer('198.51.100.1'), null, u32(3), go('vol'));
      t.equal(await firstReply(other, greetingBytes), ERR_POLICY);
      const stdin = bring(peer(null), null, u32(3), go('vol'));
      t.equal(await firstReply(stdin, greetingBytes), INFO, 'from this machine');
      const nobody = client({ path }, u32(1), Buffer.from('x'));
      t.equal((await nobody.has(1)).length, 0, 'no preamble, no connection');
      t.match(
        events.filter((event) => event.event === 'connection'),
        [
          { what: 'open', peer: '192.0.2.7:1' },
          { what: 'open', peer: 'null:1' },
        ],
      );
      // One that has not said whom it brings does not hold up the end.
      const late = client({ path }, u32(100));
      await new Promise<void>((done) => late.socket.once('connect', () => done()));
      t.equal(await queue.call('shutdown', {}), null);
      await late.has(1);
      await until(() => events.filter((event) => event.event === 'connection').length === 4);
      for (const { socket } of [lan, other, stdin]) socket.destroy();
    });

    t.test('the protocol is as it was asked for', async (t) => {
      const protocol = { ...wholeProtocol, structuredReplies: false };
      const started = await start(t, engine, { protocol });
      if (started === null) return;
      const path = newPath();
      await started.queue.call('listen', { address: { kind: 'unix', path } });
      const raw = client({ path }, u32(3), option(8, Buffer.alloc(0)));
      t.equal(await firstReply(raw, greetingBytes), 0x80000001, 'ERR_UNSUP');
      raw.socket.destroy();
      const whole = await start(t, engine, {});
      const second = newPath();
      await whole?.queue.call('listen', { address: { kind: 'unix', path: second } });
      const other = client({ path: second }, u32(3), option(8, Buffer.alloc(0)));
      t.equal(await firstReply(other, greetingBytes), ACK);
      other.socket.destroy();
    });

    t.test('rejects addresses that are none before it starts', async (t) => {
      const listener = { event: () => {}, failed: () => t.fail('it has not begun') };
      await t.rejects(Queue.start(engine, listener, { allow: ['127.0.0.1', 'lan'] }), {
        code: 'EINVAL',
        message: /^addresses to be served: found "lan", wanted an address/,
      });
    });
  });
}
