/**
 * What a measurement makes for itself, and removes again however it ends: a file, a device over it,
 * a snapshot of a device. Names begin alike, so that a person can tell what a crash has left; the
 * daemon removes such files from its state directory when it starts.
 */

import { randomBytes, randomFillSync } from 'node:crypto';
import { closeSync, constants, openSync } from 'node:fs';
import { chown, open, rm, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { ECANCELED, EINTR, errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import type { ControlClient } from '../ctl/client.js';
import { quoteWord } from '../device/table-text.js';

const blockBytes = 2 ** 20;

export interface ScratchFile {
  readonly path: string;
  readonly bytes: number;
  /** Whether the file system takes O_DIRECT. */
  readonly direct: boolean;
}

export class Scratch {
  readonly #client: ControlClient;
  readonly #directory: string;
  readonly #signal: AbortSignal;
  readonly #undos: { readonly what: string; readonly undo: () => Promise<unknown> }[] = [];
  /** Nobody else has it, so an export of that name is of the daemon that is meant. */
  readonly name = `bench-${randomBytes(4).toString('hex')}`;

  constructor(client: ControlClient, directory: string, signal: AbortSignal) {
    this.#client = client;
    this.#directory = resolve(directory);
    this.#signal = signal;
  }

  /** A file of random bytes on stable storage: nothing in it is a hole, or can be shrunk. */
  async file(bytes: number): Promise<ScratchFile> {
    const path = join(this.#directory, `.tmp-${this.name}`);
    try {
      const file = await open(path, 'wx', 0o600);
      this.#undos.push({ what: `file "${path}"`, undo: () => rm(path, { force: true }) });
      try {
        const block = randomFillSync(Buffer.allocUnsafe(blockBytes));
        for (let at = 0; at < bytes; at += blockBytes) {
          if (this.#signal.aborted) throw new MapperError(EINTR, 'interrupted');
          // No two blocks are alike, without the cost of making all of them.
          block.writeDoubleLE(at, 0);
          await file.write(block, 0, Math.min(blockBytes, bytes - at));
        }
        await file.sync();
      } finally {
        await file.close();
      }
      await giveToOwner(path, this.#directory);
    } catch (error) {
      if (error instanceof MapperError) throw error;
      const { code } = error as NodeJS.ErrnoException;
      throw new MapperError(errnoOf(code), `make scratch file "${path}": ${messageOf(error)}`);
    }
    return { path, bytes, direct: takesDirect(path) };
  }

  /** A device over all of a file; no client is told of it. */
  async device({ path, bytes }: ScratchFile, direct: boolean): Promise<string> {
    const word = direct ? `${pathToFileURL(path).href}?direct=1` : path;
    const table = `0 ${bytes / 512} linear ${quoteWord(word)} 0`;
    const { name } = this;
    await this.#client.call('create', { name, table });
    this.#undos.push({
      what: `device "${name}"`,
      undo: () => this.#client.call('remove', { name, force: true }),
    });
    await this.#client.call('export', { name, hidden: true });
    return name;
  }

  /** A transient snapshot of a device; what is written to it goes into the directory. */
  async snapshot(origin: string): Promise<string> {
    const { name } = this;
    const cow = join(this.#directory, `.tmp-${name}.cow`);
    this.#undos.push({ what: `file "${cow}"`, undo: () => rm(cow, { force: true }) });
    await this.#client.call('snapshot', { origin, name, transient: true, cow });
    this.#undos.push({
      what: `snapshot "${name}"`,
      undo: () => this.#client.call('removeSnapshot', { name, force: true }),
    });
    await this.#client.call('export', { name, hidden: true });
    return name;
  }

  /** Removes all of it, the last first. Throws MapperError that names what is left. */
  async clear(): Promise<void> {
    const left: string[] = [];
    for (const { what, undo } of this.#undos.splice(0).reverse()) {
      await undo().catch((error) => left.push(`${what} (${messageOf(error)})`));
    }
    if (left.length > 0) throw new MapperError(ECANCELED, `not removed: ${left.join(', ')}`);
  }
}

/** Root makes it for a daemon that may not be root. */
async function giveToOwner(path: string, directory: string): Promise<void> {
  if (process.getuid?.() !== 0) return;
  const { uid, gid } = await stat(directory);
  await chown(path, uid, gid);
}

function takesDirect(path: string): boolean {
  try {
    closeSync(openSync(path, constants.O_RDONLY | constants.O_DIRECT));
    return true;
  } catch {
    return false;
  }
}
