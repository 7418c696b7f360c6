/**
 * What the tests of failing disks stand on: devices of one daemon, of which some are on the disk
 * that fails.
 *
 *   bad     a device on that disk
 *   vol     an origin on a good disk, with "snap", whose COW is on the one that fails
 */

import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';
import { random as randomFrom } from '../contract/pattern.js';
import type { Daemon, Scratch } from '../interop/harness.js';
import { succeed } from '../interop/programs.js';
import { CMD, RawClient } from '../interop/raw-client.js';
import { Journal, sectorBytes } from './journal.js';
import { Load } from './load.js';

export const sectors = 4096;
export const bytes = sectors * sectorBytes;
export const EPERM = 1;
export const EIO = 5;
export const ENOSPC = 28;
/** Against hangs. */
const limitMilliseconds = 120_000;

export class Bench {
  readonly daemon: Daemon;
  readonly random: (limit: number) => number;
  readonly files: Scratch;
  readonly volume = new Journal(sectors);
  readonly bad = new Journal(sectors);
  readonly #t: Test;

  constructor(t: Test, files: Scratch, daemon: Daemon) {
    this.#t = t;
    this.files = files;
    this.daemon = daemon;
    const seed = Date.now() % 2 ** 31;
    this.random = randomFrom(seed);
    t.comment(`seed ${seed}`);
  }

  /** "bad" and "snap" on files in that folder; or the COW is elsewhere, or of another type. */
  async create(folder: string, cow = `${folder}/snap.cow`, type = 'P'): Promise<void> {
    const { daemon, files } = this;
    for (const [name, size] of [
      ['bad.img', 2 * bytes],
      ['snap.cow', 2 * bytes],
    ] as const) {
      writeFileSync(`${folder}/${name}`, '');
      truncateSync(`${folder}/${name}`, size);
    }
    const image = files.sparse('good.img', bytes);
    const create = (name: string, table: string): Promise<unknown> =>
      daemon.call('create', { name, table: `0 ${sectors} ${table}` });
    await create('bad', `linear ${folder}/bad.img 0`);
    await create('real', `linear ${image} 0`);
    await create('vol', 'snapshot-origin dm:real');
    await daemon.call('suspend', { name: 'vol' });
    await create('snap', `snapshot dm:real ${cow} ${type} 8`);
    await daemon.call('resume', { name: 'vol' });
  }

  load(name: string, journal: Journal, tolerated: readonly number[] = []): Promise<Load> {
    return Load.start(this.daemon.socket, name, journal, this.random, tolerated);
  }

  /** Waits, for as long as neither load has ended. */
  async until(loads: readonly Load[], isSo: () => boolean | Promise<boolean>): Promise<void> {
    const deadline = Date.now() + limitMilliseconds;
    while (!(await isSo())) {
      if (Date.now() > deadline) throw new Error('it does not come to that');
      const ended = loads.map((load) => load.ended.then(() => 'ended'));
      if ((await Promise.race([sleep(2), ...ended])) === 'ended') throw new Error('a load ended');
    }
  }

  async status(name: string): Promise<string> {
    const [line] = await this.daemon.call('status', { name });
    return line !== undefined && 'words' in line ? line.words : '';
  }

  /** All of a device is as its journal has it, as nbdcopy reads it. */
  async check(name: string, journal: Journal): Promise<void> {
    const copy = this.files.file('copy');
    rmSync(copy, { force: true });
    await succeed('nbdcopy', [this.daemon.uri(name), copy]);
    journal.check(readFileSync(copy));
    this.#t.pass(`${name} holds what was answered`);
  }

  /** One request, and its error. */
  async request(name: string, type: number, offset: number, length: number): Promise<number> {
    const client = await RawClient.ready(this.daemon.socket, name, { structured: true });
    const payload = type === CMD.write ? { payload: Buffer.alloc(length, 1) } : { length };
    const { error } = await client.request({ type, offset, ...payload });
    client.destroy();
    return error;
  }

  /** Lines of the log that have these, all of them. */
  lines(wanted: Record<string, unknown>): object[] {
    const has = (line: object): boolean =>
      Object.entries(wanted).every(
        ([key, value]) => key in line && Reflect.get(line, key) === value,
      );
    return this.daemon.log.filter(has);
  }

  /** The log has said which file, what was done there, where, and how that failed. */
  async logTells(path: string, code: string): Promise<void> {
    await this.until([], () => this.lines({ path, code }).length > 0);
    const [found] = this.lines({ path, code });
    const where = { operation: String, offset: Number, length: Number };
    this.#t.match(found, { level: 'error', ...where }, `the log tells of ${code} in ${path}`);
  }

  /** The same, of a request of a client. */
  async logTellsOf(device: string, code: string): Promise<void> {
    await this.until([], () => this.lines({ device, code }).length > 0);
    const [found] = this.lines({ device, code });
    const where = { command: String, offset: Number, length: Number };
    this.#t.match(found, { level: 'error', ...where }, `the log tells of ${code} of ${device}`);
  }

  /** "snap" is Invalid, for good. */
  async snapshotIsInvalid(): Promise<void> {
    this.#t.equal(await this.status('snap'), 'Invalid');
    this.#t.equal(await this.request('snap', CMD.read, 0, 512), EIO);
    this.#t.equal(await this.request('snap', CMD.write, 0, 512), EIO);
    const isTold = (): boolean => this.#tells('snap', /^Invalidating snapshot: /);
    await this.until([], isTold);
    this.#t.pass('the log tells that the snapshot is invalid');
  }

  async snapshotIsFull(): Promise<void> {
    this.#t.equal(await this.status('snap'), 'Overflow');
    this.#t.equal(await this.request('snap', CMD.write, 0, 512), EIO);
    this.#t.equal(await this.request('snap', CMD.read, 0, 512), 0);
    await this.until([], () => this.#tells('snap', /^Snapshot overflowed: /));
    this.#t.pass('the log tells that the snapshot is full');
  }

  #tells(device: string, text: RegExp): boolean {
    return this.daemon.log.some(
      (line) => text.test(line.msg) && 'device' in line && line.device === device,
    );
  }

  /** Waits until so many more of its writes have been answered. */
  async goesOn(load: Load, loads: readonly Load[], what: string): Promise<void> {
    const { answered } = load;
    await this.until(loads, () => load.answered >= answered + 100);
    this.#t.pass(`${what} goes on`);
  }
}
