import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import t from 'tap';
import { EIO } from '../../src/base/errno.js';
import {
  contiguousBytes,
  receiveBytesMax,
  receiveBytesMin,
  receiveWindows,
} from '../../src/base/limits.js';
import { random } from '../contract/pattern.js';
import { pattern } from '../device/io-client.js';
import { CMD, request, simple } from './client.js';
import { cut, randomCuts } from './cuts.js';
import { onDisk } from './rig.js';

const MiB = 2 ** 20;

t.test('writes payloads of any length from wherever they were received', async (t) => {
  const write = fc.record({
    offset: fc.nat(5 * MiB),
    length: fc.oneof(
      fc.integer({ min: 1, max: 3 * MiB }),
      fc.integer({ min: 1, max: 70_000 }),
      fc.integer({ min: -2, max: 2 }).map((beside) => contiguousBytes + beside),
    ),
  });
  const longest = fc.constantFrom(30, 1500, 9000, 65_536, 200_000, 3 * MiB);
  await fc.assert(
    fc.asyncProperty(
      fc.array(write, { minLength: 1, maxLength: 8 }),
      longest,
      fc.integer(),
      fc.boolean(),
      async (writes, longest, seed, slow) => {
        const next = random(seed);
        const { rig, disk, client } = await onDisk(simple, next(4) === 0);
        rig.engine.shuffle(next);
        const model = Buffer.alloc(8 * MiB);
        const bytes: Buffer[] = [];
        // Apart from one another, since they may end in any order.
        let behind = 0;
        for (const [i, { offset, length }] of writes.entries()) {
          const at = behind + (offset % 10_000);
          if (at + length > model.length) break;
          const payload = pattern(length, i);
          payload.copy(model, at);
          behind = at + length;
          const fields = { type: CMD.write, cookie: i + 1, offset: at, payload };
          client.expect(fields);
          bytes.push(request(fields));
        }
        const all = Buffer.concat(bytes);
        const many = longest === 30 && all.length > 200_000 ? 3000 : longest;
        for (const piece of cut(all, randomCuts(all.length, many, next))) {
          client.socket.push(piece);
          // A slow disk: few operations end while much is received.
          if (next(slow ? 40 : 3) === 0) rig.turn();
        }
        rig.work();
        if (client.unanswered > 0) throw new Error(`${client.unanswered} without an answer`);
        if (!model.equals(disk.bytes)) throw new Error('other data on the disk');
        client.leave();
        rig.atRest();
      },
    ),
    { numRuns: 60 },
  );
  t.pass('every byte is where it belongs');
});

t.test('fills a window to its end, however little room is left in it', async (t) => {
  for (const room of [1, 28, 100, 4095]) {
    // The window has grown to its most; then what comes is little, so the next would be smaller.
    const { rig, disk, client } = await onDisk();
    client.answer(client.write(0, pattern(6 * MiB, 1)));
    const payload = pattern(6 * MiB, 2);
    const fields = { type: CMD.write, cookie: 77, offset: MiB, payload };
    client.expect(fields);
    let rest = request(fields);
    while (rest.length > 0) {
      const left = client.socket.room;
      const length = Math.min(40_000, left > room ? left - room : Math.ceil(left / 2));
      client.socket.push(rest.subarray(0, length));
      rig.work();
      rest = rest.subarray(length);
    }
    t.equal(client.reply(77)?.error, 0);
    const found = disk.bytes.subarray(MiB, 7 * MiB);
    t.ok(payload.equals(found), `${room} bytes of room`);
    client.leave();
    rig.atRest();
  }
});

t.test('cuts long payloads at pages of the device only', async (t) => {
  const { rig, disk, client } = await onDisk();
  t.equal(client.answer(client.write(1000, pattern(3 * MiB, 3))).error, 0);
  const calls = disk.takeCalls();
  t.ok(calls.length > 2);
  for (const call of calls.slice(1)) {
    const offset = Number(/ (\d+)\+/.exec(call)?.[1]);
    t.equal(offset % 4096, 0, call);
  }
  for (const length of [1, 4096, contiguousBytes]) {
    disk.takeCalls();
    client.answer(client.write(5, pattern(length, 4)));
    t.same(disk.takeCalls(), [`write 5+${length}`], 'a short payload is written in one piece');
  }
  client.leave();
  rig.atRest();
});

t.test('grows its window with what comes, and shrinks it again', async (t) => {
  const { rig, client } = await onDisk();
  t.equal(rig.heldBytes, receiveBytesMin);
  client.answer(client.write(0, pattern(6 * MiB, 5)));
  t.equal(rig.heldBytes, receiveBytesMax);
  for (let i = 0; i < 10; i++) client.answer(client.ask(CMD.flush));
  t.equal(rig.heldBytes, receiveBytesMin);
  client.leave();
  rig.atRest();
});

t.test('keeps windows as long as writes need them, and no more than so many', async (t) => {
  for (const order of ['first', 'last', 'random'] as const) {
    const { rig, disk, client } = await onDisk();
    const next = random(9);
    client.answer(client.write(0, pattern(6 * MiB, 5)));
    disk.stuck = true;
    const payload = pattern(8 * MiB, 6);
    const cookie = client.write(0, payload);
    let most = 0;
    for (;;) {
      rig.work();
      most = Math.max(most, rig.heldBytes);
      if (disk.held.length === 0) break;
      if (client.reply(cookie) === undefined && most > 0 && client.socket.unreceivedBytes > 0) {
        t.notOk(client.socket.isReceiving, 'nothing is received while all windows are needed');
      }
      const count = disk.held.length;
      disk.letGo(order === 'first' ? 0 : order === 'last' ? count - 1 : next(count));
    }
    t.equal(most, receiveWindows * receiveBytesMax);
    t.equal(client.reply(cookie)?.error, 0);
    t.ok(payload.equals(disk.bytes), order);
    disk.letGo();
    client.leave();
    rig.atRest();
  }
});

t.test('writes many small payloads that end late, in windows that move on', async (t) => {
  const { rig, disk, client } = await onDisk();
  const next = random(11);
  const model = Buffer.alloc(8 * MiB);
  disk.stuck = true;
  for (let i = 0; i < 2000; i++) {
    const payload = pattern(1 + next(4096), i);
    payload.copy(model, i * 4096);
    client.write(i * 4096, payload);
    rig.work();
    while (disk.held.length > 60) disk.letGo(next(disk.held.length));
  }
  while (client.unanswered > 0) {
    rig.work();
    if (disk.held.length > 0) disk.letGo(next(disk.held.length));
  }
  t.ok(model.equals(disk.bytes));
  client.leave();
  rig.atRest();
});

t.test('drains the payload of a WRITE that it refuses or that failed', async (t) => {
  for (const pieceBytes of [1 << 30, 5000, 16]) {
    const { rig, disk, client } = await onDisk();
    const length = pieceBytes === 16 ? 3000 : 3 * MiB;
    const push = (bytes: Buffer): void => {
      const cuts = Array.from(
        { length: bytes.length / pieceBytes },
        (_, i) => (i + 1) * pieceBytes,
      );
      for (const piece of cut(bytes, cuts)) client.socket.push(piece);
    };
    const write = (cookie: number, offset: number, flags: number): void => {
      const payload = pattern(length, 1);
      const fields = { type: CMD.write, cookie, offset, payload, flags };
      client.expect(fields);
      push(request(fields));
    };
    write(1, 8 * MiB - 1, 0);
    write(2, 0, 128);
    disk.script = ({ what, offset }) => (what === 'write' && offset < MiB ? -EIO : undefined);
    write(3, 500, 0);
    rig.work();
    t.equal(client.reply(1)?.error, 28);
    t.equal(client.reply(2)?.error, 22);
    t.equal(client.reply(3)?.error, 5);
    t.equal(client.answer(client.ask(CMD.flush)).error, 0, 'the stream is in step');
    client.leave();
    rig.atRest();
  }
});
