/** flock(2), which Node does not have, for whichever engine. */

import { System } from './system.js';

/** Locks an open file, shared or for this process alone, without waiting: 0, or a negative errno. */
export type Flock = (fd: number, exclusive: boolean) => number;

/** Null where there is no koffi. */
export async function loadFlock(): Promise<Flock | null> {
  try {
    const system = await System.load();
    return (fd, exclusive) => system.flock(fd, exclusive);
  } catch {
    return null;
  }
}
