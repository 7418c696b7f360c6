import { Buffer } from 'node:buffer';
import t, { type Test } from 'tap';
import { ECONNRESET, EIO, EOPNOTSUPP } from '../../src/base/errno.js';
import { payloadBytes, payloadBytesFatal, rangeStepBytes } from '../../src/base/limits.js';
import * as nbd from '../../src/nbd/constants.js';
import type { Call } from '../backing/scripted-engine.js';
import { pattern } from '../device/io-client.js';
import {
  CMD,
  CMD_FLAG,
  extended,
  type RequestFields,
  request,
  simple,
  statusPayload,
  structured,
} from './client.js';
import {
  type Conversation,
  contextData,
  converse,
  directoryOf,
  exportInfo,
  infoData,
  option,
  readReplies,
  u32,
} from './conversation.js';
import { type Client, hex, onDisk, Rig } from './rig.js';

const MiB = 2 ** 20;
const GiB = 2 ** 30;

t.test('NBD_OPT_EXTENDED_HEADERS', async (t) => {
  const directory = directoryOf([exportInfo(), exportInfo({ name: 'vol1' })]);
  const extendedHeaders = option(nbd.OPT_EXTENDED_HEADERS);
  const structuredReply = option(nbd.OPT_STRUCTURED_REPLY);
  const set = (name: string, ...queries: string[]): Buffer =>
    option(nbd.OPT_SET_META_CONTEXT, contextData(name, ...queries));
  const go = option(nbd.OPT_GO, infoData('vol0'));
  const talk = (...pieces: Buffer[]): Conversation =>
    converse(directory, Buffer.concat([u32(3), ...pieces]));
  const types = (...pieces: Buffer[]): number[] =>
    readReplies(talk(...pieces).output).map(({ type }) => type);
  const { REP_ACK, REP_ERR_INVALID, REP_META_CONTEXT } = nbd;

  t.test('is acknowledged once, and brings structured replies with it', async (t) => {
    t.same(types(extendedHeaders), [REP_ACK]);
    t.same(types(structuredReply, extendedHeaders), [REP_ACK, REP_ACK]);
    t.same(types(extendedHeaders, extendedHeaders), [REP_ACK, REP_ERR_INVALID]);
    t.match(talk(extendedHeaders, go).outcome, { extendedHeaders: true, structuredReplies: true });
    const twice = talk(extendedHeaders, extendedHeaders, go);
    t.match(twice.outcome, { extendedHeaders: true }, 'as it was');
  });

  t.test('rejects data, and is not negotiated then', async (t) => {
    const bad = option(nbd.OPT_EXTENDED_HEADERS, 'x');
    t.same(types(bad, structuredReply), [REP_ERR_INVALID, REP_ACK]);
    t.match(talk(bad, go).outcome, { extendedHeaders: false, structuredReplies: false });
    t.same(types(bad, extendedHeaders), [REP_ERR_INVALID, REP_ACK]);
  });

  t.test('answers ERR_EXT_HEADER_REQD to structured replies behind it', async (t) => {
    const [, reply] = readReplies(talk(extendedHeaders, structuredReply).output);
    t.equal(reply?.type, 0x8000000a);
    t.match(reply?.data.toString(), /^NBD_OPT_STRUCTURED_REPLY: extended headers are negotiated$/);
    const bad = option(nbd.OPT_STRUCTURED_REPLY, 'x');
    t.same(types(extendedHeaders, bad), [REP_ACK, REP_ERR_INVALID]);
  });

  t.test('drops a client that comes with EXPORT_NAME behind it', async (t) => {
    const { state, failure, output } = talk(extendedHeaders, option(nbd.OPT_EXPORT_NAME, 'vol0'));
    t.equal(state, 'ended');
    t.match(failure, /^NBD_OPT_EXPORT_NAME: wanted GO, extended headers are negotiated$/);
    t.equal(readReplies(output).length, 1, 'it got nothing but its ACK');
  });

  t.test('is enough for metadata contexts', async (t) => {
    const replies = [REP_ACK, REP_META_CONTEXT, REP_ACK];
    t.same(types(extendedHeaders, set('vol0', 'base:allocation')), replies);
    const later = talk(structuredReply, set('vol0', 'base:allocation'), extendedHeaders, go);
    t.match(later.outcome, { contexts: [{ id: 1 }] }, 'those from before stay');
  });

  t.test('has DF and the payload of BLOCK_STATUS among the flags', async (t) => {
    const flags = (...pieces: Buffer[]): number | undefined => {
      const replies = readReplies(talk(...pieces, go).output);
      return replies.find(({ type }) => type === nbd.REP_INFO)?.data.readUInt16BE(10);
    };
    const df = 0x80;
    const payload = 0x1000;
    const plain = flags() ?? 0;
    const chosen = set('vol0', 'base:allocation');
    t.equal(plain & (df | payload), 0);
    t.equal(flags(extendedHeaders), plain | df, 'not without contexts');
    t.equal(flags(extendedHeaders, chosen), plain | df | payload);
    t.equal(flags(extendedHeaders, chosen, set('vol0')), plain | df, 'nor when they are given up');
    t.equal(flags(extendedHeaders, set('vol1', 'base:allocation')), plain | df, 'nor for others');
    t.equal(flags(structuredReply, chosen), plain | df, 'nor with compact headers');
    t.equal(flags(structuredReply, chosen, extendedHeaders), plain | df | payload);
  });
});

/** A disk of 64 KiB with known contents, and 8 GiB of memory. */
async function begin(): Promise<Rig> {
  const rig = new Rig();
  const disk = rig.disk('/disk', 128);
  disk.bytes.set(pattern(65_536, 1));
  disk.allocate(0, 65_536);
  disk.bytes.set(Buffer.from('0123456789abcdef'), 0);
  await rig.create('disk', '0 128 linear /disk 0');
  await rig.create('memory', `0 ${2 ** 24} memory`);
  return rig;
}

type Check = (sent: string, wanted: string, text?: string) => void;

/** Sends the first bytes and gets the second ones, both in hexadecimal, and a text behind them. */
function checker(t: Test, rig: Rig, client: Client): Check {
  return (sent, wanted, text = '') => {
    client.socket.push(hex(sent));
    rig.work();
    const found = client.socket.takeOutput().toString('hex');
    t.equal(found, hex(wanted).toString('hex') + Buffer.from(text).toString('hex'), wanted);
  };
}

t.test('answers in extended chunks, byte for byte', async (t) => {
  const rig = await begin();
  const client = rig.connect('disk', extended);
  const check = checker(t, rig, client);
  // READ of 8 bytes at 8.
  check(
    '21e41c71 0000 0000 1122334455667788 0000000000000008 0000000000000008',
    '6e8a278c 0001 0001 1122334455667788 0000000000000008 0000000000000010' +
      '0000000000000008 3839616263646566',
  );
  // WRITE with PAYLOAD_LEN and FUA, and WRITE without the flag, which some clients leave out.
  check(
    '21e41c71 0021 0001 ffffffffffffffff 0000000000000010 0000000000000004 cafebabe',
    '6e8a278c 0001 0000 ffffffffffffffff 0000000000000010 0000000000000000',
  );
  check(
    '21e41c71 0000 0001 0000000000000001 0000000000000014 0000000000000002 beef',
    '6e8a278c 0001 0000 0000000000000001 0000000000000014 0000000000000000',
  );
  check(
    '21e41c71 0000 0000 0000000000000002 000000000000000e 0000000000000008',
    '6e8a278c 0001 0001 0000000000000002 000000000000000e 0000000000000010' +
      '000000000000000e 6566cafebabebeef',
  );
  check(
    '21e41c71 0000 0003 0000000000000003 0000000000000000 0000000000000000',
    '6e8a278c 0001 0000 0000000000000003 0000000000000000 0000000000000000',
  );
  check(
    '21e41c71 0000 0004 0000000000000004 0000000000001000 0000000000001000',
    '6e8a278c 0001 0000 0000000000000004 0000000000001000 0000000000000000',
  );
  check(
    '21e41c71 0010 0006 0000000000000005 0000000000003000 0000000000001000',
    '6e8a278c 0001 0000 0000000000000005 0000000000003000 0000000000000000',
  );
  check(
    '21e41c71 0000 0005 0000000000000006 0000000000000000 0000000000001000',
    '6e8a278c 0001 0000 0000000000000006 0000000000000000 0000000000000000',
  );
  // Data, a hole (whose size has 32 bits all the same), data.
  const bytes = rig.engine.disks.get('/disk')?.bytes;
  const data = (from: number, to: number): string =>
    Buffer.from(bytes?.subarray(from, to) ?? []).toString('hex');
  check(
    '21e41c71 0000 0000 0000000000000007 0000000000000ffe 0000000000001004',
    '6e8a278c 0000 0001 0000000000000007 0000000000000ffe 000000000000000a 0000000000000ffe' +
      data(0xffe, 0x1000) +
      '6e8a278c 0000 0002 0000000000000007 0000000000000ffe 000000000000000c' +
      '0000000000001000 00001000' +
      '6e8a278c 0001 0001 0000000000000007 0000000000000ffe 000000000000000a 0000000000002000' +
      data(0x2000, 0x2002),
  );
  check(
    '21e41c71 0004 0000 0000000000000008 0000000000000ffe 0000000000000004',
    '6e8a278c 0001 0001 0000000000000008 0000000000000ffe 000000000000000c 0000000000000ffe' +
      data(0xffe, 0x1002),
  );
  // Extents of 64 bits: two of them, one for REQ_ONE, one for a payload that names the context.
  check(
    '21e41c71 0000 0007 0000000000000009 0000000000000010 0000000000001ff0',
    '6e8a278c 0001 0006 0000000000000009 0000000000000010 0000000000000028 00000001 00000002' +
      '0000000000000ff0 0000000000000000 0000000000001000 0000000000000003',
  );
  check(
    '21e41c71 0008 0007 000000000000000a 0000000000000010 0000000000001ff0',
    '6e8a278c 0001 0006 000000000000000a 0000000000000010 0000000000000018 00000001 00000001' +
      '0000000000000ff0 0000000000000000',
  );
  check(
    '21e41c71 0020 0007 000000000000000b 0000000000001100 000000000000000c' +
      '0000000000000200 00000001',
    '6e8a278c 0001 0006 000000000000000b 0000000000001100 0000000000000018 00000001 00000001' +
      '0000000000000200 0000000000000003',
  );
  // Errors: u32 error, u16 length, text.
  check(
    '21e41c71 0000 0000 000000000000000c ffffffffffffffff ffffffffffffffff',
    '6e8a278c 0001 8001 000000000000000c ffffffffffffffff 0000000000000069 00000016 0063',
    'read: found offset 18446744073709551615 and length 18446744073709551615, ' +
      'wanted an end within 65536',
  );
  check(
    '21e41c71 0020 0063 000000000000000d 0000000000000000 0000000000000003 010203',
    '6e8a278c 0001 8001 000000000000000d 0000000000000000 000000000000001b 00000016 0015',
    'command 99: not known',
  );
  check('21e41c71 0000 0002 000000000000000e 0000000000000000 0000000000000000', '');
  t.ok(client.socket.closed, 'DISC has no answer');
  rig.atRest();
});

t.test('tells extents of more than 4 GiB', async (t) => {
  const rig = await begin();
  const client = rig.connect('memory', extended);
  const check = checker(t, rig, client);
  check(
    '21e41c71 0020 0001 0000000000000001 0000000180000010 0000000000000004 cafebabe',
    '6e8a278c 0001 0000 0000000000000001 0000000180000010 0000000000000000',
  );
  check(
    '21e41c71 0000 0007 0000000000000002 0000000000000000 0000000200000000',
    '6e8a278c 0001 0006 0000000000000002 0000000000000000 0000000000000038 00000001 00000003' +
      '0000000180000000 0000000000000003' +
      '0000000000010000 0000000000000000' +
      '000000007fff0000 0000000000000003',
  );
  client.leave();
  rig.atRest();
});

t.test('closes when the magic is that of the other kind of headers', async (t) => {
  for (const mode of [simple, structured, extended]) {
    const { rig, client } = await onDisk(mode);
    client.socket.push(request({ type: CMD.flush, cookie: 1 }, !mode.extended));
    client.socket.push(request({ type: CMD.flush, cookie: 2 }, mode.extended));
    rig.work();
    t.ok(client.socket.closed);
    t.equal(client.partialBytes, 0, 'nothing is answered');
    const wrong = mode.extended ? '25609513' : '21e41c71';
    t.same(rig.logged, [`peer0: disconnecting: request magic: found 0x${wrong}`]);
    rig.atRest();
  }
});

t.test('payloads', async (t) => {
  const { payloadLen } = CMD_FLAG;

  t.test('answers EINVAL to one that a command does not have, and drains it', async (t) => {
    const { rig, disk, client } = await onDisk(extended);
    for (const type of [CMD.read, CMD.flush, CMD.trim, CMD.cache, CMD.writeZeroes, 8, 0xffff]) {
      for (const length of [0, 1, 31, 5000, 300_000]) {
        const payload = pattern(length, type);
        const reply = client.answer(client.ask(type, { payload, flags: payloadLen }));
        t.equal(reply.error, 22, `command ${type} with ${length} bytes`);
        t.match(reply.text, type < 8 ? /found flags 0x20, wanted none but/ : /not known/);
      }
    }
    t.equal(client.answer(client.read(0, 8)).error, 0, 'the stream is in step');
    t.same(disk.takeCalls(), ['read 0+8'], 'and nothing else was carried out');
    client.leave();
    rig.atRest();
  });

  t.test('takes all that is sent with one, whatever is wrong', async (t) => {
    const rig = new Rig(32 * MiB);
    await rig.create('it', `0 ${2 ** 24} memory`);
    const client = rig.connect('it', extended);
    const most = payloadBytes + 512;
    for (const type of [CMD.write, CMD.read, CMD.blockStatus]) {
      const fields = { type, cookie: type + 1, offset: 0, length: most, flags: payloadLen };
      client.send(fields);
      const piece = Buffer.alloc(MiB, 1);
      for (let left = most; left > 0; left -= MiB) {
        t.equal(client.reply(type + 1), undefined);
        client.socket.push(piece.subarray(0, left));
        rig.work();
      }
      t.equal(client.reply(type + 1)?.error, 22);
    }
    t.match(client.answer(client.read(0, 8)), { error: 0, data: Buffer.alloc(8) });
    client.leave();
    rig.atRest();
  });

  t.test('leaves a client whose payload is beyond all measure', async (t) => {
    for (const length of [payloadBytesFatal + 1, 2n ** 53n, 2n ** 64n - 1n]) {
      for (const type of [CMD.write, CMD.trim, CMD.blockStatus, 99]) {
        const { rig, client } = await onDisk(extended);
        client.send({ type, cookie: 1, offset: 0, length, flags: payloadLen });
        rig.work();
        t.ok((client.reply(1)?.error ?? 0) > 0, 'it hears why');
        t.ok(client.socket.closed);
        t.match(rig.logged, [/payload of \d+ bytes, at most 67108864/]);
        rig.atRest();
      }
    }
  });

  t.test('knows no such flag with compact headers', async (t) => {
    const { rig, client } = await onDisk(structured);
    const payload = pattern(600, 1);
    t.equal(client.answer(client.write(0, payload, payloadLen)).error, 22);
    // Other commands have none there: what follows is the next request.
    t.equal(client.answer(client.ask(CMD.trim, { length: 512, flags: payloadLen })).error, 22);
    const status = { length: 512, flags: payloadLen };
    t.equal(client.answer(client.ask(CMD.blockStatus, status)).error, 22);
    t.equal(client.answer(client.write(0, payload)).error, 0);
    client.leave();
    rig.atRest();
  });

  t.test('waits for the whole of one that chooses contexts', async (t) => {
    const { rig, client } = await onDisk(extended);
    const status: RequestFields = {
      type: CMD.blockStatus,
      cookie: 1,
      offset: 0,
      payload: statusPayload(512, 1),
      flags: payloadLen,
    };
    const bytes = client.bytes(status);
    for (const byte of bytes.subarray(0, -1)) {
      client.socket.push(Buffer.of(byte));
      rig.work();
      t.equal(client.reply(1), undefined);
    }
    client.socket.push(bytes.subarray(-1));
    t.same(client.answer(1).chunks, ['512:3']);
    const never = client.bytes({ ...status, cookie: 2 });
    client.socket.push(never.subarray(0, -1));
    client.socket.end();
    rig.work();
    t.equal(client.reply(2)?.error, 5, 'one that never comes is an error');
    t.ok(client.socket.closed);
    rig.atRest();
  });
});

t.test('lengths of 64 bits', async (t) => {
  t.test('are judged exactly, and told exactly', async (t) => {
    const { rig, client } = await onDisk(extended);
    const size = 8 * MiB;
    for (const [type, error] of [
      [CMD.read, 22],
      [CMD.trim, 22],
      [CMD.cache, 22],
      [CMD.writeZeroes, 28],
      [CMD.blockStatus, 22],
    ] as const) {
      const ask = (offset: number | bigint, length: number | bigint) =>
        client.answer(client.ask(type, { offset, length }));
      t.equal(ask(0, size).error, 0);
      // 2^32 more than the size must not be taken for the size.
      for (const length of [size + 1, 2 ** 32 + size, 2n ** 53n - 1n, 2n ** 53n, 2n ** 53n + 1n]) {
        t.match(ask(0, length), { error, text: new RegExp(`offset 0 and length ${length},`) });
      }
      t.match(ask(1, 2n ** 64n - 1n), { error, text: /length 18446744073709551615,/ });
      t.equal(ask(2n ** 64n - 1n, 2n ** 64n - 1n).error, error);
      t.equal(ask(2n ** 64n - 512n, 512).error, error, 'a sum of 2^64');
      t.equal(ask(0, 2n ** 32n * 7n).error, error, 'no low half');
    }
    t.match(client.answer(client.ask(CMD.flush, { length: 2n ** 32n })), { error: 22 });
    client.leave();
    rig.atRest();
  });

  t.test('answers EINVAL to a READ of more than the largest payload', async (t) => {
    const rig = await begin();
    const client = rig.connect('memory', extended);
    for (const flags of [0, CMD_FLAG.df]) {
      for (const length of [payloadBytes + 1, 2 ** 32, 2 ** 32 + 4096]) {
        const { error, text } = client.answer(client.ask(CMD.read, { length, flags }));
        t.equal(error, 22);
        t.match(text, new RegExp(`^read: found length ${length}, wanted at most 67108864$`));
      }
    }
    client.leave();
    rig.atRest();
  });
});

t.test('very long ranges', async (t) => {
  const size = 64 * 2 ** 40;
  const table = `0 ${size / 512} memory`;

  /** The request has been taken, and the turn is not over. */
  const begun = (rig: Rig): void => {
    if (rig.engine.underWay.length !== 1) throw new Error('wanted a receive and no more');
    rig.engine.end(0);
  };

  t.test('are trimmed and zeroed in steps, each in a turn of its own', async (t) => {
    const rig = new Rig();
    await rig.create('it', table);
    const client = rig.connect('it', extended);
    const written = pattern(MiB, 1);
    const ends = [0, 5 * GiB + 3 * MiB, size - MiB];
    for (const at of ends) t.equal(client.answer(client.write(at, written)).error, 0);
    for (const type of [CMD.trim, CMD.writeZeroes]) {
      const long = client.ask(type, { offset: 4096, length: size - 8192 });
      begun(rig);
      t.equal(rig.engine.timers, 1, 'the next step waits for the next turn');
      t.equal(rig.devices.info('it').inFlight, 0);
      t.equal(client.answer(long).error, 0);
    }
    for (const at of ends) {
      const { data } = client.answer(client.read(at, MiB));
      const kept = at === 0 ? [0, 4096] : at === size - MiB ? [MiB - 4096, MiB] : [0, 0];
      const wanted = Buffer.alloc(MiB);
      written.copy(wanted, kept[0], kept[0], kept[1]);
      t.ok(data.equals(wanted), `${at}`);
    }
    client.leave();
    rig.atRest();
  });

  t.test('are cut where steps end, and end with the first error', async (t) => {
    const bytes = 3 * rangeStepBytes;
    const rig = new Rig();
    // It has no contents, but remembers what was asked of it.
    const disk = rig.disk('/disk', 0);
    disk.canZero = false;
    Object.defineProperty(disk.bytes, 'length', { value: bytes });
    for (const method of ['fill', 'set']) Object.defineProperty(disk.bytes, method, { value() {} });
    await rig.create('it', `0 ${bytes / 512} linear /disk 0`);
    const client = rig.connect('it', extended);
    const step = rangeStepBytes;
    const ask = (fields: Omit<RequestFields, 'type' | 'cookie'>) =>
      client.answer(client.ask(CMD.writeZeroes, fields));
    t.equal(ask({ offset: step, length: step }).error, 0);
    t.same(disk.takeCalls(), [`trim ${step}+${step}`], 'one step is none');
    t.equal(ask({ offset: 512, length: 2 * step, flags: 1 }).error, 0);
    t.same(disk.takeCalls(), [
      `trim 512+${step - 512}`,
      'flush',
      `trim ${step}+${step}`,
      'flush',
      `trim ${2 * step}+512`,
      'flush',
    ]);
    disk.script = ({ what, offset }) => (what === 'trim' && offset > 0 ? -EIO : undefined);
    t.match(ask({ offset: 0, length: bytes }), {
      error: 5,
      text: `write zeroes of ${bytes} bytes at 0: EIO`,
    });
    t.same(disk.takeCalls(), [`trim 0+${step}`, `trim ${step}+${step}`]);
    // What has begun quickly is brought to its end, even if that is slow.
    const refused = ({ what, offset }: Call): boolean => what === 'trim' && offset >= 2 * step;
    disk.script = (call) => (refused(call) ? -EOPNOTSUPP : undefined);
    const flags = CMD_FLAG.fastZero;
    t.equal(ask({ offset: step - MiB, length: step + 2 * MiB, flags }).error, 0);
    const [first, second, third, ...rest] = disk.takeCalls();
    t.same(
      [first, second, third],
      [`trim ${step - MiB}+${MiB}`, `trim ${step}+${step}`, `trim ${2 * step}+${MiB}`],
    );
    t.ok(rest.length > 0 && rest.every((call) => call.startsWith('write ')));
    t.match(ask({ offset: 0, length: bytes, flags }), { error: 95 }, 'before that it is refused');
    t.same(disk.takeCalls(), []);
    client.leave();
    rig.atRest();
  });

  t.test('are given up when the daemon goes down', async (t) => {
    const rig = new Rig();
    await rig.create('it', table);
    const client = rig.connect('it', extended);
    const long = client.ask(CMD.trim, { offset: 0, length: size });
    begun(rig);
    t.equal(client.reply(long), undefined);
    const down = rig.server.shutdown();
    rig.work();
    t.match(client.reply(long), { error: 108, text: /shutting down, done are \d+ bytes$/ });
    await rig.wait(down);
    rig.atRest();
  });

  t.test('are given up when the client is gone', async (t) => {
    const rig = new Rig();
    await rig.create('it', table);
    const client = rig.connect('it', extended);
    const last = pattern(4096, 3);
    for (const at of [0, size - 4096]) t.equal(client.answer(client.write(at, last)).error, 0);
    client.ask(CMD.writeZeroes, { offset: 0, length: size });
    begun(rig);
    client.socket.end(ECONNRESET);
    rig.engine.end(0);
    rig.work();
    t.ok(client.socket.closed);
    const other = rig.connect('it', extended);
    t.ok(other.answer(other.read(0, 4096)).data.equals(Buffer.alloc(4096)), 'the first step');
    t.ok(other.answer(other.read(size - 4096, 4096)).data.equals(last), 'and not the last');
    other.leave();
    rig.atRest();
  });
});
