/**
 * Who may use the control server over TCP: whoever shows the token, and comes from no web page that
 * is not listed. Browsers send a page's origin with every WebSocket, and connect wherever a name
 * leads to that a page was loaded from; so a name that is not ours, in Host, is refused as well
 * (DNS rebinding).
 */

import type { IncomingHttpHeaders } from 'node:http';
import { isIP } from 'node:net';
import { EINVAL } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { TokenCheck } from './token.js';

export interface Refusal {
  readonly status: 401 | 403 | 421;
  /** For the client and the log. */
  readonly text: string;
}

export class TcpAccess {
  readonly #token: TokenCheck;
  readonly #origins: ReadonlySet<string>;
  /** Names of this machine that pages may be loaded by. */
  readonly #hosts: ReadonlySet<string>;

  /** `origins` as in a browser's header, `https://name:port`. */
  constructor(token: string, origins: readonly string[]) {
    this.#token = new TokenCheck(token);
    this.#origins = new Set(origins);
    this.#hosts = new Set(['localhost', ...origins.map((origin) => new URL(origin).hostname)]);
  }

  /** Null: it may. */
  refusal(headers: IncomingHttpHeaders): Refusal | null {
    const { host, origin, authorization } = headers;
    if (!this.#isOurs(host)) {
      const text = `host "${host ?? ''}" is not known here: ask by address, or list its origin`;
      return { status: 421, text };
    }
    if (origin !== undefined && !this.#origins.has(origin)) {
      return { status: 403, text: `origin "${origin}" is not listed (--control-origin)` };
    }
    if (this.#token.accepts(authorization)) return null;
    const found = authorization === undefined ? 'no token' : 'a wrong token';
    return { status: 401, text: `found ${found}, wanted the one in the daemon's token file` };
  }

  #isOurs(host: string | undefined): boolean {
    const name = /^(?:\[([^\]]*)\]|([^:]*))(?::[0-9]+)?$/.exec(host ?? '');
    const plain = name?.[1] ?? name?.[2] ?? '';
    return isIP(plain) !== 0 || this.#hosts.has(plain.toLowerCase());
  }
}

/** Throws MapperError EINVAL. */
export function parseOrigin(text: string): string {
  let origin: string | null = null;
  try {
    origin = new URL(text).origin;
  } catch {
    // Then it is none.
  }
  if (origin === text && /^https?:/.test(text)) return text;
  const wanted = 'wanted one as browsers write it, such as https://name:8443';
  throw new MapperError(EINVAL, `--control-origin: found "${text}", ${wanted}`);
}
