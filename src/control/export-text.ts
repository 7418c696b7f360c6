/**
 * What the owner of a device says about its export, and the lines of the device's file that keep
 * it. They are comments to a table, and may stand anywhere in it; each word is said once at most,
 * and what is not said is as for any device:
 *
 *   # export read-only
 *   # export hidden
 *   # export description TEXT           to the end of the line
 *   # export allow BLOCK...             192.0.2.7 192.0.2.0/24 2001:db8::/32
 *   # export connections NUMBER
 *
 * A word that is not known is an error: taken for somebody's remark, a misspelt one would open an
 * export to everybody.
 */

import { parseAddressBlock } from '../base/address-block.js';
import { EINVAL } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import {
  connections as connectionsMax,
  exportBlocks,
  exportDescriptionBytes,
} from '../base/limits.js';
import { type ExportPolicy, openPolicy } from '../nbd/export-policy.js';

type Changes = { -readonly [K in keyof ExportPolicy]?: ExportPolicy[K] };

export interface FileLines {
  /** Of the file, in its order; what was about the export is empty. */
  readonly lines: string[];
  /** Undefined: nothing is said. */
  readonly policy: ExportPolicy | undefined;
}

/** Nothing but what holds for any device. */
export function isOpen(policy: ExportPolicy): boolean {
  return formatPolicy(policy).length === 0;
}

/** The lines that say it, none for an open one. */
export function formatPolicy(policy: ExportPolicy): string[] {
  const { readOnly, description, hidden, allow, connections } = policy;
  const lines: string[] = [];
  if (readOnly) lines.push('read-only');
  if (hidden) lines.push('hidden');
  if (description !== null) lines.push(`description ${description}`);
  if (allow.length > 0) lines.push(`allow ${allow.join(' ')}`);
  if (connections !== null) lines.push(`connections ${connections}`);
  return lines.map((line) => `# export ${line}`);
}

/** Takes the lines about the export out of a file's. Throws MapperError with a line's number. */
export function takePolicy(lines: readonly string[]): FileLines {
  const found: Changes = {};
  const rest = lines.map((line, index) => {
    const text = /^\s*#\s*export(?:\s+(.*?))?\s*$/.exec(line);
    if (text === null) return line;
    try {
      takeLine(text[1] ?? '', found);
    } catch (error) {
      throw error instanceof MapperError ? error.prefixed(`line ${index + 1}: export`) : error;
    }
    return '';
  });
  const isSaid = Object.keys(found).length > 0;
  return { lines: rest, policy: isSaid ? { ...openPolicy, ...found } : undefined };
}

function takeLine(text: string, found: Changes): void {
  const [, word = '', value = ''] = /^(\S*)\s*(.*)$/.exec(text) ?? [];
  switch (word) {
    case 'read-only':
      checkFirst(word, found.readOnly);
      checkNothing(value);
      found.readOnly = true;
      break;
    case 'hidden':
      checkFirst(word, found.hidden);
      checkNothing(value);
      found.hidden = true;
      break;
    case 'description':
      checkFirst(word, found.description);
      check(descriptionProblem(value));
      found.description = value;
      break;
    case 'allow':
      checkFirst(word, found.allow);
      found.allow = value === '' ? [] : value.split(/\s+/);
      if (found.allow.length === 0) check('found no address, wanted at least one');
      check(allowProblem(found.allow));
      break;
    case 'connections':
      checkFirst(word, found.connections);
      found.connections = /^[0-9]{1,9}$/.test(value) ? Number(value) : Number.NaN;
      check(connectionsProblem(found.connections, value));
      break;
    default: {
      const wanted = 'read-only, hidden, description, allow or connections';
      check(`found ${JSON.stringify(word)}, wanted ${wanted}`);
    }
  }
}

function check(problem: string | null): void {
  if (problem !== null) throw new MapperError(EINVAL, problem);
}

function checkFirst(word: string, before: unknown): void {
  if (before !== undefined) check(`found "${word}" twice, wanted it once`);
}

function checkNothing(value: string): void {
  if (value !== '') check(`found "${value}" behind a word that says it all`);
}

/** What is wrong with a description; null when nothing is. */
export function descriptionProblem(text: string): string | null {
  const bytes = Buffer.byteLength(text);
  if (bytes === 0 || bytes > exportDescriptionBytes) {
    return `description has ${bytes} bytes, wanted 1 to ${exportDescriptionBytes}`;
  }
  if (/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}]/u.test(text)) return 'description has a control character';
  return text === text.trim() ? null : 'description begins or ends with a blank';
}

/** What is wrong with a list of addresses; null when nothing is. An empty one is for all. */
export function allowProblem(blocks: readonly string[]): string | null {
  if (blocks.length > exportBlocks) {
    return `found ${blocks.length} addresses, wanted at most ${exportBlocks}`;
  }
  try {
    for (const block of blocks) parseAddressBlock(block);
    return null;
  } catch (error) {
    if (error instanceof MapperError) return error.message;
    throw error;
  }
}

/** What is wrong with a number of connections; null when nothing is. */
export function connectionsProblem(count: number, found = `${count}`): string | null {
  if (Number.isInteger(count) && count >= 1 && count <= connectionsMax) return null;
  return `found "${found}" connections, wanted 1 to ${connectionsMax}`;
}
