/** Where a control server is, in words: the path of a unix socket, or `tcp://HOST:PORT`. */

import { EINVAL } from '../base/errno.js';
import { MapperError } from '../base/errors.js';

export interface TcpPlace {
  readonly host: string;
  readonly port: number;
}

const scheme = 'tcp://';

/** Null: it is the path of a unix socket. Throws MapperError EINVAL. */
export function parseTcpPlace(text: string): TcpPlace | null {
  if (!text.startsWith(scheme)) return null;
  const rest = text.slice(scheme.length);
  const match = /^(?:\[([\w:.%]+)\]|([^:/[\]@]+)):([0-9]{1,5})\/?$/.exec(rest);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65_535) {
    throw new MapperError(EINVAL, `found "${text}", wanted tcp://HOST:PORT`);
  }
  return { host, port };
}

export function tcpPlaceText({ host, port }: TcpPlace): string {
  return `${scheme}${host.includes(':') ? `[${host}]` : host}:${port}`;
}
