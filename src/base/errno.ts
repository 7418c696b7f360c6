/**
 * Errno values as Linux numbers them. Inside the data plane an error is a positive errno and 0 is
 * success; engines report a failed operation as its negative, like the kernel.
 */

export const EPERM = 1;
export const ENOENT = 2;
export const EINTR = 4;
export const EIO = 5;
export const ENXIO = 6;
export const E2BIG = 7;
export const EAGAIN = 11;
export const ENOMEM = 12;
export const EACCES = 13;
export const EBUSY = 16;
export const EEXIST = 17;
export const ENODEV = 19;
export const EINVAL = 22;
export const EFBIG = 27;
export const ENOSPC = 28;
export const EROFS = 30;
export const ENOSYS = 38;
export const EOVERFLOW = 75;
export const EOPNOTSUPP = 95;
export const EADDRINUSE = 98;
export const ECONNRESET = 104;
export const ESHUTDOWN = 108;
export const EDQUOT = 122;
export const ECANCELED = 125;

const names = new Map<number, string>(
  Object.entries({
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
    EINVAL,
    EFBIG,
    ENOSPC,
    EROFS,
    ENOSYS,
    EOVERFLOW,
    EOPNOTSUPP,
    EADDRINUSE,
    ECONNRESET,
    ESHUTDOWN,
    EDQUOT,
    ECANCELED,
  }).map(([name, value]) => [value, name]),
);

/** `ENOSPC` for 28; `errno 200` for one without a name here. */
export function errnoName(errno: number): string {
  return names.get(errno) ?? `errno ${errno}`;
}

/** The number of a name such as Node puts in `error.code`; EIO for one without a number here. */
export function errnoOf(name: string | undefined): number {
  for (const [value, known] of names) if (known === name) return value;
  return EIO;
}
