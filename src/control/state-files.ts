/** The file operations of the state directory, apart so that tests can fail and crash them. */

import { open, readdir, readFile, rename, unlink } from 'node:fs/promises';

export interface StateFiles {
  list(directory: string): Promise<string[]>;
  read(path: string): Promise<Uint8Array>;
  /** Makes a file that was not there; its contents are durable when this resolves. */
  create(path: string, contents: string | readonly Uint8Array[]): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  unlink(path: string): Promise<void>;
  /** What was made, renamed and removed in the directory before becomes durable. */
  syncDirectory(directory: string): Promise<void>;
}

export const stateFiles: StateFiles = {
  list: (directory) => readdir(directory),
  read: (path) => readFile(path),
  async create(path, contents) {
    const file = await open(path, 'wx');
    try {
      const pieces = typeof contents === 'string' ? [contents] : contents;
      // One behind the other: each is written where the one before it ended.
      for (const piece of pieces) await file.writeFile(piece);
      await file.sync();
    } finally {
      await file.close();
    }
  },
  rename,
  unlink,
  async syncDirectory(directory) {
    const handle = await open(directory, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  },
};
