import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import * as limits from '../../src/base/limits.js';
import * as nbd from '../../src/nbd/constants.js';
import { transmissionFlags } from '../../src/nbd/export.js';
import { contextsOf, listContexts, selectContexts } from '../../src/nbd/meta-context.js';
import {
  type Conversation,
  contextData,
  converse,
  directoryOf,
  exportInfo,
  infoData,
  makeHandshake,
  type OptionReply,
  option,
  readReplies,
  sized,
  u16,
  u32,
} from './conversation.js';

const vol0 = exportInfo({ description: 'the first' });
const vol1 = exportInfo({ name: 'vol1', sizeBytes: 1024, readOnly: true, multiConn: false });
const directory = directoryOf([vol0, vol1], 'vol0');

const fixed = u32(3);
const allocation = 'base:allocation';
const depth = 'qemu:allocation-depth';
const [baseAllocation] = contextsOf([]);
const structured = option(nbd.OPT_STRUCTURED_REPLY);
const go = (name: string, ...types: number[]) => option(nbd.OPT_GO, infoData(name, ...types));
const info = (name: string, ...types: number[]) => option(nbd.OPT_INFO, infoData(name, ...types));
const list = (name: string, ...queries: string[]) =>
  option(nbd.OPT_LIST_META_CONTEXT, contextData(name, ...queries));
const set = (name: string, ...queries: string[]) =>
  option(nbd.OPT_SET_META_CONTEXT, contextData(name, ...queries));
const stringTooLong = 'n'.repeat(4097);

function talk(...pieces: Buffer[]): Conversation {
  return converse(directory, Buffer.concat([fixed, ...pieces]));
}

/** The replies to options that leave the connection usable, which is tried out behind them. */
function repliesTo(t: Test, ...pieces: Buffer[]): OptionReply[] {
  const conversation = talk(...pieces, option(nbd.OPT_LIST));
  const all = readReplies(conversation.output);
  const probe = all.splice(-3);
  t.equal(conversation.state, 'haggling');
  t.same(
    probe.map((reply) => [reply.option, reply.type]),
    [
      [nbd.OPT_LIST, nbd.REP_SERVER],
      [nbd.OPT_LIST, nbd.REP_SERVER],
      [nbd.OPT_LIST, nbd.REP_ACK],
    ],
  );
  return all;
}

/** Replies as `[type, data in hex]`. */
function brief(replies: OptionReply[]): [number, string][] {
  return replies.map((reply) => [reply.type, reply.data.toString('hex')]);
}

/** Sees that the last option gets one error reply and the connection stays usable. */
function refused(t: Test, type: number, text: RegExp, ...pieces: Buffer[]): void {
  const all = repliesTo(t, ...pieces);
  t.equal(all.length, pieces.length, 'each option got one reply');
  t.equal(all.at(-1)?.type, type);
  t.match(all.at(-1)?.data.toString(), text);
}

/** Sees that the peer's fault ends the connection with nothing sent. */
function dropped(t: Test, failure: RegExp, ...pieces: Buffer[]): void {
  const conversation = converse(directory, Buffer.concat(pieces));
  t.equal(conversation.state, 'ended');
  t.match(conversation.failure, failure);
  t.equal(conversation.output.length, 0);
  t.equal(conversation.outcome, null);
}

t.test('greeting and client flags', async (t) => {
  t.test('sends both magics and the handshake flags first', async (t) => {
    const handshake = makeHandshake(directory);
    const sent = Buffer.concat(handshake.takeOutput()).toString('hex');
    t.equal(sent, '4e42444d4147494349484156454f50540003');
    t.same(handshake.takeOutput(), [], 'the output was handed over');
    t.equal(handshake.state, 'haggling');
  });

  t.test('waits for the rest of anything', async (t) => {
    const bytes = Buffer.concat([fixed, go('vol0')]);
    for (let length = 0; length < bytes.length; length++) {
      const conversation = converse(directory, bytes.subarray(0, length));
      t.equal(conversation.state, 'haggling');
      t.equal(conversation.taken, length);
      t.equal(conversation.output.length, 0);
    }
  });

  for (const bit of [2, 3, 15, 16, 31]) {
    t.test(`drops a client that sets flag bit ${bit}`, async (t) => {
      const flags = (2 ** bit + 3) >>> 0;
      dropped(t, new RegExp(`^client flags: found 0x${flags.toString(16)},`), u32(flags));
    });
  }

  t.test('drops a client whose option has a bad magic', async (t) => {
    const bad = Buffer.from('IHAVEOPU0000000000');
    dropped(t, /^option magic: found 0x49484156454f5055, wanted 0x49484156454f5054$/, fixed, bad);
    const badToo = Buffer.from('JHAVEOPT0000000000');
    dropped(t, /^option magic: found 0x4a48/, fixed, badToo);
  });
});

t.test('NBD_OPT_EXPORT_NAME', async (t) => {
  const size = '0000012345678000';

  t.test('answers size and flags, without zeroes if that was agreed', async (t) => {
    const conversation = talk(option(nbd.OPT_EXPORT_NAME, 'vol0'));
    t.equal(conversation.output.toString('hex'), `${size}016d`);
    t.equal(conversation.state, 'transmission');
    t.same(conversation.outcome, {
      exportInfo: vol0,
      structuredReplies: false,
      extendedHeaders: false,
      contexts: [],
    });
  });

  for (const flags of [0, 1]) {
    t.test(`appends 124 zeroes for client flags ${flags}`, async (t) => {
      const bytes = Buffer.concat([u32(flags), option(nbd.OPT_EXPORT_NAME, 'vol1')]);
      const conversation = converse(directory, bytes);
      t.equal(conversation.output.toString('hex'), `0000000000000400000f${'00'.repeat(124)}`);
      t.equal(conversation.state, 'transmission');
    });
  }

  t.test('takes the empty name for the default export', async (t) => {
    t.equal(talk(option(nbd.OPT_EXPORT_NAME)).outcome?.exportInfo.name, 'vol0');
  });

  t.test('has structured replies and contexts that were negotiated before', async (t) => {
    const conversation = talk(
      structured,
      set('vol0', allocation),
      option(nbd.OPT_EXPORT_NAME, 'vol0'),
    );
    t.equal(conversation.output.toString('hex').slice(-20), `${size}01ed`);
    t.same(conversation.outcome, {
      exportInfo: vol0,
      structuredReplies: true,
      extendedHeaders: false,
      contexts: [baseAllocation],
    });
  });

  t.test('drops a client that names no export of ours, or in a bad way', async (t) => {
    const name = (bytes: string | Buffer) => option(nbd.OPT_EXPORT_NAME, bytes);
    dropped(t, /^NBD_OPT_EXPORT_NAME: export "nosuch": found none/, fixed, name('nosuch'));
    dropped(t, /found bytes that are not utf-8/, fixed, name(Buffer.of(0xc3, 0x28)));
    dropped(t, /found a NUL character/, fixed, name('vol0\0'));
    dropped(t, /found 4097 bytes of data, wanted at most 4096/, fixed, name(stringTooLong));
    // Nothing can be said to the client, so the name is not waited for.
    const claim = Buffer.concat([Buffer.from('IHAVEOPT'), u32(1), u32(4097)]);
    dropped(t, /found 4097 bytes of data/, fixed, claim);
  });
});

t.test('a client without fixed newstyle', async (t) => {
  for (const number of [...Array(13).keys()].filter((n) => n !== nbd.OPT_EXPORT_NAME)) {
    t.test(`is dropped at option ${number}`, async (t) => {
      dropped(t, /found client flags without fixed newstyle/, u32(0), option(number));
      dropped(t, /found client flags without fixed newstyle/, u32(2), option(number));
    });
  }
});

t.test('NBD_OPT_ABORT', async (t) => {
  for (const data of ['', 'whatever', 'x'.repeat(limits.optionBytes + 1)]) {
    t.test(`answers ACK and ends, with ${data.length} bytes of data`, async (t) => {
      const conversation = talk(option(nbd.OPT_ABORT, data));
      t.equal(conversation.output.toString('hex'), '0003e889045565a9000000020000000100000000');
      t.equal(conversation.state, 'ended');
      t.equal(conversation.failure, null, "it is nobody's fault");
    });
  }

  t.test('leaves what comes behind it alone', async (t) => {
    const bytes = Buffer.concat([fixed, option(nbd.OPT_ABORT)]);
    const conversation = converse(directory, Buffer.concat([bytes, option(nbd.OPT_LIST)]));
    t.equal(conversation.taken, bytes.length);
    t.equal(readReplies(conversation.output).length, 1);
  });
});

t.test('NBD_OPT_LIST', async (t) => {
  t.test('answers every export with its description, then ACK', async (t) => {
    const conversation = talk(option(nbd.OPT_LIST));
    t.same(conversation.output.toString('hex').match(/0003e889045565a9.*?(?=0003e|$)/g), [
      '0003e889045565a900000003000000020000001100000004766f6c30746865206669727374',
      '0003e889045565a900000003000000020000000800000004766f6c31',
      '0003e889045565a9000000030000000100000000',
    ]);
  });

  t.test('answers ACK alone where there is no export', async (t) => {
    const bytes = Buffer.concat([fixed, option(nbd.OPT_LIST)]);
    const conversation = converse(directoryOf([]), bytes);
    t.equal(conversation.output.toString('hex'), '0003e889045565a9000000030000000100000000');
  });

  t.test('rejects data', async (t) => {
    refused(t, nbd.REP_ERR_INVALID, /^NBD_OPT_LIST: data: found 1 bytes/, option(3, 'x'));
  });

  t.test('lists names outside ASCII by their bytes', async (t) => {
    const umlaut = directoryOf([exportInfo({ name: 'größe', description: '\u{1f4be}' })]);
    const conversation = converse(umlaut, Buffer.concat([fixed, option(nbd.OPT_LIST)]));
    const data = readReplies(conversation.output)[0]?.data;
    t.equal(data?.toString('hex'), '000000076772c3b6c39f65f09f92be');
  });
});

t.test('options that are not offered', async (t) => {
  const cases: [number, RegExp][] = [
    [nbd.OPT_PEEK_EXPORT, /^NBD_OPT_PEEK_EXPORT: withdrawn/],
    [nbd.OPT_STARTTLS, /^NBD_OPT_STARTTLS: not supported, no tls/],
    [0, /^option 0: not known$/],
    [12, /^option 12: not known$/],
    [0xffffffff, /^option 4294967295: not known$/],
  ];
  for (const [number, text] of cases) {
    for (const length of [0, 4, 1024 * 1024]) {
      t.test(`answers UNSUP to option ${number} with ${length} bytes`, async (t) => {
        refused(t, nbd.REP_ERR_UNSUP, text, option(number, Buffer.alloc(length, 0x49)));
      });
    }
  }
});

t.test('limits', async (t) => {
  const tooBig = Buffer.alloc(limits.optionBytes + 1, 0x49);

  for (const number of [3, 6, 7, 8, 9, 10, 11]) {
    t.test(`answers TOO_BIG to option ${number} with more data than it may have`, async (t) => {
      const text = /found 65537 bytes of data, wanted at most 65536$/;
      refused(t, nbd.REP_ERR_TOO_BIG, text, option(number, tooBig));
    });
  }

  t.test('reads an option of exactly the largest size', async (t) => {
    const data = Buffer.concat([sized('vol0'), Buffer.alloc(limits.optionBytes - 8)]);
    t.equal(data.length, limits.optionBytes);
    refused(t, nbd.REP_ERR_INVALID, /info types: found 65526 bytes, wanted 0/, option(6, data));
  });

  t.test('drops a client whose option claims a fatal size, known or not', async (t) => {
    for (const number of [nbd.OPT_ABORT, nbd.OPT_GO, 77]) {
      const head = Buffer.concat([Buffer.from('IHAVEOPT'), u32(number)]);
      dropped(t, /found 16777217 bytes of data/, fixed, head, u32(limits.optionBytesFatal + 1));
      dropped(t, /found 4294967295 bytes of data/, fixed, head, u32(0xffffffff));
      const conversation = talk(head, u32(limits.optionBytesFatal));
      t.equal(conversation.state, 'haggling', 'the limit itself is drained');
    }
  });

  t.test('drops a client after too many options', async (t) => {
    const most = Array<Buffer>(limits.handshakeOptions).fill(option(77));
    const enough = talk(...most);
    t.equal(enough.state, 'haggling');
    t.equal(readReplies(enough.output).length, limits.handshakeOptions);
    const conversation = talk(...most, option(77));
    t.equal(conversation.state, 'ended');
    t.match(conversation.failure, /^option 77: found more options than 1024$/);
    t.equal(readReplies(conversation.output).length, limits.handshakeOptions);
  });

  t.test('drops a client that does not take its replies', async (t) => {
    const names = Array.from({ length: limits.devices }, (_, i) => exportInfo({ name: `vol${i}` }));
    const flood = Buffer.concat(Array<Buffer>(100).fill(option(nbd.OPT_LIST)));
    const handshake = makeHandshake(directoryOf(names));
    handshake.push(fixed, 0, fixed.length);
    handshake.push(flood, 0, flood.length);
    t.equal(handshake.state, 'ended');
    t.match(handshake.failure, /^NBD_OPT_LIST: found \d+ bytes of earlier replies not taken$/);
    const bytes = handshake.takeOutput().reduce((sum, piece) => sum + piece.length, 0);
    t.ok(bytes > limits.handshakeOutputBytes);
    t.ok(bytes < limits.handshakeOutputBytes + limits.devices * 64);

    // One that takes them may go on.
    const patient = makeHandshake(directoryOf(names));
    patient.push(fixed, 0, fixed.length);
    for (let at = 0; at < flood.length; at += 16) {
      patient.push(flood, at, at + 16);
      patient.takeOutput();
    }
    t.equal(patient.state, 'haggling');
  });
});

t.test('NBD_OPT_INFO and NBD_OPT_GO', async (t) => {
  const size = '0000012345678000';
  const infoExport: [number, string] = [nbd.REP_INFO, `0000${size}016d`];
  const blockSize: [number, string] = [nbd.REP_INFO, '0003000000010000100004000000'];
  const ack: [number, string] = [nbd.REP_ACK, ''];

  t.test('answers EXPORT to who asks for nothing', async (t) => {
    const bytes = talk(info('vol0')).output.toString('hex');
    t.equal(
      bytes,
      '0003e889045565a900000006000000030000000c00000000012345678000016d' +
        '0003e889045565a9000000060000000100000000',
    );
  });

  t.test('answers what is asked for, each once, and ignores what it does not know', async (t) => {
    const types: [number[], [number, string][]][] = [
      [[nbd.INFO_EXPORT], []],
      [[nbd.INFO_NAME], [[nbd.REP_INFO, '0001766f6c30']]],
      [[nbd.INFO_DESCRIPTION], [[nbd.REP_INFO, '0002746865206669727374']]],
      [[nbd.INFO_BLOCK_SIZE], [blockSize]],
      [[3, 3, 0, 3], [blockSize]],
      [[4, 0x1234, 0xffff], []],
      [
        [3, 2, 1, 0],
        [[nbd.REP_INFO, '0001766f6c30'], [nbd.REP_INFO, '0002746865206669727374'], blockSize],
      ],
    ];
    for (const [asked, more] of types) {
      t.same(brief(repliesTo(t, info('vol0', ...asked))), [infoExport, ...more, ack]);
      const conversation = talk(go('vol0', ...asked));
      t.same(brief(readReplies(conversation.output)), [infoExport, ...more, ack], 'so does GO');
      t.equal(conversation.state, 'transmission');
    }
  });

  t.test('tells no description where there is none', async (t) => {
    const all = repliesTo(t, info('vol1', nbd.INFO_DESCRIPTION));
    t.same(brief(all), [[nbd.REP_INFO, '00000000000000000400000f'], ack]);
  });

  t.test('tells a minimum block size unasked', async (t) => {
    const direct = directoryOf([exportInfo({ blockBytesMin: 512, payloadBytesMax: 0xffffffff })]);
    const conversation = converse(direct, Buffer.concat([fixed, go('vol0')]));
    t.same(brief(readReplies(conversation.output)), [
      infoExport,
      [nbd.REP_INFO, '00030000020000001000ffffffff'],
      ack,
    ]);
  });

  t.test('answers the canonical name of the default export', async (t) => {
    const conversation = talk(go('', nbd.INFO_NAME));
    t.same(brief(readReplies(conversation.output))[1], [nbd.REP_INFO, '0001766f6c30']);
    t.equal(conversation.outcome?.exportInfo, vol0);
  });

  t.test('has DF among the flags once replies are structured', async (t) => {
    t.same(brief(repliesTo(t, structured, info('vol0')))[1], [nbd.REP_INFO, `0000${size}01ed`]);
  });

  t.test('leaves what comes behind GO to transmission', async (t) => {
    const bytes = Buffer.concat([fixed, info('vol1'), go('vol0')]);
    const request = Buffer.from('25609513000000000000000000000001', 'hex');
    const conversation = converse(directory, Buffer.concat([bytes, request]));
    t.equal(conversation.taken, bytes.length);
    t.equal(conversation.state, 'transmission');
    const handshake = makeHandshake(directory);
    t.equal(handshake.push(bytes, 0, bytes.length), bytes.length);
    t.equal(handshake.push(request, 0, request.length), 0);
  });

  for (const number of [nbd.OPT_INFO, nbd.OPT_GO]) {
    t.test(`rejects data of option ${number} that is not what it says`, async (t) => {
      const invalid = (text: RegExp, ...data: (Buffer | string)[]) =>
        refused(t, nbd.REP_ERR_INVALID, text, option(number, ...data));
      invalid(/length of export name: found 0 bytes, wanted 4$/);
      invalid(/length of export name: found 3 bytes, wanted 4$/, Buffer.alloc(3));
      invalid(/export name: found 3 bytes, wanted 4$/, u32(4), 'vol');
      invalid(/export name: found 4 bytes, wanted 5$/, u32(5), 'vol0');
      invalid(/export name: found 4294967295 bytes, wanted at most 4096$/, u32(0xffffffff));
      invalid(/export name: found 4097 bytes, wanted at most 4096$/, infoData(stringTooLong));
      invalid(/number of info types: found 0 bytes, wanted 2$/, sized('vol0'));
      invalid(/number of info types: found 1 bytes, wanted 2$/, sized('vol0'), 'x');
      invalid(/info types: found 0 bytes, wanted 2 for 1 of them$/, sized('vol0'), u16(1));
      invalid(/info types: found 1 bytes, wanted 2 for 1 of them$/, sized('vol0'), u16(1), 'x');
      invalid(/info types: found 1 bytes, wanted 0 for 0 of them$/, infoData('vol0'), 'x');
      invalid(/wanted 131070 for 65535 of them$/, sized('vol0'), u16(0xffff), 'xx');
      invalid(/export name: found bytes that are not utf-8$/, infoData(Buffer.of(0xff)));
      invalid(
        /export name: found bytes that are not utf-8$/,
        infoData(Buffer.of(0xed, 0xa0, 0x80)),
      );
      invalid(/export name: found a NUL character, wanted none$/, infoData('vol0\0'));
    });

    t.test(`answers UNKNOWN to option ${number} for an export that is not there`, async (t) => {
      const unknown = (text: RegExp, name: string) =>
        refused(t, nbd.REP_ERR_UNKNOWN, text, option(number, infoData(name)));
      unknown(/: export "nosuch": found none of that name/, 'nosuch');
      unknown(/: export "VOL0": found none/, 'VOL0');
      unknown(/: export "\/vol0": found none/, '/vol0');
      unknown(/: export "\ufeffvol0": found none/, '\ufeffvol0');
      unknown(/: export "a\\nb\\"c": found none/, 'a\nb"c');
      unknown(/: export "n{40}"\.\.\.: found none/, 'n'.repeat(4096));
    });

    t.test(`tells how to name an export where option ${number} finds no default`, async (t) => {
      const bytes = Buffer.concat([fixed, option(number, infoData(''))]);
      const conversation = converse(directoryOf([vol0, vol1]), bytes);
      const all = readReplies(conversation.output);
      t.equal(all.length, 1);
      t.equal(all[0]?.type, nbd.REP_ERR_UNKNOWN);
      t.match(all[0]?.data.toString(), /export "": found no default export, .*nbd:\/\/HOST\/NAME/);
      t.equal(conversation.state, 'haggling');
    });
  }
});

t.test('NBD_OPT_STRUCTURED_REPLY', async (t) => {
  t.test('is acknowledged once', async (t) => {
    t.same(brief(repliesTo(t, structured)), [[nbd.REP_ACK, '']]);
    refused(t, nbd.REP_ERR_INVALID, /negotiated already$/, structured, structured);
  });

  t.test('rejects data, and is not negotiated then', async (t) => {
    const bad = option(nbd.OPT_STRUCTURED_REPLY, 'x');
    refused(t, nbd.REP_ERR_INVALID, /data: found 1 bytes/, bad);
    t.equal(talk(bad, go('vol0')).outcome?.structuredReplies, false);
    t.equal(talk(bad, structured, go('vol0')).outcome?.structuredReplies, true);
  });
});

t.test('metadata contexts', async (t) => {
  const listed: [number, string] = [nbd.REP_META_CONTEXT, `00000000${hex(allocation)}`];
  const listedDepth: [number, string] = [nbd.REP_META_CONTEXT, `00000000${hex(depth)}`];
  const selected: [number, string] = [nbd.REP_META_CONTEXT, `00000001${hex(allocation)}`];
  const selectedDepth: [number, string] = [nbd.REP_META_CONTEXT, `00000002${hex(depth)}`];
  const ack: [number, string] = [nbd.REP_ACK, ''];

  t.test('lists all, those of a namespace, or those that are named', async (t) => {
    const cases: [string[], [number, string][]][] = [
      [[], [listed, listedDepth, ack]],
      [['base:'], [listed, ack]],
      [[allocation], [listed, ack]],
      [
        ['base:', allocation, allocation, 'base:'],
        [listed, ack],
      ],
      [
        ['qemu:', 'base:'],
        [listed, listedDepth, ack],
      ],
      [['qemu:'], [listedDepth, ack]],
      [[depth], [listedDepth, ack]],
      [['qemu:dirty-bitmap:'], [ack]],
      [['qemu:dirty-bitmap:x', 'x-none:y', 'base:nosuch', 'base', '', 'BASE:'], [ack]],
      [['base:allocation:'], [ack]],
    ];
    for (const [queries, wanted] of cases) {
      t.same(brief(repliesTo(t, list('vol0', ...queries))), wanted, `queries ${queries}`);
    }
  });

  t.test('selects those that are named, each once', async (t) => {
    const cases: [string[], [number, string][]][] = [
      [[], [ack]],
      [['base:'], [ack]],
      [[allocation], [selected, ack]],
      [
        [allocation, allocation],
        [selected, ack],
      ],
      [
        ['base:', depth, allocation],
        [selected, selectedDepth, ack],
      ],
      [['base:nosuch', 'qemu:', 'base:allocatio', 'base:allocations'], [ack]],
    ];
    for (const [queries, wanted] of cases) {
      const pieces = [structured, set('vol0', ...queries)];
      t.same(brief(repliesTo(t, ...pieces)).slice(1), wanted, `queries ${queries}`);
      t.equal(talk(...pieces, go('vol0')).outcome?.contexts.length, wanted.length - 1);
    }
    const all = contextsOf([]);
    const names = listContexts(all, []).map((context) => context.name);
    t.same(selectContexts(all, names), all);
  });

  t.test('counts for the export it was set for, by whichever name', async (t) => {
    const contexts = (...pieces: Buffer[]) => talk(...pieces).outcome?.contexts;
    const one = [baseAllocation];
    t.same(contexts(structured, set('vol0', allocation), go('vol0')), one);
    t.same(contexts(structured, set('', allocation), go('vol0')), one);
    t.same(contexts(structured, set('vol0', allocation), go('')), one);
    t.same(contexts(structured, set('vol1', allocation), go('vol0')), []);
    t.same(contexts(structured, set('vol0', allocation), go('vol1')), []);
    t.same(contexts(structured, set('vol0', allocation), info('vol1'), go('vol0')), one);
    t.same(contexts(structured, list('vol0', allocation), go('vol0')), []);
    t.same(contexts(structured, go('vol0')), []);
  });

  t.test('replaces the earlier set even when it is refused', async (t) => {
    const later = [
      set('vol0'),
      set('vol0', 'base:'),
      set('nosuch', allocation),
      set('vol1', allocation),
      option(nbd.OPT_SET_META_CONTEXT, 'short'),
      option(nbd.OPT_SET_META_CONTEXT, Buffer.alloc(limits.optionBytes + 1)),
      set('vol0', ...Array<string>(limits.metaContextQueries + 1).fill(allocation)),
    ];
    for (const second of later) {
      const conversation = talk(structured, set('vol0', allocation), second, go('vol0'));
      t.equal(conversation.state, 'transmission');
      t.same(conversation.outcome?.contexts, []);
    }
    const kept = talk(structured, set('vol0', allocation), list('nosuch'), go('vol0'));
    t.equal(kept.outcome?.contexts.length, 1, 'a list replaces nothing');
  });

  t.test('is not set before structured replies, but may be listed', async (t) => {
    const text = /wanted structured replies or extended headers negotiated first$/;
    refused(t, nbd.REP_ERR_INVALID, text, set('vol0', allocation));
    const conversation = talk(set('vol0', allocation), structured, go('vol0'));
    t.same(conversation.outcome?.contexts, []);
    t.same(brief(repliesTo(t, list('vol0'))), [listed, listedDepth, ack]);
  });

  for (const number of [nbd.OPT_LIST_META_CONTEXT, nbd.OPT_SET_META_CONTEXT]) {
    const one = (...data: (Buffer | string)[]) => [structured, option(number, ...data)];

    t.test(`rejects data of option ${number} that is not what it says`, async (t) => {
      const invalid = (text: RegExp, ...data: (Buffer | string)[]) =>
        refused(t, nbd.REP_ERR_INVALID, text, ...one(...data));
      invalid(/length of export name: found 0 bytes, wanted 4$/);
      invalid(/export name: found 4097 bytes, wanted at most 4096$/, contextData(stringTooLong));
      invalid(/number of queries: found 0 bytes, wanted 4$/, sized('vol0'));
      invalid(/queries: found 0 bytes, too few for 1 of them$/, sized('vol0'), u32(1));
      invalid(/too few for 4294967295 of them$/, sized('vol0'), u32(0xffffffff), sized(allocation));
      invalid(/found 399 bytes, too few for 100 of/, sized('vol0'), u32(100), Buffer.alloc(399));
      invalid(/query: found 4 bytes, wanted 5$/, sized('vol0'), u32(1), u32(5), 'base');
      invalid(
        /length of query: found 1 bytes, wanted 4$/,
        sized('vol0'),
        u32(2),
        sized('abc'),
        'x',
      );
      invalid(/query: found 4097 bytes, wanted at most 4096$/, contextData('vol0', stringTooLong));
      invalid(/data: found 1 bytes more/, contextData('vol0', allocation), 'x');
      invalid(/data: found 4 bytes more/, contextData('vol0'), u32(0));
      invalid(/query: found bytes that are not utf-8$/, contextData('vol0', Buffer.of(0x80)));
      invalid(/query: found a NUL character, wanted none$/, contextData('vol0', `${allocation}\0`));
      invalid(/export name: found a NUL character/, contextData('\0', allocation));
    });

    t.test(`answers UNKNOWN to option ${number} for an export that is not there`, async (t) => {
      const text = /: export "nosuch": found none of that name/;
      refused(t, nbd.REP_ERR_UNKNOWN, text, ...one(contextData('nosuch', allocation)));
    });

    t.test(`answers TOO_BIG to option ${number} with more queries than allowed`, async (t) => {
      const queries = Array<string>(limits.metaContextQueries).fill(allocation);
      const text = /queries: found 65, wanted at most 64$/;
      refused(t, nbd.REP_ERR_TOO_BIG, text, ...one(contextData('vol0', ...queries, 'base:')));
      t.same(brief(repliesTo(t, ...one(contextData('vol0', ...queries)))).at(-1), ack);
    });
  }
});

t.test('shutdown', async (t) => {
  const shutDown = (t: Test, bytes: Buffer) => {
    const handshake = makeHandshake(directory);
    handshake.takeOutput();
    handshake.push(fixed, 0, fixed.length);
    handshake.refuse('the daemon is shutting down');
    t.equal(handshake.state, 'haggling');
    const taken = handshake.push(bytes, 0, bytes.length);
    t.equal(handshake.outcome, null);
    t.equal(handshake.failure, null);
    return { handshake, taken, output: Buffer.concat(handshake.takeOutput()) };
  };

  for (const number of [3, 4, 5, 6, 7, 8, 9, 10, 11, 77]) {
    t.test(`answers ERR_SHUTDOWN to option ${number} and ends`, async (t) => {
      const first = option(number, infoData('vol0'));
      const { handshake, taken, output } = shutDown(t, Buffer.concat([first, go('vol0')]));
      t.equal(taken, first.length);
      t.equal(handshake.state, 'ended');
      t.same(brief(readReplies(output)), [
        [nbd.REP_ERR_SHUTDOWN, hex('the daemon is shutting down')],
      ]);
    });
  }

  t.test('says nothing to EXPORT_NAME, and ACK to ABORT', async (t) => {
    const named = shutDown(t, option(nbd.OPT_EXPORT_NAME, 'vol0'));
    t.equal(named.handshake.state, 'ended');
    t.equal(named.output.length, 0);
    const aborted = shutDown(t, option(nbd.OPT_ABORT));
    t.equal(aborted.handshake.state, 'ended');
    t.same(brief(readReplies(aborted.output)), [[nbd.REP_ACK, '']]);
  });
});

t.test('transmission flags', async (t) => {
  const off = { trim: false, multiConn: false };
  const cases: [object, boolean, number][] = [
    [off, false, 0x004d],
    [off, true, 0x00cd],
    [{ ...off, trim: true }, false, 0x006d],
    [{ ...off, fastZero: true }, false, 0x084d],
    [{ ...off, cache: true }, false, 0x044d],
    [{ ...off, rotational: true }, false, 0x005d],
    [{ ...off, multiConn: true }, false, 0x014d],
    [{ ...off, readOnly: true }, false, 0x000f],
    [{ readOnly: true, fastZero: true, cache: true, rotational: true }, true, 0x059f],
    [{ fastZero: true, cache: true, rotational: true }, true, 0x0dfd],
  ];
  for (const [changes, structuredReplies, flags] of cases) {
    const found = transmissionFlags(exportInfo(changes), structuredReplies);
    t.equal(found.toString(16), flags.toString(16), JSON.stringify(changes));
  }
});

t.test('whatever a client sends', async (t) => {
  const name = fc.oneof(
    fc.constantFrom('vol0', 'vol1', '', 'nosuch', '\0', '\ufeff'),
    fc.string({ maxLength: 8 }),
  );
  const query = fc.oneof(fc.constantFrom('base:', allocation, 'qemu:', depth, ''), name);
  const garbage = fc.uint8Array({ maxLength: 64 }).map((bytes) => Buffer.from(bytes));
  const data = fc.oneof(
    garbage,
    fc.constant(Buffer.alloc(0)),
    name.map((text) => Buffer.from(text)),
    fc
      .tuple(name, fc.array(fc.nat(0xffff), { maxLength: 5 }))
      .map(([n, types]) => infoData(n, ...types)),
    fc.tuple(name, fc.array(query, { maxLength: 5 })).map(([n, all]) => contextData(n, ...all)),
    fc.nat(limits.optionBytes + 9).map((length) => Buffer.alloc(length, 0x49)),
  );
  const wellFormed = fc
    .tuple(fc.oneof(fc.nat(12), fc.nat(0xffffffff)), data)
    .map(([number, bytes]) => option(number, bytes));
  // Options that lie about themselves: bytes changed, bytes missing, a length of any size.
  const liar = fc
    .tuple(wellFormed, fc.nat(23), fc.nat(255), fc.nat(8))
    .map(([bytes, at, value, less]) => {
      const changed = Buffer.from(bytes);
      if (at < changed.length) changed[at] = value;
      return changed.subarray(0, changed.length - Math.min(less, changed.length));
    });
  const flags = fc.oneof(
    { weight: 8, arbitrary: fc.constant(3) },
    { weight: 2, arbitrary: fc.nat(3) },
    { weight: 1, arbitrary: fc.nat(0xffffffff) },
  );
  const stream = fc
    .tuple(
      flags,
      fc.array(
        fc.oneof(
          { weight: 12, arbitrary: wellFormed },
          { weight: 1, arbitrary: liar },
          { weight: 1, arbitrary: garbage },
        ),
        { maxLength: 12 },
      ),
    )
    .map(([value, options]) => ({ value, bytes: Buffer.concat([u32(value), ...options]) }));

  // Two LIST replies, or five infos, and no text is longer than this.
  const replyBytesMost = 1024;
  const seen = new Set<string>();

  t.test('is answered in the same way however it is cut, and within bounds', async (t) => {
    fc.assert(
      fc.property(stream, ({ value, bytes }) => {
        const conversation = converse(directory, bytes);
        const { state, failure, outcome, output, taken } = conversation;
        seen.add(state);
        if (taken > bytes.length) return false;
        if (output.length > replyBytesMost * (1 + taken / 16)) return false;
        if ((outcome !== null) !== (state === 'transmission')) return false;
        if (state === 'haggling' && (taken !== bytes.length || failure !== null)) return false;
        if (outcome !== null && outcome.contexts.length > 0 && !outcome.structuredReplies) {
          return false;
        }
        if (failure !== null && (state !== 'ended' || failure.length > 300)) return false;
        // The answer to EXPORT_NAME is the only thing that is no option reply, and the last thing.
        const tail = (value & nbd.FLAG_NO_ZEROES) === 0 ? 134 : 10;
        const isByName = state === 'transmission' && !endsWithAck(output);
        const replies = readReplies(isByName ? output.subarray(0, -tail) : output);
        for (const reply of replies) {
          const isError = reply.type >= nbd.REP_ERROR_BIT;
          if (isError && !/^(NBD_OPT_\w+|option \d+): .{3,}$/.test(reply.data.toString())) {
            return false;
          }
        }
        return true;
      }),
      { numRuns: 400 },
    );
    t.same([...seen].sort(), ['ended', 'haggling', 'transmission'], 'every end was met');
  });

  t.test('is no reason to throw, if it is noise from the start', async (t) => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        const conversation = converse(directory, Buffer.from(bytes));
        return conversation.state !== 'transmission' && conversation.output.length === 0;
      }),
    );
    t.pass('no stream of noise went wrong');
  });
});

function endsWithAck(output: Buffer): boolean {
  return (
    output.toString('hex', output.length - 20).match(/^0003e889045565a9.{8}0000000100000000$/) !==
    null
  );
}

function hex(text: string): string {
  return Buffer.from(text).toString('hex');
}
