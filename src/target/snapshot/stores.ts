/** The stores there are, by the letter in the table line. */

import type { TargetContext } from '../target.js';
import type { SnapshotWords } from './arguments.js';
import { PersistentStore } from './persistent-store.js';
import type { ExceptionStore } from './store.js';
import { TransientStore } from './transient-store.js';

/** `inOrder`: commits end in order of allocation, whether that is needed or not. */
export function createStore(
  words: SnapshotWords,
  context: TargetContext,
  inOrder: boolean,
): ExceptionStore {
  const { origin, cow, chunkSectors, type } = words;
  if (type === 'N') return new TransientStore(cow, chunkSectors, inOrder);
  return new PersistentStore(context, cow, chunkSectors, Math.floor(origin.size() / 512));
}
