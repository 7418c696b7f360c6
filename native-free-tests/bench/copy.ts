/**
 * One comparison of ways to copy a file: how long each takes from the start of its command to its
 * end, in turn, each time to a new file. A round that does not count comes first, in which each
 * copy is compared with the source.
 */

import { rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf } from '../../src/base/errors.js';
import type { CopyCase } from './case.js';
import type { Conditions } from './compare.js';
import type { CopyWay } from './copy-ways.js';
import { type Command, commandText, run } from './program.js';
import type { CopyResult, CopyWayResult } from './results.js';
import { type RunningServer, startServer, stopServers } from './running-server.js';
import type { ServedFile, ServerSpec } from './servers.js';
import { median, rotate, spread } from './statistics.js';
import { makeHalfSparse, makeHole, settle } from './test-file.js';

/** Of the size of the files that other cases serve. */
const timesServed = 2;
/** A copy that takes longer than this is taken to hang. */
const copySeconds = 600;

interface Runner {
  readonly way: CopyWay;
  readonly seconds: number[];
  sourceServer: RunningServer | null;
  command: Command | null;
  detail: string | null;
  /** What the last copy took on the disk, or is going to. */
  diskBytes: number;
}

/** Throws if a copy fails, or is none; nothing is left then. */
export async function compareCopies(one: CopyCase, conditions: Conditions): Promise<CopyResult> {
  const { places, signal, note } = conditions;
  const bytes = timesServed * places.bytes;
  const source = { path: join(places.scratch, 'copy-source.img'), bytes };
  const destination = { path: join(places.scratch, 'copy-destination.img'), bytes };
  const ways = [one.judged, ...one.others.map((other) => other.way)];
  const runners = ways.map((way): Runner => {
    return { way, seconds: [], sourceServer: null, command: null, detail: null, diskBytes: 0 };
  });
  try {
    note(`making ${source.path}`);
    await makeHalfSparse(source, signal);
    await settle(source, 'dropped', signal);
    for (const runner of runners) {
      runner.sourceServer = await start(runner.way.sourceServer, source, conditions);
    }
    await playRounds(one.name, runners, conditions, (runner, check) =>
      copyOnce(runner, source, destination, check, conditions),
    );
  } finally {
    await stopServers(runners.flatMap(({ sourceServer }) => sourceServer ?? []));
    await rm(source.path, { force: true });
  }
  return conclude(one, bytes, runners);
}

async function playRounds(
  name: string,
  runners: readonly Runner[],
  { rounds, signal, note }: Conditions,
  copy: (runner: Runner, check: boolean) => Promise<number>,
): Promise<void> {
  const timed = async (runner: Runner, check: boolean): Promise<number> => {
    try {
      return await copy(runner, check);
    } catch (error) {
      signal.throwIfAborted();
      throw new Error(`${name} by ${runner.way.label}: ${messageOf(error)}`);
    }
  };
  for (const runner of runners) await timed(runner, true);
  for (let round = 0; round < rounds; round++) {
    const told: string[] = [];
    for (const runner of rotate(runners, round)) {
      const seconds = await timed(runner, false);
      runner.seconds.push(seconds);
      told.push(`${runner.way.label} ${seconds.toFixed(3)} s`);
    }
    note(`${name} ${round + 1}/${rounds}: ${told.join(', ')}`);
  }
}

async function start(
  spec: ServerSpec | undefined,
  file: ServedFile,
  { places, signal }: Conditions,
): Promise<RunningServer | null> {
  return spec === undefined ? null : startServer(spec, file, 'unix', places.sockets, signal);
}

/** The seconds that it took. With `check` it throws if the destination is not the source. */
async function copyOnce(
  runner: Runner,
  source: ServedFile,
  destination: ServedFile,
  check: boolean,
  conditions: Conditions,
): Promise<number> {
  const { way, sourceServer } = runner;
  const { signal } = conditions;
  let destinationServer: RunningServer | null = null;
  try {
    await settle(source, 'warm', signal);
    if (way.destinationServer !== undefined) await makeHole(destination);
    destinationServer = await start(way.destinationServer, destination, conditions);
    const command = way.command({ source, destination, sourceServer, destinationServer });
    runner.command = command;
    const begin = performance.now();
    const output = await run(command.program, command.args, signal, copySeconds);
    const seconds = (performance.now() - begin) / 1000;
    runner.detail = way.detail?.(output) ?? null;
    if (check) await run('cmp', [source.path, destination.path], signal, copySeconds);
    runner.diskBytes = (await stat(destination.path)).blocks * 512;
    return seconds;
  } finally {
    if (destinationServer !== null) await stopServers([destinationServer]);
    await rm(destination.path, { force: true });
  }
}

function conclude(one: CopyCase, bytes: number, runners: readonly Runner[]): CopyResult {
  const { kind, name, title } = one;
  const [judged, ...others] = runners.map(resultOf);
  if (judged === undefined) throw new Error(`${name}: nothing to judge`);
  return {
    kind,
    name,
    title,
    bytes,
    judged,
    others: others.map((other, at) => ({
      ...other,
      ratio: judged.median / other.median,
      timeMost: one.others[at]?.timeMost ?? Number.POSITIVE_INFINITY,
    })),
  };
}

function resultOf({ way, command, detail, seconds, diskBytes }: Runner): CopyWayResult {
  return {
    label: way.label,
    command: command === null ? '' : commandText(command),
    detail,
    seconds,
    median: median(seconds),
    spread: spread(seconds),
    diskBytes,
  };
}
