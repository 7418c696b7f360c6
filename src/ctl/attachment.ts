/**
 * What is written down of devices that were attached, so that they can be found by the name of
 * their export and kept attached:
 *
 *   /run/mapperctl/nbdX.json    what it was attached to
 *   /run/mapperctl/nbdX.pid     the process that keeps it attached, while there is one
 *   /run/mapperctl/nbdX.log     what that has to say
 *
 * A note counts only while the kernel's device is still that attachment: the process that made it
 * is the same.
 */

import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import type { NbdDevices } from '../kernel/nbd-devices.js';

const schema = v.strictObject({
  index: v.number(),
  name: v.string(),
  address: v.variant('kind', [
    v.strictObject({ kind: v.literal('unix'), path: v.string() }),
    v.strictObject({ kind: v.literal('tcp'), host: v.string(), port: v.number() }),
  ]),
  connections: v.number(),
  sizeBytes: v.number(),
  /** What the kernel says who attached it. */
  pid: v.number(),
});

export type Attachment = v.InferOutput<typeof schema>;

export class Attachments {
  readonly #folder: string;
  readonly #devices: NbdDevices;

  constructor(folder: string, devices: NbdDevices) {
    this.#folder = folder;
    this.#devices = devices;
  }

  write(attachment: Attachment): void {
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    const path = this.#path(attachment.index, 'json');
    writeFileSync(`${path}.new`, `${JSON.stringify(attachment)}\n`, { mode: 0o600 });
    renameSync(`${path}.new`, path);
  }

  /** Null: nothing is known of it, or it has been attached by somebody else since. */
  read(index: number): Attachment | null {
    const { success, output } = v.safeParse(schema, this.#json(index));
    return success && this.#devices.get(index)?.pid === output.pid ? output : null;
  }

  /** All that are still attached, in the order of the devices. */
  list(): Attachment[] {
    const found = this.#names().flatMap((name) => /^nbd([0-9]+)\.json$/.exec(name)?.[1] ?? []);
    const indexes = found.map(Number).sort((a, b) => a - b);
    return indexes.flatMap((index) => this.read(index) ?? []);
  }

  forget(index: number): void {
    for (const what of ['json', 'pid', 'log'] as const) {
      rmSync(this.#path(index, what), { force: true });
    }
  }

  logPath(index: number): string {
    return this.#path(index, 'log');
  }

  writeKeeper(index: number, pid: number): void {
    writeFileSync(this.#path(index, 'pid'), `${pid}\n`, { mode: 0o600 });
  }

  /** The process that keeps it attached, if it lives. */
  keeper(index: number): number | null {
    try {
      const pid = Number(readFileSync(this.#path(index, 'pid'), 'utf8'));
      const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      return words.includes('keep-attached') && words.includes(`/dev/nbd${index}`) ? pid : null;
    } catch {
      return null;
    }
  }

  #path(index: number, what: 'json' | 'pid' | 'log'): string {
    return join(this.#folder, `nbd${index}.${what}`);
  }

  #names(): string[] {
    try {
      return readdirSync(this.#folder);
    } catch {
      return [];
    }
  }

  #json(index: number): unknown {
    try {
      return JSON.parse(readFileSync(this.#path(index, 'json'), 'utf8'));
    } catch {
      return null;
    }
  }
}
