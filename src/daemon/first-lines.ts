/** What somebody reads who has started the daemon for the first time. */

import { attachLines, quoteShell } from '../control/attach.js';
import { defaultControlPath } from '../control/control-path.js';
import { firstSnapshot, firstVolume } from '../control/first-volume.js';
import type { ListenAddress } from '../engine/engine.js';

/** About the first volume, or any other if that has gone; empty if there are no devices. */
export function firstLines(
  names: readonly string[],
  addresses: readonly ListenAddress[],
  control: string | null,
): string {
  const device = names.includes(firstVolume) ? firstVolume : names[0];
  if (device === undefined) return '';
  const snapshot = names.includes(firstSnapshot) ? firstSnapshot : null;
  // Started from its source tree, nothing is in the path.
  const script = process.argv[1] ?? '';
  const command = script.endsWith('mapperd.js')
    ? `node ${quoteShell(script.replace(/mapperd\.js$/, 'mapperctl.js'))}`
    : 'mapperctl';
  const usual = control === null || control === defaultControlPath();
  const socket = usual ? '' : ` -c ${quoteShell(control)}`;
  return attachLines(device, snapshot, addresses, command + socket);
}
