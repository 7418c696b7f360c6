/** The preamble: packed and unpacked, and received from a socket in all sorts of pieces. */

import { deepStrictEqual as deepEqual } from 'node:assert';
import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import t from 'tap';
import { ECONNRESET } from '../../src/base/errno.js';
import { blockBytesMin, handshakeMilliseconds, preambleBytes } from '../../src/base/limits.js';
import { type Preamble, packPreamble, readPreamble, unpackPreamble } from '../../src/nbd/piped.js';
import { ScriptedEngine } from '../backing/scripted-engine.js';
import { cut } from '../nbd/cuts.js';
import { FakeSocket } from '../nbd/fake-socket.js';

const some: Preamble = {
  peer: { name: '[2001:db8::1]:40312', host: '2001:db8::1', secure: true },
  resume: { clientFlags: 3, spentMilliseconds: 812 },
};

const plain = { noNullPrototype: true };
const u32 = fc.nat({ max: 0xffff_ffff });
const preambles: fc.Arbitrary<Preamble> = fc.record(
  {
    peer: fc.record(
      {
        name: fc.string({ maxLength: 200, unit: 'grapheme' }),
        host: fc.option(fc.oneof(fc.ipV4(), fc.ipV6())),
        secure: fc.boolean(),
      },
      plain,
    ),
    resume: fc.option(fc.record({ clientFlags: u32, spentMilliseconds: u32 }, plain)),
  },
  plain,
);

t.test('packs as laid out', (t) => {
  const wanted = [
    '00000028',
    '07',
    '00000003',
    '0000032c',
    '0b',
    Buffer.from('2001:db8::1').toString('hex'),
    Buffer.from('[2001:db8::1]:40312').toString('hex'),
  ].join('');
  t.equal(packPreamble(some).toString('hex'), wanted);
  const least = { peer: { name: '', host: null, secure: false }, resume: null };
  t.equal(packPreamble(least).toString('hex'), '0000000a00000000000000000000');
  t.end();
});

t.test('unpacks what was packed', (t) => {
  fc.assert(
    fc.property(preambles, (preamble) => {
      deepEqual(unpackPreamble(packPreamble(preamble)), preamble);
    }),
  );
  t.pass('agreed');
  t.end();
});

t.test('cuts a name that is too long', (t) => {
  const name = 'x'.repeat(2 * preambleBytes);
  const packed = packPreamble({ ...some, peer: { ...some.peer, name } });
  t.equal(packed.length, preambleBytes);
  const unpacked = unpackPreamble(packed);
  t.match(unpacked, { peer: { host: some.peer.host, secure: true }, resume: some.resume });
  t.ok(name.startsWith(unpacked?.peer.name ?? 'none'));
  t.end();
});

t.test('rejects bytes that are no preamble', (t) => {
  const whole = packPreamble(some);
  t.equal(unpackPreamble(whole.subarray(0, whole.length - 1)), null, 'cut short');
  t.equal(unpackPreamble(Buffer.concat([whole, Buffer.alloc(1)])), null, 'and more');
  t.equal(unpackPreamble(Buffer.alloc(0)), null, 'empty');
  const host = Buffer.from(whole);
  host.writeUInt8(200, 13);
  t.equal(unpackPreamble(host), null, 'a host that goes past the end');
  t.equal(unpackPreamble(Buffer.alloc(preambleBytes + 1)), null, 'too long');
  t.end();
});

interface Rig {
  readonly engine: ScriptedEngine;
  readonly socket: FakeSocket;
  /** What `done` was called with, each time. */
  readonly told: (Preamble | null)[];
}

function reading(atOnce = false): Rig {
  const engine = new ScriptedEngine(16 * 2 ** 20);
  const socket = new FakeSocket(engine, { sends: 0, mostSends: 0 });
  socket.atOnce = atOnce;
  const told: (Preamble | null)[] = [];
  readPreamble(engine, socket, (preamble) => told.push(preamble));
  return { engine, socket, told };
}

function work(engine: ScriptedEngine): void {
  // Without anything under way a turn would bring the next timer's time.
  while (engine.underWay.length > 0) engine.turn();
}

t.test('receives a preamble in any pieces, and not a byte more', (t) => {
  const packed = packPreamble(some);
  const behind = Buffer.from('IHAVEOPT');
  const stream = Buffer.concat([packed, behind]);
  const cuts = fc.uniqueArray(fc.nat({ max: stream.length }), { maxLength: 20 });
  fc.assert(
    fc.property(cuts, fc.boolean(), (where, atOnce) => {
      const { engine, socket, told } = reading(atOnce);
      for (const piece of cut(
        stream,
        where.sort((a, b) => a - b),
      )) {
        socket.push(piece);
        work(engine);
      }
      deepEqual(told, [some]);
      deepEqual([socket.unreceivedBytes, socket.closed], [behind.length, false]);
      deepEqual([engine.timers, engine.arena.inUse], [0, 0], 'timers and memory');
    }),
  );
  t.pass('agreed');
  t.end();
});

t.test('closes the socket when the stream ends before, breaks, or is something else', (t) => {
  const packed = packPreamble(some);
  const ends: [string, number, (socket: FakeSocket) => void][] = [
    ['ends at once', 0, (socket) => socket.end()],
    ['ends in the length', 3, (socket) => socket.end()],
    ['ends in the rest', 20, (socket) => socket.end()],
    ['breaks', 20, (socket) => socket.end(ECONNRESET)],
    ['a greeting of NBD', 0, (socket) => socket.push(Buffer.from('NBDMAGICIHAVEOPT'))],
    ['nothing follows', 0, (socket) => socket.push(Buffer.alloc(4))],
    ['too short', 0, (socket) => socket.push(Buffer.from('0000000100', 'hex'))],
  ];
  for (const [what, sent, end] of ends) {
    for (const atOnce of [false, true]) {
      const { engine, socket, told } = reading(atOnce);
      socket.push(packed.subarray(0, sent));
      end(socket);
      work(engine);
      t.strictSame([told, socket.closed], [[null], true], what);
      t.strictSame([engine.timers, engine.arena.inUse], [0, 0], 'timers and memory');
    }
  }
  t.end();
});

t.test('closes the socket when nothing comes in time', (t) => {
  const { engine, socket, told } = reading();
  engine.advance(handshakeMilliseconds - 1);
  work(engine);
  t.strictSame([told, socket.closed], [[], false]);
  engine.advance(1);
  work(engine);
  t.strictSame([told, socket.closed], [[null], true]);
  t.strictSame([engine.timers, engine.arena.inUse], [0, 0], 'timers and memory');
  t.end();
});

t.test('waits for memory', (t) => {
  const engine = new ScriptedEngine(16 * 2 ** 20);
  const socket = new FakeSocket(engine, { sends: 0, mostSends: 0 });
  const all: number[] = [];
  for (;;) {
    const memory = engine.arena.allocate(blockBytesMin);
    if (memory < 0) break;
    all.push(memory);
  }
  const told: (Preamble | null)[] = [];
  readPreamble(engine, socket, (preamble) => told.push(preamble));
  socket.push(packPreamble(some));
  engine.advance(100);
  work(engine);
  t.strictSame(told, [], 'there is none');
  for (const memory of all) engine.arena.free(memory, blockBytesMin);
  engine.advance(100);
  work(engine);
  t.strictSame(told, [some]);
  t.equal(engine.timers, 0);
  t.end();
});
