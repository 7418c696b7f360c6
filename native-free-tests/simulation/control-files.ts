/**
 * The file system as the control thread sees it: each call is made of steps, each of which takes
 * its time, and between any two of which the world may end.
 */

import { dirname } from 'node:path';
import { errnoName } from '../../src/base/errno.js';
import type { Files, HeldFile } from '../../src/control/files.js';
import type { SimEngine } from './engine.js';
import { SimEvent } from './event-queue.js';
import type { DiskOperation } from './faults.js';
import type { Inode } from './file-system.js';

/** Bytes that are written in one step. */
const pieceBytes = 4096;

class Step extends SimEvent {
  readonly #engine: SimEngine;
  readonly #resolve: () => void;

  constructor(engine: SimEngine, resolve: () => void) {
    super();
    this.#engine = engine;
    this.#resolve = resolve;
  }

  happen(): void {
    this.#engine.continuations = true;
    this.#engine.hash.add(7);
    this.#resolve();
  }
}

export class ControlFiles implements Files {
  readonly engine: SimEngine;

  constructor(engine: SimEngine) {
    this.engine = engine;
  }

  /** Resolves after a while; throws if a fault says so. */
  async step(path: string, operation: DiskOperation = 'read', wantsSpace = false): Promise<void> {
    const { engine } = this;
    await new Promise<void>((resolve) => {
      engine.schedule(new Step(engine, resolve), engine.diskTime());
    });
    const range = { offset: 0, length: 1 };
    const errno = engine.faults.errnoOf(path, operation, range, wantsSpace, engine.random);
    if (errno !== 0) throw systemError(errnoName(errno), path);
  }

  #get(path: string): Inode {
    const inode = this.engine.fileSystem.find(path);
    if (inode === undefined) throw systemError('ENOENT', path);
    return inode;
  }

  async list(directory: string): Promise<string[]> {
    await this.step(directory);
    return this.engine.fileSystem.list(directory);
  }

  async read(path: string): Promise<Uint8Array> {
    await this.step(path);
    return this.#get(path).medium.contents.slice();
  }

  async create(path: string, contents: string | readonly Uint8Array[]): Promise<void> {
    const inode = await this.#create(path);
    const pieces = typeof contents === 'string' ? [Buffer.from(contents)] : contents;
    let offset = 0;
    for (const piece of pieces) {
      await this.write(path, inode, offset, piece);
      offset += piece.length;
    }
    await this.sync(path, inode);
  }

  async #create(path: string): Promise<Inode> {
    // The directory's fault, if it has one: the file's name is a temporary one.
    await this.step(dirname(path), 'write', true);
    const { engine } = this;
    if (engine.fileSystem.find(path) !== undefined) throw systemError('EEXIST', path);
    engine.effects++;
    return engine.fileSystem.create(path, 0);
  }

  async write(path: string, inode: Inode, offset: number, contents: Uint8Array): Promise<void> {
    const { medium } = inode;
    for (let at = 0; at < contents.length; at += pieceBytes) {
      const length = Math.min(pieceBytes, contents.length - at);
      await this.step(path, 'write', medium.size < offset + at + length);
      const end = offset + at + length;
      if (end > medium.size) medium.truncate(end);
      medium.allocate(offset + at, length);
      medium.answered(medium.apply(offset + at, length, contents, at));
      this.engine.effects++;
    }
  }

  async sync(path: string, inode: Inode): Promise<void> {
    const { medium } = inode;
    const { size } = medium;
    const point = medium.flushPoint();
    await this.step(path, 'flush');
    if (this.engine.faults.liars(path)) return;
    medium.flushed(point);
    medium.durableSize = size;
    this.engine.effects++;
  }

  async rename(from: string, to: string): Promise<void> {
    await this.step(from);
    this.#get(from);
    this.engine.fileSystem.rename(from, to);
    this.engine.effects++;
  }

  async unlink(path: string): Promise<void> {
    await this.step(path);
    this.#get(path);
    this.engine.fileSystem.unlink(path);
    this.engine.effects++;
  }

  async syncDirectory(directory: string): Promise<void> {
    const { fileSystem, faults } = this.engine;
    const point = fileSystem.syncPoint();
    await this.step(directory, 'flush');
    if (faults.liars(directory)) return;
    fileSystem.synced(point);
    this.engine.effects++;
  }

  async identity(path: string): Promise<string | null> {
    await this.step(path);
    const inode = this.engine.fileSystem.find(path);
    return inode === undefined ? null : `inode ${inode.number}`;
  }

  async size(path: string): Promise<number> {
    await this.step(path);
    return this.#get(path).medium.size;
  }

  async make(path: string, bytes: number): Promise<void> {
    const inode = await this.#create(path);
    inode.medium.truncate(bytes);
    await this.sync(path, inode);
    await this.syncDirectory(dirname(path));
  }

  async open(path: string): Promise<HeldFile> {
    await this.step(path);
    return new ControlFile(this, path, this.#get(path));
  }
}

class ControlFile implements HeldFile {
  readonly #files: ControlFiles;
  readonly #path: string;
  readonly #inode: Inode;

  constructor(files: ControlFiles, path: string, inode: Inode) {
    this.#files = files;
    this.#path = path;
    this.#inode = inode;
  }

  async read(bytes: number): Promise<Uint8Array> {
    await this.#files.step(this.#path);
    return this.#inode.medium.contents.slice(0, bytes);
  }

  write(contents: Uint8Array): Promise<void> {
    return this.#files.write(this.#path, this.#inode, 0, contents);
  }

  async truncate(bytes: number): Promise<void> {
    await this.#files.step(this.#path);
    this.#inode.medium.truncate(bytes);
    this.#files.engine.effects++;
  }

  sync(): Promise<void> {
    return this.#files.sync(this.#path, this.#inode);
  }

  async close(): Promise<void> {}
}

function systemError(code: string, path: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: ${path}`), { code });
}
