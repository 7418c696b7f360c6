/**
 * Errno values. Inside the data plane an error is a positive errno and 0 is success; engines report
 * a failed operation as its negative, like the kernel.
 */

import { constants } from 'node:os';

export const {
  EPERM,
  ENOENT,
  EINTR,
  EIO,
  ENXIO,
  E2BIG,
  EAGAIN,
  ENOMEM,
  EACCES,
  EBUSY,
  EEXIST,
  ENODEV,
  ENOTDIR,
  EINVAL,
  EMFILE,
  EFBIG,
  ENOSPC,
  EROFS,
  EPIPE,
  ENAMETOOLONG,
  ENOSYS,
  ETIME,
  EOVERFLOW,
  EOPNOTSUPP,
  EADDRINUSE,
  ECONNRESET,
  ECANCELED,
  EDQUOT,
} = constants.errno;

/** Linux's number; Node's table leaves it out. */
export const ESHUTDOWN = 108;

const numbers: Readonly<Record<string, number>> = { ...constants.errno, ESHUTDOWN };
const names = new Map(Object.entries(numbers).map(([name, value]) => [value, name]));
// Two names have one number; this is the one that file systems mean.
names.set(EOPNOTSUPP, 'EOPNOTSUPP');
names.set(EAGAIN, 'EAGAIN');

/** `ENOSPC` for 28; `errno 200` for one without a name here. */
export function errnoName(errno: number): string {
  return names.get(errno) ?? `errno ${errno}`;
}

/** The number of a name such as Node puts in `error.code`; EIO for one without a number here. */
export function errnoOf(name: string | undefined): number {
  return (name === undefined ? undefined : numbers[name]) ?? EIO;
}
