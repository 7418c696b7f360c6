/**
 * Lets time pass in an engine until something has come about. Promise continuations run all at once
 * whenever somebody has told of a resolved promise, and none is left when time passes again: that
 * makes a run that has promises in it the same each time.
 */

import type { SimEngine } from './engine.js';

/** Resolves when no promise continuation is left to be run, the caller's own excepted. */
export function settled(): Promise<void> {
  return new Promise((resolve) => {
    process.nextTick(resolve);
  });
}

async function runContinuations(engine: SimEngine): Promise<void> {
  engine.continuations = false;
  await settled();
  if (engine.failure !== null) throw engine.failure;
}

async function watch(engine: SimEngine): Promise<void> {
  if (engine.watcher === null) return;
  if (engine.continuations) await runContinuations(engine);
  await engine.watcher();
}

/** More moments than anything may take. */
const momentsMax = 1_000_000;

/** Lets time pass until `over`. Throws if nothing is left that could bring it about. */
export async function until(engine: SimEngine, what: string, over: () => boolean): Promise<void> {
  for (let moments = 0; !over(); moments++) {
    if (moments === momentsMax) throw new Error(`it never ends: ${what}`);
    if (engine.continuations) {
      await runContinuations(engine);
    } else if (!engine.step()) {
      throw new Error(`it hangs: ${what}, and nothing is under way`);
    } else {
      await watch(engine);
    }
  }
}

/** Lets so many moments pass, if there are as many. */
export async function moments(engine: SimEngine, count: number): Promise<void> {
  for (let left = count; left > 0; left--) {
    if (engine.continuations) await runContinuations(engine);
    if (!engine.step()) return;
    await watch(engine);
  }
  if (engine.continuations) await runContinuations(engine);
}

/** What the promise comes to, when time has passed. */
export async function outcome<T>(engine: SimEngine, what: string, promise: Promise<T>): Promise<T> {
  let isSettled = false;
  const settle = (): void => {
    isSettled = true;
  };
  promise.then(settle, settle);
  engine.continuations = true;
  await until(engine, what, () => isSettled);
  return promise;
}
