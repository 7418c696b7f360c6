/** Memory of many routers: none of them, all of them fresh, all of them with full tables. */

import { setTimeout as sleep } from 'node:timers/promises';
import { ControlClient } from '../../src/ctl/client.js';
import type { EngineChoice } from '../../src/engine/choose.js';
import { encodeRegions } from '../../src/target/switch/upload-format.js';
import type { FigureRow } from './case.js';
import type { Conditions } from './compare.js';
import { ramsayLayout, ramsayRegions, tableOf } from './layouts.js';
import { residentMegabytes } from './proc.js';
import { startServer, stopServers } from './running-server.js';
import { controlPath, switchPaths, switchServer, switchTable } from './switch-servers.js';

const routers = 512;
const regionSectors = 128;
/** Fresh ones should have no tables to speak of: a device, and its paths... */
const freshKilobytesMost = 32;
/** ...and full ones their 393 KB, and what of the uploads has not been collected yet. */
const fullKilobytesMost = 500;
const restMilliseconds = 1000;

/** Throws if the server fails. */
export async function measureRouters(
  engine: EngineChoice,
  { places, signal, note }: Conditions,
): Promise<readonly FigureRow[]> {
  const file = await places.file('directory');
  const sectors = ramsayRegions * regionSectors;
  const spec = switchServer({
    engine,
    label: 'mapperd',
    devices: () => [{ name: 'vol', table: `0 ${sectors} zero` }],
  });
  const running = await startServer(spec, file, 'unix', places.sockets, signal);
  let client: ControlClient | null = null;
  const resident = async (): Promise<number> => {
    await sleep(restMilliseconds, null, { signal });
    return residentMegabytes(running.program.pid);
  };
  try {
    client = await ControlClient.connect([controlPath(running.directory)]);
    const names = Array.from({ length: routers }, (_, at) => `router${at}`);
    const words = new Array<string>(switchPaths).fill('dm:vol');
    const table = switchTable(ramsayRegions, regionSectors, words);
    const before = await resident();
    const linear = `0 ${sectors} linear dm:vol 0`;
    for (const name of names)
      await client.call('create', { name: `linear-${name}`, table: linear });
    const plain = await resident();
    for (const name of names) await client.call('create', { name, table });
    const fresh = await resident();
    note(`switch-memory: ${fresh.toFixed(1)} MB with fresh routers`);
    const layout = tableOf(ramsayLayout(switchPaths, 1), switchPaths, regionSectors);
    const bytes = Buffer.concat(encodeRegions({ sector: 0, table: layout }));
    for (const name of names) {
      signal.throwIfAborted();
      await client.upload({ name }, bytes);
    }
    const full = await resident();
    return [
      { what: 'before', found: `${before.toFixed(1)} MB`, wanted: '', met: null },
      row(`${routers} linear devices`, plain, plain - before, null),
      row(`${routers} fresh routers`, fresh, fresh - plain, freshKilobytesMost),
      row(`${routers} full routers`, full, full - fresh, fullKilobytesMost),
    ];
  } finally {
    await client?.close();
    await stopServers([running]);
  }
}

function row(what: string, megabytes: number, added: number, most: number | null): FigureRow {
  const each = (added * 1000) / routers;
  const found = `${megabytes.toFixed(1)} MB, ${each.toFixed(1)} KB more for each`;
  if (most === null) return { what, found, wanted: '', met: null };
  return { what, found, wanted: `<= ${most} KB`, met: each <= most };
}
