/**
 * A comparison as a picture: SVG, written by hand, with nothing in it but rectangles, lines and
 * text. Each case is a group of bars, one for each layer; the left panel has the IOPS and the right
 * one the mean latency, as ratios to the base, whose line is drawn through:
 *
 *            IOPS, ratio to plain       mean latency, ratio to plain
 *   case     0    0.5     1|            0     1|      2
 *     plain  [=============]  98,432    [======]  162 us
 *     origin [======]       | 41,207    [======|=======]  388 us
 */

import { formatMicroseconds } from '../base/sizes.js';
import { formatCount, formatRatio } from './report.js';
import type { Comparison, Row } from './results.js';

const labelWidth = 110;
const panelWidth = 260;
const valueWidth = 150;
const margin = 16;
const barHeight = 12;
const rowHeight = 16;
const groupHead = 22;
const groupGap = 8;
const headHeight = 44;
const noteHeight = 15;
const noteCharacters = 140;
const ticks = 6;

/** Around text that may lie on a line. */
const halo = 'stroke="#ffffff" stroke-width="3" paint-order="stroke"';

/** Colours that are told apart by everybody, and in print. */
const colours = ['#999999', '#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00'];

interface Panel {
  readonly title: string;
  readonly left: number;
  readonly ratio: (row: Row) => number | null;
  readonly value: (row: Row) => string;
  /** The ratio at the right edge. */
  readonly most: number;
}

export function plotSvg(comparison: Comparison): string {
  const { title, date, base, groups } = comparison;
  const notes = comparison.notes.flatMap(wrap);
  const layers = [...new Set(groups.flatMap(({ rows }) => rows.map(({ layer }) => layer)))];
  const colourOf = (layer: string): string => colours[layers.indexOf(layer) % colours.length] ?? '';
  const panels = panelsOf(comparison);
  const top = margin + headHeight + notes.length * noteHeight;
  const parts = [
    text(margin, margin + 14, title, 'font-size="15" font-weight="bold"'),
    text(margin, margin + 30, date, 'fill="#555555"'),
    ...notes.map((note, at) =>
      text(margin, margin + headHeight + at * noteHeight, note, 'fill="#555555"'),
    ),
  ];
  let y = top + 24;
  for (const { title, rows } of groups) {
    y += groupHead;
    parts.push(text(margin, y - 6, title, `font-weight="bold" ${halo}`));
    for (const row of rows) {
      parts.push(text(margin + 10, y + barHeight - 2, row.layer));
      for (const panel of panels) parts.push(bar(panel, row, y, colourOf(row.layer)));
      y += rowHeight;
    }
    y += groupGap;
  }
  const axes = panels.map((panel) => axis(panel, base, top + 12, y));
  const last = panels[panels.length - 1];
  const width = (last?.left ?? 0) + panelWidth + valueWidth + margin;
  const height = y + margin;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" ` +
      `viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="11" role="img">`,
    `<title>${escapeXml(title)}</title>`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    ...axes,
    ...parts,
    '</svg>\n',
  ].join('\n');
}

function panelsOf({ base, groups }: Comparison): Panel[] {
  const rows = groups.flatMap((group) => group.rows);
  const make = (
    at: number,
    title: string,
    ratio: Panel['ratio'],
    value: (row: Row) => string,
  ): Panel => ({
    title: `${title}, ratio to ${base}`,
    left: margin + labelWidth + at * (panelWidth + valueWidth),
    ratio,
    value: (row) => `${value(row)} (${formatRatio(ratio(row))})`,
    most: roundUp(Math.max(1, ...rows.map((row) => ratio(row) ?? 0))),
  });
  return [
    make(
      0,
      'IOPS',
      (row) => row.iopsRatio,
      (row) => formatCount(row.iops),
    ),
    make(
      1,
      'mean latency',
      (row) => row.meanRatio,
      (row) => formatMicroseconds(row.mean),
    ),
  ];
}

function bar(panel: Panel, row: Row, y: number, colour: string): string {
  const ratio = panel.ratio(row);
  const width = ratio === null ? 0 : Math.max(1, (ratio / panel.most) * panelWidth);
  const right = panel.left + width + 4;
  const value = text(right, y + barHeight - 2, panel.value(row), `fill="#333333" ${halo}`);
  if (ratio === null) return value;
  const place = `x="${panel.left}" y="${y}" width="${round(width)}" height="${barHeight}"`;
  return `<rect ${place} fill="${colour}"/>${value}`;
}

/** Title, ticks, and the line of the base. */
function axis(panel: Panel, base: string, top: number, bottom: number): string {
  const { left, most, title } = panel;
  const step = stepOf(most);
  const parts = [text(left, top - 4, title, 'font-weight="bold"')];
  for (let tick = 0; tick <= most + step / 2; tick += step) {
    const x = left + (tick / most) * panelWidth;
    const isBase = Math.abs(tick - 1) < step / 100;
    parts.push(
      vertical(x, top + 14, bottom, isBase ? '#333333' : '#e0e0e0'),
      text(x, top + 11, isBase ? `1 ${base}` : formatTick(tick), 'text-anchor="middle"'),
    );
  }
  // A step larger than one has no tick there.
  if (step > 1) parts.push(vertical(left + panelWidth / most, top + 14, bottom, '#333333'));
  return parts.join('\n');
}

function vertical(x: number, from: number, to: number, colour: string): string {
  const at = round(x);
  return `<line x1="${at}" y1="${from}" x2="${at}" y2="${to}" stroke="${colour}"/>`;
}

/** Between ticks: a step of which there are few, and which 1 is a multiple of if it can be. */
function stepOf(most: number): number {
  for (let power = 1; ; power *= 10) {
    const steps = power === 1 ? [0.25, 0.5, 1, 2, 5] : [power, 2 * power, 5 * power];
    const step = steps.find((one) => most / one <= ticks);
    if (step !== undefined) return step;
  }
}

/** A whole number of steps. */
function roundUp(most: number): number {
  const step = stepOf(most);
  return Math.ceil(most / step - 1e-9) * step;
}

function formatTick(tick: number): string {
  return `${round(tick)}`;
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}

/** Lines of a note that is too long for one. */
function wrap(note: string): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of note.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > noteCharacters) {
      lines.push(line);
      line = '';
    }
    line += line === '' ? word : ` ${word}`;
  }
  return [...lines, line];
}

function text(x: number, y: number, words: string, more = ''): string {
  return `<text x="${round(x)}" y="${round(y)}" ${more}>${escapeXml(words)}</text>`;
}

const entities: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;' };

function escapeXml(words: string): string {
  return words.replace(/[&<>]/g, (one) => entities[one] ?? one);
}
