/**
 * fio with its nbd engine (libnbd): the client of all comparisons. It prints a line for each
 * connection before its JSON. Nothing is ramped up: the server's processor time is taken around the
 * whole of a run, so all of its I/Os must be counted.
 */

import * as v from 'valibot';
import { run } from './program.js';

export interface Load {
  readonly rw: 'randread' | 'randwrite' | 'randrw' | 'read' | 'write';
  readonly blockBytes: number;
  readonly depth: number;
  /** Each has a connection of its own. */
  readonly jobs: number;
  /** No block is touched twice: the run also ends when all have been. With one job only. */
  readonly once?: boolean;
  /** Only so much of the export is touched, from its start on; without it all. */
  readonly areaBytes?: number;
  /** No more than so many in a second. */
  readonly iops?: number;
}

/** How long: so many seconds, or so many I/Os in all. */
export type Length = { readonly seconds: number } | { readonly requests: number };

/** What fio found, over all jobs and both directions. */
export interface FioResult {
  readonly ios: number;
  readonly iops: number;
  /** MiB/s. */
  readonly throughput: number;
  /** From submission to completion, microseconds. */
  readonly mean: number;
  readonly p99: number;
  readonly longest: number;
}

/** Starting, connecting and ending. */
const overheadSeconds = 60;
/** A server that is slower than this is taken to hang. */
const slowestIops = 2000;

/** Throws if fio fails, or finds an error. */
export async function runFio(
  load: Load,
  length: Length,
  uri: string,
  signal: AbortSignal,
): Promise<FioResult> {
  const expected = 'seconds' in length ? length.seconds : length.requests / slowestIops;
  const args = fioArguments(load, length, uri);
  return parseFio(await run('fio', args, signal, Math.ceil(expected + overheadSeconds)));
}

export function fioArguments(load: Load, length: Length, uri: string): string[] {
  const bytesPerJob =
    'requests' in length ? Math.ceil(length.requests / load.jobs) * load.blockBytes : 0;
  return [
    '--name=bench',
    '--ioengine=nbd',
    `--uri=${uri}`,
    `--rw=${load.rw}`,
    `--bs=${load.blockBytes}`,
    `--iodepth=${load.depth}`,
    `--numjobs=${load.jobs}`,
    ...('seconds' in length ? [`--runtime=${length.seconds}`] : [`--io_size=${bytesPerJob}`]),
    ...(load.areaBytes === undefined ? [] : [`--size=${load.areaBytes}`]),
    ...(load.iops === undefined ? [] : [`--rate_iops=${Math.round(load.iops)}`]),
    // fio's map of the blocks it has been to is what keeps it from touching one twice.
    ...(load.once === true ? [] : ['--norandommap']),
    ...(load.once !== true && 'seconds' in length ? ['--time_based'] : []),
    '--group_reporting',
    '--lat_percentiles=1',
    '--clat_percentiles=0',
    '--eta=never',
    '--output-format=json',
  ];
}

const directionSchema = v.object({
  total_ios: v.number(),
  iops: v.number(),
  bw_bytes: v.number(),
  lat_ns: v.object({
    mean: v.number(),
    max: v.number(),
    percentile: v.optional(v.record(v.string(), v.number())),
  }),
});

const outputSchema = v.object({
  jobs: v.pipe(
    v.array(v.object({ error: v.number(), read: directionSchema, write: directionSchema })),
    v.length(1),
  ),
});

/** From all that fio wrote to its standard output. Throws if it is none of that, or no I/O. */
export function parseFio(output: string): FioResult {
  const begin = output.search(/^\{$/m);
  if (begin < 0) throw new Error(`read fio's output: found no JSON in "${output.slice(0, 200)}"`);
  let json: unknown;
  try {
    json = JSON.parse(output.slice(begin));
  } catch (error) {
    throw new Error(`read fio's output: ${error}`);
  }
  const parsed = v.safeParse(outputSchema, json);
  if (!parsed.success) {
    throw new Error(`read fio's output: ${parsed.issues.map(describeIssue).join(', ')}`);
  }
  const [job] = parsed.output.jobs as [v.InferOutput<typeof outputSchema>['jobs'][number]];
  if (job.error !== 0) throw new Error(`fio found error ${job.error}`);
  const directions = [job.read, job.write].filter((direction) => direction.total_ios > 0);
  const sum = (of: (direction: v.InferOutput<typeof directionSchema>) => number): number =>
    directions.reduce((total, direction) => total + of(direction), 0);
  const ios = sum((direction) => direction.total_ios);
  if (ios === 0) throw new Error('fio did no I/O');
  return {
    ios,
    iops: sum((direction) => direction.iops),
    throughput: sum((direction) => direction.bw_bytes) / 2 ** 20,
    mean: sum((direction) => direction.lat_ns.mean * direction.total_ios) / ios / 1000,
    // Of two directions, the worse: a percentile of both together cannot be had from theirs.
    p99: Math.max(...directions.map((one) => one.lat_ns.percentile?.['99.000000'] ?? 0)) / 1000,
    longest: Math.max(...directions.map((one) => one.lat_ns.max)) / 1000,
  };
}

function describeIssue(issue: v.BaseIssue<unknown>): string {
  return `${v.getDotPath(issue) ?? 'output'}: found ${issue.received}, wanted ${issue.expected}`;
}
