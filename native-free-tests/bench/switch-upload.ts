/**
 * How long it takes until I/O goes by a new table: uploaded in binary, and sent as text, in messages
 * of 4096 bytes, each when the one before it has been answered, as dmsetup would. Two layouts take
 * turns; region 0 is on another path in each, and what a read finds there tells which is live.
 */

import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { ControlClient } from '../../src/ctl/client.js';
import { regionMessages } from '../../src/ctl/region-text.js';
import type { EngineChoice } from '../../src/engine/choose.js';
import type { RegionUpload } from '../../src/queue/commands.js';
import { encodeRegions } from '../../src/target/switch/upload-format.js';
import { type OpenExport, openExport } from '../control/daemon-process.js';
import type { FigureRow } from './case.js';
import type { Conditions } from './compare.js';
import { ramsayLayout, ramsayRegions, tableOf } from './layouts.js';
import { startServer, stopServers } from './running-server.js';
import { mapperdCommand, readyEngine, type ServedFile, type ServerSpec } from './servers.js';
import { median } from './statistics.js';
import { kernelTextSeconds } from './switch-kernel.js';
import { controlPath, fileWords, pathFiles, switchPaths, switchTable } from './switch-servers.js';

const regionSectors = 128;
const messageBytes = 4096;
const timesWanted = 50;

/** A layout in the forms in which it is sent. */
interface Layout {
  /** The path of region 0. */
  readonly path: number;
  readonly bytes: Uint8Array;
  readonly messages: readonly string[][];
}

/** Throws if the server fails, or a read is routed by the wrong table. */
export async function measureUpload(
  engine: EngineChoice,
  conditions: Conditions,
): Promise<readonly FigureRow[]> {
  const layouts = [layoutOn(0, 1), layoutOn(1, 2)] as const;
  const unstored = await withServer(server(engine, false), conditions, async (client, disk) => {
    const binary = await times(conditions, layouts, disk, (layout) => upload(client, layout));
    const text = await times(conditions, layouts, disk, (layout) => sendText(client, layout));
    return { binary, text };
  });
  const stored = await withServer(server(engine, true), conditions, (client, disk) =>
    times(conditions, layouts, disk, (layout) => upload(client, layout)),
  );
  const ratio = unstored.text / unstored.binary;
  const [{ bytes, messages }] = layouts;
  const kernel = await kernelTextSeconds(
    conditions.places.scratch,
    messages.map((words) => words.join(' ')),
    ramsayRegions * regionSectors,
    switchPaths,
    regionSectors,
  );
  const row = (what: string, found: string): FigureRow => ({ what, found, wanted: '', met: null });
  return [
    row(`binary, ${bytes.length} bytes`, `${unstored.binary.toFixed(2)} ms`),
    row(
      `text, ${messages.length} messages of ${messageBytes} bytes`,
      `${unstored.text.toFixed(1)} ms`,
    ),
    {
      what: 'text over binary',
      found: ratio.toFixed(1),
      wanted: `>= ${timesWanted}`,
      met: ratio >= timesWanted,
    },
    row('binary, durable in a state directory', `${stored.toFixed(2)} ms`),
    row(
      `text, dmsetup ${messages.length} times, the kernel's dm-switch in user-mode Linux`,
      kernel === null ? 'left out: user-mode-linux is not installed' : `${kernel.toFixed(1)} s`,
    ),
  ];
}

/** Ramsay's layout with region 0 on a given path. */
function layoutOn(path: number, seed: number): Layout {
  const layout = ramsayLayout(switchPaths, seed);
  const turn = (path - (layout[0] as number) + switchPaths) % switchPaths;
  const turned = layout.map((one) => (one + turn) % switchPaths);
  const table: RegionUpload = tableOf(turned, switchPaths, regionSectors);
  const messages = [...regionMessages(table, messageBytes)].map((text) => text.split(' '));
  return { path, bytes: Buffer.concat(encodeRegions({ sector: 0, table })), messages };
}

function server(engine: EngineChoice, stored: boolean): ServerSpec {
  const bytes = ramsayRegions * regionSectors * 512;
  const files = (directory: string): readonly ServedFile[] => pathFiles(directory, 1 << 20, bytes);
  const table = (directory: string): string =>
    switchTable(ramsayRegions, regionSectors, fileWords(files(directory)));
  return {
    label: 'mapperd',
    cache: 'warm',
    detail: readyEngine,
    prepare: async (_file, directory) => {
      for (const [path, file] of files(directory).entries()) {
        const handle = await open(file.path, 'wx');
        await handle.write(Buffer.alloc(512, path + 1));
        await handle.truncate(file.bytes);
        await handle.close();
      }
      return [];
    },
    commands: (_file, address, directory) => {
      // One of the command line is stored nowhere; one in a state directory is made by the client.
      const words = stored
        ? ['--state', join(directory, 'state')]
        : ['--device', `vol: ${table(directory)}`];
      return [mapperdCommand(engine, address, words, controlPath(directory))];
    },
  };
}

async function withServer<T>(
  spec: ServerSpec,
  { places, signal }: Conditions,
  work: (client: ControlClient, disk: OpenExport) => Promise<T>,
): Promise<T> {
  const file = await places.file('directory');
  const running = await startServer(spec, file, 'unix', places.sockets, signal);
  let client: ControlClient | null = null;
  let disk: OpenExport | null = null;
  try {
    const { address, directory } = running;
    if (address.kind !== 'unix') throw new Error('the control client needs unix sockets');
    client = await ControlClient.connect([controlPath(directory)]);
    const known = (await client.call('ls', {})).length > 0;
    if (!known) {
      const bytes = ramsayRegions * regionSectors * 512;
      const words = fileWords(pathFiles(directory, 1 << 20, bytes));
      const table = switchTable(ramsayRegions, regionSectors, words);
      await client.call('create', { name: 'vol', table });
    }
    disk = await openExport(address.path, 'vol');
    return await work(client, disk);
  } finally {
    disk?.close();
    await client?.close();
    await stopServers([running]);
  }
}

/** The median, in milliseconds. */
async function times(
  { rounds, signal }: Conditions,
  layouts: readonly Layout[],
  disk: OpenExport,
  send: (layout: Layout) => Promise<void>,
): Promise<number> {
  const found: number[] = [];
  // The first two do not count: code is compiled.
  for (let round = -2; round < 2 * rounds; round++) {
    signal.throwIfAborted();
    const layout = layouts[(round + 2) % layouts.length] as Layout;
    const begin = performance.now();
    await send(layout);
    const read = await disk.read(0, 512);
    const milliseconds = performance.now() - begin;
    if (read[0] !== layout.path + 1) throw new Error('the first I/O went by the wrong table');
    if (round >= 0) found.push(milliseconds);
  }
  return median(found);
}

async function upload(client: ControlClient, { bytes }: Layout): Promise<void> {
  await client.upload({ name: 'vol' }, bytes);
}

async function sendText(client: ControlClient, { messages }: Layout): Promise<void> {
  for (const words of messages) await client.call('message', { name: 'vol', sector: 0, words });
}
