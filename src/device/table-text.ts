/**
 * Table text, as dmsetup has it: a line for each target,
 *
 *   <first sector> <sectors> <target type> <argument>...
 *
 * words separated by blanks, a backslash before a blank (or a backslash) keeps it in the word.
 * Empty lines and lines that start with # say nothing.
 */

import { EINVAL } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { deviceBytes, tableBytes, targetsPerTable } from '../base/limits.js';

export interface ParsedLine {
  /** In the text, from 1. */
  readonly number: number;
  readonly beginSectors: number;
  readonly lengthSectors: number;
  readonly type: string;
  readonly args: readonly string[];
}

const sectorsMax = deviceBytes / 512;

/** Parses table text and checks that the lines follow one another; throws MapperError. */
export function parseTable(text: string): ParsedLine[] {
  const bytes = Buffer.byteLength(text);
  if (bytes > tableBytes) {
    throw new MapperError(EINVAL, `table too long: ${bytes} bytes, at most ${tableBytes}`);
  }
  const lines: ParsedLine[] = [];
  let next = 0;
  for (const [index, line] of text.split('\n').entries()) {
    const words = splitWords(line);
    if (words.length === 0 || words[0]?.startsWith('#')) continue;
    const parsed = parseLine(words, index + 1);
    if (parsed.beginSectors !== next) {
      // The kernel has this one text for a gap, an overlap and a wrong order.
      const what = `line ${parsed.number} begins at sector ${parsed.beginSectors}`;
      throw new MapperError(EINVAL, `Gap in table (${what}, wanted ${next})`);
    }
    next += parsed.lengthSectors;
    if (next > sectorsMax) {
      throw new MapperError(EINVAL, `line ${parsed.number}: device too large: ${next} sectors`);
    }
    lines.push(parsed);
  }
  if (lines.length > targetsPerTable) {
    throw new MapperError(EINVAL, `${lines.length} targets in table, at most ${targetsPerTable}`);
  }
  if (lines.length === 0) throw new MapperError(EINVAL, 'table is empty, wanted a target line');
  return lines;
}

function parseLine(words: string[], number: number): ParsedLine {
  const fail = (text: string): MapperError => new MapperError(EINVAL, `line ${number}: ${text}`);
  const [begin, length, type, ...args] = words;
  if (begin === undefined || length === undefined || type === undefined) {
    throw fail(`found ${words.length} words, wanted: <first sector> <sectors> <target type> ...`);
  }
  const beginSectors = parseSectors(begin);
  const lengthSectors = parseSectors(length);
  if (beginSectors === null) throw fail(`first sector "${begin}" is not a decimal number`);
  if (lengthSectors === null) throw fail(`sectors "${length}" is not a decimal number`);
  if (lengthSectors === 0) throw fail(`zero-length target "${type}"`);
  return { number, beginSectors, lengthSectors, type, args };
}

/** A decimal number of sectors, or null. */
export function parseSectors(word: string): number | null {
  if (!/^[0-9]{1,16}$/.test(word)) return null;
  const sectors = Number(word);
  return sectors <= sectorsMax ? sectors : null;
}

/** Words between blanks; a backslash keeps the next character. */
export function splitWords(line: string): string[] {
  const words: string[] = [];
  let word: string | null = null;
  for (let i = 0; i < line.length; i++) {
    let c = line[i] as string;
    if (c === ' ' || c === '\t' || c === '\r') {
      if (word !== null) words.push(word);
      word = null;
      continue;
    }
    if (c === '\\' && i + 1 < line.length) c = line[++i] as string;
    word = (word ?? '') + c;
  }
  if (word !== null) words.push(word);
  return words;
}

/** The word so that `splitWords` reads it back. */
export function quoteWord(word: string): string {
  return word.replace(/[\\ \t\r]/g, '\\$&');
}
