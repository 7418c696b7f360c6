/** `copy`, `jobs` and `cancel`: copies that the daemon makes, and how far they are. */

import { resolve } from 'node:path';
import { ECANCELED, EINVAL, EIO } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { formatBytes, parseBytes } from '../base/sizes.js';
import type { Params } from '../control/messages.js';
import type { CopyJobInfo } from '../queue/commands.js';
import type { ControlClient } from './client.js';
import type { Command, Invocation, OptionValues } from './command.js';

const any = Number.POSITIVE_INFINITY;
/** How often the bar moves, and how long one question waits where there is none. */
const barMilliseconds = 200;
const waitMilliseconds = 10_000;
const barWidth = 24;

/** A path is the caller's; the daemon may be somewhere else. */
function absoluteWord(word: string): string {
  return /^(dm:|file:|\/)/.test(word) ? word : resolve(word);
}

function sizeOption(options: OptionValues, name: string): number | undefined {
  const text = options.text(name);
  return text === undefined ? undefined : parseBytes(text);
}

function percentOption(options: OptionValues): number | undefined {
  const text = options.text('throttle');
  if (text === undefined) return undefined;
  const match = /^([0-9]{1,3})%?$/.exec(text);
  const percent = Number(match?.[1]);
  if (!(percent >= 1 && percent <= 100)) {
    throw new MapperError(EINVAL, `--throttle: found "${text}", wanted 1 to 100 per cent`);
  }
  return percent;
}

function request({ words, options }: Invocation): Params<'copy'> {
  const [source, ...destinations] = words.map(absoluteWord) as [string, ...string[]];
  const params: Params<'copy'> = { source, destinations };
  const sourceOffset = sizeOption(options, 'offset');
  const destinationOffset = sizeOption(options, 'to-offset');
  const length = sizeOption(options, 'length');
  const throttlePercent = percentOption(options);
  if (sourceOffset !== undefined) params.sourceOffset = sourceOffset;
  if (destinationOffset !== undefined) params.destinationOffset = destinationOffset;
  if (length !== undefined) params.length = length;
  if (throttlePercent !== undefined) params.throttlePercent = throttlePercent;
  if (options.flag('zeroes')) params.zeroes = true;
  if (options.flag('no-holes')) params.noHoles = true;
  if (options.flag('no-offload')) params.noOffload = true;
  if (options.flag('flush')) params.flush = true;
  return params;
}

async function copy(call: Invocation): Promise<void> {
  const { client, options, print } = call;
  if (options.flag('background')) {
    const { id } = await client.call('copy', request(call));
    print({ id }, `${id}\n`);
    return;
  }
  let begun: number | null = null;
  let asked = false;
  const cancel = (): void => {
    if (begun !== null) client.call('cancel', { id: begun }).catch(() => {});
  };
  const interrupted = (): void => {
    // Who asks twice does not want to wait for what is under way.
    if (asked) process.exit(1);
    asked = true;
    cancel();
  };
  // Before it begins: who does not want it any more may say so at any time.
  process.on('SIGINT', interrupted).on('SIGTERM', interrupted);
  try {
    const { id } = await client.call('copy', request(call));
    begun = id;
    if (asked) cancel();
    const info = await untilEnded(client, id, process.stderr.isTTY && !options.flag('json'));
    print(info, info.state === 'done' ? formatCopied(info) : '');
    if (info.state === 'cancelled') {
      const done = `${formatBytes(info.doneBytes)} of ${formatBytes(info.totalBytes)}`;
      throw new MapperError(ECANCELED, `copy ${id} was cancelled after ${done}`);
    }
    if (info.state === 'failed') throw new MapperError(EIO, `copy ${id}: ${info.error}`);
  } finally {
    process.off('SIGINT', interrupted).off('SIGTERM', interrupted);
  }
}

async function untilEnded(client: ControlClient, id: number, bar: boolean): Promise<CopyJobInfo> {
  const wait = bar ? barMilliseconds : waitMilliseconds;
  for (;;) {
    const info = await client.call('job', { id, waitMilliseconds: wait });
    const over = info.state !== 'waiting' && info.state !== 'running';
    if (bar) process.stderr.write(over ? '\r\x1b[K' : `\r${formatBar(info)}\x1b[K`);
    if (over) return info;
  }
}

/** `[######              ]  30 %  614.4 MiB of 2.0 GiB  1.2 GiB/s  1 s left` */
export function formatBar(info: CopyJobInfo): string {
  if (info.state === 'waiting') return 'waits for other copies';
  const part = partOf(info);
  const filled = Math.floor(part * barWidth);
  const bar = '#'.repeat(filled).padEnd(barWidth);
  const percent = `${Math.floor(part * 100)}`.padStart(3);
  const size = `${formatBytes(info.doneBytes)} of ${formatBytes(info.totalBytes)}`;
  return `[${bar}] ${percent} %  ${size}  ${formatBytes(info.bytesPerSecond)}/s${formatLeft(info)}`;
}

function partOf({ doneBytes, totalBytes }: CopyJobInfo): number {
  return totalBytes === 0 ? 1 : doneBytes / totalBytes;
}

function formatLeft({ secondsLeft }: CopyJobInfo): string {
  return secondsLeft === null ? '' : `  ${formatSeconds(secondsLeft)} left`;
}

/** `12 s`, `2 min 5 s`, `3 h 20 min`. */
function formatSeconds(seconds: number): string {
  const whole = Math.ceil(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** `copied 2.0 GiB in 0.61 s, 3.3 GiB/s; 1.0 GiB of it holes and zeroes; by read and write` */
export function formatCopied(info: CopyJobInfo): string {
  const { skippedBytes, methods } = info;
  const seconds = (info.milliseconds / 1000).toFixed(2);
  const rate = info.milliseconds === 0 ? '' : `, ${formatBytes(info.bytesPerSecond)}/s`;
  const skipped = skippedBytes === 0 ? '' : `; ${formatBytes(skippedBytes)} of it holes and zeroes`;
  const by = methods.length === 0 ? '' : `; by ${methods.join(', ')}`;
  return `copied ${formatBytes(info.doneBytes)} in ${seconds} s${rate}${skipped}${by}\n`;
}

/** A line for each job: `3  running  42 %  1.2 GiB/s  1 s left  /a -> /b, /c`. */
export function formatJobs(jobs: readonly CopyJobInfo[]): string {
  if (jobs.length === 0) return 'No copies\n';
  return jobs
    .map((job) => {
      const percent = `${Math.floor(partOf(job) * 100)} %`;
      const rate = job.milliseconds === 0 ? '-' : `${formatBytes(job.bytesPerSecond)}/s`;
      const what = `${job.source} -> ${job.destinations.join(', ')}`;
      const error = job.error === null ? '' : ` (${job.error})`;
      const cells = [`${job.id}`, job.state, percent, `${formatBytes(job.totalBytes)}`, rate];
      return `${cells.join('  ')}${formatLeft(job)}  ${what}${error}\n`;
    })
    .join('');
}

function parseId(word: string): number {
  if (!/^[0-9]{1,15}$/.test(word)) {
    throw new MapperError(EINVAL, `found "${word}", wanted a copy's number (mapperctl jobs)`);
  }
  return Number(word);
}

const flag = { type: 'boolean' } as const;
const value = { type: 'string' } as const;

export const copyCommands: readonly Command[] = [
  {
    name: 'copy',
    usage: `SOURCE DESTINATION... [--offset SIZE] [--to-offset SIZE] [--length SIZE]
        [--throttle PERCENT] [--zeroes] [--no-holes] [--no-offload] [--flush] [--background]`,
    summary: 'copy a file or device (dm:NAME) to others; a file that is not there is made',
    minWords: 2,
    maxWords: any,
    options: {
      offset: value,
      'to-offset': value,
      length: value,
      throttle: value,
      zeroes: flag,
      'no-holes': flag,
      'no-offload': flag,
      flush: flag,
      background: flag,
    },
    run: copy,
  },
  {
    name: 'jobs',
    usage: '',
    summary: 'list the copies that are under way, and those that ended lately',
    minWords: 0,
    maxWords: 0,
    run: async ({ client, print }) => {
      const jobs = await client.call('jobs', {});
      print(jobs, formatJobs(jobs));
    },
  },
  {
    name: 'cancel',
    usage: 'NUMBER...',
    summary: 'end copies before they are done',
    minWords: 1,
    maxWords: any,
    run: async ({ words, client, print }) => {
      for (const id of words.map(parseId)) print(await client.call('cancel', { id }), '');
    },
  },
];
