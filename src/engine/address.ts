import type { ListenAddress } from './engine.js';

/** `127.0.0.1:10809`, `[::1]:10809` or `unix:/run/mapperd.sock`, for texts and logs. */
export function addressText(address: ListenAddress): string {
  if (address.kind === 'unix') return `unix:${address.path}`;
  return hostAndPort(address.host, address.port);
}

export function hostAndPort(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
