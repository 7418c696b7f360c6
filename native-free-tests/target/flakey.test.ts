/** Flakey: when it is down, and what each feature does then. */

import t from 'tap';
import { EIO, ENOMEM } from '../../src/base/errno.js';
import { FLAG_FUA, FLAG_HOLES_OK, READ, WRITE } from '../../src/device/io.js';
import { flakey } from '../../src/target/flakey/target.js';
import { FakeHarness } from '../contract/fake-harness.js';
import { contextAt } from '../contract/harness.js';
import { MiniDevice } from '../contract/mini-device.js';

const old = Buffer.alloc(4096, 0x11);
const data = Buffer.alloc(4096, 0x22);

class World {
  readonly harness = new FakeHarness();
  readonly word = this.harness.makeBacking('a', 100);
  readonly file = this.harness.file(this.word);

  /** Down for ever, unless the intervals say otherwise; filled with `old`. */
  async device(features: string, up = 0, down = 1): Promise<MiniDevice> {
    const words = `${this.word} 8 ${up} ${down} ${features}`.trim().split(' ');
    const target = await flakey.create(words, contextAt(this.harness, 64, 80));
    const linear = await flakey.create([this.word, '0', '1', '0'], contextAt(this.harness, 0, 100));
    const direct = new MiniDevice(this.harness, linear, 0, 100);
    await direct.write(8 * 512, old);
    this.file.records.length = 0;
    return new MiniDevice(this.harness, target, 64, 80);
  }

  /** What is on the backing, where the target begins. */
  async stored(): Promise<Buffer> {
    const linear = await flakey.create([this.word, '0', '1', '0'], contextAt(this.harness, 0, 100));
    return (await new MiniDevice(this.harness, linear, 0, 100).read(8 * 512, 4096)).data;
  }

  reached(): string[] {
    return this.file.records.map(({ what, offset }) => `${what} ${offset}`);
  }
}

t.test('is up and down by whole seconds from its creation', async (t) => {
  const world = new World();
  const { engine } = world.harness;
  engine.advance(12_345);
  const device = await world.device('', 2, 3);
  for (const [wait, errno] of [
    [0, 0],
    [1999, 0],
    [1, EIO],
    [2999, EIO],
    [1, 0],
    [1999, 0],
    [1, EIO],
    [2999, EIO],
    [5_000_000_000, EIO],
    [1, 0],
  ] as const) {
    engine.advance(wait);
    t.equal((await device.read(0, 10)).errno, errno, `${engine.now - 12_345} ms`);
    t.equal(await device.write(0, data), errno);
  }
});

t.test('is never down without a down interval', async (t) => {
  const world = new World();
  const device = await world.device('', 1, 0);
  for (let i = 0; i < 10; i++) {
    world.harness.engine.advance(500);
    t.equal((await device.read(0, 1)).errno, 0);
  }
});

t.test('fails everything but STATUS without features', async (t) => {
  const world = new World();
  const device = await world.device('');
  t.equal((await device.read(0, 512)).errno, EIO);
  t.equal(await device.write(0, data), EIO);
  t.equal(await device.trim(0, 512), EIO);
  t.equal(await device.zero(0, 512), EIO);
  t.equal(await device.flush(), EIO);
  t.same(world.reached(), []);
  t.ok((await world.stored()).equals(old));
});

t.test('error_reads fails reads and hides holes, so that they are read', async (t) => {
  const world = new World();
  const device = await world.device('1 error_reads');
  t.equal((await device.read(0, 512)).errno, EIO);
  const { errno, extents } = await device.status(0, 40_960);
  t.equal(errno, 0);
  t.same(extents, [[40_960, 0]]);
  t.equal(await device.write(0, data), 0);
  t.equal(await device.flush(), 0);
  t.ok((await world.stored()).equals(data));
});

t.test('error_writes fails writes and flushes', async (t) => {
  const world = new World();
  const device = await world.device('1 error_writes');
  t.equal(await device.write(0, data), EIO);
  t.equal(await device.trim(0, 512), EIO);
  t.equal(await device.zero(0, 512), EIO);
  t.equal(await device.flush(), EIO);
  const read = await device.read(0, 4096);
  t.equal(read.errno, 0);
  t.ok(read.data.equals(old));
  t.same((await device.status(0, 40_960)).extents, [
    [4096, 0],
    [36_864, 3],
  ]);
});

t.test('drop_writes takes writes and flushes, and does nothing', async (t) => {
  const world = new World();
  const device = await world.device('1 drop_writes', 1, 1);
  world.harness.engine.advance(1000);
  t.equal(await device.write(0, data, FLAG_FUA), 0);
  t.equal(await device.trim(0, 512), 0);
  t.equal(await device.zero(0, 512), 0);
  t.equal(await device.flush(), 0);
  t.same(world.reached(), []);
  t.ok((await device.read(0, 4096)).data.equals(old));
  world.harness.engine.advance(1000);
  t.equal(await device.write(0, data), 0);
  t.equal(await device.flush(), 0);
  t.same(world.reached(), ['read 4096', 'write 4096', 'flush 0']);
});

t.test('corrupt_bio_byte r replaces one byte of a read', async (t) => {
  const world = new World();
  const device = await world.device('5 corrupt_bio_byte 32 r 7 0');
  const wanted = Buffer.from(old);
  wanted[31] = 7;
  t.ok((await device.read(0, 4096)).data.equals(wanted));
  const sparse = await device.read(8192, 100, FLAG_HOLES_OK);
  t.equal(sparse.allZero, false, 'a hole is read too');
  t.equal(sparse.data[31], 7);
  t.equal(sparse.data[30], 0);
  t.ok((await device.read(0, 31)).data.equals(old.subarray(0, 31)), 'too short to have the byte');
  t.equal((await device.read(0, 32)).data[31], 7, 'just long enough');
  t.equal(await device.write(0, data), 0);
  t.ok((await world.stored()).equals(data), 'writes are not touched');
});

t.test('corrupt_bio_byte w replaces one byte of what is stored, not of the buffer', async (t) => {
  const world = new World();
  const device = await world.device('5 corrupt_bio_byte 4096 w 255 0');
  t.equal(await device.write(0, data), 0); // MiniDevice checks the buffer.
  const wanted = Buffer.from(data);
  wanted[4095] = 255;
  t.ok((await world.stored()).equals(wanted));
  t.equal(await device.write(0, data.subarray(0, 4095)), 0);
  t.ok((await world.stored()).subarray(0, 4095).equals(data.subarray(0, 4095)));
  t.equal(await device.trim(0, 512), 0);
  t.equal(await device.zero(512, 512), 0);
  t.equal(await device.flush(), 0);
  t.ok((await device.read(0, 1024)).data.equals(Buffer.alloc(1024)));
});

t.test('corrupt_bio_byte looks at the flags of an io', async (t) => {
  const fua = 2 ** 17;
  for (const [mask, flags, corrupted] of [
    [1, 0, true],
    [fua, 0, false],
    [fua, FLAG_FUA, true],
    [fua + 1, FLAG_FUA, true],
    [32, FLAG_FUA, false],
    [2 ** 31, FLAG_FUA, false],
  ] as const) {
    const world = new World();
    const device = await world.device(`5 corrupt_bio_byte 1 w 9 ${mask}`);
    t.equal(await device.write(0, data, flags), 0);
    t.equal((await world.stored())[0], corrupted ? 9 : 0x22, `mask ${mask}, flags ${flags}`);
    t.equal(world.file.records[0]?.flags, flags === FLAG_FUA ? 1 : 0, 'FUA is passed on');
  }
  const reads = await new World().device('5 corrupt_bio_byte 1 r 9 1');
  t.equal((await reads.read(0, 1)).data[0], 0x11, 'a read has not the flag of a write');
});

/** How many bytes differ. */
function differences(a: Buffer, b: Buffer): number {
  return a.reduce((count, byte, at) => (byte === b[at] ? count : count + 1), 0);
}

t.test('random_read_corrupt changes at most one byte of each read', async (t) => {
  const world = new World();
  const device = await world.device('2 random_read_corrupt 1000000000');
  const counts: number[] = [];
  // A byte may be replaced by the same one: 1 in 256. All of 40 may not.
  for (let i = 0; i < 40; i++) counts.push(differences((await device.read(0, 4096)).data, old));
  t.ok(counts.every((count) => count <= 1));
  t.ok(counts.includes(1));
  t.ok((await world.stored()).equals(old));
});

t.test('random_write_corrupt changes at most one byte of each write', async (t) => {
  const world = new World();
  const device = await world.device('2 random_write_corrupt 1000000000');
  const counts: number[] = [];
  for (let i = 0; i < 40; i++) {
    t.equal(await device.write(0, data), 0);
    counts.push(differences(await world.stored(), data));
  }
  t.ok(counts.every((count) => count <= 1));
  t.ok(counts.includes(1));
});

t.test('corrupts a fixed and a random byte of the same write', async (t) => {
  const world = new World();
  const device = await world.device('7 corrupt_bio_byte 5 w 200 0 random_write_corrupt 1000000000');
  t.equal(await device.write(0, data.subarray(0, 5)), 0);
  const counts: number[] = [];
  for (let i = 0; i < 40; i++) {
    await device.write(0, data);
    counts.push(differences(await world.stored(), data));
  }
  t.ok(counts.every((count) => count <= 2));
  t.ok(counts.includes(2));
});

t.test('answers ENOMEM when there is no room for a copy', async (t) => {
  const world = new World();
  const device = await world.device('5 corrupt_bio_byte 1 w 9 0');
  const { arena } = world.harness.engine;
  const memory = arena.allocate(4096);
  const taken: number[] = [];
  for (let at = arena.allocate(4096); at !== -1; at = arena.allocate(4096)) taken.push(at);
  const refused = await device.send(WRITE, 0, 4096, { memory });
  t.equal(refused.errno, ENOMEM);
  t.same(world.reached(), []);
  for (const at of taken) arena.free(at, 4096);
  t.equal((await world.harness.wait(device.send(WRITE, 0, 4096, { memory }))).errno, 0);
  arena.free(memory, 4096);
  t.equal(arena.inUse, 0);
});

t.test('answers with the error of the device, corrupting or not', async (t) => {
  for (const features of ['1 drop_writes', '5 corrupt_bio_byte 1 r 9 0']) {
    const world = new World();
    const device = await world.device(features);
    world.file.errno = ENOMEM;
    const { errno, data: buffer } = await device.read(0, 512);
    t.equal(errno, ENOMEM);
    t.equal(buffer[0], 0xee, 'a failed read is not corrupted');
  }
  const world = new World();
  const device = await world.device('5 corrupt_bio_byte 1 w 9 0');
  world.file.errno = EIO;
  t.equal(await device.write(0, data), EIO);
  t.equal(world.harness.engine.arena.inUse, 0);
  t.equal(world.harness.ios.inUse, 0);
});

t.test('ends an io after its data has arrived', async (t) => {
  const world = new World();
  const device = await world.device('5 corrupt_bio_byte 1 r 9 0');
  const { arena } = world.harness.engine;
  const memory = arena.allocate(512);
  const sent = device.send(READ, 0, 512, { memory });
  t.equal(device.underWay, 1);
  t.equal(world.harness.ios.inUse, 2, 'the io and its child');
  await world.harness.wait(sent);
  t.equal(arena.bytes[memory], 9);
  t.equal(arena.bytes[memory + 1], 0x11);
  t.equal(world.harness.ios.inUse, 0);
});
