/**
 * Standard input and output as one connection, for mode -s: both are the same socket (as from a
 * client that started us with socketpair), or each is a pipe or a socket (as from a shell or sshd).
 * Bytes on a terminal are a mistake, and a file has nobody at its other end.
 */

import { type BigIntStats, fstatSync } from 'node:fs';
import { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { isatty } from 'node:tty';
import { EINVAL } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';

/** Throws MapperError when they are nothing to serve a client on. */
export function openStdio(): Duplex {
  const input = checked(0, 'standard input');
  const output = checked(1, 'standard output');
  if (input.isSocket() && input.dev === output.dev && input.ino === output.ino) {
    return new Socket({ fd: 0, allowHalfOpen: true }).setNoDelay();
  }
  const readable = new Socket({ fd: 0, readable: true, writable: false });
  const writable = new Socket({ fd: 1, readable: false, writable: true });
  return Duplex.from({ readable, writable });
}

function checked(fd: number, name: string): BigIntStats {
  const fail = (found: string): never => {
    throw new MapperError(EINVAL, `${name}: found ${found}, wanted a socket or a pipe`);
  };
  if (isatty(fd)) fail('a terminal');
  let stats: BigIntStats;
  try {
    stats = fstatSync(fd, { bigint: true });
  } catch (error) {
    return fail(`none (${messageOf(error)})`);
  }
  if (!stats.isSocket() && !stats.isFIFO()) fail(stats.isFile() ? 'a file' : 'a device');
  return stats;
}
