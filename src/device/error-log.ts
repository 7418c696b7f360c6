import { errorLogsPerSecond } from '../base/limits.js';
import type { Log } from '../base/log.js';
import type { Engine } from '../engine/engine.js';

/**
 * Logs failed I/O. A disk that has gone fails every request, so beyond a number in a second they
 * are only counted, and the count is told with the next one that is logged.
 */
export class ErrorLog {
  readonly #engine: Engine;
  readonly #log: Log;
  #secondBegan = Number.NEGATIVE_INFINITY;
  #inSecond = 0;
  #untold = 0;

  constructor(engine: Engine, log: Log) {
    this.#engine = engine;
    this.#log = log;
  }

  report(fields: object, text: string): void {
    const now = this.#engine.now;
    if (now - this.#secondBegan >= 1000) {
      this.#secondBegan = now;
      this.#inSecond = 0;
    }
    if (this.#inSecond >= errorLogsPerSecond) {
      this.#untold++;
      return;
    }
    this.#inSecond++;
    if (this.#untold > 0) this.#log.error({ untold: this.#untold }, 'more I/O errors, not logged');
    this.#untold = 0;
    this.#log.error(fields, text);
  }
}
