/** What Node throws and reports, as the engine contract wants it. */

import { getSystemErrorMap } from 'node:util';
import { errnoOf } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';

/**
 * The negative errno, as Linux numbers it, of an error that a system call ended with. Anything else
 * (a wrong argument, say) is a fault of this program and is thrown on.
 */
export function resultOf(error: unknown): number {
  if (!isSystemError(error)) throw error;
  return process.platform === 'linux' ? error.errno : -errnoOf(error.code);
}

export function isSystemError(error: unknown): error is { errno: number; code: string } {
  return error instanceof Error && 'errno' in error && typeof error.errno === 'number';
}

/** `listen on "10.0.0.1:80": permission denied`. */
export function mapperErrorOf(error: unknown, action: string): MapperError {
  const result = resultOf(error);
  const { errno, code } = error as { errno: number; code: string };
  return new MapperError(-result, `${action}: ${getSystemErrorMap().get(errno)?.[1] ?? code}`);
}
