/**
 * Makes a disk as a power cut may have left it, from a log of its writes. What a FLUSH stands
 * behind is certain, and so is a FUA write; of every other sector that was written since the last
 * FLUSH, the write may have reached the medium or not.
 *
 *   certain | write  write  FUA write  write | FLUSH ...
 *             maybe  maybe  yes        maybe
 */

import { type LogRecord, flag as recordFlag, type WriteLogFile } from './write-log.js';

const sectorBytes = 512;

interface Change {
  readonly offset: number;
  readonly data: Buffer;
  readonly certain: boolean;
}

export class Replay {
  readonly #log: WriteLogFile;
  readonly #certain: Buffer;
  #since: Change[] = [];
  #next = 0;

  constructor(log: WriteLogFile, bytes: number) {
    this.#log = log;
    this.#certain = Buffer.alloc(bytes);
  }

  /** Goes on by one record, and returns it; null: that was the last. */
  step(): LogRecord | null {
    const record = this.#log.records[this.#next++];
    if (record === undefined) return null;
    const data = this.#log.data(record);
    const { flags, offset } = record;
    // What a flush with data covers is what came before it.
    if ((flags & recordFlag.flush) !== 0n) {
      for (const change of this.#since) change.data.copy(this.#certain, change.offset);
      this.#since = [];
    }
    const certain = (flags & recordFlag.fua) !== 0n;
    if (data !== null) this.#since.push({ offset, data, certain });
    return record;
  }

  /** Goes on up to and with the mark. Throws if there is none. */
  toMark(name: string): void {
    for (let record = this.step(); record !== null; record = this.step()) {
      if ((record.flags & recordFlag.mark) !== 0n && record.name === name) return;
    }
    throw new Error(`the log has no mark ${name}`);
  }

  /** With every write so far. */
  whole(): Buffer {
    const disk = Buffer.from(this.#certain);
    for (const { offset, data } of this.#since) data.copy(disk, offset);
    return disk;
  }

  /**
   * With what is certain, and of the rest some pieces: all, none, or in between. A piece is what
   * the medium writes as a whole, at multiples of its size.
   */
  cut(random: (limit: number) => number, pieceBytes = sectorBytes): Buffer {
    const disk = Buffer.from(this.#certain);
    const odds = [0, 2, 8, 14, 16][random(5)] as number;
    for (const { offset, data, certain } of this.#since) {
      for (let at = 0; at < data.length; ) {
        const end = Math.min(data.length, at + pieceBytes - ((offset + at) % pieceBytes));
        if (certain || random(16) < odds) data.copy(disk, offset + at, at, end);
        at = end;
      }
    }
    return disk;
  }
}
