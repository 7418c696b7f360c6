/** The files of snapshots, under the rules that the queue thread has for files. */

import type { AllowedPaths, HeldPlace } from '../base/allowed-paths.js';
import type { QueueCalls } from '../queue/queue.js';
import type { Files } from './files.js';
import { backingWord } from './image.js';

/** Files are locked against other daemons: none is written to that one of them uses. */
export function lockedFiles(files: Files, queue: QueueCalls): Files {
  return {
    ...files,
    async open(path) {
      await queue.call('backingSize', { word: backingWord(path), writable: true });
      return files.open(path);
    },
  };
}

/** Clients may have files opened at some paths only. */
export function allowedFiles(files: Files, allowed: AllowedPaths): Files {
  const inPlace = <T>(path: string, work: (path: string) => Promise<T>): Promise<T> =>
    through(allowed.holdPlace(path), path, work);
  const inFile = <T>(path: string, work: (path: string) => Promise<T>): Promise<T> =>
    through(allowed.holdFile(path), path, work);
  return {
    ...files,
    size: async (path) => inFile(path, files.size),
    make: async (path, bytes) => inPlace(path, (place) => files.make(place, bytes)),
    unlink: async (path) => inPlace(path, files.unlink),
    open: async (path) => inFile(path, files.open),
  };
}

/** Does something at a place that is held meanwhile. */
async function through<T>(
  place: HeldPlace,
  path: string,
  work: (path: string) => Promise<T>,
): Promise<T> {
  try {
    return await work(place.path);
  } catch (error) {
    // Nobody has asked for the path by which it is held.
    if (error instanceof Error) error.message = error.message.replaceAll(place.path, path);
    throw error;
  } finally {
    place.release();
  }
}
