/** The tables of the report: headers and rows of text, whatever they are then written as. */

import { formatBytes } from '../../src/base/sizes.js';
import type { Figure, Wanted } from './case.js';
import type {
  ComparisonResult,
  CopyResult,
  CopyWayResult,
  FiguresResult,
  IdleResult,
  MemoryResult,
  OtherCopyResult,
  OtherResult,
  ServerResult,
} from './results.js';

export interface Table {
  readonly header: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** Columns before this one hold words, the others figures. */
  readonly words: number;
}

type Bound = Pick<Wanted, 'bound' | 'ratio'>;

export function isMet({ bound, ratio }: Bound, found: number): boolean {
  return bound === 'at least' ? found >= ratio : found <= ratio;
}

export function comparisonTable(results: readonly ComparisonResult[]): Table {
  return {
    header: [
      'case',
      'server',
      'rate',
      'spread',
      'mean us',
      'p99 us',
      'CPU us/IO',
      'rate ratio',
      'mean ratio',
      'p99 ratio',
      'CPU ratio',
    ],
    rows: results.flatMap((result) => [
      [result.name, ...figureCells(result.judged, result.rate), '', '', '', ''],
      ...result.others.map((other) => [
        '',
        ...figureCells(other, result.rate),
        ...[result.rate, 'mean' as const, 'p99' as const, 'cpu' as const].map((figure) =>
          ratioCell(other, figure),
        ),
      ]),
    ]),
    words: 2,
  };
}

function nameCell({ label, detail }: { label: string; detail: string | null }): string {
  return detail === null ? label : `${label} (${detail})`;
}

function figureCells(server: ServerResult, rate: ComparisonResult['rate']): string[] {
  const { medians, spread } = server;
  const value = Math.round(medians[rate]).toLocaleString('en-GB');
  return [
    nameCell(server),
    `${value} ${rate === 'iops' ? 'IOPS' : 'MiB/s'}`,
    `${Math.round(spread * 100)}%`,
    medians.mean.toFixed(1),
    medians.p99.toFixed(1),
    medians.cpu.toFixed(2),
  ];
}

/** `1.82 (>= 1.80 pass)`; the bare ratio where nothing is wanted of it. */
function ratioCell({ ratios, wanted }: OtherResult, figure: Figure): string {
  const found = ratios[figure];
  const want = wanted.find((one) => one.figure === figure);
  if (want === undefined) return found.toFixed(2);
  return judgedCell(want, found);
}

function judgedCell(want: Bound, found: number): string {
  const sign = want.bound === 'at least' ? '>=' : '<=';
  const mark = isMet(want, found) ? 'pass' : 'FAIL';
  return `${roundAgainst(want, found)} (${sign} ${want.ratio.toFixed(2)} ${mark})`;
}

/** Rounded to the side on which it does not look better than it is: 1.799 is no 1.80. */
function roundAgainst({ bound }: Bound, found: number): string {
  const hundredths =
    bound === 'at least' ? Math.floor(found * 100 + 1e-9) : Math.ceil(found * 100 - 1e-9);
  return (hundredths / 100).toFixed(2);
}

/** Of the comparisons that bound the memory: what it came to, and the longest I/Os. */
export function footprintTable(results: readonly ComparisonResult[]): Table {
  return {
    header: ['case', 'server', 'longest us', 'of all runs', 'longest ratio', 'peak', 'wanted'],
    rows: results.flatMap((result) => [
      [result.name, ...footprintCells(result.judged), '', ...peakCells(result)],
      ...result.others.map((other) => [
        '',
        ...footprintCells(other),
        ratioCell(other, 'longest'),
        megabytesCell(peakOf(other)),
        '',
      ]),
    ]),
    words: 2,
  };
}

/** The median of the runs' longest, as of the other figures, and the longest there was. */
function footprintCells(server: ServerResult): string[] {
  const longest = Math.max(...server.rounds.map((round) => round.longest));
  return [nameCell(server), server.medians.longest.toFixed(0), longest.toFixed(0)];
}

function peakCells({ judged, megabytesMost }: ComparisonResult): string[] {
  const peak = peakOf(judged);
  return [megabytesCell(peak), megabytesMost === null ? '' : limitCell(peak, megabytesMost)];
}

/** A bound on memory holds in every run. */
export function peakOf(server: ServerResult): number {
  return Math.max(...server.rounds.map((round) => round.peak));
}

export function copyTable(results: readonly CopyResult[]): Table {
  const cells = (way: CopyWayResult): string[] => [
    nameCell(way),
    way.median.toFixed(3),
    `${Math.round(way.spread * 100)}%`,
    formatBytes(way.diskBytes),
  ];
  return {
    header: ['case', 'way', 'seconds', 'spread', 'on disk', 'time ratio'],
    rows: results.flatMap((result) => [
      [result.name, ...cells(result.judged), ''],
      ...result.others.map((other) => ['', ...cells(other), timeCell(other)]),
    ]),
    words: 2,
  };
}

function timeCell({ ratio, timeMost }: OtherCopyResult): string {
  return judgedCell({ bound: 'at most', ratio: timeMost }, ratio);
}

export function memoryTable(results: readonly MemoryResult[]): Table {
  return {
    header: ['case', 'requests', 'IOPS', 'first', 'median', 'last', 'most', 'wanted', 'verdict'],
    rows: results.map((result) => [
      result.name,
      result.requests.toLocaleString('en-GB'),
      Math.round(result.iops).toLocaleString('en-GB'),
      ...[result.first, result.median, result.last, result.max].map(megabytesCell),
      limitCell(result.max, result.megabytesMost),
      result.flatness,
    ]),
    words: 1,
  };
}

export function idleTable(results: readonly IdleResult[]): Table {
  return {
    header: ['case', 'connections', 'before', 'connected', 'disconnected', 'wanted'],
    rows: results.map((result) => [
      result.name,
      `${result.connections}`,
      ...[result.before, result.during, result.after].map(megabytesCell),
      limitCell(result.during, result.megabytesMost),
    ]),
    words: 1,
  };
}

export function figuresTable(results: readonly FiguresResult[]): Table {
  const mark = (met: boolean | null): string => (met === null ? '' : met ? ' pass' : ' FAIL');
  return {
    header: ['case', 'what', 'found', 'wanted'],
    rows: results.flatMap(({ name, rows }) =>
      rows.map(({ what, found, wanted, met }, at) => [
        at === 0 ? name : '',
        what,
        found,
        `${wanted}${mark(met)}`,
      ]),
    ),
    words: 2,
  };
}

function megabytesCell(megabytes: number): string {
  return `${megabytes.toFixed(1)} MB`;
}

function limitCell(megabytes: number, most: number): string {
  return `<= ${most} MB ${megabytes <= most ? 'pass' : 'FAIL'}`;
}
