/**
 * The messages between the control thread and the queue thread.
 *
 *   control -> queue   Call
 *   queue -> control   Ready once (or Failed), then Answers and QueueEvents
 */

import type { QueueCommand, QueueEvent } from './commands.js';

export interface Call {
  readonly id: number;
  readonly command: QueueCommand;
  readonly params: unknown;
}

export type Answer =
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: { readonly errno: number; readonly message: string } };

export interface Ready {
  readonly ready: {
    readonly engine: string;
    /** Why it is not uring, if it is not. */
    readonly reason: string | null;
    /** A byte written here wakes the queue thread; null if messages do. */
    readonly wakeFd: number | null;
  };
}

/** The queue cannot start. */
export interface Failed {
  readonly failed: string;
}

export type FromQueue = Ready | Failed | Answer | QueueEvent;
