/**
 * Input that no decent client sends, by raw sockets: each row of what servers do with hostile
 * input. What can be answered is answered, and the connection goes on; only a stream that is out of
 * step ends it. Other clients never notice.
 */

import t, { type Test } from 'tap';
import { type Daemon, eachEngine, linear, MiB, Scratch, sectorsOf, withDaemon } from './harness.js';
import {
  CMD,
  contextRequest,
  encodeRequest,
  facts,
  infoRequest,
  named,
  OPT,
  RawClient,
  REP,
  u32,
  u64,
} from './raw-client.js';

const EPERM = 1;
const EINVAL = 22;
const ENOSPC = 28;

const bytes = 96 * MiB;

async function last(client: RawClient, option: number, data?: Buffer): Promise<number> {
  return (await client.option(option, data)).at(-1)?.type ?? 0;
}

/** The connection can still be used for haggling. */
async function stillHaggles(t: Test, client: RawClient, what: string): Promise<void> {
  t.equal(await last(client, OPT.list), REP.ack, `${what}: goes on`);
}

/** The connection can still be used for requests. */
async function stillServes(t: Test, client: RawClient, what: string): Promise<void> {
  const reply = await client.request({ type: CMD.read, cookie: 0xfeedn, length: 512 });
  t.match(facts(reply), { error: 0, cookie: 0xfeedn, length: 512 }, `${what}: goes on`);
}

eachEngine(t, 'hostile handshakes', [], async (t, engine) => {
  const devices = { disk: `0 ${sectorsOf(bytes)} memory`, other: '0 8 zero' };
  await withDaemon(t, { engine, devices }, async (daemon) => {
    for (const where of [daemon.socket, daemon.port]) {
      await t.test(typeof where === 'string' ? 'unix' : 'tcp', async (t) => {
        await closes(t, where);
        await refusals(t, where);
        await contexts(t, where);
        await oldClients(t, where);
      });
    }
  });
});

async function closes(t: Test, where: string | number): Promise<void> {
  await t.test('closes when the stream is no handshake', async (t) => {
    for (const flags of [4, 0x80000000, 0xffffffff]) {
      const client = await RawClient.greeted(where, flags);
      t.equal((await client.closed()).length, 0, `client flags ${flags}`);
    }
    const magic = await RawClient.greeted(where);
    void magic.sendOption(OPT.list, Buffer.alloc(0), 0x49484156454f5055n);
    t.equal((await magic.closed()).length, 0, 'option magic');
    const http = await RawClient.connect(where);
    void http.send(Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n'));
    t.equal((await http.closed()).length, 18, 'another protocol');
    const huge = await RawClient.greeted(where);
    void huge.send(u64(0x49484156454f5054n), u32(OPT.list), u32(0xffffffff));
    t.equal((await huge.closed()).length, 0, 'an option of 4 GiB');
    const extended = await RawClient.greeted(where);
    await extended.option(OPT.extendedHeaders);
    void extended.sendOption(OPT.exportName, Buffer.from('disk'));
    t.equal((await extended.closed()).length, 0, 'EXPORT_NAME behind EXTENDED_HEADERS');
    const unknown = await RawClient.greeted(where);
    void unknown.sendOption(OPT.exportName, Buffer.from('nosuch'));
    t.equal((await unknown.closed()).length, 0, 'EXPORT_NAME of no export');
  });
  await t.test('answers ABORT, then closes', async (t) => {
    for (const data of [Buffer.alloc(0), Buffer.from('in a hurry')]) {
      const client = await RawClient.greeted(where);
      t.equal(await last(client, OPT.abort, data), REP.ack);
      t.equal((await client.closed()).length, 0);
    }
  });
}

async function refusals(t: Test, where: string | number): Promise<void> {
  await t.test('answers what it refuses, and goes on', async (t) => {
    const client = await RawClient.greeted(where);
    const refused = async (
      what: string,
      type: number,
      option: number,
      data?: Buffer,
    ): Promise<void> => {
      const reply = (await client.option(option, data)).at(-1);
      t.equal(reply?.type, type, what);
      t.ok((reply?.data.length ?? 0) > 0, `${what}: says why`);
      await stillHaggles(t, client, what);
    };
    const junk = Buffer.alloc(4, 0x41);
    const name4097 = 'n'.repeat(4097);
    await refused('unknown option', REP.unsupported, 0x1234, junk);
    await refused('unknown option with 1 MiB', REP.unsupported, 0x1234, Buffer.alloc(MiB));
    await refused('PEEK_EXPORT', REP.unsupported, OPT.peekExport);
    await refused('STARTTLS', REP.unsupported, OPT.startTls);
    await refused('EXTENDED_HEADERS with data', REP.invalid, OPT.extendedHeaders, junk);
    await refused('LIST with data', REP.invalid, OPT.list, junk);
    await refused('STRUCTURED_REPLY with data', REP.invalid, OPT.structuredReply, junk);
    await refused('INFO of a long name', REP.invalid, OPT.info, infoRequest(name4097));
    await refused('INFO cut short', REP.invalid, OPT.info, named('disk'));
    await refused('INFO with bytes behind', REP.invalid, OPT.info, pad(infoRequest('disk')));
    await refused('INFO with a wrong length', REP.invalid, OPT.info, Buffer.from([0, 0, 1, 0, 65]));
    await refused('INFO of nothing', REP.invalid, OPT.info);
    await refused('INFO of no export', REP.unknown, OPT.info, infoRequest('nosuch'));
    await refused('GO to no export', REP.unknown, OPT.go, infoRequest('nosuch'));
    await refused('INFO with NUL', REP.invalid, OPT.info, infoRequest('di\0sk'));
    await refused('LIST of 1 MiB', REP.tooBig, OPT.list, Buffer.alloc(MiB));
    t.equal(await last(client, OPT.structuredReply), REP.ack);
    await refused('STRUCTURED_REPLY twice', REP.invalid, OPT.structuredReply);
    t.equal(await last(client, OPT.extendedHeaders), REP.ack);
    await refused('EXTENDED_HEADERS twice', REP.invalid, OPT.extendedHeaders);
    const late = REP.extendedHeadersRequired;
    await refused('STRUCTURED_REPLY behind them', late, OPT.structuredReply);
    t.equal(await last(client, OPT.info, infoRequest('disk', 0, 1, 2, 3, 99, 1)), REP.ack);
    client.destroy();
  });
  await t.test('takes options sent ahead, in pieces', async (t) => {
    const client = await RawClient.connect(where);
    await client.take(18);
    const option = (number: number, data: Buffer): Buffer =>
      Buffer.concat([u64(0x49484156454f5054n), u32(number), u32(data.length), data]);
    const go = option(OPT.go, infoRequest('disk'));
    const stream = Buffer.concat([u32(3), option(OPT.structuredReply, Buffer.alloc(0)), go]);
    for (let at = 0; at < stream.length; at += 7) {
      await client.send(stream.subarray(at, at + 7));
    }
    // ACK of the first, then INFO_EXPORT and ACK.
    t.equal((await client.take(20)).readUInt32BE(12), REP.ack);
    t.equal((await client.take(32)).readUInt32BE(12), REP.info);
    t.equal((await client.take(20)).readUInt32BE(12), REP.ack);
    client.structured = true;
    await stillServes(t, client, 'transmission');
    client.destroy();
  });
}

function pad(data: Buffer): Buffer {
  return Buffer.concat([data, Buffer.alloc(1)]);
}

async function contexts(t: Test, where: string | number): Promise<void> {
  await t.test('negotiates contexts', async (t) => {
    const client = await RawClient.greeted(where);
    const ask = async (option: number, data: Buffer): Promise<number[]> =>
      (await client.option(option, data)).map((reply) => reply.type);
    const set = (...queries: string[]): Promise<number[]> =>
      ask(OPT.setMetaContext, contextRequest('disk', ...queries));
    t.strictSame(await set('base:allocation'), [REP.invalid], 'before structured replies');
    await client.option(OPT.structuredReply);
    const twice = await set('base:allocation', 'x-unknown:all', 'base:allocation');
    t.strictSame(twice, [REP.metaContext, REP.ack], 'asked for twice, chosen once');
    t.strictSame(await set('base:'), [REP.ack], 'a namespace chooses nothing');
    const list = await client.option(OPT.listMetaContext, contextRequest('disk'));
    const names = list.map(({ data }) => data.toString('latin1', 4));
    t.strictSame(names, ['base:allocation', 'qemu:allocation-depth', ''], 'no query lists all');
    const cut = Buffer.concat([named('disk'), u32(5), named('base:allocation')]);
    t.equal(await last(client, OPT.setMetaContext, cut), REP.invalid, 'fewer queries than said');
    const many = contextRequest('disk', ...Array.from({ length: 1000 }, () => 'x-a:b'));
    t.ok((await last(client, OPT.setMetaContext, many)) >= REP.unsupported, 'too many queries');
    const nosuch = contextRequest('nosuch', 'base:');
    t.strictSame(await ask(OPT.setMetaContext, nosuch), [REP.unknown]);
    // All of it forgot the context, so BLOCK_STATUS is refused.
    await client.option(OPT.go, infoRequest('disk'));
    client.structured = true;
    const reply = await client.request({ type: CMD.blockStatus, length: 512 });
    t.match(facts(reply), { error: EINVAL, chunks: [0x8001] });
    await stillServes(t, client, 'BLOCK_STATUS without context');
    client.destroy();
  });
  await t.test('a context counts for its export only', async (t) => {
    const client = await RawClient.greeted(where);
    await client.option(OPT.structuredReply);
    await client.option(OPT.setMetaContext, contextRequest('other', 'base:allocation'));
    await client.option(OPT.go, infoRequest('disk'));
    client.structured = true;
    t.equal((await client.request({ type: CMD.blockStatus, length: 512 })).error, EINVAL);
    client.destroy();
  });
}

async function oldClients(t: Test, where: string | number): Promise<void> {
  await t.test('serves clients that know EXPORT_NAME only', async (t) => {
    for (const [flags, zeroes] of [
      [0, 124],
      [1, 124],
      [2, 0],
      [3, 0],
    ] as const) {
      const client = await RawClient.greeted(where, flags);
      void client.sendOption(OPT.exportName, Buffer.from('disk'));
      const answer = await client.take(10 + zeroes);
      t.equal(answer.readBigUInt64BE(0), BigInt(bytes));
      t.equal(answer.readUInt16BE(8) & 0x81, 1, 'flags, and no DF without structured replies');
      t.ok(answer.subarray(10).every((byte) => byte === 0));
      await stillServes(t, client, `client flags ${flags}`);
      client.destroy();
    }
  });
}

eachEngine(t, 'hostile requests', [], async (t, engine) => {
  const files = new Scratch(t);
  const devices = {
    disk: `0 ${sectorsOf(bytes)} memory`,
    file: linear(files.sparse('file.img', bytes), bytes),
  };
  await withDaemon(t, { engine, devices }, async (daemon) => {
    for (const structured of [false, true]) {
      await t.test(structured ? 'structured replies' : 'simple replies', async (t) => {
        for (const name of ['disk', 'file']) {
          await t.test(name, async (t) => badRequests(t, daemon, name, structured));
        }
      });
    }
    await t.test('large requests', async (t) => largeRequests(t, daemon));
    await t.test('closes when the stream is out of step', async (t) => outOfStep(t, daemon));
    await t.test('answers what came before DISC', async (t) => beforeDisconnect(t, daemon));
    await t.test('requests byte by byte', async (t) => byteByByte(t, daemon));
  });
});

/** Requests and the error that each gets: by name, type, flags, offset, length. */
type BadRequest = readonly [string, number, number, number | bigint, number, number];

async function badRequests(
  t: Test,
  daemon: Daemon,
  name: string,
  structured: boolean,
): Promise<void> {
  const client = await RawClient.ready(daemon.socket, name, { structured });
  const rows: BadRequest[] = [
    ['READ past the end', CMD.read, 0, bytes - 511, 512, EINVAL],
    ['READ at 2^63', CMD.read, 0, 2n ** 63n, 512, EINVAL],
    ['READ up to 2^64', CMD.read, 0, 2n ** 64n - 512n, 512, EINVAL],
    ['READ of 0', CMD.read, 0, 0, 0, EINVAL],
    ['READ of 65 MiB', CMD.read, 0, 0, 65 * MiB, EINVAL],
    ['READ of 4 GiB', CMD.read, 0, 0, 0xffffffff, EINVAL],
    ['READ with flag 0x100', CMD.read, 0x100, 0, 512, EINVAL],
    ['READ with PAYLOAD_LEN', CMD.read, 0x20, 0, 512, EINVAL],
    ['FLUSH with an offset', CMD.flush, 0, 512, 0, EINVAL],
    ['FLUSH with a length', CMD.flush, 0, 0, 512, EINVAL],
    ['CACHE past the end', CMD.cache, 0, bytes, 512, EINVAL],
    ['CACHE with a flag', CMD.cache, 0x10, 0, 512, EINVAL],
    ['WRITE_ZEROES past the end', CMD.writeZeroes, 0, bytes, 512, ENOSPC],
    ['WRITE_ZEROES with an unknown flag', CMD.writeZeroes, 0x40, 0, 512, EINVAL],
    ['BLOCK_STATUS without a context', CMD.blockStatus, 0, 0, 512, EINVAL],
    ['RESIZE', 8, 0, 0, 0, EINVAL],
    ['command 99', 99, 0, 0, 0, EINVAL],
    ['command 65535', 65_535, 0xffff, 2n ** 64n - 1n, 0xffffffff, EINVAL],
  ];
  if (!structured) rows.push(['DF without structured replies', CMD.read, 4, 0, 512, EINVAL]);
  if (name === 'file' && daemon.engine === 'node') {
    rows.push(['TRIM unasked for', CMD.trim, 0, 0, 512, EINVAL]);
    rows.push(['FAST_ZERO unasked for', CMD.writeZeroes, 0x10, 0, 512, EINVAL]);
  } else {
    rows.push(['TRIM past the end', CMD.trim, 0, bytes, 512, EINVAL]);
  }
  for (const [what, type, flags, offset, length, error] of rows) {
    const cookie = BigInt(length) * 77n + 5n;
    const reply = await client.request({ type, flags, offset, length, cookie });
    t.match(facts(reply), { error, cookie }, what);
    if (structured) {
      t.match(reply.chunks, [0x8001], `${what}: an error chunk`);
      t.ok(reply.data.length > 0, `${what}: with a text`);
    }
  }
  await stillServes(t, client, 'all of these');
  const payload = Buffer.alloc(70_000, 0x42);
  const writes: [string, number, number | bigint, number][] = [
    ['WRITE past the end', 0, bytes - 4096, ENOSPC],
    ['WRITE at 2^63', 0, 2n ** 63n, ENOSPC],
    ['WRITE with flag 0x100', 0x100, 0, EINVAL],
    ['WRITE with PAYLOAD_LEN', 0x20, 0, EINVAL],
  ];
  for (const [what, flags, offset, error] of writes) {
    // The payload must be consumed, or what follows is taken for it.
    void client.sendRequest({ type: CMD.write, flags, offset, payload, cookie: 1n });
    void client.sendRequest({ type: CMD.flush, cookie: 2n });
    const errors = new Map<bigint, number>();
    for (let i = 0; i < 2; i++) {
      const reply = await client.reply();
      errors.set(reply.cookie, reply.error);
    }
    t.equal(errors.get(1n), error, what);
    t.equal(errors.get(2n), 0, `${what}: its payload is consumed`);
  }
  const zero = await client.request({ type: CMD.write, length: 0 });
  t.equal(zero.error, EINVAL, 'WRITE of 0');
  await stillServes(t, client, 'bad writes');
  client.destroy();
}

async function largeRequests(t: Test, daemon: Daemon): Promise<void> {
  for (const structured of [false, true]) {
    const client = await RawClient.ready(daemon.socket, 'disk', { structured });
    for (const length of [32 * MiB + 1, 33 * MiB, 64 * MiB]) {
      const payload = Buffer.alloc(length, length & 0xff);
      payload.writeUInt32BE(length, length - 4);
      const written = await client.request({ type: CMD.write, payload, offset: 7 });
      t.equal(written.error, 0, `WRITE of ${length}`);
      const read = await client.request({ type: CMD.read, offset: 7, length });
      t.ok(read.error === 0 && read.data.equals(payload), `READ of ${length}`);
    }
    // More than the largest payload that is advertised: refused, and consumed.
    const payload = Buffer.alloc(64 * MiB + 1);
    t.equal((await client.request({ type: CMD.write, payload })).error, EINVAL);
    await stillServes(t, client, 'WRITE of 64 MiB + 1');
    client.destroy();
  }
  const absurd = await RawClient.ready(daemon.socket, 'disk');
  void absurd.sendRequest({ type: CMD.write, length: 0xffffffff });
  void absurd.send(Buffer.alloc(MiB));
  await absurd.closed();
  t.pass('a WRITE of 4 GiB is not waited for');
}

async function outOfStep(t: Test, daemon: Daemon): Promise<void> {
  for (const magic of [0, 0x25609514, 0x21e41c71, 0x67446698]) {
    const client = await RawClient.ready(daemon.port, 'disk');
    void client.sendRequest({ type: CMD.read, length: 512, magic });
    t.equal((await client.closed()).length, 0, `request magic ${magic.toString(16)}`);
  }
  const client = await RawClient.ready(daemon.socket, 'disk');
  // What came before is answered.
  void client.sendRequest({ type: CMD.flush, cookie: 9n });
  void client.send(Buffer.alloc(28));
  t.match(facts(await client.reply()), { cookie: 9n, error: 0 });
  t.equal((await client.closed()).length, 0);
}

async function beforeDisconnect(t: Test, daemon: Daemon): Promise<void> {
  for (const where of [daemon.socket, daemon.port]) {
    for (const name of ['disk', 'file']) {
      const client = await RawClient.ready(where, name);
      const payload = Buffer.alloc(100_000, 0x7e);
      const write = encodeRequest({ type: CMD.write, flags: 1, payload, cookie: 3n });
      void client.send(write, encodeRequest({ type: CMD.disconnect }), Buffer.alloc(100));
      t.match(facts(await client.reply()), { cookie: 3n, error: 0 }, 'the reply');
      t.equal((await client.closed()).length, 0, 'then the end, though more was sent');
      const again = await RawClient.ready(where, name);
      const read = await again.request({ type: CMD.read, length: payload.length });
      t.ok(read.data.equals(payload), 'it was written');
      again.destroy();
    }
  }
}

async function byteByByte(t: Test, daemon: Daemon): Promise<void> {
  const client = await RawClient.ready(daemon.port, 'disk', { structured: true });
  const payload = Buffer.from('drop by drop');
  const stream = Buffer.concat([
    encodeRequest({ type: CMD.write, payload, offset: 1, cookie: 1n }),
    encodeRequest({ type: CMD.read, offset: 1, length: 12, cookie: 2n }),
  ]);
  for (const byte of stream) await client.send(Buffer.from([byte]));
  t.match(facts(await client.reply()), { cookie: 1n, error: 0 });
  const read = await client.reply();
  t.match(facts(read), { cookie: 2n, error: 0 });
  t.ok(read.data.equals(payload));
  client.destroy();
}

eachEngine(t, 'a read-only export', [], async (t, engine) => {
  const devices = { disk: `0 ${sectorsOf(MiB)} memory` };
  await withDaemon(t, { engine, devices, args: ['-r'] }, async (daemon) => {
    await t.test('answers EPERM, the payload consumed', async (t) => {
      const client = await RawClient.ready(daemon.socket, 'disk');
      const payload = Buffer.alloc(300_000);
      t.equal((await client.request({ type: CMD.write, payload })).error, EPERM);
      t.equal((await client.request({ type: CMD.trim, length: 512 })).error, EPERM);
      t.equal((await client.request({ type: CMD.writeZeroes, length: 512 })).error, EPERM);
      await stillServes(t, client, 'changes');
      client.destroy();
    });
  });
});
