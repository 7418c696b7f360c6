/** Every deliberate bug (mutations.ts) is noticed by the simulator; how soon is told. */

import t from 'tap';
import { catchMutation } from './mutation-check.js';
import { mutations } from './mutations.js';

const seeds = 600;
const operations = 1000;

// A machine that is busy with other things takes its time.
t.setTimeout(40 * 60 * 1000);

for (const mutation of mutations) {
  t.test(`notices that ${mutation.name}`, async (t) => {
    const caught = await catchMutation(mutation, seeds, operations);
    if (caught === null) {
      t.fail(`not noticed in ${seeds} seeds of ${operations} operations`);
      return;
    }
    const { milliseconds, operationsInAll, text } = caught;
    t.pass(`after ${operationsInAll} operations, ${milliseconds} ms: ${text}`);
  });
}
