/**
 * Ends with the parent process (--exit-with-parent). An orphan is given to another parent, so the
 * number of the parent is looked at now and then. The kernel's own way (PR_SET_PDEATHSIG) goes by
 * the thread that started us, which may end long before its process, and needs native code.
 */

import { parentMilliseconds } from '../base/limits.js';

/** Calls `gone` once, at most `parentMilliseconds` after the parent has ended. */
export function watchParent(gone: () => void, pid = (): number => process.ppid): void {
  const parent = pid();
  const timer = setInterval(() => {
    if (pid() === parent) return;
    clearInterval(timer);
    gone();
  }, parentMilliseconds);
  timer.unref();
}
