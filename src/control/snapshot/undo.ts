/** What has been done so far, so that a later failure can take it back, the last step first. */

import { EIO } from '../../base/errno.js';
import { MapperError, messageOf } from '../../base/errors.js';

export class Undo {
  readonly #steps: { readonly what: string; readonly undo: () => Promise<unknown> }[] = [];

  /** `what` is what taking it back is called in an error. */
  did(what: string, undo: () => Promise<unknown>): void {
    this.#steps.push({ what, undo });
  }

  /** Takes everything back, whatever of it fails, and throws the cause with how that went. */
  async takeBack(cause: unknown): Promise<never> {
    if (this.#steps.length === 0) throw cause;
    const failures: string[] = [];
    for (const { what, undo } of this.#steps.splice(0).reverse()) {
      try {
        await undo();
      } catch (error) {
        failures.push(`${what}: ${messageOf(error)}`);
      }
    }
    const errno = cause instanceof MapperError ? cause.errno : EIO;
    if (failures.length > 0) {
      throw new MapperError(
        errno,
        `${messageOf(cause)}; taking back what was done failed: ${failures.join('; ')}`,
      );
    }
    throw new MapperError(errno, messageOf(cause));
  }
}
