/**
 * npm run simulate -- [--seed N] [--ops N] [--seeds N] [--bug TEXT]
 *
 * Plays so many operations of a seed, or of several seeds one after the other, and says how that
 * went. A run that fails is made as short as it gets, and what happens in it is printed. `--bug`
 * puts in the first deliberate bug (mutations.ts) whose name has that text.
 */

import { parseArgs } from 'node:util';
import { mutations } from './mutations.js';
import { describeFailure, run, upTo } from './run.js';
import { shrink } from './shrink.js';

const shrinkMilliseconds = 120_000;

function numberOf(text: string | undefined, usual: number): number {
  const value = text === undefined ? usual : Number(text);
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw new Error(`found "${text}", wanted a whole number`);
}

async function printFailure(seed: number, last: number, failure: unknown): Promise<void> {
  process.stdout.write(`seed ${seed} fails at operation ${last}: ${describeFailure(failure)}\n`);
  const { numbers, runs } = await shrink(seed, last, failure, shrinkMilliseconds);
  const trace: string[] = [];
  const result = await run(seed, numbers, { trace });
  const lines = trace.map((line) => `${line}\n`).join('');
  process.stdout.write(`${numbers.length} operations are left of it (${runs} runs):\n${lines}`);
  process.stdout.write(`${describeFailure(result.failure)}\n`);
}

/** The process's exit code. */
async function simulate(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string' },
      ops: { type: 'string' },
      seeds: { type: 'string' },
      bug: { type: 'string' },
    },
  });
  const first = numberOf(values.seed, Math.floor(Math.random() * 2 ** 31));
  const operations = numberOf(values.ops, 10_000);
  const seeds = numberOf(values.seeds, 1);
  const { bug } = values;
  const mutation = bug === undefined ? null : mutations.find(({ name }) => name.includes(bug));
  if (mutation === undefined) throw new Error(`no deliberate bug is called "${bug}"`);
  mutation?.apply();
  const start = performance.now();
  let played = 0;
  let answers = 0;
  for (let seed = first; seed < first + seeds; seed++) {
    const result = await run(seed, upTo(operations));
    played += result.operations;
    answers += result.answers;
    if (result.failure !== null) {
      await printFailure(seed, result.operations, result.failure);
      return 1;
    }
    process.stdout.write(`seed ${seed}: ${operations} operations, hash ${result.hash}\n`);
  }
  const seconds = (performance.now() - start) / 1000;
  const { user, system } = process.cpuUsage();
  const rate = Math.round(played / seconds);
  const perCpu = Math.round((played / (user + system)) * 1e6);
  const rates = `${rate} a second, ${perCpu} a second of CPU time`;
  process.stdout.write(`${played} operations, ${answers} answers; ${rates}\n`);
  return 0;
}

process.exitCode = await simulate();
