/** Addresses in texts. */

import type { ListenAddress } from './engine.js';

/** `127.0.0.1:10809`, `[::1]:10809` or `unix:/run/mapperd.sock`, for texts and logs. */
export function addressText(address: ListenAddress): string {
  if (address.kind === 'unix') return `unix:${socketName(address.path)}`;
  return hostAndPort(address.host, address.port);
}

export function hostAndPort(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

/** The path of a unix socket; a name that is none (Linux's abstract ones) begins with an @. */
export function socketName(path: string): string {
  return path.startsWith('\0') ? `@${path.slice(1)}` : path;
}

/**
 * An IPv4 client of an IPv6 socket has an address such as ::ffff:127.0.0.1 or ::ffff:7f00:1: in
 * logs and on lists it is 127.0.0.1. Anything else stays as it is.
 */
export function plainHost(host: string): string {
  const dotted = /^::ffff:([0-9.]+)$/i.exec(host);
  if (dotted !== null) return dotted[1] as string;
  const groups = /^::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})$/i.exec(host);
  if (groups === null) return host;
  const [high, low] = [groups[1], groups[2]].map((group) => Number.parseInt(group as string, 16));
  return [high, low]
    .flatMap((group) => [(group as number) >> 8, (group as number) & 255])
    .join('.');
}
