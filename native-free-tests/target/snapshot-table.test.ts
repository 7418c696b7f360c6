import fc from 'fast-check';
import t from 'tap';
import {
  ExceptionTable,
  newChunksMax,
  oldChunksMax,
} from '../../src/target/snapshot/exception-table.js';
import { random } from '../contract/pattern.js';

/** Memory that a table has at once: a segment of pages, a page for good measure, a directory. */
const beginBytes = 65_536 + 4096 + 256;

/** The slow oracle. */
class Model {
  readonly map = new Map<number, number>();

  insertRun(oldChunk: number, newChunk: number, count: number): void {
    for (let i = 0; i < count; i++) this.map.set(oldChunk + i, newChunk + i);
  }

  isFree(oldChunk: number, count: number): boolean {
    for (let i = 0; i < count; i++) if (this.map.has(oldChunk + i)) return false;
    return true;
  }

  runLength(oldChunk: number, max: number): number {
    const newChunk = this.map.get(oldChunk);
    if (newChunk === undefined) return 0;
    let length = 1;
    while (length < max && this.map.get(oldChunk + length) === newChunk + length) length++;
    return length;
  }

  filledLength(oldChunk: number, max: number): number {
    let length = 0;
    while (length < max && this.map.has(oldChunk + length)) length++;
    return length;
  }

  gapLength(oldChunk: number, max: number): number {
    let length = 0;
    while (length < max && !this.map.has(oldChunk + length)) length++;
    return length;
  }
}

/** The table tells it leaf by leaf. */
function filledLength(table: ExceptionTable, oldChunk: number, max: number): number {
  let length = 0;
  for (let more = -1; length < max && more !== 0; length += more) {
    more = table.filledLength(oldChunk + length, max - length);
    if (more > max - length) throw new Error('more than was asked for');
  }
  return length;
}

/** Everything that the table says is what the map says. */
function mismatch(table: ExceptionTable, model: Model): string | null {
  if (table.count !== model.map.size) return `counts ${table.count}, not ${model.map.size}`;
  let before = -1;
  let seen = 0;
  let wrong: string | null = null;
  table.each((oldChunk, newChunk, count) => {
    if (oldChunk <= before) wrong = `${oldChunk} comes behind ${before}`;
    before = oldChunk + count - 1;
    seen += count;
    for (let i = 0; i < count; i++) {
      if (model.map.get(oldChunk + i) !== newChunk + i) wrong = `has ${oldChunk + i} wrong`;
    }
  });
  if (seen !== model.map.size) return `shows ${seen} of ${model.map.size}`;
  for (const [oldChunk, newChunk] of model.map) {
    if (table.find(oldChunk) !== newChunk) return `finds ${table.find(oldChunk)} for ${oldChunk}`;
  }
  return wrong;
}

/** Where the next insert or removal goes, in a domain of so many chunks. */
const shapes: Record<string, (next: (limit: number) => number, i: number, n: number) => number> = {
  random: (next, _i, n) => next(n),
  ascending: (_next, i, n) => (i * 3) % n,
  descending: (_next, i, n) => n - 1 - ((i * 3) % n),
  clustered: (next, i, n) => (next(8) * Math.floor(n / 8) + i) % n,
  'ascending, now and then behind': (next, i, n) => Math.max(0, i * 2 - next(3) * next(900)) % n,
};

t.test('is a map with runs: any shape of inserts and removals', (t) => {
  const property = fc.property(
    fc.integer({ min: 1 }),
    fc.constantFrom(...Object.keys(shapes)),
    // Around the border of two windows as well.
    fc.constantFrom(0, 2 ** 32 - 4000, 2 ** 43),
    fc.integer({ min: 1, max: 40 }),
    fc.integer({ min: 0, max: 30 }),
    (seed, shape, base, runMax, removals) => {
      const next = random(seed);
      const table = new ExceptionTable();
      const model = new Model();
      const place = shapes[shape] as (typeof shapes)[string];
      const chunks = 12_000;
      let newChunk = seed % 2 === 0 ? 2 : newChunksMax - 2 ** 20;
      for (let i = 0; i < 6000; i++) {
        const at = base + place(next, i, chunks);
        const count = 1 + next(runMax);
        if (next(100) < removals) {
          for (let j = 0; j < count; j++) model.map.delete(at + j);
          table.remove(at, count);
          continue;
        }
        if (table.gapLength(at, count) !== model.gapLength(at, count)) return false;
        if (model.isFree(at, count)) {
          // Sometimes a hole in the COW, so that neighbours do not always join.
          newChunk += next(3) === 0 ? 1 : 0;
          table.insertRun(at, newChunk, count);
          model.insertRun(at, newChunk, count);
          newChunk += count;
        } else if (table.runLength(at, 300) !== model.runLength(at, 300)) {
          return false;
        }
      }
      for (let at = base - (base > 0 ? 500 : 0); at < base + chunks; at += 1 + next(5)) {
        if (table.runLength(at, 600) !== model.runLength(at, 600)) return false;
        if (table.gapLength(at, 600) !== model.gapLength(at, 600)) return false;
        if (filledLength(table, at, 600) !== model.filledLength(at, 600)) return false;
        if (table.find(at) !== (model.map.get(at) ?? -1)) return false;
      }
      const wrong = mismatch(table, model);
      if (wrong !== null) throw new Error(wrong);
      table.remove(0, oldChunksMax);
      return table.count === 0 && table.find(base + 5) === -1;
    },
  );
  t.doesNotThrow(() => fc.assert(property, { numRuns: 60 }));
  t.end();
});

t.test('holds 200,000 exceptions in at most 16 bytes each, whatever their order', (t) => {
  const n = 200_000;
  const orders: Record<string, (next: (limit: number) => number, i: number) => number> = {
    ascending: (_next, i) => 2 * i,
    descending: (_next, i) => 2 * (n - i),
    random: (next) => next(2 ** 31) * 4 + next(4),
    // Each leaf that becomes full at the end is hit in its middle at once.
    'ascending, with one behind': (_next, i) => (i % 410 === 409 ? 20 * i - 3001 : 20 * i),
    'from both ends': (_next, i) => (i % 2 === 0 ? i * 3 : 2 ** 31 - i * 3),
    clustered: (next, i) => next(50) * 2 ** 25 + 2 * i,
  };
  for (const [name, order] of Object.entries(orders)) {
    const next = random(11);
    const table = new ExceptionTable();
    const model = new Map<number, number>();
    let worst = 0;
    for (let i = 0; i < n; i++) {
      const oldChunk = order(next, i);
      if (table.gapLength(oldChunk, 1) === 0) continue;
      // Every other chunk of the COW: no two exceptions make a run.
      table.insert(oldChunk, 2 * i);
      model.set(oldChunk, 2 * i);
      worst = Math.max(worst, (table.bytes - beginBytes) / table.count);
    }
    t.ok(worst <= 16, `${name}: ${worst.toFixed(2)} bytes an exception`);
    t.equal(table.count, model.size);
    let wrong = 0;
    for (const [oldChunk, newChunk] of model) if (table.find(oldChunk) !== newChunk) wrong++;
    t.equal(wrong, 0, `${name}: all are found`);
  }
  t.end();
});

t.test('packs runs', (t) => {
  const table = new ExceptionTable();
  const runs = (): number[][] => {
    const found: number[][] = [];
    table.each((...run) => found.push(run));
    return found;
  };

  t.test('joins what follows, what comes before, and what it bridges', (t) => {
    table.insert(10, 100);
    table.insert(11, 101);
    table.insert(8, 98);
    t.strictSame(runs(), [
      [8, 98, 1],
      [10, 100, 2],
    ]);
    table.insert(9, 99);
    t.strictSame(runs(), [[8, 98, 4]]);
    t.equal(table.runLength(9, 100), 3);
    t.equal(table.runLength(9, 2), 2);
    t.equal(table.runLength(7, 100), 0);
    t.equal(table.runLength(12, 100), 0);
    t.equal(table.gapLength(12, 7), 7);
    t.equal(table.gapLength(0, 100), 8);
    t.equal(table.gapLength(11, 100), 0);
    t.equal(table.filledLength(9, 100), 3);
    t.equal(table.filledLength(9, 2), 2);
    t.equal(table.filledLength(7, 100), 0);
    t.end();
  });

  t.test('does not join chunks that are apart in the COW', (t) => {
    table.insert(12, 200);
    t.equal(runs().length, 2);
    t.equal(table.runLength(11, 10), 1);
    t.equal(table.filledLength(11, 10), 2, 'but all of them are there');
    t.end();
  });

  t.test('cuts a run at either end and in its middle', (t) => {
    table.remove(8, 1);
    t.strictSame(runs(), [
      [9, 99, 3],
      [12, 200, 1],
    ]);
    table.remove(10, 1);
    t.strictSame(runs(), [
      [9, 99, 1],
      [11, 101, 1],
      [12, 200, 1],
    ]);
    table.remove(9, 3);
    t.strictSame(runs(), [[12, 200, 1]]);
    t.equal(table.count, 1);
    t.end();
  });

  t.test('finds a run of a million chunks in a few thousand entries', (t) => {
    table.insertRun(2 ** 32 - 500_000, 2 ** 33, 1_000_000);
    t.equal(table.runLength(2 ** 32 - 500_000, 2 ** 30), 1_000_000);
    t.equal(table.runLength(2 ** 32 + 5, 2 ** 30), 499_995);
    t.equal(table.find(2 ** 32 + 499_999), 2 ** 33 + 999_999);
    t.equal(table.find(2 ** 32 + 500_000), -1);
    t.ok(table.bytes < 2 * beginBytes, `${table.bytes} bytes`);
    table.remove(2 ** 32 - 500_000, 1_000_000);
    t.strictSame(runs(), [[12, 200, 1]]);
    t.end();
  });
  t.end();
});

t.test('gives all memory back when the last exception goes', (t) => {
  const table = new ExceptionTable();
  const empty = table.bytes;
  for (let i = 0; i < 5000; i++) table.insert(3 * i, 2 * i);
  t.ok(table.bytes > empty);
  for (let i = 4999; i >= 0; i--) table.remove(3 * i, 1);
  t.equal(table.bytes, empty);
  t.equal(table.find(0), -1);
  table.insert(oldChunksMax - 1, newChunksMax - 1);
  t.equal(table.find(oldChunksMax - 1), newChunksMax - 1, 'and serves again, to the last chunk');
  t.end();
});

t.test('uses memory again that removals leave', (t) => {
  const table = new ExceptionTable();
  const next = random(5);
  const kept: number[] = [];
  for (let i = 0; kept.length < 30_000; i++) {
    const at = next(2 ** 30);
    if (table.gapLength(at, 1) === 0) continue;
    table.insert(at, 2 * i);
    kept.push(at);
  }
  const full = table.bytes;
  for (let round = 0; round < 4; round++) {
    for (const at of kept.splice(0, 25_000)) table.remove(at, 1);
    for (let i = 0; kept.length < 30_000; i++) {
      const at = next(2 ** 30);
      if (table.gapLength(at, 1) === 0) continue;
      table.insert(at, 2 * i);
      kept.push(at);
    }
  }
  t.equal(table.count, 30_000);
  t.ok(table.bytes <= full + 2 * 65_536, `${table.bytes} bytes, ${full} at first`);
  t.end();
});

t.test('rejects a second exception for a chunk, and chunks that are too large', (t) => {
  const table = new ExceptionTable();
  table.insertRun(10, 2, 5);
  t.throws(() => table.insert(12, 50), /once/);
  t.throws(() => table.insertRun(8, 50, 3), /once/);
  t.throws(() => table.insert(oldChunksMax, 2), /44 bits/);
  t.throws(() => table.insert(1, newChunksMax), /40 bits/);
  t.end();
});
