/** The engine contract: connected sockets, over TCP and unix sockets alike. */

import { join } from 'node:path';
import type { Test } from 'tap';
import type { EngineSocket, ListenAddress, SendVector } from '../../src/engine/engine.js';
import { type Connected, Connections, connected, drive, type Harness, type Peer } from './drive.js';
import { loopback, socketDirectory } from './engine-listeners.js';
import type { MakeEngine } from './engine-suite.js';
import { fillPattern, patternMismatch, random } from './pattern.js';

const KiB = 1024;
const MiB = 1024 * KiB;
/** Streams of bytes in either direction. */
const toEngine = 11;
const toPeer = 12;

export function socketTests(t: Test, makeEngine: MakeEngine, peer: Peer): void {
  const directory = socketDirectory(t);
  let paths = 0;
  for (const kind of ['tcp', 'unix'] as const) {
    const address = (): ListenAddress =>
      kind === 'tcp' ? loopback : { kind, path: join(directory, `${paths++}`) };

    /** A test with one connection, which is closed when the body has ended. */
    const test = (
      name: string,
      body: (t: Test, io: Harness, connected: Connected) => Promise<void>,
    ): void => {
      t.test(`${kind}: ${name}`, async (t) => {
        await drive(await makeEngine(), async (io) => {
          const all = await connected(io, peer, address());
          await body(t, io, all);
          await peer.ask(io, { verb: 'close', connection: all.connection });
          all.listener.close();
        });
      });
    };

    test('echoes what it receives', async (t, io, { socket, connection }) => {
      const bytes = 300_000;
      const memory = io.memory(64 * KiB);
      const vector = io.engine.sendVector(1);
      const write = { verb: 'write', connection, bytes, pieceBytes: 7001, seed: 1 } as const;
      const read = { verb: 'read', connection, bytes, seed: 1, slowly: false } as const;
      const echoed = echo(io, socket, memory, vector);
      const [, answer] = await Promise.all([peer.ask(io, write), peer.ask(io, read)]);
      t.equal(answer.value, bytes, 'the peer has everything back');
      await peer.ask(io, { verb: 'end', connection });
      t.equal(await echoed, bytes, 'and so had the engine');
      socket.close();
    });

    test('moves 10 MB both ways at once', async (t, io, { socket, connection }) => {
      const bytes = 10_000_000;
      const write = {
        verb: 'write',
        connection,
        bytes,
        pieceBytes: 100_000,
        seed: toEngine,
      } as const;
      const read = { verb: 'read', connection, bytes, seed: toPeer, slowly: false } as const;
      const [received, sent, wrote, answer] = await Promise.all([
        receivePattern(io, socket, bytes, 3001),
        sendPattern(io, socket, bytes),
        peer.ask(io, write),
        peer.ask(io, read),
      ]);
      t.equal(received, bytes, 'received, in pieces of 3001 bytes at most');
      t.equal(sent, bytes, 'sent');
      t.equal(wrote.value, bytes, 'the peer wrote');
      t.equal(answer.value, bytes, 'the peer read');
      socket.close();
    });

    test('receives a byte at a time', async (t, io, { socket, connection }) => {
      const write = { verb: 'write', connection, bytes: 3000, pieceBytes: 1000 } as const;
      await peer.ask(io, { ...write, seed: toEngine });
      t.equal(await receivePattern(io, socket, 3000, 1), 3000);
      socket.close();
    });

    test('sends after the peer has ended its side', async (t, io, { socket, connection }) => {
      await peer.ask(io, { verb: 'write', connection, bytes: 10, pieceBytes: 10, seed: toEngine });
      await peer.ask(io, { verb: 'end', connection });
      t.equal(await receivePattern(io, socket, 10, 100), 10, 'what came before the end');
      const memory = io.memory(4096);
      t.equal(await io.receive(socket, memory, 100), 0, 'the end');
      t.equal(await io.receive(socket, memory, 100), 0, 'which stays');
      const bytes = 2 * MiB;
      const read = { verb: 'read', connection, bytes, seed: toPeer, slowly: false } as const;
      const [sent, answer] = await Promise.all([
        sendPattern(io, socket, bytes),
        peer.ask(io, read),
      ]);
      t.equal(sent, bytes, 'sent');
      t.equal(answer.value, bytes, 'and read');
      socket.close();
    });

    test('gives what was sent to the peer before it ends', async (t, io, connected) => {
      const { socket, connection } = connected;
      t.equal(await sendPattern(io, socket, 50_000), 50_000);
      socket.close();
      const read = { verb: 'read', connection, bytes: MiB, seed: toPeer, slowly: false } as const;
      t.equal((await peer.ask(io, read)).value, 50_000, 'then comes the end');
    });

    test('sends vectors of many pieces in their order', async (t, io, { socket, connection }) => {
      const seed = Math.floor(Math.random() * 2 ** 31);
      const next = random(seed);
      const memory = io.memory(MiB);
      const vector = io.engine.sendVector(3000);
      t.equal(vector.capacity, 3000);
      let sent = 0;
      for (const count of [1, 2, 1024, 1025, 3000]) {
        vector.clear();
        t.equal(vector.count, 0);
        const start = sent;
        // From the end of the memory towards its beginning.
        let at = memory + MiB;
        for (let i = 0; i < count; i++) {
          const length = 1 + next(300);
          at -= length;
          fillPattern(io.bytes(at, length), sent, toPeer);
          vector.push(at, length);
          sent += length;
        }
        t.equal(vector.count, count);
        t.equal(vector.bytes, sent - start);
        const bytes = sent - start;
        const read = { verb: 'read', connection, bytes, seed: toPeer, slowly: false } as const;
        const answer = peer.answer(io, read);
        const result = await io.send(socket, vector);
        t.equal(result, bytes, `${count} pieces (seed ${seed})`);
        if (result !== bytes) break;
        t.match(await answer, { value: bytes, error: null }, 'the peer has them');
      }
      socket.close();
    });

    test('waits for a slow reader', async (t, io, { socket, connection }) => {
      const bytes = 16 * MiB;
      const read = { verb: 'read', connection, bytes, seed: toPeer, slowly: true } as const;
      const [sent, answer] = await Promise.all([
        sendPattern(io, socket, bytes),
        peer.ask(io, read),
      ]);
      t.equal(sent, bytes);
      t.equal(answer.value, bytes, 'memory was not used again before it had gone');
      socket.close();
    });

    test('holds up a peer that it does not receive from', async (t, io, connected) => {
      const { socket, connection } = connected;
      const bytes = 64 * MiB;
      t.equal(await receivePattern(io, socket, 0, 1), 0);
      const flood = peer.ask(io, { verb: 'flood', connection, bytes, seed: toEngine });
      const memory = io.memory(4096);
      const first = await io.receive(socket, memory, 100);
      t.equal(patternMismatch(io.bytes(memory, first), 0, toEngine), -1, 'it did begin');
      const taken = (await flood).value;
      t.ok(taken < bytes, `the peer was stopped (after ${taken} bytes)`);
      t.equal(await receivePattern(io, socket, bytes - first, MiB, first), bytes - first);
      socket.close();
    });

    test('tells both directions when the peer resets', async (t, io, { socket, connection }) => {
      const memory = io.memory(MiB);
      const vector = io.engine.sendVector(64);
      for (let i = 0; i < 64; i++) vector.push(memory, MiB);
      const receiving = io.receive(socket, memory, 100);
      const sending = io.send(socket, vector);
      await io.sleep(20);
      await peer.ask(io, { verb: 'reset', connection });
      t.ok((await sending) < 0, 'the send under way fails');
      t.ok((await receiving) <= 0, 'the receive under way ends');
      t.ok((await io.send(socket, vector)) < 0, 'so does a later send');
      t.ok((await io.receive(socket, memory, 100)) <= 0, 'and a later receive');
      socket.shutdown();
      socket.close();
    });

    test('ends what is under way at shutdown', async (t, io, { socket, connection }) => {
      const memory = io.memory(MiB);
      const vector = io.engine.sendVector(64);
      for (let i = 0; i < 64; i++) vector.push(memory, MiB);
      const receiving = io.receive(socket, memory, 100);
      const sending = io.send(socket, vector);
      await io.sleep(20);
      t.equal(io.underWay, 2, 'both wait for the peer');
      socket.shutdown();
      t.ok((await receiving) <= 0, 'the receive');
      t.ok((await sending) < 0, 'the send');
      socket.shutdown();
      t.ok((await io.receive(socket, memory, 100)) <= 0, 'a later receive');
      t.ok((await io.send(socket, vector)) < 0, 'a later send');
      socket.close();
      const read = { verb: 'read', connection, bytes: 64 * MiB, seed: 0, slowly: false } as const;
      const { value } = await peer.answer(io, read);
      t.ok(value < 64 * MiB, 'the peer sees it too');
    });

    test('shuts down behind what was sent', async (t, io, { socket, connection }) => {
      const memory = io.memory(4096);
      t.equal(await sendPattern(io, socket, 100_000), 100_000);
      const receiving = io.receive(socket, memory, 100);
      socket.shutdown();
      t.equal(io.underWay, 1, 'the receive does not end before shutdown returns');
      t.ok((await receiving) <= 0, 'but soon');
      const read = { verb: 'read', connection, bytes: MiB, seed: toPeer, slowly: false } as const;
      t.equal((await peer.ask(io, read)).value, 100_000, 'then the end, without an error');
      socket.close();
    });

    t.test(`${kind}: keeps connections apart`, async (t) => {
      await drive(await makeEngine(), async (io) => {
        const connections = new Connections(io);
        const listener = await io.engine.listen(address(), connections);
        const one = async (number: number): Promise<void> => {
          const seed = 100 + number;
          const bytes = 1000 * number;
          const read = { verb: 'read', bytes, seed, slowly: false } as const;
          const asked = peer.ask(io, { verb: 'connect', address: listener.address });
          const { socket } = await connections.next();
          const connection = (await asked).value;
          const memory = io.memory(4096);
          const echoed = echo(io, socket, memory, io.engine.sendVector(1));
          await peer.ask(io, { verb: 'write', connection, bytes, pieceBytes: 999, seed });
          t.equal((await peer.ask(io, { ...read, connection })).value, bytes);
          // One in three vanishes instead of ending.
          await peer.ask(io, { verb: number % 3 === 0 ? 'reset' : 'end', connection });
          await echoed;
          socket.close();
          await peer.ask(io, { verb: 'close', connection });
        };
        await Promise.all(Array.from({ length: 40 }, (_, i) => one(i)));
        listener.close();
      });
    });
  }
}

/** Sends back what comes, up to the end or an error. Bytes received. */
async function echo(
  io: Harness,
  socket: EngineSocket,
  memory: number,
  vector: SendVector,
): Promise<number> {
  let bytes = 0;
  for (;;) {
    const received = await io.receive(socket, memory, 4096);
    if (received <= 0) return bytes;
    bytes += received;
    vector.clear();
    vector.push(memory, received);
    const sent = await io.send(socket, vector);
    if (sent !== received) return bytes;
  }
}

/** Receives and checks the stream from `position` on. Bytes that were right. */
async function receivePattern(
  io: Harness,
  socket: EngineSocket,
  bytes: number,
  atOnce: number,
  position = 0,
): Promise<number> {
  const memory = io.memory(Math.min(atOnce + 100, MiB));
  const room = Math.min(atOnce, MiB - 100);
  let count = 0;
  while (count < bytes) {
    // Not always to the same place.
    const at = memory + (count % 100);
    const received = await io.receive(socket, at, Math.min(room, bytes - count));
    if (received <= 0 || received > room) break;
    if (patternMismatch(io.bytes(at, received), position + count, toEngine) >= 0) break;
    count += received;
  }
  return count;
}

/** Sends the stream in vectors of up to four pieces, using the same memory again and again. */
async function sendPattern(io: Harness, socket: EngineSocket, bytes: number): Promise<number> {
  const memory = Array.from({ length: 4 }, () => io.memory(MiB));
  const vector = io.engine.sendVector(memory.length);
  let count = 0;
  while (count < bytes) {
    vector.clear();
    for (const [i, piece] of memory.entries()) {
      const length = Math.min(MiB - 12_345 * i, bytes - count - vector.bytes);
      if (length <= 0) break;
      fillPattern(io.bytes(piece, length), count + vector.bytes, toPeer);
      vector.push(piece, length);
    }
    const wanted = vector.bytes;
    if ((await io.send(socket, vector)) !== wanted) break;
    count += wanted;
  }
  return count;
}
