/** The targets there are. A new target is one folder and one line here. */

import { delay } from './delay/target.js';
import { error } from './error/target.js';
import { flakey } from './flakey/target.js';
import { linear } from './linear/target.js';
import { logWrites } from './log-writes/target.js';
import { memory } from './memory/target.js';
import { snapshot } from './snapshot/target.js';
import { snapshotMerge } from './snapshot-merge/target.js';
import { snapshotOrigin } from './snapshot-origin/target.js';
import { striped } from './striped/target.js';
import { switchTarget } from './switch/target.js';
import type { TargetType } from './target.js';
import { zero } from './zero/target.js';

/** In the order of their names. */
export const targetTypes: readonly TargetType[] = [
  delay,
  error,
  flakey,
  linear,
  logWrites,
  memory,
  snapshot,
  snapshotMerge,
  snapshotOrigin,
  striped,
  switchTarget,
  zero,
];

const byName = new Map(targetTypes.map((type) => [type.name, type]));

/** The target of that name, or null. Case matters, as in the kernel. */
export function findTarget(name: string): TargetType | null {
  return byName.get(name) ?? null;
}
