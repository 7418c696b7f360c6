/**
 * Starts a copy. Destination files that do not exist are made here, as long as the copy needs them
 * to be, because the queue thread should not wait for a file system to make a file.
 */

import { open, unlink } from 'node:fs/promises';
import { deviceNamed } from '../backing/device.js';
import { parseFileWord } from '../backing/open.js';
import type { AllowedPaths } from '../base/allowed-paths.js';
import { EINVAL, errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import type { CopyRequest } from '../queue/commands.js';
import type { QueueCalls } from '../queue/queue.js';

/**
 * Answers the copy's number. Throws MapperError, and then the files it made are gone again.
 * `allowed`: where files may be made; null: anywhere.
 */
export async function startCopy(
  queue: QueueCalls,
  request: CopyRequest,
  allowed: AllowedPaths | null = null,
): Promise<{ id: number }> {
  const made: string[] = [];
  try {
    const size = await sizeNeeded(queue, request);
    for (const word of request.destinations) {
      const path = deviceNamed(word) === null ? parseFileWord(word).path : null;
      if (path !== null && (await makeFile(path, size, allowed))) made.push(path);
    }
    const intoZeroes = made.length === request.destinations.length;
    return await queue.call('copy', { ...request, intoZeroes });
  } catch (error) {
    for (const path of made) await removeFile(path, allowed).catch(() => {});
    throw error;
  }
}

/** What a destination must have: also when it is made here. */
async function sizeNeeded(queue: QueueCalls, request: CopyRequest): Promise<number> {
  const { source, sourceOffset = 0, destinationOffset = 0 } = request;
  const available = await queue.call('backingSize', { word: source });
  const length = request.length ?? available - sourceOffset;
  if (length < 0 || sourceOffset + length > available) {
    const wanted = sourceOffset + Math.max(0, length);
    throw new MapperError(EINVAL, `"${source}" has ${available} bytes, wanted ${wanted}`);
  }
  return destinationOffset + length;
}

/** False: there is one already. */
async function makeFile(
  path: string,
  size: number,
  allowed: AllowedPaths | null,
): Promise<boolean> {
  const place = allowed?.holdPlace(path) ?? { path, release() {} };
  try {
    const file = await open(place.path, 'wx', 0o600);
    try {
      await file.truncate(size);
    } catch (error) {
      await unlink(place.path).catch(() => {});
      throw error;
    } finally {
      await file.close();
    }
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') return false;
    throw new MapperError(errnoOf(code), `make "${path}": ${systemText(error, place.path, path)}`);
  } finally {
    place.release();
  }
}

async function removeFile(path: string, allowed: AllowedPaths | null): Promise<void> {
  const place = allowed?.holdPlace(path) ?? { path, release() {} };
  try {
    await unlink(place.path);
  } finally {
    place.release();
  }
}

/** A place that is held has a path that nobody has asked for. */
function systemText(error: unknown, found: string, wanted: string): string {
  return messageOf(error).replaceAll(found, wanted);
}
