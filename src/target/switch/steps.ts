/** Steps of what a target does by itself, as promises. */

import type { Backing } from '../../backing/backing.js';
import { Deferred } from '../../base/deferred.js';
import { FLUSH, type IoOwner } from '../../device/io.js';
import type { Engine } from '../../engine/engine.js';
import type { TargetContext } from '../target.js';

/** Resolves in the engine's next turn, when others have had theirs. */
export function nextTurn(engine: Engine): Promise<void> {
  const over = new Deferred<void>(engine);
  engine.timer(0, { done: () => over.resolve() });
  return over.promise;
}

/** 0, or the errno of the flush. */
export function flushed(backing: Backing, context: TargetContext): Promise<number> {
  const over = new Deferred<number>(context.engine);
  const owner: IoOwner = {
    finished: (io) => {
      const { error } = io;
      context.ios.give(io);
      over.resolve(error);
    },
  };
  backing.submit(context.ios.take(FLUSH, 0, 0, owner));
  return over.promise;
}
