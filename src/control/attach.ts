/** How clients are told where the devices are. */

import { resolve } from 'node:path';
import type { ListenAddress } from '../engine/engine.js';

/** NBD URI of an export; the empty name means the default export. */
export function nbdUri(address: ListenAddress, exportName: string): string {
  const name = encodeURIComponent(exportName);
  if (address.kind === 'tcp') return `nbd://${hostOf(address.host)}:${address.port}/${name}`;
  const path = resolve(address.path).split('/').map(encodeURIComponent).join('/');
  return `nbd+unix:///${name}?socket=${path}`;
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
