/** `bench` and `report`: what a device costs over its bare files, by fio, as a table and a plot. */

import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { cpus, release } from 'node:os';
import { EINVAL, ENOENT, errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { parseBytes, parseDuration } from '../base/sizes.js';
import { packageVersion } from '../base/version.js';
import { type Effort, measure, warmUp } from '../bench/measure.js';
import { plotSvg } from '../bench/plot.js';
import { requireFio } from '../bench/programs.js';
import { formatComparison } from '../bench/report.js';
import { compare, parseResults, type Results } from '../bench/results.js';
import { Scratch } from '../bench/scratch.js';
import { prepareSubject, type Request, rawLayer, type Writes } from '../bench/subject.js';
import { localAddress, nbdUri } from '../control/attach.js';
import type { ControlClient } from './client.js';
import type { Command, Invocation, OptionValues } from './command.js';

/** Of each run. */
const usualTime = '2s';
const leastMilliseconds = 100;
const mostMilliseconds = 3_600_000;
const usualRounds = '3';
const mostRounds = 100;

async function bench(call: Invocation): Promise<void> {
  const { client, options, words } = call;
  const effort = {
    milliseconds: timeOption(options),
    rounds: roundsOption(options),
  };
  const request = requestOf(words[0] ?? null, options);
  const aborted = new AbortController();
  const abort = (): void => aborted.abort();
  process.on('SIGINT', abort).on('SIGTERM', abort);
  const { signal } = aborted;
  try {
    await requireFio(signal);
    const version = await client.call('version', {});
    const base = options.text('uri') ?? (await findUri(client));
    const directory = options.text('directory') ?? version.state ?? '.';
    const results = await withScratch(client, directory, signal, async (scratch) => {
      const uriOf = (name: string): string => exportUri(base, name);
      const full = { ...request, uriOf };
      const subject = await prepareSubject({ client, scratch, request: full, signal });
      for (const place of subject.cached) await warmUp(place, signal);
      const runs = await measure(subject.trials, effort, signal, showProgress);
      const about = [machineText(), `mapperd ${version.version}, engine ${version.engine}`];
      about.push(effortText(effort), ...subject.notes);
      return resultsOf(subject.title, about, runs);
    });
    await show(call, results);
  } finally {
    process.off('SIGINT', abort).off('SIGTERM', abort);
    showProgress(null);
  }
}

/** A figure means nothing without it. */
function machineText(): string {
  const all = cpus();
  const model = all[0]?.model.trim() || 'unknown CPU';
  return `${model}, ${all.length} cores, Linux ${release()}`;
}

function effortText({ milliseconds, rounds }: Effort): string {
  const time = `${milliseconds / 1000} s`;
  return rounds === 1 ? `one run of ${time}` : `medians of ${rounds} runs of ${time}`;
}

function resultsOf(title: string, notes: string[], runs: Results['runs']): Results {
  const date = new Date().toISOString();
  return { mapperd: packageVersion(), title, date, base: rawLayer, notes, runs };
}

/** Whatever happens, what was made is removed. */
async function withScratch<T>(
  client: ControlClient,
  directory: string,
  signal: AbortSignal,
  body: (scratch: Scratch) => Promise<T>,
): Promise<T> {
  const scratch = new Scratch(client, directory, signal);
  let result: T;
  try {
    result = await body(scratch);
  } catch (error) {
    await scratch.clear().catch((more) => {
      throw new MapperError(errnoOf('EIO'), `${messageOf(error)}; ${messageOf(more)}`);
    });
    throw error;
  }
  await scratch.clear();
  return result;
}

function requestOf(device: string | null, options: OptionValues): Omit<Request, 'uriOf'> {
  const destroy = options.flag('destroy-data');
  if (destroy && device === null) {
    throw new MapperError(EINVAL, '--destroy-data: found no device, wanted one to write to');
  }
  const writes: Writes = destroy ? 'destroy' : options.flag('write') ? 'scratch' : 'no';
  const size = options.text('size');
  const areaBytes = size === undefined ? null : parseBytes(size);
  if (areaBytes !== null && areaBytes < 2 ** 20) {
    throw new MapperError(EINVAL, `--size: found "${size}", wanted 1 MiB or more`);
  }
  return { device, writes, areaBytes, buffered: options.flag('buffered') };
}

function timeOption(options: OptionValues): number {
  const text = options.text('time') ?? usualTime;
  const milliseconds = parseDuration(text);
  if (milliseconds >= leastMilliseconds && milliseconds <= mostMilliseconds) return milliseconds;
  throw new MapperError(EINVAL, `--time: found "${text}", wanted 100 ms to an hour`);
}

function roundsOption(options: OptionValues): number {
  const text = options.text('rounds') ?? usualRounds;
  const rounds = /^[0-9]{1,3}$/.test(text) ? Number(text) : 0;
  if (rounds >= 1 && rounds <= mostRounds) return rounds;
  throw new MapperError(EINVAL, `--rounds: found "${text}", wanted 1 to ${mostRounds}`);
}

/** Where the daemon is reached from here: by a unix socket, if it is there, else by TCP. */
async function findUri(client: ControlClient): Promise<string> {
  const listeners = (await client.call('listeners', {})).map(localAddress);
  const unix = listeners.find((one) => one.kind === 'unix' && existsSync(one.path));
  const address = unix ?? listeners.find(({ kind }) => kind === 'tcp');
  if (address !== undefined) return nbdUri(address, '');
  throw new MapperError(ENOENT, 'the daemon listens nowhere that fio could connect to (--uri)');
}

/** The same server's export of that name. Throws MapperError. */
export function exportUri(base: string, name: string): string {
  const match = /^(nbds?(?:\+unix|\+vsock)?:\/\/[^/?]*)(?:\/[^?]*)?(\?.*)?$/.exec(base);
  if (match === null) throw new MapperError(EINVAL, `found "${base}", wanted an NBD URI`);
  return `${match[1]}/${encodeURIComponent(name)}${match[2] ?? ''}`;
}

/** One line on a terminal that is written over; null: it is not needed any more. */
function showProgress(text: string | null): void {
  if (process.stderr.isTTY) process.stderr.write(`\r${text ?? ''}\x1b[K`);
}

/** Shows results, and keeps what is to be kept. Throws MapperError. */
async function show({ options, print }: Invocation, results: Results): Promise<void> {
  const comparison = compare(results);
  await save(options.text('save'), () => `${JSON.stringify(results)}\n`);
  await save(options.text('svg'), () => plotSvg(comparison));
  print(comparison, formatComparison(comparison));
}

async function save(path: string | undefined, make: () => string): Promise<void> {
  if (path === undefined) return;
  try {
    await writeFile(path, make());
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new MapperError(errnoOf(code), `write "${path}": ${messageOf(error)}`);
  }
}

async function report(call: Invocation): Promise<void> {
  const [path] = call.words as [string];
  let text: string;
  try {
    text = path === '-' ? await call.readInput() : await readFile(path, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new MapperError(errnoOf(code), `read results: ${messageOf(error)}`);
  }
  await show(call, parseResults(text));
}

const flag = { type: 'boolean' } as const;
const value = { type: 'string' } as const;

export const benchCommands: readonly Command[] = [
  {
    name: 'bench',
    usage: `[DEVICE] [--write | --destroy-data] [--size SIZE] [--time 2s] [--rounds N]
        [--buffered] [--directory DIR] [--uri URI] [--svg FILE] [--save FILE]`,
    summary: 'measure a device over NBD against the bare files beneath it, by fio',
    minWords: 0,
    maxWords: 1,
    options: {
      write: flag,
      'destroy-data': flag,
      buffered: flag,
      size: value,
      time: value,
      rounds: value,
      directory: value,
      uri: value,
      svg: value,
      save: value,
    },
    run: bench,
  },
  {
    name: 'report',
    usage: 'FILE [--svg FILE]',
    summary: 'show what bench has kept (--save) once more; "-" is standard input',
    minWords: 1,
    maxWords: 1,
    options: { svg: value },
    offline: () => true,
    run: report,
  },
];
