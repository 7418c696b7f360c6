/** The handshake up to STARTTLS, played whole, byte by byte and in random cuts. */

import { deepStrictEqual as deepEqual } from 'node:assert';
import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import * as limits from '../../src/base/limits.js';
import { acknowledgement, BeforeTls, greeting } from '../../src/gate/before-tls.js';
import { cut } from '../nbd/cuts.js';

const fixed = u32(1);
const noZeroes = u32(3);
const starttls = option(5);

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function option(number: number, data: Uint8Array = Buffer.alloc(0), length = data.length): Buffer {
  return Buffer.concat([Buffer.from('IHAVEOPT'), u32(number), u32(length), data]);
}

interface Played {
  readonly state: string;
  readonly failure: string | null;
  readonly flags: number;
  /** Option and reply type (an errno of the protocol without its error bit) of each reply. */
  readonly replies: readonly (readonly [number, number])[];
  readonly forwarded: string;
}

function play(mode: 'on' | 'require', pieces: readonly Uint8Array[]): Played {
  const machine = new BeforeTls(mode);
  const replies: (readonly [number, number])[] = [];
  const forwarded: Uint8Array[] = [];
  for (const piece of pieces) {
    machine.push(piece);
    for (const reply of machine.takeReplies()) {
      const bytes = Buffer.from(reply);
      deepEqual(bytes.toString('hex', 0, 8), '0003e889045565a9', 'an option reply');
      deepEqual(bytes.readUInt32BE(16), bytes.length - 20, 'of the length that it says');
      replies.push([bytes.readUInt32BE(8), bytes.readUInt32BE(12)]);
    }
    forwarded.push(...machine.takeForwarded());
  }
  return {
    state: machine.state,
    failure: machine.failure,
    flags: machine.clientFlags,
    replies,
    forwarded: Buffer.concat(forwarded).toString('hex'),
  };
}

/** Plays it in all ways; they must agree. */
function played(t: Test, mode: 'on' | 'require', ...parts: readonly Buffer[]): Played {
  const bytes = Buffer.concat(parts);
  const whole = play(mode, [bytes]);
  const every = Array.from({ length: bytes.length }, (_, at) => at);
  t.strictSame(play(mode, cut(bytes, every)), whole, 'byte by byte');
  const cuts = fc.uniqueArray(fc.nat({ max: bytes.length }), { maxLength: 12 });
  fc.assert(
    fc.property(cuts, (where) => {
      const pieces = cut(
        bytes,
        where.sort((a, b) => a - b),
      );
      deepEqual(play(mode, pieces), whole, `cut at ${where.join(' ')}`);
    }),
  );
  return whole;
}

const INVALID = 0x8000_0003;
const TLS_REQD = 0x8000_0005;
const ACK = 1;

t.test('both modes greet alike and answer STARTTLS alike', (t) => {
  t.equal(Buffer.from(greeting).toString('hex'), '4e42444d4147494349484156454f50540003');
  const wanted = '0003e889045565a9000000050000000100000000';
  t.equal(Buffer.from(acknowledgement).toString('hex'), wanted);
  for (const mode of ['on', 'require'] as const) {
    const nothingElse = { failure: null, replies: [], forwarded: '' };
    const straight = played(t, mode, noZeroes, starttls);
    t.match(straight, { ...nothingElse, state: 'starttls', flags: 3 }, `${mode}: at once`);
    t.match(played(t, mode, fixed), { ...nothingElse, state: 'haggling' }, `${mode}: flags only`);
  }
  t.end();
});

t.test('refuses client flags that were not offered, and other magics', (t) => {
  for (const mode of ['on', 'require'] as const) {
    t.match(played(t, mode, u32(5)), { state: 'ended', failure: /^client flags: found 0x5/ });
    const magic = played(t, mode, fixed, Buffer.alloc(16, 0x61));
    t.match(magic, { state: 'ended', failure: 'option magic: found 0x6161616161616161' });
  }
  t.end();
});

t.test('refuses STARTTLS to a client without the fixed newstyle', (t) => {
  for (const mode of ['on', 'require'] as const) {
    const end = played(t, mode, u32(2), starttls);
    t.match(end, { state: 'ended', failure: /^NBD_OPT_STARTTLS: .*without fixed newstyle/ });
  }
  t.end();
});

t.test('answers INVALID to STARTTLS with data, and takes a right one afterwards', (t) => {
  for (const mode of ['on', 'require'] as const) {
    const end = played(t, mode, fixed, option(5, Buffer.from('data')), starttls);
    t.match(end, { state: 'starttls', replies: [[5, INVALID]], forwarded: '' });
  }
  t.end();
});

t.test('drops a client whose bytes go on behind STARTTLS', (t) => {
  for (const mode of ['on', 'require'] as const) {
    for (const behind of [option(8), Buffer.from([0x16]), Buffer.from([0x49])]) {
      const end = played(t, mode, fixed, starttls, behind);
      const failure = 'found bytes behind NBD_OPT_STARTTLS, wanted none';
      t.match(end, { state: 'ended', failure, forwarded: '' });
    }
  }
  t.end();
});

t.test('answers TLS_REQD to every other option when tls is required', (t) => {
  const others = [3, 4, 6, 7, 8, 9, 10, 11, 77, 0xffff_ffff];
  const parts = others.map((number) => option(number, Buffer.alloc(number % 13, 0x49)));
  const end = played(t, 'require', fixed, ...parts, starttls);
  t.equal(end.state, 'starttls');
  t.strictSame(
    end.replies,
    others.map((number) => [number, TLS_REQD]),
  );
  t.equal(end.forwarded, '', 'and nothing of them goes on');
  t.end();
});

t.test('answers ABORT and ends when tls is required', (t) => {
  const end = played(t, 'require', fixed, option(2, Buffer.from('why')), starttls);
  t.match(end, { state: 'ended', failure: null, replies: [[2, ACK]], forwarded: '' });
  t.end();
});

t.test('drops EXPORT_NAME when tls is required, whatever flags the client has', (t) => {
  for (const flags of [0, 1, 3]) {
    const end = played(t, 'require', u32(flags), option(1, Buffer.from('vol0')));
    t.match(end, { state: 'ended', failure: /^NBD_OPT_EXPORT_NAME: tls is required/ });
    t.strictSame(end.replies, [], 'it has no reply');
  }
  t.end();
});

t.test('drops a client that asks without end, or for too much', (t) => {
  const asks = Buffer.concat(Array.from({ length: limits.handshakeOptions }, () => option(3)));
  t.match(play('require', [fixed, asks]), { state: 'haggling', failure: null });
  const more = play('require', [fixed, asks, option(3)]);
  t.match(more, { state: 'ended', failure: /^NBD_OPT_LIST: found more options than / });
  const long = play('require', [fixed, option(7, undefined, limits.optionBytesFatal + 1)]);
  t.match(long, { state: 'ended', failure: /^NBD_OPT_GO: found 16777217 bytes of data/ });
  t.end();
});

t.test('passes a plain client on from its first option to transmission', (t) => {
  const options = [option(8), option(3), option(7, Buffer.from('\0\0\0\0\0\0'))];
  const watched = played(t, 'on', fixed, ...options);
  const forwarded = Buffer.concat(options).toString('hex');
  t.match(watched, { state: 'passing', failure: null, flags: 1, replies: [], forwarded });
  // A READ, in which an option's magic and STARTTLS are nothing special.
  const read = Buffer.from(`25609513${'00'.repeat(12)}49484156454f505400000005`, 'hex');
  const all = Buffer.concat([...options, read, starttls]).toString('hex');
  const end = played(t, 'on', fixed, ...options, read, starttls);
  t.match(end, { state: 'plain', failure: null, replies: [], forwarded: all });
  t.end();
});

t.test('passes an old client on, which knows EXPORT_NAME only', (t) => {
  const name = option(1, Buffer.from('vol0'));
  const forwarded = name.toString('hex');
  t.match(played(t, 'on', u32(0), name), { state: 'passing', flags: 0, forwarded });
  t.end();
});

t.test('finds STARTTLS behind options that it has passed on, and no trace of it goes on', (t) => {
  const before = [option(8), option(7, Buffer.from('IHAVEOPT\0\0\0\x05\0\0\0\0'))];
  const forwarded = Buffer.concat(before).toString('hex');
  const end = played(t, 'on', fixed, ...before, starttls);
  t.match(end, { state: 'starttls', failure: null, replies: [], forwarded });
  const more = played(t, 'on', fixed, ...before, starttls, option(8));
  t.match(more, { state: 'ended', failure: /behind NBD_OPT_STARTTLS/, forwarded });
  t.end();
});

t.test('leaves STARTTLS to the queue where only an error can answer it', (t) => {
  const withData = option(5, Buffer.from('data'));
  const forwarded = Buffer.concat([option(3), withData]).toString('hex');
  t.match(played(t, 'on', fixed, option(3), withData), { state: 'passing', forwarded });
  t.end();
});
