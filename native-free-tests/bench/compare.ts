/**
 * One comparison: all servers of the case are started on the one file and stay; in each round each
 * of them in turn is loaded while the others are idle, another one first every time.
 */

import { messageOf } from '../../src/base/errors.js';
import type { Comparison, Figure } from './cases.js';
import { type Length, runFio } from './fio.js';
import type { Places } from './places.js';
import { cpuSeconds } from './proc.js';
import { commandText } from './program.js';
import type { ComparisonResult, Measurement, ServerResult } from './results.js';
import { type RunningServer, startServer, stopServers } from './running-server.js';
import type { ServedFile } from './servers.js';
import { median, rotate, spread } from './statistics.js';
import { settle } from './test-file.js';

/** What a case is run with. */
export interface Conditions {
  readonly places: Places;
  readonly rounds: number;
  readonly seconds: number;
  readonly requests: number;
  readonly signal: AbortSignal;
  note(text: string): void;
}

/** Before the first round each server is loaded this long: code is compiled, buffers are made. */
const warmUpSeconds = 1;

interface Contender {
  readonly server: RunningServer;
  readonly rounds: Measurement[];
}

/** Throws if a server or fio fails; nothing is left running then. */
export async function compare(
  comparison: Comparison,
  conditions: Conditions,
): Promise<ComparisonResult> {
  const { places, rounds, signal } = conditions;
  const file = await places.file(comparison.place);
  // Large and small folios in the page cache differ in speed: whatever other cases have left there
  // goes, and the first warming reads all of it anew in the same way.
  await settle(file, 'dropped', signal);
  const contenders: Contender[] = [];
  const notes: string[] = [];
  try {
    for (const spec of [comparison.judged, ...comparison.others.map((other) => other.server)]) {
      const { transport } = comparison;
      try {
        const server = await startServer(spec, file, transport, places.sockets, signal);
        contenders.push({ server, rounds: [] });
      } catch (error) {
        if (spec.optional !== true || signal.aborted) throw error;
        notes.push(`${spec.label} left out: ${messageOf(error)}`);
      }
    }
    for (const { server } of contenders) {
      await measure(comparison, server, file, { seconds: warmUpSeconds }, signal);
    }
    for (let round = 0; round < rounds; round++) {
      const told: string[] = [];
      for (const contender of rotate(contenders, round)) {
        const { server } = contender;
        const { seconds } = conditions;
        const measured = await measure(comparison, server, file, { seconds }, signal);
        contender.rounds.push(measured);
        const rate = Math.round(measured[comparison.rate]);
        told.push(`${server.spec.label} ${rate} (${measured.cpu.toFixed(2)} us)`);
      }
      conditions.note(`${comparison.name} ${round + 1}/${rounds}: ${told.join(', ')}`);
    }
  } finally {
    await stopServers(contenders.map((contender) => contender.server));
  }
  return conclude(comparison, file, contenders, notes);
}

async function measure(
  { load, name }: Comparison,
  server: RunningServer,
  file: ServedFile,
  length: Length,
  signal: AbortSignal,
): Promise<Measurement> {
  try {
    await settle(file, server.spec.cache, signal);
    const before = await cpuSeconds(server.program.pid);
    const { ios, iops, throughput, mean, p99 } = await runFio(load, length, server.uri, signal);
    const cpu = (((await cpuSeconds(server.program.pid)) - before) / ios) * 1e6;
    return { ios, iops, throughput, mean, p99, cpu };
  } catch (error) {
    signal.throwIfAborted();
    const cause = server.program.running ? error : server.program.failure();
    throw new Error(`${name} on ${server.spec.label}: ${messageOf(cause)}`);
  }
}

function conclude(
  comparison: Comparison,
  file: ServedFile,
  contenders: readonly Contender[],
  notes: readonly string[],
): ComparisonResult {
  const { kind, name, title, rate } = comparison;
  const [judged, ...others] = contenders.map((contender) => resultOf(contender, rate));
  if (judged === undefined) throw new Error(`${name}: nothing to judge`);
  return {
    kind,
    name,
    title,
    rate,
    directory: file.path.slice(0, file.path.lastIndexOf('/')),
    judged,
    others: others.map((other) => ({
      ...other,
      wanted: comparison.others.find((one) => one.server.label === other.label)?.wanted ?? [],
      ratios: figures((figure) => judged.medians[figure] / other.medians[figure]),
    })),
    notes,
  };
}

function resultOf({ server, rounds }: Contender, rate: Comparison['rate']): ServerResult {
  return {
    label: server.spec.label,
    command: commandText(server.program.command),
    detail: server.detail,
    rounds,
    medians: figures((figure) => median(rounds.map((round) => round[figure]))),
    spread: spread(rounds.map((round) => round[rate])),
  };
}

function figures(of: (figure: Figure) => number): Record<Figure, number> {
  return {
    iops: of('iops'),
    throughput: of('throughput'),
    mean: of('mean'),
    p99: of('p99'),
    cpu: of('cpu'),
  };
}
