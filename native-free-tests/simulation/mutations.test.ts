/**
 * Every deliberate bug (mutations.ts) is noticed by the simulator, and the same run passes without
 * it. How soon is told.
 */

import { readFile } from 'node:fs/promises';
import t from 'tap';
import { knownSeeds } from './known-seeds.js';
import { catchMutation } from './mutation-check.js';
import { mutations } from './mutations.js';
import { describeFailure } from './run.js';

const seeds = 600;
const operations = 1500;

// A machine that is busy with other things takes its time.
t.setTimeout(40 * 60 * 1000);

/** A seed that is known to notice it comes first: searching takes time. */
function* order(name: string): Iterable<number> {
  const known = knownSeeds.get(name) ?? 1;
  yield known;
  for (let seed = 1; seed <= seeds; seed++) if (seed !== known) yield seed;
}

t.ok(mutations.length >= 10);
t.comment(`counted: ${mutations.length} deliberate bugs that the simulator must notice`);
t.equal(new Set(mutations.map(({ name }) => name)).size, mutations.length, 'each with its name');

t.test('the README lists them all', async (t) => {
  const readme = await readFile('native-free-tests/simulation/README.md', 'utf8');
  for (const { name } of mutations) t.match(readme, `\n- ${name}\n`, name);
});

for (const mutation of mutations) {
  t.test(`notices that ${mutation.name}`, async (t) => {
    const caught = await catchMutation(mutation, order(mutation.name), operations);
    if (caught === null) {
      t.fail(`not noticed in ${seeds} seeds of ${operations} operations`);
      return;
    }
    const { milliseconds, operations: played, seed, text, without } = caught;
    t.pass(`seed ${seed}, after ${played} operations, ${milliseconds} ms: ${text}`);
    t.equal(without, null, `not without it: ${describeFailure(without)}`);
  });
}
