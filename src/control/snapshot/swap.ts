/**
 * The pause in which snapshots come and go: a device is suspended, something is done that nobody
 * may write past, perhaps another table becomes live, the device goes on. Clients see a pause of a
 * few milliseconds, because what can be slow is done before it: files are written, tables loaded.
 *
 * Either all of it is done or nothing, and the device is never left suspended.
 */

import type { Steps } from '../steps.js';
import { Undo } from './undo.js';

/** What is done while the device is suspended. */
export interface Pause {
  work(): Promise<void>;
  /** Takes `work` back, while the device is suspended still. */
  back?(): Promise<void>;
}

/** `table`: what the device gets; null: it keeps what it has. Throws MapperError. */
export async function swapTable(
  steps: Steps,
  name: string,
  table: string | null,
  pause?: Pause,
): Promise<void> {
  const undo = new Undo();
  const forget = async (): Promise<void> => {
    if (table !== null) await steps.clear(name);
  };
  try {
    if (table !== null) {
      await steps.load(name, table);
      undo.did(`clear the inactive table of "${name}"`, forget);
      undo.did(`put the file of "${name}" back`, () => steps.file(name));
      await steps.fileAhead(name);
    }
    // Should it fail halfway: resuming a device that is not suspended does nothing.
    undo.did(`resume "${name}"`, async () => {
      await forget().finally(() => steps.resume(name));
    });
    await steps.suspend(name, true);
    await pause?.work();
    const { back } = pause ?? {};
    if (back !== undefined) undo.did('take back what was done in the pause', back);
    await steps.resume(name);
  } catch (error) {
    await undo.takeBack(error);
  }
}
