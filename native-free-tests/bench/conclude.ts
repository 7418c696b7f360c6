/** From the rounds of a comparison to its medians and ratios. */

import type { Comparison, Figure } from './case.js';
import { commandText } from './program.js';
import type { ComparisonResult, Measurement, ServerResult } from './results.js';
import { detailOf, type RunningServer } from './running-server.js';
import type { ServedFile, ServerSpec } from './servers.js';
import { median, spread } from './statistics.js';

/** One of the servers of a comparison. */
export interface Contender {
  readonly spec: ServerSpec;
  /** As it was started last; it may have been stopped since. */
  server: RunningServer | null;
  readonly rounds: Measurement[];
}

/** The first contender is the one that is judged. */
export function conclude(
  comparison: Comparison,
  file: ServedFile,
  contenders: readonly Contender[],
  notes: readonly string[],
): ComparisonResult {
  const { kind, name, title, rate, fresh = false } = comparison;
  const [judged, ...others] = contenders.map((contender) => resultOf(contender, rate));
  if (judged === undefined) throw new Error(`${name}: nothing to judge`);
  return {
    kind,
    name,
    title,
    rate,
    fresh,
    megabytesMost: comparison.megabytesMost?.(file.bytes) ?? null,
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

function resultOf(contender: Contender, rate: Comparison['rate']): ServerResult {
  const { spec, server, rounds } = contender;
  return {
    label: spec.label,
    command: server === null ? '' : commandText(server.program.command),
    detail: server === null ? null : detailOf(server),
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
    longest: of('longest'),
    cpu: of('cpu'),
    peak: of('peak'),
  };
}
