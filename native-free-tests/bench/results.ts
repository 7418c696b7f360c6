/** What a whole run of the benchmark found; with --json it is written as it is here. */

import type { Figure, FigureRow, Wanted } from './case.js';
import type { Machine } from './machine.js';
import type { Flatness } from './statistics.js';

export type Measurement = Readonly<Record<Figure, number>> & {
  /** I/Os done. */
  readonly ios: number;
};

export interface ServerResult {
  readonly label: string;
  /** As it was started. */
  readonly command: string;
  readonly detail: string | null;
  /** One for each round, in order. */
  readonly rounds: readonly Measurement[];
  readonly medians: Readonly<Record<Figure, number>>;
  /** Of the figure that tells the speed. */
  readonly spread: number;
}

export interface OtherResult extends ServerResult {
  readonly wanted: readonly Wanted[];
  /** The judged server's medians over this one's. */
  readonly ratios: Readonly<Record<Figure, number>>;
}

export interface ComparisonResult {
  readonly kind: 'comparison';
  readonly name: string;
  readonly title: string;
  readonly rate: 'iops' | 'throughput';
  readonly fresh: boolean;
  /** Most that the judged server may have had resident; null: nothing is wanted of that. */
  readonly megabytesMost: number | null;
  readonly directory: string;
  readonly judged: ServerResult;
  readonly others: readonly OtherResult[];
  /** Servers that could not be had. */
  readonly notes: readonly string[];
}

export interface MemorySample {
  readonly seconds: number;
  readonly megabytes: number;
}

export interface MemoryResult {
  readonly kind: 'memory';
  readonly name: string;
  readonly title: string;
  readonly command: string;
  readonly detail: string | null;
  readonly requests: number;
  readonly iops: number;
  readonly samples: readonly MemorySample[];
  readonly first: number;
  readonly median: number;
  readonly last: number;
  readonly max: number;
  readonly flatness: Flatness;
  readonly megabytesMost: number;
}

export interface IdleResult {
  readonly kind: 'idle';
  readonly name: string;
  readonly title: string;
  readonly command: string;
  readonly detail: string | null;
  readonly connections: number;
  /** Megabytes: before the first connection, with all of them, after the last. */
  readonly before: number;
  readonly during: number;
  readonly after: number;
  readonly megabytesMost: number;
}

export interface CopyWayResult {
  readonly label: string;
  readonly command: string;
  readonly detail: string | null;
  /** One for each round. */
  readonly seconds: readonly number[];
  readonly median: number;
  readonly spread: number;
  /** What the copy takes on the disk. */
  readonly diskBytes: number;
}

export interface OtherCopyResult extends CopyWayResult {
  /** The judged way's median over this one's, and the most that is wanted of it. */
  readonly ratio: number;
  readonly timeMost: number;
}

export interface CopyResult {
  readonly kind: 'copy';
  readonly name: string;
  readonly title: string;
  /** Of the file, holes and data. */
  readonly bytes: number;
  readonly judged: CopyWayResult;
  readonly others: readonly OtherCopyResult[];
}

export interface FiguresResult {
  readonly kind: 'figures';
  readonly name: string;
  readonly title: string;
  readonly rows: readonly FigureRow[];
}

export type CaseResult = ComparisonResult | MemoryResult | IdleResult | CopyResult | FiguresResult;

/** A case without figures, and the reason. */
export interface Missing {
  readonly name: string;
  readonly why: 'left out' | 'failed' | 'interrupted';
  readonly reason: string;
}

export interface Report {
  readonly date: string;
  readonly machine: Machine;
  readonly rounds: number;
  readonly secondsPerRun: number;
  readonly fileBytes: number;
  readonly results: readonly CaseResult[];
  readonly missing: readonly Missing[];
}
