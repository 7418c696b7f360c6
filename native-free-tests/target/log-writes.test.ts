/**
 * Log-writes: what is in the log and in what order, what waits for it, and what becomes of both
 * when the log fails. In the end the oracle: random requests, ended in random order, of which the
 * log must be able to make the disk again as it was promised at every flush.
 */

import fc from 'fast-check';
import t from 'tap';
import { EINVAL, EIO, EOPNOTSUPP } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import type { Device } from '../../src/device/device.js';
import {
  FLAG_FAST,
  FLAG_FUA,
  FLUSH,
  type Operation,
  READ,
  TRIM,
  WRITE,
  ZERO,
} from '../../src/device/io.js';
import type { Call, Disk } from '../backing/scripted-engine.js';
import { flag, told, WriteLogFile } from '../crash/write-log.js';
import type { Extras, IoClient } from '../device/io-client.js';
import { World } from '../device/world.js';

const sectors = 64;
const table = `0 ${sectors} log-writes /a /log`;

class Logged {
  readonly world = new World();
  readonly a: Disk;
  readonly logDisk: Disk;
  device!: Device;
  client!: IoClient;

  constructor(logSectors = 4000) {
    this.a = this.world.disk('/a', sectors);
    this.logDisk = this.world.disk('/log', logSectors);
  }

  static async create(logSectors?: number): Promise<Logged> {
    const logged = new Logged(logSectors);
    logged.device = await logged.world.create('vol', table);
    logged.client = logged.world.client(logged.device);
    return logged;
  }

  async run(operation: Operation, offset: number, length: number, extras: Extras = {}) {
    const data = operation === WRITE ? { data: Buffer.alloc(length, 7) } : {};
    return this.world.wait(this.client.run(operation, offset, length, { ...data, ...extras }));
  }

  message(...words: string[]): Promise<string> {
    return this.world.wait(this.world.devices.message('vol', 0, words));
  }

  get status(): string {
    return this.world.devices.status('vol')[0]?.words ?? '';
  }

  log(): WriteLogFile {
    const { bytes } = this.logDisk;
    return new WriteLogFile((at, length) => Buffer.from(bytes.slice(at, at + length)));
  }

  /** Nothing is left of it all; throws otherwise. */
  async end(): Promise<void> {
    await this.world.wait(this.world.devices.remove('vol', false));
    this.world.atRest();
  }

  entries(): string[] {
    return this.log().records.map(told);
  }
}

/** Rejects with MapperError. */
async function refusal(promise: Promise<unknown>): Promise<MapperError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof MapperError) return error;
    throw error;
  }
  throw new Error('it was not refused');
}

t.test('writes down what changes the device, in its order', async (t) => {
  const logged = await Logged.create();
  t.equal(logged.status, '0 0');
  t.same(logged.entries(), [], 'a new log is empty');
  await logged.run(WRITE, 4096, 1024);
  await logged.run(READ, 0, 4096);
  t.same(logged.entries(), [], 'nobody waits for the super block');
  t.equal(logged.status, '1 3');
  await logged.run(FLUSH, 0, 0);
  await logged.run(WRITE, 512, 512, { flags: FLAG_FUA });
  await logged.run(TRIM, 8192, 4096);
  await logged.run(ZERO, 1024, 512);
  await logged.message('MARK', 'some "name"');
  await logged.run(TRIM, 700, 2000, { flags: FLAG_FUA });
  const found = [
    'write 4096+1024',
    'flush',
    'write 512+512 fua',
    'discard 8192+4096',
    'write 1024+512',
    'mark some "name"',
    'discard 1024+1536 fua',
  ];
  t.same(logged.entries(), found);
  const log = logged.log();
  t.equal(log.sectorBytes, 512);
  const [written, , , , zeroes] = log.records;
  t.same(written && log.data(written), Buffer.alloc(1024, 7));
  t.same(zeroes && log.data(zeroes), Buffer.alloc(512));
  t.equal(logged.status, `7 ${log.end / 512 - 1}`);
  t.equal(logged.device.live?.slots[0]?.target.table(), '/a /log');
  t.same(logged.world.logged, []);
  await logged.end();
});

t.test('cuts requests at sectors, and keeps what is beside them', async (t) => {
  const logged = await Logged.create();
  logged.a.bytes.fill(0x55);
  await logged.run(WRITE, 1000, 2000, { flags: FLAG_FUA });
  t.same(logged.entries(), ['write 512+512 fua', 'write 1024+1536 fua', 'write 2560+512 fua']);
  const [first, , last] = logged.log().records;
  const changed = (from: number, to: number, byte: number): Buffer =>
    Buffer.alloc(512, 0x55).fill(byte, from, to);
  t.same(first && logged.log().data(first), changed(488, 512, 7));
  t.same(last && logged.log().data(last), changed(0, 440, 7));
  await logged.run(WRITE, 5000, 3);
  await logged.run(ZERO, 5130, 1000);
  await logged.run(TRIM, 10_000, 700);
  await logged.run(TRIM, 10_300, 700);
  await logged.run(FLUSH, 0, 0);
  const more = ['write 4608+512', 'write 5120+512', 'write 5632+512', 'flush'];
  t.same(logged.entries().slice(3), more, 'a TRIM of no whole sector is nothing');
  const { data } = await logged.run(READ, 4096, 4096);
  const wanted = Buffer.alloc(4096, 0x55).fill(7, 904, 907).fill(0, 1034, 2034);
  t.ok(data.equals(wanted));
});

t.test('a request that reads before it writes has the others wait', async (t) => {
  const logged = await Logged.create();
  const { client, world, a } = logged;
  a.stuck = true;
  const order: string[] = [];
  const send = (offset: number, length: number): void =>
    client.send(WRITE, offset, length, { data: Buffer.alloc(length, offset) }, ({ errno }) =>
      order.push(`${offset} ${errno}`),
    );
  send(0, 512);
  send(600, 10);
  send(1024, 512);
  send(512, 512);
  client.send(FLUSH, 0, 0, {}, ({ errno }) => order.push(`flush ${errno}`));
  const calls = (): string[] => a.takeCalls();
  t.same(calls(), ['write 0+512'], 'it waits for what is under way itself');
  a.letGo(0);
  while (world.engine.turn()) {}
  t.same(calls(), ['read 512+512']);
  a.letGo(0);
  while (world.engine.turn()) {}
  t.same(calls(), ['write 512+512']);
  a.letGo();
  while (world.engine.turn()) {}
  t.same(calls(), ['write 1024+512', 'write 512+512', 'flush']);
  t.same(order, ['0 0', '600 0', '1024 0', '512 0', 'flush 0']);
  await logged.end();
});

t.test('answers when the log has it, and a FLUSH when the super block counts it', async (t) => {
  const logged = await Logged.create();
  const { client, world, logDisk } = logged;
  logDisk.stuck = true;
  logDisk.takeCalls();
  let answers = 0;
  const answered = (): void => void answers++;
  const settle = (): void => {
    while (world.engine.turn()) {}
  };
  client.send(WRITE, 0, 512, { data: Buffer.alloc(512, 1) }, answered);
  client.send(WRITE, 512, 512, { data: Buffer.alloc(512, 2) }, answered);
  settle();
  client.send(FLUSH, 0, 0, {}, answered);
  settle();
  t.equal(answers, 0);
  t.same(logDisk.takeCalls(), [
    'write 512+512',
    'write 1024+512',
    'write 1536+512',
    'write 2048+512',
    'write 2560+512',
  ]);
  for (let i = 0; i < 2; i++) logDisk.letGo(1);
  settle();
  t.equal(answers, 0, 'one lacks its entry, the other its data');
  logDisk.letGo(1);
  settle();
  t.equal(answers, 1, 'the second is whole');
  logDisk.letGo(1);
  settle();
  t.equal(answers, 1, 'the flush waits for what stands before it');
  t.same(logDisk.takeCalls(), []);
  logDisk.letGo(0);
  settle();
  t.equal(answers, 2, 'the writes, but for the super block');
  t.same(logDisk.takeCalls(), ['write 0+512']);
  logDisk.letGo();
  settle();
  t.equal(answers, 3);
  t.same(logged.entries(), ['write 0+512', 'write 512+512', 'flush']);
  await logged.end();
});

t.test('what is answered while a FLUSH is under way stands behind it', async (t) => {
  const logged = await Logged.create();
  const { client, world, a } = logged;
  await logged.run(WRITE, 0, 512);
  a.stuck = true;
  client.send(FLUSH, 0, 0, {}, () => {});
  client.send(WRITE, 512, 512, { data: Buffer.alloc(512, 2) }, () => {});
  a.letGo(1);
  while (world.engine.turn()) {}
  a.letGo();
  while (world.engine.turn()) {}
  await logged.run(FLUSH, 0, 0);
  t.same(logged.entries(), ['write 0+512', 'flush', 'write 512+512', 'flush']);
});

t.test('does not write down what failed', async (t) => {
  const logged = await Logged.create();
  logged.a.script = () => -EIO;
  t.equal((await logged.run(WRITE, 0, 512)).errno, EIO);
  t.equal((await logged.run(WRITE, 3, 5)).errno, EIO);
  t.equal((await logged.run(TRIM, 0, 512)).errno, EIO);
  t.equal((await logged.run(FLUSH, 0, 0)).errno, EIO);
  logged.a.script = ({ what }: Call) => (what === 'write' ? -EIO : undefined);
  t.equal((await logged.run(WRITE, 3, 5)).errno, EIO);
  logged.a.script = () => undefined;
  await logged.run(FLUSH, 0, 0);
  t.same(logged.entries(), ['nothing', 'flush'], 'the place of a failed flush is filled');
  await logged.end();
});

t.test('ends the log, not the device, when the log is full', async (t) => {
  const logged = await Logged.create(10);
  const texts = logged.world.logged;
  await logged.run(WRITE, 0, 512);
  await logged.run(WRITE, 512, 1024);
  await logged.run(FLUSH, 0, 0);
  t.equal(logged.status, '3 6');
  t.equal((await logged.run(WRITE, 1536, 512)).errno, 0);
  t.equal(logged.status, '3 6 logging_disabled', 'the last two sectors are not used');
  t.same(texts, ['Ran out of space on the logdev: logging is disabled']);
  t.equal((await logged.run(WRITE, 100, 512)).errno, 0);
  t.equal((await logged.run(FLUSH, 0, 0)).errno, 0);
  t.same(logged.entries(), ['write 0+512', 'write 512+1024', 'flush']);
  const error = await refusal(logged.message('mark', 'x'));
  t.equal(error.errno, EIO);
  t.match(error.message, /the log on "\/log" has ended$/);
  t.ok(Buffer.from(logged.a.bytes.subarray(100, 612)).equals(Buffer.alloc(512, 7)));
  t.equal(texts.length, 1, 'it is told once');
});

t.test('uses what a longer log has more', async (t) => {
  const logged = await Logged.create(10);
  await logged.run(WRITE, 0, 1024);
  logged.logDisk.bytes = Buffer.concat([logged.logDisk.bytes, Buffer.alloc(20 * 512)]);
  await logged.run(WRITE, 0, 2048);
  await logged.run(FLUSH, 0, 0);
  t.same(logged.entries(), ['write 0+1024', 'write 0+2048', 'flush']);
});

t.test('ends the log, not the device, when the log fails', async (t) => {
  for (const failing of ['header', 'data', 'super'] as const) {
    const logged = await Logged.create();
    const { client, logDisk, world } = logged;
    await logged.run(WRITE, 0, 512);
    await logged.run(FLUSH, 0, 0);
    const offset = { header: 4 * 512, data: 5 * 512, super: 0 }[failing];
    logDisk.script = (call) => (call.offset === offset ? -EIO : undefined);
    const errors: number[] = [];
    const end = ({ errno }: { errno: number }): void => void errors.push(errno);
    client.send(WRITE, 512, 512, { data: Buffer.alloc(512), flags: FLAG_FUA }, end);
    client.send(WRITE, 1024, 512, { data: Buffer.alloc(512), flags: FLAG_FUA }, end);
    client.send(FLUSH, 0, 0, {}, end);
    while (world.engine.turn()) {}
    t.same(errors, [0, 0, 0], failing);
    t.match(logged.status, /logging_disabled$/);
    t.same(logged.entries(), ['write 0+512', 'flush']);
    t.same(
      world.logged.filter((text) => text.endsWith('logging is disabled')),
      ['cannot write to the log: logging is disabled'],
    );
    await logged.end();
  }
});

t.test('marks the end when it is suspended, and goes on when it is resumed', async (t) => {
  const logged = await Logged.create();
  const { devices } = logged.world;
  await logged.run(WRITE, 0, 512);
  await logged.world.wait(devices.suspend('vol', false));
  // A suspended device is flushed before and after the last request has ended.
  const first = ['write 0+512', 'flush', 'flush'];
  const end = 'mark dm-log-writes-end';
  t.same(logged.entries(), [...first, end]);
  await logged.world.wait(devices.resume('vol'));
  t.same(logged.entries(), first);
  await logged.run(WRITE, 512, 512, { flags: FLAG_FUA });
  first.push('write 512+512 fua');
  t.same(logged.entries(), first);
  await logged.world.wait(devices.suspend('vol', true));
  await logged.message('mark', 'asleep');
  await logged.world.wait(devices.resume('vol'));
  await logged.run(FLUSH, 0, 0);
  first.push(end, 'mark asleep', 'flush');
  t.same(logged.entries(), first, 'nothing is taken back then');
  await logged.world.wait(devices.load('vol', table));
  t.same(logged.entries(), first, 'a table that is loaded changes nothing');
  await logged.world.wait(devices.resume('vol'));
  t.same(logged.entries(), [], 'it begins a new log when it is resumed');
  await logged.run(WRITE, 0, 512);
  await logged.end();
  t.equal(logged.entries().at(-1), end);
});

t.test('keeps the log that an earlier daemon left', async (t) => {
  const logged = await Logged.create();
  await logged.run(WRITE, 0, 512, { flags: FLAG_FUA });
  const next = new Logged();
  next.logDisk.bytes.set(logged.logDisk.bytes);
  const { devices } = next.world;
  next.device = await next.world.wait(devices.create('vol', table, false, true));
  next.client = next.world.client(next.device);
  t.same(next.world.logged, [
    'the log is kept as an earlier daemon left it: load the table for a new one',
  ]);
  t.equal((await next.run(WRITE, 5, 512, { flags: FLAG_FUA })).errno, 0);
  t.equal((await next.run(FLUSH, 0, 0)).errno, 0);
  await next.world.wait(devices.suspend('vol', false));
  await next.world.wait(devices.resume('vol'));
  t.match(next.status, /logging_disabled$/);
  t.same(next.entries(), ['write 0+512 fua']);
  await next.world.wait(devices.load('vol', table));
  await next.world.wait(devices.resume('vol'));
  t.equal(next.status, '0 0');
  await next.end();
});

t.test('ZERO is fast only if both devices have it', async (t) => {
  const logged = new Logged();
  logged.logDisk.canTrim = false;
  logged.logDisk.canZero = false;
  logged.device = await logged.world.create('vol', table);
  logged.client = logged.world.client(logged.device);
  t.equal((await logged.run(ZERO, 0, 4096, { flags: FLAG_FAST })).errno, EOPNOTSUPP);
  t.equal((await logged.run(ZERO, 0, 4096)).errno, 0);
  await logged.run(FLUSH, 0, 0);
  t.same(logged.entries(), ['write 0+4096', 'flush']);
});

t.test('refuses what it cannot be made of', async (t) => {
  const { world } = new Logged();
  for (const [words, text] of [
    ['/a', /Invalid argument count \(found 1 argument, wanted 2\)/],
    ['/a /log 0', /Invalid argument count \(found 3 arguments, wanted 2\)/],
    ['/b /log', /Device lookup failed: .*\/b/],
    ['/a /b', /Log device lookup failed: .*\/b/],
    ['/a /a', /Log device lookup failed \(found the device itself, wanted another one\)/],
    ['/a2 /log', /device too small for target: \/a2 has 63 sectors, wanted 64/],
  ] as const) {
    world.disk('/a2', 63);
    const error = await refusal(world.create('vol', `0 ${sectors} log-writes ${words}`));
    t.match(error.message, text);
  }
  t.equal(world.descriptors, 0);
  t.equal(world.engine.arena.inUse, 0);
});

t.test('refuses other messages, and marks that no entry can hold', async (t) => {
  const logged = await Logged.create();
  for (const [words, text] of [
    [['mark'], /Invalid log-writes message arguments, expect 2 arguments, got 1$/],
    [['mark', 'a', 'b'], /Invalid log-writes message arguments, expect 2 arguments, got 3$/],
    [['note', 'a'], /Unrecognised log writes target message received: "note" \(wanted "mark"\)$/],
    [['mark', ''], /invalid mark \(found 0 bytes, wanted 1 to 479 bytes\)$/],
    [['mark', 'x'.repeat(480)], /invalid mark \(found 480 bytes, wanted 1 to 479 bytes\)$/],
    [['mark', 'x\0y'], /invalid mark \(found a NUL in it, wanted 1 to 479 bytes\)$/],
  ] as const) {
    const error = await refusal(logged.message(...words));
    t.equal(error.errno, EINVAL);
    t.match(error.message, text);
  }
  await logged.message('mark', 'x'.repeat(479));
  t.same(logged.entries(), [`mark ${'x'.repeat(479)}`]);
});

/** A part of a sector that is written as a whole, and its number of bytes. */
const grain = 64;
const grains = (sectors * 512) / grain;

interface Step {
  readonly kind: 'write' | 'zero' | 'fua' | 'flush' | 'turns';
  readonly at: number;
  readonly count: number;
  readonly whole: boolean;
}

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom(...(['write', 'write', 'fua', 'zero', 'flush', 'turns', 'turns'] as const)),
  at: fc.nat(grains - 1),
  count: fc.integer({ min: 1, max: 40 }),
  whole: fc.boolean(),
});

interface Stamp {
  readonly value: number;
  readonly began: number;
  ended: number;
}

/** Random requests to a device whose disks end what they do in random order. */
class RandomRun {
  readonly #logged: Logged;
  readonly #stamps: Stamp[][] = Array.from({ length: grains }, () => [
    { value: 0, began: 0, ended: 0 },
  ]);
  readonly #busy = new Set<number>();
  /** When each flush began. */
  readonly #flushes: number[] = [];
  #clock = 1;
  #value = 0;
  #underWay = 0;

  constructor(logged: Logged) {
    this.#logged = logged;
  }

  step({ kind, at, count, whole }: Step): void {
    const { client, world } = this.#logged;
    if (kind === 'turns') {
      for (let i = 0; i < count; i++) world.engine.turn();
    } else if (kind === 'flush') {
      this.#flushes.push(++this.#clock);
      this.#underWay++;
      client.send(FLUSH, 0, 0, {}, () => this.#underWay--);
    } else {
      const unit = whole ? 512 / grain : 1;
      const from = Math.floor(at / unit) * unit;
      const to = Math.min(grains, from + Math.ceil(count / unit) * unit);
      this.#change(kind, from, to);
    }
  }

  #change(kind: Step['kind'], from: number, to: number): void {
    const range = Array.from({ length: to - from }, (_, i) => from + i);
    if (range.some((at) => this.#busy.has(at))) return;
    const value = kind === 'zero' ? 0 : ++this.#value;
    const stamp = { value, began: ++this.#clock, ended: Number.POSITIVE_INFINITY };
    for (const at of range) {
      this.#busy.add(at);
      this.#stamps[at]?.push(stamp);
    }
    const data = Buffer.alloc(range.length * grain);
    for (let i = 0; i < data.length; i += 4) data.writeUInt32LE(value, i);
    this.#underWay++;
    const flags = kind === 'fua' ? FLAG_FUA : 0;
    const extras = kind === 'zero' ? { flags } : { flags, data };
    const operation = kind === 'zero' ? ZERO : WRITE;
    this.#logged.client.send(operation, from * grain, data.length, extras, ({ errno }) => {
      if (errno !== 0) throw new Error(`errno ${errno}`);
      this.#underWay--;
      stamp.ended = ++this.#clock;
      for (const at of range) this.#busy.delete(at);
    });
  }

  /** Ends it all, and makes the disk again, entry by entry. */
  end(): void {
    const { engine } = this.#logged.world;
    this.step({ kind: 'flush', at: 0, count: 1, whole: true });
    while (this.#underWay > 0) {
      if (!engine.turn()) throw new Error(`${this.#underWay} requests do not end`);
    }
    this.step({ kind: 'flush', at: 0, count: 1, whole: true });
    while (engine.turn()) {}
    const log = this.#logged.log();
    const disk = Buffer.alloc(sectors * 512);
    const flushes = this.#flushes[Symbol.iterator]();
    for (const record of log.records) {
      log.data(record)?.copy(disk, record.offset);
      if (record.flags === flag.flush) this.#check(disk, flushes.next().value);
    }
    if (!flushes.next().done) throw new Error('there are fewer flushes in the log');
    if (!disk.equals(this.#logged.a.bytes)) throw new Error('the log does not make the disk again');
  }

  /** What had been answered when the flush began, and nothing that had not begun. */
  #check(disk: Buffer, flushed: number | undefined): void {
    if (flushed === undefined) throw new Error('there are more flushes in the log');
    for (const [at, list] of this.#stamps.entries()) {
      const found = disk.readUInt32LE(at * grain);
      const certain = list.findLast(({ ended }) => ended < flushed);
      const possible = list.filter(({ began, ended }) => began < flushed && ended > flushed);
      if (found === certain?.value || possible.some(({ value }) => value === found)) continue;
      throw new Error(`grain ${at}: found ${found}, wanted ${certain?.value}`);
    }
  }
}

t.test('makes the disk again as it was at every flush', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 50, maxLength: 200 }), fc.nat(), (steps, seed) =>
      randomly(steps, seed),
    ),
    { numRuns: 100 },
  );
  t.pass('every flush has what it promised');
});

async function randomly(steps: readonly Step[], seed: number): Promise<void> {
  const logged = await Logged.create(100_000);
  let state = seed;
  logged.world.engine.shuffle((limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  });
  const run = new RandomRun(logged);
  for (const each of steps) run.step(each);
  run.end();
  await logged.end();
}
