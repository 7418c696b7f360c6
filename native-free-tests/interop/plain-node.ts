/**
 * Node without the test runner's hooks, as the words of a command. The runner puts NODE_OPTIONS
 * into whatever a test starts, even where it has been left out; then a daemon starts more slowly,
 * and handles signals that it ignores by itself. `env` takes it away again, and has the same pid.
 */
export const plainNode = ['/usr/bin/env', '-u', 'NODE_OPTIONS', process.execPath] as const;

/** A command as it is to be started: Node is plain. */
export function plainly(program: string, args: readonly string[]): [string, string[]] {
  const [env, ...words] = plainNode;
  return program === process.execPath ? [env, [...words, ...args]] : [program, [...args]];
}
