/**
 * The benchmark, `npm run bench`: measures mapperd against the servers that people use, and shows
 * the ratios beside those wanted. It judges nothing: the exit code tells only whether all could be
 * measured.
 */

import { writeFile } from 'node:fs/promises';
import { constants } from 'node:os';
import { resolve } from 'node:path';
import { messageOf } from '../../src/base/errors.js';
import { signalRepeatMilliseconds } from '../../src/base/limits.js';
import type { Case } from './case.js';
import { allCases, chooseCases } from './cases.js';
import { type Conditions, compare } from './compare.js';
import { compareCopies } from './copy.js';
import { watchIdle } from './idle.js';
import { describeMachine } from './machine.js';
import { watchMemory } from './memory.js';
import { type BenchOptions, parseOptions, usage } from './options.js';
import { Places } from './places.js';
import { formatMarkdown, formatText } from './report.js';
import type { CaseResult, Missing, Report } from './results.js';
import { LeftOutError } from './xfs.js';

/** Aborted by the first signal; the second one ends the program, which undoes what it can. */
function abortedBySignals(): { signal: AbortSignal; name(): NodeJS.Signals | null } {
  const controller = new AbortController();
  let first: { readonly name: NodeJS.Signals; readonly at: number } | null = null;
  const received = (name: NodeJS.Signals): void => {
    const now = performance.now();
    if (first === null) {
      first = { name, at: now };
      note(`${name}: clearing up`);
      controller.abort(new Error(`interrupted by ${name}`));
    } else if (now - first.at > signalRepeatMilliseconds) {
      process.exit(exitCode(name));
    }
  };
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, received);
  return { signal: controller.signal, name: () => first?.name ?? null };
}

/** The shell's convention for a program that a signal ended. */
function exitCode(name: NodeJS.Signals): number {
  return 128 + constants.signals[name];
}

function note(text: string): void {
  process.stderr.write(`${text}\n`);
}

async function runCase(one: Case, conditions: Conditions): Promise<CaseResult> {
  switch (one.kind) {
    case 'comparison':
      return compare(one, conditions);
    case 'memory':
      return watchMemory(one, conditions);
    case 'idle':
      return watchIdle(one, conditions);
    case 'copy':
      return compareCopies(one, conditions);
    case 'figures': {
      const { kind, name, title } = one;
      return { kind, name, title, rows: await one.measure(conditions) };
    }
  }
}

async function measureAll(
  cases: readonly Case[],
  options: BenchOptions,
  signal: AbortSignal,
): Promise<Report> {
  const { rounds, seconds, requests, bytes } = options;
  const directory = resolve(options.directory);
  const date = new Date().toISOString().slice(0, 10);
  const machine = await describeMachine(directory, signal);
  const results: CaseResult[] = [];
  const missing: Missing[] = [];
  const places = await Places.open(directory, bytes, signal, note);
  try {
    for (const one of cases) {
      try {
        results.push(await runCase(one, { places, rounds, seconds, requests, signal, note }));
      } catch (error) {
        const failed = error instanceof LeftOutError ? 'left out' : 'failed';
        const why = signal.aborted ? 'interrupted' : failed;
        missing.push({ name: one.name, why, reason: messageOf(error) });
        note(`${one.name} ${why}: ${messageOf(error)}`);
        if (signal.aborted) break;
      }
    }
  } finally {
    await places.close();
  }
  const fileBytes = bytes;
  return { date, machine, rounds, secondsPerRun: seconds, fileBytes, results, missing };
}

async function main(): Promise<number> {
  const options = parseOptions(process.argv.slice(2));
  if (options.help) {
    process.stdout.write(usage);
    return 0;
  }
  const cases = allCases(options.engine);
  if (options.list) {
    const width = Math.max(...cases.map((one) => one.name.length));
    for (const { name, title, extra } of cases) {
      const remark = extra === true ? ' (only with --only)' : '';
      process.stdout.write(`${name.padEnd(width)}  ${title}${remark}\n`);
    }
    return 0;
  }
  const chosen = chooseCases(cases, options.only);
  const interruption = abortedBySignals();
  const report = await measureAll(chosen, options, interruption.signal);
  process.stdout.write(formatText(report));
  if (options.json !== null) await writeFile(options.json, `${JSON.stringify(report, null, 2)}\n`);
  if (options.markdown !== null) await writeFile(options.markdown, formatMarkdown(report));
  const name = interruption.name();
  if (name !== null) return exitCode(name);
  return report.missing.some((one) => one.why === 'failed') ? 1 : 0;
}

main().then(
  (code) => {
    process.exitCode = code;
  },
  (error) => {
    process.stderr.write(`bench: ${messageOf(error)}\n`);
    process.exit(1);
  },
);
