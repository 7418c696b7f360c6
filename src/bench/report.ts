/** A comparison as a table with a bar for each row, for a terminal or a log. */

import { formatMicroseconds } from '../base/sizes.js';
import type { Comparison, Group, Row } from './results.js';

const barWidth = 20;

export function formatComparison({ title, date, base, notes, groups }: Comparison): string {
  const header = ['', 'IOPS', `of ${base}`, 'MiB/s', 'mean', `of ${base}`, 'added', '99 %', 'IOPS'];
  const cells = groups.map((group) => group.rows.map((row) => rowCells(row, group, base)));
  const widths = header.map((_, at) =>
    Math.max(...[header, ...cells.flat()].map((row) => row[at]?.length ?? 0)),
  );
  const line = (row: readonly string[]): string => {
    const padded = row.map((cell, at) => {
      const width = widths[at] ?? 0;
      // What a row is called and its bar begin on the left.
      return at === 0 || at === header.length - 1 ? cell.padEnd(width) : cell.padStart(width);
    });
    return `  ${padded.join('  ')}`.trimEnd();
  };
  const blocks = groups.map(({ title }, at) => [title, ...(cells[at] ?? []).map(line)].join('\n'));
  const head = [`${title}, ${date}`, ...notes].join('\n');
  return `${[head, line(header), ...blocks].join('\n\n')}\n`;
}

function rowCells(row: Row, { rows }: Group, base: string): string[] {
  const bare = rows.find(({ layer }) => layer === base);
  const most = Math.max(...rows.map(({ iops }) => iops));
  const filled = Math.round((row.iops / most) * barWidth);
  return [
    row.layer,
    formatCount(row.iops),
    formatRatio(row.iopsRatio),
    row.throughput.toFixed(1),
    formatMicroseconds(row.mean),
    formatRatio(row.meanRatio),
    bare === undefined || bare === row ? '' : formatAdded(row.mean - bare.mean),
    formatMicroseconds(row.p99),
    `|${'#'.repeat(filled).padEnd(barWidth)}|`,
  ];
}

/** What a layer adds to each I/O: `+25 us`. */
function formatAdded(microseconds: number): string {
  const sign = microseconds < 0 ? '-' : '+';
  return sign + formatMicroseconds(Math.abs(microseconds));
}

/** `12,345`, in every language. */
export function formatCount(count: number): string {
  return `${Math.round(count)}`.replace(/\B(?=(\d{3})+$)/g, ',');
}

export function formatRatio(ratio: number | null): string {
  return ratio === null ? '-' : ratio.toFixed(2);
}
