/**
 * One device's file in the state directory:
 *
 *   # mapperd table of vol0
 *   # read-only
 *   # created 2026-11-21T13:19:25.132Z
 *   # export hidden
 *   # formerly vol1
 *   0 2097152 linear /srv/vol0.img 0
 *
 * The comment lines before the first table line may say `read-only` (the device refuses writes),
 * `created TIME` (of a snapshot: what it shows the origin as of), and `formerly NAME`
 * (percent-encoded as in file names): a rename was under way, and tables that name the old device
 * mean this one. `export` lines are in export-text.ts. All else behind a # is for people.
 */

import { EINVAL } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { exportLinesBytes, tableBytes } from '../base/limits.js';
import type { ExportPolicy } from '../nbd/export-policy.js';
import { formatPolicy, takePolicy } from './export-text.js';
import { decodeName, encodeName } from './names.js';

export interface StoredTable {
  readonly table: string;
  readonly readOnly: boolean;
  /** ISO 8601, UTC. */
  readonly created?: string;
  /** Of its export; without one it is for everybody. */
  readonly policy?: ExportPolicy;
}

export interface ParsedTableFile extends StoredTable {
  readonly formerly: string | null;
}

export function formatTableFile(name: string, stored: StoredTable, formerly?: string): string {
  const head = [`# mapperd table of ${name}`];
  if (stored.readOnly) head.push('# read-only');
  if (stored.created !== undefined) head.push(`# created ${stored.created}`);
  if (stored.policy !== undefined) head.push(...formatPolicy(stored.policy));
  if (formerly !== undefined) head.push(`# formerly ${encodeName(formerly)}`);
  return `${head.join('\n')}\n${stored.table}\n`;
}

/** Throws MapperError for bytes that are no text; the table's own grammar is not looked at. */
export function parseTableFile(bytes: Uint8Array): ParsedTableFile {
  refuseLarge(bytes.length, tableBytes + exportLinesBytes);
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new MapperError(EINVAL, 'file is not UTF-8 text');
  }
  const lines = text.split('\n');
  for (const [index, line] of lines.entries()) {
    // A file that a power cut left full of zeroes, say.
    if (/[^\P{Cc}\t\r]/u.test(line)) {
      throw new MapperError(EINVAL, `line ${index + 1}: control character in the text`);
    }
  }
  let readOnly = false;
  let created: string | undefined;
  let formerly: string | null = null;
  for (const [index, line] of lines.entries()) {
    const comment = /^#\s*(.*?)\s*$/.exec(line)?.[1];
    if (comment === undefined) break;
    if (comment === 'read-only') readOnly = true;
    created = timeOf(comment) ?? created;
    const old = /^formerly (\S+)$/.exec(comment)?.[1];
    if (old === undefined) continue;
    formerly = decodeName(old);
    if (formerly === null) {
      throw new MapperError(EINVAL, `line ${index + 1}: "${old}" is not a device name`);
    }
  }
  const { lines: rest, policy } = takePolicy(lines);
  // The other comments stay, so that the line numbers in errors are the file's.
  const table = rest.join('\n');
  refuseLarge(Buffer.byteLength(table), tableBytes);
  const stored = { table, readOnly, formerly, ...(created === undefined ? {} : { created }) };
  return policy === undefined ? stored : { ...stored, policy };
}

function refuseLarge(bytes: number, most: number): void {
  if (bytes > most) throw new MapperError(EINVAL, `file has ${bytes} bytes, at most ${most}`);
}

/** The time in `created TIME`; one that no clock can show is for people. */
function timeOf(comment: string): string | undefined {
  const time = /^created (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z)$/.exec(comment)?.[1];
  return time === undefined || Number.isNaN(Date.parse(time)) ? undefined : time;
}
