/**
 * What disks do wrong, kept apart from what is on them: ranges that cannot be read or written, no
 * space left, transfers that are short, flushes that fail or do nothing. A fault can be switched
 * off, and what the disk really holds is there all the while.
 */

import { EIO, ENOSPC } from '../../src/base/errno.js';
import type { Random } from './random.js';

export type DiskOperation = 'read' | 'write' | 'flush' | 'trim' | 'zero';

/** Operations of a file that fail, within a range or all of them. */
export interface FaultRule {
  readonly path: string;
  readonly operation: DiskOperation | 'space';
  /** Bytes. */
  readonly first: number;
  readonly end: number;
  /** So many of a thousand fail. */
  readonly perThousand: number;
  /** It is over when one has failed. */
  readonly once?: boolean;
}

/** Told of each fault as it happens, by the file's path. */
export type FaultListener = (path: string) => void;

export class Faults {
  rules: FaultRule[] = [];
  /** So many transfers of a thousand are short. */
  shortPerThousand = 0;
  /** Files whose flushes are answered and do nothing: no disk may do that. */
  liars: (path: string) => boolean = () => false;
  listener: FaultListener = () => {};

  /** 0, or the errno that the operation fails with. `wantsSpace`: it needs space that is new. */
  errnoOf(
    path: string,
    operation: DiskOperation,
    range: { readonly offset: number; readonly length: number },
    wantsSpace: boolean,
    random: Random,
  ): number {
    for (const rule of this.rules) {
      if (rule.path !== path) continue;
      const space = rule.operation === 'space';
      if (space ? !wantsSpace : rule.operation !== operation) continue;
      const apart = range.offset >= rule.end || range.offset + range.length <= rule.first;
      if (operation !== 'flush' && apart) continue;
      if (!random.chance(rule.perThousand)) continue;
      if (rule.once === true) this.rules = this.rules.filter((other) => other !== rule);
      this.listener(path);
      return space ? ENOSPC : EIO;
    }
    return 0;
  }
}
