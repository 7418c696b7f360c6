/**
 * What one side packs the other unpacks: requests and replies of every kind, by a client that has
 * its own reading of the protocol.
 */

import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import t from 'tap';
import { batchBytes, errorTextBytes, extentsPerReply } from '../../src/base/limits.js';
import { ExtentList } from '../../src/device/extent-list.js';
import type { ArenaSendVector } from '../../src/engine/send-vector.js';
import { extentsBytesMax, packExtents } from '../../src/nbd/extents.js';
import { contextsOf } from '../../src/nbd/meta-context.js';
import {
  EXTENDED,
  ReplyBatch,
  type ReplyKind,
  SIMPLE,
  STRUCTURED,
  wireError,
} from '../../src/nbd/reply.js';
import {
  decodeExtendedRequest,
  decodeLength,
  decodeRequest,
  Request,
  RequestPool,
} from '../../src/nbd/request.js';
import { ScriptedEngine } from '../backing/scripted-engine.js';
import { CMD, type Reply, ReplyReader, type RequestFields, request } from './client.js';
import { record } from './conversation.js';

const u16 = fc.nat(0xffff);
const u32 = fc.oneof(fc.nat(0xffffffff), fc.constantFrom(0, 1, 0x80000000, 0xffffffff));
const u64 = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.constantFrom(
    0n,
    1n,
    2n ** 32n - 1n,
    2n ** 32n,
    2n ** 53n - 1n,
    2n ** 53n + 1n,
    2n ** 64n - 1n,
  ),
);

/** The bytes somewhere in a view, with others around them. */
function viewOf(bytes: Buffer, at: number): DataView {
  const memory = Buffer.alloc(at + bytes.length + 9, 0xee);
  bytes.copy(memory, at);
  return new DataView(memory.buffer, memory.byteOffset, memory.length);
}

t.test('parses every header of a request', async (t) => {
  const parsed = (fields: RequestFields, extended: boolean, at: number): Request | null => {
    const view = viewOf(request(fields, extended), at);
    const into = new Request();
    const decode = extended ? decodeExtendedRequest : decodeRequest;
    return decode(view, at, into) ? into : null;
  };
  const safe = 2n ** 53n;
  fc.assert(
    fc.property(
      u16,
      u16,
      u64,
      u64,
      u64,
      fc.boolean(),
      fc.nat(9),
      (type, flags, cookie, offset, anyLength, extended, at) => {
        const length = extended ? anyLength : anyLength & 0xffffffffn;
        const bytes = { type, flags, cookie: Number(cookie & 0xffffn), offset, length };
        const found = parsed(bytes, extended, at);
        if (found === null) return false;
        const { offsetHigh, offsetLow, lengthHigh, lengthLow } = found;
        const u64Of = (high: number, low: number): bigint => (BigInt(high) << 32n) | BigInt(low);
        if (u64Of(offsetHigh, offsetLow) !== offset) return false;
        if (u64Of(lengthHigh, lengthLow) !== length) return false;
        // As numbers they are exact, or else far past every device.
        if (offset < safe ? BigInt(found.offset) !== offset : found.offset < 2 ** 53) return false;
        if (length < safe ? BigInt(found.length) !== length : found.length < 2 ** 53) return false;
        return found.type === type && found.flags === flags;
      },
    ),
    { numRuns: 2000 },
  );
  t.pass('whatever is in it');
});

t.test('rejects every other magic', async (t) => {
  const magics = [0x25609513, 0x21e41c71, 0x12560953, 0x67446698, 0x25609514, 0, 0xffffffff];
  for (const magic of magics) {
    const bytes = Buffer.alloc(32);
    bytes.writeUInt32BE(magic);
    const view = viewOf(bytes, 3);
    t.equal(decodeRequest(view, 3, new Request()), magic === 0x25609513);
    t.equal(decodeExtendedRequest(view, 3, new Request()), magic === 0x21e41c71);
  }
});

t.test('parses a length by itself', async (t) => {
  const into = new Request();
  decodeLength(viewOf(Buffer.from('0000000500000007', 'hex'), 2), 2, into);
  t.match(into, { lengthHigh: 5, lengthLow: 7, length: 5 * 2 ** 32 + 7 });
});

type Extents = readonly (readonly [length: number, flags: number])[];

/** Extents that do not merge with their neighbours: a few of any kind, or up to all there can be. */
const extents: fc.Arbitrary<Extents> = fc.oneof(
  fc
    .array(
      fc.tuple(
        fc.oneof(fc.integer({ min: 1, max: 2 ** 20 }), fc.integer({ min: 1, max: 2 ** 44 })),
        fc.nat(255),
      ),
      { minLength: 1, maxLength: 10 },
    )
    .map((all) => all.filter(([, flags], i) => i === 0 || flags !== all[i - 1]?.[1])),
  fc
    .tuple(fc.nat(extentsPerReply - 1), fc.integer({ min: 1, max: 2 ** 20 }))
    .map(([last, length]) =>
      Array.from({ length: last + 1 }, (_, i): readonly [number, number] => [length + i, i % 3]),
    ),
);

function listOf(all: Extents): ExtentList {
  const list = new ExtentList(extentsPerReply);
  for (const [length, flags] of all) list.push(length, flags);
  return list;
}

t.test('packs extents, up to the end of the request', async (t) => {
  fc.assert(
    fc.property(extents, u32, fc.boolean(), fc.boolean(), u64, (all, context, wide, one, cut) => {
      const list = listOf(all);
      const most = one ? 1 : list.count;
      const whole = wide ? list.bytes : Math.min(list.bytes, 0xffffffff);
      const length = Number(cut % BigInt(whole)) + 1;
      const memory = Buffer.alloc(extentsBytesMax + 8, 0xee);
      const view = new DataView(memory.buffer, memory.byteOffset, memory.length);
      const bytes = packExtents(view, 5, context, list, most, length, wide);
      const start = wide ? 8 : 4;
      const step = wide ? 16 : 8;
      const count = (bytes - start) / step;
      if (memory.readUInt32BE(5) !== context) return false;
      if (wide && memory.readUInt32BE(9) !== count) return false;
      if (!Number.isInteger(count) || count < 1 || (one && count !== 1)) return false;
      if (memory.subarray(5 + bytes).some((byte) => byte !== 0xee)) return false;
      let left = length;
      for (let i = 0; i < count; i++) {
        const at = 5 + start + step * i;
        const found = wide ? Number(memory.readBigUInt64BE(at)) : memory.readUInt32BE(at);
        const flags = wide ? Number(memory.readBigUInt64BE(at + 8)) : memory.readUInt32BE(at + 4);
        if (found !== Math.min(list.lengths[i] as number, left)) return false;
        if (flags !== list.flags[i]) return false;
        left -= found;
      }
      // All that is known of the range is told.
      return one || left === Math.max(0, length - list.bytes);
    }),
    { numRuns: 1000 },
  );
  t.pass('none is cut short or too long');
});

const kinds: readonly (readonly [string, ReplyKind])[] = [
  ['simple', SIMPLE],
  ['structured', STRUCTURED],
  ['extended', EXTENDED],
];

/** As much of a text as fits into so many bytes. */
function wholeCharacters(text: string, most: number): string {
  let fitting = '';
  for (const character of text) {
    if (Buffer.byteLength(fitting + character) > most) break;
    fitting += character;
  }
  return fitting;
}

interface Answered {
  readonly request: Request;
  readonly fields: RequestFields;
  readonly wanted: Omit<Reply, 'cookie'>;
}

for (const [title, kind] of kinds) {
  t.test(`packs ${title} replies that a client understands`, async (t) => {
    const engine = new ScriptedEngine(2 ** 22);
    const block = engine.arena.allocate(batchBytes);
    const data = engine.arena.allocate(4096);
    const bytes = Buffer.from(engine.arena.bytes.buffer);
    for (let at = 0; at < 4096; at++) bytes[data + at] = at % 251;
    const pool = new RequestPool();
    const contexts = contextsOf([record('monday')]);
    /** What a BLOCK_STATUS asks for: some of the extents reach past its end. */
    const rangeBytes = kind === EXTENDED ? 2 ** 46 : 2 ** 32 - 1;
    let batches = 0;

    const answered = fc
      .record({
        what: fc.oneof(
          fc.constant('status'),
          fc.constantFrom('read', 'holes', 'zero', 'write', 'error'),
        ),
        offset: fc.nat(2 ** 52),
        length: fc.integer({ min: 1, max: 4096 }),
        text: fc
          .tuple(fc.string({ unit: 'grapheme', maxLength: 20 }), fc.nat(20))
          .map(([text, times]) => text.repeat(times)),
        error: fc.constantFrom(1, 5, 12, 22, 28, 108, 30, 122, 200),
        lists: fc.array(extents, { minLength: 1, maxLength: 3 }),
      })
      .filter(({ what }) => kind !== SIMPLE || (what !== 'status' && what !== 'holes'));

    const make = (
      each: typeof answered extends fc.Arbitrary<infer T> ? T : never,
      cookie: number,
    ): Answered => {
      const { what, offset, length } = each;
      const of = pool.take({ ioFinished() {} });
      of.type = what === 'status' ? CMD.blockStatus : what === 'write' ? CMD.write : CMD.read;
      of.cookieFirst = 0;
      of.cookieSecond = cookie;
      of.flags = 0;
      of.offset = offset;
      of.offsetHigh = Math.floor(offset / 2 ** 32);
      of.offsetLow = offset % 2 ** 32;
      of.length = what === 'status' ? rangeBytes : length;
      const fields = { type: of.type, cookie, offset, length: of.length };
      const whole = Buffer.from(bytes.subarray(data, data + length));
      const none = { error: 0, text: '', data: Buffer.alloc(0), chunks: [] };
      const chunks = kind === SIMPLE ? [] : [`data 0+${length}`];
      switch (what) {
        case 'read':
          of.memory = data;
          return { request: of, fields, wanted: { ...none, data: whole, chunks } };
        case 'zero': {
          of.memory = data;
          of.allZero = true;
          const hole = kind === SIMPLE ? [] : [`hole 0+${length}`];
          return {
            request: of,
            fields,
            wanted: { ...none, data: Buffer.alloc(length), chunks: hole },
          };
        }
        case 'holes': {
          of.memory = data;
          if (length < 3) return { request: of, fields, wanted: { ...none, data: whole, chunks } };
          of.holes.push(1, 0);
          of.holes.push(length - 2, 3);
          of.holes.push(1, 0);
          const sparse = ['data 0+1', `hole 1+${length - 2}`, `data ${length - 1}+1`];
          whole.fill(0, 1, length - 1);
          return { request: of, fields, wanted: { ...none, data: whole, chunks: sparse } };
        }
        case 'status': {
          of.contexts = contexts;
          const told: string[] = [];
          for (const [i, all] of each.lists.entries()) {
            const list = listOf(all);
            of.answers.push(list);
            const tag = i === 0 ? '' : `${i + 1}/`;
            let left = of.length;
            for (let k = 0; k < list.count && left > 0; k++) {
              const extent = Math.min(left, list.lengths[k] as number);
              told.push(`${tag}${extent}:${list.flags[k]}`);
              left -= extent;
            }
          }
          return { request: of, fields, wanted: { ...none, chunks: told } };
        }
        case 'write':
          return { request: of, fields, wanted: none };
        default: {
          of.error = each.error;
          of.reason = each.text;
          const error = wireError(each.error, CMD.read, 0);
          const text = kind === SIMPLE ? '' : wholeCharacters(each.text, errorTextBytes);
          const empty = kind === SIMPLE ? Buffer.alloc(0) : Buffer.alloc(length);
          return { request: of, fields, wanted: { ...none, error, text, data: empty } };
        }
      }
    };

    /** All bytes of the requests' replies, in as many batches as they need. */
    const pack = (all: readonly Answered[]): Buffer => {
      const sent: Buffer[] = [];
      const batch = new ReplyBatch(engine, block);
      const flush = (): void => {
        const vector = batch.vector as ArenaSendVector;
        for (let i = 0; i < vector.count; i++) {
          const at = vector.offsetOf(i);
          sent.push(Buffer.from(bytes.subarray(at, at + vector.lengthOf(i))));
        }
        batch.clear();
        batches++;
      };
      for (const { request } of all) {
        if (!batch.hasRoom) flush();
        while (!batch.add(request, kind)) flush();
      }
      flush();
      return Buffer.concat(sent);
    };

    fc.assert(
      fc.property(
        fc.array(answered, { minLength: 1, maxLength: 40, size: 'max' }),
        fc.nat(),
        (each, cut) => {
          const all = each.map((one, i) => make(one, i + 1));
          const stream = pack(all);
          const mode = { structured: kind !== SIMPLE, extended: kind === EXTENDED, contexts: [] };
          const reader = new ReplyReader(mode);
          for (const { fields } of all) reader.asked(fields);
          const at = cut % (stream.length + 1);
          const replies = [
            ...reader.take(stream.subarray(0, at)),
            ...reader.take(stream.subarray(at)),
          ];
          for (const { request } of all) {
            request.answers.length = 0;
            request.answersSent = 0;
            pool.give(request);
          }
          const found = JSON.stringify(replies.map(({ cookie: _, ...reply }) => reply));
          const wanted = JSON.stringify(all.map(({ wanted }) => wanted));
          return found === wanted && reader.partialBytes === 0 && reader.unanswered === 0;
        },
      ),
      { numRuns: 100 },
    );
    if (kind !== SIMPLE) t.ok(batches > 100, `${batches} batches`);
    t.pass('as they were meant');
  });
}
