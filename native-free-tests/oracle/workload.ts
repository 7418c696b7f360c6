/**
 * Random writes to an origin and its snapshots, and what all of them must hold afterwards: a plain
 * array of bytes for each, which knows nothing of chunks. The script is for any side.
 */

import type { Test } from 'tap';
import { random } from '../contract/pattern.js';
import { digestOf, fillStream, SECTOR } from './steps.js';

/** Of this run, printed; ORACLE_SEED gives one of an earlier run. */
export function chooseSeed(t: Test): number {
  const { ORACLE_SEED } = process.env;
  const seed = ORACLE_SEED === undefined ? Date.now() % 1_000_000 : Number(ORACLE_SEED);
  t.comment(`seed ${seed}`);
  return seed;
}

export interface SnapshotSpec {
  readonly name: string;
  readonly chunkSectors: number;
}

/** An origin with its snapshots. Disks: `NAME` and `NAME-cow`; the origin's device: `NAME-top`. */
export interface OriginSpec {
  readonly name: string;
  readonly sectors: number;
  readonly snapshots: readonly SnapshotSpec[];
}

export class Workload {
  readonly spec: OriginSpec;
  /** What the origin and the snapshots hold, by device name. */
  readonly contents = new Map<string, Buffer>();
  readonly #type: 'P' | 'PO';
  readonly #next: (limit: number) => number;
  #seed: number;

  constructor(spec: OriginSpec, type: 'P' | 'PO', seed: number) {
    this.spec = spec;
    this.#type = type;
    this.#next = random(seed);
    this.#seed = seed;
    const first = fillStream(Buffer.alloc(spec.sectors * SECTOR), 0, seed);
    this.contents.set(this.top, first);
    for (const { name } of spec.snapshots) this.contents.set(name, Buffer.from(first));
  }

  get top(): string {
    return `${this.spec.name}-top`;
  }

  /** As one has to: the snapshots come while the origin is suspended. */
  activate(): string[] {
    const { name, sectors, snapshots } = this.spec;
    return [
      `create ${this.top} 0 ${sectors} snapshot-origin @${name}`,
      `suspend ${this.top}`,
      ...snapshots.map(
        (one) =>
          `create ${one.name} 0 ${sectors} snapshot @${name} @${one.name}-cow ` +
          `${this.#type} ${one.chunkSectors}`,
      ),
      `resume ${this.top}`,
    ];
  }

  deactivate(): string[] {
    return [...this.spec.snapshots.map((one) => `remove ${one.name}`), `remove ${this.top}`];
  }

  /** Lines that tell everything there is to know. */
  look(): string[] {
    const snapshots = this.spec.snapshots.flatMap(({ name }) => [
      `table ${name}`,
      `status ${name}`,
      `read ${name}`,
    ]);
    return [`read ${this.top}`, ...snapshots];
  }

  /** What `look` must find of the contents. */
  expected(): string[] {
    return [...this.contents].map(([name, bytes]) => `read ${name} -> ${digestOf(bytes)}`);
  }

  /** Writes one after the other, then such as meet: no two of them to the same sectors. */
  writes(count: number): string[] {
    const lines = Array.from({ length: count }, () => {
      const length = this.#lengthSectors();
      return this.#write(this.#next(this.spec.sectors - length + 1), length);
    });
    lines.push('together');
    for (let sector = 0; sector < this.spec.sectors; ) {
      const length = Math.min(this.#lengthSectors(), this.spec.sectors - sector);
      if (this.#next(4) === 0) lines.push(this.#write(sector, length));
      sector += length;
    }
    lines.push('done');
    return lines;
  }

  /** Writes to all of the origin. */
  fill(): string[] {
    const lines: string[] = [];
    for (let sector = 0; sector < this.spec.sectors; sector += 2048) {
      const length = Math.min(2048, this.spec.sectors - sector);
      lines.push(this.#write(sector, length, this.top));
    }
    return lines;
  }

  /** Writes to a device that is to show what `name` did; no two to the same sectors. */
  writesApart(count: number, device: string, name: string): string[] {
    const share = Math.floor(this.spec.sectors / count);
    return Array.from({ length: count }, (_, at) => {
      const length = Math.min(this.#lengthSectors(), share);
      const sector = share * at + this.#next(share - length + 1);
      return this.#write(sector, length, name).replace(`write ${name} `, `write ${device} `);
    });
  }

  /** Most are small, of odd sizes; some are of whole chunks, or of many. */
  #lengthSectors(): number {
    const { sectors, snapshots } = this.spec;
    const chunk = snapshots[this.#next(snapshots.length)]?.chunkSectors ?? 1;
    const most = [2 * chunk, 2 * chunk, chunk, Math.ceil(sectors / 20)][this.#next(4)] as number;
    return Math.min(1 + this.#next(most), 2048);
  }

  /** Half of the writes go to the origin, unless it is said where. */
  #write(sector: number, length: number, to?: string): string {
    const names = [...this.contents.keys()];
    const name = to ?? (names[this.#next(2) * this.#next(names.length)] as string);
    const seed = this.#seed++;
    const bytes = fillStream(Buffer.alloc(length * SECTOR), sector, seed);
    bytes.copy(this.contents.get(name) as Buffer, sector * SECTOR);
    return `write ${name} ${sector} ${length} ${seed}`;
  }
}
