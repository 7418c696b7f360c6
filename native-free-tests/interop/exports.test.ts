/** Exports as their owners want them, and what clients find: lists, refusals, read-only, the cap. */

import { connect } from 'node:net';
import t, { type Test } from 'tap';
import { type Daemon, eachEngine, linear, MiB, Scratch, sectorsOf, withDaemon } from './harness.js';
import { fail, run, succeed } from './programs.js';
import { libnbd } from './python.js';
import { CMD, infoRequest, OPT, RawClient, REP, u32 } from './raw-client.js';

const bytes = 4 * MiB;
const memory = `0 ${sectorsOf(bytes)} memory`;
const EPERM = 1;
const policyError = 0x80000002;

/** What three clients list, each in its own way. */
async function lists(daemon: Daemon): Promise<Record<string, string[]>> {
  const nbdinfo = JSON.parse(await succeed('nbdinfo', ['--list', '--json', daemon.uri()])) as {
    exports: { 'export-name': string }[];
  };
  const qemu = await succeed('qemu-nbd', ['--list', '-k', daemon.socket]);
  const client = await succeed('nbd-client', ['-l', '-unix', daemon.socket]);
  return {
    nbdinfo: nbdinfo.exports.map((one) => one['export-name']).sort(),
    'qemu-nbd': [...qemu.matchAll(/^ export: '(.*)'$/gm)].map((match) => match[1] as string).sort(),
    'nbd-client': client
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('Negotiation'))
      .map((line) => line.replace(/:.*$/, ''))
      .sort(),
  };
}

async function listsAre(t: Test, daemon: Daemon, names: string[], text: string): Promise<void> {
  for (const [program, found] of Object.entries(await lists(daemon))) {
    t.strictSame(found, names, `${program}: ${text}`);
  }
}

/** A raw client from an address of this machine, the greeting behind it. */
async function from(daemon: Daemon, localAddress: string): Promise<RawClient> {
  const socket = connect({ host: '127.0.0.1', port: daemon.port, localAddress });
  const client = new RawClient(socket);
  await client.take(18);
  await client.send(u32(3));
  return client;
}

/** The last reply to GO: its type and text. */
async function go(client: RawClient, name: string): Promise<{ type: number; text: string }> {
  const last = (await client.option(OPT.go, infoRequest(name))).at(-1);
  return { type: last?.type ?? 0, text: last?.data.toString() ?? '' };
}

const listers = ['nbdinfo', 'qemu-nbd', 'nbd-client'];

eachEngine(t, 'hidden exports and descriptions', listers, async (t, engine) => {
  const devices = { one: memory, two: memory, three: memory };
  await withDaemon(t, { engine, devices }, async (daemon) => {
    await listsAre(t, daemon, ['one', 'three', 'two'], 'all');
    await daemon.control('export', 'two', '--hidden', '-D', 'for those who know, only');
    await listsAre(t, daemon, ['one', 'three'], 'less the hidden one');
    t.equal(await succeed('nbdinfo', ['--size', daemon.uri('two')]), `${bytes}\n`);
    const text = await succeed('nbdinfo', ['--json', '--no-content', daemon.tcpUri('two')]);
    t.match(JSON.parse(text).exports, [{ description: 'for those who know, only' }]);
    await daemon.control('export', 'three', '--hidden');
    const only = JSON.parse(await succeed('nbdinfo', ['--json', '--no-content', daemon.uri()]));
    t.match(only.exports, [{ 'export-name': 'one' }], 'the only one in the list is the default');
    t.match(await daemon.control('ls'), /^one\t\(open: 0\)\nthree\t\(open: 0, hidden\)$/m);
    await daemon.control('export', 'three', '--listed');
    await daemon.control('export', 'two', '--listed', '-D', '');
    await listsAre(t, daemon, ['one', 'three', 'two'], 'all again');
    const lines = await succeed('nbd-client', ['-l', '-unix', daemon.socket]);
    t.match(lines, /^two: memory$/m);
  });
});

eachEngine(t, 'read-only exports', ['nbdinfo', 'python3-libnbd'], async (t, engine) => {
  const files = new Scratch(t);
  const image = files.pattern('disk.img', bytes, 1);
  await withDaemon(t, { engine, devices: { it: linear(image, bytes) } }, async (daemon) => {
    const before = await RawClient.ready(daemon.socket, 'it');
    await daemon.control('export', 'it', '--read-only');
    const { code } = await run('nbdinfo', ['--is', 'read-only', daemon.uri('it')]);
    t.equal(code, 0);
    const script = `
for uri in uris:
    h = connect(uri, lax)
    assert h.is_read_only() and not h.can_trim() and not h.can_zero()
    assert h.pread(512, 0) == pattern(512, 1)
    fails(errno.EPERM, h.pwrite, b"x" * 512, 0)
    fails(errno.EPERM, h.trim, 4096, 0)
    fails(errno.EPERM, h.zero, 4096, 0)
    assert h.pread(512, 0) == pattern(512, 1)
    h.flush()
    h.shutdown()
`;
    const own = `
h = connect(uris[0])
assert not h.is_read_only()
h.pwrite(pattern(512, 1), 0)
h.shutdown()
`;
    await daemon.control('export', 'it', '--read-write');
    await libnbd(engine, own, daemon.uri('it'));
    await daemon.control('export', 'it', '--read-only');
    await libnbd(engine, script, daemon.uri('it'), daemon.tcpUri('it'));
    const payload = Buffer.alloc(512, 7);
    const late = await before.request({ type: CMD.write, payload });
    t.equal(late.error, 0, 'who came before writes on');
    before.destroy();
    const after = await RawClient.ready(daemon.socket, 'it');
    t.equal((await after.request({ type: CMD.write, payload })).error, EPERM);
    after.destroy();
    await daemon.untilUnused('it');
  });
});

eachEngine(t, 'exports for addresses', ['nbdinfo'], async (t, engine) => {
  const devices = { all: memory, few: memory };
  await withDaemon(t, { engine, devices }, async (daemon) => {
    await daemon.control('export', 'few', '--allow', '127.0.0.2,2001:db8::/32');
    const stranger = await from(daemon, '127.0.0.1');
    const text = 'NBD_OPT_GO: export "few": address 127.0.0.1 is not allowed';
    t.strictSame(await go(stranger, 'few'), { type: policyError, text });
    const listed = await stranger.option(OPT.list);
    t.equal(listed.length, 2, 'one export, and the end of the list');
    t.equal((await go(stranger, 'all')).type, REP.ack, 'the connection goes on');
    const friend = await from(daemon, '127.0.0.2');
    t.equal((await friend.option(OPT.list)).length, 3);
    t.equal((await go(friend, 'few')).type, REP.ack);
    t.match(await daemon.control('info', 'few'), /\nAllowed: +127\.0\.0\.2, 2001:db8::\/32\n/);
    t.match(await daemon.control('info', 'few'), /\nConnections: +1\n$/);
    await fail('nbdinfo', ['--size', daemon.tcpUri('few')]);
    t.equal(await succeed('nbdinfo', ['--size', daemon.uri('few')]), `${bytes}\n`, 'unix');
    t.equal(await succeed('nbdinfo', ['--size', daemon.tcpUri()]), `${bytes}\n`, 'the default');
    await daemon.control('export', 'few', '--allow', 'all');
    t.equal(await succeed('nbdinfo', ['--size', daemon.tcpUri('few')]), `${bytes}\n`);
    stranger.destroy();
    friend.destroy();
    await daemon.untilUnused('few');
    await daemon.untilUnused('all');
  });
});

eachEngine(t, 'a daemon for addresses', ['nbdinfo'], async (t, engine) => {
  const args = ['--allow', '127.0.0.2', '--allow', '192.0.2.0/24'];
  await withDaemon(t, { engine, devices: { it: memory }, args }, async (daemon) => {
    const stranger = await from(daemon, '127.0.0.1');
    for (const name of ['it', 'none', '']) {
      t.equal((await go(stranger, name)).type, policyError, `"${name}"`);
    }
    t.equal((await stranger.option(OPT.list)).length, 1);
    const friend = await from(daemon, '127.0.0.2');
    t.equal((await go(friend, 'it')).type, REP.ack);
    t.equal(await succeed('nbdinfo', ['--size', daemon.uri('it')]), `${bytes}\n`);
    stranger.destroy();
    friend.destroy();
    await daemon.untilUnused('it');
  });
});

eachEngine(t, 'a cap on connections', listers, async (t, engine) => {
  await withDaemon(t, { engine, devices: { two: memory, other: memory } }, async (daemon) => {
    await daemon.control('export', 'two', '--connections', '2');
    const first = await RawClient.ready(daemon.socket, 'two');
    const second = await RawClient.ready(daemon.port, 'two');
    t.match(await daemon.control('export', 'two'), /^Connections: +2 of at most 2$/m);
    const third = await RawClient.greeted(daemon.port);
    const text = 'NBD_OPT_GO: export "two": found 2 connections, wanted at most 2';
    t.strictSame(await go(third, 'two'), { type: policyError, text });
    await fail('nbdinfo', [daemon.uri('two')]);
    await listsAre(t, daemon, ['other'], 'what can be had');
    first.destroy();
    await daemon.until('two', ({ openCount }) => openCount === 1);
    t.equal((await go(third, 'two')).type, REP.ack, 'it asks again');
    await daemon.control('export', 'two', '--connections', 'any');
    t.equal(await succeed('nbdinfo', ['--size', daemon.uri('two')]), `${bytes}\n`);
    second.destroy();
    third.destroy();
    await daemon.untilUnused('two');
    t.match(await daemon.control('export', 'two'), /^Connections: +0$/m);
  });
});

eachEngine(t, 'exports of snapshots, and over a restart', listers, async (t, engine) => {
  const files = new Scratch(t);
  const image = files.pattern('disk.img', bytes, 1);
  const args = ['--state', files.file('state')];
  const wanted = { description: 'the mail', connections: 4, hidden: false, readOnly: false };
  await t.test('a snapshot hides the real device', async (t) => {
    await withDaemon(t, { engine, args }, async (daemon) => {
      await daemon.control('create', 'vol', '--table', linear(image, bytes));
      await daemon.control('export', 'vol', '-D', 'the mail', '--connections', '4');
      await daemon.control('snapshot', 'vol', 'snap');
      await listsAre(t, daemon, ['snap', 'vol'], 'without the real device');
      t.equal(await succeed('nbdinfo', ['--size', daemon.uri('vol-real')]), `${bytes}\n`);
      const { code } = await run('nbdinfo', ['--is', 'read-only', daemon.uri('vol-real')]);
      t.equal(code, 0, 'nobody writes past the snapshot');
      await daemon.control('export', 'vol', '--allow', '127.0.0.2');
      t.match(await daemon.call('export', { name: 'vol-real' }), { allow: ['127.0.0.2'] });
      await fail('nbdinfo', ['--size', daemon.tcpUri('vol-real')]);
    });
  });
  await t.test('a restart keeps what was said', async (t) => {
    await withDaemon(t, { engine, args }, async (daemon) => {
      await listsAre(t, daemon, ['snap', 'vol'], 'without the real device');
      t.match(await daemon.call('export', { name: 'vol' }), { ...wanted, allow: ['127.0.0.2'] });
      await fail('nbdinfo', ['--size', daemon.tcpUri('vol')]);
      t.match(
        await daemon.control('remove', 'snap'),
        /^note: "vol" still is an origin.*\nnote: COW/,
      );
      t.equal(await daemon.control('snapshot', '--remove', 'vol'), '');
      t.equal(await daemon.control('table', 'vol'), `${linear(image, bytes)}\n`);
      await daemon.control('rename', 'vol', 'other');
    });
  });
  await t.test('a rename keeps it too', async (t) => {
    await withDaemon(t, { engine, args }, async (daemon) => {
      await listsAre(t, daemon, ['other'], 'over a unix socket');
      t.match(await daemon.call('export', { name: 'other' }), { ...wanted, stored: true });
      await daemon.control('remove', 'other');
      await daemon.control('create', 'other', '--table', memory);
      t.match(await daemon.call('export', { name: 'other' }), { description: null, allow: [] });
    });
  });
});
