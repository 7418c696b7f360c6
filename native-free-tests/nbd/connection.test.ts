import { Buffer } from 'node:buffer';
import t from 'tap';
import { payloadBytes, payloadBytesFatal, requestsPerConnection } from '../../src/base/limits.js';
import { random } from '../contract/pattern.js';
import { pattern } from '../device/io-client.js';
import {
  CMD,
  CMD_FLAG,
  extended,
  hello,
  type Mode,
  ReplyReader,
  type RequestFields,
  request,
  simple,
  statusPayload,
  structured,
} from './client.js';
import { contextData, infoData, option, u32 } from './conversation.js';
import { cut, randomCuts } from './cuts.js';
import { onDisk, Rig } from './rig.js';

const MiB = 2 ** 20;

/** All kinds of requests, right and wrong, in an order in which none disturbs another. */
function conversation(mode: Mode): { bytes: Buffer; requests: RequestFields[] } {
  const requests: RequestFields[] = [];
  const ask = (type: number, fields: Omit<RequestFields, 'type' | 'cookie'>): void => {
    requests.push({ ...fields, type, cookie: requests.length + 1 });
  };
  ask(CMD.read, { offset: 0, length: 5000 });
  ask(CMD.write, { offset: 100_000, payload: pattern(24_000, 1) });
  ask(CMD.write, { offset: 2 ** 40, payload: pattern(3000, 2) });
  ask(CMD.write, { offset: 300_000, payload: pattern(1, 3), flags: CMD_FLAG.fua });
  ask(99, { offset: 1, length: 2 });
  ask(CMD.flush, {});
  ask(CMD.flush, { offset: 1 });
  ask(CMD.read, { offset: 2 ** 41, length: 1 });
  ask(CMD.read, { offset: 90_000, length: 0 });
  ask(CMD.trim, { offset: 400_000, length: 70_000 });
  ask(CMD.writeZeroes, { offset: 500_000, length: 70_000, flags: CMD_FLAG.noHole });
  ask(CMD.blockStatus, { offset: 600_000, length: 100_000 });
  ask(CMD.cache, { offset: 0, length: 100_000 });
  ask(CMD.read, { offset: 20_000, length: 40_000, flags: mode.structured ? CMD_FLAG.df : 0 });
  ask(CMD.write, { offset: 350_000, payload: pattern(17_000, 4) });
  if (mode.extended) askExtended(ask);
  const options = [
    u32(3),
    option(77, 'data of an option that nobody knows'),
    ...(mode.structured ? [option(mode.extended ? 11 : 8)] : []),
    ...(mode.structured ? [option(10, contextData('it', ...mode.contexts))] : []),
    option(6, infoData('nothing of that name')),
    option(3),
    option(7, infoData('it', 0, 1, 2, 3)),
  ];
  const all = [...requests, { type: CMD.disconnect, cookie: 0 }];
  const bytes = Buffer.concat([...options, ...all.map((one) => request(one, mode.extended))]);
  return { bytes, requests };
}

/** What only extended headers can say. */
function askExtended(
  ask: (type: number, fields: Omit<RequestFields, 'type' | 'cookie'>) => void,
): void {
  const flags = CMD_FLAG.payloadLen;
  ask(CMD.write, { offset: 700_000, payload: pattern(5000, 5), flags });
  ask(CMD.write, { offset: 720_000, payload: pattern(40_000, 6), flags: flags | CMD_FLAG.fua });
  ask(CMD.write, { offset: 2 ** 40, payload: pattern(3000, 7), flags });
  // Others than WRITE and BLOCK_STATUS have no payload; what comes with them is drained.
  for (const type of [CMD.read, CMD.flush, CMD.trim, CMD.cache, CMD.writeZeroes, 99]) {
    ask(type, { offset: 0, payload: pattern(100 + type, type), flags });
    ask(type, { offset: 0, length: 0, flags });
  }
  ask(CMD.blockStatus, { offset: 0, payload: statusPayload(90_000, 2), flags });
  ask(CMD.blockStatus, { offset: 0, payload: statusPayload(90_000, 2, 1), flags });
  ask(CMD.blockStatus, { offset: 0, payload: statusPayload(5000, 1, 1), flags });
  ask(CMD.blockStatus, { offset: 0, payload: statusPayload(5000, 3), flags });
  ask(CMD.blockStatus, { offset: 0, payload: statusPayload(2n ** 63n, 1), flags });
  ask(CMD.blockStatus, { offset: 0, payload: statusPayload(0, 1), flags });
  ask(CMD.blockStatus, { offset: 0, payload: statusPayload(5000), flags });
  ask(CMD.blockStatus, { offset: 0, payload: statusPayload(5000, 1, 2, 1), flags });
  ask(CMD.blockStatus, { offset: 0, payload: pattern(13, 2), flags });
  ask(CMD.blockStatus, { offset: 0, payload: pattern(70_000, 2), flags });
  for (const type of [CMD.read, CMD.trim, CMD.cache, CMD.writeZeroes, CMD.blockStatus]) {
    ask(type, { offset: 4096, length: 2n ** 64n - 1n });
    ask(type, { offset: 2n ** 64n - 4096n, length: 2n ** 64n - 4096n });
  }
  ask(CMD.blockStatus, { offset: 600_000, length: 90_000, flags: CMD_FLAG.reqOne });
}

interface Way {
  readonly cuts: readonly number[];
  readonly atOnce: boolean;
  /** Everything is worked off between two pieces. */
  readonly waits: boolean;
}

async function play(table: string, bytes: Buffer, way: Way): Promise<Buffer> {
  const rig = new Rig(16 * MiB);
  const disk = rig.disk('/disk', 4096);
  disk.bytes.set(pattern(90_000, 8));
  disk.allocate(0, 90_000);
  await rig.create('it', table);
  const socket = rig.accept(way.atOnce);
  for (const piece of cut(bytes, way.cuts)) {
    socket.push(piece);
    if (way.waits) rig.work();
  }
  rig.work();
  if (!socket.closed) throw new Error('the connection is open');
  rig.atRest();
  return socket.takeOutput();
}

const both = ['base:allocation', 'qemu:allocation-depth'];
for (const [title, mode] of [
  ['simple', simple],
  ['structured', structured],
  ['extended', { ...extended, contexts: both }],
] as const) {
  t.test(`answers the same however its requests are cut, in ${title} replies`, async (t) => {
    const { bytes } = conversation(mode);
    const next = random(5);
    const ways: Way[] = [
      { cuts: [], atOnce: false, waits: false },
      { cuts: [], atOnce: true, waits: true },
      { cuts: Array.from(bytes, (_, at) => at), atOnce: false, waits: true },
      { cuts: Array.from(bytes, (_, at) => at), atOnce: true, waits: false },
      ...[3, 40, 1000, 20_000].flatMap((longest) =>
        [false, true].map((waits) => {
          return { cuts: randomCuts(bytes.length, longest, next), atOnce: false, waits };
        }),
      ),
    ];
    // In memory everything ends at once, so that even the order of replies is the same.
    const memory = await play('0 4096 memory', bytes, ways[0] as Way);
    const { requests } = conversation(mode);
    t.ok(memory.length > 16 * requests.length);
    for (const way of ways) {
      const other = await play('0 4096 memory', bytes, way);
      t.ok(other.equals(memory), `${way.cuts.length} cuts`);
    }
    const sorted = async (way: Way): Promise<string[]> => {
      return replies(await play('0 4096 linear /disk 0', bytes, way), conversation(mode), mode);
    };
    const disk = await sorted(ways[0] as Way);
    t.equal(disk.length, requests.length);
    for (const way of ways) t.same(await sorted(way), disk, `${way.cuts.length} cuts, on a disk`);
  });
}

/** What the transmission part of a stream answers, by cookie. */
function replies(
  output: Buffer,
  { requests }: { requests: RequestFields[] },
  mode: Mode,
): string[] {
  const magic = mode.extended ? '6e8a278c' : mode.structured ? '668e33ef' : '67446698';
  const reader = new ReplyReader(mode);
  for (const fields of requests) reader.asked(fields);
  const all = reader.take(output.subarray(output.indexOf(Buffer.from(magic, 'hex'))));
  return all
    .map(
      ({ cookie, error, text, data, chunks }) =>
        `${cookie} ${error} ${text} ${data.toString('hex')} ${chunks}`,
    )
    .sort();
}

t.test('keeps what is behind GO until the last handshake reply has gone', async (t) => {
  const rig = new Rig();
  await rig.create('it', '0 8 memory');
  const socket = rig.accept();
  socket.takeReplies(false);
  socket.push(Buffer.concat([hello('it', simple), request({ type: CMD.flush, cookie: 5 })]));
  rig.work();
  t.equal(socket.takeOutput().length, 0);
  t.equal(rig.devices.info('it').openCount, 0);
  socket.takeReplies(true);
  rig.work();
  const output = socket.takeOutput();
  t.equal(output.toString('hex', output.length - 16), '67446698000000000000000000000005');
  socket.end();
  rig.work();
  t.ok(socket.closed);
  rig.atRest();
});

t.test('leaves a client whose WRITE is beyond all measure', async (t) => {
  const { rig, client } = await onDisk(structured);
  const fields = { type: CMD.write, cookie: 1, offset: 0, length: payloadBytesFatal + 1 };
  client.expect(fields);
  client.socket.push(request(fields));
  rig.work();
  t.equal(client.reply(1)?.error, 28);
  t.ok(client.socket.closed);
  t.match(rig.logged, [/payload of 268435457 bytes, at most 67108864/]);
  rig.atRest();
});

t.test('refuses and drains what is more than the largest payload', async (t) => {
  const rig = new Rig(32 * MiB);
  await rig.create('it', `0 ${2 ** 24} memory`);
  const client = rig.connect('it', structured);
  const fields = { type: CMD.write, cookie: 1, offset: 0, length: payloadBytes + 512 };
  client.expect(fields);
  client.socket.push(request(fields));
  const piece = Buffer.alloc(MiB, 1);
  for (let at = 0; at < payloadBytes; at += MiB) {
    client.socket.push(piece);
    rig.work();
  }
  t.equal(client.reply(1), undefined);
  client.socket.push(piece.subarray(0, 512));
  t.match(client.answer(1), { error: 22, text: /wanted at most 67108864/ });
  t.match(client.answer(client.read(0, 8)), { error: 0, data: Buffer.alloc(8) });
  t.equal(client.answer(client.read(0, payloadBytes + 1)).error, 22);
  client.leave();
  rig.atRest();
});

t.test('leaves a client whose stream is out of step', async (t) => {
  const { rig, client } = await onDisk();
  const before = client.read(0, 512);
  client.socket.push(Buffer.alloc(28, 7));
  client.socket.push(request({ type: CMD.flush, cookie: 99 }));
  rig.work();
  t.equal(client.reply(before)?.error, 0, 'what was asked before is answered');
  t.ok(client.socket.closed);
  t.equal(client.partialBytes, 0);
  t.match(rig.logged, [/^peer0: disconnecting: request magic: found 0x7070707$/]);
  rig.atRest();
});

t.test('takes so many requests at a time and no more', async (t) => {
  const { rig, disk, client } = await onDisk();
  disk.stuck = true;
  for (let i = 0; i < 3 * requestsPerConnection; i++) client.read(i * 512, 512);
  rig.work();
  t.equal(disk.held.length, requestsPerConnection);
  t.notOk(client.socket.isReceiving, 'and receives nothing until one is answered');
  disk.letGo(100);
  rig.work();
  t.equal(disk.held.length, requestsPerConnection, 'one was answered, one was taken');
  t.equal(client.unanswered, 3 * requestsPerConnection - 1);
  disk.letGo();
  rig.work();
  t.equal(client.unanswered, 0);
  client.leave();
  rig.atRest();
});

t.test('sees a new size when another table is resumed', async (t) => {
  const { rig, client } = await onDisk(structured);
  await rig.wait(rig.devices.load('it', '0 100 linear /disk 0'));
  await rig.wait(rig.devices.suspend('it', false));
  const early = [client.read(0, 512), client.write(100 * 512, pattern(512, 1))];
  rig.work();
  t.equal(client.unanswered, 2, 'it waits');
  await rig.wait(rig.devices.resume('it'));
  t.equal(client.answer(early[0] as number).error, 0);
  t.match(client.answer(early[1] as number), { error: 5, text: /EIO/ }, 'behind the new end');
  t.match(client.answer(client.read(100 * 512, 512)), { error: 22, text: /within 51200/ });
  client.leave();
  rig.atRest();
});
