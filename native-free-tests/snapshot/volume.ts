/**
 * A volume with its snapshots, put together by the dance that people dance with dmsetup:
 *
 *   NAME-real   the data                        NAME   snapshot-origin over NAME-real
 *   SNAP        snapshot over NAME-real and the file SNAP.cow
 */

import type { Rig } from './rig.js';

export interface SnapshotOptions {
  readonly type?: 'P' | 'PO' | 'N';
  /** Sectors. */
  readonly chunk?: number;
  /** Sectors; without it, enough for all chunks. */
  readonly cow?: number;
  /** Another device or file as the COW. */
  readonly cowWord?: string;
  readonly features?: string;
}

/** The smallest COW that a snapshot whose every chunk is copied fits into, in sectors. */
export function cowSectors(originSectors: number, chunk: number): number {
  const chunks = Math.ceil(originSectors / chunk);
  const perArea = chunk * 32;
  return (1 + chunks + Math.floor((chunks + perArea) / perArea)) * chunk;
}

/** What `lvs` shows as Data%. */
export function percent(status: string): string {
  const match = /^(\d+)\/(\d+)(?: (\d+))?$/.exec(status);
  if (match === null) return status;
  const [used, total, meta] = match.slice(1).map(Number) as [number, number, number];
  if (used === total) return '100.00';
  return used === meta ? '0.00' : ((100 * used) / total).toFixed(2);
}

export class Volume {
  readonly rig: Rig;
  readonly name: string;
  readonly sectors: number;

  constructor(rig: Rig, sectors: number, name = 'vol') {
    this.rig = rig;
    this.name = name;
    this.sectors = sectors;
  }

  get real(): string {
    return `${this.name}-real`;
  }

  get bytes(): number {
    return this.sectors * 512;
  }

  /** `table`: what the data is on, if not one file. */
  async create(table?: string): Promise<this> {
    const { rig, name, real, sectors } = this;
    const linear = (): string => `0 ${sectors} linear ${rig.fresh(`${name}.img`, sectors)} 0`;
    await rig.create(real, table ?? linear());
    await rig.create(name, `0 ${sectors} snapshot-origin dm:${real}`);
    return this;
  }

  /** The volume goes, with what the files of those snapshots hold. */
  async destroy(...snapshots: readonly string[]): Promise<void> {
    const { devices } = this.rig;
    for (const name of snapshots) {
      if (devices.find(name) !== undefined) await this.drop(name);
      this.rig.file(`${name}.cow`, 0);
    }
    for (const name of [this.name, this.real]) await this.rig.wait(devices.remove(name, false));
  }

  line(snapshot: string, options: SnapshotOptions = {}): string {
    const { type = 'P', chunk = 8, features } = options;
    const words = features === undefined ? '' : ` ${features}`;
    const cow = options.cowWord ?? this.cow(snapshot, options);
    return `0 ${this.sectors} snapshot dm:${this.real} ${cow} ${type} ${chunk}${words}`;
  }

  /** The file, made if need be. */
  cow(
    snapshot: string,
    { chunk = 8, cow = cowSectors(this.sectors, chunk) }: SnapshotOptions = {},
  ): string {
    return this.rig.file(`${snapshot}.cow`, cow);
  }

  async quietly<T>(body: () => Promise<T>): Promise<T> {
    const { devices } = this.rig;
    await this.rig.wait(devices.suspend(this.name, false));
    try {
      return await body();
    } finally {
      await this.rig.wait(devices.resume(this.name));
    }
  }

  async take(snapshot: string, options: SnapshotOptions = {}): Promise<void> {
    await this.quietly(() => this.rig.create(snapshot, this.line(snapshot, options)));
  }

  async drop(snapshot: string): Promise<void> {
    await this.quietly(() => this.rig.wait(this.rig.devices.remove(snapshot, false)));
  }

  /** Replaces the snapshot's table by another. */
  async reload(snapshot: string, table: string): Promise<void> {
    const { devices } = this.rig;
    await this.rig.wait(devices.load(snapshot, table));
    await this.rig.wait(devices.suspend(snapshot, false));
    await this.rig.wait(devices.resume(snapshot));
  }

  /** The volume turns back into what it was when the snapshot was taken; ends when that begins. */
  async merge(snapshot: string, options: SnapshotOptions = {}): Promise<void> {
    const { rig, name, real, sectors } = this;
    const { type = 'P', chunk = 8 } = options;
    const cow =
      options.cowWord ?? rig.file(`${snapshot}.cow`, options.cow ?? cowSectors(sectors, chunk));
    await rig.wait(rig.devices.suspend(name, false));
    await rig.wait(rig.devices.remove(snapshot, false));
    await rig.wait(
      rig.devices.load(name, `0 ${sectors} snapshot-merge dm:${real} ${cow} ${type} ${chunk}`),
    );
    await rig.wait(rig.devices.resume(name));
  }

  /** Waits for the end of a merge, and puts the plain origin back. */
  async merged(): Promise<void> {
    const { rig, name, real, sectors } = this;
    await rig.until('the merge is over', () => isMerged(rig.status(name)));
    await rig.wait(rig.devices.load(name, `0 ${sectors} snapshot-origin dm:${real}`));
    await rig.wait(rig.devices.resume(name));
  }
}

/** Nothing but metadata is in use. */
export function isMerged(status: string): boolean {
  const match = /^(\d+)\/\d+ (\d+)$/.exec(status);
  return match !== null && match[1] === match[2];
}
