/** The engine, as far as promises concern it. */
interface ContinuationRunner {
  promiseResolved(): void;
}

/**
 * A promise that the data plane resolves. It tells the engine, which must let the continuation run
 * before it waits for I/O again.
 */
export class Deferred<T> {
  readonly promise: Promise<T>;
  readonly #engine: ContinuationRunner;
  #resolve!: (value: T) => void;

  constructor(engine: ContinuationRunner) {
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
