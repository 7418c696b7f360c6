/**
 * Where to listen, from -p, -i and -U, each of which may be given several times:
 *
 *   -p PORT             every -i without a port of its own; without such a -i, 127.0.0.1
 *   -i ADDRESS          every -p; without -p, port 10809
 *   -i ADDRESS:PORT     this address with this port, whatever else is there
 *   -U PATH, -U -       a unix socket; with nothing else given there is no TCP
 */

import { isIP } from 'node:net';
import { EINVAL } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import type { ListenSource } from '../engine/engine.js';
import { defaultHost, defaultPort } from './option-table.js';

/** Private: a unix socket in a folder that nobody else can look into. */
export type Listening = ListenSource | { readonly kind: 'private' };

export interface ListenWords {
  readonly ports: readonly string[];
  readonly addresses: readonly string[];
  readonly paths: readonly string[];
}

/** Empty if nothing was said. Throws MapperError EINVAL. */
export function parseListening({ ports, addresses, paths }: ListenWords): Listening[] {
  const all: Listening[] = [];
  const plain: string[] = [];
  const numbers = ports.map((text) => parsePort('--port', text));
  for (const text of addresses) {
    const withPort = /^(?:\[([^\]]*)\]|([^:]*)):([^:]*)$/.exec(text);
    const host = withPort?.[1] ?? withPort?.[2] ?? text.replace(/^\[(.*)\]$/, '$1');
    if (isIP(host) === 0) {
      throw new MapperError(EINVAL, `--ip-addr: found "${text}", wanted a numeric address`);
    }
    if (withPort === null) plain.push(host);
    else all.push({ kind: 'tcp', host, port: parsePort('--ip-addr', withPort[3] as string) });
  }
  if (plain.length === 0 && numbers.length > 0) {
    if (all.length > 0) {
      const text = `--port: found "${ports[0]}", but every --ip-addr has a port of its own`;
      throw new MapperError(EINVAL, text);
    }
    plain.push(defaultHost);
  }
  const hosts = numbers.length === 0 ? [defaultPort] : numbers;
  for (const port of hosts) for (const host of plain) all.push({ kind: 'tcp', host, port });
  for (const path of paths) {
    if (path === '') throw new MapperError(EINVAL, '--unix: found "", wanted a path or "-"');
    all.push(path === '-' ? { kind: 'private' } : { kind: 'unix', path });
  }
  for (const [index, one] of all.entries()) {
    const text = listeningText(one);
    const twice = all.slice(0, index).some((other) => listeningText(other) === text);
    const free = one.kind === 'private' || (one.kind === 'tcp' && one.port === 0);
    if (twice && !free) throw new MapperError(EINVAL, `found ${text} twice, wanted it once`);
  }
  return all;
}

function listeningText(one: Listening): string {
  if (one.kind === 'tcp') return `address ${one.host} with port ${one.port}`;
  return one.kind === 'unix' ? `socket "${one.path}"` : one.kind;
}

function parsePort(option: string, text: string): number {
  const port = /^[0-9]{1,5}$/.test(text) ? Number(text) : Number.NaN;
  if (port >= 0 && port <= 65_535) return port;
  throw new MapperError(EINVAL, `${option}: found "${text}", wanted 0 to 65535`);
}
