/**
 * Keeps a device of the kernel's attached: whenever one of its connections has died, it gets another
 * one as soon as the daemon is there again. Requests wait in the kernel meanwhile. It ends when the
 * device is detached.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import { EBUSY, EINVAL } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { keepAttachedMilliseconds } from '../base/limits.js';
import type { NbdNetlink } from '../kernel/nbd-netlink.js';
import type { Attachment, Attachments } from './attachment.js';

/** What of the driver's netlink is used. */
export type Netlink = Pick<
  NbdNetlink,
  'newlyDead' | 'connect' | 'replaceConnection' | 'closeConnection'
>;

/** Resolves when the device is not that attachment any more. */
export async function keepAttached(
  attachment: Attachment,
  attachments: Attachments,
  netlink: Netlink,
  log: (line: string) => void,
  pause: () => Promise<void> = () => sleep(keepAttachedMilliseconds),
): Promise<void> {
  const { index, connections } = attachment;
  // Some may have died before anybody looked. What is not needed the kernel does not take.
  let missing = connections;
  let trouble: string | null = null;
  let first = true;
  while (attachments.read(index) !== null) {
    missing = Math.min(connections, missing + (netlink.newlyDead(index) ?? connections));
    try {
      for (; missing > 0; missing--) {
        replaceOne(attachment, netlink);
        if (missing === 1 && !first) log('connected again');
      }
      trouble = null;
    } catch (error) {
      // Told once, not at every attempt.
      const text = messageOf(error);
      if (text !== trouble) log(`connection lost, and not back yet: ${text}`);
      trouble = text;
    }
    first = false;
    await pause();
  }
  log('detached');
}

function replaceOne({ index, address, name, sizeBytes }: Attachment, netlink: Netlink): void {
  const connection = netlink.connect(address, name);
  try {
    const found = connection.facts.sizeBytes;
    if (found !== sizeBytes) {
      throw new MapperError(EINVAL, `found an export of ${found} bytes, wanted ${sizeBytes}`);
    }
    netlink.replaceConnection(index, connection.fd);
  } finally {
    netlink.closeConnection(connection);
  }
}

/** Throws MapperError EBUSY when another process does it already. */
export function becomeKeeper(index: number, attachments: Attachments): void {
  const other = attachments.keeper(index);
  if (other !== null && other !== process.pid) {
    throw new MapperError(EBUSY, `process ${other} does that already`);
  }
  attachments.writeKeeper(index, process.pid);
}
