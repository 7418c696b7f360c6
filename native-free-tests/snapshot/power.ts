/**
 * Disks that forget. What a disk was told to write is on its medium for certain only when a flush
 * that began after the write had been answered is over, or the write itself was FUA. `cut` makes
 * the disks as they may be found after the power has failed: of each sector that is not certain,
 * any write that came to it since, or none.
 */

import {
  type Completion,
  type EngineFile,
  FUA,
  type OpenOptions,
} from '../../src/engine/engine.js';
import { ScriptedEngine } from '../backing/scripted-engine.js';

const sectorBytes = 512;

interface Write {
  readonly path: string;
  readonly offset: number;
  readonly data: Uint8Array;
  answered: boolean;
  certain: boolean;
}

export class ForgetfulEngine extends ScriptedEngine {
  /** In the order in which they began. */
  readonly #writes: Write[] = [];

  constructor() {
    super(16 * 2 ** 20);
  }

  override open(path: string, options?: OpenOptions): EngineFile {
    return watched(super.open(path, options), {
      write: (offset, memory, length, flags) =>
        this.#began(path, offset, this.arena.bytes.slice(memory, memory + length), flags === FUA),
      erase: (offset, length) => this.#began(path, offset, new Uint8Array(length), false),
      flush: () => {
        const covered = this.#writes.filter((write) => write.path === path && write.answered);
        return (result) => {
          if (result === 0) for (const write of covered) write.certain = true;
        };
      },
    });
  }

  #began(path: string, offset: number, data: Uint8Array, fua: boolean): (result: number) => void {
    const write: Write = { path, offset, data, answered: false, certain: false };
    this.#writes.push(write);
    return (result) => {
      write.answered = true;
      if (fua && result === data.length) write.certain = true;
    };
  }

  /** What has been there for ever. */
  fill(path: string, offset: number, data: Uint8Array): void {
    const disk = this.disks.get(path);
    if (disk === undefined) throw new Error(`no disk ${path}`);
    disk.bytes.set(data, offset);
    disk.allocate(offset, offset + data.length);
    this.#writes.push({ path, offset, data, answered: true, certain: true });
  }

  /** What may be left of the disk at that path, which was full of zeroes. */
  cut(path: string, random: (limit: number) => number): Uint8Array {
    const disk = this.disks.get(path);
    if (disk === undefined) throw new Error(`no disk ${path}`);
    const left = new Uint8Array(disk.bytes.length);
    // Either nearly all arrived, or nearly nothing, or half.
    const odds = [1, 8, 15][random(3)] as number;
    for (const { path: where, offset, data, certain } of this.#writes) {
      if (where !== path) continue;
      for (let at = 0; at < data.length; ) {
        const to = Math.min(data.length, at + sectorBytes - ((offset + at) % sectorBytes));
        if (certain || random(16) < odds) left.set(data.subarray(at, to), offset + at);
        at = to;
      }
    }
    return left;
  }
}

type Ended = (result: number) => void;

/** Hears of operations as they begin, and gives who is to hear of their ends. */
interface Watcher {
  write(offset: number, memory: number, length: number, flags: number): Ended;
  erase(offset: number, length: number): Ended;
  flush(): Ended;
}

function both(ended: Ended, completion: Completion): Completion {
  return {
    done(result) {
      ended(result);
      completion.done(result);
    },
  };
}

function watched(file: EngineFile, watcher: Watcher): EngineFile {
  const { path, identity, writable, direct, alignmentBytes, rotational } = file;
  const { canTrim, canZero, canExtents } = file;
  return {
    ...{ path, identity, writable, direct, alignmentBytes, rotational },
    ...{ canTrim, canZero, canExtents },
    size: () => file.size(),
    read: (offset, memory, length, completion) => file.read(offset, memory, length, completion),
    write: (offset, memory, length, flags, completion) =>
      file.write(
        offset,
        memory,
        length,
        flags,
        both(watcher.write(offset, memory, length, flags), completion),
      ),
    flush: (completion) => file.flush(both(watcher.flush(), completion)),
    trim: (offset, length, completion) =>
      file.trim(offset, length, both(watcher.erase(offset, length), completion)),
    zero: (offset, length, completion) =>
      file.zero(offset, length, both(watcher.erase(offset, length), completion)),
    extentEnd: (offset) => file.extentEnd(offset),
    close: () => file.close(),
  };
}
