/**
 * Pre-shared keys, in the file that GnuTLS's psktool writes, a line for each user:
 *
 *   alice:6d6170706572642e6d6170706572642e
 *   #e282ac:6d6170...                        (a name in hexadecimal, if it has other characters)
 *
 * What OpenSSL here and GnuTLS in libnbd and QEMU agree on, all with forward secrecy:
 *
 *   TLS 1.3   psk_dhe_ke, with the suites whose hash is SHA-256: OpenSSL takes a key given as bytes
 *             for no other. GnuTLS offers it for +ECDHE-PSK or +DHE-PSK, not for +PSK alone.
 *   TLS 1.2   ECDHE-PSK and DHE-PSK. GnuTLS's ECDHE-PSK with AES-GCM is unknown to OpenSSL, so
 *             CHACHA20-POLY1305 comes first, and AES-GCM goes with DHE.
 */

import type { TlsOptions as ServerOptions, TLSSocket } from 'node:tls';
import { EINVAL } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { pskBytes, pskUserBytes } from '../base/limits.js';
import { readCredential } from './credential-file.js';

const ciphers = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-PSK-CHACHA20-POLY1305',
  'DHE-PSK-AES256-GCM-SHA384',
  'DHE-PSK-CHACHA20-POLY1305',
  'DHE-PSK-AES128-GCM-SHA256',
  'ECDHE-PSK-AES256-CBC-SHA384',
  'ECDHE-PSK-AES128-CBC-SHA256',
].join(':');

/** The names that clients gave and nobody here has, for the log. */
export const strangers = new WeakMap<TLSSocket, string>();

/** What a server needs to begin TLS with pre-shared keys. Throws MapperError. */
export async function loadPsk(path: string): Promise<ServerOptions> {
  const { bytes } = await readCredential(path, 'tls psk file', true);
  const keys = parsePsk(bytes.toString('utf8'), path);
  return {
    ciphers,
    dhparam: 'auto',
    pskCallback: (socket, user) => {
      const key = keys.get(user);
      if (key === undefined) strangers.set(socket, user);
      return key ?? null;
    },
  };
}

/** The keys by their users' names. Errors name the line and never what it holds. */
export function parsePsk(text: string, path: string): Map<string, Buffer> {
  const keys = new Map<string, Buffer>();
  for (const [index, whole] of text.split('\n').entries()) {
    const line = whole.trim();
    if (line === '' || /^#(?![0-9a-f]+:)/i.test(line)) continue;
    const fail = (found: string): never => {
      throw new MapperError(EINVAL, `tls psk file "${path}": line ${index + 1}: ${found}`);
    };
    const colon = line.lastIndexOf(':');
    if (colon <= 0) fail('wanted "user:key" with the key in hexadecimal');
    const user = line.startsWith('#')
      ? (hexBytes(line.slice(1, colon)) ?? fail('the name behind # is not hexadecimal'))
      : Buffer.from(line.slice(0, colon));
    const key = hexBytes(line.slice(colon + 1)) ?? fail('the key is not hexadecimal');
    if (user.length > pskUserBytes) {
      fail(`found a name of ${user.length} bytes, wanted at most ${pskUserBytes}`);
    }
    if (key.length > pskBytes) {
      fail(`found a key of ${key.length} bytes, wanted at most ${pskBytes}`);
    }
    const name = user.toString('utf8');
    if (keys.has(name)) fail('its user has a key in an earlier line');
    keys.set(name, key);
  }
  if (keys.size > 0) return keys;
  throw new MapperError(EINVAL, `tls psk file "${path}": found no keys`);
}

/** The bytes, at least one, of pairs of hexadecimal digits; null if it is no such text. */
function hexBytes(text: string): Buffer | null {
  return /^(?:[0-9a-f]{2})+$/i.test(text) ? Buffer.from(text, 'hex') : null;
}
