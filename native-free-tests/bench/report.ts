/**
 * The report for people: one table for the comparisons, in which each of the other servers' rows
 * has the judged server's figure over its own and what was wanted of it, and a line each for the
 * rest. The same as plain text and as Markdown.
 */

import { formatBytes } from '../../src/base/sizes.js';
import type { Figure, Wanted } from './cases.js';
import type {
  CaseResult,
  ComparisonResult,
  IdleResult,
  MemoryResult,
  OtherResult,
  Report,
  ServerResult,
} from './results.js';

export interface Table {
  readonly header: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** Columns before this one hold words, the others figures. */
  readonly words: number;
}

/** Wanted ratios and limits, and how many of them are met. */
export interface Score {
  readonly met: number;
  readonly all: number;
}

export function isMet({ bound, ratio }: Wanted, found: number): boolean {
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

function figureCells(server: ServerResult, rate: ComparisonResult['rate']): string[] {
  const { medians, spread, label, detail } = server;
  const value = Math.round(medians[rate]).toLocaleString('en-GB');
  return [
    detail === null ? label : `${label} (${detail})`,
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
  const sign = want.bound === 'at least' ? '>=' : '<=';
  const mark = isMet(want, found) ? 'pass' : 'FAIL';
  return `${roundAgainst(want, found)} (${sign} ${want.ratio.toFixed(2)} ${mark})`;
}

/** Rounded to the side on which it does not look better than it is: 1.799 is no 1.80. */
function roundAgainst({ bound }: Wanted, found: number): string {
  const hundredths =
    bound === 'at least' ? Math.floor(found * 100 + 1e-9) : Math.ceil(found * 100 - 1e-9);
  return (hundredths / 100).toFixed(2);
}

export function memoryTable(results: readonly MemoryResult[]): Table {
  return {
    header: ['case', 'requests', 'IOPS', 'first', 'median', 'last', 'most', 'wanted', 'verdict'],
    rows: results.map((result) => [
      result.name,
      result.requests.toLocaleString('en-GB'),
      Math.round(result.iops).toLocaleString('en-GB'),
      ...[result.first, result.median, result.last, result.max].map(megabytesCell),
      `<= ${result.megabytesMost} MB ${result.max <= result.megabytesMost ? 'pass' : 'FAIL'}`,
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
      `<= ${result.megabytesMost} MB ${result.during <= result.megabytesMost ? 'pass' : 'FAIL'}`,
    ]),
    words: 1,
  };
}

function megabytesCell(megabytes: number): string {
  return `${megabytes.toFixed(1)} MB`;
}

export function score(results: readonly CaseResult[]): Score {
  const marks = results.flatMap(marksOf);
  return { met: marks.filter((met) => met).length, all: marks.length };
}

function marksOf(result: CaseResult): boolean[] {
  switch (result.kind) {
    case 'comparison':
      return result.others.flatMap(({ wanted, ratios }) =>
        wanted.map((want) => isMet(want, ratios[want.figure])),
      );
    case 'memory':
      return [result.max <= result.megabytesMost, result.flatness === 'flat'];
    case 'idle':
      return [result.during <= result.megabytesMost];
  }
}

export function formatText(report: Report): string {
  return compose(report, textTable, (line) => line);
}

export function formatMarkdown(report: Report): string {
  return compose(report, markdownTable, (line) => `- ${line}`);
}

function compose(
  report: Report,
  formatTable: (table: Table) => string,
  formatLine: (line: string) => string,
): string {
  const { results, missing } = report;
  const comparisons = results.filter((result) => result.kind === 'comparison');
  const memory = results.filter((result) => result.kind === 'memory');
  const idle = results.filter((result) => result.kind === 'idle');
  const notes = comparisons.flatMap((result) => result.notes.map((n) => `${result.name}: ${n}`));
  notes.push(...missing.map(({ name, why, reason }) => `${name} ${why}: ${reason}`));
  const { met, all } = score(results);
  const parts = [
    headLines(report, comparisons).map(formatLine).join('\n'),
    comparisons.length === 0 ? '' : formatTable(comparisonTable(comparisons)),
    memory.length === 0 ? '' : formatTable(memoryTable(memory)),
    idle.length === 0 ? '' : formatTable(idleTable(idle)),
    notes.map(formatLine).join('\n'),
    formatLine(`${met} of ${all} wanted figures are met`),
  ];
  return `${parts.filter((part) => part !== '').join('\n\n')}\n`;
}

function headLines(report: Report, comparisons: readonly ComparisonResult[]): string[] {
  const { machine, rounds, secondsPerRun, fileBytes } = report;
  const lines = [
    `${report.date}: ${machine.cpu}, ${machine.cores} cores shared by server and client, ` +
      `${machine.memoryGigabytes} GB, ${machine.kernel}, ${machine.fileSystem}, ` +
      `load ${machine.load.toFixed(2)}`,
    machine.versions.join(', '),
  ];
  if (comparisons.length === 0) return lines;
  const runs = rounds === 1 ? 'one run' : `medians of ${rounds} runs`;
  lines.push(
    `${runs} of ${secondsPerRun} s; all servers of a case have one file of ` +
      `${formatBytes(fileBytes)} open, and one at a time is loaded by fio's nbd engine`,
    'before each run the file is written back and read into the page cache (dropped from it for ' +
      'O_DIRECT and cache=none)',
    'spread is the largest less the smallest rate over the median; CPU is the server process, ' +
      'user and system; a ratio is mapperd over the server of the row',
  );
  return lines;
}

function textTable({ header, rows, words }: Table): string {
  const all = [header, ...rows];
  const widths = header.map((_, at) => Math.max(...all.map((row) => (row[at] ?? '').length)));
  const line = (row: readonly string[]): string =>
    row
      .map((cell, at) =>
        at < words ? cell.padEnd(widths[at] ?? 0) : cell.padStart(widths[at] ?? 0),
      )
      .join('  ')
      .trimEnd();
  const rule = widths.map((width) => '-'.repeat(width)).join('  ');
  return [line(header), rule, ...rows.map(line)].join('\n');
}

function markdownTable({ header, rows, words }: Table): string {
  const line = (cells: readonly string[]): string => `| ${cells.map(markdownCell).join(' | ')} |`;
  const rule = header.map((_, at) => (at < words ? '---' : '---:'));
  return [line(header), line(rule), ...rows.map(line)].join('\n');
}

function markdownCell(text: string): string {
  return text.replaceAll('|', '\\|');
}
