/**
 * Where the control socket is when nothing else is said. The daemon takes the first; one that
 * serves ./state because nothing was asked for takes the second where it cannot have the first. The
 * third is where systemd's unit has it. The control command tries them in this order.
 */

import { join } from 'node:path';

export function defaultControlPath(environment: NodeJS.ProcessEnv = process.env): string {
  const { XDG_RUNTIME_DIR: runtimeDirectory } = environment;
  return join(runtimeDirectory || '/run', 'mapperd.sock');
}

export const embeddedControlPath = 'state/control.sock';

export const serviceControlPath = '/run/mapperd/control.sock';
