/** Where the served files lie. A file is made when the first case asks for it, and kept for all. */

import { rmSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { formatBytes } from '../../src/base/sizes.js';
import { atExit } from './at-exit.js';
import type { ServedFile } from './servers.js';
import { checkRoom, makeFile } from './test-file.js';
import { mountXfs, type XfsMount } from './xfs.js';

/** The directory given by --dir, or an XFS mounted for the purpose. */
export type Place = 'directory' | 'xfs';

export class Places {
  readonly #scratch: Temporary;
  readonly #socketDirectory: Temporary;
  readonly #bytes: number;
  readonly #signal: AbortSignal;
  readonly #note: (text: string) => void;
  readonly #files = new Map<Place, Promise<ServedFile>>();
  #xfs: XfsMount | null = null;

  static async open(
    parent: string,
    bytes: number,
    signal: AbortSignal,
    note: (text: string) => void,
  ): Promise<Places> {
    const scratch = await makeTemporary(parent);
    return new Places(scratch, await makeTemporary(tmpdir()), bytes, signal, note);
  }

  private constructor(
    scratch: Temporary,
    socketDirectory: Temporary,
    bytes: number,
    signal: AbortSignal,
    note: (text: string) => void,
  ) {
    this.#scratch = scratch;
    this.#socketDirectory = socketDirectory;
    this.#bytes = bytes;
    this.#signal = signal;
    this.#note = note;
  }

  /** For unix sockets, whose paths must be short. */
  get sockets(): string {
    return this.#socketDirectory.path;
  }

  /** Size of the served files. */
  get bytes(): number {
    return this.#bytes;
  }

  /** For other files of a case, which takes them away itself. */
  get scratch(): string {
    return this.#scratch.path;
  }

  /** Throws LeftOutError where there is no such place. */
  file(place: Place): Promise<ServedFile> {
    let file = this.#files.get(place);
    if (file === undefined) {
      file = this.#make(place);
      this.#files.set(place, file);
    }
    return file;
  }

  /** Removes everything. */
  async close(): Promise<void> {
    await this.#xfs?.unmount();
    await this.#scratch.remove();
    await this.#socketDirectory.remove();
  }

  async #make(place: Place): Promise<ServedFile> {
    const scratch = this.#scratch.path;
    await checkRoom(scratch, this.#bytes);
    let directory = scratch;
    if (place === 'xfs') {
      this.#xfs = await mountXfs(scratch, this.#bytes, this.#signal);
      directory = this.#xfs.directory;
    }
    const file = { path: join(directory, 'bench.img'), bytes: this.#bytes };
    this.#note(`making ${file.path}, ${formatBytes(file.bytes)}`);
    await makeFile(file, this.#signal);
    return file;
  }
}

interface Temporary {
  readonly path: string;
  remove(): Promise<void>;
}

async function makeTemporary(parent: string): Promise<Temporary> {
  const path = await mkdtemp(join(parent, 'mapperd-bench-'));
  const left = atExit(() => rmSync(path, { recursive: true, force: true }));
  return {
    path,
    remove: async () => {
      await rm(path, { recursive: true, force: true });
      left.callOff();
    },
  };
}
