/**
 * An end that waits for no thread. `process.exit` waits for all of them, and one may be in a system
 * call on a disk that does not answer.
 */

/** With that status where native calls can be made; otherwise by SIGKILL. */
export async function exitAtOnce(status: number): Promise<never> {
  try {
    const { System } = await import('../engine/uring/system.js');
    (await System.load()).exitNow(status);
  } catch {
    // What follows needs nothing.
  }
  process.kill(process.pid, 'SIGKILL');
  // The signal is for the whole process, and nothing is run behind it.
  return new Promise(() => {});
}
