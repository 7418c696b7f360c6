/** What targets come to, in the log: bad news about a snapshot is worth a line. */

import type { Logger } from 'pino';
import { fillWarningPercent } from '../base/limits.js';
import type { QueueEvent } from '../queue/commands.js';

/** Under the name that the device has now. */
export function logTargetEvent(
  log: Logger,
  { name, what, percent = 0 }: Extract<QueueEvent, { event: 'target' }>,
): void {
  const device = { device: name };
  if (what === 'fill') {
    const level = percent >= fillWarningPercent ? 'warn' : 'debug';
    log[level]({ ...device, percent }, 'the COW of a snapshot fills up');
  } else if (what === 'regions') {
    log.debug(device, 'regions are moved');
  } else if (what === 'merged') {
    // Its end is told when the origin has its table back.
    log.debug(device, 'snapshot is merged');
  } else {
    log.warn(device, bad[what]);
  }
}

const bad = {
  invalid: 'snapshot is invalid: what it held is lost, remove it',
  overflow: 'snapshot has overflowed: its COW had no room left, remove it',
  'merge failed': 'merge has failed: what is left to be merged stays in the COW',
} as const;
