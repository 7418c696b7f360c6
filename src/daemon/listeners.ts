/**
 * Where clients connect: each listening socket goes to the gate, if clients have to pass it, or
 * straight to the queue. Unix sockets are open to this user only; what was made in the file system
 * is removed at the end.
 */

import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { socketPathBytes } from '../base/limits.js';
import { OwnedPath, removeStaleSocket } from '../base/unix-socket.js';
import type { ListenAddress, ListenSource } from '../engine/engine.js';
import type { Listening } from './listen-options.js';

/** How a socket comes to be listened on; resolves to where it really is. */
export type Listen = (source: ListenSource) => Promise<ListenAddress>;

export class Listeners {
  /** In the order of the options. */
  readonly addresses: ListenAddress[] = [];
  readonly #listen: Listen;
  readonly #paths: OwnedPath[] = [];
  readonly #folders: string[] = [];

  constructor(listen: Listen) {
    this.#listen = listen;
  }

  /** The unix sockets that were made here. */
  get paths(): readonly string[] {
    return this.#paths.map(({ path }) => path);
  }

  /** The folders that were made for private ones. */
  get folders(): readonly string[] {
    return this.#folders;
  }

  /** Throws MapperError. */
  async add(listening: Listening): Promise<void> {
    if (listening.kind === 'tcp' || listening.kind === 'fd') {
      this.addresses.push(await this.#listen(listening));
      return;
    }
    const path = listening.kind === 'unix' ? listening.path : join(this.#makeFolder(), socketFile);
    await removeStaleSocket(path);
    const address = await this.#listen({ kind: 'unix', path });
    chmodSync(path, 0o600);
    this.#paths.push(new OwnedPath(path));
    this.addresses.push(address);
  }

  /** Synchronous, for the process's exit. */
  removeTraces(): void {
    for (const path of this.#paths) path.remove();
    for (const folder of this.#folders) {
      try {
        rmSync(folder, { recursive: true, force: true });
      } catch {
        // Nothing more can be done.
      }
    }
  }

  /** For a private socket: mkdtemp's folders are closed to others. */
  #makeFolder(): string {
    // Six characters are put behind it.
    const longest = socketPathBytes - Buffer.byteLength(`${folderPrefix}XXXXXX/${socketFile}`) - 1;
    const parent = Buffer.byteLength(tmpdir()) <= longest ? tmpdir() : '/tmp';
    const prefix = join(parent, folderPrefix);
    try {
      const folder = mkdtempSync(prefix);
      this.#folders.push(folder);
      return folder;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      throw new MapperError(errnoOf(code), `make folder "${prefix}...": ${messageOf(error)}`);
    }
  }
}

const folderPrefix = 'mapperd-';
const socketFile = 'nbd.sock';
