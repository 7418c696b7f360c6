/** A rig on a real engine, with files in a folder of its own. */

import type { Buffer } from 'node:buffer';
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Deferred } from '../../src/base/deferred.js';
import { Rig } from './rig.js';

export class FileRig extends Rig {
  readonly #folder = mkdtempSync(join(tmpdir(), 'mapperd-snapshot-'));

  path(name: string): string {
    return join(this.#folder, name);
  }

  override file(name: string, sectors: number): string {
    const path = this.path(name);
    if (!existsSync(path)) writeFileSync(path, '');
    truncateSync(path, sectors * 512);
    return path;
  }

  override contents(name: string): Buffer {
    return readFileSync(this.path(name));
  }

  override put(name: string, offset: number, bytes: Uint8Array): void {
    const file = openSync(this.path(name), 'r+');
    writeSync(file, bytes, 0, bytes.length, offset);
    closeSync(file);
  }

  override crashed(names: readonly string[]): FileRig {
    const next = new FileRig(this.engine, true);
    for (const name of names) copyFileSync(this.path(name), next.path(name));
    return next;
  }

  override wait<T>(promise: Promise<T>): Promise<T> {
    return promise;
  }

  /** A turn of a real engine does much. */
  override async turns(count: number): Promise<void> {
    for (let i = 0; i < count; i += 8) await this.#sleep(0);
  }

  protected override patience(): Promise<void> {
    return this.#sleep(1);
  }

  async #sleep(milliseconds: number): Promise<void> {
    const over = new Deferred<void>(this.engine);
    this.engine.timer(milliseconds, { done: () => over.resolve() });
    await over.promise;
  }

  protected override release(): void {
    rmSync(this.#folder, { recursive: true });
  }
}
