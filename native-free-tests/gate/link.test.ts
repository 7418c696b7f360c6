/**
 * What the gate joins, in plain text and in TLS: slow peers, ends of one direction, broken
 * connections. Nothing is lost, nothing is left open.
 */

import { Buffer } from 'node:buffer';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import t, { type Test } from 'tap';
import { gateBufferBytes } from '../../src/base/limits.js';
import { type Brought, type Inbox, option, Rig } from './rig.js';

const MiB = 2 ** 20;

/** Long enough for whatever can go on to have gone on. */
const rest = (): Promise<unknown> => new Promise((resolve) => setTimeout(resolve, 100));

interface Linked {
  readonly rig: Rig;
  /** As the client has it, TLS or not. */
  readonly client: Duplex;
  readonly inbox: Inbox;
  /** The connection beneath it. */
  readonly wire: Duplex;
  readonly queue: Brought;
}

/** Runs it with a client in plain text, whose first option has arrived, and with one in TLS. */
function linked(name: string, body: (t: Test, linked: Linked) => Promise<void>): void {
  t.test(`${name} (plain)`, async (t) => {
    const rig = await Rig.open(t, { mode: 'on' });
    const { socket, inbox } = await rig.client();
    // The queue's to the end: transmission has begun.
    socket.write(Buffer.concat([option(3), Buffer.alloc(16)]));
    const queue = await rig.queue.next();
    await queue.inbox.take(32);
    await body(t, { rig, client: socket, inbox, wire: socket, queue });
  });
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    t.test(`${name} (${version})`, async (t) => {
      const rig = await Rig.open(t);
      const plain = await rig.client();
      const { socket, inbox } = await plain.starttls({ minVersion: version, maxVersion: version });
      const queue = await rig.queue.next();
      await body(t, { rig, client: socket, inbox, wire: plain.socket, queue });
    });
  }
}

/** Bytes that are nowhere the same. */
function pattern(bytes: number): Buffer {
  const words = new Uint32Array(bytes / 4);
  for (let at = 0; at < words.length; at++) words[at] = Math.imul(at, 2654435761);
  return Buffer.from(words.buffer);
}

const much = pattern(20 * MiB);
const digest = (bytes: Buffer): string => createHash('sha1').update(bytes).digest('hex');

/** Writes as long as the socket takes it; how many bytes it took before it took no more. */
async function fill(socket: Duplex, bytes: Buffer): Promise<number> {
  let at = 0;
  for (;;) {
    const end = Math.min(bytes.length, at + 64 * 1024);
    if (end === at) return at;
    const took = await Promise.race([
      new Promise((resolve) => socket.write(bytes.subarray(at, end), () => resolve(true))),
      rest().then(() => false),
    ]);
    at = end;
    if (!took) return at;
  }
}

linked('a queue that takes nothing holds its client up', async (t, { client, queue }) => {
  queue.socket.pause();
  const sent = await fill(client, much);
  // What the system holds for two connections, and the gate for one.
  t.ok(sent < 14 * MiB, `${sent} bytes are on their way`);
  queue.socket.resume();
  client.end(much.subarray(sent));
  const all = await queue.inbox.rest();
  t.equal(digest(all), digest(much), 'nothing is lost');
});

linked('a client that takes nothing holds the queue up', async (t, { client, inbox, queue }) => {
  client.pause();
  const sent = await fill(queue.socket, much);
  t.ok(sent < 14 * MiB, `${sent} bytes are on their way`);
  client.resume();
  queue.socket.end(much.subarray(sent));
  t.equal(digest(await inbox.rest()), digest(much), 'nothing is lost');
  client.end();
});

linked('and nobody else', async (t, { rig, client, queue }) => {
  client.pause();
  await fill(queue.socket, much);
  const other = await (await rig.client()).starttls();
  const others = await rig.queue.next();
  other.socket.write('quick');
  t.equal(String(await others.inbox.take(5)), 'quick');
  others.socket.write('answer');
  t.equal(String(await other.inbox.take(6)), 'answer');
});

linked('a client that has ended its side gets its answers', async (t, all) => {
  const { client, inbox, queue } = all;
  client.end('last request');
  t.equal(String(await queue.inbox.rest()), 'last request');
  queue.socket.write('first answer, ');
  await rest();
  queue.socket.end('last answer');
  t.equal(String(await inbox.rest()), 'first answer, last answer');
});

linked('a client that the queue is done with gets all that is left', async (t, all) => {
  const { client, inbox, queue } = all;
  client.write('and more that nobody reads');
  await queue.inbox.take(4);
  queue.socket.end(much.subarray(0, MiB));
  queue.socket.destroySoon();
  t.equal((await inbox.rest()).length, MiB);
  client.end();
  await once(client, 'close');
});

linked('a client that has gone takes its connection to the queue with it', async (t, all) => {
  const { client, wire, queue } = all;
  client.write('request');
  t.equal(String(await queue.inbox.take(7)), 'request');
  const closed = new Promise((resolve) => queue.socket.once('close', resolve));
  (wire as Socket).resetAndDestroy();
  await queue.inbox.rest();
  queue.socket.end('nobody is there');
  await closed;
  t.equal(all.rig.queue.open.size, 0);
});

linked('a queue that breaks off takes the client with it', async (t, { client, inbox, queue }) => {
  queue.socket.write('half an ans');
  t.equal(String(await inbox.take(11)), 'half an ans');
  client.write('unread');
  queue.socket.pause();
  await rest();
  queue.socket.destroy();
  t.equal((await inbox.rest()).length, 0);
});

t.test('large chunks both ways at once arrive whole', async (t) => {
  const rig = await Rig.open(t);
  const { socket, inbox } = await (await rig.client()).starttls();
  const queue = await rig.queue.next();
  const [up, down] = [much.subarray(0, 10 * MiB), much.subarray(10 * MiB)];
  socket.end(up);
  queue.socket.write(down);
  const above = await queue.inbox.rest();
  // When the queue has said its last, nothing more is brought to it.
  queue.socket.end();
  const below = await inbox.rest();
  t.strictSame([digest(above), digest(below)], [digest(up), digest(down)]);
});

t.test('a client that does not take its last bytes is dropped in the end', async (t) => {
  const rig = await Rig.open(t);
  const { socket } = await (await rig.client()).starttls();
  const queue = await rig.queue.next();
  socket.pause();
  const sent = await fill(queue.socket, much);
  t.ok(sent > gateBufferBytes);
  const closed = rig.gate.close();
  queue.socket.destroy();
  await closed;
  t.pass('and the gate can close');
});
