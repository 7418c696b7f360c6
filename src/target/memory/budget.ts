import { memoryTargetBytes } from '../../base/limits.js';

/** Bytes that several page maps may hold together. */
export class PageBudget {
  readonly limitBytes: number;
  usedBytes = 0;

  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }

  get leftBytes(): number {
    return this.limitBytes - this.usedBytes;
  }
}

/** The one of all memory targets. */
export const memoryBudget = new PageBudget(memoryTargetBytes);
