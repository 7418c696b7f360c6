/** How clients are told where the devices are. */

import { resolve } from 'node:path';
import { socketName } from '../engine/address.js';
import type { ListenAddress } from '../engine/engine.js';
import type { TlsOptions } from '../gate/tls-options.js';

/**
 * NBD URI of an export; the empty name means the default export. Where TLS is required, it says so,
 * and where the keys are, for a client on this machine.
 */
export function nbdUri(
  address: ListenAddress,
  exportName: string,
  tls: TlsOptions | null = null,
): string {
  const required = tls?.mode === 'require';
  const scheme = required ? 'nbds' : 'nbd';
  const name = encodeURIComponent(exportName);
  const words: string[] = [];
  // A socket that was passed to us may have no name here.
  if (address.kind === 'unix' && address.path !== '') {
    const path = address.path.startsWith('\0') ? address.path : resolve(address.path);
    words.push(`socket=${encodePath(socketName(path))}`);
  }
  if (required && tls.psk !== null) words.push(`tls-psk-file=${encodePath(resolve(tls.psk))}`);
  if (required && tls.certificates !== null) {
    words.push(`tls-certificates=${encodePath(resolve(tls.certificates))}`);
  }
  const query = words.length === 0 ? '' : `?${words.join('&')}`;
  if (address.kind === 'unix') return `${scheme}+unix:///${name}${query}`;
  return `${scheme}://${hostOf(address.host)}:${address.port}/${name}${query}`;
}

function encodePath(path: string): string {
  return path.split('/').map(encodeURIComponent).join('/');
}

/** An address that a client on this machine can connect to. */
export function localAddress(address: ListenAddress): ListenAddress {
  if (address.kind === 'unix') return address;
  const host = { '0.0.0.0': '127.0.0.1', '::': '::1' }[address.host] ?? address.host;
  return { ...address, host };
}

function hostOf(host: string): string {
  return host.includes(':') ? `[${host}]` : host;
}

/** Lines for somebody who has just started the daemon for the first time. */
export function attachLines(
  device: string,
  snapshot: string | null,
  addresses: readonly ListenAddress[],
  controlCommand: string,
): string {
  const lines: string[] = [];
  for (const address of addresses) {
    const uri = quoteShell(nbdUri(address, device));
    const name = quoteShell(device);
    const where =
      address.kind === 'tcp'
        ? `${address.host} ${address.port}`
        : `-unix ${quoteShell(resolve(address.path))}`;
    lines.push(
      `${device} is at ${nbdUri(address, device)}`,
      `  nbd-client ${where} -N ${name} /dev/nbd0     (root; needs the kernel's nbd module)`,
      `  nbdinfo ${uri}`,
      `  qemu-img info ${uri}`,
      `  qemu-system-x86_64 -drive file=${uri},format=raw,if=virtio`,
    );
  }
  // A program that copies takes the way that has no network in it.
  const local = addresses.find(({ kind }) => kind === 'unix') ?? addresses[0];
  if (snapshot !== null && local !== undefined) {
    const copy = `nbdcopy ${quoteShell(nbdUri(local, snapshot))} ${quoteShell(`${device}.backup`)}`;
    lines.push(`${snapshot} is a snapshot of it; back it up: ${copy}`);
  }
  lines.push('Change it while it is in use:', `  ${controlCommand} table ${quoteShell(device)}`);
  return `${lines.join('\n')}\n`;
}

export function quoteShell(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
