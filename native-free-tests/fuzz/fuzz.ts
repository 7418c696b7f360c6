/**
 * npm run fuzz -- [--target NAME] [--inputs N] [--seed N] [--from NUMBER] [--found FILE]
 *
 * Plays so many inputs to one subject, or to all of them one after the other, in their shares. The
 * first failure is made small and printed, with what is needed to play it again. `--from` begins
 * with a later input of the seed, `--found` plays the inputs of a file.
 */

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { readInput, type WrittenInput, writeInput } from './input.js';
import { type Failure, failureOf, run } from './run.js';
import type { SubjectMaker } from './subject.js';
import { subjects } from './subjects.js';

function numberOf(text: string | undefined, usual: number): number {
  const value = text === undefined ? usual : Number(text);
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw new Error(`found "${text}", wanted a whole number`);
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

function printFailure(name: string, seed: number, failure: Failure): void {
  const { number, error, input, small, smallError } = failure;
  const again = `--target ${name} --seed ${seed} --from ${number} --inputs 1`;
  process.stdout.write(`${name}: input ${number} of seed ${seed} fails (${again})\n`);
  process.stdout.write(`${describe(error)}\n${JSON.stringify(writeInput(input))}\n`);
  process.stdout.write(`made small:\n${describe(smallError)}\n`);
  process.stdout.write(`${JSON.stringify(writeInput(small))}\n`);
}

/** True: all went well. */
async function play(maker: SubjectMaker, seed: number, inputs: number, from: number) {
  const cpu = process.cpuUsage();
  const { inputs: played, failure } = await run(
    () => maker.make(),
    seed,
    inputs,
    from,
    (number) => {
      Atomics.store(progress, 0, number | 0);
    },
  );
  const { user, system } = process.cpuUsage(cpu);
  if (failure !== null) printFailure(maker.name, seed, failure);
  const rate = Math.round((played / (user + system)) * 1e6);
  const resident = Math.round(process.memoryUsage.rss() / 2 ** 20);
  const rates = `${rate} a second of CPU time, ${resident} MiB resident`;
  process.stdout.write(`${maker.name}: ${played} inputs, ${rates}\n`);
  return failure === null;
}

async function playFound(maker: SubjectMaker, path: string): Promise<boolean> {
  for (const written of JSON.parse(readFileSync(path, 'utf8')) as WrittenInput[]) {
    const error = await failureOf(await maker.make(), readInput(written));
    if (error === null) continue;
    process.stdout.write(`${describe(error)}\n${JSON.stringify(written)}\n`);
    return false;
  }
  return true;
}

/** What the watching thread looks at: an input that never ends keeps this one for ever. */
const progress = new Int32Array(new SharedArrayBuffer(4));

function watch(): Worker {
  const program = `
    const { workerData } = require('node:worker_threads');
    let last = -1;
    setInterval(() => {
      const now = Atomics.load(workerData, 0);
      if (now === last) process._rawDebug('input ' + now + ' has taken a minute so far');
      last = now;
    }, 60000).ref();
  `;
  const worker = new Worker(program, { eval: true, workerData: progress });
  worker.unref();
  return worker;
}

/** The process's exit code. */
async function fuzz(): Promise<number> {
  const { values } = parseArgs({
    options: {
      target: { type: 'string' },
      inputs: { type: 'string' },
      seed: { type: 'string' },
      from: { type: 'string' },
      found: { type: 'string' },
    },
  });
  const inputs = numberOf(values.inputs, 100_000);
  const seed = numberOf(values.seed, Math.floor(Math.random() * 2 ** 31));
  const from = numberOf(values.from, 0);
  const { target } = values;
  const chosen = subjects.filter(({ name }) => target === undefined || name === target);
  if (chosen.length === 0) {
    const names = subjects.map(({ name }) => name).join(', ');
    throw new Error(`found target "${target}", wanted one of ${names}`);
  }
  process.stdout.write(`seed ${seed}\n`);
  const watcher = watch();
  const whole = chosen.reduce((sum, { share }) => sum + share, 0);
  let well = true;
  for (const maker of chosen) {
    if (values.found !== undefined) well = await playFound(maker, values.found);
    else well = await play(maker, seed, Math.ceil((inputs * maker.share) / whole), from);
    if (!well) break;
  }
  await watcher.terminate();
  return well ? 0 : 1;
}

process.exitCode = await fuzz();
