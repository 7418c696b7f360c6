import type { Engine } from '../engine/engine.js';

/**
 * A promise that the data plane resolves. It tells the engine, which must let the continuation run
 * before it waits for I/O again.
 */
export class Deferred<T> {
  readonly promise: Promise<T>;
  readonly #engine: Pick<Engine, 'promiseResolved'>;
  #resolve!: (value: T) => void;

  constructor(engine: Pick<Engine, 'promiseResolved'>) {
    this.#engine = engine;
    this.promise = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  resolve(value: T): void {
    this.#engine.promiseResolved();
    this.#resolve(value);
  }
}
