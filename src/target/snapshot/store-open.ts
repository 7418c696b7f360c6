/**
 * Opens a persistent store: reads the header and the areas, or makes a new store where the first
 * chunk is zero (which whoever makes the COW sees to).
 */

import { EIO, errnoName } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import type { Log } from '../../base/log.js';
import type { AwaitedIo } from '../../device/awaited-io.js';
import { READ, WRITE } from '../../device/io.js';
import type { Arena } from '../../engine/arena.js';
import type { AreaEnd } from './area-end.js';
import { damaged, Layout, pieceBytesMax, readFailed, readHeader } from './format.js';
import type { FoundException } from './store.js';
import { scanAreas } from './store-scan.js';

export interface Opening {
  readonly arena: Arena;
  /** With the COW and the chunk size asked for; its position is set, and the piece read. */
  readonly end: AreaEnd;
  readonly io: AwaitedIo;
  readonly log: Log;
  readonly originSectors: number;
  readonly found: FoundException;
}

export interface Opened {
  readonly valid: boolean;
  /** The chunk of the COW that is given away next. */
  readonly nextFree: number;
  /** Areas that are zeroes or have records. */
  readonly begunAreas: number;
}

/**
 * What a daemon wrote that was killed may be in the disk's cache alone. It is durable before it is
 * read here: origins are written on the strength of it, past chunks that have exceptions, say.
 * Throws MapperError.
 */
export async function openStore(opening: Opening): Promise<Opened> {
  const { arena, end, io, log } = opening;
  const { cow, memory } = end;
  checkSize(end, 512, 'a header');
  const length = Math.min(pieceBytesMax, Math.floor(cow.size() / 512) * 512);
  let errno = await io.flush(cow);
  if (errno !== 0) throw failed(errno, 'flush the COW');
  errno = await io.run(cow, READ, 0, length, memory);
  if (errno !== 0) throw failed(errno, 'read the header');
  const header = readHeader(arena.view, memory);
  if (header !== null && header.chunkSectors !== end.layout.chunkSectors) {
    const fields = { cow: cow.name, found: header.chunkSectors, asked: end.layout.chunkSectors };
    log.warn(fields, 'the chunk size in the COW wins over the one asked for');
    end.layout = new Layout(header.chunkSectors);
  }
  checkSize(end, 2 * end.layout.chunkBytes, `two chunks of ${end.layout.chunkSectors} sectors`);
  if (header === null) return create(opening);
  if (!header.valid) return { valid: false, nextFree: 2, begunAreas: 1 };
  return readAreas(opening);
}

function checkSize(end: AreaEnd, bytes: number, what: string): void {
  const size = end.cow.size();
  if (size >= bytes) return;
  const found = `a COW of ${Math.floor(size / 512)} sectors`;
  throw damaged(EIO, found, `at least ${bytes / 512} (${what})`);
}

async function readAreas(opening: Opening): Promise<Opened> {
  const { arena, end, io, found } = opening;
  const { cow, layout, memory } = end;
  const originChunks = Math.ceil(opening.originSectors / layout.chunkSectors);
  const { area, used, lastChunk, remains } = await scanAreas({
    cow,
    layout,
    originChunks,
    arena,
    io,
    found,
  });
  end.area = area;
  end.used = used;
  end.piece = end.pieceOf(used);
  const nextFree = layout.dataChunk(lastChunk + 1);
  if (area === layout.areasIn(layout.chunksIn(cow.size()))) {
    // The last area that the COW has room for is full.
    arena.zero(memory, layout.pieceBytes);
    return { valid: true, nextFree, begunAreas: area };
  }
  const errno = await io.run(cow, READ, end.pieceOffset, layout.pieceBytes, memory);
  if (errno !== 0) throw failed(errno, `read area ${area}`);
  if (remains && cow.features.writable) await clearRemains(opening);
  return { valid: true, nextFree, begunAreas: area + 1 };
}

/** Zeroes what is behind the last record in its area. The next group's flush makes that durable. */
async function clearRemains(opening: Opening): Promise<void> {
  const { end, io } = opening;
  const { cow, layout, memory } = end;
  end.clearFrom(end.used);
  const behind = end.pieceOffset + layout.pieceBytes;
  const areaEnd = layout.areaBytes(end.area) + layout.chunkBytes;
  let errno = await io.zero(cow, behind, areaEnd - behind);
  if (errno === 0) errno = await io.run(cow, WRITE, end.pieceOffset, layout.pieceBytes, memory);
  if (errno !== 0) throw failed(errno, `write area ${end.area}`);
}

/**
 * Makes a new store. The first area is durable before the header that makes it count: a COW that
 * was something else before has garbage there.
 */
async function create(opening: Opening): Promise<Opened> {
  const { arena, end, io } = opening;
  const { cow, layout, memory } = end;
  const { pieceBytes, chunkBytes } = layout;
  let errno = await io.zero(cow, layout.areaBytes(0), chunkBytes);
  if (errno === 0) errno = await io.zero(cow, pieceBytes, chunkBytes - pieceBytes);
  if (errno === 0) errno = await io.flush(cow);
  if (errno === 0) {
    end.makeHeader(true);
    errno = await io.run(cow, WRITE, 0, pieceBytes, memory);
  }
  if (errno !== 0) throw failed(errno, 'write a new store');
  arena.zero(memory, pieceBytes);
  end.piece = 0;
  return { valid: true, nextFree: 2, begunAreas: 1 };
}

function failed(errno: number, what: string): MapperError {
  return new MapperError(errno, `${readFailed}: cannot ${what}: ${errnoName(errno)}`);
}
