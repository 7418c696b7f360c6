/**
 * The persistent exception store, read from its description alone and with nothing of ours: what it
 * says of a COW file is the judge of what kernel and daemon write. All numbers are little-endian.
 * A chunk of C bytes holds E = C / 16 exceptions.
 *
 *   chunk 0              header: u32 magic "SnAp", valid, version 1, chunk size in sectors
 *   chunk 1 + a(E + 1)   area a: E times u64 old chunk, u64 new chunk; new chunk 0 ends the list
 *   all others           data
 */

export interface Exception {
  readonly oldChunk: number;
  readonly newChunk: number;
}

export interface CowStore {
  readonly valid: boolean;
  readonly chunkSectors: number;
  /** In the order of the areas. */
  readonly exceptions: readonly Exception[];
  /** Chunks up to the last that is in use, the header and all areas read included. */
  readonly usedChunks: number;
  readonly areas: number;
}

const RECORD = 16;

/** Throws when the file breaks a rule of the format. */
export function readCow(file: Buffer): CowStore {
  if (file.toString('latin1', 0, 4) !== 'SnAp') throw new Error('no magic');
  const valid = file.readUInt32LE(4);
  const version = file.readUInt32LE(8);
  const chunkSectors = file.readUInt32LE(12);
  if (valid > 1 || version !== 1) throw new Error(`valid ${valid}, version ${version}`);
  const chunkBytes = chunkSectors * 512;
  isZero(file.subarray(16, chunkBytes), 'header');
  const perArea = chunkBytes / RECORD;
  const chunks = Math.floor(file.length / chunkBytes);
  const exceptions: Exception[] = [];
  let area = 0;
  for (let isFull = true; isFull; area++) {
    const chunk = 1 + area * (perArea + 1);
    if (chunk >= chunks) throw new Error(`area ${area} is wanted, and lies behind the end`);
    const bytes = file.subarray(chunk * chunkBytes, (chunk + 1) * chunkBytes);
    const records = readArea(bytes);
    exceptions.push(...records);
    isFull = records.length === perArea;
  }
  checkNumbers(exceptions, perArea, chunks);
  const last = exceptions.reduce((most, { newChunk }) => Math.max(most, newChunk), 1);
  return { valid: valid === 1, chunkSectors, exceptions, usedChunks: last + 1, areas: area };
}

function readArea(bytes: Buffer): Exception[] {
  const records: Exception[] = [];
  for (let at = 0; at < bytes.length; at += RECORD) {
    const newChunk = Number(bytes.readBigUInt64LE(at + 8));
    if (newChunk === 0) {
      isZero(bytes.subarray(at), `area from record ${records.length} on`);
      break;
    }
    records.push({ oldChunk: Number(bytes.readBigUInt64LE(at)), newChunk });
  }
  return records;
}

function checkNumbers(exceptions: readonly Exception[], perArea: number, chunks: number): void {
  const old = new Set<number>();
  const places = new Set<number>();
  for (const { oldChunk, newChunk } of exceptions) {
    if (old.has(oldChunk)) throw new Error(`chunk ${oldChunk} has two exceptions`);
    if (places.has(newChunk)) throw new Error(`COW chunk ${newChunk} is used twice`);
    if (newChunk >= chunks) throw new Error(`COW chunk ${newChunk} lies behind the end`);
    if (newChunk < 2 || newChunk % (perArea + 1) === 1) {
      throw new Error(`COW chunk ${newChunk} is no place for data`);
    }
    old.add(oldChunk);
    places.add(newChunk);
  }
}

function isZero(bytes: Buffer, what: string): void {
  if (bytes.some((byte) => byte !== 0)) throw new Error(`${what} is not zero`);
}

/** What the snapshot shows. */
export function contentOf(cow: Buffer, origin: Buffer): Buffer {
  const { chunkSectors, exceptions } = readCow(cow);
  const chunkBytes = chunkSectors * 512;
  const content = Buffer.from(origin);
  for (const { oldChunk, newChunk } of exceptions) {
    cow.copy(content, oldChunk * chunkBytes, newChunk * chunkBytes, (newChunk + 1) * chunkBytes);
  }
  return content;
}

/** The numbers that `status` gives: sectors allocated, in all, and of metadata. */
export function usageOf(cow: Buffer): string {
  const { chunkSectors, usedChunks, areas } = readCow(cow);
  const perArea = (chunkSectors * 512) / RECORD;
  // The next free chunk is never that of an area.
  const nextFree = usedChunks % (perArea + 1) === 1 ? usedChunks + 1 : usedChunks;
  return `${nextFree * chunkSectors}/${cow.length / 512} ${(areas + 1) * chunkSectors}`;
}

/** Sectors of a COW that holds all of an origin. */
export function fullCowSectors(originSectors: number, chunkSectors: number): number {
  const perArea = (chunkSectors * 512) / RECORD;
  const chunks = Math.ceil(originSectors / chunkSectors);
  return (1 + chunks + Math.floor((chunks + perArea) / perArea)) * chunkSectors;
}
