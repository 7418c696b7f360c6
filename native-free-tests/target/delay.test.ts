/** Delay: what waits how long, what leaves in which order, and what status counts. */

import t from 'tap';
import { EIO } from '../../src/base/errno.js';
import { ExtentList } from '../../src/device/extent-list.js';
import { FLUSH, Io, READ, STATUS, TRIM, WRITE, ZERO } from '../../src/device/io.js';
import { DelayQueue } from '../../src/target/delay/queue.js';
import { delay } from '../../src/target/delay/target.js';
import type { Record } from '../contract/fake-engine.js';
import { FakeHarness } from '../contract/fake-harness.js';
import { contextAt } from '../contract/harness.js';
import { MiniDevice } from '../contract/mini-device.js';

class World {
  readonly harness = new FakeHarness();
  readonly a = this.harness.makeBacking('a', 1000);
  readonly b = this.harness.makeBacking('b', 1000);
  readonly c = this.harness.makeBacking('c', 1000);

  async device(...args: (string | number)[]): Promise<MiniDevice> {
    const words = args.map(String);
    const target = await delay.create(words, contextAt(this.harness, 64, 100));
    return new MiniDevice(this.harness, target, 64, 100);
  }

  /** Operations that reached the backings: `write 512 @20` is one at 512 after 20 ms. */
  reached(word: string): string[] {
    const text = ({ what, offset, at }: Record): string => `${what} ${offset} @${at}`;
    return this.harness.file(word).records.map(text);
  }
}

t.test('delays each class by its own time and sends it to its own device', async (t) => {
  const world = new World();
  const { engine } = world.harness;
  const device = await world.device(world.a, 1, 10, world.b, 2, 20, world.c, 3, 30);
  const sent = [
    device.send(READ, 512, 10),
    device.send(WRITE, 0, 10),
    device.send(TRIM, 1024, 10),
    device.send(ZERO, 2048, 10),
    device.send(FLUSH, 0, 0),
  ];
  t.equal(device.target.status(), '1 3 1');
  engine.advance(9);
  t.equal(device.underWay, 5);
  engine.advance(1);
  t.equal(device.target.status(), '0 3 1');
  t.equal(device.underWay, 4);
  engine.advance(100);
  t.equal(device.target.status(), '0 0 0');
  t.same(world.reached(world.a), ['read 1024 @10']);
  t.same(world.reached(world.b), ['write 1024 @20', 'trim 2048 @20', 'trim 3072 @20']);
  t.same(world.reached(world.c), ['flush 0 @30']);
  for (const { errno } of await Promise.all(sent)) t.equal(errno, 0);
  t.equal(engine.timers, 0);
});

t.test('takes missing classes from the one before', async (t) => {
  const world = new World();
  const six = await world.device(world.a, 0, 1, world.b, 0, 2);
  const sent = [six.send(READ, 0, 1), six.send(WRITE, 0, 1), six.send(FLUSH, 0, 0)];
  world.harness.engine.advance(50);
  t.same(world.reached(world.a), ['read 0 @1']);
  t.same(world.reached(world.b), ['write 0 @2', 'flush 0 @2']);
  const three = await world.device(world.c, 0, 5);
  sent.push(three.send(FLUSH, 0, 0), three.send(WRITE, 0, 1));
  world.harness.engine.advance(50);
  t.same(world.reached(world.c), ['flush 0 @55', 'write 0 @55']);
  await Promise.all(sent);
});

t.test('passes on at once what has no delay', async (t) => {
  const world = new World();
  const device = await world.device(world.a, 0, 0, world.a, 0, 7, world.a, 0, 0);
  const sent = [device.send(READ, 0, 1), device.send(FLUSH, 0, 0)];
  t.same(world.reached(world.a), ['read 0 @0', 'flush 0 @0']);
  t.equal(world.harness.engine.timers, 0);
  t.equal(device.target.status(), '0 0 0');
  await world.harness.wait(Promise.all(sent));
});

t.test('does not delay STATUS', async (t) => {
  const world = new World();
  const device = await world.device(world.a, 0, 1000);
  const extents = new ExtentList(4);
  await device.send(STATUS, 0, 512, { extents });
  t.equal(extents.bytes, 512);
  t.equal(world.harness.engine.now, 0);
});

t.test('lets what expires in one turn go in the order of arrival, across classes', async (t) => {
  const world = new World();
  const { engine } = world.harness;
  // Everything goes to one file, so that its records show the order.
  const device = await world.device(world.a, 0, 30, world.a, 0, 10, world.a, 0, 20);
  const sent = [device.send(READ, 1, 1)];
  engine.advance(10);
  sent.push(device.send(FLUSH, 0, 0));
  sent.push(device.send(READ, 2, 1));
  engine.advance(10);
  sent.push(device.send(WRITE, 3, 1));
  sent.push(device.send(TRIM, 4, 1));
  engine.advance(10);
  t.same(world.reached(world.a), ['read 1 @30', 'flush 0 @30', 'write 3 @30', 'trim 4 @30']);
  engine.advance(10);
  t.equal(world.reached(world.a).at(-1), 'read 2 @40');
  await Promise.all(sent);
});

t.test('keeps the order of classes that wait alike', async (t) => {
  const world = new World();
  const device = await world.device(world.a, 0, 5);
  const sent: Promise<unknown>[] = [];
  const wanted: string[] = [];
  for (let i = 0; i < 100; i++) {
    sent.push(device.send(i % 3 === 0 ? WRITE : READ, i, 1));
    wanted.push(`${i % 3 === 0 ? 'write' : 'read'} ${i} @5`);
  }
  t.equal(world.harness.engine.timers, 1, 'one timer for all');
  world.harness.engine.advance(5);
  t.same(world.reached(world.a), wanted);
  await Promise.all(sent);
});

t.test('takes new requests while old ones leave', async (t) => {
  const world = new World();
  const { engine } = world.harness;
  const device = await world.device(world.a, 0, 5);
  const again = async (left: number): Promise<void> => {
    await device.send(WRITE, left, 1);
    if (left > 0) await again(left - 1);
  };
  const all = Promise.all([again(4), again(4)]);
  await world.harness.wait(all);
  t.equal(engine.now, 25);
  t.equal(world.reached(world.a).length, 10);
  t.equal(device.target.status(), '0 0 0');
});

t.test('waits longer than a timer can', async (t) => {
  const world = new World();
  const { engine } = world.harness;
  const device = await world.device(world.a, 0, 2 ** 32 - 1);
  const sent = device.send(WRITE, 0, 1);
  engine.advance(2 ** 32 - 2);
  t.equal(device.target.status(), '0 1 0');
  engine.advance(1);
  t.equal(device.target.status(), '0 0 0');
  t.equal((await sent).errno, 0);
});

t.test('waits on when a timer comes too early', async (t) => {
  const world = new World();
  const { engine } = world.harness;
  const device = await world.device(world.a, 0, 10);
  const timer = engine.timer.bind(engine);
  let early = true;
  engine.timer = (milliseconds, completion) => {
    const less = early ? 0.25 : 0;
    early = false;
    return timer(milliseconds - less, completion);
  };
  const sent = device.send(WRITE, 0, 1);
  engine.advance(9.9);
  t.same(world.reached(world.a), []);
  engine.advance(0.1);
  t.same(world.reached(world.a), ['write 0 @10']);
  await sent;
});

t.test('answers with the error of the device', async (t) => {
  const world = new World();
  const device = await world.device(world.a, 0, 10);
  world.harness.file(world.a).errno = EIO;
  t.equal((await device.read(0, 512)).errno, EIO);
  t.equal(await device.flush(), EIO);
});

t.test('takes its timers with it', async (t) => {
  const world = new World();
  const { engine } = world.harness;
  const device = await world.device(world.a, 0, 10, world.a, 0, 10.0, world.a, 0, 20);
  const sent = device.send(WRITE, 0, 1);
  t.equal(engine.timers, 1);
  await device.target.destroy?.();
  t.equal(engine.timers, 0);
  t.equal(device.underWay, 1);
  sent.catch(() => {});
});

t.test('keeps its order when it grows', (t) => {
  const queue = new DelayQueue(1, { expired() {} });
  const ios: Io[] = [];
  let next = 0;
  // In and out in turns, so that the ring's head is in the middle when it grows.
  for (let i = 0; i < 500; i++) {
    const io = new Io();
    ios.push(io);
    queue.push(io, i, i * 2);
    if (i % 3 !== 0) continue;
    t.equal(queue.due(), next);
    t.equal(queue.arrival(), next * 2);
    t.equal(queue.shift(), ios[next++]);
  }
  while (queue.count > 0) t.equal(queue.shift(), ios[next++]);
  t.equal(next, 500);
  t.equal(queue.due(), Number.POSITIVE_INFINITY);
  t.end();
});
