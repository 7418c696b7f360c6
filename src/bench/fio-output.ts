/**
 * What fio reports as JSON (--output-format=json), and the figures that are made of it. fio may say
 * something in front of the JSON: its nbd engine prints a line for each connection.
 */

import * as v from 'valibot';
import { EIO } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';

/** Of one run, over all jobs and both directions. */
export interface Figures {
  readonly iops: number;
  /** MiB/s. */
  readonly throughput: number;
  /** From submission to completion, microseconds. */
  readonly mean: number;
  readonly p99: number;
}

const latencySchema = v.object({
  mean: v.number(),
  percentile: v.optional(v.record(v.string(), v.number())),
});

const directionSchema = v.object({
  total_ios: v.number(),
  iops: v.number(),
  bw_bytes: v.number(),
  lat_ns: latencySchema,
  clat_ns: v.optional(latencySchema),
});

const jobSchema = v.object({
  jobname: v.string(),
  error: v.number(),
  read: directionSchema,
  write: directionSchema,
});

/** The report as it is kept: with all that fio says, whatever is made of it now. */
export const fioReportSchema = v.looseObject({
  'fio version': v.string(),
  jobs: v.pipe(v.array(v.looseObject(jobSchema.entries)), v.minLength(1)),
});

export type FioReport = v.InferOutput<typeof fioReportSchema>;
type Direction = v.InferOutput<typeof directionSchema>;

/** From all that fio wrote to its standard output. Throws MapperError. */
export function parseFioOutput(output: string): FioReport {
  const begin = output.search(/^\{$/m);
  if (begin < 0) throw unreadable(`found no JSON in "${output.trim().slice(0, 200)}"`);
  let json: unknown;
  try {
    json = JSON.parse(output.slice(begin));
  } catch (error) {
    throw unreadable(messageOf(error));
  }
  const parsed = v.safeParse(fioReportSchema, json);
  if (parsed.success) return parsed.output;
  throw unreadable(parsed.issues.map(issueText).join(', '));
}

/** The jobs of a report ran side by side: they count together. Throws MapperError. */
export function figuresOf({ jobs }: FioReport): Figures {
  const failed = jobs.find(({ error }) => error !== 0);
  if (failed !== undefined) {
    throw new MapperError(EIO, `fio: job "${failed.jobname}" ended with error ${failed.error}`);
  }
  const directions = jobs.flatMap(({ read, write }) => [read, write]);
  const busy = directions.filter(({ total_ios }) => total_ios > 0);
  const sum = (of: (one: Direction) => number): number =>
    busy.reduce((all, one) => all + of(one), 0);
  const ios = sum((one) => one.total_ios);
  if (ios === 0) throw new MapperError(EIO, 'fio: no I/O was done');
  return {
    iops: sum((one) => one.iops),
    throughput: sum((one) => one.bw_bytes) / 2 ** 20,
    mean: sum((one) => one.lat_ns.mean * one.total_ios) / ios / 1000,
    // Percentiles of several cannot be joined; the worst is what one may have met.
    p99: Math.max(...busy.map(p99Of)) / 1000,
  };
}

/** fio keeps percentiles of one of the two. */
function p99Of({ lat_ns, clat_ns }: Direction): number {
  const percentile = lat_ns.percentile ?? clat_ns?.percentile;
  return percentile?.['99.000000'] ?? 0;
}

export function issueText(issue: v.BaseIssue<unknown>): string {
  return `${v.getDotPath(issue) ?? 'all'}: found ${issue.received}, wanted ${issue.expected}`;
}

function unreadable(text: string): MapperError {
  return new MapperError(EIO, `read fio's report: ${text}`);
}
