/** Who may have which export: addresses, policies, and what clients hear of them. */

import { Buffer } from 'node:buffer';
import { BlockList, isIP } from 'node:net';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { isInBlock, parseAddress, parseAddressBlock } from '../../src/base/address-block.js';
import { EPERM } from '../../src/base/errno.js';
import { readConnections } from '../../src/device/counters.js';
import type { ExportDirectory } from '../../src/nbd/export.js';
import { type ExportPolicy, openPolicy } from '../../src/nbd/export-policy.js';
import type { Peer } from '../../src/nbd/peer.js';
import { structured } from './client.js';
import { infoData, option, readReplies, u32 } from './conversation.js';
import { FakeSocket } from './fake-socket.js';
import { Client, Rig } from './rig.js';

const ERR_POLICY = 0x80000002;
const refusal = { replyType: ERR_POLICY, message: /^export ".*": address .* is not allowed$/ };
const local: Peer = { name: 'unix:/s#1', host: null, secure: false };
const from = (host: string): Peer => ({ name: `${host}:1`, host, secure: false });
const names = (directory: ExportDirectory): string[] => directory.list().map(({ name }) => name);
const policy = (changes: Partial<ExportPolicy>): ExportPolicy => ({ ...openPolicy, ...changes });
const allows = (block: string, host: string): boolean => {
  const address = parseAddress(host);
  return address !== null && isInBlock(address, parseAddressBlock(block));
};

t.test('blocks of addresses', async (t) => {
  t.test('parses addresses as the system does, and no other text', async () => {
    const text = fc.oneof(
      fc.ipV4(),
      fc.ipV6(),
      fc.string({ unit: fc.constantFrom(...'0123afF:.:') }),
      fc.tuple(fc.ipV6(), fc.nat(40)).map(([text, at]) => text.slice(0, at) + text.slice(at + 1)),
      fc.ipV4().map((four) => `::ffff:${four}`),
      fc.ipV4().map((four) => `1:2:3:4:5:6:${four}`),
    );
    fc.assert(
      fc.property(text, (text) => (parseAddress(text) !== null) === (isIP(text) !== 0)),
      { numRuns: 2000 },
    );
  });

  t.test('has the addresses in it that the system finds in it', async () => {
    const four = fc.tuple(fc.ipV4(), fc.ipV4(), fc.nat(32), fc.constant('ipv4' as const));
    const six = fc.tuple(fc.ipV6(), fc.ipV6(), fc.nat(128), fc.constant('ipv6' as const));
    const mapped = /^[0:]*:ffff:/i;
    fc.assert(
      fc.property(fc.oneof(four, six), fc.boolean(), ([net, other, bits, family], same) => {
        const host = same ? net : other;
        fc.pre(!mapped.test(net) && !mapped.test(host));
        const list = new BlockList();
        list.addSubnet(net, bits, family);
        // The block without the bits behind its prefix, which ours refuses.
        const address = parseAddress(net) ?? [];
        const begin = address.map((byte, at) => {
          const here = Math.min(8, Math.max(0, bits - 8 * at));
          return byte & (0xff << (8 - here));
        });
        const block = { address: begin, bits };
        return isInBlock(parseAddress(host) ?? [], block) === list.check(host, family);
      }),
      { numRuns: 2000 },
    );
  });

  t.test('takes an IPv4-mapped address for the IPv4 address in it', async (t) => {
    t.ok(allows('192.0.2.0/24', '::ffff:192.0.2.7'));
    t.ok(allows('192.0.2.0/24', '::FFFF:c000:0207'));
    t.ok(allows('::ffff:192.0.2.0/120', '192.0.2.7'));
    t.notOk(allows('::ffff:192.0.2.0/120', '192.0.3.7'));
    t.notOk(allows('::/0', '192.0.2.7'), 'all of IPv6 has no IPv4');
    t.notOk(allows('::/0', '::ffff:192.0.2.7'));
    t.notOk(allows('0.0.0.0/0', '::1'));
  });

  t.test('leaves out the zone of an address', async (t) => {
    t.ok(allows('fe80::/10', 'fe80::1%eth0'));
    t.equal(parseAddress('192.0.2.1%eth0'), null);
  });

  t.test('rejects what is no block, and one that may be meant otherwise', async (t) => {
    const rejects = (text: string, message: RegExp): void => {
      t.throws(() => parseAddressBlock(text), { code: 'EINVAL', message }, text);
    };
    for (const text of ['', 'localhost', '10.0.0', '10.0.0.0/', '10.0.0.0/x', '/8', 'fe80::1%lo']) {
      rejects(text, /wanted an address, or a block as/);
    }
    rejects('010.0.0.0/8', /wanted an address/);
    rejects('10.0.0.0/33', /wanted at most \/32$/);
    rejects('::/129', /wanted at most \/128$/);
    rejects('10.0.0.1/8', /^found "10.0.0.1\/8", wanted no bits behind the first 8$/);
    rejects('2001:db8::1/64', /behind the first 64$/);
    t.ok(allows('10.0.0.1', '10.0.0.1'));
    t.notOk(allows('10.0.0.1', '10.0.0.2'));
  });
});

async function rigWith(
  policies: Readonly<Record<string, Partial<ExportPolicy>>>,
  allow: readonly string[] = [],
): Promise<Rig> {
  const rig = new Rig(undefined, { allow });
  for (const [name, changes] of Object.entries(policies)) {
    const device = await rig.create(name, '0 8 memory');
    rig.server.setPolicy(device, policy(changes));
  }
  return rig;
}

t.test('a directory', async (t) => {
  t.test('leaves hidden exports out of the list, and finds them by name', async (t) => {
    const rig = await rigWith({ seen: {}, unseen: { hidden: true } });
    const directory = rig.server.directory(from('192.0.2.1'));
    t.same(names(directory), ['seen']);
    t.match(directory.find('unseen'), { name: 'unseen' });
    t.match(directory.find(''), { name: 'seen' }, 'a hidden one is not one of two');
  });

  t.test('takes a hidden export for the default one if it is said to be', async (t) => {
    const rig = await rigWith({ unseen: { hidden: true } });
    const directory = rig.server.directory(local);
    t.equal(directory.find(''), null);
    rig.server.defaultExport = 'unseen';
    t.match(directory.find(''), { name: 'unseen' });
  });

  t.test('tells the description of the owner in place of its own', async (t) => {
    const rig = await rigWith({ plain: {}, told: { description: 'the mail' } });
    const directory = rig.server.directory(local);
    t.same(directory.list(), [
      { name: 'plain', description: 'memory' },
      { name: 'told', description: 'the mail' },
    ]);
    t.match(directory.find('told'), { description: 'the mail' });
  });

  t.test('makes an export read-only, whatever the device allows', async (t) => {
    const rig = await rigWith({ rw: {}, ro: { readOnly: true } });
    const directory = rig.server.directory(local);
    t.match(directory.find('rw'), { readOnly: false });
    t.match(directory.find('ro'), { readOnly: true });
  });

  t.test('shows and gives each address its own', async (t) => {
    const rig = await rigWith({
      all: {},
      lan: { allow: ['192.0.2.0/24', 'fd00::/8'] },
      one: { allow: ['198.51.100.1'], hidden: true },
    });
    const lan = rig.server.directory(from('::ffff:192.0.2.9'));
    t.same(names(lan), ['all', 'lan']);
    t.match(lan.find('lan'), { name: 'lan' });
    const text = 'export "one": address ::ffff:192.0.2.9 is not allowed';
    t.throws(() => lan.find('one'), { replyType: ERR_POLICY, message: text });
    const other = rig.server.directory(from('203.0.113.1'));
    t.same(names(other), ['all']);
    t.throws(() => other.find('lan'), refusal);
    t.match(other.find(''), { name: 'all' }, 'the only one that it sees');
    t.same(names(rig.server.directory(from('fd12::1'))), ['all', 'lan']);
    t.match(rig.server.directory(from('198.51.100.1')).find('one'), { name: 'one' });
    t.same(names(rig.server.directory(local)), ['all', 'lan'], 'a unix socket always may');
    t.match(rig.server.directory(local).find('one'), { name: 'one' });
    t.equal(other.find('none'), null);
  });

  t.test('refuses the only export rather than to say that there is none', async (t) => {
    const rig = await rigWith({ only: { allow: ['192.0.2.1'] } });
    const directory = rig.server.directory(from('192.0.2.2'));
    t.same(names(directory), []);
    t.throws(() => directory.find(''), { replyType: ERR_POLICY, message: /^export "only": / });
  });

  t.test('of an address that the daemon does not serve is empty, whatever the name', async (t) => {
    const rig = await rigWith({ all: {}, own: { allow: ['198.51.100.1'] } }, ['192.0.2.0/24']);
    const outside = rig.server.directory(from('198.51.100.1'));
    t.same(names(outside), []);
    for (const name of ['', 'all', 'own', 'none']) {
      t.throws(() => outside.find(name), refusal, `"${name}"`);
    }
    t.match(rig.server.directory(from('192.0.2.1')).find('all'), { name: 'all' });
    t.same(names(rig.server.directory(from('192.0.2.1'))), ['all'], 'both lists must have it');
    t.same(names(rig.server.directory(local)), ['all', 'own']);
  });

  t.test('logs a client that is refused once', async (t) => {
    const rig = await rigWith({ it: { allow: ['192.0.2.1'] } });
    const directory = rig.server.directory(from('192.0.2.2'));
    for (let i = 0; i < 3; i++) t.throws(() => directory.find('it'));
    const text = '192.0.2.2:1: refused export "it": address 192.0.2.2 is not allowed';
    t.same(rig.logged, [text]);
  });

  t.test('rejects an allow list that is none, and keeps the one that was', async (t) => {
    t.throws(() => new Rig(undefined, { allow: ['lan'] }), { code: 'EINVAL' });
    const rig = await rigWith({ it: { allow: ['192.0.2.1'] } });
    const wrong = policy({ allow: ['192.0.2.0/24', 'lan'] });
    t.throws(() => rig.server.setPolicy(rig.devices.get('it'), wrong), { code: 'EINVAL' });
    t.throws(() => rig.server.directory(from('192.0.2.2')).find('it'), refusal);
  });

  t.test('keeps a policy over a rename, and drops it with the device', async (t) => {
    const rig = await rigWith({ it: { hidden: true } });
    await rig.wait(rig.devices.rename('it', 'other'));
    const directory = rig.server.directory(local);
    t.same(names(directory), []);
    await rig.wait(rig.devices.remove('other', false));
    await rig.create('it', '0 8 zero');
    await rig.create('other', '0 8 zero');
    t.same(names(directory), ['it', 'other']);
  });
});

/** A client from an address, which has sent client flags and options. */
function send(rig: Rig, peer: string, ...options: Buffer[]): FakeSocket {
  const socket = new FakeSocket(rig.engine, rig.traffic);
  rig.server.accepted(socket, peer);
  socket.push(Buffer.concat([u32(3), ...options]));
  rig.work();
  return socket;
}

/** What it got behind the greeting. */
function repliesTo(socket: FakeSocket): { type: number; text: string }[] {
  const replies = readReplies(socket.takeOutput().subarray(18));
  return replies.map(({ type, data }) => ({ type, text: data.toString('utf8') }));
}

const LIST = 3;
const GO = 7;
const ACK = 1;
const SERVER = 2;
const go = (name: string): Buffer => option(GO, infoData(name));

async function leave(t: Test, rig: Rig, sockets: readonly FakeSocket[]): Promise<void> {
  for (const socket of sockets) socket.end();
  rig.work();
  rig.engine.advance(10_000);
  rig.work();
  for (const socket of sockets) t.ok(socket.closed);
}

t.test('a client', async (t) => {
  t.test('is refused an export with the reason, and may take another', async (t) => {
    const rig = await rigWith({ all: {}, lan: { allow: ['192.0.2.0/24'] } });
    const socket = send(rig, '198.51.100.1:2000', go('lan'), option(LIST), go('all'));
    const replies = repliesTo(socket);
    const text = 'NBD_OPT_GO: export "lan": address 198.51.100.1 is not allowed';
    t.same(replies[0], { type: ERR_POLICY, text });
    t.match(replies[1], { type: SERVER, text: /all/ });
    t.match(replies[2], { type: ACK });
    t.match(replies.at(-1), { type: ACK });
    t.same(rig.events, ['open 198.51.100.1:2000 all']);
    await leave(t, rig, [socket]);
    rig.atRest();
  });

  t.test('that asks with EXPORT_NAME is disconnected', async (t) => {
    const rig = await rigWith({ lan: { allow: ['192.0.2.0/24'] } });
    const socket = send(rig, '198.51.100.1:2000', option(1, 'lan'));
    rig.work();
    t.ok(socket.closed);
    t.match(rig.logged[1], /address 198.51.100.1 is not allowed/);
    t.same(rig.events, []);
    rig.atRest();
  });

  t.test('that has no address any more is on no list', async (t) => {
    const rig = await rigWith({ all: {}, lan: { allow: ['0.0.0.0/0', '::/0'] } });
    for (const peer of ['unknown:0', 'unknown']) {
      const socket = send(rig, peer, go('lan'), go('all'));
      const replies = repliesTo(socket);
      t.equal(replies[0]?.type, ERR_POLICY, peer);
      t.match(replies.at(-1), { type: ACK });
      await leave(t, rig, [socket]);
    }
  });

  t.test('of a read-only export has its writes refused', async (t) => {
    const rig = await rigWith({ ro: { readOnly: true } });
    const client = rig.connect('ro', structured);
    t.match(client.answer(client.write(0, Buffer.alloc(512))), { error: EPERM });
    t.match(client.answer(client.read(0, 512)), { error: 0 });
    client.leave();
    rig.atRest();
  });

  t.test('keeps what it had when it came', async (t) => {
    const rig = await rigWith({ it: {} });
    const device = rig.devices.get('it');
    const client = rig.connect('it', structured);
    rig.server.setPolicy(device, policy({ readOnly: true, allow: ['192.0.2.1'], connections: 1 }));
    t.match(client.answer(client.write(0, Buffer.alloc(512))), { error: 0 });
    t.equal(rig.tryConnect('it', structured), null, 'the next one meets the new policy');
    client.leave();
    rig.atRest();
  });
});

t.test('connections of an export', async (t) => {
  t.test('are counted, and those above the cap refused', async (t) => {
    const rig = await rigWith({ two: { connections: 2 }, other: {} });
    const device = rig.devices.get('two');
    const count = (): number => readConnections(device.counters.buffer);
    t.equal(count(), 0);
    const first = rig.connect('two', structured);
    const second = rig.connect('two', structured);
    t.equal(count(), 2);
    const late = send(rig, '192.0.2.1:2000', go('two'), go('other'));
    const text = 'NBD_OPT_GO: export "two": found 2 connections, wanted at most 2';
    t.same(repliesTo(late)[0], { type: ERR_POLICY, text });
    t.equal(count(), 2);
    t.same(names(rig.server.directory(local)), ['other'], 'a list has what can be had');
    first.leave();
    t.same(names(rig.server.directory(local)), ['two', 'other']);
    t.equal(count(), 1);
    const third = rig.connect('two', structured);
    second.leave();
    third.leave();
    await leave(t, rig, [late]);
    t.equal(count(), 0);
    t.same(rig.events.length, 8);
    rig.atRest();
  });

  t.test('are counted of a device, whatever it is called', async (t) => {
    const rig = await rigWith({ it: { connections: 1 } });
    const device = rig.devices.get('it');
    const client = rig.connect('it', structured);
    await rig.wait(rig.devices.rename('it', 'other'));
    t.equal(rig.tryConnect('other', structured), null);
    client.leave();
    t.equal(readConnections(device.counters.buffer), 0);
    t.ok(rig.tryConnect('other', structured) instanceof Client);
    for (const one of rig.clients) if (!one.socket.closed) one.leave();
    rig.atRest();
  });

  t.test('do not make another export the default one', async (t) => {
    const rig = await rigWith({ one: { connections: 1 }, two: {} });
    const client = rig.connect('one', structured);
    t.equal(rig.server.directory(local).find(''), null);
    await rig.wait(rig.devices.remove('two', false));
    t.throws(() => rig.server.directory(local).find(''), {
      replyType: ERR_POLICY,
      message: 'export "one": found 1 connections, wanted at most 1',
    });
    client.leave();
  });

  t.test('are looked at again when a client begins', async (t) => {
    const rig = await rigWith({ it: { connections: 1 } });
    const device = rig.devices.get('it');
    t.equal(rig.server.admit(device), null);
    const client = rig.connect('it', structured);
    const text = 'export "it": found 1 connections, wanted at most 1';
    t.equal(rig.server.admit(device), text);
    client.leave();
  });
});
