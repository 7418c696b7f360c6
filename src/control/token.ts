/**
 * The token by which a control client over TCP is known: whoever has it may do everything. It is
 * the first line of a file that is closed to others.
 */

import { createHash, timingSafeEqual } from 'node:crypto';
import { EINVAL } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { controlTokenBytesMax, controlTokenBytesMin } from '../base/limits.js';
import { readCredential } from '../gate/credential-file.js';

/** Throws MapperError. The token itself is in no text. */
export async function readToken(path: string): Promise<string> {
  const { bytes } = await readCredential(path, 'token file', true);
  const [line = ''] = bytes.toString('latin1').split('\n', 1);
  const token = line.trim();
  const wanted = `wanted ${controlTokenBytesMin} to ${controlTokenBytesMax}`;
  if (token.length < controlTokenBytesMin || token.length > controlTokenBytesMax) {
    const text = `found ${token.length} characters in its first line, ${wanted}`;
    throw new MapperError(EINVAL, `token file "${path}": ${text} (openssl rand -base64 32)`);
  }
  if (!/^[\x21-\x7e]+$/.test(token)) {
    const text = 'found blanks or other than ASCII in its first line, wanted a word';
    throw new MapperError(EINVAL, `token file "${path}": ${text}`);
  }
  return token;
}

/** Compares without telling by the time it takes how much of a token was right. */
export class TokenCheck {
  readonly #digest: Buffer;

  constructor(token: string) {
    this.#digest = digestOf(token);
  }

  /** `authorization` is the header's text. */
  accepts(authorization: string | undefined): boolean {
    const [, token] = /^Bearer +(\S+) *$/i.exec(authorization ?? '') ?? [];
    return timingSafeEqual(digestOf(token ?? ''), this.#digest) && token !== undefined;
  }
}

function digestOf(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
