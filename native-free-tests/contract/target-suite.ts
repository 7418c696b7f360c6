/**
 * What every target must do, whatever its data path, on every engine. `factory` makes a fresh world
 * for each subtest; the cases of target `name` are in target-cases.ts.
 */

import fc from 'fast-check';
import type { Test } from 'tap';
import type { Backing } from '../../src/backing/backing.js';
import { EIO, EOPNOTSUPP } from '../../src/base/errno.js';
import { EXTENT_HOLE, EXTENT_ZERO } from '../../src/device/extent-list.js';
import {
  FLAG_DEPTH,
  FLAG_FAST,
  FLAG_FUA,
  FLAG_HOLES_OK,
  FLAG_NO_HOLE,
  FLAG_ONE,
  type Operation,
  READ,
  WRITE,
} from '../../src/device/io.js';
import { linear } from '../../src/target/linear/target.js';
import { findTarget } from '../../src/target/registry.js';
import { contextAt, type TargetHarness } from './harness.js';
import { type Ended, MiniDevice, untouched } from './mini-device.js';
import { beginSectors, type TargetCase, targetCases } from './target-cases.js';

export type HarnessFactory = () => TargetHarness | Promise<TargetHarness>;

/** Runs the suite on all cases of the target. It is an error if there are none. */
export async function targetSuite(t: Test, name: string, factory: HarnessFactory): Promise<void> {
  const cases = targetCases.filter((each) => each.target === name);
  if (cases.length === 0) t.fail(`target ${name} has no case in target-cases.ts`);
  for (const each of cases) {
    await t.test(`${name}: ${each.title}`, (t) => caseSuite(t, each, factory));
  }
}

/** A target with all that belongs to it. */
class Subject {
  readonly harness: TargetHarness;
  readonly case: TargetCase;
  readonly words: readonly string[];
  device!: MiniDevice;
  /** Bytes of the arena that the target has for itself. */
  memory = 0;

  constructor(harness: TargetHarness, each: TargetCase) {
    this.harness = harness;
    this.case = each;
    this.words = each.backingSectors.map((sectors, i) => harness.makeBacking(`b${i}`, sectors));
  }

  async create(args = this.case.args(this.words)): Promise<void> {
    const { lengthSectors, target } = this.case;
    const context = contextAt(this.harness, beginSectors, lengthSectors);
    const type = findTarget(target);
    if (type === null) throw new Error(`target ${target} is not in the registry`);
    const made = await this.#wait(type.create(args, context));
    await this.#wait(made.resume?.());
    this.memory = this.harness.engine.arena.inUse;
    this.device = new MiniDevice(this.harness, made, beginSectors, lengthSectors);
  }

  /** The whole of a backing, past the target. */
  async direct(index: number): Promise<MiniDevice> {
    const sectors = this.case.backingSectors[index] as number;
    const context = contextAt(this.harness, 0, sectors);
    const target = await linear.create([this.words[index] as string, '0'], context);
    return new MiniDevice(this.harness, target, 0, sectors);
  }

  /** What a target does may take I/O. */
  async #wait<T>(what: T | Promise<T>): Promise<T> {
    return this.harness.wait(Promise.resolve(what));
  }

  async destroy(): Promise<void> {
    await this.#wait(this.device.target.destroy?.());
  }

  async end(): Promise<void> {
    await this.#wait(this.device.target.suspend?.());
    await this.destroy();
  }
}

async function caseSuite(t: Test, each: TargetCase, factory: HarnessFactory): Promise<void> {
  const run = async (name: string, body: (t: Test, subject: Subject) => Promise<void>) => {
    await t.test(name, async (t) => {
      const subject = new Subject(await factory(), each);
      await subject.create();
      await body(t, subject);
      t.equal(subject.device.underWay, 0, 'no io is lost');
      t.equal(subject.harness.ios.inUse, 0, 'every io is given back');
      const { arena } = subject.harness.engine;
      t.equal(arena.inUse, subject.memory, 'every buffer is given back');
      await subject.end();
      t.equal(arena.inUse, 0, 'those of the target too');
      await subject.harness.close();
    });
  };
  await run('says what it is', describesItself);
  await run('keeps a model of its contents under random requests', matchesModel);
  await run('leaves what is not its own alone', staysInside);
  await run('tells extents that are true', tellsExtents);
  await run('tells how deep its data is', tellsDepths);
  await run('carries out many requests at once', runsManyAtOnce);
  await run('obeys the flags of ZERO', zeroes);
  await run('takes a FLUSH and writes with FUA', flushes);
  await run('is made again from its table line', roundTrips);
}

async function describesItself(t: Test, { device }: Subject): Promise<void> {
  const { target } = device;
  t.equal(findTarget(target.type.name), target.type, 'the registry has its type');
  t.equal(target.type.version.length, 3);
  t.ok(Number.isSafeInteger(target.maxIoSectors) && target.maxIoSectors >= 0, 'maxIoSectors');
  t.equal(new Set<Backing>(target.backings).size, target.backings.length, 'each backing once');
  for (const line of [target.status(), target.table()]) {
    t.notMatch(line, /[\n\r]|^ | $| {2}/, 'words with one blank between them');
  }
}

type Request =
  | { kind: 'read' | 'holes' | 'trim' | 'zero'; offset: number; length: number }
  | { kind: 'write'; offset: number; length: number; byte: number };

/** Requests at any byte; half of them begin and end with sectors. */
function requests(bytes: number): fc.Arbitrary<Request[]> {
  const range = fc
    .tuple(fc.nat(bytes - 1), fc.integer({ min: 1, max: 40_000 }), fc.boolean())
    .map(([at, size, whole]) => {
      const offset = whole ? Math.floor(at / 512) * 512 : at;
      const rounded = whole ? Math.ceil(size / 512) * 512 : size;
      return { offset, length: Math.min(rounded, bytes - offset) };
    });
  const kind = fc.constantFrom('read', 'holes', 'trim', 'zero', 'write', 'write', 'write');
  const byte = fc.integer({ min: 1, max: 255 });
  const request = fc.tuple(kind, range, byte).map(([kind, range, byte]) => {
    return { kind, ...range, byte } as Request;
  });
  return fc.array(request, { minLength: 20, maxLength: 40 });
}

async function matchesModel(t: Test, subject: Subject): Promise<void> {
  const { keeps } = subject.case;
  const { device } = subject;
  // What a read must show; -1 where a TRIM left it open. The runs share one target.
  const model = new Int16Array(device.lengthBytes);
  const expected = keeps === 'nothing' ? EIO : 0;
  await fc.assert(
    fc.asyncProperty(requests(device.lengthBytes), async (list) => {
      for (const request of list) {
        const { kind, offset, length } = request;
        const part = model.subarray(offset, offset + length);
        let errno = 0;
        if (kind === 'write') {
          errno = await device.write(offset, pattern(length, request.byte));
          if (keeps === 'data') part.set(pattern(length, request.byte));
        } else if (kind === 'trim') {
          errno = await device.trim(offset, length);
          if (keeps === 'data') part.fill(-1);
        } else if (kind === 'zero') {
          errno = await device.zero(offset, length);
          part.fill(0);
        } else {
          const flags = kind === 'holes' ? FLAG_HOLES_OK : 0;
          const result = await device.read(offset, length, flags);
          errno = result.errno;
          if (errno === 0) checkRead(result, part, flags);
        }
        if (errno !== expected) throw new Error(`${kind}: errno ${errno}, wanted ${expected}`);
      }
    }),
    { numRuns: 10 },
  );
  t.pass('no request differs from the model');
}

function checkRead(
  result: Awaited<ReturnType<MiniDevice['read']>>,
  part: Int16Array,
  flags: number,
): void {
  const { allZero, data, extents } = result;
  if (allZero && (flags & FLAG_HOLES_OK) === 0) throw new Error('allZero was not asked for');
  if (allZero && data.some((byte) => byte !== untouched)) throw new Error('allZero, but written');
  const shown = allZero ? Buffer.alloc(data.length) : data;
  for (const [at, wanted] of part.entries()) {
    if (wanted !== -1 && shown[at] !== wanted) {
      throw new Error(`byte ${at} is ${shown[at]}, wanted ${wanted}`);
    }
  }
  if (extents.length === 0) return;
  let at = 0;
  for (const [length, bits] of extents) {
    const bytes = shown.subarray(at, at + length);
    if ((bits & EXTENT_ZERO) !== 0 && bytes.some((byte) => byte !== 0)) {
      throw new Error(`${length} bytes at ${at} are told to be zero and are not`);
    }
    at += length;
  }
  if (at !== data.length) throw new Error(`extents cover ${at} of ${data.length} bytes`);
}

async function staysInside(t: Test, subject: Subject): Promise<void> {
  const { backingSectors, owns } = subject.case;
  const before: Buffer[] = [];
  for (const [index, sectors] of backingSectors.entries()) {
    const direct = await subject.direct(index);
    before.push(Buffer.from(pattern(sectors * 512, 60 + index)));
    await direct.write(0, before[index] as Buffer);
  }
  const { device } = subject;
  const half = device.lengthBytes / 2;
  await device.write(0, pattern(half, 200));
  await device.write(half, pattern(half, 201));
  await device.zero(0, 4096);
  await device.trim(4096, 4096);
  await device.trim(device.lengthBytes - 4096, 4096);
  for (const [index, old] of before.entries()) {
    const sectors = backingSectors[index] as number;
    const { data } = await (await subject.direct(index)).read(0, sectors * 512);
    for (const [owner, first, count] of owns) {
      if (owner === index) old.copy(data, first * 512, first * 512, (first + count) * 512);
    }
    t.ok(data.equals(old), `backing ${index} has changed only where the target is`);
  }
}

async function tellsExtents(t: Test, subject: Subject): Promise<void> {
  const { device } = subject;
  const { target, lengthBytes } = device;
  await device.write(70_000, pattern(10_000, 1));
  await device.zero(131_072, 65_536);
  for (const [offset, length] of [
    [0, lengthBytes],
    [1, 1],
    [69_999, 10_002],
    [lengthBytes - 4096, 4096],
  ] as const) {
    const { errno, extents } = await device.status(offset, length);
    t.equal(errno, 0);
    t.ok(extents.length > 0, 'at least one extent');
    let at = offset;
    for (const [bytes, bits] of extents) {
      if (!target.features.extents) t.equal(bits, 0, 'data, if that is all it can tell');
      if ((bits & EXTENT_HOLE) !== 0) t.ok((bits & EXTENT_ZERO) !== 0, 'a hole is zero');
      if ((bits & EXTENT_ZERO) !== 0) {
        const { data } = await device.read(at, bytes);
        t.ok(
          data.every((byte) => byte === 0),
          'what is told to be zero is',
        );
      }
      at += bytes;
    }
    t.ok(at > offset && at <= offset + length, 'extents begin where asked and do not pass the end');
    const one = await device.status(offset, length, FLAG_ONE);
    t.equal(one.extents.length, 1, 'one extent');
    const full = await device.status(offset, length, 0, 1);
    t.equal(full.extents.length, 1, 'as many extents as the list holds');
  }
}

/** What STATUS tells of a range, byte by byte; the list may hold `capacity` extents. */
async function depthsOf(
  device: MiniDevice,
  offset: number,
  length: number,
  capacity = 16,
): Promise<number[]> {
  const depths: number[] = [];
  while (depths.length < length) {
    const at = depths.length;
    const told = await device.status(offset + at, length - at, FLAG_DEPTH, capacity);
    if (told.errno !== 0 || told.extents.length === 0) throw new Error(`errno ${told.errno}`);
    for (const [bytes, depth] of told.extents) {
      for (let i = 0; i < bytes; i++) depths.push(depth);
    }
  }
  if (depths.length > length) throw new Error('extents pass the end');
  return depths;
}

async function tellsDepths(t: Test, subject: Subject): Promise<void> {
  const { device } = subject;
  const { depth, depthUnit, writtenDepth } = subject.case;
  const { beginBytes, lengthBytes } = device;
  const wanted = new Array<number>(lengthBytes).fill(depth);
  const check = async (): Promise<void> => {
    for (const [offset, length, capacity] of [
      [0, lengthBytes, 16],
      [0, lengthBytes, 1],
      [69_999, 10_002, 16],
      [1, 1, 16],
    ] as const) {
      const found = await depthsOf(device, offset, length, capacity);
      const wrong = found.findIndex((one, i) => one !== wanted[offset + i]);
      t.equal(wrong, -1, `depths of ${length} bytes at ${offset}`);
    }
    const one = await device.status(0, lengthBytes, FLAG_DEPTH | FLAG_ONE);
    t.equal(one.extents.length, 1, 'one extent');
  };
  await check();
  for (const [offset, length] of [
    [70_000, 10_000],
    [100, 1],
    [lengthBytes - 700, 700],
  ] as const) {
    await device.write(offset, pattern(length, 3));
    // Snapshots have their chunks where the origin has them, others count from their begin.
    const base = subject.case.target === 'snapshot' ? beginBytes : 0;
    const from = Math.floor((base + offset) / depthUnit) * depthUnit - base;
    const to = Math.ceil((base + offset + length) / depthUnit) * depthUnit - base;
    wanted.fill(writtenDepth, Math.max(0, from), Math.min(lengthBytes, to));
  }
  await check();
}

async function runsManyAtOnce(t: Test, subject: Subject): Promise<void> {
  const { device, harness } = subject;
  const { arena } = harness.engine;
  const size = 3000;
  const memory = Array.from({ length: Math.floor(device.lengthBytes / size) }, (_, i) => {
    const at = arena.allocate(size);
    arena.bytes.set(pattern(size, i + 1), at);
    return at;
  });
  const all = (operation: Operation): Promise<Ended[]> => {
    const started = memory.map((at, i) => device.start(operation, i * size, size, { memory: at }));
    return harness.wait(Promise.all(started));
  };
  const expected = subject.case.keeps === 'nothing' ? EIO : 0;
  const written = await all(WRITE);
  t.ok(
    written.every(({ errno }) => errno === expected),
    'every write ends as it should',
  );
  for (const at of memory) arena.bytes.fill(untouched, at, at + size);
  const read = await all(READ);
  t.ok(
    read.every(({ errno }) => errno === expected),
    'every read ends as it should',
  );
  for (const [i, at] of memory.entries()) {
    const data = Buffer.from(arena.bytes.slice(at, at + size));
    arena.free(at, size);
    if (subject.case.keeps !== 'data') continue;
    if (!data.equals(pattern(size, i + 1))) t.fail(`request ${i} does not read what it wrote`);
  }
}

async function zeroes(t: Test, subject: Subject): Promise<void> {
  const { device } = subject;
  const expected = subject.case.keeps === 'nothing' ? EIO : 0;
  for (const flags of [0, FLAG_NO_HOLE, FLAG_FAST, FLAG_FAST | FLAG_NO_HOLE, FLAG_FUA]) {
    const old = pattern(140_000, 9);
    t.equal(await device.write(500, old), expected);
    const errno = await device.zero(1000, 139_000, flags);
    const { data, errno: readErrno } = await device.read(500, 140_000);
    t.equal(readErrno, expected);
    if (expected !== 0) {
      t.equal(errno, expected);
      continue;
    }
    if ((flags & FLAG_FAST) !== 0 && errno === EOPNOTSUPP) {
      t.ok(data.equals(old), 'nothing changed');
      continue;
    }
    t.equal(errno, 0);
    if (subject.case.keeps === 'data') old.fill(0, 500, 139_500);
    else old.fill(0);
    t.ok(data.equals(old), `reads as zeroes (flags ${flags})`);
  }
}

async function flushes(t: Test, subject: Subject): Promise<void> {
  const { device } = subject;
  const failing = subject.case.keeps === 'nothing';
  t.equal(await device.write(1, pattern(5000, 5), FLAG_FUA), failing ? EIO : 0);
  const errno = await device.flush();
  // The kernel's error target has no part in FLUSH, so it succeeds there.
  t.ok(errno === 0 || (failing && errno === EIO), `flush: errno ${errno}`);
}

async function roundTrips(t: Test, subject: Subject): Promise<void> {
  const line = subject.device.target.table();
  const version = subject.device.target.status();
  await subject.destroy();
  await subject.create(line === '' ? [] : line.split(' '));
  t.equal(subject.device.target.table(), line);
  t.equal(subject.device.target.status(), version);
  await subject.destroy();
  await subject.create();
}

function pattern(length: number, byte: number): Buffer {
  const data = Buffer.alloc(length, byte);
  // Not periodic in any block size, and not 0, which is what lost data looks like.
  for (let at = 0; at < length; at += 251) data[at] = 1 + ((at / 251 + byte) % 255);
  return data;
}
