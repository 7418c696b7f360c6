import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import t from 'tap';
import { EINVAL, ENOSPC, EPERM, errnoName } from '../../src/base/errno.js';
import * as limits from '../../src/base/limits.js';
import * as nbd from '../../src/nbd/constants.js';
import { contextsOf } from '../../src/nbd/meta-context.js';
import {
  commandName,
  requestFaultText,
  type TransmissionRules,
  transmissionRules,
  validateRequest,
} from '../../src/nbd/validate.js';
import { exportInfo } from './conversation.js';

const MiB = 1024 * 1024;
const size = 1024 * MiB;

const full: TransmissionRules = {
  sizeBytes: size,
  readOnly: false,
  structured: true,
  extended: false,
  trim: true,
  fastZero: true,
  cache: true,
  contexts: 1,
  payloadBytesMax: 64 * MiB,
};
const bare: TransmissionRules = {
  ...full,
  structured: false,
  trim: false,
  fastZero: false,
  cache: false,
  contexts: 0,
};

interface Request {
  type: number;
  flags?: number;
  high?: number;
  low?: number;
  lengthHigh?: number;
  length?: number;
}

function args(request: Request, rules: TransmissionRules) {
  const { type, flags = 0, high = 0, low = 0, lengthHigh = 0, length = 4096 } = request;
  return [type, flags, high, low, lengthHigh, length, rules] as const;
}

function validate(request: Request, rules = full): string {
  const errno = validateRequest(...args(request, rules));
  const text = requestFaultText(...args(request, rules));
  // What holds for every request: a text says what is wrong exactly if something is.
  if ((errno === 0) !== (text === '')) throw new Error(`found errno ${errno} with text "${text}"`);
  if (Buffer.byteLength(text) > limits.errorTextBytes)
    throw new Error(`found a long text: ${text}`);
  return errno === 0 ? 'ok' : errnoName(errno);
}

const READ: Request = { type: nbd.CMD_READ };
const WRITE: Request = { type: nbd.CMD_WRITE };
const FLUSH: Request = { type: nbd.CMD_FLUSH, length: 0 };
const TRIM: Request = { type: nbd.CMD_TRIM };
const CACHE: Request = { type: nbd.CMD_CACHE };
const ZEROES: Request = { type: nbd.CMD_WRITE_ZEROES };
const STATUS: Request = { type: nbd.CMD_BLOCK_STATUS };
const commands = [READ, WRITE, FLUSH, TRIM, CACHE, ZEROES, STATUS];

const { CMD_FLAG_FUA, CMD_FLAG_NO_HOLE, CMD_FLAG_DF, CMD_FLAG_REQ_ONE, CMD_FLAG_FAST_ZERO } = nbd;

t.test('commands', async (t) => {
  t.test('are accepted where they were negotiated', async (t) => {
    for (const request of commands) t.equal(validate(request), 'ok', commandName(request.type));
  });

  t.test('answers EINVAL to those that are not known', async (t) => {
    for (const type of [nbd.CMD_DISC, 8, 9, 99, 0x8000, 0xffff]) {
      for (const rules of [full, bare, { ...full, readOnly: true }]) {
        t.equal(validate({ type }, rules), 'EINVAL', `command ${type}`);
      }
    }
    t.equal(requestFaultText(99, 0, 0, 0, 0, 1, full), 'command 99: not known');
  });

  t.test('answers EINVAL to what was not negotiated, but takes CACHE', async (t) => {
    const wanted = ['ok', 'ok', 'ok', 'EINVAL', 'ok', 'ok', 'EINVAL'];
    t.same(
      commands.map((request) => validate(request, bare)),
      wanted,
    );
    t.equal(requestFaultText(4, 0, 0, 0, 0, 1, bare), 'trim: the export does not offer it');
    t.match(requestFaultText(7, 0, 0, 0, 0, 1, bare), /no metadata context was negotiated$/);
  });

  t.test('answers EPERM to those that change a read-only export', async (t) => {
    const wanted = ['ok', 'EPERM', 'ok', 'EPERM', 'ok', 'EPERM', 'ok'];
    for (const more of [{}, { trim: false, fastZero: false }]) {
      const rules = { ...full, ...more, readOnly: true };
      t.same(
        commands.map((request) => validate(request, rules)),
        wanted,
      );
      // Neither range nor flags make it another error.
      t.equal(validate({ ...WRITE, high: 1, flags: 0x8000, length: 0 }, rules), 'EPERM');
    }
  });
});

t.test('flags', async (t) => {
  // Bits that a command may have when all is negotiated, and when nothing is.
  const table: [Request, number, number][] = [
    [READ, CMD_FLAG_FUA | CMD_FLAG_DF, CMD_FLAG_FUA],
    [WRITE, CMD_FLAG_FUA, CMD_FLAG_FUA],
    [FLUSH, CMD_FLAG_FUA, CMD_FLAG_FUA],
    [TRIM, CMD_FLAG_FUA, 0],
    [CACHE, CMD_FLAG_FUA, CMD_FLAG_FUA],
    [ZEROES, CMD_FLAG_FUA | CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO, CMD_FLAG_FUA | CMD_FLAG_NO_HOLE],
    [STATUS, CMD_FLAG_FUA | CMD_FLAG_REQ_ONE, 0],
  ];
  for (const [request, allowed, allowedBare] of table) {
    t.test(`of ${commandName(request.type)}: each of the 16 with every negotiation`, async (t) => {
      for (let bit = 0; bit < 16; bit++) {
        const flags = 1 << bit;
        const wanted = (allowed & flags) !== 0 ? 'ok' : 'EINVAL';
        const wantedBare = (allowedBare & flags) !== 0 ? 'ok' : 'EINVAL';
        t.equal(validate({ ...request, flags }), wanted, `bit ${bit}`);
        t.equal(validate({ ...request, flags }, bare), wantedBare, `bit ${bit}, bare`);
      }
      t.equal(validate({ ...request, flags: allowed }), 'ok', 'all of them together');
      t.equal(validate({ ...request, flags: allowed | 0x100 }), 'EINVAL', 'one too many');
    });
  }

  t.test('depend on one part of the negotiation only', async (t) => {
    const df = { ...READ, flags: CMD_FLAG_DF };
    t.equal(validate(df, { ...bare, structured: true }), 'ok');
    t.equal(validate(df, { ...full, structured: false }), 'EINVAL');
    const fast = { ...ZEROES, flags: CMD_FLAG_FAST_ZERO };
    t.equal(validate(fast, { ...bare, fastZero: true }), 'ok');
    t.equal(validate(fast, { ...full, fastZero: false }), 'EINVAL');
    t.equal(
      requestFaultText(6, CMD_FLAG_FAST_ZERO, 0, 0, 0, 1, bare),
      'write zeroes: found flags 0x10, wanted none but 0x3',
    );
  });
});

t.test('ranges', async (t) => {
  const pastEnd: [Request, string][] = [
    [READ, 'EINVAL'],
    [WRITE, 'ENOSPC'],
    [TRIM, 'EINVAL'],
    [CACHE, 'EINVAL'],
    [ZEROES, 'ENOSPC'],
    [STATUS, 'EINVAL'],
  ];
  for (const [request, errno] of pastEnd) {
    t.test(`of ${commandName(request.type)}: ${errno} past the end`, async (t) => {
      t.equal(validate({ ...request, low: size - 4096 }), 'ok');
      t.equal(validate({ ...request, low: size - 1, length: 1 }), 'ok');
      t.equal(validate({ ...request, low: size - 4095 }), errno);
      t.equal(validate({ ...request, low: size, length: 1 }), errno);
      t.equal(validate({ ...request, low: 0xffffffff, length: 0xffffffff }), errno);
      t.equal(validate({ ...request, high: 1 }), errno);
      // 2^53, where doubles lose the ones, and 2^63, where signed offsets end.
      t.equal(validate({ ...request, high: 0x1fffff, low: 0xffffffff, length: 1 }), errno);
      t.equal(validate({ ...request, high: 0x200000 }), errno);
      t.equal(validate({ ...request, high: 0x80000000 }), errno);
      t.equal(validate({ ...request, high: 0xffffffff, low: 0xfffff000 }), errno);
    });

    t.test(`of ${commandName(request.type)}: EINVAL with a length of zero`, async (t) => {
      for (const [high, low] of [
        [0, 0],
        [0, size],
        [0xffffffff, 0],
      ]) {
        t.equal(validate({ ...request, high, low, length: 0 } as Request), 'EINVAL');
      }
    });

    t.test(`of ${commandName(request.type)}: at the end of the largest device`, async (t) => {
      const rules = { ...full, sizeBytes: limits.deviceBytes, payloadBytesMax: 0xffffffff };
      const end = { high: 0x1fffff, low: 0xfffffe00 - 512 };
      t.equal(validate({ ...request, ...end, length: 512 }, rules), 'ok');
      t.equal(validate({ ...request, ...end, length: 513 }, rules), errno);
      t.equal(validate({ ...request, ...end, low: end.low + 1, length: 512 }, rules), errno);
      t.equal(validate({ ...request, ...end, length: 0xffffffff }, rules), errno);
      t.equal(validate({ ...request, high: 0x1ffffe, length: 0xffffffff }, rules), 'ok');
    });

    t.test(`of ${commandName(request.type)}: none on an empty export`, async (t) => {
      const rules = { ...full, sizeBytes: 0 };
      t.equal(validate({ ...request, length: 1 }, rules), errno);
    });
  }

  t.test('of flush: EINVAL unless offset and length are zero', async (t) => {
    t.equal(validate(FLUSH), 'ok');
    t.equal(validate(FLUSH, { ...bare, sizeBytes: 0, readOnly: true }), 'ok');
    t.equal(validate({ ...FLUSH, length: 1 }), 'EINVAL');
    t.equal(validate({ ...FLUSH, low: 512 }), 'EINVAL');
    t.equal(validate({ ...FLUSH, high: 1 }), 'EINVAL');
    t.equal(
      requestFaultText(3, 0, 1, 2, 0, 3, full),
      'flush: found offset 4294967298 and length 3, wanted 0 and 0',
    );
  });

  t.test('are told with the offset as it was sent', async (t) => {
    t.equal(
      requestFaultText(0, 0, 0xffffffff, 0xffffffff, 0, 0xffffffff, full),
      'read: found offset 18446744073709551615 and length 4294967295, ' +
        'wanted an end within 1073741824',
    );
  });
});

t.test('payloads', async (t) => {
  const most = full.payloadBytesMax;

  t.test('answers EINVAL to a read or write that is longer than the largest', async (t) => {
    for (const request of [READ, WRITE]) {
      t.equal(validate({ ...request, length: most }), 'ok');
      t.equal(validate({ ...request, length: most + 1 }), 'EINVAL');
    }
    t.equal(validate({ ...READ, flags: CMD_FLAG_DF, length: most }), 'ok');
    t.equal(validate({ ...READ, flags: CMD_FLAG_DF, length: most + 1 }), 'EINVAL');
    t.equal(
      requestFaultText(1, 0, 0, 0, 0, most + 1, full),
      'write: found length 67108865, wanted at most 67108864',
    );
  });

  t.test('do not bound commands without one', async (t) => {
    for (const request of [TRIM, CACHE, ZEROES, STATUS]) {
      t.equal(validate({ ...request, length: size }), 'ok');
    }
  });
});

t.test('rules follow from the export and what was negotiated', async (t) => {
  const info = exportInfo({ fastZero: true, cache: true, sizeBytes: size });
  const contexts = contextsOf([]).slice(0, 1);
  const outcome = { structuredReplies: true, extendedHeaders: false, contexts };
  const none = { structuredReplies: false, extendedHeaders: false, contexts: [] };
  t.same(transmissionRules({ ...outcome, exportInfo: info }), full);
  const poor = exportInfo({ trim: false, sizeBytes: size });
  t.same(transmissionRules({ ...none, exportInfo: poor }), bare);
  const readOnly = transmissionRules({ ...outcome, exportInfo: { ...info, readOnly: true } });
  t.same(readOnly, { ...full, readOnly: true, trim: false, fastZero: false });
  t.match(transmissionRules({ ...outcome, extendedHeaders: true, exportInfo: info }), {
    extended: true,
    structured: true,
    contexts: 1,
  });
});

/** The same rules told slowly, with numbers that cannot overflow. */
function oracle(request: Required<Request>, rules: TransmissionRules): number {
  const { type, flags, high, low } = request;
  const payload = rules.extended ? [5] : [];
  const valid = new Map([
    [nbd.CMD_READ, rules.structured ? [0, 2] : [0]],
    [nbd.CMD_WRITE, [0, ...payload]],
    [nbd.CMD_FLUSH, [0]],
    [nbd.CMD_TRIM, [0]],
    [nbd.CMD_CACHE, [0]],
    [nbd.CMD_WRITE_ZEROES, rules.fastZero ? [0, 1, 4] : [0, 1]],
    [nbd.CMD_BLOCK_STATUS, rules.contexts > 0 ? [0, 3, ...payload] : [0, 3]],
  ]).get(type);
  if (valid === undefined) return EINVAL;
  const writes = [nbd.CMD_WRITE, nbd.CMD_WRITE_ZEROES].includes(type);
  if (rules.readOnly && (writes || type === nbd.CMD_TRIM)) return EPERM;
  for (let bit = 0; bit < 16; bit++) {
    if (((flags >> bit) & 1) === 1 && !valid.includes(bit)) return EINVAL;
  }
  const offset = BigInt(high) * 4294967296n + BigInt(low);
  const length = BigInt(request.lengthHigh) * 4294967296n + BigInt(request.length);
  if (type === nbd.CMD_FLUSH) return offset + length === 0n ? 0 : EINVAL;
  if (type === nbd.CMD_TRIM && !rules.trim) return EINVAL;
  if (type === nbd.CMD_BLOCK_STATUS) {
    if (rules.contexts === 0) return EINVAL;
    // It is the length of its payload: u64, and at least one u32.
    const ids = (length - 8n) / 4n;
    const whole = length === 8n + 4n * ids;
    if ((flags & 32) !== 0) return whole && ids >= 1n && ids <= rules.contexts ? 0 : EINVAL;
  }
  if (length === 0n) return EINVAL;
  if (offset + length > BigInt(rules.sizeBytes)) return writes ? ENOSPC : EINVAL;
  if (type <= nbd.CMD_WRITE && length > rules.payloadBytesMax) return EINVAL;
  return 0;
}

t.test('every request is judged as by an oracle with large numbers', async (t) => {
  const u32 = fc.oneof(
    fc.nat(0xffffffff),
    fc.nat(4),
    fc.nat(4).map((n) => 0xffffffff - n),
  );
  const rules = fc.record({
    sizeBytes: fc.oneof(
      fc.maxSafeNat(),
      fc.nat(1024),
      fc.nat(0xffffffff).map((n) => n + 2 ** 32 - 512),
      fc.nat(1024).map((n) => limits.deviceBytes - n),
    ),
    readOnly: fc.boolean(),
    structured: fc.boolean(),
    extended: fc.boolean(),
    trim: fc.boolean(),
    fastZero: fc.boolean(),
    cache: fc.boolean(),
    contexts: fc.nat(3),
    payloadBytesMax: fc.constantFrom(MiB, 64 * MiB, 0xffffffff),
  });
  // Offsets near the end of the device are where mistakes are, and ends beyond 2^53 and 2^64.
  const where = fc.oneof(fc.record({ high: u32, low: u32 }), fc.integer({ min: -1024, max: 1024 }));
  const lengthHigh = fc.oneof(
    { weight: 3, arbitrary: fc.constant(0) },
    fc.constantFrom(1, 0x1fffff, 0x200000, 0x7fffffff, 0xffffffff),
    u32,
  );
  const found = new Set<number>();
  fc.assert(
    fc.property(
      rules,
      fc.oneof(fc.nat(8), fc.nat(0xffff)),
      fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.nat(0x3f), fc.nat(0xffff)),
      where,
      lengthHigh,
      fc.oneof(u32, fc.nat(1024), fc.constantFrom(8, 12, 16, 20, 24)),
      (rules, type, flags, where, anyHigh, length) => {
        const lengthHigh = rules.extended ? anyHigh : 0;
        let { high, low } = typeof where === 'number' ? { high: 0, low: 0 } : where;
        if (typeof where === 'number') {
          const bytes = BigInt(lengthHigh) * 4294967296n + BigInt(length);
          const offset = BigInt.asUintN(64, BigInt(rules.sizeBytes) - bytes + BigInt(where));
          high = Number(offset >> 32n);
          low = Number(offset & 0xffffffffn);
        }
        const request = { type, flags, high, low, lengthHigh, length };
        const wanted = oracle(request, rules);
        found.add(wanted);
        return validate(request, rules) === (wanted === 0 ? 'ok' : errnoName(wanted));
      },
    ),
    { numRuns: 20_000 },
  );
  t.same([...found].sort(), [0, EPERM, EINVAL, ENOSPC].sort(), 'every answer was met');
});
