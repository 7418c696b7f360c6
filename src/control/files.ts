/**
 * What the control thread asks of a file system: the state directory's steps (state-files.ts), and
 * what the files need that snapshots keep their exceptions in. All of it is in one place, so that
 * tests can fail, crash and simulate it.
 */

import { type FileHandle, open, stat, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { EIO } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { sizeOf } from './image.js';
import { type StateFiles, stateFiles } from './state-files.js';

/** A file that is open for reading and writing, at its beginning alone. */
export interface HeldFile {
  /** So many bytes, or as many as there are. */
  read(bytes: number): Promise<Uint8Array>;
  write(contents: Uint8Array): Promise<void>;
  truncate(bytes: number): Promise<void>;
  /** What was written before becomes durable. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

export interface Files extends StateFiles {
  /** What all ways to one file or block device have in common; null if there is none. */
  identity(path: string): Promise<string | null>;
  /** Bytes of a file or block device. */
  size(path: string): Promise<number>;
  /** Makes a file of zeroes that was not there; it and its name are durable when this resolves. */
  make(path: string, bytes: number): Promise<void>;
  open(path: string): Promise<HeldFile>;
}

export const files: Files = {
  ...stateFiles,
  async identity(path) {
    try {
      const stats = await stat(path);
      return stats.isBlockDevice() ? `block ${stats.rdev}` : `${stats.dev}:${stats.ino}`;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    }
  },
  size: sizeOf,
  async make(path, bytes) {
    const file = await open(path, 'wx', 0o600);
    try {
      await file.truncate(bytes);
      await file.sync();
      await stateFiles.syncDirectory(dirname(path));
    } catch (error) {
      await unlink(path).catch(() => {});
      throw error;
    } finally {
      await file.close();
    }
  },
  open: async (path) => new OpenFile(await open(path, 'r+')),
};

class OpenFile implements HeldFile {
  readonly #file: FileHandle;

  constructor(file: FileHandle) {
    this.#file = file;
  }

  async read(bytes: number): Promise<Uint8Array> {
    const contents = new Uint8Array(bytes);
    const { bytesRead } = await this.#file.read(contents, 0, bytes, 0);
    return contents.subarray(0, bytesRead);
  }

  async write(contents: Uint8Array): Promise<void> {
    const { bytesWritten } = await this.#file.write(contents, 0, contents.length, 0);
    if (bytesWritten !== contents.length) throw new MapperError(EIO, 'short write');
  }

  truncate(bytes: number): Promise<void> {
    return this.#file.truncate(bytes);
  }

  sync(): Promise<void> {
    return this.#file.sync();
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}
