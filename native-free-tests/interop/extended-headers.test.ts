/**
 * Extended headers against the running daemon: by raw sockets, because Debian 12 has no client that
 * speaks them, and by libnbd and QEMU where those are new enough.
 */

import t, { type Test } from 'tap';
import {
  type Daemon,
  eachEngine,
  KiB,
  linear,
  MiB,
  Scratch,
  sectorsOf,
  withDaemon,
} from './harness.js';
import { requires, run, succeed } from './programs.js';
import { CMD, encodeRequest, facts, RawClient, type Reply, u32, u64 } from './raw-client.js';

const EINVAL = 22;
const ENOSPC = 28;
const PAYLOAD_LEN = 0x20;

const fileBytes = 8 * MiB;
/** More than 32 bits of everything. */
const hugeBytes = 2 ** 40;
const most = 2n ** 64n - 1n;

/** `length:flags` of the extents that a BLOCK_STATUS chunk's payload holds. */
function extents(payload: Buffer): string[] {
  const count = payload.readUInt32BE(4);
  if (payload.length !== 8 + 16 * count) throw new Error(`${payload.length} bytes of extents`);
  return Array.from({ length: count }, (_, i) => {
    const at = 8 + 16 * i;
    return `${payload.readBigUInt64BE(at)}:${payload.readBigUInt64BE(at + 8)}`;
  });
}

async function stillServes(t: Test, client: RawClient, what: string): Promise<void> {
  const reply = await client.request({ type: CMD.read, cookie: 0xfeedn, length: 512 });
  t.match(facts(reply), { error: 0, cookie: 0xfeedn, length: 512 }, `${what}: goes on`);
}

eachEngine(t, 'extended headers', [], async (t, engine) => {
  const files = new Scratch(t);
  const devices = {
    file: linear(files.sparse('file.img', fileBytes), fileBytes),
    huge: `0 ${sectorsOf(hugeBytes)} memory`,
  };
  await withDaemon(t, { engine, devices }, async (daemon) => {
    for (const where of [daemon.socket, daemon.port]) {
      const over = typeof where === 'string' ? 'unix' : 'tcp';
      await t.test(`every command, over ${over}`, (t) => everyCommand(t, where));
      await t.test(`bad requests, over ${over}`, (t) => badRequests(t, where));
    }
    await t.test('lengths past 32 bits', (t) => longLengths(t, daemon));
    await t.test('large payloads', (t) => largePayloads(t, daemon));
    await t.test('requests byte by byte', (t) => byteByByte(t, daemon));
  });
});

async function everyCommand(t: Test, where: string | number): Promise<void> {
  const client = await RawClient.ready(where, 'file', {
    extended: true,
    contexts: ['base:allocation'],
  });
  const payload = Buffer.from(Array.from({ length: 70_001 }, (_, i) => (i * 7) % 251));
  const done = async (request: Parameters<RawClient['request']>[0]): Promise<Reply> => {
    const reply = await client.request(request);
    t.equal(reply.error, 0, `command ${request.type} with flags ${request.flags ?? 0}`);
    return reply;
  };
  // With PAYLOAD_LEN, as the protocol wants it, and without, as some clients do it.
  for (const [flags, offset] of [
    [PAYLOAD_LEN, 4097],
    [0, 300_000],
    [PAYLOAD_LEN | 1, 600_000],
  ] as const) {
    t.strictSame((await done({ type: CMD.write, flags, offset, payload })).chunks, [0]);
    const read = await done({ type: CMD.read, offset, length: payload.length });
    t.ok(read.data.equals(payload), 'what was written is read');
    const df = await done({ type: CMD.read, flags: 4, offset: offset - 1, length: 70_003 });
    t.strictSame(df.chunks, [1]);
    t.ok(df.data.subarray(1, -1).equals(payload));
  }
  await done({ type: CMD.flush });
  await done({ type: CMD.cache, offset: 4096, length: 100_000 });
  await done({ type: CMD.writeZeroes, offset: 4096, length: 64 * KiB });
  const zeroes = await done({ type: CMD.read, offset: 4096, length: 64 * KiB });
  t.ok(zeroes.data.every((byte) => byte === 0));
  const status = await done({ type: CMD.blockStatus, offset: 0, length: fileBytes });
  t.strictSame(status.chunks, [6]);
  const lengths = extents(status.data).map((extent) => Number(extent.split(':')[0]));
  t.equal(
    lengths.reduce((sum, bytes) => sum + bytes, 0),
    fileBytes,
    'all of it is told',
  );
  const one = await done({ type: CMD.blockStatus, flags: 8, offset: 100, length: 1000 });
  t.equal(extents(one.data).length, 1);
  void client.sendRequest({ type: CMD.disconnect });
  t.equal((await client.closed()).length, 0);
}

async function badRequests(t: Test, where: string | number): Promise<void> {
  const client = await RawClient.ready(where, 'file', {
    extended: true,
    contexts: ['base:allocation'],
  });
  const rows: [string, Parameters<RawClient['request']>[0], number][] = [];
  const row = (what: string, error: number, request: (typeof rows)[number][1]): void => {
    rows.push([what, request, error]);
  };
  for (const [name, type, error] of [
    ['READ', CMD.read, EINVAL],
    ['CACHE', CMD.cache, EINVAL],
    ['WRITE_ZEROES', CMD.writeZeroes, ENOSPC],
    ['BLOCK_STATUS', CMD.blockStatus, EINVAL],
  ] as const) {
    row(`${name} of 2^64 - 1`, error, { type, length: most });
    row(`${name} of 2^32 more`, error, { type, length: 2n ** 32n + 512n });
    row(`${name} of 2^53 + 1`, error, { type, length: 2n ** 53n + 1n });
    row(`${name} up to 2^64`, error, { type, offset: most - 511n, length: 512 });
    row(`${name} past 2^64`, error, { type, offset: most, length: most });
    row(`${name} of 0`, EINVAL, { type, length: 0 });
  }
  const payload = Buffer.alloc(3000, 0x21);
  for (const type of [CMD.read, CMD.flush, CMD.trim, CMD.cache, CMD.writeZeroes, 8, 99, 0xffff]) {
    row(`command ${type} with a payload`, EINVAL, { type, flags: PAYLOAD_LEN, payload });
    row(`command ${type} with an empty one`, EINVAL, { type, flags: PAYLOAD_LEN, length: 0 });
  }
  row('WRITE past the end', ENOSPC, { type: CMD.write, offset: fileBytes - 1, payload });
  row('WRITE at 2^63', ENOSPC, { type: CMD.write, flags: PAYLOAD_LEN, offset: 2n ** 63n, payload });
  row('FLUSH with a length', EINVAL, { type: CMD.flush, length: 2n ** 32n });
  for (const [what, ids] of [
    ['an unknown context', [7]],
    ['a context twice', [1, 1]],
    ['no context', []],
    ['more contexts than there are', [1, 2, 3]],
  ] as const) {
    const chosen = Buffer.concat([u64(512n), ...ids.map(u32)]);
    row(what, EINVAL, { type: CMD.blockStatus, flags: PAYLOAD_LEN, payload: chosen });
  }
  row('a payload out of shape', EINVAL, { type: CMD.blockStatus, flags: PAYLOAD_LEN, payload });
  const far = Buffer.concat([u64(most), u32(1)]);
  row('a range of 2^64 - 1', EINVAL, { type: CMD.blockStatus, flags: PAYLOAD_LEN, payload: far });
  for (const [i, [what, request, error]] of rows.entries()) {
    const reply = await client.request({ ...request, cookie: BigInt(i) });
    t.match(facts(reply), { cookie: BigInt(i), error, chunks: [0x8001] }, what);
    t.ok(reply.data.length > 0, `${what}: with a text`);
  }
  await stillServes(t, client, 'all of these');
  client.destroy();
  for (const request of [
    { type: CMD.flush, magic: 0x25609513 },
    { type: CMD.flush, magic: 0x6e8a278c },
    { type: CMD.write, flags: PAYLOAD_LEN, length: most },
    { type: CMD.trim, flags: PAYLOAD_LEN, length: 2n ** 33n },
  ]) {
    const lost = await RawClient.ready(where, 'file', { extended: true });
    void lost.sendRequest(request);
    await lost.closed();
    t.pass('is left where the stream is out of step');
  }
}

async function longLengths(t: Test, daemon: Daemon): Promise<void> {
  const client = await RawClient.ready(daemon.socket, 'huge', {
    extended: true,
    contexts: ['base:allocation', 'qemu:allocation-depth'],
  });
  const payload = Buffer.alloc(64 * KiB, 0x5a);
  const places = [0, 5 * 2 ** 32, hugeBytes - payload.length];
  for (const offset of places) {
    const written = await client.request({ type: CMD.write, flags: PAYLOAD_LEN, offset, payload });
    t.equal(written.error, 0);
  }
  // Seven gibibytes and a hole behind them, in one extent.
  const request = { type: CMD.blockStatus, offset: 64 * KiB, length: 7 * 2 ** 30 };
  const status = await client.request(request);
  t.strictSame(status.chunks, [6, 6]);
  const first = status.data.subarray(0, 24);
  t.strictSame(extents(first), [`${7 * 2 ** 30}:3`]);
  for (const type of [CMD.writeZeroes, CMD.trim]) {
    const other = await RawClient.ready(daemon.socket, 'huge', { extended: true });
    void client.sendRequest({ type, offset: 4096, length: hugeBytes - 4096 });
    await stillServes(t, other, 'another client meanwhile');
    t.equal((await client.reply()).error, 0, `command ${type} over 1 TiB`);
    other.destroy();
  }
  const [kept, gone, last] = await Promise.all(
    places.map(async (offset) => {
      const reader = await RawClient.ready(daemon.socket, 'huge', { extended: true });
      const { data } = await reader.request({ type: CMD.read, offset, length: payload.length });
      reader.destroy();
      return data;
    }),
  );
  t.ok(kept?.subarray(0, 4096).equals(payload.subarray(0, 4096)));
  for (const data of [kept?.subarray(4096), gone, last]) t.ok(data?.every((byte) => byte === 0));
  client.destroy();
}

async function largePayloads(t: Test, daemon: Daemon): Promise<void> {
  const client = await RawClient.ready(daemon.socket, 'huge', { extended: true });
  const payload = Buffer.alloc(64 * MiB, 0x11);
  for (const flags of [0, PAYLOAD_LEN]) {
    const written = await client.request({ type: CMD.write, flags, payload, offset: 2 ** 33 + 7 });
    t.equal(written.error, 0);
  }
  const read = await client.request({ type: CMD.read, offset: 2 ** 33 + 7, length: 64 * MiB });
  t.ok(read.data.equals(payload));
  const more = Buffer.alloc(64 * MiB + 1);
  const refused = await client.request({ type: CMD.write, flags: PAYLOAD_LEN, payload: more });
  t.equal(refused.error, EINVAL);
  t.equal((await client.request({ type: CMD.read, length: 64 * MiB + 1 })).error, EINVAL);
  await stillServes(t, client, 'more than the largest payload');
  client.destroy();
}

async function byteByByte(t: Test, daemon: Daemon): Promise<void> {
  const client = await RawClient.ready(daemon.port, 'file', {
    extended: true,
    contexts: ['base:allocation'],
  });
  const payload = Buffer.from('drop by drop');
  const chosen = Buffer.concat([u64(512n), u32(1)]);
  const stream = [
    { type: CMD.write, flags: PAYLOAD_LEN, payload, offset: 1, cookie: 1n },
    { type: CMD.blockStatus, flags: PAYLOAD_LEN, payload: chosen, cookie: 2n },
    { type: CMD.trim, flags: PAYLOAD_LEN, payload, cookie: 3n },
    { type: CMD.read, offset: 1, length: 12, cookie: 4n },
  ];
  // The client learns what it waits for; what it sends itself does not arrive whole.
  const answers: Reply[] = [];
  for (const request of stream) {
    const bytes = encodeRequest(request, true);
    client.expect(request);
    for (const byte of bytes) await client.send(Buffer.from([byte]));
    answers.push(await client.reply());
  }
  t.match(answers.map(facts), [
    { cookie: 1n, error: 0 },
    { cookie: 2n, error: 0, chunks: [6] },
    { cookie: 3n, error: EINVAL },
    { cookie: 4n, error: 0, length: 12 },
  ]);
  t.ok(answers[3]?.data.equals(payload));
  client.destroy();
}

/** Why a program cannot be used: it is not there, or older than that. */
async function tooOld(program: string, wanted: readonly [number, number]): Promise<string | false> {
  const missing = requires(program);
  if (missing !== false) return missing;
  const { stdout } = await run(program, ['--version']);
  const [, major, minor] = /(\d+)\.(\d+)/.exec(stdout) ?? [];
  const [wantedMajor, wantedMinor] = wanted;
  const found = [Number(major), Number(minor)] as const;
  const old = found[0] < wantedMajor || (found[0] === wantedMajor && found[1] < wantedMinor);
  return old
    ? `${program} ${found.join('.')} has no extended headers, ${wanted.join('.')} has`
    : false;
}

const libnbdTooOld = await tooOld('nbdinfo', [1, 18]);
const qemuTooOld = await tooOld('qemu-img', [8, 2]);

t.test('clients that speak extended headers', async (t) => {
  eachEngine(
    t,
    'real clients',
    ['nbdinfo', 'nbdcopy', 'qemu-img', 'qemu-io'],
    async (t, engine) => {
      const files = new Scratch(t);
      const image = files.pattern('pattern.img', fileBytes, 3);
      const target = files.sparse('file.img', fileBytes);
      const devices = {
        file: linear(target, fileBytes),
        huge: `0 ${sectorsOf(hugeBytes)} memory`,
      };
      for (const args of [[], ['--no-eh'], ['--no-sr']]) {
        await withDaemon(t, { engine, devices, args }, async (daemon) => {
          const title = args.join(' ') || 'all of the protocol';
          await t.test(`libnbd, ${title}`, { skip: libnbdTooOld }, async (t) => {
            const text = await succeed('nbdinfo', [daemon.uri('huge')]);
            const packets = args.includes('--no-sr') ? 'simple' : 'structured';
            const offered = args.length === 0;
            t.match(text, new RegExp(`using ${offered ? 'extended' : packets} packets`));
          });
          await t.test(`qemu, ${title}`, { skip: qemuTooOld }, async (t) => {
            const map = ['map', '--output=json', daemon.uri('huge')];
            const extents = JSON.parse(await succeed('qemu-img', map)) as { length: number }[];
            t.equal(
              extents.reduce((sum, { length }) => sum + length, 0),
              hugeBytes,
            );
            const script = ['-c', 'write -z 0 1T', '-c', 'discard 0 1T'];
            const fields = ['-f', 'raw', ...script, daemon.uri('huge')];
            if (args.length === 0) await succeed('qemu-io', fields);
          });
          // Those that do not are no worse off.
          await t.test(`a copy, ${title}`, async (t) => {
            await succeed('nbdcopy', [image, daemon.uri('file')]);
            const compare = ['compare', '-f', 'raw', image, daemon.uri('file')];
            t.match(await succeed('qemu-img', compare), /Images are identical/);
            await succeed('qemu-img', ['convert', '-n', '-O', 'raw', image, daemon.uri('file')]);
            t.match(await succeed('qemu-img', compare), /Images are identical/);
          });
        });
      }
    },
  );
});
