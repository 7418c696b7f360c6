import { Buffer } from 'node:buffer';
import t from 'tap';
import {
  connectionLogsPerSecond,
  handshakeOutputInAllBytes,
  handshakeOutputShortBytes,
  requestsGuaranteed,
  requestsInAll,
  statusAnswersInAll,
} from '../../src/base/limits.js';
import type { Device } from '../../src/device/device.js';
import { ErrorLog } from '../../src/device/error-log.js';
import { Connection, type ConnectionOwner } from '../../src/nbd/connection.js';
import { peerNamed } from '../../src/nbd/peer.js';
import { Resources } from '../../src/nbd/resources.js';
import { SharedPool } from '../../src/nbd/shared-pool.js';
import { CMD, hello, type Mode, simple, structured } from './client.js';
import { contextData, option, u32 } from './conversation.js';
import { FakeSocket } from './fake-socket.js';
import { Client, Rig } from './rig.js';

t.test('a shared pool leaves as much as one has, whatever is held', async (t) => {
  const pool = new SharedPool(1000);
  t.notOk(pool.take(1001, 0));
  t.ok(pool.take(400, 0));
  t.notOk(pool.take(101, 400), 'as much would not be left');
  t.ok(pool.take(100, 400));
  t.notOk(pool.take(251, 0));
  t.ok(pool.take(250, 0), 'half of what is left, to one who has nothing');
  t.ok(pool.take(125, 0));
  pool.give(875);
  t.equal(pool.inUse, 0);
  t.throws(() => pool.give(1), /no more comes back/);
  let held = 0;
  for (let holder = 0; holder < 9; holder++) {
    let own = 0;
    while (pool.take(1, own)) own++;
    t.ok(own > 0 && own <= pool.size - pool.inUse, `${own}`);
    held += own;
  }
  t.equal(held, pool.inUse);
});

/** A connection to the device `it` on a disk, with resources that the test may change. */
async function connected(mode: Mode, change: (resources: Resources) => void) {
  const rig = new Rig();
  const disk = rig.disk('/disk', 16_384);
  await rig.create('it', '0 16384 linear /disk 0');
  const errors = new ErrorLog(rig.engine, rig.log);
  const resources = new Resources(rig.engine, rig.ios, rig.log, errors);
  const owner: ConnectionOwner = { admit: () => null, opened() {}, closed() {} };
  const exports = {
    directory: () => rig.exports,
    device: (name: string): Device | null => rig.devices.find(name) ?? null,
  };
  const socket = new FakeSocket(rig.engine, rig.traffic);
  new Connection(owner, exports, resources, socket, peerNamed('unix'), null).start();
  socket.push(hello('it', mode));
  rig.work();
  socket.takeOutput();
  change(resources);
  return { rig, disk, resources, client: new Client(rig, socket, mode) };
}

t.test('takes fewer requests when others have many, but always some', async (t) => {
  for (const [left, taken] of [
    [100, 50],
    [0, requestsGuaranteed],
  ] as const) {
    const { rig, disk, resources, client } = await connected(simple, (resources) => {
      resources.requestsInFlight = requestsInAll - left;
    });
    disk.stuck = true;
    for (let i = 0; i < 200; i++) client.read(i * 512, 512);
    rig.work();
    t.equal(disk.held.length, taken);
    disk.letGo();
    rig.work();
    t.equal(client.unanswered, 0);
    t.equal(resources.requestsInFlight, requestsInAll - left);
    client.leave();
  }
});

t.test('holds fewer extents when others have many, but always some', async (t) => {
  const { rig, resources, client } = await connected(structured, (resources) => {
    resources.extentsInUse = statusAnswersInAll - 20;
  });
  client.socket.takeReplies(false);
  for (let i = 0; i < 100; i++) client.ask(CMD.blockStatus, { length: 4096 });
  rig.work();
  t.equal(resources.extentsInUse, statusAnswersInAll - 10);
  client.socket.takeReplies(true);
  rig.work();
  t.equal(client.unanswered, 0);
  t.equal(resources.extentsInUse, statusAnswersInAll - 20);
  client.leave();
});

t.test('drops a handshake with long replies that are not taken, if there are many', async (t) => {
  const rig = new Rig();
  for (let i = 0; i < 100; i++) await rig.create(`volume-number-${i}`, '0 8 memory');
  const many = Array.from({ length: 60 }, () => option(3));
  const stalled = Buffer.concat([u32(3), ...many]);
  const each = 60 * 100 * (20 + 4 + 15);
  t.ok(each > handshakeOutputShortBytes);
  const sockets = Array.from({ length: 2 * Math.ceil(handshakeOutputInAllBytes / each) }, () => {
    const socket = rig.accept();
    rig.work();
    socket.takeReplies(false);
    return socket;
  });
  const polite = rig.accept();
  polite.push(Buffer.concat([u32(3), option(9, contextData('volume-number-1'))]));
  for (const socket of sockets) {
    socket.push(stalled);
    rig.work();
  }
  rig.engine.advance(1000);
  t.match(rig.logged[0], /disconnecting: found \d+ bytes of replies not taken/);
  t.ok(polite.takeOutput().length > 18);
  t.notOk(polite.closed, 'who takes its replies stays');
  rig.engine.advance(60_000);
  for (const socket of [...sockets, polite]) if (!socket.closed) socket.end();
  rig.work();
  rig.atRest();
});

t.test('logs so many warnings about connections in a second and counts the others', async (t) => {
  const rig = new Rig();
  await rig.create('it', '0 8 memory');
  const bad = (): void => {
    rig.accept().push(Buffer.concat([u32(3), Buffer.alloc(16, 1)]));
    rig.work();
  };
  for (let i = 0; i < 3 * connectionLogsPerSecond; i++) bad();
  t.equal(rig.logged.length, connectionLogsPerSecond);
  t.match(rig.logged.at(-1), /handshake failed: option magic/);
  rig.engine.advance(1000);
  bad();
  t.equal(rig.logged.length, connectionLogsPerSecond + 2);
  t.match(rig.logged.at(-2), 'more warnings about connections, not logged');
  rig.atRest();
});
