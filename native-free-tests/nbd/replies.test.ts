import { Buffer } from 'node:buffer';
import t, { type Test } from 'tap';
import { EACCES, EDQUOT, EFBIG, EIO, ENOSPC, EOPNOTSUPP, EROFS } from '../../src/base/errno.js';
import { extentsPerReply, holesPerRead } from '../../src/base/limits.js';
import { pattern } from '../device/io-client.js';
import { CMD, CMD_FLAG, type Mode, simple, structured } from './client.js';
import { type Client, hex, Rig } from './rig.js';

const diskBytes = 65_536;

/** A connection to a disk of 64 KiB and to 8 GiB of memory. */
async function begin(): Promise<Rig> {
  const rig = new Rig();
  const disk = rig.disk('/disk', diskBytes / 512);
  disk.bytes.set(pattern(diskBytes, 1));
  disk.allocate(0, diskBytes);
  disk.bytes.set(Buffer.from('0123456789abcdef'), 0);
  await rig.create('disk', '0 128 linear /disk 0');
  await rig.create('memory', `0 ${2 ** 24} memory`);
  return rig;
}

/** Sends the first bytes and gets the second ones, both in hexadecimal. */
function exchange(
  t: Test,
  rig: Rig,
  client: Client,
  sent: string,
  wanted: string,
  text = '',
): void {
  client.socket.push(hex(sent));
  rig.work();
  const found = client.socket.takeOutput().toString('hex');
  t.equal(found, hex(wanted).toString('hex') + Buffer.from(text).toString('hex'), wanted);
}

t.test('answers in simple replies, byte for byte', async (t) => {
  const rig = await begin();
  const client = rig.connect('disk', simple);
  const check = (sent: string, wanted: string) => exchange(t, rig, client, sent, wanted);
  // READ of 8 bytes at 8.
  check(
    '25609513 0000 0000 1122334455667788 0000000000000008 00000008',
    '67446698 00000000 1122334455667788 3839616263646566',
  );
  // WRITE of 4 bytes at 16, with FUA; then they are read.
  check(
    '25609513 0001 0001 ffffffffffffffff 0000000000000010 00000004 cafebabe',
    '67446698 00000000 ffffffffffffffff',
  );
  check(
    '25609513 0000 0000 0000000000000000 000000000000000e 00000008',
    `67446698 00000000 0000000000000000 6566cafebabe ${rig.engine.disks
      .get('/disk')
      ?.bytes.subarray(20, 22)
      .reduce((text, byte) => text + byte.toString(16).padStart(2, '0'), '')}`,
  );
  check(
    '25609513 0000 0003 8000000000000001 0000000000000000 00000000',
    '67446698 00000000 8000000000000001',
  );
  check(
    '25609513 0000 0004 0000000000000004 0000000000001000 00001000',
    '67446698 00000000 0000000000000004',
  );
  check(
    '25609513 0003 0006 0000000000000006 0000000000002000 00001000',
    '67446698 00000000 0000000000000006',
  );
  check(
    '25609513 0000 0005 0000000000000005 0000000000002000 00001000',
    '67446698 00000000 0000000000000005',
  );
  // A hole is sent as zeroes to those who know no better.
  check(
    '25609513 0000 0000 0000000000000007 0000000000001ffc 00000004',
    '67446698 00000000 0000000000000007 00000000',
  );
  // READ past the end: EINVAL and no data. WRITE past the end: ENOSPC, its payload is drained.
  check(
    '25609513 0000 0000 0000000000000008 000000000000fff9 00000008',
    '67446698 00000016 0000000000000008',
  );
  check(
    '25609513 0000 0001 0000000000000009 ffffffffffffffff 00000003 010203',
    '67446698 0000001c 0000000000000009',
  );
  // An unknown command, an unknown flag, DF and BLOCK_STATUS without structured replies: EINVAL.
  check(
    '25609513 0000 0063 000000000000000a 0000000000000000 00000001',
    '67446698 00000016 000000000000000a',
  );
  check(
    '25609513 0100 0000 000000000000000b 0000000000000000 00000001',
    '67446698 00000016 000000000000000b',
  );
  check(
    '25609513 0004 0000 000000000000000c 0000000000000000 00000001',
    '67446698 00000016 000000000000000c',
  );
  check(
    '25609513 0000 0007 000000000000000d 0000000000000000 00000001',
    '67446698 00000016 000000000000000d',
  );
  // Several at once leave in one send, in the order in which they ended.
  const sends = rig.traffic.sends;
  check(
    '25609513 0000 0063 000000000000000e 0000000000000000 00000001' +
      '25609513 0000 0000 000000000000000f 0000000000000001 00000002' +
      '25609513 0000 0063 0000000000000010 0000000000000000 00000001',
    '67446698 00000016 000000000000000e' +
      '67446698 00000016 0000000000000010' +
      '67446698 00000000 000000000000000f 3132',
  );
  t.equal(rig.traffic.sends, sends);
  // DISC has no answer.
  check('25609513 0000 0002 0000000000000011 0000000000000000 00000000', '');
  t.ok(client.socket.closed);
  rig.atRest();
});

t.test('answers in chunks, byte for byte', async (t) => {
  const rig = await begin();
  const client = rig.connect('disk', structured);
  const check = (sent: string, wanted: string, text = '') =>
    exchange(t, rig, client, sent, wanted, text);
  check(
    '25609513 0000 0000 1122334455667788 0000000000000008 00000008',
    '668e33ef 0001 0001 1122334455667788 00000010 0000000000000008 3839616263646566',
  );
  // What succeeds without data is an empty last chunk.
  const empty = (cookie: string) => `668e33ef 0001 0000 ${cookie} 00000000`;
  check(
    '25609513 0001 0001 0000000000000001 0000000000000010 00000004 cafebabe',
    empty('0000000000000001'),
  );
  check('25609513 0000 0003 0000000000000002 0000000000000000 00000000', empty('0000000000000002'));
  check('25609513 0000 0004 0000000000000003 0000000000001000 00001000', empty('0000000000000003'));
  check('25609513 0010 0006 0000000000000004 0000000000003000 00001000', empty('0000000000000004'));
  check('25609513 0000 0005 0000000000000005 0000000000000000 00001000', empty('0000000000000005'));
  // Holes at 4096 and 12288, 4096 bytes each: one alone, with DF too; then between data.
  check(
    '25609513 0000 0000 0000000000000006 0000000000001010 00000020',
    '668e33ef 0001 0002 0000000000000006 0000000c 0000000000001010 00000020',
  );
  check(
    '25609513 0004 0000 0000000000000007 0000000000001010 00000020',
    '668e33ef 0001 0002 0000000000000007 0000000c 0000000000001010 00000020',
  );
  const data = (from: number, to: number): string =>
    Buffer.from(rig.engine.disks.get('/disk')?.bytes.subarray(from, to) ?? []).toString('hex');
  check(
    '25609513 0000 0000 0000000000000008 0000000000000ffe 00003004',
    '668e33ef 0000 0001 0000000000000008 0000000a 0000000000000ffe' +
      data(0xffe, 0x1000) +
      '668e33ef 0000 0002 0000000000000008 0000000c 0000000000001000 00001000' +
      '668e33ef 0000 0001 0000000000000008 00001008 0000000000002000' +
      data(0x2000, 0x3000) +
      '668e33ef 0000 0002 0000000000000008 0000000c 0000000000003000 00001000' +
      '668e33ef 0001 0001 0000000000000008 0000000a 0000000000004000' +
      data(0x4000, 0x4002),
  );
  // With DF all of it is one chunk.
  check(
    '25609513 0004 0000 0000000000000009 0000000000000ffe 00000004',
    `668e33ef 0001 0001 0000000000000009 0000000c 0000000000000ffe ${data(0xffe, 0x1002)}`,
  );
  // Extents: all of them, one that is no longer than asked for, and one of the middle.
  check(
    '25609513 0000 0007 000000000000000a 0000000000000000 00005000',
    '668e33ef 0001 0005 000000000000000a 0000002c 00000001' +
      '00001000 00000000 00001000 00000003 00001000 00000000 00001000 00000003 00001000 00000000',
  );
  check(
    '25609513 0008 0007 000000000000000b 0000000000000010 00000008',
    '668e33ef 0001 0005 000000000000000b 0000000c 00000001 00000008 00000000',
  );
  check(
    '25609513 0008 0007 000000000000000c 0000000000001100 00005000',
    '668e33ef 0001 0005 000000000000000c 0000000c 00000001 00000f00 00000003',
  );
  // Errors carry their reason.
  const past = 'read: found offset 65529 and length 8, wanted an end within 65536';
  check(
    '25609513 0000 0000 000000000000000d 000000000000fff9 00000008',
    '668e33ef 0001 8001 000000000000000d 00000047 00000016 0041',
    past,
  );
  const full = 'write: found offset 18446744073709551615 and length 3, wanted an end within 65536';
  check(
    '25609513 0000 0001 000000000000000e ffffffffffffffff 00000003 010203',
    '668e33ef 0001 8001 000000000000000e 00000057 0000001c 0051',
    full,
  );
  check(
    '25609513 0000 0063 000000000000000f 0000000000000000 00000001',
    '668e33ef 0001 8001 000000000000000f 0000001b 00000016 0015',
    'command 99: not known',
  );
  const disk = rig.engine.disks.get('/disk');
  if (disk !== undefined) disk.script = () => -EIO;
  check(
    '25609513 0000 0000 0000000000000010 0000000000000000 00000001',
    '668e33ef 0001 8001 0000000000000010 0000001f 00000005 0019',
    'read of 1 bytes at 0: EIO',
  );
  client.leave();
  rig.atRest();
});

t.test('writes offsets above 4 GiB', async (t) => {
  const rig = await begin();
  const client = rig.connect('memory', structured);
  const check = (sent: string, wanted: string) => exchange(t, rig, client, sent, wanted);
  check(
    '25609513 0000 0001 0000000000000001 0000000180000010 00000004 cafebabe',
    '668e33ef 0001 0000 0000000000000001 00000000',
  );
  check(
    '25609513 0000 0000 0000000000000002 0000000180000010 00000004',
    '668e33ef 0001 0001 0000000000000002 0000000c 0000000180000010 cafebabe',
  );
  check(
    '25609513 0000 0000 0000000000000003 00000001fffffffe 00000002',
    '668e33ef 0001 0002 0000000000000003 0000000c 00000001fffffffe 00000002',
  );
  // The extents of nearly 4 GiB: a hole, the page that was written, and a hole again.
  check(
    '25609513 0000 0007 0000000000000004 0000000100000000 ffffffff',
    '668e33ef 0001 0005 0000000000000004 0000001c 00000001' +
      '80000000 00000003 00010000 00000000 7ffeffff 00000003',
  );
  client.leave();
  rig.atRest();
});

t.test('reads from a device with holes', async (t) => {
  const rig = await begin();
  const client = rig.connect('disk', structured);
  const bytes = rig.engine.disks.get('/disk')?.bytes ?? Buffer.alloc(0);
  // Every other of 512 bytes is a hole.
  for (let at = 0; at < diskBytes; at += 1024) {
    t.equal(client.answer(client.ask(CMD.writeZeroes, { offset: at, length: 512 })).error, 0);
  }
  const whole = client.answer(client.read(0, diskBytes));
  t.ok(whole.data.equals(bytes), 'the data is right');
  t.ok(whole.chunks.length <= holesPerRead, `${whole.chunks.length} chunks`);
  t.equal(whole.chunks[0], 'hole 0+512');
  t.match(whole.chunks.at(-1), /^data /, 'the rest is data');
  const df = client.answer(client.read(0, diskBytes, CMD_FLAG.df));
  t.same(df.chunks, [`data 0+${diskBytes}`]);
  t.ok(df.data.equals(bytes));
  client.leave();
  rig.atRest();
});

t.test('reads more than a block in one chunk', async (t) => {
  const rig = await begin();
  const MiB = 2 ** 20;
  for (const mode of [simple, structured]) {
    const client = rig.connect('memory', mode);
    const data = pattern(MiB + 5000, 9);
    t.equal(client.answer(client.write(MiB, data)).error, 0);
    const { data: found, chunks } = client.answer(client.read(MiB - 70_000, 3 * MiB));
    const wanted = Buffer.alloc(3 * MiB);
    data.copy(wanted, 70_000);
    t.ok(found.equals(wanted));
    if (mode.structured) t.same(chunks, [`data 0+${3 * MiB}`]);
    client.leave();
  }
  rig.atRest();
});

t.test('tells as many extents as a reply holds', async (t) => {
  const rig = new Rig();
  const blocks = 2 * extentsPerReply + 100;
  const disk = rig.disk('/disk', blocks * 8);
  for (let block = 0; block < blocks; block += 2) disk.allocate(block * 4096, block * 4096 + 1);
  await rig.create('disk', `0 ${blocks * 8} linear /disk 0`);
  const client = rig.connect('disk', structured);
  const lengths: number[] = [];
  for (let at = 0; at < blocks * 4096; ) {
    const fields = { offset: at, length: blocks * 4096 - at };
    const { chunks } = client.answer(client.ask(CMD.blockStatus, fields));
    t.ok(chunks.length <= extentsPerReply);
    lengths.push(chunks.length);
    for (const chunk of chunks) {
      t.equal(chunk, `4096:${(at / 4096) % 2 === 0 ? 0 : 3}`);
      at += 4096;
    }
  }
  t.same(lengths, [extentsPerReply, extentsPerReply, 100]);
  client.leave();
  rig.atRest();
});

t.test('puts no error on the wire but those of the protocol', async (t) => {
  const rig = await begin();
  const disk = rig.engine.disks.get('/disk');
  const client = rig.connect('disk', simple);
  const error = (errno: number, type: number, flags = 0): number => {
    if (disk !== undefined) disk.script = () => -errno;
    const payload = type === CMD.write ? { payload: Buffer.alloc(512) } : { length: 512 };
    const range = type === CMD.flush ? {} : { offset: 0, ...payload };
    return client.answer(client.ask(type, { ...range, flags })).error;
  };
  t.equal(error(EIO, CMD.write), 5);
  t.equal(error(ENOSPC, CMD.write), 28);
  t.equal(error(EDQUOT, CMD.write), 28);
  t.equal(error(EFBIG, CMD.write), 28);
  t.equal(error(EACCES, CMD.read), 1);
  t.equal(error(EROFS, CMD.flush), 1);
  t.equal(error(200, CMD.read), 5);
  t.equal(error(EOPNOTSUPP, CMD.flush), 5);
  t.equal(error(EOPNOTSUPP, CMD.writeZeroes, CMD_FLAG.fastZero), 95, 'ENOTSUP for haste only');
  t.equal(error(EOPNOTSUPP, CMD.writeZeroes), 5);
  client.leave();
  rig.atRest();
});

t.test('passes FUA and the flags of WRITE_ZEROES on', async (t) => {
  const rig = await begin();
  const disk = rig.engine.disks.get('/disk');
  const client = rig.connect('disk', simple);
  const calls = (type: number, flags: number): string[] | undefined => {
    disk?.takeCalls();
    const payload = type === CMD.write ? { payload: Buffer.alloc(512) } : { length: 512 };
    t.equal(client.answer(client.ask(type, { offset: 0, ...payload, flags })).error, 0);
    return disk?.takeCalls();
  };
  t.same(calls(CMD.write, CMD_FLAG.fua), ['write 0+512 fua']);
  t.same(calls(CMD.write, 0), ['write 0+512']);
  t.same(calls(CMD.trim, CMD_FLAG.fua), ['trim 0+512', 'flush']);
  t.same(calls(CMD.writeZeroes, 0), ['trim 0+512']);
  t.same(calls(CMD.writeZeroes, CMD_FLAG.noHole | CMD_FLAG.fua), ['zero 0+512', 'flush']);
  t.same(calls(CMD.writeZeroes, CMD_FLAG.noHole | CMD_FLAG.fastZero), ['zero 0+512']);
  client.leave();
  rig.atRest();
});

t.test('reads ahead for CACHE, piece after piece, and answers the end of it', async (t) => {
  const rig = new Rig();
  const bytes = 3 * 2 ** 20;
  const disk = rig.disk('/disk', bytes / 512);
  await rig.create('disk', `0 ${bytes / 512} linear /disk 0`);
  const client = rig.connect('disk', structured);
  const cache = (length: number) => client.answer(client.ask(CMD.cache, { offset: 512, length }));
  t.equal(cache(2_500_000).error, 0);
  t.same(disk.takeCalls(), ['read 512+1048576', 'read 1049088+1048576', 'read 2097664+402848']);
  disk.script = ({ offset }) => (offset > 512 ? -EIO : undefined);
  t.match(cache(2_500_000), { error: 5, text: 'cache of 2500000 bytes at 512: EIO' });
  t.same(disk.takeCalls(), ['read 512+1048576', 'read 1049088+1048576'], 'no more after an error');
  client.leave();
  rig.atRest();
});

t.test('keeps to what the export is', async (t) => {
  const rig = await begin();
  await rig.create('ro', '0 128 linear /disk 0', true);
  for (const mode of [simple, structured] satisfies Mode[]) {
    const client = rig.connect('ro', mode);
    const payload = Buffer.alloc(600);
    t.equal(client.answer(client.ask(CMD.write, { offset: 0, payload })).error, 1);
    t.equal(client.answer(client.ask(CMD.writeZeroes, { offset: 0, length: 5 })).error, 1);
    t.equal(client.answer(client.ask(CMD.trim, { offset: 0, length: 5 })).error, 1);
    t.equal(client.answer(client.read(0, 16)).data.toString(), '0123456789abcdef');
    t.equal(client.answer(client.ask(CMD.flush)).error, 0);
    client.leave();
  }
  rig.atRest();
});
