/** The power fails in the middle of random schedules (crash-run.ts). */

import fc from 'fast-check';
import t from 'tap';
import { CrashRun, crashStep } from './crash-run.js';
import { foundSchedules } from './found-schedules.js';

t.test('keeps every promise when the power fails', async (t) => {
  let checked = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(crashStep, { minLength: 10, maxLength: 90, size: 'max' }),
      fc.integer(),
      async (steps, seed) => {
        const run = new CrashRun(seed);
        await run.play(steps);
        // One moment, several disks that it may have left.
        for (let i = 0; i < 4; i++) await run.revive(seed + i);
        await run.end();
        checked++;
      },
    ),
    { numRuns: 60, endOnFailure: true, examples: foundSchedules },
  );
  t.ok(checked >= 60, 'all schedules were played');
});
