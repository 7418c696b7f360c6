/**
 * The simulator at work: random operations, crashes and faults, seed after seed. In CI it is at
 * least 200 seeds and 2 million operations; a failure is made as short as it gets, and printed.
 */

import t, { type Test } from 'tap';
import { kindOf } from './failure.js';
import { mutations } from './mutations.js';
import { describeFailure, play, type RunOptions, run, upTo } from './run.js';
import { shrink } from './shrink.js';
import { Tally } from './tally.js';

const { CI } = process.env;
const inCi = CI === 'true';
const shrinkMilliseconds = 120_000;

// A machine that is busy with other things takes its time.
t.setTimeout(40 * 60 * 1000);

/** Plays seeds until one fails, which is told with what leads to it. */
async function playAll(
  t: Test,
  seeds: number,
  operations: number,
  options: RunOptions = {},
): Promise<Tally> {
  const all = new Tally();
  for (let seed = 1; seed <= seeds; seed++) {
    const { failure, last, tally } = await play(seed, operations, options);
    all.add(tally);
    if (failure === null) continue;
    const { numbers } = await shrink(seed, last, failure, shrinkMilliseconds, options);
    const trace: string[] = [];
    await run(seed, numbers, { ...options, trace });
    t.comment(trace.join('\n'));
    t.fail(`seed ${seed}, step ${last}: ${describeFailure(failure)}`);
    return all;
  }
  t.comment(`counted: simulation, ${seeds} seeds: ${all}`);
  return all;
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

t.test('keeps every promise', async (t) => {
  const { operations: played } = await playAll(t, seeds, operations);
  t.ok(played >= seeds * operations, `${played} operations of ${seeds} seeds`);
});

const [closeSeeds, closeOperations] = inCi ? [40, 400] : [6, 200];

t.test('and whenever something reaches a disk, if the world ends then', async (t) => {
  const { probes } = await playAll(t, closeSeeds, closeOperations, { everyEffect: true });
  t.ok(probes > (closeSeeds * closeOperations) / 2, `${probes} crashes of ${closeSeeds} seeds`);
});

/** Files whose flushes are answered and do nothing, and what becomes of a run with them. */
const liars: readonly [what: string, liars: (path: string) => boolean][] = [
  ['a volume', (path) => path.startsWith('/disks/vol')],
  ['a switch', (path) => path.startsWith('/disks/sw')],
  ['COWs', (path) => path.endsWith('.cow')],
  ['the state directory', (path) => path === '/state'],
];

for (const [what, lies] of liars) {
  t.test(`notices that flushes of ${what} do nothing`, async (t) => {
    let failure: unknown = null;
    let seed = 0;
    while (failure === null && seed < 40) {
      failure = (await play(++seed, 1500, { liars: lies })).failure;
    }
    t.match(describeFailure(failure), /^(after power|lost|start|table|regions): /, `seed ${seed}`);
    t.equal((await play(seed, 1500)).failure, null, 'they do what they should: nothing is wrong');
  });
}

t.test('makes a run that fails short', async (t) => {
  const name = 'FUA is not passed on';
  const undo = mutations.find((one) => one.name === name)?.apply();
  const { failure, last } = await play(2, 3000);
  t.not(failure, null);
  const { numbers } = await shrink(2, last, failure, 20_000);
  t.ok(numbers.length < last / 2, `${numbers.length} steps of ${last + 1}`);
  const { failure: same } = await run(2, numbers);
  t.equal(kindOf(same), kindOf(failure));
  undo?.();
  t.equal((await run(2, numbers)).failure, null, 'without the bug there is none');
});
