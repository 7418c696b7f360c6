/**
 * Random schedules over an origin and its snapshots, with change maps that are asked for, kept and
 * looked at all the while. The slow oracle has an array of sectors for each device: the number of
 * the last write to it that was answered, from whichever device that came.
 *
 *   shown[device][sector]   what a read would find there
 *   taken[snapshot][sector] what it was when the snapshot was taken
 *
 * At any moment a sector that a map calls clean must be the same in both. At rest a map must also
 * call nothing dirty but the chunks that somebody has written to, and the bytes themselves are
 * compared.
 */

import type { Buffer } from 'node:buffer';
import fc from 'fast-check';
import { EIO, errnoName } from '../../src/base/errno.js';
import { type ChangeMap, EXTENT_DIRTY } from '../../src/device/change-map.js';
import type { Device } from '../../src/device/device.js';
import { ExtentList } from '../../src/device/extent-list.js';
import { READ, TRIM, WRITE, ZERO } from '../../src/device/io.js';
import { type IoClient, pattern } from '../device/io-client.js';
import type { ScriptedRig } from '../snapshot/scripted-rig.js';
import { Volume } from '../snapshot/volume.js';

/** An odd number: last chunks are short. */
export const sectors = 131;
const bytes = sectors * 512;
const snapshotsMax = 3;

export type Step =
  | {
      readonly kind: 'write';
      readonly operation: typeof WRITE | typeof ZERO | typeof TRIM;
      readonly which: number;
      readonly first: number;
      readonly count: number;
    }
  | { readonly kind: 'take'; readonly type: 'P' | 'N'; readonly chunk: number }
  | { readonly kind: 'drop' | 'handover' | 'rename' | 'merge' | 'reload'; readonly which: number }
  | { readonly kind: 'keep'; readonly which: number }
  | {
      readonly kind: 'look';
      readonly which: number;
      readonly first: number;
      readonly count: number;
      readonly capacity: number;
    }
  | { readonly kind: 'turns'; readonly count: number };

const place = { which: fc.nat(99), first: fc.nat(sectors - 1) };
const kind = <K extends string>(...kinds: readonly K[]) => fc.constantFrom(...kinds);

const take = fc.record({
  kind: kind('take'),
  type: fc.constantFrom('P' as const, 'N' as const),
  chunk: fc.constantFrom(1, 2, 8, 16),
});

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      kind: kind('write'),
      operation: fc.constantFrom(WRITE, WRITE, WRITE, ZERO, TRIM),
      ...place,
      count: fc.integer({ min: 1, max: 20 }),
    }),
  },
  { weight: 3, arbitrary: take },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: kind('drop', 'handover', 'rename', 'merge', 'merge', 'reload'),
      which: fc.nat(99),
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: kind('keep'), which: fc.nat(99) }) },
  {
    weight: 12,
    arbitrary: fc.record({
      kind: kind('look'),
      ...place,
      count: fc.integer({ min: 1, max: sectors }),
      capacity: fc.constantFrom(1, 2, 64),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({ kind: kind('turns'), count: fc.integer({ min: 1, max: 12 }) }),
  },
);

export const steps: fc.Arbitrary<Step[]> = fc
  .tuple(take, fc.array(step, { minLength: 30, maxLength: 140, size: 'max' }))
  .map(([first, rest]) => [first, ...rest]);

/** A device: the volume, or a snapshot of it. */
interface Subject {
  name: string;
  readonly device: Device;
  readonly client: IoClient;
  /** The number of the last answered write to each sector. */
  shown: number[];
  /** Sends to it that have not ended. */
  readonly underWay: Set<{ readonly first: number; readonly count: number }>;
}

interface Taken extends Subject {
  readonly file: string;
  readonly type: 'P' | 'N';
  readonly chunk: number;
  /** Of the moment: numbers, and what was read. */
  readonly taken: readonly number[];
  readonly bytes: Buffer;
  /** Chunks that somebody may have written to since. */
  readonly touched: Set<number>;
  /** Those among them of which nobody can tell. */
  readonly doubtful: Set<number>;
  gone: boolean;
}

/** A map that was asked for at some time. */
interface Kept {
  readonly map: ChangeMap;
  readonly shown: Subject;
  readonly since: Taken;
}

export class ChangeRun {
  readonly #rig: ScriptedRig;
  readonly #volume: Volume;
  readonly #origin: Subject;
  #snapshots: Taken[] = [];
  /** The origin's table is a merge, or is about to be. */
  #merging = false;
  /** A command may be anywhere on its way. */
  #busy = false;
  #kept: Kept[] = [];
  #control: Promise<void> = Promise.resolve();
  #failure: { readonly error: unknown } | null = null;
  #writes = 0;
  #names = 0;
  answers = 0;
  refusals = 0;

  private constructor(rig: ScriptedRig, volume: Volume) {
    this.#rig = rig;
    this.#volume = volume;
    const shown = new Array<number>(sectors).fill(0);
    this.#origin = { ...this.#subject('vol'), shown };
  }

  static async play(rig: ScriptedRig, steps: readonly Step[]): Promise<ChangeRun> {
    const run = new ChangeRun(rig, await new Volume(rig, sectors).create());
    for (const step of steps) await run.#carryOut(step);
    await run.#end();
    return run;
  }

  #subject(name: string): Subject {
    const device = this.#rig.devices.get(name);
    return { name, device, client: this.#rig.client(name), shown: [], underWay: new Set() };
  }

  async #carryOut(step: Step): Promise<void> {
    if (this.#failure !== null) throw this.#failure.error;
    switch (step.kind) {
      case 'turns':
        return this.#rig.turns(step.count);
      case 'write':
        return this.#write(step);
      case 'keep':
        return this.#keep(step.which);
      case 'look':
        return this.#look(step);
      default:
        this.#command(step);
    }
  }

  #all(): Subject[] {
    return [this.#origin, ...this.#snapshots.filter(({ gone }) => !gone)];
  }

  #write({ operation, which, first, count: wanted }: Extract<Step, { kind: 'write' }>): void {
    // Half of them go to the origin.
    const all = this.#all();
    const subject = all[which % 2 === 0 ? 0 : which % all.length] as Subject;
    const count = Math.min(wanted, sectors - first);
    const isOrigin = subject === this.#origin;
    // TRIM of a snapshot does nothing, nor does that of an origin that is being merged into.
    const nothing = operation === TRIM && !isOrigin;
    const doubtful = operation === TRIM && (this.#merging || this.#busy);
    const number = ++this.#writes;
    const range = { first, count };
    subject.underWay.add(range);
    if (!nothing) {
      const concerned = this.#snapshots.filter((one) => isOrigin || one === subject);
      for (const one of concerned) touch(one, range, doubtful);
    }
    const data = operation === WRITE ? { data: pattern(count * 512, number) } : {};
    subject.client.send(operation, first * 512, count * 512, data, (ended) => {
      subject.underWay.delete(range);
      if (ended.errno !== 0) {
        const gone = (subject as Partial<Taken>).gone === true;
        if (!gone) this.#failure ??= { error: new Error(`a write: ${errnoName(ended.errno)}`) };
      } else if (!nothing) {
        // What a TRIM leaves may be what was there.
        if (operation !== TRIM) subject.shown.fill(number, first, first + count);
      }
    });
  }

  /** Asks a device for its maps. */
  #keep(which: number): void {
    const all = this.#all();
    const shown = all[which % all.length] as Subject;
    const maps = shown.device.changeMaps();
    for (const map of maps) {
      const since = this.#snapshots.find(({ name }) => name === map.name);
      // One that is being made is not known here yet.
      if (since !== undefined) this.#kept.push({ map, shown, since });
      else if (!this.#busy) throw new Error(`a map of "${map.name}"`);
    }
    if (this.#busy) return;
    const wanted = shown === this.#origin && this.#merging ? [] : this.#snapshots;
    const found = maps.map(({ name }) => name).sort();
    if (
      found.join() !==
      wanted
        .map(({ name }) => name)
        .sort()
        .join()
    ) {
      throw new Error(`${shown.name} offers ${found}`);
    }
  }

  #look({ which, first, count, capacity }: Extract<Step, { kind: 'look' }>): void {
    const kept = this.#kept[which % Math.max(1, this.#kept.length)];
    if (kept === undefined) return;
    const list = new ExtentList(capacity);
    const length = Math.min(count, sectors - first) * 512;
    const errno = kept.map.extents(first * 512, length, list);
    this.#judge(kept, errno, first, list, length);
  }

  #judge(kept: Kept, errno: number, first: number, list: ExtentList, length: number): void {
    const { shown, since } = kept;
    const gone = since.gone || (shown as Partial<Taken>).gone === true;
    const merging = shown === this.#origin && this.#merging;
    if (errno !== 0) {
      this.refusals++;
      if (errno !== EIO) throw new Error(`errno ${errno}`);
      if (!gone && !merging && !this.#busy) throw new Error(`${since.name} is lost`);
      return;
    }
    this.answers++;
    if (gone && !this.#busy) throw new Error(`${since.name} has gone, and is answered`);
    const mixed = merging && this.#rig.table('vol').startsWith('snapshot-merge ');
    if (mixed) throw new Error('a mix is told');
    if (kept.map.name !== since.name && !this.#busy) throw new Error(`named ${kept.map.name}`);
    if (list.count === 0 || list.bytes > length) throw new Error(`${list.count} extents`);
    // The origin may show what it was before the merge, or what it is going to be.
    if (merging) return;
    const dirty = dirtySectors(list);
    for (const [i, one] of dirty.entries()) {
      const at = first + i;
      if (!one && shown.shown[at] !== since.taken[at]) {
        throw new Error(`sector ${at} of ${shown.name} has changed since ${since.name}`);
      }
    }
  }

  /** Commands go one after the other, while everything else goes on. */
  #command(step: Step): void {
    this.#control = this.#control
      .then(async () => {
        this.#busy = true;
        await this.#obey(step);
        this.#busy = false;
      })
      .catch((error) => {
        this.#failure ??= { error };
      });
  }

  async #obey(step: Step): Promise<void> {
    const { devices } = this.#rig;
    if (step.kind === 'take') return this.#take(step.type, step.chunk);
    if (step.kind === 'reload') {
      if (this.#merging) return;
      await this.#rig.wait(devices.load('vol', this.#originLine()));
      return this.#rig.wait(devices.resume('vol'));
    }
    const which = 'which' in step ? step.which : 0;
    const snapshot = this.#snapshots[which % Math.max(1, this.#snapshots.length)];
    if (snapshot === undefined) return;
    if (step.kind === 'drop') {
      await this.#volume.quietly(() => this.#remove(snapshot));
    } else if (step.kind === 'handover') {
      await this.#rig.wait(devices.load(snapshot.name, this.#line(snapshot)));
      await this.#rig.wait(devices.resume(snapshot.name));
    } else if (step.kind === 'rename') {
      const name = `renamed${this.#names++}`;
      await this.#rig.wait(devices.rename(snapshot.name, name));
      snapshot.name = name;
    } else if (step.kind === 'merge') {
      await this.#merge(snapshot);
    }
  }

  #originLine(): string {
    return `0 ${sectors} snapshot-origin dm:${this.#volume.real}`;
  }

  #line({ file, type, chunk }: Taken): string {
    return this.#volume.line(file, { type, chunk });
  }

  async #take(type: 'P' | 'N', chunk: number): Promise<void> {
    if (this.#snapshots.length === snapshotsMax || this.#merging) return;
    const name = `snap${this.#names++}`;
    await this.#volume.quietly(async () => {
      await this.#rig.create(name, this.#volume.line(name, { type, chunk }));
      const { shown, underWay } = this.#origin;
      const one: Taken = {
        ...this.#subject(name),
        file: name,
        type,
        chunk,
        shown: [...shown],
        taken: [...shown],
        bytes: this.#rig.contents('vol.img'),
        touched: new Set(),
        doubtful: new Set(),
        gone: false,
      };
      // These are held back, and come after it.
      for (const range of underWay) touch(one, range);
      this.#snapshots.push(one);
    });
  }

  async #remove(snapshot: Taken): Promise<void> {
    snapshot.gone = true;
    this.#snapshots = this.#snapshots.filter((one) => one !== snapshot);
    await this.#rig.wait(this.#rig.devices.remove(snapshot.name, false));
  }

  /** The origin becomes what the snapshot shows; to the others all that it holds is written. */
  async #merge(snapshot: Taken): Promise<void> {
    const { devices } = this.#rig;
    if (snapshot.type === 'N') return;
    await this.#rig.wait(devices.suspend('vol', false));
    this.#merging = true;
    await this.#remove(snapshot);
    this.#origin.shown = snapshot.shown;
    for (const other of this.#snapshots) {
      for (const chunk of snapshot.touched) {
        const first = chunk * snapshot.chunk;
        // Some of it may have been on its way when the snapshot was removed.
        touch(other, { first, count: Math.min(snapshot.chunk, sectors - first) }, true);
      }
    }
    const merge = this.#line(snapshot).replace(' snapshot ', ' snapshot-merge ');
    await this.#rig.wait(devices.load('vol', merge));
    await this.#rig.wait(devices.resume('vol'));
    await this.#volume.merged();
    this.#merging = false;
  }

  /** Commands are slow: most of them end now, and every turn of theirs is looked at. */
  async #watch(): Promise<void> {
    let over = false;
    void this.#control.then(() => {
      over = true;
    });
    for (let turn = 0; !over; turn++) {
      if (turn === 20_000) throw new Error('commands hang');
      await this.#rig.turns(1);
      if (turn % 4 === 0) this.#keep(turn / 4);
      for (let i = 0; i < 3; i++) {
        const kept = this.#kept[(3 * turn + i) % Math.max(1, this.#kept.length)];
        if (kept !== undefined) this.#judgeAll(kept);
      }
    }
  }

  async #end(): Promise<void> {
    await this.#watch();
    await this.#rig.until('all has ended', () => {
      const quiet = this.#all().every(({ underWay }) => underWay.size === 0);
      return quiet || this.#failure !== null;
    });
    if (this.#failure !== null) throw this.#failure.error;
    // The very last write may wait for reads of what it replaces.
    await this.#rig.turns(10);
    for (const kept of this.#kept) this.#judgeAll(kept);
    this.#kept = [];
    for (let i = 0; i <= this.#snapshots.length; i++) this.#keep(i);
    for (const kept of this.#kept) {
      const dirty = this.#judgeAll(kept);
      if (dirty === null) throw new Error('a map that was just offered fails');
      await this.#judgeAtRest(kept, dirty);
    }
    for (const snapshot of [...this.#snapshots]) {
      await this.#volume.quietly(() => this.#remove(snapshot));
    }
  }

  /** What it says of all sectors, or null: it fails. */
  #judgeAll(kept: Kept): boolean[] | null {
    const dirty: boolean[] = [];
    while (dirty.length < sectors) {
      const list = new ExtentList(7);
      const first = dirty.length;
      const length = bytes - first * 512;
      const errno = kept.map.extents(first * 512, length, list);
      this.#judge(kept, errno, first, list, length);
      if (errno !== 0) return null;
      dirty.push(...dirtySectors(list));
    }
    return dirty;
  }

  async #judgeAtRest({ shown, since }: Kept, dirty: readonly boolean[]): Promise<void> {
    const found = await this.#rig.wait(this.#rig.io(shown.name, READ, 0, bytes));
    for (const [at, one] of dirty.entries()) {
      const isIn = (kind: 'touched' | 'doubtful'): boolean =>
        [since, shown as Partial<Taken>].some(
          ({ [kind]: set, chunk = 1 }) => set?.has(Math.floor(at / chunk)) === true,
        );
      if (one !== isIn('touched') && !isIn('doubtful')) {
        const what = `${shown.name} since ${since.name}`;
        throw new Error(`sector ${at} of ${what}: dirty is ${one}`);
      }
      const part = found.subarray(at * 512, (at + 1) * 512);
      if (!one && !part.equals(since.bytes.subarray(at * 512, (at + 1) * 512))) {
        throw new Error(`sector ${at} of ${shown.name} is not what it was at ${since.name}`);
      }
    }
  }
}

function touch(
  snapshot: Taken,
  { first, count }: { first: number; count: number },
  doubtful = false,
): void {
  const last = Math.floor((first + count - 1) / snapshot.chunk);
  for (let chunk = Math.floor(first / snapshot.chunk); chunk <= last; chunk++) {
    if (doubtful && !snapshot.touched.has(chunk)) snapshot.doubtful.add(chunk);
    snapshot.touched.add(chunk);
    if (!doubtful) snapshot.doubtful.delete(chunk);
  }
}

/** Extents of whole sectors, one by one. */
function dirtySectors(list: ExtentList): boolean[] {
  const dirty: boolean[] = [];
  for (let i = 0; i < list.count; i++) {
    const count = (list.lengths[i] as number) / 512;
    if (!Number.isInteger(count)) throw new Error(`an extent of ${count} sectors`);
    const flags = list.flags[i] as number;
    if (flags !== 0 && flags !== EXTENT_DIRTY) throw new Error(`flags ${flags}`);
    for (let j = 0; j < count; j++) dirty.push(flags === EXTENT_DIRTY);
  }
  return dirty;
}
