/**
 * The state directory's text files: one by itself, and directories full of them. A file that cannot
 * be read is a problem of its own, and what is read is written again as it was.
 */

import { Buffer } from 'node:buffer';
import { restore } from '../../src/control/restore.js';
import { type StateContents, StateDirectory, type StateProblem } from '../../src/control/state.js';
import {
  formatTableFile,
  type ParsedTableFile,
  parseTableFile,
} from '../../src/control/state-text.js';
import { stripComments } from '../../src/control/table-text.js';
import { type ParsedLine, parseTable, quoteWord, splitWords } from '../../src/device/table-text.js';
import { CrashFiles } from '../control/crash-files.js';
import type { Input } from './input.js';
import { damaged, damagedText } from './mutate.js';
import type { Random } from './random.js';
import { expect, refusalOf, type Subject, type SubjectMaker } from './subject.js';
import { anyTable } from './table-lines.js';

const exportLines = [
  ...['# export read-only', '# export hidden', '# export description a disk', '# export'],
  ...['# export allow 192.0.2.0/24 2001:db8::/32', '# export allow ::ffff:10.0.0.0/104'],
  ...['# export connections 7', '# export connections 0', '# export hiden', '#export hidden'],
];

function anyFileText(random: Random, names: readonly string[]): string {
  const lines = [`# mapperd table of ${random.pick(names)}`];
  if (random.percent(20)) lines.push('# read-only');
  if (random.percent(20)) {
    lines.push(`# created 2026-${random.pick(['11', '13'])}-21T13:19:25.132Z`);
  }
  while (random.percent(35)) lines.push(random.pick(exportLines));
  if (random.percent(15)) lines.push(`# formerly ${random.pick(names)}`);
  lines.push(...anyTable(random).split('\n'));
  const text = `${lines.join(random.percent(3) ? '\r\n' : '\n')}\n`;
  return random.percent(35) ? damagedText(random, text) : text;
}

function anyFile(random: Random, names: readonly string[]): Buffer {
  const bytes = Buffer.from(anyFileText(random, names));
  return random.percent(10) ? damaged(random, bytes) : bytes;
}

/** How a file is read; a test puts something broken in its place. */
export type ParseFile = (bytes: Uint8Array) => ParsedTableFile;

function linesOf(text: string): readonly Omit<ParsedLine, 'number'>[] | null {
  let lines: ParsedLine[] = [];
  const refusal = refusalOf(() => {
    lines = parseTable(text);
  });
  return refusal === null ? lines.map(({ number: _, ...line }) => line) : null;
}

/** All that a file says, in one order. */
function sayAll({ table, readOnly, created, formerly, policy }: ParsedTableFile): string {
  return JSON.stringify([linesOf(table), readOnly, created, formerly, policy]);
}

function checkFile(parse: ParseFile, bytes: Buffer): void {
  let parsed: ParsedTableFile | null = null;
  const refusal = refusalOf(() => {
    parsed = parse(bytes);
  });
  const text = bytes.toString('utf8');
  const isText = Buffer.from(text).equals(bytes) && !/[^\P{Cc}\t\r\n]/u.test(text);
  if (!isText) expect(refusal !== null, 'took what is no text');
  if (parsed === null) return;
  const { formerly, ...stored } = parsed as ParsedTableFile;
  const before = linesOf(stored.table);
  // What is stored has no comments any more; the lines are what they were.
  const stripped = { ...stored, table: stripComments(stored.table) };
  const after = linesOf(stripped.table);
  const same = JSON.stringify(before) === JSON.stringify(after);
  expect(same, () => `lines without comments: ${JSON.stringify([before, after])}`);
  if (before === null) return;
  const again = parse(Buffer.from(formatTableFile('vol0', stripped, formerly ?? undefined)));
  const [found, wanted] = [again, { ...stripped, formerly }].map(sayAll);
  expect(found === wanted, () => `read again: ${found}, wanted ${wanted}`);
  for (const { args } of before) {
    for (const word of args) {
      const [back] = splitWords(quoteWord(word));
      expect(back === word, () => `word ${JSON.stringify(word)} came back as ${back}`);
    }
  }
}

export function stateFileSubject(parse: ParseFile = parseTableFile): Subject {
  return {
    name: 'state-file',
    generate: (random) => ({
      variant: random.bits(),
      pieces: [anyFile(random, ['vol0', 'a%20b', '%2', 'x/y', ''])],
    }),
    check: ({ pieces }) => checkFile(parse, Buffer.concat(pieces)),
  };
}

export const stateFile: SubjectMaker = {
  name: 'state-file',
  share: 13,
  make: () => stateFileSubject(),
};

const fileNames = ['vol0', 'vol1', 'a%20b', 'origin', '%', 'A%2FB', '\u00e9'];
const suffixes = ['.table', '.table', '.table', '.regions', '.cow', ''];

/** Pairs of pieces: a file's name, and what is in it. */
function anyDirectory(random: Random): Buffer[] {
  const pieces: Buffer[] = [];
  for (let left = random.pick([1, 2, 2, 3, 5]); left > 0; left--) {
    const prefix = random.percent(5) ? random.pick(['.tmp-', '.', ' ']) : '';
    const name = prefix + random.pick(fileNames) + random.pick(suffixes);
    pieces.push(Buffer.from(random.percent(3) ? damagedText(random, name) : name));
    pieces.push(anyFile(random, fileNames));
  }
  return pieces;
}

function told(problems: readonly StateProblem[]): void {
  for (const { file, text } of problems) {
    expect(text.length > 0 && text.length < 4096, `a problem without a text, of "${file}"`);
  }
}

/** How a directory is read; a test puts something broken in its place. */
export type LoadDirectory = (files: CrashFiles) => Promise<StateContents>;

export const loadDirectory: LoadDirectory = (files) => new StateDirectory('/state', files).load();

async function checkDirectory(load: LoadDirectory, { pieces }: Input): Promise<void> {
  const contents = new Map<string, Uint8Array>();
  for (let at = 0; at + 1 < pieces.length; at += 2) {
    const name = (pieces[at] as Buffer).toString('utf8');
    // What no directory can have.
    if (name === '' || /[/\0\ufffd]/.test(name)) continue;
    contents.set(name, pieces[at + 1] as Buffer);
  }
  const files = new CrashFiles(contents);
  const first = await load(files);
  told(first.problems);
  const seen = first.devices.length + first.problems.length;
  const tables = [...contents.keys()].filter((name) => /^[^.].*\.table$|^\.table$/su.test(name));
  const most = tables.filter((name) => !name.startsWith('.')).length;
  expect(seen === most, `${seen} devices and problems for ${most} files`);
  const second = await load(files);
  const text = (state: typeof first): string =>
    JSON.stringify([
      state.devices.map((device) => ({ ...device, table: stripComments(device.table) })),
      state.problems.map(({ file }) => file),
    ]);
  expect(text(first) === text(second), () => `read again: ${text(second)}, was ${text(first)}`);
  const up: string[] = [];
  const problems = await restore(
    first.devices,
    () => false,
    async ({ name }) => {
      expect(!up.includes(name), `"${name}" is brought up twice`);
      up.push(name);
    },
  );
  told(problems);
  for (const { name } of first.devices) {
    const failed = problems.some((problem) => problem.name === name);
    expect(failed !== up.includes(name), `"${name}" is up: ${up.includes(name)}`);
  }
}

export function stateDirectorySubject(load: LoadDirectory = loadDirectory): Subject {
  return {
    name: 'state-directory',
    generate: (random) => ({ variant: random.bits(), pieces: anyDirectory(random) }),
    check: (input) => checkDirectory(load, input),
  };
}

export const stateDirectory: SubjectMaker = {
  name: 'state-directory',
  share: 5,
  make: () => stateDirectorySubject(),
};
