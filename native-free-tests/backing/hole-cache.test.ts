import fc from 'fast-check';
import t from 'tap';
import { HoleCache } from '../../src/backing/hole-cache.js';
import { holesPerFile, holesPerRead } from '../../src/base/limits.js';
import { EXTENT_HOLE, EXTENT_ZERO, ExtentList } from '../../src/device/extent-list.js';

const size = 200;

/** Runs of equal bytes as pairs of length and flags, as an extent list shows them. */
function runs(bytes: Uint8Array): [number, number][] {
  const list: [number, number][] = [];
  for (const byte of bytes) {
    const flags = byte === 1 ? EXTENT_HOLE | EXTENT_ZERO : 0;
    const last = list.at(-1);
    if (last?.[1] === flags) last[0]++;
    else list.push([1, flags]);
  }
  return list;
}

function described(holes: HoleCache, start: number, end: number, capacity: number) {
  const list = new ExtentList(capacity);
  holes.describe(start, end, list);
  return Array.from({ length: list.count }, (_, i): [number, number] => [
    list.lengths[i] as number,
    list.flags[i] as number,
  ]);
}

/** Compares everything that the cache says of a range with an array that has 1 for a hole. */
function check(holes: HoleCache, bytes: Uint8Array, start: number, end: number): void {
  const part = bytes.subarray(start, end);
  const covered = !part.includes(0);
  if (holes.covers(start, end) !== covered) throw new Error(`covers is not ${covered}`);
  const wanted = part.includes(1) ? runs(part) : [];
  const found = described(holes, start, end, size);
  if (JSON.stringify(found) !== JSON.stringify(wanted)) {
    throw new Error(`found ${JSON.stringify(found)}, wanted ${JSON.stringify(wanted)}`);
  }
  for (const capacity of [1, 2, 3, 4, 5]) checkShort(holes, part, start, end, capacity);
}

/** A list that is too short for all holes leaves the last ones out, or is left empty. */
function checkShort(
  holes: HoleCache,
  part: Uint8Array,
  start: number,
  end: number,
  capacity: number,
): void {
  let at = 0;
  const found = described(holes, start, end, capacity);
  for (const [length, flags] of found) {
    const isHole = flags !== 0;
    if (isHole && part.subarray(at, at + length).includes(0)) throw new Error('data in a hole');
    at += length;
  }
  if (found.length > 0 && at !== part.length) throw new Error(`${at} of ${part.length} bytes`);
}

const range = fc
  .tuple(fc.nat(size - 1), fc.integer({ min: 1, max: 40 }))
  .map(([start, length]) => ({ start, end: Math.min(size, start + length) }));

t.test('knows what an array of bytes knows', async (t) => {
  const step = fc.record({ add: fc.boolean(), changed: range, asked: range });
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 60, size: 'max' }), (steps) => {
      const holes = new HoleCache();
      const bytes = new Uint8Array(size);
      for (const { add, changed, asked } of steps) {
        if (add) holes.add(changed.start, changed.end);
        else holes.forget(changed.start, changed.end);
        bytes.fill(add ? 1 : 0, changed.start, changed.end);
        const apart = runs(bytes).filter(([, flags]) => flags !== 0).length;
        if (holes.count !== apart) throw new Error(`${holes.count} ranges, wanted ${apart}`);
        check(holes, bytes, asked.start, asked.end);
        check(holes, bytes, 0, size);
      }
    }),
    { numRuns: 150 },
  );
  t.pass('nothing differs from the array');
});

t.test('is exact above 4 GiB and up to the largest device', async (t) => {
  const holes = new HoleCache();
  const far = 2 ** 53 - 4096;
  holes.add(2 ** 32 - 1, 2 ** 32 + 1);
  holes.add(far, far + 2048);
  t.ok(holes.covers(2 ** 32 - 1, 2 ** 32 + 1));
  t.notOk(holes.covers(2 ** 32, 2 ** 32 + 2));
  t.ok(holes.covers(far + 2047, far + 2048));
  t.notOk(holes.covers(far + 2047, far + 2049));
  holes.forget(far + 1, far + 2);
  t.ok(holes.covers(far, far + 1));
  t.notOk(holes.covers(far + 1, far + 2));
  t.ok(holes.covers(far + 2, far + 2048));
});

/** A cache with as many holes as it holds: bytes 10, 30, 50... to 10 behind each. */
function full(): HoleCache {
  const holes = new HoleCache();
  for (let i = 0; i < holesPerFile; i++) holes.add(20 * i + 10, 20 * i + 20);
  t.equal(holes.count, holesPerFile);
  return holes;
}
const behind = 20 * holesPerFile;

t.test('learns no more when it is full, and forgets all the same', async (t) => {
  t.test('a hole apart from all others is not learnt', async (t) => {
    const holes = full();
    for (const start of [0, 42, behind + 5]) holes.add(start, start + 4);
    t.equal(holes.count, holesPerFile);
    t.notOk(holes.covers(0, 4));
    t.notOk(holes.covers(42, 46));
    t.notOk(holes.covers(behind + 5, behind + 9));
    t.ok(holes.covers(30, 40), 'what it knew it knows');
    t.ok(holes.covers(behind - 10, behind), 'the last one too');
  });
  t.test('a hole that touches others joins them', async (t) => {
    const holes = full();
    holes.add(40, 50);
    t.equal(holes.count, holesPerFile - 1);
    t.ok(holes.covers(30, 60));
    holes.add(0, 4);
    t.ok(holes.covers(0, 4), 'there is room for one more now');
    holes.add(behind, behind + 1);
    t.ok(holes.covers(behind - 10, behind + 1));
    t.equal(holes.count, holesPerFile);
  });
  t.test('a hole that is cut in two keeps only its first part', async (t) => {
    const holes = full();
    holes.forget(34, 36);
    t.equal(holes.count, holesPerFile);
    t.ok(holes.covers(30, 34));
    t.notOk(holes.covers(34, 36));
    t.notOk(holes.covers(36, 40), 'there is no room to know this');
    t.ok(holes.covers(50, 60), 'its neighbour is untouched');
  });
  t.test('ranges that are written whole make room', async (t) => {
    const holes = full();
    holes.forget(0, behind - 13);
    t.equal(holes.count, 1);
    t.ok(holes.covers(behind - 10, behind));
    holes.forget(0, Number.MAX_SAFE_INTEGER);
    t.equal(holes.count, 0);
    t.same(described(holes, 0, behind, 16), []);
  });
  t.test('it never says what is not so', async (t) => {
    const step = fc.record({
      add: fc.boolean(),
      start: fc.nat(behind - 1),
      length: fc.integer({ min: 1, max: 60 }),
    });
    fc.assert(
      fc.property(fc.array(step, { minLength: 100, maxLength: 300, size: 'max' }), (steps) => {
        const holes = full();
        const bytes = new Uint8Array(behind);
        for (let at = 10; at < behind; at += 20) bytes.fill(1, at, at + 10);
        for (const { add, start, length } of steps) {
          const end = Math.min(behind, start + length);
          if (add) holes.add(start, end);
          else holes.forget(start, end);
          bytes.fill(add ? 1 : 0, start, end);
          if (holes.count > holesPerFile) throw new Error(`${holes.count} ranges`);
        }
        for (let at = 0; at < behind; at++) {
          if (holes.covers(at, at + 1) && bytes[at] !== 1) throw new Error(`${at} is no hole`);
        }
        const part = bytes.subarray(0, 4000);
        checkShort(holes, part, 0, 4000, holesPerRead);
        checkShort(holes, part, 0, 4000, 1000);
      }),
      { numRuns: 10 },
    );
    t.pass('every hole is one');
  });
});
