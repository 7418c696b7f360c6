/**
 * The simulator at work: random operations, crashes and faults, seed after seed. In CI it is 200
 * seeds and 2 million operations; a failure is made as short as it gets, and printed.
 */

import t, { type Test } from 'tap';
import { kindOf } from './failure.js';
import { mutations } from './mutations.js';
import { describeFailure, type RunOptions, run, upTo } from './run.js';
import { shrink } from './shrink.js';

const { CI } = process.env;
const inCi = CI === 'true';
const shrinkMilliseconds = 120_000;

// A machine that is busy with other things takes its time.
t.setTimeout(40 * 60 * 1000);

/** Plays a seed; a failure is told with what leads to it. */
async function plays(
  t: Test,
  seed: number,
  operations: number,
  options: RunOptions = {},
): Promise<number> {
  const { failure, operations: last } = await run(seed, upTo(operations), options);
  if (failure === null) return last + 1;
  const { numbers } = await shrink(seed, last, failure, shrinkMilliseconds, options);
  const trace: string[] = [];
  await run(seed, numbers, { ...options, trace });
  t.comment(trace.join('\n'));
  t.fail(`seed ${seed}, operation ${last}: ${describeFailure(failure)}`);
  return last;
}

t.test('the same seed gives the same run, and another one another', async (t) => {
  const one = await run(3, upTo(400));
  const again = await run(3, upTo(400));
  const other = await run(4, upTo(400));
  t.strictSame(again, one);
  t.not(other.hash, one.hash);
  const trace: string[] = [];
  const watched = await run(3, upTo(400), { trace });
  t.equal(watched.hash, one.hash, 'watching it changes nothing');
  t.ok(trace.length > 400);
});

const [seeds, operations] = inCi ? [200, 10_000] : [10, 1000];

t.test(`keeps every promise: ${seeds} seeds, ${operations} operations each`, async (t) => {
  let played = 0;
  for (let seed = 1; seed <= seeds && t.passing(); seed++) {
    played += await plays(t, seed, operations);
  }
  t.equal(played, seeds * operations, `${played} operations`);
});

const [closeSeeds, closeOperations] = inCi ? [60, 100] : [6, 60];

t.test('and whenever something reaches a disk, if the power fails then', async (t) => {
  let played = 0;
  for (let seed = 1; seed <= closeSeeds && t.passing(); seed++) {
    played += await plays(t, seed, closeOperations, { everyEffect: true });
  }
  t.equal(played, closeSeeds * closeOperations, `${played} operations`);
});

t.test('notices disks whose flushes do nothing', async (t) => {
  const liars = (path: string): boolean => path.startsWith('/disks/vol');
  let failure: unknown = null;
  for (let seed = 1; seed <= 20 && failure === null; seed++) {
    failure = (await run(seed, upTo(1000), { liars })).failure;
  }
  t.match(describeFailure(failure), /^after power: /);
});

t.test('makes a run that fails short', async (t) => {
  const name = 'FUA is not passed on';
  const undo = mutations.find((one) => one.name === name)?.apply();
  const { failure, operations: last } = await run(2, upTo(2000));
  t.not(failure, null);
  const { numbers } = await shrink(2, last, failure, 20_000);
  t.ok(numbers.length < last / 2, `${numbers.length} operations of ${last + 1}`);
  const { failure: same } = await run(2, numbers);
  t.equal(kindOf(same), kindOf(failure));
  undo?.();
  t.equal((await run(2, numbers)).failure, null, 'without the bug there is none');
});
