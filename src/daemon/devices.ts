/** The devices of the command line: the image, and those of --device. */

import { closeSync, constants, openSync } from 'node:fs';
import type { Logger } from 'pino';
import { EEXIST } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { describeImage } from '../control/image.js';
import type { StoredDevice } from '../control/state.js';
import { openPolicy } from '../nbd/export-policy.js';
import type { DaemonOptions } from '../options.js';

/** In their order, the image first. Throws MapperError. */
export async function commandLineDevices(
  options: DaemonOptions,
  log: Logger,
): Promise<StoredDevice[]> {
  const all: StoredDevice[] = [];
  if (options.image !== null) all.push(await imageDevice(options, options.image, log));
  for (const { name, table } of options.devices) {
    if (all.some((other) => other.name === name)) {
      throw new MapperError(EEXIST, `device "${name}" is given twice`);
    }
    all.push({ name, table, readOnly: false });
  }
  return all;
}

async function imageDevice(
  { exportName, readOnly, description, user, group }: DaemonOptions,
  path: string,
  log: Logger,
): Promise<StoredDevice> {
  const image = await describeImage(path);
  const { name, table, cutBytes } = image;
  if (cutBytes > 0) {
    const text = 'image is no whole number of sectors: its last bytes are not served';
    log.warn({ image: path, bytes: cutBytes }, text);
  }
  // The system answers for the user that the process has been, which may be another one.
  const another = user !== null || group !== null;
  const writable = image.writable && (!another || opens(path));
  if (!writable && !readOnly) log.warn({ image: path }, 'image is served read-only');
  const device = { name: exportName ?? name, table, readOnly: !writable };
  return description === null ? device : { ...device, policy: { ...openPolicy, description } };
}

/** A moment's opening for writing, which changes nothing. */
function opens(path: string): boolean {
  try {
    closeSync(openSync(path, constants.O_RDWR | constants.O_NONBLOCK));
    return true;
  } catch {
    return false;
  }
}
