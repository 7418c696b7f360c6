/**
 * Results that are kept, and what they come to. A run is one job of fio on one layer: the bare
 * files, a device over them, a snapshot. Each case compares its layers with the base:
 *
 *   { "mapperd": "0.1.0", "title": ..., "date": ..., "base": "raw", "notes": [...],
 *     "runs": [{ "case": "randread 4k", "layer": "raw", "fio": { what fio reported } }, ...] }
 *
 * Several runs of one case and layer count as their medians, since one is easily disturbed.
 */

import * as v from 'valibot';
import { EINVAL } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { type Figures, figuresOf, fioReportSchema, issueText } from './fio-output.js';

const resultsSchema = v.object({
  /** The version that made them. */
  mapperd: v.string(),
  title: v.string(),
  /** ISO 8601. */
  date: v.string(),
  base: v.string(),
  notes: v.array(v.string()),
  runs: v.array(v.object({ case: v.string(), layer: v.string(), fio: fioReportSchema })),
});

export type Results = v.InferOutput<typeof resultsSchema>;
export type Run = Results['runs'][number];

export interface Row extends Figures {
  readonly layer: string;
  /** Over the base's of the same case; null without a base. */
  readonly iopsRatio: number | null;
  readonly meanRatio: number | null;
}

export interface Group {
  readonly title: string;
  readonly rows: readonly Row[];
}

/** Results, made ready to be shown. */
export interface Comparison {
  readonly title: string;
  readonly date: string;
  readonly base: string;
  readonly notes: readonly string[];
  readonly groups: readonly Group[];
}

/** Throws MapperError. */
export function parseResults(text: string): Results {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new MapperError(EINVAL, `read results: ${messageOf(error)}`);
  }
  const parsed = v.safeParse(resultsSchema, json);
  if (parsed.success) return parsed.output;
  const all = parsed.issues.map(issueText);
  throw new MapperError(EINVAL, `read results: ${all.slice(0, 3).join(', ')}`);
}

/** Cases and layers are told in the order in which they first ran. Throws MapperError. */
export function compare({ title, date, base, notes, runs }: Results): Comparison {
  const cases = new Map<string, Map<string, Figures[]>>();
  for (const { case: name, layer, fio } of runs) {
    const layers = entry(cases, name, () => new Map<string, Figures[]>());
    entry(layers, layer, () => []).push(figuresOf(fio));
  }
  const groups = [...cases].map(([name, layers]) => groupOf(name, layers, base));
  const shown = { title: printable(title), date: printable(date), base: printable(base) };
  return { ...shown, notes: notes.map(printable), groups };
}

function groupOf(title: string, layers: Map<string, Figures[]>, base: string): Group {
  const medians = [...layers].map(([layer, figures]) => ({ layer, ...medianFigures(figures) }));
  const bare = medians.find(({ layer }) => layer === base);
  const rows = medians.map((one) => ({
    ...one,
    layer: printable(one.layer),
    iopsRatio: over(one.iops, bare?.iops),
    meanRatio: over(one.mean, bare?.mean),
  }));
  return { title: printable(title), rows };
}

/** Null for what is no ratio at all. */
function over(value: number, base = 0): number | null {
  const ratio = value / base;
  return Number.isFinite(ratio) && ratio >= 0 ? ratio : null;
}

/** Names and paths come from elsewhere; a terminal must not take them for orders. */
function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, '?');
}

function medianFigures(runs: readonly Figures[]): Figures {
  return {
    iops: median(runs.map(({ iops }) => iops)),
    throughput: median(runs.map(({ throughput }) => throughput)),
    mean: median(runs.map(({ mean }) => mean)),
    p99: median(runs.map(({ p99 }) => p99)),
  };
}

/** The middle value, or the mean of the two in the middle; of nothing, NaN. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const upper = sorted[sorted.length >> 1] ?? Number.NaN;
  if (sorted.length % 2 === 1) return upper;
  return ((sorted[(sorted.length >> 1) - 1] ?? Number.NaN) + upper) / 2;
}

function entry<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const found = map.get(key);
  if (found !== undefined) return found;
  const made = make();
  map.set(key, made);
  return made;
}
