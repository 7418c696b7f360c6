/**
 * Socket addresses as the kernel has them.
 *
 *   sockaddr_in    16 bytes: u16 family (host order), u16 port (big endian), 4 bytes of address
 *   sockaddr_in6   28 bytes: u16 family, u16 port, u32 flow, 16 bytes of address, u32 scope
 *   sockaddr_un     2 bytes of family, and a path: up to a NUL or the end; an abstract name begins
 *                  with a NUL and goes to the end
 */

import { isIP, isIPv4 } from 'node:net';
import { EINVAL } from '../../base/errno.js';
import { MapperError } from '../../base/errors.js';
import { plainHost } from '../address.js';
import type { ListenAddress } from '../engine.js';

export const AF_UNIX = 1;
const AF_INET = 2;
const AF_INET6 = 10;

/** Throws MapperError EINVAL. */
export function packAddress(address: ListenAddress): Uint8Array {
  if (address.kind === 'unix') {
    const path = Buffer.from(address.path);
    if (path.length === 0 || path.length > 107) {
      const text = `socket path of ${path.length} bytes, wanted 1 to 107: "${address.path}"`;
      throw new MapperError(EINVAL, text);
    }
    // Every byte of an abstract name counts, a NUL at its end would, too.
    const bytes = new Uint8Array(2 + path.length + (path[0] === 0 ? 0 : 1));
    bytes[0] = AF_UNIX;
    bytes.set(path, 2);
    return bytes;
  }
  const { host, port } = address;
  if (isIP(host) === 0) {
    throw new MapperError(EINVAL, `found address "${host}", wanted a numeric one`);
  }
  const four = isIPv4(host);
  const bytes = new Uint8Array(four ? 16 : 28);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, four ? AF_INET : AF_INET6, true);
  view.setUint16(2, port);
  bytes.set(four ? host.split('.').map(Number) : ipv6Bytes(host), four ? 4 : 8);
  return bytes;
}

export function familyOf(bytes: Uint8Array): number {
  return (bytes[0] as number) | ((bytes[1] as number) << 8);
}

/** The 16 bytes of an IPv6 address; URL writes any form of one out as groups and one gap. */
function ipv6Bytes(host: string): number[] {
  const text = new URL(`http://[${host.split('%')[0]}]`).hostname.slice(1, -1);
  const [left = '', right] = text.split('::');
  const groups = (part: string): number[] =>
    part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16));
  const before = groups(left);
  const after = right === undefined ? [] : groups(right);
  const gap = new Array<number>(8 - before.length - after.length).fill(0);
  return [...before, ...gap, ...after].flatMap((group) => [group >> 8, group & 0xff]);
}

/** `bytes` end where the kernel says that the address does. Null: of no family that we know. */
export function unpackAddress(bytes: Uint8Array): ListenAddress | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 2) return null;
  const family = familyOf(bytes);
  if (family === AF_UNIX) return { kind: 'unix', path: unixPath(bytes.subarray(2)) };
  if (family === AF_INET && bytes.length >= 16) {
    return { kind: 'tcp', host: bytes.subarray(4, 8).join('.'), port: view.getUint16(2) };
  }
  if (family !== AF_INET6 || bytes.length < 28) return null;
  const groups = Array.from({ length: 8 }, (_, i) => view.getUint16(8 + 2 * i).toString(16));
  const host = new URL(`http://[${groups.join(':')}]`).hostname.slice(1, -1);
  return { kind: 'tcp', host: plainHost(host), port: view.getUint16(2) };
}

function unixPath(bytes: Uint8Array): string {
  const end = bytes[0] === 0 ? -1 : bytes.indexOf(0);
  return Buffer.from(end < 0 ? bytes : bytes.subarray(0, end)).toString();
}
