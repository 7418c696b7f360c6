/**
 * The power fails in the middle of random schedules, with persistent snapshots of several chunk
 * sizes, and one that is being merged: what comes back must be what was promised. Of every sector
 * the oracle knows what it may hold: what was flushed last, or anything written since.
 *
 *   a snapshot   untouched sectors are those of the origin when it was taken, whatever the origin
 *                has become
 *   a merge      the volume is the snapshot from the moment it began
 */

import fc from 'fast-check';
import { FLAG_FUA, FLUSH, READ, WRITE } from '../../src/device/io.js';
import { pattern } from '../device/io-client.js';
import { sectorBytes, stamped } from '../device/sector-model.js';
import { ForgetfulEngine } from './power.js';
import { ScriptedRig } from './scripted-rig.js';
import { cowSectors, isMerged, Volume } from './volume.js';

const sectors = 100;

/** What a sector may hold: the first is certain to have been there, the others came later. */
interface Stamp {
  readonly stamp: number;
  /** In order of time; Infinity while under way. */
  ended: number;
}

class Disk {
  readonly name: string;
  readonly stamps: Stamp[][];
  /** A write is under way there: the next one waits, that is, it is not sent. */
  readonly busy: boolean[];

  /** It has less room than it may want, and may become invalid; in the end that, or right. */
  readonly mayFail: boolean;

  constructor(name: string, from?: Disk, mayFail = false) {
    this.name = name;
    this.mayFail = mayFail;
    this.busy = Array.from({ length: sectors }, () => false);
    this.stamps = Array.from({ length: sectors }, (_, i) => {
      const last = from?.stamps[i]?.at(-1);
      return [{ stamp: last?.stamp ?? 0, ended: 0 }];
    });
  }

  /** Forgets what a flush that began then, and is over, has made impossible. */
  flushed(began: number): void {
    for (const list of this.stamps) {
      const certain = list.findLastIndex(({ ended }) => ended < began);
      list.splice(0, Math.max(0, certain));
    }
  }
}

interface SnapshotDisk {
  readonly disk: Disk;
  /** Sectors. */
  readonly chunk: number;
  readonly size: number;
}

export interface Step {
  readonly kind: 'write' | 'flush' | 'turns' | 'take' | 'merge';
  readonly which: number;
  readonly at: number;
  readonly count: number;
  readonly fua: boolean;
}

export const crashStep: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom(
    ...(['write', 'write', 'write', 'write', 'turns', 'turns', 'flush', 'take', 'merge'] as const),
  ),
  which: fc.nat(5),
  at: fc.nat(sectors - 1),
  count: fc.integer({ min: 1, max: 20 }),
  fua: fc.boolean(),
});

const chunks = [8, 1, 16] as const;

export class CrashRun {
  readonly rig: ScriptedRig;
  readonly #engine = new ForgetfulEngine();
  readonly #volume: Volume;
  #origin = new Disk('vol');
  #snapshots: SnapshotDisk[] = [];
  /** The snapshot that the volume is being turned into. */
  #merging: SnapshotDisk | null = null;
  #clock = 0;
  #stamps = 0;
  #taken = 0;
  #control: Promise<void> = Promise.resolve();
  /** Writes that wait for a volume that changes. */
  #changing = false;
  #failure: unknown = null;

  constructor(seed: number) {
    this.rig = new ScriptedRig(seed, this.#engine);
    this.#volume = new Volume(this.rig, sectors);
  }

  async play(steps: readonly Step[]): Promise<void> {
    await this.#volume.create();
    await this.#take(0, steps[0]?.fua === true);
    for (const step of steps) {
      if (step.kind === 'turns') await this.#turns(step);
      else if (step.kind === 'write') this.#write(step);
      else if (step.kind === 'flush') this.#flush(this.#disk(step.which));
      else if (!this.#changing) this.#change(step);
      if (this.#failure !== null) throw this.#failure;
    }
    // A device that is about to change is in no state that the oracle knows.
    if (this.#changing) await this.rig.wait(this.#control);
    if (this.#failure !== null) throw this.#failure;
  }

  /** Between any two of them the power may fail. */
  async #turns({ count, fua }: Step): Promise<void> {
    for (let i = 0; i < count; i++) {
      await this.rig.turns(1);
      if (fua && i % 4 === 0 && !this.#changing) await this.revive(this.#clock + i);
    }
  }

  #change(step: Step): void {
    this.#changing = true;
    const body = step.kind === 'take' ? this.#take(step.which, step.fua) : this.#merge(step.which);
    this.#control = body
      .catch((error) => {
        this.#failure ??= error;
      })
      .finally(() => {
        this.#changing = false;
      });
  }

  #disk(which: number): Disk {
    const all = [this.#origin, this.#origin, ...this.#snapshots.map(({ disk }) => disk)];
    return all[which % all.length] as Disk;
  }

  #write({ which, at, count, fua }: Step): void {
    const disk = this.#disk(which);
    const last = Math.min(sectors, at + count);
    const range = Array.from({ length: last - at }, (_, i) => at + i);
    if (this.#changing || range.some((sector) => disk.busy[sector])) return;
    const stamp = ++this.#stamps;
    const added: Stamp = { stamp, ended: Number.POSITIVE_INFINITY };
    for (const sector of range) {
      disk.busy[sector] = true;
      disk.stamps[sector]?.push(added);
    }
    const data = Buffer.concat(range.map(() => stamped(stamp)));
    const extras = { data, flags: fua ? FLAG_FUA : 0 };
    const client = this.rig.client(disk.name);
    client.send(WRITE, at * sectorBytes, data.length, extras, ({ errno }) => {
      for (const sector of range) disk.busy[sector] = false;
      if (errno !== 0) {
        if (!disk.mayFail) this.#failure ??= new Error(`a write to ${disk.name}: errno ${errno}`);
        return;
      }
      added.ended = ++this.#clock;
      for (const sector of range) {
        const list = disk.stamps[sector] as Stamp[];
        if (fua) list.splice(0, list.indexOf(added));
      }
    });
  }

  #flush(disk: Disk): void {
    if (this.#changing) return;
    const began = ++this.#clock;
    this.rig.client(disk.name).send(FLUSH, 0, 0, {}, ({ errno }) => {
      if (errno !== 0) this.#failure ??= new Error(`a flush of ${disk.name}: errno ${errno}`);
      disk.flushed(began);
    });
  }

  async #take(which: number, small: boolean): Promise<void> {
    if (this.#taken === 3 || this.#merging !== null) return;
    const chunk = chunks[which % 3] as number;
    const name = `snap${this.#taken++}`;
    const size = cowSectors(sectors, chunk) - (small ? 4 * Math.min(chunk, 8) : 0);
    await this.#volume.quietly(async () => {
      this.#origin.flushed(++this.#clock);
      const line = this.#volume.line(name, { chunk, cow: size });
      this.#engine.fill(`/${name}.cow`, sectorBytes, pattern((size - 1) * sectorBytes, 1));
      await this.rig.create(name, line);
      this.#snapshots.push({ disk: new Disk(name, this.#origin, small), chunk, size });
    });
  }

  async #merge(which: number): Promise<void> {
    const chosen = this.#snapshots[which];
    if (chosen === undefined || chosen.disk.mayFail || this.#merging !== null) return;
    this.#snapshots = this.#snapshots.filter((one) => one !== chosen);
    const { name } = chosen.disk;
    const { devices } = this.rig;
    await this.rig.wait(devices.suspend('vol', false));
    // Its removal flushes.
    await this.rig.wait(devices.remove(name, false));
    this.#merging = chosen;
    this.#origin = new Disk('vol', chosen.disk);
    await this.#loadMerge(this.rig, this.#volume, name, chosen.chunk);
  }

  async #loadMerge(rig: ScriptedRig, volume: Volume, name: string, chunk: number): Promise<void> {
    const cow = rig.file(`${name}.cow`, cowSectors(sectors, chunk));
    const line = `0 ${sectors} snapshot-merge dm:${volume.real} ${cow} P ${chunk}`;
    await rig.wait(rig.devices.load('vol', line));
    await rig.wait(rig.devices.resume('vol'));
  }

  /** What is left of it all, under a daemon that starts anew. */
  async revive(seed: number): Promise<void> {
    const next = new ScriptedRig(seed);
    const merging = this.#merging;
    const all = merging === null ? this.#snapshots : [...this.#snapshots, merging];
    for (const name of ['vol.img', ...all.map(({ disk }) => `${disk.name}.cow`)]) {
      const bytes = this.#engine.cut(`/${name}`, next.random);
      next.file(name, bytes.length / sectorBytes);
      next.put(name, 0, bytes);
    }
    const volume = new Volume(next, sectors);
    const image = next.file('vol.img', sectors);
    await next.create('vol-real', `0 ${sectors} linear ${image} 0`);
    const plain = `0 ${sectors} snapshot-origin dm:vol-real`;
    if (merging === null) {
      await next.create('vol', plain);
    } else {
      // Suspended, so that the other snapshots are there before anything is merged.
      await next.wait(next.devices.create('vol', undefined, false));
    }
    for (const { disk, chunk, size } of this.#snapshots) {
      if (merging === null) await volume.take(disk.name, { chunk, cow: size });
      else await next.create(disk.name, volume.line(disk.name, { chunk, cow: size }));
    }
    if (merging !== null) await this.#loadMerge(next, volume, merging.disk.name, merging.chunk);
    await this.#check(next);
    if (merging !== null) {
      await next.until('the merge is over', () => isMerged(next.status('vol')));
      await this.#check(next);
    }
    await next.close();
  }

  async #check(next: ScriptedRig): Promise<void> {
    for (const disk of [this.#origin, ...this.#snapshots.map(({ disk }) => disk)]) {
      if (disk.mayFail && next.status(disk.name) === 'Invalid') continue;
      const data = await next.wait(next.io(disk.name, READ, 0, sectors * sectorBytes));
      for (const [sector, list] of disk.stamps.entries()) {
        const found = data.subarray(sector * sectorBytes, (sector + 1) * sectorBytes);
        if (list.some(({ stamp }) => stamped(stamp).equals(found))) continue;
        const first = Math.floor(found.readUInt32LE(0) / 1024);
        const wanted = list.map(({ stamp }) => stamp).join(' or ');
        throw new Error(`sector ${sector} of ${disk.name} holds ${first}, wanted ${wanted}`);
      }
    }
  }

  /** What would have been without the failure. */
  async end(): Promise<void> {
    const all = [this.#origin, ...this.#snapshots.map(({ disk }) => disk)];
    const quiet = (): boolean => !all.some(({ busy }) => busy.includes(true));
    await this.rig.until('all writes have ended', quiet);
    if (this.#merging !== null) {
      await this.rig.until('the merge is over', () => isMerged(this.rig.status('vol')));
    }
    await this.#check(this.rig);
    await this.rig.close();
  }
}
