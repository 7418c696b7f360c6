/** A unix datagram socket, which Node has no way to make. */

import { AF_UNIX, packAddress } from './socket-address.js';
import { check, System } from './system.js';

const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;

/**
 * Connected to that path (or abstract name, which begins with a NUL): a write to it is a message.
 * Throws an Error without koffi, MapperError when nobody is there.
 */
export async function datagramSocketTo(path: string): Promise<number> {
  const system = await System.load();
  const fd = check(system.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC), 'socket');
  const result = system.connect(fd, packAddress({ kind: 'unix', path }));
  if (result < 0) system.close(fd);
  check(result, 'connect');
  return fd;
}
