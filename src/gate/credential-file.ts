/**
 * Reading of certificates and keys, and telling whether a file has changed since. What is secret
 * must be closed to others: such a file is refused unless it is its owner's alone, or root's and
 * for a group that this process is in.
 */

import type { BigIntStats } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { EACCES, EFBIG, EINVAL, ENOENT, errnoOf } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { credentialBytes } from '../base/limits.js';

export interface CredentialFile {
  readonly path: string;
  readonly bytes: Buffer;
}

/** What a path leads to, as long as nobody changes it; 'none' if it leads nowhere, null: unknown. */
export async function stampOf(path: string): Promise<string | null> {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
    return [dev, ino, size, mtimeNs, ctimeNs].join(':');
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'none' : null;
  }
}

/** Throws MapperError; `what` names the file in its texts. */
export async function readCredential(
  path: string,
  what: string,
  secret: boolean,
): Promise<CredentialFile> {
  const told = `${what} "${path}"`;
  try {
    // A FIFO in its place would hold up the open.
    const found = await stat(path, { bigint: true });
    if (!found.isFile()) throw new MapperError(EINVAL, `${told}: wanted a file`);
    const file = await open(path, 'r');
    try {
      const stats = await file.stat({ bigint: true });
      if (secret) checkSecret(told, stats);
      if (stats.size > BigInt(credentialBytes)) {
        const text = `${told}: found ${stats.size} bytes, wanted at most ${credentialBytes}`;
        throw new MapperError(EFBIG, text);
      }
      return { path, bytes: await file.readFile() };
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof MapperError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    throw new MapperError(errnoOf(code), `${told}: ${causeOf(code)}`);
  }
}

function causeOf(code = 'EIO'): string {
  if (code === 'ENOENT' || code === 'ENOTDIR') return 'not found';
  return code === 'EACCES' ? `not readable by user ${process.geteuid?.()}` : code;
}

/** The same, or null if there is no such file. */
export async function readOptional(path: string, what: string): Promise<CredentialFile | null> {
  try {
    return await readCredential(path, what, false);
  } catch (error) {
    if (error instanceof MapperError && error.errno === ENOENT) return null;
    throw error;
  }
}

function checkSecret(told: string, { mode, uid }: BigIntStats): void {
  const permissions = Number(mode & 0o777n);
  // Root's keys reach a daemon that is not root through a group, with mode 0640.
  const isRoots = uid === 0n && process.geteuid?.() !== 0;
  const open = permissions & (isRoots ? 0o027 : 0o077);
  if (open === 0) return;
  const found = permissions.toString(8).padStart(4, '0');
  const whom = (open & 0o007) === 0 ? 'its group' : 'others';
  const text = `${told}: found mode ${found}, which lets ${whom} have the key, wanted 0600`;
  throw new MapperError(EACCES, text);
}
