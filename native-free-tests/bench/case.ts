/** What a case is: what is measured, on which servers, and what is wanted of it. */

import type { Conditions } from './compare.js';
import type { CopyWay } from './copy-ways.js';
import type { Load } from './fio.js';
import type { Place } from './places.js';
import type { Transport } from './running-server.js';
import type { ServerSpec } from './servers.js';

/**
 * `throughput` in MiB/s; the latencies `mean`, `p99` and `longest`, and `cpu` (for each I/O), in
 * microseconds; `peak`, the most memory that was ever resident, in megabytes.
 */
export type Figure = 'iops' | 'throughput' | 'mean' | 'p99' | 'longest' | 'cpu' | 'peak';

/** A bound on a ratio: the judged server's figure over the other's. */
export interface Wanted {
  readonly figure: Figure;
  readonly bound: 'at least' | 'at most';
  readonly ratio: number;
}

export interface Competitor {
  readonly server: ServerSpec;
  readonly wanted: readonly Wanted[];
}

interface Named {
  readonly name: string;
  readonly title: string;
  /** Only measured when it is asked for by name. */
  readonly extra?: boolean;
}

export interface Comparison extends Named {
  readonly kind: 'comparison';
  readonly load: Load;
  /** Which figure tells the speed. */
  readonly rate: 'iops' | 'throughput';
  readonly place: Place;
  readonly transport: Transport;
  readonly judged: ServerSpec;
  readonly others: readonly Competitor[];
  /** Each run has a server of its own, with new files beside the served one. */
  readonly fresh?: boolean;
  /**
   * The most that the judged server may have resident with a served file of so many bytes. Where
   * it is given, the report shows memory and longest latencies as well.
   */
  megabytesMost?(bytes: number): number;
}

export interface MemoryCase extends Named {
  readonly kind: 'memory';
  readonly load: Load;
  readonly server: ServerSpec;
  readonly megabytesMost: number;
}

export interface IdleCase extends Named {
  readonly kind: 'idle';
  readonly connections: number;
  readonly server: ServerSpec;
  readonly megabytesMost: number;
}

export interface CopyCase extends Named {
  readonly kind: 'copy';
  readonly judged: CopyWay;
  /** With the most that the judged way's time may be of theirs. */
  readonly others: readonly { readonly way: CopyWay; readonly timeMost: number }[];
}

/** A figure of its own, and what is wanted of it. */
export interface FigureRow {
  readonly what: string;
  /** With its unit. */
  readonly found: string;
  /** Empty, and then `met` is null: nothing is wanted of it. */
  readonly wanted: string;
  readonly met: boolean | null;
}

export interface FiguresCase extends Named {
  readonly kind: 'figures';
  measure(conditions: Conditions): Promise<readonly FigureRow[]>;
}

export type Case = Comparison | MemoryCase | IdleCase | CopyCase | FiguresCase;

export const atLeast = (figure: Figure, ratio: number): Wanted => {
  return { figure, bound: 'at least', ratio };
};
export const atMost = (figure: Figure, ratio: number): Wanted => {
  return { figure, bound: 'at most', ratio };
};
export const against = (server: ServerSpec, ...wanted: Wanted[]): Competitor => {
  return { server, wanted };
};

const KiB = 1024;

export const random = (rw: Load['rw'], depth = 16, jobs = 1): Load => {
  return { rw, blockBytes: 4 * KiB, depth, jobs };
};
export const sequential = (rw: Load['rw']): Load => {
  return { rw, blockBytes: 128 * KiB, depth: 16, jobs: 1 };
};

/** What nearly all comparisons have in common. */
export const common = {
  kind: 'comparison',
  rate: 'iops',
  place: 'directory',
  transport: 'unix',
} as const;
