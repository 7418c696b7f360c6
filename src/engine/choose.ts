/** Takes the engine that was asked for, or the best that works here. */

import { messageOf } from '../base/errors.js';
import type { Arena } from './arena.js';
import type { Engine } from './engine.js';

export type EngineChoice = 'auto' | 'uring' | 'node';

export interface ChosenEngine {
  readonly engine: Engine;
  /** Why it is not uring, if that was to be tried; null if it is. */
  readonly reason: string | null;
}

/**
 * Throws if uring was asked for and cannot be had. `busyPoll`: milliseconds for which uring looks
 * for completions before it sleeps, at most.
 */
export async function chooseEngine(
  choice: EngineChoice,
  arena: Arena,
  busyPoll = 0,
): Promise<ChosenEngine> {
  if (choice === 'node') return { engine: await makeNode(arena), reason: 'asked for' };
  try {
    const { UringEngine } = await import('./uring/engine.js');
    return { engine: await UringEngine.create(arena, busyPoll), reason: null };
  } catch (error) {
    const reason = messageOf(error);
    if (choice === 'uring') throw new Error(`engine uring: ${reason}`, { cause: error });
    return { engine: await makeNode(arena), reason };
  }
}

async function makeNode(arena: Arena): Promise<Engine> {
  const { NodeEngine } = await import('./node/engine.js');
  return new NodeEngine(arena);
}
