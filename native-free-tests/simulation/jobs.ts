/**
 * Commands of control clients that are under way. When one ends, what follows from it is done at
 * once, before anything else is; a daemon that dies takes them along.
 */

import { messageOf } from '../../src/base/errors.js';
import { SimFailure } from './failure.js';
import type { Tally } from './tally.js';

export interface JobSteps<T> {
  /** What follows when it has been answered. */
  done(result: T): void;
  /** What follows from an error, if there may be one; all is as it was before. */
  undone?(): void;
}

export class Job {
  readonly what: string;
  /** When it was asked for. */
  readonly start: number;
  ended = false;

  constructor(what: string, start: number) {
    this.what = what;
    this.start = start;
  }
}

/** Where jobs run. */
export interface JobWorld {
  tick(): number;
  readonly tally: Tally;
  note(text: string): void;
  readonly tracing: boolean;
  /** Something that must not be has been found in a promise's continuation. */
  fail(error: unknown): void;
  /**
   * The next command may find the state directory full; what is to be told, when it has ended,
   * whether it went well, and tells whether it was allowed not to. Null: it is not.
   */
  mayFail(what: string): ((ok: boolean) => boolean) | null;
  /** The engine must let promise continuations run. */
  resolved(): void;
}

export function runJob<T>(
  world: JobWorld,
  what: string,
  begin: () => Promise<T>,
  steps: JobSteps<T>,
): Job {
  const job = new Job(what, world.tick());
  world.tally.commands++;
  const hasFailed = steps.undone === undefined ? null : world.mayFail(what);
  if (world.tracing) world.note(`    ${what} ...`);
  begin()
    .then(
      (result) => {
        job.ended = true;
        hasFailed?.(true);
        if (world.tracing) world.note(`    ${what}: done`);
        steps.done(result);
      },
      (error: unknown) => {
        job.ended = true;
        const text = messageOf(error);
        if (world.tracing) world.note(`    ${what}: ${text}`);
        if (hasFailed?.(false) !== true) throw new SimFailure('command', `${what}: ${text}`);
        steps.undone?.();
      },
    )
    .catch((error: unknown) => world.fail(error));
  world.resolved();
  return job;
}
