/**
 * Socket activation: whoever starts the process (systemd, libnbd's `[ COMMAND ]`) has opened the
 * listening sockets already, and passes them as descriptors from 3 on. The environment says so:
 *
 *   LISTEN_PID       the process that they are for: another one has only inherited the variables
 *   LISTEN_FDS       how many there are
 *   LISTEN_FDNAMES   their names, with colons between them; may be missing
 */

import { EINVAL } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { inheritedSockets } from '../base/limits.js';

const firstDescriptor = 3;

export interface InheritedSocket {
  readonly fd: number;
  /** For people; empty: it has none. */
  readonly name: string;
}

/**
 * Takes the variables out of the environment, so that no child process finds them, and tells the
 * sockets; none if there are none for this process. Throws MapperError EINVAL.
 */
export function takeInheritedSockets(
  environment: NodeJS.ProcessEnv,
  pid: number,
): InheritedSocket[] {
  const { LISTEN_PID: owner, LISTEN_FDS: count, LISTEN_FDNAMES: nameList } = environment;
  for (const name of ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES']) delete environment[name];
  if (owner === undefined || count === undefined) return [];
  if (!/^[0-9]{1,10}$/.test(owner)) {
    throw new MapperError(EINVAL, `LISTEN_PID: found "${owner}", wanted a process id`);
  }
  if (Number(owner) !== pid) return [];
  const number = /^[0-9]{1,10}$/.test(count) ? Number(count) : Number.NaN;
  if (!(number >= 1 && number <= inheritedSockets)) {
    const wanted = `wanted 1 to ${inheritedSockets}`;
    throw new MapperError(EINVAL, `LISTEN_FDS: found "${count}", ${wanted}`);
  }
  const names = (nameList ?? '').split(':');
  return Array.from({ length: number }, (_, index) => ({
    fd: firstDescriptor + index,
    name: names[index] ?? '',
  }));
}
