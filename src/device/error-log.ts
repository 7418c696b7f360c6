import { errorLogsPerSecond } from '../base/limits.js';
import type { Log } from '../base/log.js';
import type { Engine } from '../engine/engine.js';

/** What a limited log is about. */
export interface LogKind {
  readonly level: 'warn' | 'error';
  readonly perSecond: number;
  /** Told with the number of those that were not logged. */
  readonly more: string;
}

const failedIo: LogKind = {
  level: 'error',
  perSecond: errorLogsPerSecond,
  more: 'more I/O errors, not logged',
};

/**
 * Logs what may happen very often: failed I/O, say, because a disk that has gone fails every
 * request. Beyond a number in a second lines are only counted, and the count is told with the next
 * one that is logged.
 */
export class ErrorLog {
  readonly #engine: Engine;
  readonly #log: Log;
  readonly #kind: LogKind;
  #secondBegan = Number.NEGATIVE_INFINITY;
  #inSecond = 0;
  #untold = 0;

  constructor(engine: Engine, log: Log, kind: LogKind = failedIo) {
    this.#engine = engine;
    this.#log = log;
    this.#kind = kind;
  }

  report(fields: object, text: string): void {
    const { level, perSecond, more } = this.#kind;
    const now = this.#engine.now;
    if (now - this.#secondBegan >= 1000) {
      this.#secondBegan = now;
      this.#inSecond = 0;
    }
    if (this.#inSecond >= perSecond) {
      this.#untold++;
      return;
    }
    this.#inSecond++;
    if (this.#untold > 0) this.#log[level]({ untold: this.#untold }, more);
    this.#untold = 0;
    this.#log[level](fields, text);
  }
}
