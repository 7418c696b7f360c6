import { Buffer } from 'node:buffer';
import t, { type Test } from 'tap';
import { handshakeMilliseconds } from '../../src/base/limits.js';
import type { Device } from '../../src/device/device.js';
import { ErrorLog } from '../../src/device/error-log.js';
import { Connection, type ConnectionOwner } from '../../src/nbd/connection.js';
import * as nbd from '../../src/nbd/constants.js';
import type { ExportDirectory } from '../../src/nbd/export.js';
import { OptionRefusal } from '../../src/nbd/option.js';
import { type Peer, peerNamed } from '../../src/nbd/peer.js';
import type { Greeted } from '../../src/nbd/piped.js';
import { wholeProtocol } from '../../src/nbd/protocol-options.js';
import { Resources } from '../../src/nbd/resources.js';
import { CMD, hello, request, simple, structured } from './client.js';
import {
  type Circumstances,
  contextData,
  converse,
  directoryOf,
  exportInfo,
  infoData,
  makeHandshake,
  option,
  readReplies,
  u32,
} from './conversation.js';
import { FakeSocket } from './fake-socket.js';
import { Rig } from './rig.js';

const directory = directoryOf([exportInfo()]);
const go = option(nbd.OPT_GO, infoData('vol0'));

/** The type of the reply to each option of a client that is greeted. */
function types(circumstances: Circumstances, ...options: Buffer[]): number[] {
  const flags = circumstances.resumed === undefined ? [u32(3)] : [];
  const bytes = Buffer.concat([...flags, ...options]);
  return readReplies(converse(directory, bytes, circumstances).output).map(({ type }) => type);
}

t.test('what a server has switched off', async (t) => {
  const contexts = contextData('vol0', 'base:allocation');
  const options: [string, Buffer][] = [
    ['SR', option(nbd.OPT_STRUCTURED_REPLY)],
    ['LIST_META', option(nbd.OPT_LIST_META_CONTEXT, contexts)],
    ['SET_META', option(nbd.OPT_SET_META_CONTEXT, contexts)],
    ['EH', option(nbd.OPT_EXTENDED_HEADERS)],
  ];
  const all = options.map(([, bytes]) => bytes);
  const { REP_ACK, REP_META_CONTEXT, REP_ERR_UNSUP, REP_ERR_INVALID } = nbd;

  t.test('is nothing at first', async (t) => {
    const told = [REP_ACK, REP_META_CONTEXT, REP_ACK, REP_META_CONTEXT, REP_ACK, REP_ACK];
    t.same(types({}, ...all), told);
  });

  t.test('answers UNSUP to extended headers', async (t) => {
    const told = [REP_ACK, REP_META_CONTEXT, REP_ACK, REP_META_CONTEXT, REP_ACK, REP_ERR_UNSUP];
    t.same(types({ options: { extendedHeaders: false } }, ...all), told);
  });

  t.test('answers UNSUP to structured replies, and to what would bring them', async (t) => {
    // Contexts can be listed by anybody, and selected by those who can hear of them.
    const told = [REP_ERR_UNSUP, REP_META_CONTEXT, REP_ACK, REP_ERR_INVALID, REP_ERR_UNSUP];
    t.same(types({ options: { structuredReplies: false } }, ...all), told);
  });

  t.test('answers UNSUP to metadata contexts', async (t) => {
    const told = [REP_ACK, REP_ERR_UNSUP, REP_ERR_UNSUP, REP_ACK];
    t.same(types({ options: { metaContexts: false } }, ...all), told);
  });

  t.test('is refused whatever data comes with it, and forgets contexts', async (t) => {
    const options = { structuredReplies: false, extendedHeaders: false, metaContexts: false };
    for (const number of [8, 9, 10, 11]) {
      for (const length of [1, 4, 1024 * 1024]) {
        const bytes = Buffer.concat([u32(3), option(number, Buffer.alloc(length, 1)), go]);
        const { output, outcome } = converse(directory, bytes, { options });
        const [reply] = readReplies(output);
        t.equal(reply?.type, nbd.REP_ERR_UNSUP);
        t.match(reply?.data.toString(), /^NBD_OPT_\w+: switched off in this server$/);
        t.match(outcome, { structuredReplies: false, extendedHeaders: false, contexts: [] });
      }
    }
  });

  t.test('leaves clients that know no better as they were', async (t) => {
    const rig = new Rig(undefined, {
      protocol: { ...wholeProtocol, structuredReplies: false, metaContexts: false },
    });
    await rig.create('it', '0 8 memory');
    const client = rig.connect('it', simple);
    t.equal(client.answer(client.read(0, 512)).error, 0);
    client.leave();
    rig.atRest();
  });
});

t.test('a secure client', async (t) => {
  const starttls = option(nbd.OPT_STARTTLS);

  t.test('is told that TLS has begun', async (t) => {
    for (const circumstances of [{ secure: true }, { secure: true, resumed: 3 }]) {
      t.same(types(circumstances, starttls, starttls), [nbd.REP_ERR_INVALID, nbd.REP_ERR_INVALID]);
      const data = option(nbd.OPT_STARTTLS, 'x');
      t.same(types(circumstances, data), [nbd.REP_ERR_INVALID]);
    }
    const bytes = Buffer.concat([u32(3), starttls]);
    const [reply] = readReplies(converse(directory, bytes, { secure: true }).output);
    t.equal(reply?.data.toString(), 'NBD_OPT_STARTTLS: tls has begun already');
    t.same(types({}, starttls), [nbd.REP_ERR_UNSUP], 'another is told that there is none');
  });

  t.test('has all other options', async (t) => {
    const bytes = Buffer.concat([u32(3), option(nbd.OPT_EXTENDED_HEADERS), go]);
    t.match(converse(directory, bytes, { secure: true }).outcome, { extendedHeaders: true });
  });
});

t.test('a handshake that was begun elsewhere', async (t) => {
  t.test('has no greeting, and goes on with the first option', async (t) => {
    const { greeting, outcome, taken, state } = converse(directory, go, { resumed: 3 });
    t.equal(greeting.length, 0);
    t.equal(state, 'transmission');
    t.equal(taken, go.length);
    t.equal(outcome?.exportInfo.name, 'vol0');
    for (let length = 0; length < go.length; length++) {
      const part = converse(directory, go.subarray(0, length), { resumed: 3 });
      t.equal(part.state, 'haggling', 'waits for the rest');
    }
  });

  t.test('knows the flags of its client', async (t) => {
    const named = option(nbd.OPT_EXPORT_NAME, 'vol0');
    for (const [flags, bytes] of [
      [0, 134],
      [1, 134],
      [2, 10],
      [3, 10],
    ] as const) {
      t.equal(converse(directory, named, { resumed: flags }).output.length, bytes);
    }
    const { state, failure } = converse(directory, go, { resumed: 2 });
    t.equal(state, 'ended');
    t.match(failure, /without fixed newstyle/);
  });

  t.test('is none with flags that nobody has offered', async (t) => {
    for (const flags of [4, 7, 0x80000000, 0xffffffff]) {
      const handshake = makeHandshake(directory, { resumed: flags });
      t.equal(handshake.state, 'ended');
      t.match(handshake.failure, /^client flags: found 0x/);
      t.equal(handshake.push(go, 0, go.length), 0);
    }
  });
});

interface Bench {
  readonly rig: Rig;
  readonly socket: FakeSocket;
  /** `opened it`, `closed`. */
  readonly heard: string[];
  /** Peers for whom directories were made. */
  readonly directories: Peer[];
}

interface Settings {
  readonly timeout?: number;
  readonly peer?: Peer;
  readonly resume?: Greeted | null;
  readonly refusal?: string | null;
  /** What `find` does with a name. */
  readonly find?: ExportDirectory['find'];
}

/** A connection whose owner the test plays, to the device `it`. */
async function connection(settings: Settings = {}): Promise<Bench> {
  const { timeout = handshakeMilliseconds, peer = peerNamed('unix'), refusal = null } = settings;
  const rig = new Rig();
  await rig.create('it', '0 64 memory');
  const heard: string[] = [];
  const directories: Peer[] = [];
  const owner: ConnectionOwner = {
    admit: (device: Device) => {
      heard.push(`asked about ${device.name}`);
      return refusal;
    },
    opened: (_connection, device) => heard.push(`opened ${device.name}`),
    closed: () => heard.push('closed'),
  };
  const exports = {
    directory: (peer: Peer): ExportDirectory => {
      directories.push(peer);
      const { exports } = rig;
      const find = settings.find ?? ((name) => exports.find(name));
      return { list: () => [], find, changeMaps: (name) => exports.changeMaps(name) };
    },
    device: (name: string) => rig.devices.find(name) ?? null,
  };
  const protocol = { ...wholeProtocol, handshakeMilliseconds: timeout };
  const errors = new ErrorLog(rig.engine, rig.log);
  const resources = new Resources(rig.engine, rig.ios, rig.log, errors, protocol);
  const socket = new FakeSocket(rig.engine, rig.traffic);
  new Connection(owner, exports, resources, socket, peer, settings.resume ?? null).start();
  return { rig, socket, heard, directories };
}

t.test('the time for a handshake', async (t) => {
  const waits = async (t: Test, settings: Settings, milliseconds: number): Promise<void> => {
    const { rig, socket, heard } = await connection(settings);
    rig.work();
    rig.engine.advance(milliseconds - 1);
    rig.work();
    t.notOk(socket.closed);
    rig.engine.advance(1);
    rig.work();
    t.ok(socket.closed);
    t.match(rig.logged, [/no export chosen within \d+ ms/]);
    t.same(heard, ['closed']);
    rig.atRest();
  };

  t.test('is what it was set to', async (t) => {
    await waits(t, {}, handshakeMilliseconds);
    await waits(t, { timeout: 7 }, 7);
    await waits(t, { timeout: 100_000 }, 100_000);
  });

  t.test('has no end if it is 0', async (t) => {
    const { rig, socket } = await connection({ timeout: 0 });
    rig.work();
    t.equal(rig.engine.timers, 0);
    rig.engine.advance(100 * handshakeMilliseconds);
    t.notOk(socket.closed);
    socket.push(hello('it', simple));
    rig.work();
    socket.end();
    rig.work();
    t.ok(socket.closed);
    rig.atRest();
  });

  t.test('runs on where a handshake is resumed', async (t) => {
    const resume = (spentMilliseconds: number): Settings => {
      return { resume: { clientFlags: 3, spentMilliseconds }, timeout: 1000 };
    };
    await waits(t, resume(0), 1000);
    await waits(t, resume(990), 10);
    const { rig, socket } = await connection(resume(5000));
    rig.engine.advance(0);
    rig.work();
    t.ok(socket.closed, 'or it is over already');
    rig.atRest();
  });
});

t.test('a connection that is resumed', async (t) => {
  t.test('serves from the first option on', async (t) => {
    const resume = { clientFlags: 3, spentMilliseconds: 0 };
    const peer = { name: '10.0.0.7:1', host: '10.0.0.7', secure: true };
    const { rig, socket, heard, directories } = await connection({ resume, peer });
    rig.work();
    t.equal(socket.takeOutput().length, 0, 'it is not greeted');
    socket.push(hello('it', structured).subarray(4));
    socket.push(request({ type: CMD.flush, cookie: 1 }));
    rig.work();
    const output = socket.takeOutput().toString('hex');
    t.ok(output.endsWith('668e33ef00010000000000000000000100000000'));
    t.same(directories, [peer], 'with the exports of its peer');
    socket.end();
    rig.work();
    t.same(heard, ['asked about it', 'opened it', 'closed']);
    rig.atRest();
  });

  t.test('is closed at once with flags that nobody has offered', async (t) => {
    const resume = { clientFlags: 8, spentMilliseconds: 0 };
    const { rig, socket, heard } = await connection({ resume });
    rig.work();
    t.ok(socket.closed);
    t.same(heard, ['closed']);
    t.match(rig.logged, [/^unix: handshake failed: client flags: found 0x8/]);
    rig.atRest();
  });
});

t.test('who has the connection may refuse it before transmission', async (t) => {
  const { rig, socket, heard } = await connection({ refusal: 'export "it": 2 connections open' });
  socket.push(hello('it', simple));
  socket.push(request({ type: CMD.flush, cookie: 1 }));
  rig.work();
  t.ok(socket.closed);
  t.same(heard, ['asked about it', 'closed'], 'it was never opened');
  t.equal(rig.devices.info('it').openCount, 0);
  t.notMatch(socket.takeOutput().toString('hex'), /67446698/, 'and no request was answered');
  t.same(rig.logged, ['unix: disconnecting: export "it": 2 connections open']);
  rig.atRest();
});

t.test('an export that the peer may not have', async (t) => {
  const refused: ExportDirectory['find'] = () => {
    throw new OptionRefusal(nbd.REP_ERR_POLICY, 'export "it": address 10.0.0.7 is not allowed');
  };

  t.test('is refused with the reason, and the client may go on', async (t) => {
    const picky = { ...directory, find: refused };
    for (const number of [nbd.OPT_INFO, nbd.OPT_GO]) {
      const bytes = Buffer.concat([u32(3), option(number, infoData('it')), option(nbd.OPT_LIST)]);
      const { output, state } = converse(picky, bytes);
      const [reply, , ack] = readReplies(output);
      t.equal(reply?.type, 0x80000002);
      t.match(
        reply?.data.toString(),
        /^NBD_OPT_\w+: export "it": address 10.0.0.7 is not allowed$/,
      );
      t.equal(ack?.type, nbd.REP_ACK);
      t.equal(state, 'haggling');
    }
    for (const number of [nbd.OPT_LIST_META_CONTEXT, nbd.OPT_SET_META_CONTEXT]) {
      const data = contextData('it', 'base:allocation');
      const bytes = [u32(3), option(nbd.OPT_STRUCTURED_REPLY), option(number, data)];
      const replies = readReplies(converse(picky, Buffer.concat(bytes)).output);
      t.equal(replies[1]?.type, 0x80000002);
    }
  });

  t.test('is no reason to answer EXPORT_NAME', async (t) => {
    const { rig, socket, heard } = await connection({ find: refused });
    socket.push(Buffer.concat([u32(3), option(nbd.OPT_EXPORT_NAME, 'it')]));
    rig.work();
    t.ok(socket.closed);
    t.equal(socket.takeOutput().length, 18, 'the greeting');
    t.same(heard, ['closed']);
    rig.atRest();
  });
});
