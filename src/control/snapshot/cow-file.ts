/**
 * The file that a snapshot keeps its exceptions in. Made sparse, as large as a copy of the whole
 * origin needs: so it never overflows, and takes the space of what is copied only. A file that is
 * there already is taken as it is, but never while something else uses it, and never when it holds
 * anything in its first chunk, unless that is to be wiped: there a snapshot has its header.
 */

import { dirname, join } from 'node:path';
import { deviceNamed } from '../../backing/device.js';
import { parseFileWord } from '../../backing/open.js';
import { EBUSY, EEXIST, EINVAL, errnoOf } from '../../base/errno.js';
import { MapperError, messageOf } from '../../base/errors.js';
import { cowHeadBytes, deviceBytes } from '../../base/limits.js';
import { formatBytes } from '../../base/sizes.js';
import type { Files } from '../files.js';
import { decodeName, encodeName } from '../names.js';
import { linesOf } from './tables.js';

/** What is wanted of a COW. */
export interface CowRequest {
  readonly path: string;
  /** Somebody named it; otherwise it is ours to make. */
  readonly given: boolean;
  /** Of a file that is to be made; null: as large as can be of use. */
  readonly bytes: number | null;
  readonly originSectors: number;
  readonly chunkSectors: number;
  readonly persistent: boolean;
  /** What is in it already may go. */
  readonly wipe: boolean;
}

export interface CowFile {
  readonly bytes: number;
  /** Everything as it was before, the contents included. */
  undo(): Promise<void>;
}

/** A table that might name the file. */
export interface NamedTable {
  readonly name: string;
  readonly table: string;
}

const suffix = '.cow';
const magic = 'SnAp';

/** Where the COW of a snapshot is if nobody says: in the state directory. */
export function ownCowPath(directory: string, name: string): string {
  return join(directory, encodeName(name) + suffix);
}

/** The snapshot whose COW that is by its place; null for a file that somebody else made. */
export function ownerOfCow(directory: string | null, path: string): string | null {
  if (directory === null || dirname(path) !== directory || !path.endsWith(suffix)) return null;
  return decodeName(path.slice(directory.length + 1, -suffix.length));
}

/** The path that a word of a table names; null for another device. */
export function cowPath(word: string): string | null {
  if (deviceNamed(word) !== null) return null;
  try {
    return parseFileWord(word).path;
  } catch {
    return null;
  }
}

/**
 * Bytes that hold every chunk of the origin. Persistent: LVM2's formula, a header, the chunks, and
 * the areas that list them, of which the last must have room for the entry that ends the list.
 */
export function completeCowBytes(
  originSectors: number,
  chunkSectors: number,
  persistent: boolean,
): number {
  const chunkBytes = chunkSectors * 512;
  const chunks = Math.ceil(originSectors / chunkSectors);
  const perArea = chunkBytes / 16;
  const areas = Math.floor((chunks + perArea) / perArea);
  const bytes = (persistent ? 1 + chunks + areas : chunks) * chunkBytes;
  return Math.min(bytes, deviceBytes);
}

/** Makes the file, or looks at the one that is there and wipes its head. Throws MapperError. */
export async function prepareCow(
  files: Files,
  request: CowRequest,
  tables: Iterable<NamedTable>,
): Promise<CowFile> {
  try {
    return await prepare(files, request, tables);
  } catch (error) {
    if (error instanceof MapperError) throw error.prefixed(`COW "${request.path}"`);
    const { code } = error as NodeJS.ErrnoException;
    throw new MapperError(errnoOf(code), `COW "${request.path}": ${messageOf(error)}`);
  }
}

async function prepare(
  files: Files,
  request: CowRequest,
  tables: Iterable<NamedTable>,
): Promise<CowFile> {
  const { path } = request;
  if (deviceNamed(path) !== null) {
    throw new MapperError(EINVAL, 'found a device, wanted a file or block device');
  }
  if ((await files.identity(path)) === null) return makeFile(files, request);
  const user = await userOf(files, path, tables);
  if (user !== null) throw new MapperError(EBUSY, `is in use by device "${user}"`);
  return takeFile(files, request);
}

async function makeFile(files: Files, request: CowRequest): Promise<CowFile> {
  const { path, originSectors, chunkSectors, persistent } = request;
  const bytes = request.bytes ?? completeCowBytes(originSectors, chunkSectors, persistent);
  refuseTooSmall(bytes, request);
  await files.make(path, bytes);
  return { bytes, undo: () => removeCow(files, path) };
}

async function takeFile(files: Files, request: CowRequest): Promise<CowFile> {
  const { path, given, wipe, chunkSectors } = request;
  if (!given && !wipe) {
    const text = 'is there already, and may hold what a snapshot kept';
    throw new MapperError(EEXIST, `${text}: remove it, or use it all the same (--wipe)`);
  }
  const before = await files.size(path);
  const bytes = sizeToTake(request, before);
  refuseTooSmall(bytes, request);
  const file = await files.open(path);
  try {
    const headBytes = Math.min(bytes, cowHeadBytes, Math.max(4096, chunkSectors * 512));
    const head = Buffer.from(await file.read(headBytes));
    const found = describeHead(head.subarray(0, chunkSectors * 512));
    if (found !== null && !wipe) {
      throw new MapperError(EEXIST, `holds ${found}, wanted zeroes: wipe it (--wipe)`);
    }
    if (bytes !== before) await file.truncate(bytes);
    await file.write(Buffer.alloc(headBytes));
    await file.sync();
    return { bytes, undo: () => putBack(files, path, head, bytes === before ? null : before) };
  } finally {
    await file.close();
  }
}

/** An empty file is as good as none, if it is said how large it shall be. */
function sizeToTake({ bytes }: CowRequest, found: number): number {
  if (found === 0) {
    if (bytes !== null) return bytes;
    throw new MapperError(EINVAL, 'has 0 bytes, wanted a size for it (--size)');
  }
  if (bytes === null || bytes === found) return found;
  const text = `is there already with ${found} bytes, wanted ${bytes}`;
  throw new MapperError(EEXIST, `${text}: a size (--size) is for a file that is made`);
}

function refuseTooSmall(bytes: number, { chunkSectors, persistent }: CowRequest): void {
  const chunks = persistent ? 3 : 1;
  if (bytes >= chunks * chunkSectors * 512) return;
  const text = `${bytes} bytes are too few, wanted at least ${chunks} chunks of`;
  throw new MapperError(EINVAL, `${text} ${formatBytes(chunkSectors * 512)}`);
}

/** What is in a first chunk; null for zeroes alone. */
function describeHead(chunk: Buffer): string | null {
  if (chunk.every((byte) => byte === 0)) return null;
  if (chunk.length < 16 || chunk.toString('latin1', 0, 4) !== magic) return 'data';
  const state = chunk.readUInt32LE(4) === 0 ? 'an invalid' : 'a valid';
  return `${state} snapshot's exceptions (SnAp header, chunks of ${chunk.readUInt32LE(12)} sectors)`;
}

async function putBack(
  files: Files,
  path: string,
  head: Buffer,
  bytes: number | null,
): Promise<void> {
  const file = await files.open(path);
  try {
    await file.write(head);
    if (bytes !== null) await file.truncate(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
}

export async function removeCow(files: Files, path: string): Promise<void> {
  await files.unlink(path);
  await files.syncDirectory(dirname(path));
}

/** The device with a table that names the file in whatever way; null if there is none. */
export async function userOf(
  files: Files,
  path: string,
  tables: Iterable<NamedTable>,
): Promise<string | null> {
  const wanted = await files.identity(path);
  if (wanted === null) return null;
  const known = new Map<string, boolean>();
  for (const { name, table } of tables) {
    for (const { args } of linesOf(table)) {
      for (const word of args) {
        if (!word.startsWith('/') && !word.startsWith('file:')) continue;
        const other = cowPath(word);
        if (other === null) continue;
        const same =
          known.get(other) ?? (other === path || (await files.identity(other)) === wanted);
        known.set(other, same);
        if (same) return name;
      }
    }
  }
  return null;
}
