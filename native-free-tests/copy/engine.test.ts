import fc from 'fast-check';
import t, { type Test } from 'tap';
import { EIO, ENOSPC } from '../../src/base/errno.js';
import {
  copyMemoryBytes,
  copySliceBytes,
  copySlices,
  copyZeroBytes,
} from '../../src/base/limits.js';
import { CopyEngine } from '../../src/copy/engine.js';
import {
  COPY_HOLES,
  COPY_IGNORE_ERROR,
  COPY_INTO_ZEROES,
  COPY_WRITE_SEQ,
  COPY_ZEROES,
  type CopyJob,
  type CopyOwner,
} from '../../src/copy/job.js';
import { STATUS, WRITE, ZERO } from '../../src/device/io.js';
import { fillPattern, random } from '../contract/pattern.js';
import { CopyWorld, type PlainBacking } from './plain-backing.js';

/** What a job had come to when its owner was told. */
type Outcome = Pick<
  CopyJob,
  'ok' | 'readError' | 'writeErrors' | 'writeError' | 'doneBytes' | 'skippedBytes' | 'cancelled'
>;

class Owner implements CopyOwner {
  readonly outcomes: Outcome[] = [];
  told: ((job: CopyJob) => void) | null = null;

  copied(job: CopyJob): void {
    const { ok, readError, writeErrors, writeError, doneBytes, skippedBytes, cancelled } = job;
    this.outcomes.push({
      ok,
      readError,
      writeErrors,
      writeError,
      doneBytes,
      skippedBytes,
      cancelled,
    });
    this.told?.(job);
  }

  get last(): Outcome {
    const last = this.outcomes.at(-1);
    if (last === undefined) throw new Error('the owner has not been told');
    return last;
  }
}

const KiB = 1024;
const MiB = 1024 * KiB;

function startCopy(
  copies: CopyEngine,
  owner: CopyOwner,
  source: PlainBacking | null,
  destinations: readonly PlainBacking[],
  options: { from?: number; to?: number; length: number; flags?: number },
): CopyJob {
  const job = copies.take();
  job.source = source;
  job.sourceOffset = options.from ?? 0;
  job.length = options.length;
  for (const one of destinations) job.addDestination(one, options.to ?? 0);
  job.flags = options.flags ?? 0;
  job.owner = owner;
  copies.start(job);
  return job;
}

function world(atOnce = false): { world: CopyWorld; copies: CopyEngine; owner: Owner } {
  const world = new CopyWorld();
  world.atOnce = () => atOnce;
  return { world, copies: new CopyEngine(world.engine, world.ios), owner: new Owner() };
}

function atRest(t: Test, world: CopyWorld, copies: CopyEngine): void {
  t.equal(world.ios.inUse, 0, 'all ios are back');
  t.equal(world.engine.arena.inUse, 0, 'all memory is back');
  t.equal(copies.memoryBytes, 0);
  t.equal(copies.jobsUnderWay, 0);
}

function data(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length);
  fillPattern(bytes, 0, seed);
  return bytes;
}

t.test('copies a chunk to several places with one read', async (t) => {
  const { world: w, copies, owner } = world();
  const source = w.backing('source', 1 * MiB);
  source.fill(0, data(1 * MiB));
  const destinations = [0, 1, 2].map((i) => w.backing(`destination ${i}`, 64 * KiB));
  const options = { from: 8 * KiB, to: 4 * KiB, length: 4 * KiB };
  startCopy(copies, owner, source, destinations, options);
  t.equal(w.underWay, 1, 'the read goes first');
  w.step();
  t.equal(w.underWay, 3, 'the writes go together');
  t.same(owner.outcomes, []);
  w.run();
  t.match(owner.last, { ok: true, doneBytes: 4 * KiB, skippedBytes: 0 });
  t.equal(source.calls.length, 1);
  for (const { bytes } of destinations) {
    t.same(bytes.subarray(4 * KiB, 8 * KiB), source.bytes.subarray(8 * KiB, 12 * KiB));
    t.ok(bytes.subarray(0, 4 * KiB).every((byte) => byte === 0));
  }
  atRest(t, w, copies);
});

t.test('ends a job of no length, in the order of the others', async (t) => {
  const { world: w, copies, owner } = world();
  startCopy(copies, owner, w.backing('a', 4096), [w.backing('b', 4096)], { length: 0 });
  t.match(owner.last, { ok: true, doneBytes: 0 });
  atRest(t, w, copies);
});

t.test('has so many slices under way at once, whose order does not matter', async (t) => {
  const { world: w, copies, owner } = world();
  const bytes = 20 * copySliceBytes + 12345;
  const source = w.backing('source', bytes);
  source.fill(0, data(bytes));
  const destination = w.backing('destination', bytes);
  startCopy(copies, owner, source, [destination], { length: bytes });
  t.equal(w.underWay, copySlices);
  t.equal(copies.memoryBytes, copySlices * copySliceBytes);
  // The last comes first: with reads and writes under way, the newest operation ends.
  w.pick = (count) => count - 1;
  w.run();
  t.match(owner.last, { ok: true, doneBytes: bytes });
  t.equal(Buffer.compare(destination.bytes, source.bytes), 0);
  t.equal(source.calls.length, 21);
  atRest(t, w, copies);
});

t.test('zeroes in long pieces, without memory', async (t) => {
  const { world: w, copies, owner } = world();
  const bytes = copyZeroBytes + 4096;
  const destinations = [w.backing('a', bytes), w.backing('b', bytes)];
  for (const one of destinations) one.fill(0, data(bytes));
  startCopy(copies, owner, null, destinations, { length: bytes });
  t.equal(copies.memoryBytes, 0);
  w.run();
  t.match(owner.last, { ok: true, doneBytes: bytes, skippedBytes: 0 });
  for (const { bytes, calls } of destinations) {
    t.ok(bytes.every((byte) => byte === 0));
    t.same(
      calls.map(({ operation, length }) => [operation, length]),
      [
        [ZERO, copyZeroBytes],
        [ZERO, 4096],
      ],
    );
  }
  atRest(t, w, copies);
});

t.test('stops after a failed read, and tells once', async (t) => {
  const { world: w, copies, owner } = world();
  const bytes = 30 * copySliceBytes;
  const source = w.backing('source', bytes);
  const destination = w.backing('destination', bytes);
  source.fails = ({ backingOffset }) => (backingOffset === 2 * copySliceBytes ? EIO : 0);
  startCopy(copies, owner, source, [destination], { length: bytes });
  w.run();
  t.equal(owner.outcomes.length, 1);
  t.match(owner.last, { ok: false, readError: EIO, writeErrors: 0 });
  t.ok(source.calls.length < 2 * copySlices + 3, 'no more slices are begun');
  t.notOk(
    destination.calls.some(({ offset }) => offset === 2 * copySliceBytes),
    'nothing is written where nothing was read',
  );
  t.equal(owner.last.doneBytes, destination.calls.length * copySliceBytes);
  atRest(t, w, copies);
});

t.test('tells which destinations failed, and how the first did', async (t) => {
  const { world: w, copies, owner } = world();
  const source = w.backing('source', 4096);
  source.fill(0, data(4096));
  const destinations = [0, 1, 2, 3].map((i) => w.backing(`destination ${i}`, 4096));
  (destinations[1] as PlainBacking).fails = () => ENOSPC;
  (destinations[3] as PlainBacking).fails = () => EIO;
  startCopy(copies, owner, source, destinations, { length: 4096 });
  w.run();
  const wanted = { ok: false, readError: 0, writeErrors: 0b1010, writeError: ENOSPC };
  t.match(owner.last, { ...wanted, doneBytes: 0 });
  t.same((destinations[2] as PlainBacking).bytes, source.bytes);
  atRest(t, w, copies);
});

t.test('goes on after errors with COPY_IGNORE_ERROR', async (t) => {
  const { world: w, copies, owner } = world();
  const bytes = 4 * copySliceBytes;
  const source = w.backing('source', bytes);
  source.fill(0, data(bytes));
  const destinations = [w.backing('a', bytes), w.backing('b', bytes)];
  for (const one of destinations) one.fill(0, data(bytes, 2));
  source.fails = ({ backingOffset }) => (backingOffset === copySliceBytes ? EIO : 0);
  const [first, second] = destinations as [PlainBacking, PlainBacking];
  first.fails = ({ backingOffset }) => (backingOffset === 0 ? ENOSPC : 0);
  // What others left in the arena is not to be seen.
  const used = w.engine.arena.allocate(copySliceBytes);
  w.engine.arena.bytes.fill(0xee, used, used + copySliceBytes);
  w.engine.arena.free(used, copySliceBytes);
  const options = { length: bytes, flags: COPY_IGNORE_ERROR };
  startCopy(copies, owner, source, destinations, options);
  w.run();
  const wanted = { readError: EIO, writeErrors: 0b01, writeError: ENOSPC, doneBytes: bytes };
  t.match(owner.last, wanted);
  const expected = source.bytes.slice();
  expected.fill(0, copySliceBytes, 2 * copySliceBytes);
  t.equal(Buffer.compare(second.bytes, expected), 0);
  expected.set(data(bytes, 2).subarray(0, copySliceBytes));
  t.equal(Buffer.compare(first.bytes, expected), 0);
  atRest(t, w, copies);
});

t.test('writes in ascending order with COPY_WRITE_SEQ, and nothing behind an error', async (t) => {
  for (const failing of [-1, 5]) {
    const { world: w, copies, owner } = world();
    const bytes = 12 * copySliceBytes;
    const source = w.backing('source', bytes);
    source.fill(0, data(bytes));
    const destination = w.backing('destination', bytes);
    destination.fails = (io) => (io.backingOffset === failing * copySliceBytes ? EIO : 0);
    const flags = COPY_WRITE_SEQ | COPY_IGNORE_ERROR;
    startCopy(copies, owner, source, [destination], { length: bytes, flags });
    t.equal(w.underWay, copySlices, 'it reads ahead');
    w.pick = random(17);
    w.run();
    const offsets = destination.calls.map(({ offset }) => offset / copySliceBytes);
    t.same(
      offsets,
      [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11].slice(0, failing < 0 ? 12 : failing + 1),
    );
    t.match(owner.last, { ok: failing < 0, writeErrors: failing < 0 ? 0 : 1 });
    t.equal(owner.last.doneBytes, failing < 0 ? bytes : failing * copySliceBytes);
    atRest(t, w, copies);
  }
});

t.test('ends with what is under way when it is cancelled', async (t) => {
  const { world: w, copies, owner } = world();
  const bytes = 100 * copySliceBytes;
  const source = w.backing('source', bytes);
  const destination = w.backing('destination', bytes);
  const job = startCopy(copies, owner, source, [destination], { length: bytes });
  for (let i = 0; i < 40; i++) w.step();
  job.cancel();
  t.same(owner.outcomes, []);
  const begun = source.calls.length;
  w.run();
  t.match(owner.last, { ok: false, cancelled: true, doneBytes: begun * copySliceBytes });
  t.equal(source.calls.length, begun);
  atRest(t, w, copies);
});

t.test('keeps the stack flat and lets others run when nothing has to wait', async (t) => {
  const { world: w, copies, owner } = world(true);
  const source = w.backing('source', 64 * MiB);
  source.fill(0, data(64 * MiB));
  const destination = w.backing('destination', 64 * MiB);
  startCopy(copies, owner, source, [destination], { length: 64 * MiB });
  t.same(owner.outcomes, [], 'it did not do all of it in one go');
  t.equal(w.engine.timers, 1);
  w.run();
  t.match(owner.last, { ok: true, doneBytes: 64 * MiB });
  t.equal(Buffer.compare(destination.bytes, source.bytes), 0);

  // Each job is started by the end of the one before.
  let left = 20_000;
  const chain = new Owner();
  let depth = 0;
  let deepest = 0;
  chain.told = () => {
    deepest = Math.max(deepest, ++depth);
    if (--left > 0) startCopy(copies, chain, source, [destination], { length: 4096 });
    depth--;
  };
  startCopy(copies, chain, source, [destination], { length: 4096 });
  w.run();
  t.equal(chain.outcomes.length, 20_000);
  t.equal(deepest, 1, 'owners are told one at a time');
  atRest(t, w, copies);
});

t.test('keeps to its memory, however many jobs there are, and serves all', async (t) => {
  const { world: w, copies } = world();
  const bytes = 4 * MiB;
  const source = w.backing('source', bytes);
  source.fill(0, data(bytes));
  const owners = Array.from({ length: 40 }, () => new Owner());
  const destinations = owners.map((_, i) => w.backing(`destination ${i}`, bytes));
  owners.forEach((owner, i) => {
    const one = destinations[i] as PlainBacking;
    startCopy(copies, owner, source, [one], { length: bytes });
  });
  w.pick = random(3);
  let most = 0;
  while (w.underWay > 0 || copies.jobsUnderWay > 0) {
    most = Math.max(most, copies.memoryBytes);
    w.step();
  }
  t.equal(most, copyMemoryBytes, 'all of it is used');
  w.run();
  t.ok(owners.every((owner) => owner.last.ok));
  t.ok(destinations.every(({ bytes }) => Buffer.compare(bytes, source.bytes) === 0));
  atRest(t, w, copies);
});

t.test('waits for memory that others have, and takes a small piece if need be', async (t) => {
  const { world: w, copies, owner } = world();
  const { arena } = w.engine;
  const taken: number[] = [];
  for (let at = arena.allocate(1 * MiB); at >= 0; at = arena.allocate(1 * MiB)) taken.push(at);
  const source = w.backing('source', 1 * MiB);
  source.fill(0, data(1 * MiB));
  const destination = w.backing('destination', 1 * MiB);
  const { length } = source.bytes;
  startCopy(copies, owner, source, [destination], { length });
  for (let i = 0; i < 10; i++) w.step();
  t.same(source.calls, []);
  arena.free(taken.pop() as number, 1 * MiB);
  const pieces: number[] = [];
  for (let at = arena.allocate(8192); at >= 0; at = arena.allocate(8192)) pieces.push(at);
  arena.free(pieces.pop() as number, 8192);
  while (copies.jobsUnderWay > 0) w.step();
  w.run();
  t.match(owner.last, { ok: true });
  t.equal(Buffer.compare(destination.bytes, source.bytes), 0);
  for (const one of pieces) arena.free(one, 8192);
  for (const one of taken) arena.free(one, 1 * MiB);
  atRest(t, w, copies);
});

t.test('goes beyond its memory rather than wait for copies that wait for it', async (t) => {
  const { world: w, copies, owner } = world();
  const source = w.backing('source', 1 * MiB);
  source.fill(0, data(1 * MiB));
  const stuck = new Owner();
  const count = copyMemoryBytes / (copySliceBytes * 2);
  for (let i = 0; i < count; i++) {
    const one = w.backing(`destination ${i}`, 1 * MiB);
    startCopy(copies, stuck, source, [one], { length: 1 * MiB });
  }
  t.equal(copies.memoryBytes, copyMemoryBytes);
  const destination = w.backing('destination', 1 * MiB);
  startCopy(copies, owner, source, [destination], { length: 4096 });
  // The newest operation ends, the others are stuck until it has.
  w.pick = (n) => n - 1;
  while (owner.outcomes.length === 0) {
    if (w.underWay > 2 * count) w.step();
    else w.engine.turn();
  }
  t.match(owner.last, { ok: true });
  t.same(stuck.outcomes, []);
  w.run();
  t.equal(stuck.outcomes.length, count);
  atRest(t, w, copies);
});

t.test('skips holes of the source, or makes them at the destination', async (t) => {
  for (const into of [0, COPY_INTO_ZEROES]) {
    for (const extentsPerStatus of [1, 3, Number.POSITIVE_INFINITY]) {
      const { world: w, copies, owner } = world();
      w.extentsPerStatus = extentsPerStatus;
      const bytes = 16 * MiB;
      const source = w.backing('source', bytes);
      source.fill(1 * MiB, data(64 * KiB));
      source.fill(9 * MiB, data(3 * MiB));
      const destination = w.backing('destination', bytes);
      if (into === 0) destination.fill(0, data(bytes, 9));
      const flags = COPY_HOLES | into;
      startCopy(copies, owner, source, [destination], { length: bytes, flags });
      w.pick = random(7);
      w.run();
      const skipped = bytes - 3 * MiB - 64 * KiB;
      t.match(owner.last, { ok: true, doneBytes: bytes, skippedBytes: skipped });
      t.equal(Buffer.compare(destination.bytes, source.bytes), 0);
      t.same(destination.allocated, source.allocated, 'what is a hole there is one here');
      const zeroes = destination.calls.filter(({ operation }) => operation === ZERO);
      t.equal(zeroes.length > 0, into === 0);
      atRest(t, w, copies);
    }
  }
});

t.test('reads everything when the source cannot tell its holes', async (t) => {
  const { world: w, copies, owner } = world();
  const source = w.backing('source', 1 * MiB);
  source.fails = ({ operation }) => (operation === STATUS ? EIO : 0);
  const destination = w.backing('destination', 1 * MiB);
  destination.fill(0, data(1 * MiB));
  startCopy(copies, owner, source, [destination], { length: 1 * MiB, flags: COPY_HOLES });
  w.run();
  t.match(owner.last, { ok: true, doneBytes: 1 * MiB });
  t.ok(destination.bytes.every((byte) => byte === 0));
  atRest(t, w, copies);
});

t.test('finds zeroes in what it reads', async (t) => {
  for (const into of [0, COPY_INTO_ZEROES]) {
    const { world: w, copies, owner } = world();
    const bytes = 256 * KiB;
    const source = w.backing('source', bytes);
    source.fill(0, new Uint8Array(bytes));
    source.fill(8 * KiB, data(8 * KiB));
    // A block that is zeroes but for its last byte is data.
    source.fill(64 * KiB - 1, Uint8Array.of(1));
    source.fill(bytes - 4 * KiB, data(4 * KiB));
    const destination = w.backing('destination', bytes);
    if (into === 0) destination.fill(0, data(bytes, 4));
    const options = { length: bytes, flags: COPY_ZEROES | into };
    startCopy(copies, owner, source, [destination], options);
    w.run();
    t.match(owner.last, { ok: true, doneBytes: bytes, skippedBytes: bytes - 16 * KiB });
    t.equal(Buffer.compare(destination.bytes, source.bytes), 0);
    const writes = destination.calls.filter(({ operation }) => operation === WRITE);
    t.same(
      writes.map(({ offset, length }) => [offset / KiB, length / KiB]),
      [
        [8, 8],
        [60, 4],
        [252, 4],
      ],
    );
    t.equal(destination.calls.length, into === 0 ? 6 : 3);
    atRest(t, w, copies);
  }
});

/** A job of the property test: what is asked, and what goes wrong. */
interface Plan {
  from: number;
  to: number;
  length: number;
  flags: number;
  zero: boolean;
  destinations: number;
  failures: number;
  cancel: boolean;
}

const sectors = 6000;

const plan: fc.Arbitrary<Plan> = fc.record({
  from: fc.nat(sectors),
  to: fc.nat(sectors),
  length: fc.nat(sectors),
  flags: fc
    .subarray([COPY_IGNORE_ERROR, COPY_WRITE_SEQ, COPY_HOLES, COPY_ZEROES, COPY_INTO_ZEROES])
    .map((flags) => flags.reduce((all, flag) => all | flag, 0)),
  zero: fc.boolean(),
  destinations: fc.integer({ min: 1, max: 3 }),
  failures: fc.integer({ min: 0, max: 12 }),
  cancel: fc.boolean(),
});

t.test('does what is asked, whatever ends when and fails where', async (t) => {
  const property = fc.property(
    fc.array(plan, { minLength: 1, maxLength: 4 }),
    fc.integer(),
    (plans, seed) => {
      const next = random(seed);
      const { world: w, copies } = world();
      w.atOnce = () => next(4) === 0;
      w.pick = next;
      w.extentsPerStatus = 1 + next(40);
      const source = w.backing('source', sectors * 512);
      for (let i = 0; i < 30; i++) {
        const at = next(sectors - 200) * 512;
        source.fill(at, next(3) === 0 ? new Uint8Array(next(100_000)) : data(next(100_000), i));
      }
      const checks = plans.map((one) => start(w, copies, source, one, next));
      w.run();
      for (const check of checks) check();
      if (w.ios.inUse !== 0 || w.engine.arena.inUse !== 0) throw new Error('something is left');
    },
  );
  fc.assert(property, { numRuns: 60 });
  t.pass('all runs came out right');
});

/** Starts what is planned; what comes back checks how it came out. */
function start(
  w: CopyWorld,
  copies: CopyEngine,
  source: PlainBacking,
  one: Plan,
  next: (limit: number) => number,
): () => void {
  const from = one.from * 512;
  const to = one.to * 512;
  const length = Math.min(one.length, sectors - one.from, sectors - one.to) * 512;
  const into = (one.flags & COPY_INTO_ZEROES) !== 0;
  const failed = new Set<number>();
  const destinations = Array.from({ length: one.destinations }, (_, i) => {
    const backing = w.backing(`destination ${i}`, sectors * 512);
    if (!into) backing.fill(0, data(sectors * 512, 77));
    backing.fails = () => {
      if (next(100) >= one.failures) return 0;
      failed.add(i);
      return ENOSPC;
    };
    return backing;
  });
  const before = destinations.map(({ bytes }) => bytes.slice());
  const owner = new Owner();
  const { flags } = one;
  const origin = one.zero ? null : source;
  const job = startCopy(copies, owner, origin, destinations, { from, to, length, flags });
  if (one.cancel && owner.outcomes.length === 0) {
    for (let i = next(20); i > 0 && owner.outcomes.length === 0; i--) w.step();
    if (owner.outcomes.length === 0) job.cancel();
  }
  return () => {
    const outcome = owner.last;
    if (owner.outcomes.length !== 1) throw new Error('the owner is told once');
    const mask = [...failed].reduce((bits, i) => bits | (1 << i), 0);
    if (outcome.writeErrors !== mask) throw new Error(`${outcome.writeErrors} failed, not ${mask}`);
    if (outcome.ok && outcome.doneBytes !== length) throw new Error(`${outcome.doneBytes} done`);
    destinations.forEach(({ bytes }, i) => {
      const old = before[i] as Uint8Array;
      const wanted = old.slice();
      if (one.zero) wanted.fill(0, to, to + length);
      else wanted.set(source.bytes.subarray(from, from + length), to);
      const through = (flags & COPY_IGNORE_ERROR) !== 0 && (flags & COPY_WRITE_SEQ) === 0;
      const complete = !outcome.cancelled && (outcome.ok || (through && !failed.has(i)));
      if (complete ? Buffer.compare(bytes, wanted) !== 0 : !isMixed(bytes, old, wanted)) {
        throw new Error(`destination ${i} holds something else`);
      }
    });
  };
}

/** Whether every byte is either as it was or as it was to be. */
function isMixed(bytes: Uint8Array, old: Uint8Array, wanted: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at++) {
    if (bytes[at] !== old[at] && bytes[at] !== wanted[at]) return false;
  }
  return true;
}
