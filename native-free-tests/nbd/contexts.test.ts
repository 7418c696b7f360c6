import { Buffer } from 'node:buffer';
import t from 'tap';
import { EIO, ENXIO } from '../../src/base/errno.js';
import {
  extentsPerReply,
  metaContextQueries,
  statusAnswersPerConnection,
} from '../../src/base/limits.js';
import type { ChangeMap } from '../../src/device/change-map.js';
import * as nbd from '../../src/nbd/constants.js';
import { contextsOf, listContexts, selectContexts } from '../../src/nbd/meta-context.js';
import { CMD, CMD_FLAG, extended, type Mode, statusPayload, structured } from './client.js';
import {
  contextData,
  converse,
  directoryOf,
  exportInfo,
  infoData,
  option,
  readReplies,
  record,
  u32,
} from './conversation.js';
import { type Client, hex, Rig } from './rig.js';

const MiB = 2 ** 20;
const allocation = 'base:allocation';
const depth = 'qemu:allocation-depth';
const bitmap = (name: string): string => `qemu:dirty-bitmap:${name}`;

t.test('negotiation', async (t) => {
  const exports = [exportInfo(), exportInfo({ name: 'vol1' })];
  const directory = directoryOf(exports, 'vol0', { vol0: ['monday', 'tuesday'], vol1: ['x'] });
  const talk = (...pieces: Buffer[]) =>
    converse(directory, Buffer.concat([u32(3), option(nbd.OPT_STRUCTURED_REPLY), ...pieces]));
  const set = (name: string, ...queries: string[]): Buffer =>
    option(nbd.OPT_SET_META_CONTEXT, contextData(name, ...queries));
  /** Ids and names in the replies to the last option, whose ACK is checked. */
  const told = (...pieces: Buffer[]): string[] => {
    const replies = readReplies(talk(...pieces).output);
    if (replies.pop()?.type !== nbd.REP_ACK) throw new Error('wanted an ACK');
    return replies
      .filter(({ type }) => type === nbd.REP_META_CONTEXT)
      .map(({ data }) => `${data.readUInt32BE(0)} ${data.toString('utf8', 4)}`);
  };
  const list = (name: string, ...queries: string[]): string[] =>
    told(option(nbd.OPT_LIST_META_CONTEXT, contextData(name, ...queries)));

  t.test('lists all of an export, those of a family, or those that are named', async (t) => {
    const [base, layers] = [`0 ${allocation}`, `0 ${depth}`];
    const records = [`0 ${bitmap('monday')}`, `0 ${bitmap('tuesday')}`];
    t.same(list('vol0'), [base, layers, ...records]);
    t.same(list(''), [base, layers, ...records], 'the default export has those of its own');
    t.same(list('vol1'), [base, layers, `0 ${bitmap('x')}`]);
    t.same(list('vol0', 'base:'), [base]);
    t.same(list('vol0', 'qemu:'), [layers, ...records]);
    t.same(list('vol0', 'qemu:dirty-bitmap:'), records);
    t.same(list('vol0', bitmap('tuesday'), 'base:', 'base:'), [base, records[1]]);
    t.same(list('vol0', bitmap('tuesday'), 'qemu:', depth), [layers, ...records], 'each once');
    t.same(list('vol0', bitmap('x'), 'qemu', 'qemu:dirty-bitmap', 'x-mapperd:', 'base'), []);
  });

  t.test('selects those that are named in full, by ids of their own', async (t) => {
    const all = [allocation, depth, bitmap('monday'), bitmap('tuesday')];
    t.same(
      told(set('vol0', ...all)),
      all.map((name, i) => `${i + 1} ${name}`),
    );
    t.same(told(set('vol0', bitmap('tuesday'))), [`4 ${bitmap('tuesday')}`], 'as in the whole set');
    t.same(told(set('vol0', bitmap('tuesday'), allocation, bitmap('tuesday'))), [
      `1 ${allocation}`,
      `4 ${bitmap('tuesday')}`,
    ]);
    t.same(
      told(set('vol0', 'base:', 'qemu:', 'qemu:dirty-bitmap:')),
      [],
      'families select nothing',
    );
    t.same(told(set('vol1', ...all)), [`1 ${allocation}`, `2 ${depth}`], 'only what is its own');
    const go = option(nbd.OPT_GO, infoData('vol0'));
    t.match(talk(set('vol0', depth, bitmap('monday')), go).outcome?.contexts, [
      { id: 2, source: 'depth' },
      { id: 3, source: record('monday') },
    ]);
    t.same(talk(set('vol1', depth, bitmap('x')), go).outcome?.contexts, []);
    t.same(told(set('vol0', depth), set('vol0', allocation)).slice(-1), [`1 ${allocation}`]);
  });

  t.test('gives ids that differ from one another, and from that of lists', async (t) => {
    t.same(
      contextsOf([]).map(({ id, name }) => [id, name]),
      [
        [1, allocation],
        [2, depth],
      ],
    );
    const contexts = contextsOf([record('a'), record('b')]);
    t.same(
      selectContexts(
        contexts,
        listContexts(contexts, []).map(({ name }) => name),
      ),
      contexts,
    );
    t.equal(new Set(contexts.map(({ id }) => id)).size, 4);
    t.notOk(
      contexts.some(({ id }) => id === 0),
      '0 is for lists',
    );
  });
});

/** A record that says what the test tells it, and remembers what it was asked. */
class Scripted implements ChangeMap {
  readonly name: string;
  readonly asked: string[] = [];
  errno = 0;
  /** Lengths and flags, from wherever it is asked on. */
  says: readonly (readonly [number, number])[] = [[4096, 1]];

  constructor(name: string) {
    this.name = name;
  }

  extents: ChangeMap['extents'] = (offset, length, list) => {
    this.asked.push(`${offset}+${length}`);
    for (const [bytes, flags] of this.says) if (!list.push(bytes, flags)) break;
    return this.errno;
  };
}

interface Bench {
  readonly rig: Rig;
  readonly records: readonly Scripted[];
  readonly client: Client;
}

const diskBytes = MiB;

/** A device over a disk that is data up to 64 KiB, with records of those names. */
async function begin(mode: Mode, names: readonly string[] = []): Promise<Bench> {
  const rig = new Rig();
  const disk = rig.disk('/disk', diskBytes / 512);
  disk.allocate(0, 65_536);
  const device = await rig.create('it', `0 ${diskBytes / 512} linear /disk 0`);
  const records = names.map((name) => new Scripted(name));
  device.changeMaps = () => [...records];
  const contexts = [...mode.contexts, ...names.map(bitmap)];
  return { rig, records, client: rig.connect('it', { ...mode, contexts }) };
}

const modes = [
  ['structured', { ...structured, contexts: [allocation, depth] }],
  ['extended', { ...extended, contexts: [allocation, depth] }],
] as const;

for (const [title, mode] of modes) {
  t.test(`in ${title} replies`, async (t) => {
    t.test('tells of every context, each with extents of its own', async (t) => {
      const { rig, records, client } = await begin(mode, ['monday', 'tuesday']);
      const [monday, tuesday] = records as [Scripted, Scripted];
      monday.says = [
        [512, 0],
        [1024, 1],
      ];
      tuesday.says = [[200_000, 0]];
      const ask = (fields: object) => client.answer(client.ask(CMD.blockStatus, fields)).chunks;
      t.same(ask({ offset: 4096, length: 100_000 }), [
        '61440:0',
        '38560:3',
        '2/100000:1',
        '3/512:0',
        '3/1024:1',
        '4/100000:0',
      ]);
      t.same(monday.asked, ['4096+100000']);
      t.same(tuesday.asked, ['4096+100000'], 'and none reaches past the end of the request');
      t.same(ask({ offset: 4096, length: 100_000, flags: CMD_FLAG.reqOne }), [
        '61440:0',
        '2/100000:1',
        '3/512:0',
        '4/100000:0',
      ]);
      t.same(ask({ offset: diskBytes - 512, length: 512 }), [
        '512:3',
        '2/512:1',
        '3/512:0',
        '4/512:0',
      ]);
      client.leave();
      rig.atRest();
    });

    t.test('answers EIO when one of them has nothing to tell, and serves on', async (t) => {
      const { rig, records, client } = await begin(mode, ['monday', 'tuesday']);
      const [monday, tuesday] = records as [Scripted, Scripted];
      const ask = () => client.answer(client.ask(CMD.blockStatus, { offset: 512, length: 4096 }));
      monday.errno = ENXIO;
      const error = 'block status of 4096 bytes at 512: qemu:dirty-bitmap:monday: ENXIO';
      t.match(ask(), { error: 5, text: error, chunks: [] });
      t.same(tuesday.asked, [], 'the others need not be asked');
      t.same(rig.logged, [`it: ${error}`]);
      monday.errno = 0;
      monday.says = [];
      t.match(ask(), { error: 5, text: /monday: nothing known$/ });
      monday.says = [[4096, 1]];
      t.equal(ask().error, 0);
      client.leave();
      rig.atRest();
    });

    t.test('sends what does not fit into one batch in several', async (t) => {
      const names = Array.from({ length: metaContextQueries - 2 }, (_, i) => `day${i}`);
      const { rig, records, client } = await begin(mode, names);
      const most = Array.from({ length: extentsPerReply + 9 }, (_, i) => [512, i % 2] as const);
      for (const one of records) one.says = most;
      const before = client.read(0, 512);
      const status = client.ask(CMD.blockStatus, { offset: 0, length: diskBytes });
      const behind = client.read(512, 512);
      const { chunks } = client.answer(status);
      const known = chunks.filter((chunk) => chunk.startsWith('64/'));
      t.equal(known.length, extentsPerReply);
      t.same(known.slice(0, 2), ['64/512:0', '64/512:1']);
      t.equal(chunks.length, 2 + 1 + names.length * extentsPerReply);
      t.same([...client.order].sort(), [before, status, behind].sort());
      // Who takes nothing meanwhile, and leaves, leaves nothing behind.
      client.socket.takeReplies(false);
      client.ask(CMD.blockStatus, { offset: 0, length: diskBytes });
      rig.work();
      client.socket.breakSends();
      rig.work();
      t.ok(client.socket.closed);
      rig.atRest();
    });

    t.test('holds so many answers at a time and no more', async (t) => {
      const names = Array.from({ length: 50 }, (_, i) => `day${i}`);
      const { rig, client, records } = await begin(mode, names);
      const at = Math.floor(statusAnswersPerConnection / 52);
      client.socket.takeReplies(false);
      const asked = Array.from({ length: 3 * at }, () =>
        client.ask(CMD.blockStatus, { offset: 0, length: 4096 }),
      );
      rig.work();
      t.equal(records[0]?.asked.length, at);
      t.notOk(client.socket.isReceiving);
      client.socket.takeReplies(true);
      rig.work();
      for (const cookie of asked) t.equal(client.reply(cookie)?.chunks.length, 2 + 50);
      client.leave();
      rig.atRest();
    });
  });
}

t.test('answers in several chunks, byte for byte', async (t) => {
  const check = async (mode: Mode, sent: string, wanted: string): Promise<void> => {
    const { rig, client, records } = await begin({ ...mode, contexts: [allocation] }, ['monday']);
    (records[0] as Scripted).says = [
      [4096, 0],
      [8192, 1],
    ];
    client.socket.push(hex(sent));
    rig.work();
    t.equal(client.socket.takeOutput().toString('hex'), hex(wanted).toString('hex'));
    client.leave();
    rig.atRest();
  };
  await check(
    structured,
    '25609513 0000 0007 1122334455667788 000000000000f000 00002000',
    '668e33ef 0000 0005 1122334455667788 00000014 00000001 00001000 00000000 00001000 00000003' +
      '668e33ef 0001 0005 1122334455667788 00000014 00000003 00001000 00000000 00001000 00000001',
  );
  await check(
    extended,
    '21e41c71 0000 0007 1122334455667788 000000000000f000 0000000000002000',
    '6e8a278c 0000 0006 1122334455667788 000000000000f000 0000000000000028 00000001 00000002' +
      '0000000000001000 0000000000000000 0000000000001000 0000000000000003' +
      '6e8a278c 0001 0006 1122334455667788 000000000000f000 0000000000000028 00000003 00000002' +
      '0000000000001000 0000000000000000 0000000000001000 0000000000000001',
  );
});

t.test('a payload that chooses contexts', async (t) => {
  const names = ['monday', 'tuesday'];
  const mode = { ...extended, contexts: [allocation, depth] };
  const ask = (client: Client, payload: Buffer, fields: object = {}) => {
    const flags = CMD_FLAG.payloadLen;
    return client.answer(client.ask(CMD.blockStatus, { offset: 0, payload, flags, ...fields }));
  };

  t.test('is answered for these, in their order', async (t) => {
    const { rig, records, client } = await begin(mode, names);
    t.same(ask(client, statusPayload(512, 4)).chunks, ['4/512:1']);
    t.same(ask(client, statusPayload(70_000, 3, 1)).chunks, ['3/4096:1', '65536:0', '4464:3']);
    t.same(ask(client, statusPayload(512, 1, 2, 3, 4)).chunks, [
      '512:0',
      '2/512:1',
      '3/512:1',
      '4/512:1',
    ]);
    const flags = CMD_FLAG.payloadLen | CMD_FLAG.reqOne;
    t.same(ask(client, statusPayload(70_000, 1), { flags }).chunks, ['65536:0']);
    t.same(records[0]?.asked, ['0+70000', '0+512']);
    client.leave();
    rig.atRest();
  });

  t.test('answers EINVAL to contexts that are not selected, or twice there', async (t) => {
    const { rig, records, client } = await begin({ ...mode, contexts: [depth] }, names);
    const bad = (text: RegExp, payload: Buffer) =>
      t.match(ask(client, payload), { error: 22, text, chunks: [] });
    bad(/^block status: found context 1, wanted one that was selected$/, statusPayload(512, 1));
    bad(/found context 0, wanted one/, statusPayload(512, 0));
    bad(/found context 5, wanted one/, statusPayload(512, 2, 5));
    bad(/found context 4294967295, wanted one/, statusPayload(512, 2, 3, 0xffffffff));
    bad(/^block status: found context 2, found it twice$/, statusPayload(512, 2, 2));
    bad(/found context 3, found it twice/, statusPayload(512, 3, 4, 3));
    bad(/found a payload of 8 bytes, wanted 8 and 4 for each of 1 to 3/, statusPayload(512));
    bad(/found a payload of 24 bytes, wanted/, statusPayload(512, 2, 3, 4, 2));
    for (const length of [1, 4, 7, 9, 11, 13, 19, 21, 5000]) {
      bad(new RegExp(`found a payload of ${length} bytes`), Buffer.alloc(length, 2));
    }
    t.equal(ask(client, Buffer.alloc(0)).error, 22);
    t.same(records[0]?.asked, []);
    t.same(ask(client, statusPayload(512, 2)).chunks, ['2/512:1'], 'and serves on');
    client.leave();
    rig.atRest();
  });

  t.test('is checked like the range of any other', async (t) => {
    const { rig, client } = await begin(mode, names);
    const bad = (text: RegExp, payload: Buffer, fields: object = {}) =>
      t.match(ask(client, payload, fields), { error: 22, text, chunks: [] });
    bad(/^block status: found length 0, wanted at least 1$/, statusPayload(0, 1));
    bad(/found offset 0 and length 1048577, wanted an end/, statusPayload(diskBytes + 1, 1));
    bad(/length 18446744073709551615,/, statusPayload(2n ** 64n - 1n, 1));
    bad(/offset 1048576 and length 1,/, statusPayload(1, 1), { offset: diskBytes });
    bad(/offset 18446744073709551615/, statusPayload(1, 1), { offset: 2n ** 64n - 1n });
    t.same(ask(client, statusPayload(diskBytes, 2)).chunks, [`2/${diskBytes}:1`]);
    client.leave();
    rig.atRest();
  });

  t.test('counts for the table that is there when it has come', async (t) => {
    const { rig, client } = await begin(mode);
    const flags = CMD_FLAG.payloadLen;
    const payload = statusPayload(diskBytes, 1);
    const bytes = client.bytes({ type: CMD.blockStatus, cookie: 1, offset: 0, payload, flags });
    client.socket.push(bytes.subarray(0, 40));
    rig.work();
    await rig.wait(rig.devices.load('it', '0 100 linear /disk 0'));
    await rig.wait(rig.devices.resume('it'));
    client.socket.push(bytes.subarray(40));
    t.match(client.answer(1), { error: 22, text: /wanted an end within 51200$/ });
    client.leave();
    rig.atRest();
  });
});

t.test('waits with a suspended device, and answers with what its STATUS ends with', async (t) => {
  const { rig, client } = await begin({ ...extended, contexts: [allocation, depth] }, ['monday']);
  await rig.wait(rig.devices.suspend('it', false));
  const cookie = client.ask(CMD.blockStatus, { offset: 0, length: 4096 });
  rig.work();
  t.equal(client.reply(cookie), undefined);
  for (const device of rig.devices.all()) device.failWaiting(EIO);
  t.match(client.answer(cookie), { error: 5 });
  client.leave();
  rig.atRest();
});
