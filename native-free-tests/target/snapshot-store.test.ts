import t, { type Test } from 'tap';
import type { Backing, Features } from '../../src/backing/backing.js';
import { FLUSH, type Io, READ, WRITE, ZERO } from '../../src/device/io.js';
import {
  Layout,
  readHeader,
  readNewChunk,
  readOldChunk,
  writeHeader,
  writeRecord,
} from '../../src/target/snapshot/format.js';
import { PersistentStore } from '../../src/target/snapshot/persistent-store.js';
import type { MergeRun } from '../../src/target/snapshot/store.js';
import { TransientStore } from '../../src/target/snapshot/transient-store.js';
import {
  context,
  Exception,
  engine,
  ios,
  logged,
  openOn,
  StoreDisk,
  settle,
  wait,
} from './store-rig.js';

/** Of a disk, as a view. */
function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Allocates; throws if the store is full. */
function allocate(store: PersistentStore | TransientStore, oldChunk: number): Exception {
  const exception = new Exception(oldChunk);
  exception.newChunk = store.allocate(exception);
  if (exception.newChunk < 0) throw new Error('the store is full');
  return exception;
}

/** Allocates and commits so many, in one turn. */
function add(store: PersistentStore, first: number, count = 1): Exception[] {
  const made: Exception[] = [];
  for (let i = 0; i < count; i++) made.push(allocate(store, first + i));
  for (const each of made) store.commit(each, true);
  settle();
  return made;
}

/** A COW with these records in its first areas, in order, and nothing else. */
function cowWith(sectors: number, chunkSectors: number, records: [number, number][]): StoreDisk {
  const disk = new StoreDisk(sectors * 512);
  const view = viewOf(disk.bytes);
  const layout = new Layout(chunkSectors);
  writeHeader(view, 0, { valid: true, chunkSectors });
  for (const [index, [oldChunk, newChunk]] of records.entries()) {
    const area = Math.floor(index / layout.recordsPerArea);
    const record = index % layout.recordsPerArea;
    writeRecord(view, layout.areaBytes(area) + record * 16, oldChunk, newChunk);
  }
  return disk;
}

/** Nothing is left of what the stores took. */
function atRest(t: Test, store: PersistentStore): void {
  store.close();
  t.equal(engine.arena.inUse, 0, 'all memory is given back');
  t.equal(ios.inUse, 0, 'all ios are given back');
}

t.test('the format', (t) => {
  t.test('has the header and the records that the kernel has', (t) => {
    const bytes = Buffer.alloc(48);
    writeHeader(viewOf(bytes), 0, { valid: true, chunkSectors: 8 });
    writeRecord(viewOf(bytes), 16, 0x123_4567_89ab, 0xff_0000_0002);
    writeRecord(viewOf(bytes), 32, 0, 3);
    const golden =
      '536e4170010000000100000008000000ab8967452301000002000000ff000000' +
      '00000000000000000300000000000000';
    t.equal(bytes.toString('hex'), golden);
    t.strictSame(readHeader(viewOf(bytes), 0), { valid: true, chunkSectors: 8 });
    t.equal(readOldChunk(viewOf(bytes), 16), 0x123_4567_89ab);
    t.equal(readNewChunk(viewOf(bytes), 16), 0xff_0000_0002);
    writeHeader(viewOf(bytes), 0, { valid: false, chunkSectors: 2 ** 21 });
    t.equal(bytes.toString('hex', 0, 16), '536e4170000000000100000000002000');
    t.strictSame(readHeader(viewOf(bytes), 0), { valid: false, chunkSectors: 2 ** 21 });
    t.equal(readHeader(viewOf(Buffer.alloc(16)), 0), null, 'a zero is no store');
    t.throws(() => writeRecord(viewOf(bytes), 0, 2 ** 44, 2), RangeError);
    t.throws(() => writeRecord(viewOf(bytes), 0, 1, 2 ** 40), RangeError);
    t.end();
  });

  t.test('has its areas where the kernel has them', (t) => {
    for (const [sectors, records, areas] of [
      [1, 32, [1, 34, 67, 100]],
      [8, 256, [1, 258, 515]],
      [32, 1024, [1, 1026, 2051]],
    ] as const) {
      const layout = new Layout(sectors);
      t.equal(layout.recordsPerArea, records);
      t.strictSame(
        areas.map((_chunk, area) => layout.areaChunk(area)),
        areas,
      );
      const found = [];
      for (let chunk = 0; chunk <= (areas.at(-1) ?? 0); chunk++) {
        if (layout.isArea(chunk)) found.push(chunk);
      }
      t.strictSame(found, areas);
      t.equal(layout.areasIn(areas[1]), 1, 'an area does not fit');
      t.equal(layout.areasIn(areas[1] + 1), 2, 'an area fits');
      t.equal(layout.dataChunk(areas[1]), areas[1] + 1);
    }
    t.end();
  });

  t.test('says how large a COW for a whole origin is', (t) => {
    for (const [sectors, origin, chunks] of [
      [1, 31, 1 + 31 + 1],
      [1, 32, 1 + 32 + 2],
      [8, 255, 1 + 255 + 1],
      [8, 256, 1 + 256 + 2],
      [8, 10_000, 1 + 10_000 + 40],
    ] as const) {
      t.equal(new Layout(sectors).chunksFor(origin), chunks);
    }
    t.end();
  });
  t.end();
});

t.test('the persistent store', async (t) => {
  t.beforeEach(() => {
    logged.length = 0;
  });

  t.test('makes a store: the first area is durable before the header', async (t) => {
    const disk = new StoreDisk(Buffer.alloc(40 * 4096, 0xdb));
    disk.bytes.fill(0, 0, 4);
    const { store, valid, found } = await openOn(disk, 8);
    t.ok(valid);
    t.equal(found.size, 0);
    t.strictSame(disk.take(4096), ['flush', 'zero 1', 'flush', 'write 0']);
    t.equal(disk.bytes.toString('hex', 0, 16), '536e4170010000000100000008000000');
    t.ok(disk.bytes.subarray(16, 8192).every((byte) => byte === 0));
    t.strictSame(store.usage(), {
      allocatedSectors: 16,
      totalSectors: 320,
      metadataSectors: 16,
    });
    atRest(t, store);
  });

  t.test('writes data, flush, area, in the order in which the kernel does', async (t) => {
    const disk = new StoreDisk(120 * 512);
    const { store } = await openOn(disk, 1);
    disk.take(512);
    t.equal(add(store, 70)[0]?.newChunk, 2);
    t.strictSame(disk.take(512), ['flush', 'write 1 FUA']);
    t.strictSame(
      add(store, 200, 4).map(({ newChunk }) => newChunk),
      [3, 4, 5, 6],
    );
    t.strictSame(disk.take(512), ['flush', 'write 1 FUA'], 'one for four');
    add(store, 300, 26);
    disk.take(512);
    t.equal(add(store, 400)[0]?.newChunk, 33);
    t.strictSame(disk.take(512), ['zero 34', 'flush', 'write 1 FUA'], 'the area is full');
    t.strictSame(store.usage(), { allocatedSectors: 35, totalSectors: 120, metadataSectors: 3 });
    t.equal(add(store, 401)[0]?.newChunk, 35, 'the area is passed over');
    t.strictSame(disk.take(512), ['flush', 'write 34 FUA']);
    const golden = Buffer.alloc(512);
    golden.writeUInt32LE(401, 0);
    golden.writeUInt32LE(35, 8);
    t.ok(disk.bytes.subarray(34 * 512, 35 * 512).equals(golden));
    t.equal(viewOf(disk.bytes).getUint32(512, true), 70);
    t.equal(viewOf(disk.bytes).getUint32(512 + 31 * 16 + 8, true), 33);
    atRest(t, store);
  });

  t.test('ends a group with its area', async (t) => {
    const disk = new StoreDisk(200 * 512);
    const { store } = await openOn(disk, 1);
    disk.take(512);
    const made = add(store, 0, 70);
    t.ok(made.every(({ told }) => told === true));
    t.strictSame(disk.take(512), [
      ...['zero 34', 'flush', 'write 1 FUA'],
      ...['zero 67', 'flush', 'write 34 FUA'],
      ...['flush', 'write 67 FUA'],
    ]);
    atRest(t, store);
    const again = await openOn(disk, 1);
    t.equal(again.found.size, 70);
    t.equal(again.found.get(69), made[69]?.newChunk);
    atRest(t, again.store);
  });

  t.test('writes the pieces of a large area one after the other, after one flush', async (t) => {
    const disk = new StoreDisk(700 * 32 * 512);
    const { store } = await openOn(disk, 32);
    disk.take(4096);
    add(store, 0, 600);
    t.strictSame(disk.take(4096), ['flush', 'write 4 FUA', 'write 5 FUA', 'write 6 FUA']);
    add(store, 1000, 1);
    t.strictSame(disk.take(4096), ['flush', 'write 6 FUA'], 'the piece that has changed');
    atRest(t, store);
    const again = await openOn(disk, 32);
    t.equal(again.found.size, 601);
    add(again.store, 2000, 3);
    atRest(t, again.store);
    const third = await openOn(disk, 32);
    t.equal(third.found.size, 604);
    atRest(t, third.store);
  });

  t.test('commits in order of allocation, and early arrivals wait', async (t) => {
    const disk = new StoreDisk(100 * 512);
    const { store } = await openOn(disk, 1);
    disk.take(512);
    const order: number[] = [];
    const made = [10, 11, 12].map((oldChunk) => {
      const exception = new Exception(oldChunk, () => void order.push(oldChunk));
      exception.newChunk = store.allocate(exception);
      return exception;
    });
    const [first, second, third] = made as [Exception, Exception, Exception];
    store.commit(third, true);
    settle();
    t.equal(third.told, null);
    t.strictSame(disk.take(512), []);
    store.commit(first, true);
    settle();
    t.strictSame(order, [10]);
    t.strictSame(disk.take(512), ['flush', 'write 1 FUA']);
    store.commit(second, true);
    settle();
    t.strictSame(order, [10, 11, 12]);
    t.strictSame(disk.take(512), ['flush', 'write 1 FUA']);
    atRest(t, store);
  });

  t.test('what arrives while a group is written is the next group', async (t) => {
    const disk = new StoreDisk(100 * 512);
    const { store } = await openOn(disk, 1);
    disk.take(512);
    disk.pace = 'held';
    const made = [1, 2, 3, 4].map((oldChunk) => allocate(store, oldChunk));
    store.commit(made[0] as Exception, true);
    settle();
    t.strictSame(disk.take(512), ['flush']);
    for (const each of made.slice(1)) store.commit(each, true);
    settle();
    disk.release();
    settle();
    t.strictSame(disk.take(512), ['write 1 FUA']);
    const idle = store.idle();
    disk.release();
    t.strictSame(
      made.map(({ told }) => told),
      [true, null, null, null],
    );
    settle();
    t.strictSame(disk.take(512), ['flush'], 'without waiting for anybody');
    disk.release();
    settle();
    disk.release();
    t.ok(made.every(({ told }) => told === true));
    await wait(idle);
    atRest(t, store);
  });

  t.test('is the same over a disk that answers at once', async (t) => {
    const disk = new StoreDisk(5000 * 512);
    const { store } = await openOn(disk, 1);
    disk.pace = 'at once';
    let committed = 0;
    // Each that is told makes the next: a thousand groups, and no recursion.
    const make = (oldChunk: number): void => {
      const exception = new Exception(oldChunk, () => {
        committed++;
        if (oldChunk < 3000) make(oldChunk + 1);
      });
      exception.newChunk = store.allocate(exception);
      store.commit(exception, true);
    };
    make(1);
    settle();
    t.equal(committed, 3000);
    atRest(t, store);
    const again = await openOn(disk, 1);
    t.equal(again.found.size, 3000);
    atRest(t, again.store);
  });

  t.test('is full when the COW is, or when the next area does not fit', async (t) => {
    for (const { sectors, holds, usage } of [
      { sectors: 35, holds: 32, usage: [35, 35, 3] },
      { sectors: 34, holds: 31, usage: [33, 34, 2] },
      { sectors: 33, holds: 31, usage: [33, 33, 2] },
      { sectors: 36, holds: 33, usage: [36, 36, 3] },
      { sectors: 2, holds: 0, usage: [2, 2, 2] },
    ] as const) {
      const disk = new StoreDisk(sectors * 512);
      const { store } = await openOn(disk, 1);
      for (let i = 0; i < holds; i++) add(store, i);
      t.equal(store.allocate(new Exception(99)), -1, `${sectors} sectors hold ${holds}`);
      t.ok(store.valid);
      const { allocatedSectors, totalSectors, metadataSectors } = store.usage();
      t.strictSame([allocatedSectors, totalSectors, metadataSectors], usage);
      atRest(t, store);
      const again = await openOn(disk, 1);
      t.equal(again.found.size, holds);
      t.equal(again.store.allocate(new Exception(99)), -1);
      t.strictSame(again.store.usage(), store.usage());
      atRest(t, again.store);
    }
  });

  t.test('goes on when the COW grows, or another takes its place', async (t) => {
    const disk = new StoreDisk(34 * 512);
    const { store } = await openOn(disk, 1);
    add(store, 0, 31);
    t.equal(store.allocate(new Exception(31)), -1);
    disk.grow(36 * 512);
    disk.take(512);
    t.equal(add(store, 31)[0]?.newChunk, 33);
    t.strictSame(disk.take(512), ['zero 34', 'flush', 'write 1 FUA'], 'no garbage is left there');
    t.equal(add(store, 32)[0]?.newChunk, 35);
    t.equal(store.allocate(new Exception(33)), -1);
    const longer = new StoreDisk(Buffer.concat([disk.bytes, Buffer.alloc(512)]));
    store.moveTo(longer);
    t.equal(add(store, 33)[0]?.newChunk, 36);
    t.strictSame(longer.take(512), ['flush', 'write 34 FUA']);
    t.equal(store.usage().totalSectors, 37);
    atRest(t, store);
    const again = await openOn(longer, 1);
    t.equal(again.found.size, 34);
    atRest(t, again.store);
  });

  t.test('takes a COW whose last area is full, and begins the next once it fits', async (t) => {
    const records = Array.from({ length: 32 }, (_, i): [number, number] => [i, i + 2]);
    const disk = cowWith(34, 1, records);
    const { store, found } = await openOn(disk, 1);
    t.equal(found.size, 32);
    t.strictSame(store.usage(), { allocatedSectors: 35, totalSectors: 34, metadataSectors: 3 });
    t.equal(store.allocate(new Exception(50)), -1);
    disk.grow(40 * 512);
    disk.take(512);
    t.equal(add(store, 50)[0]?.newChunk, 35);
    t.strictSame(disk.take(512), ['zero 34', 'flush', 'write 34 FUA']);
    atRest(t, store);
    const again = await openOn(disk, 1);
    t.equal(again.found.size, 33);
    atRest(t, again.store);
  });

  t.test('clears what is behind the end of the list, so that it never comes back', async (t) => {
    for (const chunkSectors of [1, 8, 32]) {
      const layout = new Layout(chunkSectors);
      const disk = cowWith(100 * chunkSectors, chunkSectors, [
        [5, 2],
        [6, 3],
      ]);
      const view = viewOf(disk.bytes);
      // What a torn write may leave: a hole, and then records.
      for (let record = 4; record < layout.recordsPerArea; record += 7) {
        writeRecord(view, layout.areaBytes(0) + record * 16, 1000 + record, 4 + (record % 50));
      }
      const { store, found } = await openOn(disk, chunkSectors);
      t.strictSame(
        [...found],
        [
          [5, 2],
          [6, 3],
        ],
      );
      const area = disk.bytes.subarray(
        layout.areaBytes(0),
        layout.areaBytes(0) + layout.chunkBytes,
      );
      t.ok(area.subarray(32).every((byte) => byte === 0));
      add(store, 20, 4);
      atRest(t, store);
      const again = await openOn(disk, chunkSectors);
      t.equal(again.found.size, 6);
      atRest(t, again.store);
    }
  });

  t.test('reads ahead, and finds its place behind many areas', async (t) => {
    const layout = new Layout(1);
    const records: [number, number][] = [];
    for (let chunk = 2; records.length < 1000; chunk = layout.dataChunk(chunk + 1)) {
      records.push([5000 - records.length, chunk]);
    }
    const disk = cowWith(1100, 1, records);
    const { store, found } = await openOn(disk, 1);
    t.strictSame([...found], records);
    t.ok(disk.reads < 40 + 15, `${disk.reads} reads`);
    t.equal(add(store, 9999)[0]?.newChunk, layout.dataChunk((records.at(-1)?.[1] ?? 0) + 1));
    atRest(t, store);
  });

  t.test('the chunk size on disk wins', async (t) => {
    const disk = cowWith(400, 4, [[9, 2]]);
    const { store, found } = await openOn(disk, 8);
    t.equal(store.chunkSectors, 4);
    t.equal(found.get(9), 2);
    t.strictSame(logged, ['the chunk size in the COW wins over the one asked for']);
    atRest(t, store);
    const small = cowWith(40, 1, [[9, 2]]);
    const again = await openOn(small, 32);
    t.equal(again.store.chunkSectors, 1, 'even where two of those asked for do not fit');
    atRest(t, again.store);
  });

  t.test('says so when it is invalid, and does nothing', async (t) => {
    const disk = cowWith(100, 1, [[9, 2]]);
    writeHeader(viewOf(disk.bytes), 0, { valid: false, chunkSectors: 1 });
    const { store, valid, found } = await openOn(disk, 1);
    t.equal(valid, false);
    t.equal(store.valid, false);
    t.equal(found.size, 0);
    t.equal(store.allocate(new Exception(1)), -1);
    store.invalidate();
    settle();
    // Only what the opening did.
    t.strictSame(disk.take(512), ['flush']);
    await t.rejects(wait(lastRun(store)), { code: 'EIO' });
    atRest(t, store);
  });

  t.test('becomes invalid for good', async (t) => {
    const disk = new StoreDisk(100 * 512);
    const { store } = await openOn(disk, 1);
    add(store, 1, 3);
    disk.take(512);
    const waiting = allocate(store, 10);
    const early = allocate(store, 11);
    store.commit(early, true);
    store.invalidate();
    t.equal(early.told, false, 'nobody waits any more');
    t.equal(waiting.told, null, 'its data has not arrived');
    store.commit(waiting, true);
    t.equal(waiting.told, false);
    store.invalidate();
    await wait(store.idle());
    t.strictSame(disk.take(512), ['write 0 FUA'], 'once');
    t.equal(disk.bytes.toString('hex', 0, 16), '536e4170000000000100000001000000');
    t.equal(viewOf(disk.bytes).getUint32(512, true), 1, 'the exceptions are left');
    atRest(t, store);
    const again = await openOn(disk, 1);
    t.equal(again.valid, false);
    atRest(t, again.store);
  });

  t.test('marks itself invalid behind the group that is under way', async (t) => {
    const disk = new StoreDisk(100 * 512);
    const { store } = await openOn(disk, 1);
    disk.take(512);
    disk.pace = 'held';
    const made = [allocate(store, 1), allocate(store, 2)] as const;
    store.commit(made[0], true);
    settle();
    disk.release();
    t.strictSame(disk.take(512), ['flush', 'write 1 FUA']);
    store.commit(made[1], true);
    store.invalidate();
    t.equal(made[1].told, false);
    const idle = store.idle();
    disk.release();
    t.equal(made[0].told, false, 'it is durable, and worth nothing');
    t.strictSame(disk.take(512), ['write 0 FUA']);
    disk.release();
    await wait(idle);
    atRest(t, store);
  });

  t.test('a copy that fails makes it invalid, and nothing more is written', async (t) => {
    const disk = new StoreDisk(100 * 512);
    const { store } = await openOn(disk, 1);
    disk.take(512);
    const made = [1, 2, 3].map((oldChunk) => allocate(store, oldChunk));
    const [first, second, third] = made as [Exception, Exception, Exception];
    store.commit(third, true);
    store.commit(second, false);
    t.equal(second.told, false);
    t.equal(third.told, false);
    t.equal(store.valid, false);
    store.commit(first, true);
    t.equal(first.told, false);
    settle();
    t.strictSame(disk.take(512), []);
    t.equal(store.allocate(new Exception(4)), -1);
    atRest(t, store);
  });

  for (const failing of ['flush', 'write'] as const) {
    t.test(`a ${failing} that fails makes it invalid`, async (t) => {
      const disk = new StoreDisk(100 * 512);
      const { store } = await openOn(disk, 1);
      const kept = add(store, 1, 2);
      disk.failing = failing;
      const lost = add(store, 3, 2);
      t.ok(kept.every(({ told }) => told === true));
      t.ok(lost.every(({ told }) => told === false));
      t.equal(store.valid, false);
      t.strictSame(logged, ['cannot write snapshot metadata']);
      disk.failing = null;
      disk.take(512);
      store.invalidate();
      settle();
      t.strictSame(disk.take(512), ['write 0 FUA']);
      atRest(t, store);
    });
  }

  t.test('rejects what it cannot have written', async (t) => {
    const rejected = async (
      disk: StoreDisk,
      code: string,
      message: RegExp,
      chunkSectors = 1,
      originChunks = 1000,
    ): Promise<void> => {
      await t.rejects(openOn(disk, chunkSectors, originChunks), { code, message });
      t.match(await failure(openOn(disk, chunkSectors, originChunks)), message);
      t.equal(engine.arena.inUse, 0);
      t.equal(ios.inUse, 0);
    };
    const header = (at: number, value: number): StoreDisk => {
      const disk = cowWith(100, 1, []);
      disk.bytes.writeUInt32LE(value, at);
      return disk;
    };
    const first = /^Failed to read snapshot metadata: /;
    await rejected(header(0, 0x12345678), 'ENXIO', /found magic 0x12345678, wanted 0x70416e53/);
    await rejected(header(0, 0x12345678), 'ENXIO', first);
    await rejected(header(8, 2), 'EINVAL', /found version 2, wanted 1$/);
    await rejected(header(8, 2), 'EINVAL', first);
    await rejected(header(12, 0), 'EINVAL', /Chunk size is not a power of 2/);
    await rejected(header(12, 3), 'EINVAL', /Chunk size is not a power of 2/);
    await rejected(header(12, 2 ** 22), 'EINVAL', /Chunk size is too high/);
    await rejected(header(12, 2 ** 31), 'EINVAL', first);
    await rejected(header(12, 64), 'EIO', /a COW of 100 sectors, wanted at least 128/);
    await rejected(new StoreDisk(512), 'EIO', /a COW of 1 sectors, wanted at least 2/);
    await rejected(new StoreDisk(0), 'EIO', /wanted at least 1/);
    for (const [records, message] of [
      [[[1, 100]], /found chunk 100 of the COW in record 0, wanted one of its 100$/],
      [[[1, 34]], /chunk 34 of the COW in record 0, which is a metadata area/],
      [[[1, 1]], /chunk 1 of the COW in record 0, which is a metadata area/],
      [[[1000, 2]], /chunk 1000 of the origin in record 0, wanted one of its 1000$/],
      [
        [
          [1, 2],
          [2, 5],
          [3, 2],
        ],
        /chunk 2 of the COW in two records/,
      ],
      [
        [
          [1, 2],
          [2, 3],
          [2, 9],
        ],
        /chunk 2 of the origin in two records/,
      ],
    ] as [[number, number][], RegExp][]) {
      await rejected(cowWith(100, 1, records), 'EINVAL', message);
      await rejected(cowWith(100, 1, records), 'EINVAL', first);
    }
    const huge = cowWith(100, 1, [[1, 2]]);
    huge.bytes.fill(0xff, 512, 520);
    await rejected(huge, 'EINVAL', /chunk 18446744073709551615 of the origin/);
    huge.bytes.fill(0, 512, 520);
    huge.bytes.fill(0xff, 520, 528);
    await rejected(huge, 'EINVAL', /chunk 18446744073709551615 of the COW/);
    const unreadable = cowWith(100, 1, [[1, 2]]);
    unreadable.failing = 'read';
    await rejected(unreadable, 'EIO', /cannot read the header: EIO/);
    const unwritable = new StoreDisk(100 * 512);
    unwritable.failing = 'write';
    await rejected(unwritable, 'EIO', /cannot write a new store: EIO/);
  });

  t.test('has areas of 1 GiB without holding or writing one', async (t) => {
    const disk = new SparseDisk(8 * 2 ** 30);
    const make = () => new PersistentStore(context, disk, 2 ** 21, 2 ** 40);
    const store = make();
    t.ok(await wait(store.open(() => t.fail('nothing is there'))));
    t.equal(engine.arena.inUse, 4096);
    const made = add(store, 1000, 5);
    t.strictSame(
      made.map(({ newChunk, told }) => [newChunk, told]),
      [2, 3, 4, 5, 6].map((chunk) => [chunk, true]),
    );
    t.equal(disk.pages.size, 2, 'a header and a piece');
    t.equal(disk.zeroedBytes, 2 * 2 ** 30 - 4096, 'the first two chunks are zeroes');
    atRest(t, store);
    const again = make();
    const found: number[][] = [];
    t.ok(await wait(again.open((...run) => found.push(run))));
    t.strictSame(found, [[1000, 2, 5]]);
    atRest(t, again);
  });
  t.end();
});

/** The last run alone. */
async function lastRun(store: PersistentStore): Promise<MergeRun | null> {
  const [run] = await store.merge.lastRuns(Number.MAX_SAFE_INTEGER);
  return run ?? null;
}

t.test('merging', async (t) => {
  /** Takes everything out; returns the runs. */
  const mergeAll = async (store: PersistentStore): Promise<MergeRun[]> => {
    const runs: MergeRun[] = [];
    for (;;) {
      const run = await wait(lastRun(store));
      if (run === null) return runs;
      runs.push(run);
      await wait(store.merge.forget(run.count));
    }
  };

  t.test('goes from the last run to the first, as the kernel does', async (t) => {
    const layout = new Layout(1);
    const olds = [100, 200, 201, 202, 203, 7];
    for (let chunk = 300; chunk <= 326; chunk++) olds.push(chunk);
    let next = 2;
    const records = olds.map((oldChunk): [number, number] => {
      const record: [number, number] = [oldChunk, next];
      next = layout.dataChunk(next + 1);
      return record;
    });
    const disk = cowWith(64, 1, records);
    const { store } = await openOn(disk, 1);
    const runs = await mergeAll(store);
    t.strictSame(runs, [
      { oldChunk: 326, newChunk: 35, count: 1 },
      { oldChunk: 300, newChunk: 8, count: 26 },
      { oldChunk: 7, newChunk: 7, count: 1 },
      { oldChunk: 200, newChunk: 3, count: 4 },
      { oldChunk: 100, newChunk: 2, count: 1 },
    ]);
    const written = disk.events.map(({ what, offset, data, fua }) => {
      if (what === 'flush') return 'flush';
      let used = 0;
      while (used < 32 && data.readUInt32LE(used * 16 + 8) !== 0) used++;
      return `${offset / 512}: ${used}${fua ? ' FUA' : ''}`;
    });
    t.strictSame(written, [
      // Once by the opening, then before each area.
      ...['flush', 'flush', '34: 0 FUA', 'flush', '1: 6 FUA', 'flush', '1: 5 FUA'],
      ...['flush', '1: 1 FUA', 'flush', '1: 0 FUA'],
    ]);
    t.strictSame(store.usage(), { allocatedSectors: 2, totalSectors: 64, metadataSectors: 2 });
    t.equal(store.allocate(new Exception(1)), -1, 'there are no new exceptions');
    await wait(store.idle());
    atRest(t, store);
    const again = await openOn(disk, 1);
    t.equal(again.found.size, 0);
    atRest(t, again.store);
  });

  t.test('gives several runs of one area, as many chunks as were asked for', async (t) => {
    const disk = new StoreDisk(200 * 512);
    const { store } = await openOn(disk, 1);
    for (const oldChunk of [5, 6, 7, 20, 30, 31]) add(store, oldChunk);
    disk.take(512);
    t.strictSame(await wait(store.merge.lastRuns(5)), [
      { oldChunk: 30, newChunk: 6, count: 2 },
      { oldChunk: 20, newChunk: 5, count: 1 },
      { oldChunk: 6, newChunk: 3, count: 2 },
    ]);
    await wait(store.merge.forget(5));
    t.strictSame(disk.take(512), ['flush', 'write 1 FUA'], 'they share the flush');
    t.strictSame(await wait(store.merge.lastRuns(5)), [{ oldChunk: 5, newChunk: 2, count: 1 }]);
    await wait(store.merge.forget(1));
    t.strictSame(await wait(store.merge.lastRuns(5)), []);
    atRest(t, store);
    t.equal((await reopened(disk)).size, 0);
  });

  t.test('takes runs over several pieces, the last piece first', async (t) => {
    const disk = new StoreDisk(700 * 32 * 512);
    const { store } = await openOn(disk, 32);
    add(store, 9, 1);
    add(store, 1000, 600);
    disk.take(4096);
    const run = await wait(lastRun(store));
    t.strictSame(run, { oldChunk: 1000, newChunk: 3, count: 600 });
    await wait(store.merge.forget((run as MergeRun).count));
    t.strictSame(
      disk.take(4096),
      ['flush', 'zero 6 FUA', 'zero 5 FUA', 'write 4 FUA'],
      'the first has a record left',
    );
    t.strictSame(store.usage(), {
      allocatedSectors: 3 * 32,
      totalSectors: 700 * 32,
      metadataSectors: 2 * 32,
    });
    atRest(t, store);
    const again = await openOn(disk, 32);
    t.strictSame([...again.found], [[9, 2]]);
    atRest(t, again.store);
  });

  t.test('goes on after a crash, or in the middle of an area', async (t) => {
    const disk = new StoreDisk(200 * 512);
    const made = await openOn(disk, 1);
    for (let i = 0; i < 40; i++) add(made.store, 1000 - 3 * i);
    atRest(t, made.store);
    const left = new Map([...(await reopened(disk))]);
    while (left.size > 0) {
      const { store, found } = await openOn(disk, 1);
      t.strictSame([...found], [...left]);
      for (let i = 0; i < 7 && left.size > 0; i++) {
        const run = (await wait(lastRun(store))) as MergeRun;
        t.equal(left.get(run.oldChunk), run.newChunk);
        left.delete(run.oldChunk);
        await wait(store.merge.forget(run.count));
      }
      store.close();
    }
    t.equal((await reopened(disk)).size, 0);
  });

  t.test('a store that becomes invalid meanwhile says so behind it', async (t) => {
    const disk = new StoreDisk(200 * 512);
    const { store } = await openOn(disk, 1);
    add(store, 1, 3);
    disk.take(512);
    const run = (await wait(lastRun(store))) as MergeRun;
    const forgotten = store.merge.forget(run.count);
    store.invalidate();
    const idle = store.idle();
    await wait(forgotten);
    await wait(idle);
    t.strictSame(disk.take(512), ['flush', 'zero 1 FUA', 'write 0 FUA']);
    t.equal(viewOf(disk.bytes).getUint32(4, true), 0);
    atRest(t, store);
  });

  t.test('tells of errors, and can be tried again', async (t) => {
    const disk = new StoreDisk(200 * 512);
    const { store } = await openOn(disk, 1);
    add(store, 1, 40);
    const run = (await wait(lastRun(store))) as MergeRun;
    t.equal(run.count, 8);
    for (const failing of ['flush', 'write'] as const) {
      disk.failing = failing;
      const message = /cannot (flush the COW|write area 1) of the snapshot's metadata/;
      t.match(await failure(store.merge.forget(run.count)), message);
      await wait(store.idle());
    }
    disk.failing = 'read';
    t.match(await failure(lastRun(store)), /cannot read area 1 of the snapshot's metadata/);
    disk.failing = null;
    t.strictSame(await wait(lastRun(store)), run);
    await wait(store.merge.forget(run.count));
    t.equal((await wait(lastRun(store)))?.count, 32);
    const tooMany = store.merge.forget(33);
    t.match(await failure(tooMany), /found 33, wanted at most 32/);
    atRest(t, store);
  });
  t.end();
});

t.test('the transient store', (t) => {
  t.test('hands out chunks from 0 on, and commits at once and in any order', async (t) => {
    const disk = new StoreDisk(5 * 8 * 512 + 512);
    const store = new TransientStore(disk, 8);
    t.ok(await store.open());
    const made = [5, 6, 7].map((oldChunk) => allocate(store, oldChunk));
    t.strictSame(
      made.map(({ newChunk }) => newChunk),
      [0, 1, 2],
    );
    t.strictSame(store.usage(), { allocatedSectors: 24, totalSectors: 41, metadataSectors: 0 });
    store.commit(made[2] as Exception, true);
    t.strictSame(
      made.map(({ told }) => told),
      [null, null, true],
    );
    store.commit(made[0] as Exception, true);
    store.commit(made[1] as Exception, true);
    t.ok(made.every(({ told }) => told === true));
    t.strictSame(disk.events, []);
    t.equal(store.merge, null);
    await store.idle();
  });

  t.test('is full, and goes on when the COW grows', (t) => {
    const disk = new StoreDisk(2 * 512);
    const store = new TransientStore(disk, 1);
    allocate(store, 1);
    allocate(store, 2);
    t.equal(store.allocate(new Exception(3)), -1);
    t.ok(store.valid);
    disk.grow(3 * 512);
    t.equal(store.allocate(new Exception(3)), 2);
    store.moveTo(new StoreDisk(4 * 512));
    t.equal(store.allocate(new Exception(4)), 3);
    t.equal(store.allocate(new Exception(5)), -1);
    t.end();
  });

  t.test('a copy that fails makes it invalid', (t) => {
    const store = new TransientStore(new StoreDisk(100 * 512), 1);
    const made = [1, 2, 3].map((oldChunk) => allocate(store, oldChunk));
    store.commit(made[0] as Exception, true);
    store.commit(made[1] as Exception, false);
    store.commit(made[2] as Exception, true);
    t.strictSame(
      made.map(({ told }) => told),
      [true, false, false],
    );
    t.equal(store.valid, false);
    t.equal(store.allocate(new Exception(4)), -1);
    t.end();
  });

  t.test('in order, as the benchmark has it, early arrivals wait', (t) => {
    const store = new TransientStore(new StoreDisk(100 * 512), 1, true);
    const order: number[] = [];
    const made = [1, 2, 3, 4, 5].map((oldChunk) => {
      const exception = new Exception(oldChunk, () => void order.push(oldChunk));
      exception.newChunk = store.allocate(exception);
      return exception;
    });
    store.commit(made[2] as Exception, true);
    store.commit(made[1] as Exception, true);
    t.strictSame(order, []);
    store.commit(made[0] as Exception, true);
    t.strictSame(order, [1, 2, 3]);
    store.commit(made[4] as Exception, true);
    store.commit(made[3] as Exception, false);
    t.strictSame(order, [1, 2, 3, 4, 5]);
    t.strictSame(
      made.map(({ told }) => told),
      [true, true, true, false, false],
    );
    t.end();
  });
  t.end();
});

/** The text of the error with which a promise is rejected. */
async function failure(promise: Promise<unknown>): Promise<string> {
  try {
    await wait(promise);
  } catch (error) {
    return (error as Error).message;
  }
  return 'no error';
}

/** What a store on that disk finds. */
async function reopened(disk: StoreDisk): Promise<Map<number, number>> {
  const { store, found } = await openOn(disk, 1);
  store.close();
  return found;
}

/** A disk of gigabytes, of which only the pages that are not zero are there. */
class SparseDisk implements Backing {
  readonly name = '/huge';
  readonly identity = {};
  readonly features: Features = {
    writable: true,
    trim: false,
    fastZero: true,
    extents: false,
    rotational: false,
    blockBytes: 1,
  };
  readonly pages = new Map<number, Buffer>();
  zeroedBytes = 0;
  readonly #bytes: number;

  constructor(bytes: number) {
    this.#bytes = bytes;
  }

  size(): number {
    return this.#bytes;
  }

  submit(io: Io): void {
    engine.start(() => 0, { done: () => io.complete(this.#carryOut(io)) });
  }

  #carryOut(io: Io): number {
    const { backingOffset: offset, length, memory, operation } = io;
    if (operation === FLUSH) return 0;
    if (offset % 4096 !== 0 || length % 4096 !== 0) return 22;
    if (operation === ZERO) {
      this.zeroedBytes += length;
      for (const page of this.pages.keys()) {
        if (page * 4096 >= offset && page * 4096 < offset + length) this.pages.delete(page);
      }
      return 0;
    }
    const { bytes } = engine.arena;
    for (let at = 0; at < length; at += 4096) {
      const page = (offset + at) / 4096;
      const buffer = bytes.subarray(memory + at, memory + at + 4096);
      const held = this.pages.get(page);
      if (operation === READ && held !== undefined) buffer.set(held);
      else if (operation === READ) buffer.fill(0);
      else if (operation === WRITE) this.pages.set(page, Buffer.from(buffer));
    }
    return 0;
  }
}
