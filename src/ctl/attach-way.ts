/** Whether an export can be attached, and where it can be had from here. */

import { EBUSY, EINVAL, ENOENT, ENXIO, EOPNOTSUPP } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { localAddress } from '../control/attach.js';
import type { ListenAddress } from '../engine/engine.js';
import { type Probe, probeExport } from '../kernel/probe.js';
import type { ControlClient } from './client.js';

export interface Way {
  readonly address: ListenAddress;
  readonly probe: Probe;
}

/** What the kernel would choke on. */
export async function checkDevice(client: ControlClient, name: string): Promise<void> {
  const info = await client.call('info', { name }).catch((error) => {
    if (!(error instanceof MapperError) || error.errno !== ENXIO) throw error;
    throw new MapperError(ENXIO, `the daemon has no such device (mapperctl ls lists them)`);
  });
  if (info.sizeSectors === 0) throw new MapperError(EINVAL, 'device has no table, so no size');
  if (info.state === 'SUSPENDED') {
    throw new MapperError(EBUSY, `device is suspended: mapperctl resume ${name}`);
  }
}

/** The local way if there is one. Throws MapperError with why the first does not work. */
export async function findWay(client: ControlClient, name: string): Promise<Way> {
  const listeners = (await client.call('listeners', {})).map(localAddress);
  // nbd-client knows no abstract sockets, and some sockets have no name.
  const usable = listeners.filter((one) => one.kind === 'tcp' || /^[^\0]/.test(one.path));
  const local = usable.filter(({ kind }) => kind === 'unix');
  const failures: MapperError[] = [];
  for (const address of [...local, ...usable.filter(({ kind }) => kind === 'tcp')]) {
    try {
      return { address, probe: await probeExport(address, name) };
    } catch (error) {
      if (!(error instanceof MapperError)) throw error;
      failures.push(error.prefixed(whereText(address)));
    }
  }
  const [failure = new MapperError(ENOENT, 'the daemon listens nowhere')] = failures;
  throw failure.errno === EOPNOTSUPP
    ? new MapperError(EOPNOTSUPP, `${failure.message} (attach it by nbd-client, with its keys)`)
    : failure;
}

function whereText(address: ListenAddress): string {
  return address.kind === 'unix' ? `"${address.path}"` : `${address.host} port ${address.port}`;
}
