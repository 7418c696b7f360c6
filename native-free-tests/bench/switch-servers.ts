/**
 * mapperd with switch devices. Their tables are in a state directory from the start, so that what
 * is measured is a table that was restored as after any restart.
 */

import { mkdir, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { EngineChoice } from '../../src/engine/choose.js';
import type { RegionUpload } from '../../src/queue/commands.js';
import { encodeRegions } from '../../src/target/switch/upload-format.js';
import {
  fileWord,
  mapperdCommand,
  readyEngine,
  type ServedFile,
  type ServerSpec,
} from './servers.js';
import { makeFile } from './test-file.js';

export const switchPaths = 4;

/** A device of the state directory. */
export interface StateDevice {
  readonly name: string;
  readonly table: string;
  readonly regions?: RegionUpload;
}

/** Where a client finds the daemon's control socket. */
export function controlPath(directory: string): string {
  return join(directory, 'c.sock');
}

export interface SwitchServer {
  readonly engine: EngineChoice;
  readonly label: string;
  /** Devices, the first of which is loaded; `directory` is where its files are. */
  devices(file: ServedFile, directory: string): readonly StateDevice[];
  /** Files with data in their first so many bytes, and so long. */
  files?(file: ServedFile, directory: string): readonly (ServedFile & { dataBytes: number })[];
}

export function switchServer({ engine, label, devices, files }: SwitchServer): ServerSpec {
  return {
    label,
    cache: 'warm',
    detail: readyEngine,
    exportName: 'vol',
    prepare: async (file, directory, signal) => {
      const made = files?.(file, directory) ?? [];
      for (const one of made) {
        await makeFile({ path: one.path, bytes: one.dataBytes }, signal);
        const handle = await open(one.path, 'r+');
        await handle.truncate(one.bytes);
        await handle.close();
      }
      await makeState(join(directory, 'state'), devices(file, directory));
      return made.map(({ path, dataBytes }) => ({ path, bytes: dataBytes }));
    },
    commands: (_file, address, directory) => {
      const words = ['--state', join(directory, 'state'), '-e', 'vol'];
      return [mapperdCommand(engine, address, words, controlPath(directory))];
    },
  };
}

async function makeState(directory: string, devices: readonly StateDevice[]): Promise<void> {
  await mkdir(directory, { mode: 0o700 });
  for (const { name, table, regions } of devices) {
    await writeFile(join(directory, `${name}.table`), `${table}\n`);
    if (regions === undefined) continue;
    const pieces = encodeRegions({ sector: 0, table: regions });
    await writeFile(join(directory, `${name}.regions`), Buffer.concat(pieces));
  }
}

/** Four files beside one another, `dataBytes` of data in each, holes behind them. */
export function pathFiles(
  directory: string,
  dataBytes: number,
  bytes = dataBytes,
): readonly (ServedFile & { dataBytes: number })[] {
  return Array.from({ length: switchPaths }, (_, path) => {
    return { path: join(directory, `path${path}.img`), bytes, dataBytes };
  });
}

/** A switch's line over backings' words. */
export function switchTable(
  regions: number,
  regionSectors: number,
  words: readonly string[],
): string {
  const paths = words.map((word) => `${word} 0`).join(' ');
  return `0 ${regions * regionSectors} switch ${words.length} ${regionSectors} 0 ${paths}`;
}

export function fileWords(files: readonly ServedFile[]): string[] {
  return files.map(fileWord);
}
