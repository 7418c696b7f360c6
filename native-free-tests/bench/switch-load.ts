/** What an upload each second costs clients: rounds with and without, side by side on one server. */

import { setTimeout as sleep } from 'node:timers/promises';
import { ControlClient } from '../../src/ctl/client.js';
import type { EngineChoice } from '../../src/engine/choose.js';
import { encodeRegions } from '../../src/target/switch/upload-format.js';
import { type FigureRow, random } from './case.js';
import type { Conditions } from './compare.js';
import { runFio } from './fio.js';
import { ramsayLayout, ramsayRegions, tableOf } from './layouts.js';
import { type RunningServer, startServer, stopServers } from './running-server.js';
import type { ServerSpec } from './servers.js';
import { median, spread } from './statistics.js';
import {
  controlPath,
  fileWords,
  pathFiles,
  switchPaths,
  switchServer,
  switchTable,
} from './switch-servers.js';
import { settle } from './test-file.js';

const regionSectors = 8;
const everyMilliseconds = 1000;
const mostLost = 0.02;

/** Ramsay's table; the data are in the first part of it, and nothing else is read. */
function server(engine: EngineChoice): ServerSpec {
  const bytes = ramsayRegions * regionSectors * 512;
  return switchServer({
    engine,
    label: 'mapperd',
    files: (file, directory) => pathFiles(directory, file.bytes / switchPaths, bytes),
    devices: (file, directory) => {
      const files = pathFiles(directory, file.bytes / switchPaths, bytes);
      const table = switchTable(ramsayRegions, regionSectors, fileWords(files));
      const regions = tableOf(ramsayLayout(switchPaths, 1), switchPaths, regionSectors);
      return [{ name: 'vol', table, regions }];
    },
  });
}

/** Throws if the server, fio or an upload fails. */
export async function measureUploadLoad(
  engine: EngineChoice,
  conditions: Conditions,
): Promise<readonly FigureRow[]> {
  const { places, rounds, seconds, signal, note } = conditions;
  const tables = [1, 2].map((seed) => {
    const table = tableOf(ramsayLayout(switchPaths, seed), switchPaths, regionSectors);
    return Buffer.concat(encodeRegions({ sector: 0, table }));
  });
  const file = await places.file('directory');
  const running = await startServer(server(engine), file, 'unix', places.sockets, signal);
  const alone: number[] = [];
  const uploading: number[] = [];
  let uploads = 0;
  try {
    // What compiles code does not count.
    await loadUploading(running, tables, { ...conditions, seconds: 2 });
    for (let round = 0; round < rounds; round++) {
      const withUploads = async (): Promise<void> => {
        const { iops, count } = await loadUploading(running, tables, conditions);
        uploading.push(iops);
        uploads += count;
      };
      const without = async (): Promise<void> => {
        alone.push(await load(running, seconds, conditions));
      };
      for (const run of round % 2 === 0 ? [without, withUploads] : [withUploads, without]) {
        await run();
      }
      const [a, b] = [alone.at(-1) ?? 0, uploading.at(-1) ?? 0].map(Math.round);
      note(`switch-upload-load ${round + 1}/${rounds}: alone ${a}, uploading ${b}`);
    }
  } finally {
    await stopServers([running]);
  }
  const ratio = median(uploading) / median(alone);
  const iops = (values: readonly number[]): string => {
    const value = Math.round(median(values)).toLocaleString('en-GB');
    return `${value} IOPS, spread ${Math.round(spread(values) * 100)}%`;
  };
  const least = 1 - mostLost;
  return [
    { what: 'alone', found: iops(alone), wanted: '', met: null },
    { what: `with uploads, ${uploads} of them`, found: iops(uploading), wanted: '', met: null },
    { what: 'ratio', found: ratio.toFixed(3), wanted: `>= ${least}`, met: ratio >= least },
  ];
}

/** IOPS. */
async function load(
  { uri, ownFiles }: RunningServer,
  seconds: number,
  { signal }: Conditions,
): Promise<number> {
  for (const file of ownFiles) await settle(file, 'warm', signal);
  const areaBytes = ownFiles[0]?.bytes ?? 0;
  return (await runFio({ ...random('randread'), areaBytes }, { seconds }, uri, signal)).iops;
}

async function loadUploading(
  running: RunningServer,
  tables: readonly Uint8Array[],
  conditions: Conditions,
): Promise<{ iops: number; count: number }> {
  const client = await ControlClient.connect([controlPath(running.directory)]);
  const done = new AbortController();
  let count = 0;
  const pause = (milliseconds: number): Promise<void> =>
    sleep(milliseconds, undefined, { signal: done.signal }).catch(() => {});
  const uploads = (async () => {
    // In the middle of each second, so that a run has as many as it has seconds.
    await pause(everyMilliseconds / 2);
    while (!done.signal.aborted) {
      await client.upload({ name: 'vol' }, tables[count++ % tables.length] as Uint8Array);
      await pause(everyMilliseconds);
    }
  })();
  // It is awaited below; until then fio goes on without.
  uploads.catch(() => {});
  try {
    return { iops: await load(running, conditions.seconds, conditions), count };
  } finally {
    done.abort();
    await uploads;
    await client.close();
  }
}
