/** Replaces methods for a while. */

/** A deliberate bug. */
export interface Mutation {
  readonly name: string;
  /** Puts the bug in; what takes it out again is returned. */
  apply(): () => void;
}

/** Replaces a method by one that is made from it. What puts it back is returned. */
export function patch<T extends object, K extends keyof T>(
  target: T,
  key: K,
  make: (original: T[K]) => T[K],
): () => void {
  const original = target[key];
  target[key] = make(original);
  return () => {
    target[key] = original;
  };
}

export function method<T extends object, K extends keyof T>(
  name: string,
  target: T,
  key: K,
  make: (original: T[K]) => T[K],
): Mutation {
  return { name, apply: () => patch(target, key, make) };
}
