/** Work on one key is done in the order it was asked for, one thing at a time. */
export class KeyedLock {
  /** The end of the last work for a key. */
  readonly #tails = new Map<string, Promise<unknown>>();

  /** Runs `work` when everything asked for before on any of the keys has ended. */
  run<T>(keys: readonly string[], work: () => Promise<T>): Promise<T> {
    const before = keys.map((key) => this.#tails.get(key));
    const result = Promise.allSettled(before).then(work);
    const tail = result.catch(() => {});
    for (const key of keys) this.#tails.set(key, tail);
    void tail.then(() => {
      for (const key of keys) if (this.#tails.get(key) === tail) this.#tails.delete(key);
    });
    return result;
  }

  /** Resolves when nothing is under way, what was asked for in the meantime included. */
  async settled(): Promise<void> {
    while (this.#tails.size > 0) await Promise.allSettled(this.#tails.values());
  }
}
