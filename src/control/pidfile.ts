import { readFileSync, renameSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs';
import { errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';

/** The file that says which process serves; whoever waits for it finds it complete. */
export class PidFile {
  readonly #path: string;
  readonly #text = `${process.pid}\n`;

  /** Throws MapperError. */
  constructor(path: string) {
    this.#path = path;
    const temporary = `${path}.${process.pid}`;
    try {
      writeFileSync(temporary, this.#text, { flag: 'wx' });
      renameSync(temporary, path);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      throw new MapperError(errnoOf(code), `write pidfile "${path}": ${messageOf(error)}`);
    }
  }

  /**
   * Leaves it alone if another process has taken it over; where the folder does not let it be
   * removed any more, it is emptied. Synchronous, for the process's exit.
   */
  remove(): void {
    try {
      if (readFileSync(this.#path, 'utf8') !== this.#text) return;
      try {
        unlinkSync(this.#path);
      } catch {
        truncateSync(this.#path);
      }
    } catch {
      // It is gone already, or is not ours any more.
    }
  }
}
