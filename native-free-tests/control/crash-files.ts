/**
 * A directory in memory that can lose power. A file's contents are durable when `create` resolves;
 * names appear, move and disappear in order, and those since the last `syncDirectory` may be lost
 * from any point on.
 */

import { basename } from 'node:path';
import type { StateFiles } from '../../src/control/state-files.js';

type Contents = string | Uint8Array;
type Change = (names: Map<string, Contents>) => void;

export class CrashFiles implements StateFiles {
  /** Operations that succeed before the power fails; those after it fail too. */
  operationsLeft = Number.POSITIVE_INFINITY;
  #durable: Map<string, Contents>;
  #unsynced: Change[] = [];

  constructor(durable: ReadonlyMap<string, Contents> = new Map()) {
    this.#durable = new Map(durable);
  }

  /** What is there after a power cut that keeps that many of the unsynced changes. */
  afterCrash(kept: number): Map<string, Contents> {
    return this.#view(this.#unsynced.slice(0, kept));
  }

  get unsynced(): number {
    return this.#unsynced.length;
  }

  get names(): string[] {
    return [...this.#view(this.#unsynced).keys()].sort();
  }

  async list(): Promise<string[]> {
    this.#operate();
    return this.names;
  }

  async read(path: string): Promise<Uint8Array> {
    this.#operate();
    const text = this.#view(this.#unsynced).get(basename(path));
    if (text === undefined) throw systemError('ENOENT');
    return typeof text === 'string' ? Buffer.from(text) : text;
  }

  async create(path: string, contents: string | readonly Uint8Array[]): Promise<void> {
    this.#operate();
    if (this.#view(this.#unsynced).has(basename(path))) throw systemError('EEXIST');
    const whole = typeof contents === 'string' ? contents : Buffer.concat(contents);
    this.#unsynced.push((names) => names.set(basename(path), whole));
  }

  async rename(from: string, to: string): Promise<void> {
    this.#operate();
    const text = this.#view(this.#unsynced).get(basename(from));
    if (text === undefined) throw systemError('ENOENT');
    this.#unsynced.push((names) => {
      names.delete(basename(from));
      names.set(basename(to), text);
    });
  }

  async unlink(path: string): Promise<void> {
    this.#operate();
    if (!this.#view(this.#unsynced).has(basename(path))) throw systemError('ENOENT');
    this.#unsynced.push((names) => names.delete(basename(path)));
  }

  async syncDirectory(): Promise<void> {
    this.#operate();
    this.#durable = this.#view(this.#unsynced);
    this.#unsynced = [];
  }

  #operate(): void {
    if (this.operationsLeft <= 0) throw systemError('EIO');
    this.operationsLeft--;
  }

  #view(changes: readonly Change[]): Map<string, Contents> {
    const names = new Map(this.#durable);
    for (const change of changes) change(names);
    return names;
  }
}

export function systemError(code: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: told to fail`), { code });
}
