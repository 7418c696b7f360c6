/**
 * Who belongs to whom among snapshots, read from the tables:
 *
 *   vol0-real   what vol0's table was                       the real device
 *   vol0        0 N snapshot-origin dm:vol0-real            the origin, what people use
 *               0 N snapshot-merge dm:vol0-real COW P 8     the same, while a snapshot is merged
 *   snap        0 N snapshot dm:vol0-real COW P 8           a snapshot of it
 *
 * Origin and snapshots belong together because they name the same backing.
 */

import { deviceNamed } from '../../backing/device.js';
import { type ParsedLine, parseTable, quoteWord } from '../../device/table-text.js';
import { type ExportPolicy, openPolicy } from '../../nbd/export-policy.js';
import type { KnownDevice } from '../entries.js';

/** A line of a snapshot, or of an origin that one is merged into. */
export interface SnapshotLine {
  /** The word that names what the snapshot is of. */
  readonly origin: string;
  /** The word that names where its exceptions are. */
  readonly cow: string;
  /** P, PO or N. */
  readonly persistence: string;
  /** What is behind the COW: persistence, chunk size, features. */
  readonly rest: readonly string[];
  readonly merging: boolean;
}

/** The parts of a snapshot target's arguments; null if there are not enough of them. */
export function snapshotWords(args: readonly string[], merging: boolean): SnapshotLine | null {
  const [origin, cow, persistence] = args;
  if (origin === undefined || cow === undefined || persistence === undefined) return null;
  return { origin, cow, persistence, rest: args.slice(2), merging };
}

/** The lines of a table; none of one that is no table, or not there. */
export function linesOf(text: string | null): ParsedLine[] {
  if (text === null) return [];
  try {
    return parseTable(text);
  } catch {
    return [];
  }
}

/** The snapshots that a table has, usually none or one. */
export function snapshotsIn(text: string | null): SnapshotLine[] {
  return linesOf(text).flatMap(({ type, args }) => {
    if (type !== 'snapshot' && type !== 'snapshot-merge') return [];
    return snapshotWords(args, type === 'snapshot-merge') ?? [];
  });
}

/** The snapshot that a table is, alone. */
export function snapshotOf(text: string | null): SnapshotLine | null {
  const lines = linesOf(text);
  if (lines.length !== 1 || lines[0]?.type !== 'snapshot') return null;
  return snapshotWords(lines[0].args, false);
}

/** What a table that is an origin, alone, stands on. */
export function originOf(text: string | null): { word: string; merging: boolean } | null {
  const lines = linesOf(text);
  const [line] = lines;
  const word = line?.args[0];
  if (lines.length !== 1 || line === undefined || word === undefined) return null;
  if (line.type !== 'snapshot-origin' && line.type !== 'snapshot-merge') return null;
  return { word, merging: line.type === 'snapshot-merge' };
}

/** The words of all lines that make writes to a backing go by its snapshots. */
export function originWords(text: string | null): string[] {
  return linesOf(text).flatMap(({ type, args }) =>
    type === 'snapshot-origin' || type === 'snapshot-merge' ? args.slice(0, 1) : [],
  );
}

/** Two words that name one backing, as far as the words tell. */
export function sameBacking(a: string, b: string): boolean {
  return a === b || (deviceNamed(a) !== null && deviceNamed(a) === deviceNamed(b));
}

/** The device that is the origin of a snapshot over that word; null if there is none. */
export function originOver(devices: readonly KnownDevice[], word: string): KnownDevice | null {
  const over = devices.filter(({ live }) => {
    const origin = originOf(live);
    return origin !== null && sameBacking(origin.word, word);
  });
  // Somebody may have made several by hand; the one with the name is the one that we made.
  return over.find(({ name }) => deviceNamed(word) === realName(name)) ?? over[0] ?? null;
}

/** What an origin stands on that `snapshot` made, the real device of its name; null for another. */
export function realUnder({ name, live }: KnownDevice): { word: string; merging: boolean } | null {
  const origin = originOf(live);
  return origin !== null && deviceNamed(origin.word) === realName(name) ? origin : null;
}

export function realName(origin: string): string {
  return `${origin}-real`;
}

/** Of a real device's export, given the addresses that its origin is for. */
export function realPolicy(allow: readonly string[]): ExportPolicy {
  return { ...openPolicy, hidden: true, readOnly: true, allow };
}

/** The length of a table in sectors. */
export function sectorsOf(text: string): number {
  return linesOf(text).reduce((sum, line) => sum + line.lengthSectors, 0);
}

/** `0 2097152 snapshot-origin dm:vol0-real` */
export function tableLine(sectors: number, type: string, args: readonly string[]): string {
  return ['0', `${sectors}`, type, ...args.map(quoteWord)].join(' ');
}
