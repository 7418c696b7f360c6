/** Who has a say when a file is opened: the paths that are allowed, the locks between daemons. */

import type { EngineFile } from '../engine/engine.js';

export interface FileGuard {
  /**
   * Before a file is opened: throws MapperError if that is not allowed; otherwise the identity of
   * what was there, or null where anything may be.
   */
  admit(path: string): string | null;

  /**
   * When it is open: throws MapperError if it is another file than `admitted`, or in use by
   * another process. Returns what is to be called when it is closed.
   */
  opened(file: EngineFile, admitted: string | null): () => void;
}

/** Everything is allowed, and nobody else is looked at. */
export const openToAll: FileGuard = {
  admit: () => null,
  opened: () => () => {},
};
