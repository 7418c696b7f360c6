/**
 * The report for people: one table for the comparisons, in which each of the other servers' rows
 * has the judged server's figure over its own and what was wanted of it, and tables for the rest.
 * The same as plain text and as Markdown.
 */

import { formatBytes } from '../../src/base/sizes.js';
import type { CaseResult, ComparisonResult, Report } from './results.js';
import {
  comparisonTable,
  copyTable,
  figuresTable,
  footprintTable,
  idleTable,
  isMet,
  memoryTable,
  peakOf,
  type Table,
} from './tables.js';

/** Wanted ratios and limits, and how many of them are met. */
export interface Score {
  readonly met: number;
  readonly all: number;
}

export function score(results: readonly CaseResult[]): Score {
  const marks = results.flatMap(marksOf);
  return { met: marks.filter((met) => met).length, all: marks.length };
}

function marksOf(result: CaseResult): boolean[] {
  switch (result.kind) {
    case 'comparison':
      return comparisonMarks(result);
    case 'memory':
      return [result.max <= result.megabytesMost, result.flatness === 'flat'];
    case 'idle':
      return [result.during <= result.megabytesMost];
    case 'figures':
      return result.rows.flatMap(({ met }) => met ?? []);
    case 'copy':
      return result.others.map(({ ratio, timeMost }) => ratio <= timeMost);
  }
}

function comparisonMarks({ judged, others, megabytesMost }: ComparisonResult): boolean[] {
  const marks = others.flatMap(({ wanted, ratios }) =>
    wanted.map((want) => isMet(want, ratios[want.figure])),
  );
  if (megabytesMost !== null) marks.push(peakOf(judged) <= megabytesMost);
  return marks;
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
  const notes = comparisons.flatMap((result) => result.notes.map((n) => `${result.name}: ${n}`));
  notes.push(...missing.map(({ name, why, reason }) => `${name} ${why}: ${reason}`));
  const { met, all } = score(results);
  const tables = [
    comparisonTable(comparisons),
    footprintTable(comparisons.filter((result) => result.megabytesMost !== null)),
    copyTable(results.filter((result) => result.kind === 'copy')),
    memoryTable(results.filter((result) => result.kind === 'memory')),
    idleTable(results.filter((result) => result.kind === 'idle')),
    figuresTable(results.filter((result) => result.kind === 'figures')),
  ];
  const parts = [
    headLines(report, comparisons).map(formatLine).join('\n'),
    ...tables.filter((table) => table.rows.length > 0).map(formatTable),
    notes.map(formatLine).join('\n'),
    formatLine(`${met} of ${all} wanted figures are met`),
  ];
  return `${parts.filter((part) => part !== '').join('\n\n')}\n`;
}

function headLines(report: Report, comparisons: readonly ComparisonResult[]): string[] {
  const { machine, results, rounds } = report;
  const lines = [
    `${report.date}: ${machine.cpu}, ${machine.cores} cores shared by server and client, ` +
      `${machine.memoryGigabytes} GB, ${machine.kernel}, ${machine.fileSystem}, ` +
      `load ${machine.load.toFixed(2)}`,
    machine.versions.join(', '),
  ];
  const runs = rounds === 1 ? 'one run' : `medians of ${rounds} runs`;
  if (comparisons.length > 0) lines.push(...comparisonLines(report, runs, comparisons));
  for (const { name, bytes } of results.filter((result) => result.kind === 'copy')) {
    lines.push(
      `${name}: ${runs}, each of ${formatBytes(bytes)} in the page cache to a new file, from the ` +
        `start of the command to its end; nobody flushes`,
    );
  }
  return lines;
}

function comparisonLines(
  { secondsPerRun, fileBytes }: Report,
  runs: string,
  comparisons: readonly ComparisonResult[],
): string[] {
  const lines = [
    `${runs} of ${secondsPerRun} s; all servers of a case have one file of ` +
      `${formatBytes(fileBytes)} open, and one at a time is loaded by fio's nbd engine`,
    'before each run the file is written back and read into the page cache, for random loads ' +
      'page by page (dropped from it for O_DIRECT and cache=none)',
    'spread is the largest less the smallest rate over the median; CPU is the server process, ' +
      'user and system; a ratio is mapperd over the server of the row',
  ];
  const fresh = comparisons.filter((result) => result.fresh).map((result) => result.name);
  if (fresh.length > 0) {
    lines.push(
      'with a new server and new files beside the served one for each run, which also ends when ' +
        `all blocks have been written once: ${fresh.join(', ')}`,
    );
  }
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
