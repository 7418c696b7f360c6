/**
 * Carries a schedule out on a rig, against the oracle. Requests are sent without waiting for any;
 * one that overlaps another of its device, unless both read, waits for that. Everything else runs
 * at the same time: origin writes with reads of the same chunk in snapshots, copies, suspensions.
 * What changes snapshots goes one after the other, as people do it.
 */

import { Buffer } from 'node:buffer';
import { EIO, EOPNOTSUPP, errnoName } from '../../src/base/errno.js';
import {
  FLAG_FAST,
  FLAG_HOLES_OK,
  FLUSH,
  operationNames,
  READ,
  STATUS,
  TRIM,
  WRITE,
  ZERO,
} from '../../src/device/io.js';
import type { Ended } from '../device/io-client.js';
import { pattern } from '../device/io-client.js';
import { readCow } from './cow-image.js';
import { Bytes, capacityOf, Exceptions, statusOf } from './oracle.js';
import type { Rig } from './rig.js';
import {
  type Change,
  originBytes,
  originSectors,
  type Request,
  type Step,
  type Take,
} from './schedule.js';
import { ScriptedRig } from './scripted-rig.js';
import {
  checkStatus,
  conflict,
  isChange,
  type Pending,
  type SnapshotState,
  type Subject,
  shown,
} from './subject.js';
import { cowSectors, isMerged, Volume } from './volume.js';

const snapshotsMax = 4;

export class Run {
  readonly #rig: Rig;
  readonly #volume: Volume;
  readonly #origin: Subject;
  #snapshots: Subject[] = [];
  /** The snapshot that is being made: what the origin held then. */
  #forming: { readonly bytes: Bytes; met: boolean } | null = null;
  /** The snapshot that the origin is being turned into. */
  #merging: Subject | null = null;
  #control: Promise<void> = Promise.resolve();
  #taken = 0;
  #stamps = 0;
  #failure: { readonly error: unknown } | null = null;
  sent = 0;
  #ended = 0;

  /** I/O on COWs may fail: so may snapshots, but never the origin, and nobody lies. */
  readonly #faulty: boolean;

  private constructor(rig: Rig, volume: Volume) {
    this.#rig = rig;
    this.#faulty = rig instanceof ScriptedRig && rig.faults;
    this.#setFaults(false);
    this.#volume = volume;
    this.#origin = this.#subject('vol', new Bytes(originBytes), null);
  }

  static async play(rig: Rig, steps: readonly Step[]): Promise<Run> {
    const volume = await new Volume(rig, originSectors).create();
    const run = new Run(rig, volume);
    await run.#begin();
    run.#setFaults(true);
    for (const step of steps) await run.#carryOut(step);
    await run.#end();
    return run;
  }

  #setFaults(on: boolean): void {
    if (this.#rig instanceof ScriptedRig) this.#rig.faults = on && this.#faulty;
  }

  #subject(name: string, bytes: Bytes, snapshot: SnapshotState | null): Subject {
    const client = this.#rig.client(name);
    return { name, client, bytes, snapshot, underWay: new Set(), queue: [], going: false };
  }

  /** Something to lose. */
  async #begin(): Promise<void> {
    const data = pattern(originBytes - 5000, 1);
    await this.#rig.wait(this.#rig.io('vol', WRITE, 0, data.length, { data }));
    this.#origin.bytes.write(0, data);
  }

  async #carryOut(step: Step): Promise<void> {
    this.#throwFailure();
    if (step.kind === 'turns') {
      await this.#rig.turns(step.count);
    } else if (step.kind === 'request') {
      const all = [this.#origin, ...this.#snapshots.filter((one) => !one.going)];
      // Half of the requests go to the origin.
      this.#request(all[step.which < 4 ? 0 : step.which % all.length] as Subject, step);
    } else {
      this.#control = this.#control
        .then(async () => {
          this.#setFaults(false);
          await (step.kind === 'take' ? this.#take(step) : this.#change(step));
          this.#setFaults(true);
        })
        .catch((error) => {
          this.#failure ??= { error };
        });
    }
  }

  #throwFailure(): void {
    if (this.#failure !== null) throw this.#failure.error;
  }

  #request(subject: Subject, request: Request): void {
    const flush = request.operation === FLUSH;
    const offset = flush ? 0 : Math.min(request.at, originBytes - 1);
    const length = flush ? 0 : Math.min(request.length, originBytes - offset);
    const data = request.operation === WRITE ? pattern(length, ++this.#stamps) : Buffer.alloc(0);
    subject.queue.push({ subject, request, offset, length, data });
    this.sent++;
    this.#pump(subject);
  }

  /** Sends what overlaps nothing under way, nor anything that came before it and still waits. */
  #pump(subject: Subject): void {
    // What is sent may end at once, and then this is called again from within.
    for (;;) {
      const before: Pending[] = [...subject.underWay];
      const index = subject.queue.findIndex((pending) => {
        const waits = before.some((other) => conflict(other, pending));
        before.push(pending);
        return !waits;
      });
      if (index < 0) return;
      this.#send(subject.queue.splice(index, 1)[0] as Pending);
    }
  }

  #send(pending: Pending): void {
    const { subject, request, offset, length, data } = pending;
    const { operation, flags } = request;
    subject.underWay.add(pending);
    if (isChange(operation)) this.#each(pending, (exceptions) => exceptions.claim(offset, length));
    const extras = {
      flags,
      ...(operation === WRITE ? { data } : {}),
      ...(operation === READ || operation === STATUS ? { capacity: 16 } : {}),
    };
    subject.client.send(operation, offset, length, extras, (ended) => {
      try {
        this.#ended++;
        subject.underWay.delete(pending);
        this.#judge(pending, ended);
        this.#pump(subject);
      } catch (error) {
        this.#failure ??= { error };
      }
    });
  }

  /** The COWs that a change concerns: the snapshot's own, or those of all. */
  #each({ subject, request }: Pending, visit: (exceptions: Exceptions) => void): void {
    if (subject.snapshot === null) {
      for (const { snapshot } of this.#snapshots) visit((snapshot as SnapshotState).exceptions);
    } else if (request.operation !== TRIM) {
      visit(subject.snapshot.exceptions);
    }
  }

  #judge(pending: Pending, ended: Ended): void {
    const { subject, request, offset, length, data } = pending;
    const { operation, flags } = request;
    const what = `${operationNames[operation]} of ${length} at ${offset} of ${subject.name}`;
    const { bytes } = subject;
    const fresh = operation === WRITE ? data : new Uint8Array(length);
    if (ended.errno !== 0) {
      const refused = operation === ZERO && (flags & FLAG_FAST) !== 0;
      if (ended.errno === EOPNOTSUPP && refused) {
        this.#each(pending, (exceptions) => {
          exceptions.unknown();
        });
        return;
      }
      const mayFail = subject.going || subject.snapshot?.exceptions.mayFail === true;
      if (!mayFail || ended.errno !== EIO) throw new Error(`${what}: ${errnoName(ended.errno)}`);
      if (isChange(operation)) bytes.maybe(offset, fresh);
      return;
    }
    if (isChange(operation)) this.#changed(pending, fresh);
    if (operation === WRITE) bytes.write(offset, data);
    else if (operation === ZERO) bytes.zero(offset, length);
    else if (operation === TRIM) bytes.maybe(offset, fresh);
    else if (operation === READ) bytes.check(what, offset, shown(ended));
    else if (operation === STATUS) checkStatus(what, bytes, offset, length, ended);
  }

  #changed(pending: Pending, data: Uint8Array): void {
    const { subject, request, offset, length } = pending;
    this.#each(pending, (exceptions) => exceptions.touch(offset, length));
    if (subject !== this.#origin) return;
    if (this.#forming !== null) {
      this.#forming.bytes.maybe(offset, data);
      this.#forming.met = true;
    }
    // A merge ignores it, so that nothing was copied.
    if (this.#merging !== null && request.operation === TRIM) {
      this.#each(pending, (exceptions) => exceptions.unknown());
    }
  }

  async #take(take: Take): Promise<void> {
    if (this.#snapshots.length === snapshotsMax) return;
    // What is not merged yet is not in the origin: a snapshot would be one of something else.
    await this.#finishMerge();
    const name = `snap${this.#taken++}`;
    const full = cowSectors(originSectors, take.chunk);
    const cow = Math.max(3 * take.chunk, full - take.missing * take.chunk);
    const { chunk, type, features } = take;
    const options = { type, chunk, cow, ...(features === '' ? {} : { features }) };
    const line = this.#volume.line(name, options);
    // Behind the header there may be anything.
    this.#rig.put(`${name}.cow`, 512, pattern((cow - 1) * 512, this.#taken));
    if (take.quietly) await this.#volume.quietly(() => this.#form(name, line, take, cow));
    else await this.#form(name, line, take, cow);
  }

  /** Whatever ends at the origin meanwhile is in the snapshot or not. */
  async #form(name: string, line: string, take: Take, cow: number): Promise<void> {
    const forming = { bytes: this.#origin.bytes.copy(), met: false };
    this.#forming = forming;
    await this.#rig.create(name, line);
    this.#forming = null;
    const exceptions = this.#fresh(take, cow);
    if (forming.met) exceptions.unknown();
    const state = { take, cow, exceptions };
    this.#snapshots.push(this.#subject(name, forming.bytes, state));
  }

  #fresh({ type, chunk }: Take, cow: number, touched?: Iterable<number>): Exceptions {
    const exceptions = new Exceptions(
      originBytes,
      chunk * 512,
      capacityOf(type, cow, chunk),
      touched,
    );
    exceptions.mayFail = this.#faulty;
    // What the origin holds back comes after this.
    for (const { request, offset, length } of this.#origin.underWay) {
      if (isChange(request.operation)) exceptions.claim(offset, length);
    }
    return exceptions;
  }

  async #change({ kind, which, quietly, turns }: Change): Promise<void> {
    const { devices } = this.#rig;
    if (kind === 'pause') {
      const names = ['vol', 'vol-real', ...this.#snapshots.map(({ name }) => name)];
      const name = names[which % names.length] as string;
      await this.#rig.wait(devices.suspend(name, turns % 2 === 0));
      await this.#rig.turns(turns);
      await this.#rig.wait(devices.resume(name));
      return;
    }
    const subject = this.#snapshots[which % Math.max(1, this.#snapshots.length)];
    if (subject === undefined) return;
    if (kind === 'drop') await this.#drop(subject);
    else if (kind === 'grow') this.#grow(subject);
    else if (kind === 'again') await this.#again(subject);
    else if (kind === 'merge') await this.#merge(subject, quietly);
    else if (quietly) await this.#volume.quietly(() => this.#handover(subject, turns));
    else await this.#handover(subject, turns);
  }

  async #drop(subject: Subject): Promise<void> {
    await this.#volume.quietly(async () => {
      await this.#remove(subject);
      this.#snapshots = this.#snapshots.filter((one) => one !== subject);
    });
  }

  async #remove(subject: Subject): Promise<void> {
    subject.going = true;
    this.sent -= subject.queue.splice(0).length;
    await this.#rig.wait(this.#rig.devices.remove(subject.name, false));
    // Some of it has been merged into the origin, and some has not.
    if (this.#merging !== null) subject.snapshot?.exceptions.unknown();
    if (subject.underWay.size > 0) throw new Error(`requests are left in ${subject.name}`);
    this.#checkCow(subject);
  }

  /** A persistent COW, after its last write. */
  #checkCow({ name, snapshot }: Subject): void {
    const { take, exceptions } = snapshot as SnapshotState;
    if (take.type === 'N') return;
    const image = readCow(this.#rig.contents(`${name}.cow`));
    if (exceptions.mustFail && image.valid && take.type === 'P' && !this.#faulty) {
      throw new Error(`${name} is valid on disk, and cannot be`);
    }
    if (exceptions.uncertain) return;
    if (!image.valid) throw new Error(`${name} is invalid on disk`);
    const found = [...image.exceptions.keys()].sort((a, b) => a - b).join();
    const wanted = [...exceptions.touched].sort((a, b) => a - b).join();
    if (found !== wanted) throw new Error(`${name} has chunks ${found}, wanted ${wanted}`);
  }

  #line({ name, snapshot }: Subject): string {
    const { take, cow } = snapshot as SnapshotState;
    const { type, chunk, features } = take;
    const options = { type, chunk, cow, ...(features === '' ? {} : { features }) };
    return this.#volume.line(name, options);
  }

  /** Removes it, and makes it again: a transient one is then another. */
  async #again(subject: Subject): Promise<void> {
    await this.#finishMerge();
    await this.#volume.quietly(async () => {
      await this.#remove(subject);
      const { take, cow, exceptions } = subject.snapshot as SnapshotState;
      this.#snapshots = this.#snapshots.filter((one) => one !== subject);
      if (take.type !== 'N' && exceptions.uncertain) return;
      await this.#rig.create(subject.name, this.#line(subject));
      const bytes = take.type === 'N' ? this.#origin.bytes.copy() : subject.bytes;
      const touched = take.type === 'N' ? [] : exceptions.touched;
      const state = { take, cow, exceptions: this.#fresh(take, cow, touched) };
      this.#snapshots.push(this.#subject(subject.name, bytes, state));
    });
  }

  /** The origin becomes what the snapshot is; others see a write of all that it has of its own. */
  async #merge(subject: Subject, removeFirst: boolean): Promise<void> {
    const { take, exceptions } = subject.snapshot as SnapshotState;
    const { devices } = this.#rig;
    if (take.type === 'N') return;
    await this.#finishMerge();
    const merge = this.#line(subject).replace(' snapshot ', ' snapshot-merge ');
    subject.going = true;
    this.sent -= subject.queue.splice(0).length;
    await this.#rig.wait(devices.suspend('vol', false));
    if (exceptions.mayFail) {
      // Of an invalid one nobody knows what is merged.
      subject.going = false;
      await this.#rig.wait(devices.resume('vol'));
      return;
    }
    if (removeFirst) {
      await this.#rig.wait(devices.remove(subject.name, false));
      await this.#rig.wait(devices.load('vol', merge));
    } else {
      await this.#rig.wait(devices.load('vol', merge));
      await this.#rig.wait(devices.suspend(subject.name, false));
    }
    this.#snapshots = this.#snapshots.filter((one) => one !== subject);
    this.#merging = subject;
    this.#origin.bytes = subject.bytes.copy();
    this.#eachMerged(subject, (other, offset, length) => other.claim(offset, length));
    await this.#rig.wait(devices.resume('vol'));
    if (!removeFirst) await this.#rig.wait(devices.remove(subject.name, false));
  }

  #eachMerged(
    { snapshot }: Subject,
    visit: (other: Exceptions, offset: number, length: number) => void,
  ): void {
    const { exceptions } = snapshot as SnapshotState;
    const { chunkBytes, touched } = exceptions;
    for (const { snapshot } of this.#snapshots) {
      const other = (snapshot as SnapshotState).exceptions;
      if (exceptions.uncertain) other.unknown();
      for (const chunk of touched) {
        const offset = chunk * chunkBytes;
        visit(other, offset, Math.min(chunkBytes, originBytes - offset));
      }
    }
  }

  async #finishMerge(): Promise<void> {
    const subject = this.#merging;
    if (subject === null) return;
    const over = (): boolean => this.#failure !== null || isMerged(this.#rig.status('vol'));
    await this.#rig.until('the merge is over', over);
    this.#throwFailure();
    const { devices } = this.#rig;
    await this.#rig.wait(devices.load('vol', `0 ${originSectors} snapshot-origin dm:vol-real`));
    await this.#rig.wait(devices.resume('vol'));
    this.#merging = null;
    this.#eachMerged(subject, (other, offset, length) => other.touch(offset, length));
    const left = readCow(this.#rig.contents(`${subject.name}.cow`)).exceptions.size;
    if (left > 0) throw new Error(`${left} exceptions are left of a merge`);
  }

  #grow(subject: Subject): void {
    const state = subject.snapshot as SnapshotState;
    const { type, chunk } = state.take;
    state.cow += 16 * chunk;
    state.exceptions.grow(capacityOf(type, state.cow, chunk));
    this.#rig.file(`${subject.name}.cow`, state.cow);
  }

  async #handover(subject: Subject, turns: number): Promise<void> {
    const { devices } = this.#rig;
    await this.#rig.wait(devices.load(subject.name, this.#line(subject)));
    await this.#rig.turns(turns);
    await this.#rig.wait(devices.resume(subject.name));
  }

  /** Ends everything, and looks at all that can be seen. */
  async #end(): Promise<void> {
    this.#control = this.#control.then(() => {
      this.#setFaults(false);
      return this.#finishMerge();
    });
    await this.#rig.wait(this.#control);
    const all = [this.#origin, ...this.#snapshots];
    const quiet = (): boolean =>
      this.#failure !== null ||
      all.every(({ underWay, queue }) => underWay.size === 0 && queue.length === 0);
    await this.#rig.until('all requests have ended', quiet);
    this.#throwFailure();
    for (const subject of all) {
      this.#checkState(subject);
      for (const operation of [READ, STATUS, READ] as const) {
        const flags = operation === READ ? 0 : FLAG_HOLES_OK;
        const whole = { at: 0, length: originBytes, which: 0, flags };
        this.#request(subject, { kind: 'request', operation, ...whole });
      }
    }
    await this.#rig.until('the last reads have ended', quiet);
    this.#throwFailure();
    if (this.sent !== this.#ended) throw new Error(`${this.#ended} of ${this.sent} have ended`);
    while (this.#snapshots.length > 0) {
      const which = this.#stamps % this.#snapshots.length;
      await this.#drop(this.#snapshots[which] as Subject);
    }
  }

  #checkState({ name, snapshot }: Subject): void {
    const found = this.#rig.status(name);
    if (snapshot === null) return;
    const { take, cow, exceptions } = snapshot;
    if (exceptions.mustFail && take.type !== 'PO' && found !== 'Invalid') {
      throw new Error(`${name} is at ${found}, wanted Invalid`);
    }
    if (exceptions.uncertain) return;
    const wanted = statusOf(take.type, cow, take.chunk, exceptions.touched.size);
    if (found !== wanted) throw new Error(`${name} is at ${found}, wanted ${wanted}`);
  }
}
