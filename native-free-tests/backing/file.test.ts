import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { FileBacking } from '../../src/backing/file.js';
import { HoleCache } from '../../src/backing/hole-cache.js';
import { EIO, ENOSPC, EOPNOTSUPP } from '../../src/base/errno.js';
import { blockBytesMax, errorLogsPerSecond } from '../../src/base/limits.js';
import { ErrorLog } from '../../src/device/error-log.js';
import { EXTENT_HOLE, EXTENT_ZERO } from '../../src/device/extent-list.js';
import {
  FLAG_FAST,
  FLAG_FUA,
  FLAG_HOLES_OK,
  FLAG_NO_HOLE,
  FLAG_ONE,
  FLUSH,
  IoPool,
  type Operation,
  READ,
  STATUS,
  TRIM,
  WRITE,
  ZERO,
} from '../../src/device/io.js';
import type { EngineFile } from '../../src/engine/engine.js';
import { random } from '../contract/pattern.js';
import { type Ended, type Extras, IoClient, pattern } from '../device/io-client.js';
import { type Call, Disk, fileBlockBytes, ScriptedEngine } from './scripted-engine.js';

const hole = EXTENT_HOLE | EXTENT_ZERO;

/** A file backing over a scripted disk. */
class Bench {
  readonly engine = new ScriptedEngine(8 * 2 ** 20);
  readonly ios = new IoPool();
  readonly holes = new HoleCache();
  readonly disk: Disk;
  readonly logged: string[] = [];
  readonly file: EngineFile;
  readonly backing: FileBacking;
  readonly client: IoClient;

  constructor(bytes: number, abilities: Partial<Disk> = {}, direct = false) {
    this.disk = Object.assign(new Disk(this.engine, '/disk', bytes), abilities);
    const log = (_fields: object, text: string): void => void this.logged.push(text);
    const errors = new ErrorLog(this.engine, {
      debug: log,
      info: log,
      warn: log,
      error: log,
    });
    this.file = this.engine.open('/disk', { writable: true, direct });
    const buffered = direct
      ? this.engine.open('/disk', { writable: true, direct: false })
      : this.file;
    this.backing = new FileBacking(this.engine, this.file, buffered, this.holes, errors);
    this.client = new IoClient(this.engine, this.ios, (io) => this.backing.submit(io));
  }

  run(operation: Operation, offset: number, length: number, extras: Extras = {}): Promise<Ended> {
    return this.engine.wait(this.client.run(operation, offset, length, extras));
  }

  async errno(operation: Operation, offset: number, length: number, flags = 0): Promise<number> {
    return (await this.run(operation, offset, length, { flags })).errno;
  }

  write(offset: number, data: Uint8Array, flags = 0): Promise<Ended> {
    return this.run(WRITE, offset, data.length, { data, flags });
  }

  /** Nothing is left of what was done. */
  atRest(): void {
    if (this.client.underWay !== 0) throw new Error(`${this.client.underWay} ios have not ended`);
    if (this.ios.inUse !== 0) throw new Error(`${this.ios.inUse} ios were not given back`);
    const { inUse } = this.engine.arena;
    if (inUse !== 0) throw new Error(`${inUse} bytes were not given back`);
    if (this.holes.writes !== 0) throw new Error(`${this.holes.writes} writes are under way`);
  }
}

const KiB64 = 65_536;

t.test('continues short transfers where they ended', async (t) => {
  const bench = new Bench(KiB64);
  const lengths = fc.array(fc.integer({ min: 1, max: 5000 }), {
    minLength: 1,
    maxLength: 6,
  });
  const range = fc.record({
    offset: fc.nat(30_000),
    length: fc.integer({ min: 1, max: 20_000 }),
  });
  await fc.assert(
    fc.asyncProperty(lengths, range, fc.boolean(), async (lengths, { offset, length }, fua) => {
      let next = 0;
      bench.disk.script = () => lengths[next++ % lengths.length];
      const data = pattern(length, offset);
      const { errno } = await bench.write(offset, data, fua ? FLAG_FUA : 0);
      const written = bench.disk.takeCalls();
      const read = await bench.run(READ, offset, length);
      if (errno !== 0 || read.errno !== 0) throw new Error(`errno ${errno} and ${read.errno}`);
      if (!read.data.equals(data)) throw new Error('read something else than was written');
      const before = bench.disk.bytes[offset + length];
      if (before !== undefined && before !== 0 && next === 0) throw new Error('written too much');
      if (fua && !written.every((call) => call.endsWith('fua'))) throw new Error('FUA was lost');
      bench.disk.takeCalls();
      bench.atRest();
    }),
    { numRuns: 60 },
  );
  bench.disk.script = () => 3000;
  await bench.run(READ, 10, 7000);
  t.same(bench.disk.takeCalls(), ['read 10+7000', 'read 3010+4000', 'read 6010+1000']);
});

t.test('answers EIO, and says so, when the file has become shorter', async (t) => {
  const bench = new Bench(KiB64);
  bench.disk.script = (call) => (call.offset === 0 ? 100 : 0);
  t.equal(await bench.errno(READ, 0, 4096), EIO);
  t.equal((await bench.write(0, pattern(4096, 1))).errno, EIO);
  t.same(bench.logged, [
    'read of 4096 bytes at 0 of /disk failed: end of file',
    'write of 4096 bytes at 0 of /disk failed: end of file',
  ]);
  bench.atRest();
});

t.test('answers with the errno of the disk, and logs it', async (t) => {
  const bench = new Bench(KiB64);
  bench.disk.script = () => -ENOSPC;
  for (const [operation, name] of [
    [READ, 'read'],
    [WRITE, 'write'],
    [TRIM, 'trim'],
    [ZERO, 'zero'],
  ] as const) {
    bench.logged.length = 0;
    t.equal(await bench.errno(operation, 512, 1024), ENOSPC, name);
    t.same(bench.logged, [`${name} of 1024 bytes at 512 of /disk failed: ENOSPC`]);
  }
  t.equal(await bench.errno(FLUSH, 0, 0), ENOSPC);
  t.equal(await bench.errno(ZERO, 0, 512, FLAG_NO_HOLE), ENOSPC);
  for (const [operation, flags] of [
    [READ, 0],
    [WRITE, FLAG_FUA],
    [FLUSH, 0],
  ] as const) {
    bench.disk.script = () => -EOPNOTSUPP;
    t.equal(await bench.errno(operation, 0, 512, flags), EOPNOTSUPP, 'there is no other way');
  }
  bench.disk.script = (call) =>
    call.what === 'read' ? (call.offset === 0 ? 10 : -EIO) : undefined;
  t.equal(await bench.errno(READ, 0, 512), EIO, 'in the middle');
  bench.atRest();
});

t.test('logs no more than so many failures in a second, and counts the others', async (t) => {
  const bench = new Bench(KiB64);
  bench.disk.script = () => -EIO;
  for (let i = 0; i < errorLogsPerSecond + 5; i++) await bench.run(READ, 0, 512);
  t.equal(bench.logged.length, errorLogsPerSecond);
  bench.engine.advance(1000);
  await bench.run(READ, 0, 512);
  t.equal(bench.logged.length, errorLogsPerSecond + 2, 'how many were not told, and the new one');
});

/** What each kind of file does with ZERO and TRIM: the calls that reach the disk. */
const ways: {
  title: string;
  abilities: Partial<Disk>;
  refuses?: Call['what'][];
  operation: Operation;
  flags: number;
  errno?: number;
  calls: string[];
}[] = [
  {
    title: 'TRIM punches',
    abilities: {},
    operation: TRIM,
    flags: 0,
    calls: ['trim 100+200000'],
  },
  {
    title: 'TRIM with FUA punches and flushes',
    abilities: {},
    operation: TRIM,
    flags: FLAG_FUA,
    calls: ['trim 100+200000', 'flush'],
  },
  {
    title: 'TRIM is nothing where it cannot punch',
    abilities: { canTrim: false },
    operation: TRIM,
    flags: 0,
    calls: [],
  },
  {
    title: 'TRIM is nothing where punching is refused',
    abilities: {},
    refuses: ['trim'],
    operation: TRIM,
    flags: 0,
    calls: ['trim 100+200000'],
  },
  {
    title: 'ZERO punches if it can',
    abilities: {},
    operation: ZERO,
    flags: 0,
    calls: ['trim 100+200000'],
  },
  {
    title: 'ZERO with FUA punches and flushes',
    abilities: {},
    operation: ZERO,
    flags: FLAG_FUA | FLAG_FAST,
    calls: ['trim 100+200000', 'flush'],
  },
  {
    title: 'ZERO that keeps the space zeroes the range',
    abilities: {},
    operation: ZERO,
    flags: FLAG_NO_HOLE,
    calls: ['zero 100+200000'],
  },
  {
    title: 'ZERO with FUA that keeps the space zeroes the range and flushes',
    abilities: {},
    operation: ZERO,
    flags: FLAG_NO_HOLE | FLAG_FUA,
    calls: ['zero 100+200000', 'flush'],
  },
  {
    title: 'ZERO zeroes the range where it cannot punch',
    abilities: { canTrim: false },
    operation: ZERO,
    flags: FLAG_FAST,
    calls: ['zero 100+200000'],
  },
  {
    title: 'ZERO zeroes the range where punching is refused',
    abilities: {},
    refuses: ['trim'],
    operation: ZERO,
    flags: FLAG_FAST | FLAG_FUA,
    calls: ['trim 100+200000', 'zero 100+200000', 'flush'],
  },
  {
    title: 'ZERO writes zeroes where it can do nothing else',
    abilities: { canTrim: false, canZero: false },
    operation: ZERO,
    flags: FLAG_FUA,
    calls: ['write 100+200000 fua'],
  },
  {
    title: 'ZERO writes zeroes where all else is refused',
    abilities: {},
    refuses: ['trim', 'zero'],
    operation: ZERO,
    flags: 0,
    calls: ['trim 100+200000', 'zero 100+200000', 'write 100+200000'],
  },
  {
    title: 'ZERO that keeps the space writes zeroes where it cannot zero the range',
    abilities: { canZero: false },
    operation: ZERO,
    flags: FLAG_NO_HOLE,
    calls: ['write 100+200000'],
  },
  {
    title: 'ZERO in haste fails where it would have to write',
    abilities: { canTrim: false, canZero: false },
    operation: ZERO,
    flags: FLAG_FAST,
    errno: EOPNOTSUPP,
    calls: [],
  },
  {
    title: 'ZERO in haste that keeps the space fails where the range is refused',
    abilities: {},
    refuses: ['zero'],
    operation: ZERO,
    flags: FLAG_FAST | FLAG_NO_HOLE,
    errno: EOPNOTSUPP,
    calls: ['zero 100+200000'],
  },
];

t.test('carries out TRIM and ZERO as well as the file can', async (t) => {
  for (const { title, abilities, refuses = [], operation, flags, errno = 0, calls } of ways) {
    t.test(title, async (t) => {
      const bench = new Bench(300_000, abilities);
      const old = pattern(300_000, 7);
      bench.disk.bytes.set(old);
      bench.disk.allocated.fill(1);
      bench.disk.script = ({ what }) => (refuses.includes(what) ? -EOPNOTSUPP : undefined);
      t.equal(await bench.errno(operation, 100, 200_000, flags), errno);
      t.same(bench.disk.takeCalls(), calls);
      if (operation === ZERO && errno === 0) old.fill(0, 100, 200_100);
      if (operation === TRIM && calls.length > 0 && refuses.length === 0) old.fill(0, 100, 200_100);
      t.ok(old.equals(bench.disk.bytes), 'only what was asked for has changed');
      t.equal(await bench.errno(operation, 100, 200_000, flags), errno);
      const again = calls.filter((call) => !refuses.some((what) => call.startsWith(what)));
      t.same(bench.disk.takeCalls(), again, 'what was refused is not tried again');
      bench.atRest();
    });
  }
});

t.test('writes many zeroes in pieces, continues short ones, and stops at an error', async (t) => {
  const bench = new Bench(3 * blockBytesMax, {
    canTrim: false,
    canZero: false,
  });
  bench.disk.bytes.fill(9);
  const length = 2 * blockBytesMax + 1000;
  t.equal(await bench.errno(ZERO, 10, length), 0);
  t.same(bench.disk.takeCalls(), [
    `write 10+${blockBytesMax}`,
    `write ${10 + blockBytesMax}+${blockBytesMax}`,
    `write ${10 + 2 * blockBytesMax}+1000`,
  ]);
  t.equal(bench.disk.bytes.indexOf(0), 10);
  t.equal(bench.disk.bytes.indexOf(9, 10), 10 + length);
  bench.disk.script = ({ offset }) => (offset === 0 ? 600 : offset === 600 ? -ENOSPC : undefined);
  t.equal(await bench.errno(ZERO, 0, 2000), ENOSPC);
  t.same(bench.disk.takeCalls(), ['write 0+2000', 'write 600+1400']);
  bench.disk.script = () => 0;
  t.equal(await bench.errno(ZERO, 0, 2000), EIO);
  bench.atRest();
});

t.test('answers with the error of the flush behind a TRIM or ZERO with FUA', async (t) => {
  const bench = new Bench(KiB64);
  bench.disk.script = ({ what }) => (what === 'flush' ? -EIO : undefined);
  t.equal(await bench.errno(TRIM, 0, 4096, FLAG_FUA), EIO);
  t.equal(await bench.errno(ZERO, 0, 4096, FLAG_FUA), EIO);
  t.equal(await bench.errno(ZERO, 0, 4096, FLAG_FUA | FLAG_NO_HOLE), EIO);
  t.equal(await bench.errno(TRIM, 0, 4096), 0);
  bench.atRest();
});

t.test('does not answer a TRIM or ZERO with FUA before it is flushed', async (t) => {
  const bench = new Bench(KiB64);
  for (const flags of [FLAG_FUA, FLAG_FUA | FLAG_NO_HOLE]) {
    let ended = false;
    bench.client.send(ZERO, 0, 4096, { flags }, () => {
      ended = true;
    });
    bench.engine.end(0);
    t.equal(ended, false, 'it is zeroed');
    t.equal(bench.engine.underWay.length, 1);
    bench.engine.end(0);
    t.equal(ended, true, 'it is flushed');
  }
});

t.test('zeroes what is less than a block of a block device by writing', async (t) => {
  const bench = new Bench(KiB64, { eraseAlignmentBytes: 4096 });
  bench.disk.bytes.fill(5);
  t.equal(await bench.errno(ZERO, 512, 1024), 0);
  t.equal(await bench.errno(ZERO, 512, 1024, FLAG_NO_HOLE), 0);
  t.same(
    bench.disk.takeCalls().filter((call) => call.startsWith('write')),
    ['write 512+1024', 'write 512+1024'],
  );
  t.ok(bench.disk.bytes.subarray(512, 1536).every((byte) => byte === 0));
  t.equal(await bench.errno(ZERO, 512, 1024, FLAG_FAST), EOPNOTSUPP, 'that is not fast');
  t.equal(await bench.errno(TRIM, 512, 1024), 0, 'a hint that cannot be followed');
  bench.disk.takeCalls();
  t.equal(await bench.errno(ZERO, 4096, 8192), 0);
  t.equal(await bench.errno(ZERO, 4096, 8192, FLAG_NO_HOLE), 0);
  t.same(bench.disk.takeCalls(), ['trim 4096+8192', 'zero 4096+8192'], 'whole blocks go as before');
  t.equal(bench.logged.length, 0);
  bench.atRest();
});

t.test('takes any offset, length and buffer under O_DIRECT', async (t) => {
  await t.test('whole pages go there directly', async (t) => {
    const bench = new Bench(KiB64, {}, true);
    await bench.write(4096, pattern(8192, 1));
    await bench.run(READ, 8192, 4096);
    await bench.errno(FLUSH, 0, 0);
    t.same(bench.disk.takeCalls(), [
      'write 4096+8192 direct',
      'read 8192+4096 direct',
      'flush direct',
    ]);
    t.equal(bench.backing.features.blockBytes, 4096);
  });
  await t.test(
    'anything else goes through the page cache, also if the disk would take it',
    async (t) => {
      const bench = new Bench(KiB64, {}, true);
      for (const [offset, length] of [
        [1, 512],
        [512, 4096],
        [4096, 513],
        [4096, 512],
        [100, 100],
      ] as const) {
        const data = pattern(length, 2);
        await bench.write(offset, data, FLAG_FUA);
        t.same((await bench.run(READ, offset, length)).data, data);
        const range = `${offset}+${length}`;
        t.same(bench.disk.takeCalls(), [`write ${range} fua`, `read ${range}`]);
      }
    },
  );
  await t.test('an unaligned buffer is copied to or from an aligned one', async (t) => {
    const bench = new Bench(KiB64, {}, true);
    const data = pattern(8192, 3);
    await bench.run(WRITE, 4096, 8192, { data, skew: 28 });
    const read = await bench.run(READ, 4096, 8192, { skew: 100 });
    t.same(bench.disk.takeCalls(), ['write 4096+8192 direct', 'read 4096+8192 direct']);
    t.ok(read.data.equals(data));
    bench.atRest();
  });
  await t.test('the copy comes back when the disk fails', async (t) => {
    const bench = new Bench(KiB64, { script: () => -EIO }, true);
    t.equal((await bench.run(WRITE, 0, 4096, { data: pattern(4096, 1), skew: 1 })).errno, EIO);
    t.equal((await bench.run(READ, 0, 4096, { skew: 1 })).errno, EIO);
    bench.atRest();
  });
  await t.test('without memory for a copy it goes through the page cache', async (t) => {
    const bench = new Bench(KiB64, {}, true);
    const { arena } = bench.engine;
    const data = pattern(4096, 4);
    const ended = bench.client.run(WRITE, 0, 4096, { data, skew: 1 });
    await bench.engine.wait(ended);
    const blocks: number[] = [];
    const last = arena.allocate(8192);
    for (let block = arena.allocate(4096); block >= 0; block = arena.allocate(4096)) {
      blocks.push(block);
    }
    arena.free(last, 8192);
    bench.disk.takeCalls();
    const read = await bench.run(READ, 0, 4096, { skew: 1 });
    t.same(bench.disk.takeCalls(), ['read 0+4096'], 'the buffer took all there was');
    t.ok(read.data.equals(data));
    for (const block of blocks) arena.free(block, 4096);
    bench.atRest();
  });
  await t.test('the rest of a short transfer goes where it can', async (t) => {
    const bench = new Bench(KiB64, {}, true);
    bench.disk.script = ({ length }) =>
      length === 16_384 ? 8192 : length === 8192 ? 1024 : undefined;
    for (const skew of [0, 9]) {
      const data = pattern(16_384, 5 + skew);
      await bench.run(WRITE, 0, 16_384, { data, skew });
      const read = await bench.run(READ, 0, 16_384, { skew });
      t.ok(read.data.equals(data));
      const ranges = ['0+16384 direct', '8192+8192 direct', '9216+7168'];
      t.same(bench.disk.takeCalls(), [
        ...ranges.map((range) => `write ${range}`),
        ...ranges.map((range) => `read ${range}`),
      ]);
    }
    bench.atRest();
  });
  await t.test('zeroes are written through the page cache', async (t) => {
    const bench = new Bench(KiB64, { canTrim: false, canZero: false }, true);
    bench.disk.bytes.fill(1);
    await bench.errno(ZERO, 5, 4096);
    t.same(bench.disk.takeCalls(), ['write 5+4096']);
  });
  await t.test('random requests read what was written', async () => {
    const bench = new Bench(KiB64, { alignmentBytes: 4096 }, true);
    const next = random(7);
    bench.engine.shuffle(next);
    bench.disk.script = ({ length }) => (next(3) === 0 ? 1 + next(length) : undefined);
    const model = Buffer.alloc(KiB64);
    const unit = fc.constantFrom(1, 512, 4096);
    const request = fc.record({
      unit,
      at: fc.nat(15),
      units: fc.integer({ min: 1, max: 4 }),
    });
    await fc.assert(
      fc.asyncProperty(
        request,
        fc.nat(5000),
        fc.boolean(),
        async ({ unit, at, units }, skew, w) => {
          const offset = unit * at;
          const length = Math.min(unit * units, KiB64 - offset);
          if (length <= 0) return;
          if (w) {
            const data = pattern(length, skew);
            data.copy(model, offset);
            await bench.run(WRITE, offset, length, { data, skew });
          }
          const { data } = await bench.run(READ, offset, length, { skew });
          if (!data.equals(model.subarray(offset, offset + length))) throw new Error('other data');
          if (!model.equals(bench.disk.bytes)) throw new Error('another place was written');
          bench.atRest();
        },
      ),
      { numRuns: 200 },
    );
  });
});

t.test('describes extents', async (t) => {
  const fresh = (abilities: Partial<Disk> = {}): Bench => {
    const bench = new Bench(10 * fileBlockBytes, abilities);
    bench.disk.allocate(2 * fileBlockBytes, 3 * fileBlockBytes);
    bench.disk.allocate(5 * fileBlockBytes, 7 * fileBlockBytes);
    return bench;
  };
  const block = fileBlockBytes;
  const all = [
    [2 * block, hole],
    [block, 0],
    [2 * block, hole],
    [2 * block, 0],
    [3 * block, hole],
  ];
  const status = async (bench: Bench, offset: number, length: number, extras: Extras = {}) => {
    const { errno, extents } = await bench.run(STATUS, offset, length, extras);
    t.equal(errno, 0);
    return extents;
  };
  t.same(await status(fresh(), 0, 10 * block), all);
  t.same(await status(fresh(), block + 1, 2 * block), [
    [block - 1, hole],
    [block, 0],
    [1, hole],
  ]);
  t.same(await status(fresh(), 0, 10 * block, { flags: FLAG_ONE }), all.slice(0, 1));
  t.same(await status(fresh(), 0, 10 * block, { capacity: 3 }), all.slice(0, 3), 'a full list');
  t.same(await status(fresh({ canExtents: false }), 7, 9 * block), [[9 * block, 0]]);
  const cut = fresh();
  cut.disk.bytes = cut.disk.bytes.slice(0, 6 * block);
  t.same(
    await status(cut, 4 * block, 6 * block),
    [
      [block, hole],
      [5 * block, 0],
    ],
    'behind the end of a file that was cut there is no telling',
  );
});

const readHoles = { flags: FLAG_HOLES_OK, capacity: 16 };

t.test('reads known holes without the disk, for whoever understands that', async (t) => {
  const learn: [string, (bench: Bench) => Promise<unknown>][] = [
    ['TRIM', (bench) => bench.run(TRIM, 8192, 8192)],
    ['ZERO', (bench) => bench.run(ZERO, 8192, 8192)],
    ['STATUS', (bench) => bench.run(STATUS, 8192, 8192)],
  ];
  for (const [title, teach] of learn) {
    await t.test(`learnt from ${title}`, async (t) => {
      const bench = new Bench(KiB64);
      if (title !== 'STATUS') await bench.write(0, pattern(KiB64, 1));
      else {
        await bench.write(0, pattern(8192, 1));
        await bench.write(16_384, pattern(8192, 1));
      }
      await teach(bench);
      bench.disk.takeCalls();
      const inside = await bench.run(READ, 9000, 5000, readHoles);
      t.ok(inside.allZero);
      t.same(bench.disk.takeCalls(), [], 'without the disk');
      t.ok((await bench.run(READ, 8192, 8192, readHoles)).allZero, 'up to its edges');
      t.notOk((await bench.run(READ, 8191, 8193, readHoles)).allZero, 'a byte before it');
      t.notOk((await bench.run(READ, 8192, 8193, readHoles)).allZero, 'a byte behind it');
      bench.disk.takeCalls();
      const plain = await bench.run(READ, 9000, 5000);
      t.notOk(plain.allZero);
      t.same(bench.disk.takeCalls(), ['read 9000+5000'], 'who does not understand gets zeroes');
      const across = await bench.run(READ, 8000, 1000, readHoles);
      t.same(across.extents, [
        [192, 0],
        [808, hole],
      ]);
      t.ok(across.data.equals(bench.disk.bytes.subarray(8000, 9000)), 'the buffer is filled');
      t.same((await bench.run(READ, 0, 4096, readHoles)).extents, [], 'nothing known there');
    });
  }
  await t.test('not learnt from ZERO that keeps the space, or that writes', async (t) => {
    const bench = new Bench(KiB64);
    await bench.run(ZERO, 0, 8192, { flags: FLAG_NO_HOLE });
    t.equal(bench.holes.count, 0);
    const writing = new Bench(KiB64, { canTrim: false, canZero: false });
    await writing.run(ZERO, 0, 8192);
    t.equal(writing.holes.count, 0);
    await writing.run(TRIM, 0, 8192);
    t.equal(writing.holes.count, 0, 'a TRIM that did nothing has not made a hole');
  });
  await t.test('not learnt from a TRIM that failed', async (t) => {
    const bench = new Bench(KiB64, { script: () => -EIO });
    await bench.run(TRIM, 0, 8192);
    t.equal(bench.holes.count, 0);
  });
});

t.test('forgets a hole as soon as something is written there', async (t) => {
  const forget: [string, (bench: Bench) => void][] = [
    ['WRITE', (b) => b.client.send(WRITE, 4096, 4096, { data: pattern(4096, 1) }, () => {})],
    [
      'ZERO that keeps the space',
      (b) => b.client.send(ZERO, 4096, 4096, { flags: FLAG_NO_HOLE }, () => {}),
    ],
  ];
  for (const [title, write] of forget) {
    await t.test(title, async (t) => {
      const bench = new Bench(KiB64);
      await bench.run(TRIM, 0, KiB64);
      write(bench);
      t.notOk(bench.holes.covers(4096, 4097), 'while it is under way');
      t.ok(bench.holes.covers(0, 4096) && bench.holes.covers(8192, KiB64));
      while (bench.engine.turn());
      t.notOk(bench.holes.covers(8191, 8192), 'afterwards');
      const read = await bench.run(READ, 4096, 4096, readHoles);
      t.notOk(read.allZero);
      t.ok(read.data.equals(bench.disk.bytes.subarray(4096, 8192)));
      bench.atRest();
    });
  }
});

t.test('learns no hole while a write may fill it', async (t) => {
  /** Starts operations and ends them in the order of `ends`; the hole must not be known after it. */
  const never = (t: Test, start: ('write' | 'trim' | 'status')[], ends: number[]): void => {
    const bench = new Bench(KiB64);
    for (const what of start) {
      if (what === 'write') {
        bench.client.send(WRITE, 4096, 4096, { data: pattern(4096, 1) }, () => {});
      } else {
        bench.client.send(what === 'trim' ? TRIM : STATUS, 0, 16_384, {}, () => {});
      }
    }
    for (const index of ends) bench.engine.end(index);
    t.notOk(bench.holes.covers(4096, 8192), `${start} ended as ${ends}`);
    bench.atRest();
  };
  never(t, ['write', 'trim'], [0, 0]);
  never(t, ['write', 'trim'], [1, 0]);
  never(t, ['trim', 'write'], [0, 0]);
  never(t, ['trim', 'write'], [1, 0]);
  never(t, ['write', 'status'], [0]);
  await t.test('also if the write has come and gone in the meantime', async (t) => {
    const bench = new Bench(KiB64);
    bench.client.send(TRIM, 0, 16_384, {}, () => {});
    bench.client.send(WRITE, 4096, 4096, { data: pattern(4096, 1) }, () => {});
    bench.engine.end(1);
    t.equal(bench.holes.writes, 0);
    bench.engine.end(0);
    t.equal(bench.holes.count, 0);
  });
  await t.test('also if it failed, since it may have written something', async (t) => {
    const bench = new Bench(KiB64);
    bench.disk.script = ({ what }) => (what === 'write' ? -EIO : undefined);
    bench.client.send(TRIM, 0, 16_384, {}, () => {});
    bench.client.send(WRITE, 4096, 4096, { data: pattern(4096, 1) }, () => {});
    while (bench.engine.turn());
    t.equal(bench.holes.count, 0);
  });
});

/** Sectors of the disk in the property below. */
const sectors = 64;

t.test('never takes data for a hole, whatever is under way', async (t) => {
  const range = fc
    .tuple(fc.nat(sectors - 1), fc.integer({ min: 1, max: 24 }))
    .map(([at, count]) => [at * 512, Math.min(count, sectors - at) * 512] as const);
  const flags = fc.constantFrom(0, 0, FLAG_FUA, FLAG_NO_HOLE, FLAG_FAST);
  const step = fc.oneof(
    fc.record({
      what: fc.constantFrom(WRITE, WRITE, TRIM, ZERO, STATUS, READ),
      range,
      flags,
    }),
    fc.record({ what: fc.constant('end' as const), range, flags }),
    fc.record({ what: fc.constant('end' as const), range, flags }),
  );
  const refusals = fc.constantFrom<Call['what'][]>([], [], ['zero'], ['trim'], ['trim', 'zero']);
  const property = fc.asyncProperty(
    fc.array(step, { minLength: 20, maxLength: 120, size: 'max' }),
    fc.integer(),
    refusals,
    fc.boolean(),
    async (steps, seed, refused, direct) => {
      const bench = new Bench(sectors * 512, {}, direct);
      const next = random(seed);
      bench.engine.shuffle(next);
      bench.disk.script = ({ what, length }) => {
        if (refused.includes(what)) return -EOPNOTSUPP;
        const chance = next(12);
        if (chance === 0) return -EIO;
        return chance === 1 && (what === 'read' || what === 'write') ? 1 + next(length) : undefined;
      };
      const { disk, holes } = bench;
      const check = (): void => {
        for (let at = 0; at < disk.bytes.length; at += 512) {
          if (!holes.covers(at, at + 512)) continue;
          const sector = disk.bytes.subarray(at, at + 512);
          if (sector.some((byte) => byte !== 0)) throw new Error(`sector ${at / 512} is no hole`);
        }
      };
      for (const [i, { what, range, flags }] of steps.entries()) {
        const [offset, length] = range;
        if (what === 'end') bench.engine.turn();
        else if (what === WRITE) {
          bench.client.send(WRITE, offset, length, { data: pattern(length, i), flags }, () => {});
        } else if (what === READ) {
          bench.client.send(READ, offset, length, readHoles, (ended) => {
            if (ended.allZero) check();
          });
        } else {
          bench.client.send(what, offset, length, { flags, capacity: 8 }, () => {});
        }
        check();
      }
      while (bench.engine.turn()) check();
      bench.disk.script = () => undefined;
      for (let at = 0; at < disk.bytes.length; at += 1024) {
        const { data, extents } = await bench.run(READ, at, 1024, readHoles);
        if (!data.equals(disk.bytes.subarray(at, at + 1024)))
          throw new Error(`other data at ${at}`);
        const total = extents.reduce((sum, [length]) => sum + length, 0);
        if (extents.length > 0 && total !== 1024) throw new Error('extents do not cover the read');
      }
      bench.atRest();
    },
  );
  await fc.assert(property, { numRuns: 150 });
  t.pass('every hole is one');
});

t.test('says what the file can do', async (t) => {
  t.same(new Bench(4096).backing.features, {
    writable: true,
    trim: true,
    fastZero: true,
    extents: true,
    rotational: false,
    blockBytes: 1,
  });
  const { features } = new Bench(4096, {
    canTrim: false,
    canZero: false,
    rotational: true,
  }).backing;
  t.same([features.trim, features.fastZero, features.rotational], [false, false, true]);
  t.equal(new Bench(4096, { canTrim: false }).backing.features.fastZero, true);
  t.equal(new Bench(4096).backing.size(), 4096);
});
