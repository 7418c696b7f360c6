/** The paths that may be opened (--allow-path), and those that are allowed without being named. */

import { realpathSync } from 'node:fs';
import { parseFileWord } from '../backing/open.js';
import { AllowedPaths } from '../base/allowed-paths.js';
import type { StoredDevice } from '../control/state.js';
import { parseTable } from '../device/table-text.js';
import type { DaemonOptions } from '../options.js';

/**
 * Null: all may. Devices of the state directory are brought up under the same rule, for clients can
 * write to files in there; what the command line names comes from whoever made the rule.
 */
export function allowedPathsOf(
  { allowPaths, state }: Pick<DaemonOptions, 'allowPaths' | 'state'>,
  commandLine: readonly StoredDevice[],
): AllowedPaths | null {
  if (allowPaths.length === 0) return null;
  const own = state === null ? [] : [state];
  const named = AllowedPaths.resolve([...allowPaths, ...own]);
  const files = commandLine.flatMap(({ table }) => filesOf(table));
  return new AllowedPaths([...named.roots, ...files]);
}

/** Real paths of the files that a table names; what is no good is told when it is made. */
function filesOf(table: string): string[] {
  let words: string[];
  try {
    words = parseTable(table).flatMap(({ args }) => args);
  } catch {
    return [];
  }
  return words.flatMap((word) => {
    if (!word.startsWith('/') && !word.startsWith('file:')) return [];
    try {
      return [realpathSync(parseFileWord(word).path)];
    } catch {
      return [];
    }
  });
}
