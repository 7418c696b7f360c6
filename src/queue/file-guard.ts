/** The say that the daemon's options have in which files the queue thread opens. */

import type { FileGuard } from '../backing/guard.js';
import type { AllowedPaths } from '../base/allowed-paths.js';
import { EPERM } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import type { EngineFile } from '../engine/engine.js';
import { fileIdentity } from '../engine/file-facts.js';
import type { FileLocks } from '../engine/file-lock.js';

export class OptionsGuard implements FileGuard {
  readonly #allowed: AllowedPaths | null;
  readonly #locks: FileLocks | null;

  /** `allowed`: null for all paths. `locks`: null for none. */
  constructor(allowed: AllowedPaths | null, locks: FileLocks | null) {
    this.#allowed = allowed;
    this.#locks = locks;
  }

  admit(path: string): string | null {
    return this.#allowed === null ? null : fileIdentity(this.#allowed.look(path));
  }

  opened(file: EngineFile, admitted: string | null): () => void {
    if (admitted !== null && file.identity !== admitted) {
      // Its name was given to another file in the moment since.
      throw new MapperError(EPERM, `${file.path} became another file while it was opened`);
    }
    return this.#locks?.take(file.path, file.identity, file.writable) ?? (() => {});
  }
}
