/**
 * Reads a log of writes, from the format's description and not by our own packers: sector 0 is the
 * super block (magic, version, entries, bytes in a sector), then come entries of a sector, each
 * with its data behind it. A disk is made again by carrying entries out one after the other.
 */

import { closeSync, openSync, readSync } from 'node:fs';

export const flag = { flush: 1n, fua: 2n, discard: 4n, mark: 8n, metadata: 16n } as const;

export interface LogRecord {
  /** Bytes of the disk. */
  readonly offset: number;
  readonly length: number;
  readonly flags: bigint;
  /** Of a mark. */
  readonly name: string;
  /** Where the data is in the log; null: there is none. */
  readonly dataAt: number | null;
}

/** Bytes of the log from there on, perhaps fewer. */
export type ReadLog = (at: number, length: number) => Buffer;

export class WriteLogFile {
  readonly sectorBytes: number;
  readonly records: readonly LogRecord[];
  /** Bytes of the log that are in use. */
  readonly end: number;
  readonly #read: ReadLog;

  constructor(read: ReadLog) {
    this.#read = read;
    const head = this.#bytes(0, 512);
    const magic = head.readBigUInt64LE(0);
    const version = head.readBigUInt64LE(8);
    if (magic !== 0x6a736677736872n || version !== 1n) {
      throw new Error(`magic 0x${magic.toString(16)}, version ${version}`);
    }
    this.sectorBytes = head.readUInt32LE(24);
    const count = Number(head.readBigUInt64LE(16));
    const records: LogRecord[] = [];
    let at = this.sectorBytes;
    for (let i = 0; i < count; i++) {
      const record = this.#record(at);
      records.push(record);
      at += this.sectorBytes + (record.dataAt === null ? 0 : record.length);
    }
    this.records = records;
    this.end = at;
  }

  #record(at: number): LogRecord {
    const entry = this.#bytes(at, this.sectorBytes);
    const number = (offset: number): number => Number(entry.readBigUInt64LE(offset));
    const flags = entry.readBigUInt64LE(16);
    const nameBytes = number(24);
    if (flags > 31n || (nameBytes > 0 && (flags & flag.mark) === 0n)) {
      throw new Error(`no entry at ${at}: flags ${flags}, ${nameBytes} bytes of data`);
    }
    const length = number(8) * this.sectorBytes;
    return {
      offset: number(0) * this.sectorBytes,
      length,
      flags,
      name: entry.toString('utf8', 32, 32 + nameBytes),
      dataAt: (flags & flag.discard) !== 0n || length === 0 ? null : at + this.sectorBytes,
    };
  }

  #bytes(at: number, length: number): Buffer {
    const bytes = this.#read(at, length);
    const end = at + bytes.length;
    if (bytes.length !== length) throw new Error(`the log ends at ${end}, wanted ${at + length}`);
    return bytes;
  }

  /** What a record changes: its data, or zeroes for a discard; null: it changes nothing. */
  data({ dataAt, length, flags }: LogRecord): Buffer | null {
    if (dataAt !== null) return this.#bytes(dataAt, length);
    return (flags & flag.discard) !== 0n ? Buffer.alloc(length) : null;
  }
}

function logIn(file: number): WriteLogFile {
  return new WriteLogFile((at, length) => {
    const buffer = Buffer.alloc(length);
    return buffer.subarray(0, readSync(file, buffer, 0, length, at));
  });
}

/** Opens a log, hands it to `body`, and closes it. */
export function withLog<T>(path: string, body: (log: WriteLogFile) => T): T {
  const file = openSync(path, 'r');
  try {
    return body(logIn(file));
  } finally {
    closeSync(file);
  }
}

/** The same, and closes it when what `body` promises has come. */
export async function whileLog<T>(
  path: string,
  body: (log: WriteLogFile) => Promise<T>,
): Promise<T> {
  const file = openSync(path, 'r');
  try {
    return await body(logIn(file));
  } finally {
    closeSync(file);
  }
}

/** The record in few words: `write 0+4096 fua`, `flush`, `mark "x"`. */
export function told({ offset, length, flags, name }: LogRecord): string {
  if ((flags & flag.mark) !== 0n) return `mark ${name}`;
  const words: string[] = [];
  if ((flags & flag.discard) !== 0n) words.push(`discard ${offset}+${length}`);
  else if (length > 0) words.push(`write ${offset}+${length}`);
  if ((flags & flag.flush) !== 0n) words.push('flush');
  if ((flags & flag.fua) !== 0n) words.push('fua');
  return words.length === 0 ? 'nothing' : words.join(' ');
}
