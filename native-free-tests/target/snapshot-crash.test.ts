/**
 * Crashes of the persistent store: at any moment, with any of the sectors that were not flushed
 * lost, the COW opens again, has every exception that was committed, and none whose data is
 * missing. What opens goes on, crashes again, and still holds that.
 */

import fc from 'fast-check';
import t from 'tap';
import type { PersistentStore } from '../../src/target/snapshot/persistent-store.js';
import { random } from '../contract/pattern.js';
import {
  chunkData,
  Exception,
  engine,
  ios,
  openOn,
  StoreDisk,
  settle,
  wait,
  writeData,
} from './store-rig.js';

interface Session {
  readonly chunkSectors: number;
  readonly next: (limit: number) => number;
  readonly tag: number;
}

/** When an exception was committed, in the disk's time. */
interface Promised {
  readonly oldChunk: number;
  readonly newChunk: number;
  readonly time: number;
}

/** Makes so many exceptions, with copies and commits that end in any order. */
function work(
  session: Session,
  disk: StoreDisk,
  store: PersistentStore,
  count: number,
  firstOld: number,
): Promised[] {
  const { next, tag } = session;
  const chunkBytes = session.chunkSectors * 512;
  const promised: Promised[] = [];
  const stillBegun = new Set<number>();
  let made = 0;
  disk.pace = 'held';
  for (;;) {
    if (made < count && stillBegun.size < 40 && next(3) > 0) {
      const oldChunk = firstOld + made++;
      const exception = new Exception(oldChunk, ({ told, newChunk }) => {
        if (told !== true) throw new Error('a commit has failed');
        stillBegun.delete(oldChunk);
        promised.push({ oldChunk, newChunk, time: disk.time });
      });
      exception.newChunk = store.allocate(exception);
      if (exception.newChunk < 0) {
        made = count;
        continue;
      }
      stillBegun.add(oldChunk);
      const data = chunkData(chunkBytes, oldChunk, exception.newChunk, tag);
      writeData(disk, exception.newChunk * chunkBytes, data, () => store.commit(exception, true));
    } else if (disk.held.length > 0) {
      disk.release(next(disk.held.length));
      if (next(2) === 0) engine.turn();
    } else if (!engine.turn() && made >= count) {
      break;
    }
  }
  if (stillBegun.size > 0) throw new Error('an exception is lost');
  disk.pace = 'turn';
  return promised;
}

interface Known {
  readonly oldChunk: number;
  readonly newChunk: number;
  readonly tag: number;
}

/** What is wrong with what was found in an image, or null. */
function wrongWith(
  session: Session,
  image: Buffer,
  found: Map<number, number>,
  tags: Map<number, number>,
  wanted: readonly { readonly oldChunk: number; readonly newChunk: number }[],
): string | null {
  const chunkBytes = session.chunkSectors * 512;
  for (const { oldChunk, newChunk } of wanted) {
    if (found.get(oldChunk) !== newChunk) return `chunk ${oldChunk} was committed and is lost`;
  }
  for (const [oldChunk, newChunk] of found) {
    const tag = tags.get(oldChunk);
    if (tag === undefined) return `chunk ${oldChunk} was never copied`;
    const data = image.subarray(newChunk * chunkBytes, (newChunk + 1) * chunkBytes);
    if (!data.equals(chunkData(chunkBytes, oldChunk, newChunk, tag))) {
      return `chunk ${oldChunk} is there and its data is not`;
    }
  }
  return null;
}

/** Crashes one life of a COW at several moments, each followed by another life that crashes too. */
async function crashes(
  seed: number,
  chunkSectors: number,
  count: number,
  moments: number,
): Promise<string | null> {
  const next = random(seed);
  const chunkBytes = chunkSectors * 512;
  const session: Session = { chunkSectors, next, tag: 1 };
  // Garbage, but for the first chunk, which tells that there is no store.
  const bytes = (2 * count + 20 + Math.ceil((2 * count) / (chunkBytes / 16))) * chunkBytes;
  const initial = Buffer.alloc(bytes, 0xdb);
  initial.fill(0, 0, chunkBytes);
  const disk = new StoreDisk(initial);
  const { store } = await openOn(disk, chunkSectors);
  const promised = work(session, disk, store, count, 0);
  store.close();
  const tags = new Map(promised.map(({ oldChunk }) => [oldChunk, 1]));
  if (promised.length !== count) return `${promised.length} of ${count} were committed`;

  for (let moment = 0; moment < moments; moment++) {
    const time = moment === 0 ? disk.time : next(disk.time);
    const image = disk.crashed(initial, time, next);
    const again = new StoreDisk(image);
    const opened = await openOn(again, chunkSectors);
    if (!opened.valid) return 'a valid store is invalid';
    const kept: Known[] = [];
    for (const [oldChunk, newChunk] of opened.found) kept.push({ oldChunk, newChunk, tag: 1 });
    const before = promised.filter((each) => each.time <= time);
    const wrong = wrongWith(session, image, opened.found, tags, before);
    if (wrong !== null) return `crash at ${time}: ${wrong}`;

    const second: Session = { chunkSectors, next, tag: 2 };
    const more = work(second, again, opened.store, 1 + next(count), count);
    opened.store.close();
    const allTags = new Map(tags);
    for (const { oldChunk } of more) allTags.set(oldChunk, 2);
    for (let i = 0; i < 3; i++) {
      const secondTime = i === 0 ? again.time : next(again.time);
      const secondImage = again.crashed(image, secondTime, next);
      const third = await openOn(new StoreDisk(secondImage), chunkSectors);
      third.store.close();
      const wanted = [...kept, ...more.filter((each) => each.time <= secondTime)];
      const secondWrong = wrongWith(second, secondImage, third.found, allTags, wanted);
      if (secondWrong !== null) return `crashes at ${time} and ${secondTime}: ${secondWrong}`;
    }
  }
  return null;
}

/** Chunk sizes with how many exceptions fill more than an area or more than a piece. */
const cases = [
  { chunkSectors: 1, count: 80, moments: 24, runs: 8 },
  { chunkSectors: 2, count: 150, moments: 12, runs: 4 },
  { chunkSectors: 8, count: 290, moments: 8, runs: 2 },
  { chunkSectors: 16, count: 560, moments: 4, runs: 1 },
] as const;

for (const { chunkSectors, count, moments, runs } of cases) {
  t.test(`keeps its promises over crashes: chunks of ${chunkSectors} sectors`, async (t) => {
    const property = fc.asyncProperty(fc.integer({ min: 1 }), async (seed) => {
      const wrong = await crashes(seed, chunkSectors, count, moments);
      if (wrong !== null) throw new Error(wrong);
    });
    await t.resolves(fc.assert(property, { numRuns: runs, endOnFailure: true }));
    settle();
    t.equal(engine.arena.inUse, 0, 'all memory is given back');
    t.equal(ios.inUse, 0, 'all ios are given back');
  });
}

/** Merges a COW in part, crashes at any moment, and opens what is left. */
async function mergeCrashes(seed: number, chunkSectors: number, count: number): Promise<void> {
  const next = random(seed);
  const chunkBytes = chunkSectors * 512;
  const disk = new StoreDisk((count + 40) * chunkBytes);
  const { store } = await openOn(disk, chunkSectors);
  // Some follow one another, some do not.
  const records: [number, number][] = [];
  let oldChunk = 0;
  for (let i = 0; i < count; i++) {
    oldChunk += next(20) === 0 ? 2 : 1;
    const exception = new Exception(oldChunk);
    exception.newChunk = store.allocate(exception);
    store.commit(exception, true);
    records.push([oldChunk, exception.newChunk]);
  }
  settle();
  const initial = Buffer.from(disk.bytes);
  disk.events.length = 0;
  const forgotten: { readonly time: number; readonly left: number }[] = [];
  const begun: { readonly time: number; readonly left: number }[] = [];
  let left = count;
  for (;;) {
    const runs = await wait(store.merge.lastRuns(1 + next(20)));
    if (runs.length === 0) break;
    const before = left;
    for (const run of runs) {
      left -= run.count;
      const first = records[left] as [number, number];
      if (first[0] !== run.oldChunk || first[1] !== run.newChunk) throw new Error('a wrong run');
    }
    begun.push({ time: disk.time, left });
    await wait(store.merge.forget(before - left));
    forgotten.push({ time: disk.time, left });
  }
  store.close();
  for (let moment = 0; moment < 40; moment++) {
    const time = next(disk.time + 1);
    const { store, found } = await openOn(
      new StoreDisk(disk.crashed(initial, time, next)),
      chunkSectors,
    );
    store.close();
    const least = begun.filter((each) => each.time <= time).at(-1)?.left ?? count;
    const most = forgotten.filter((each) => each.time <= time).at(-1)?.left ?? count;
    if (found.size < least || found.size > most) {
      throw new Error(`crash at ${time}: found ${found.size}, wanted ${least} to ${most}`);
    }
    const wanted = records.slice(0, found.size);
    if (!wanted.every(([old, chunk]) => found.get(old) === chunk)) {
      throw new Error(`crash at ${time}: the front part is not what is left`);
    }
  }
}

t.test('what a crash leaves of a merge is the front part of the list', async (t) => {
  for (const [chunkSectors, count] of [
    [1, 100],
    [16, 700],
  ] as const) {
    const property = fc.asyncProperty(fc.integer({ min: 1 }), (seed) =>
      mergeCrashes(seed, chunkSectors, count),
    );
    await t.resolves(fc.assert(property, { numRuns: 3, endOnFailure: true }));
  }
  t.equal(engine.arena.inUse, 0, 'all memory is given back');
});
