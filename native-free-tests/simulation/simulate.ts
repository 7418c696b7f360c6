/**
 * npm run simulate -- [--seed N | --seeds A..B] [--ops N] [--crashes] [--bug TEXT]
 *
 * Plays so many operations of a seed, or of each of several, and says how that went. One seed that
 * fails is made as short as it gets, and what happens in it is printed. Of several each that fails
 * is told, and there is a line every minute, so that it can run through a night.
 *
 *   --crashes   whenever something reaches a disk, see what a crash would leave: for short runs
 *   --bug       puts in the first deliberate bug (mutations.ts) whose name has that text
 */

import { parseArgs } from 'node:util';
import { mutations } from './mutations.js';
import { describeFailure, play, type RunOptions, run } from './run.js';
import { shrink } from './shrink.js';
import { Tally } from './tally.js';

const shrinkMilliseconds = 120_000;
const reportMilliseconds = 60_000;

interface Settings {
  readonly first: number;
  readonly last: number;
  /** Of each seed. */
  readonly operations: number;
  readonly options: RunOptions;
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

function numberOf(text: string, what: string): number {
  const value = Number(text);
  if (/^[0-9]+$/.test(text) && Number.isSafeInteger(value)) return value;
  throw new Error(`${what}: found "${text}", wanted a whole number`);
}

function settingsOf(args: string[]): Settings {
  const { values } = parseArgs({
    args,
    options: {
      seed: { type: 'string' },
      seeds: { type: 'string' },
      ops: { type: 'string' },
      crashes: { type: 'boolean', default: false },
      bug: { type: 'string' },
    },
  });
  const { bug, seed, seeds } = values;
  if (bug !== undefined) {
    const mutation = mutations.find(({ name }) => name.includes(bug));
    if (mutation === undefined) throw new Error(`no deliberate bug is called "${bug}"`);
    say(`with a bug: ${mutation.name}`);
    mutation.apply();
  }
  const [from, to, ...more] = (seeds ?? '').split('..');
  if (seeds !== undefined && (to === undefined || more.length > 0)) {
    throw new Error(`--seeds: found "${seeds}", wanted a range such as 1..200`);
  }
  const any = `${Math.floor(Math.random() * 2 ** 31)}`;
  const first = numberOf(seeds === undefined ? (seed ?? any) : (from ?? ''), 'seed');
  return {
    first,
    last: seeds === undefined ? first : numberOf(to ?? '', 'seed'),
    operations: numberOf(values.ops ?? '10000', '--ops'),
    options: { everyEffect: values.crashes },
  };
}

/** One seed. The process's exit code. */
async function simulate({ first: seed, operations, options }: Settings): Promise<number> {
  say(`seed ${seed}`);
  const { failure, hash, last, tally } = await play(seed, operations, options);
  say(`${tally}, hash ${hash}`);
  if (failure === null) return 0;
  say(`it fails at step ${last}: ${describeFailure(failure)}`);
  const { numbers, runs } = await shrink(seed, last, failure, shrinkMilliseconds, options);
  const trace: string[] = [];
  const { failure: same } = await run(seed, numbers, { ...options, trace });
  say(`${numbers.length} steps of ${last + 1} are left of it after ${runs} runs:`);
  for (const line of trace) say(line);
  say(describeFailure(same));
  return 1;
}

/** Many seeds. The process's exit code. */
async function simulateAll({ first, last, operations, options }: Settings): Promise<number> {
  const all = new Tally();
  const failed: number[] = [];
  const start = performance.now();
  let nextReport = start + reportMilliseconds;
  const seeds = last + 1 - first;
  say(`seeds ${first} to ${last}, ${operations} operations each`);
  for (let seed = first; seed <= last; seed++) {
    const { failure, last: step, tally } = await play(seed, operations, options);
    all.add(tally);
    if (failure !== null) {
      failed.push(seed);
      say(`seed ${seed} fails at step ${step}: ${describeFailure(failure)}`);
    }
    if (performance.now() < nextReport) continue;
    nextReport += reportMilliseconds;
    const millions = (all.operations / 1e6).toFixed(1);
    const done = `${seed + 1 - first} of ${seeds} seeds, ${millions} million operations`;
    say(`${done}, ${rateOf(all, start)}, ${failed.length} failed`);
  }
  say(`${all}`);
  say(`${seeds} seeds, ${rateOf(all, start)}, ${failed.length} failed`);
  return failed.length === 0 ? 0 : 1;
}

function rateOf({ operations, seconds }: Tally, start: number): string {
  const elapsed = (performance.now() - start) / 1000;
  const { user, system } = process.cpuUsage();
  const perCpu = Math.round((operations / (user + system)) * 1e6);
  const virtual = Math.round((seconds / elapsed) * 60);
  const MiB = Math.round(process.memoryUsage.rss() / 2 ** 20);
  const elapsedText = `${Math.round(elapsed)} s`;
  return `${elapsedText}, ${perCpu} a CPU second, ${virtual} simulated seconds a minute, ${MiB} MiB`;
}

const settings = settingsOf(process.argv.slice(2));
process.exitCode =
  settings.first === settings.last ? await simulate(settings) : await simulateAll(settings);
