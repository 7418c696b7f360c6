/** The ways of copying a file that are compared. */

import { fileURLToPath } from 'node:url';
import type { EngineChoice } from '../../src/engine/choose.js';
import type { Command } from './program.js';
import type { RunningServer } from './running-server.js';
import {
  mapperdCommand,
  nbdkit,
  readyEngine,
  type ServedFile,
  type ServerSpec,
} from './servers.js';

export interface CopyWay {
  readonly label: string;
  /** Stands ready the whole time. */
  readonly sourceServer?: ServerSpec;
  /** Stands ready when the clock starts, and serves a file of the source's size that is one hole. */
  readonly destinationServer?: ServerSpec;
  command(ends: CopyEnds): Command;
  /** How it copied, by what the command printed. */
  detail?(output: string): string | null;
}

export interface CopyEnds {
  readonly source: ServedFile;
  readonly destination: ServedFile;
  /** Null: the way has none. */
  readonly sourceServer: RunningServer | null;
  readonly destinationServer: RunningServer | null;
}

const mapperctlPath = fileURLToPath(new URL('../../src/mapperctl.js', import.meta.url));

/** A daemon that serves nothing of interest, and its control command. */
export function copyWithMapperctl(engine: EngineChoice): CopyWay {
  const control = (address: RunningServer['address']): string =>
    address.kind === 'unix' ? `${address.path}.control` : 'none';
  const daemon: ServerSpec = {
    label: 'mapperd',
    cache: 'warm',
    detail: readyEngine,
    commands: (_file, address) => [
      mapperdCommand(engine, address, ['--device', 'nothing: 0 8 zero'], control(address)),
    ],
  };
  return {
    label: 'mapperctl copy',
    sourceServer: daemon,
    command: ({ source, destination, sourceServer }) => {
      if (sourceServer === null) throw new Error('mapperctl copy needs a daemon');
      const words = ['copy', source.path, destination.path];
      const args = [mapperctlPath, '-c', control(sourceServer.address), ...words];
      return { program: process.execPath, args };
    },
    detail: (output) => /; (by .+)$/m.exec(output)?.[1] ?? null,
  };
}

/** From one export to another; it is told that the destination reads as zeroes. */
export const copyWithNbdcopy: CopyWay = {
  label: 'nbdcopy, nbdkit to nbdkit',
  sourceServer: nbdkit(),
  destinationServer: nbdkit(),
  command: ({ sourceServer, destinationServer }) => {
    if (sourceServer === null || destinationServer === null) throw new Error('nbdcopy needs both');
    const uris = [sourceServer.uri, destinationServer.uri];
    return { program: 'nbdcopy', args: ['--destination-is-zero', ...uris] };
  },
};

export const copyWithCp: CopyWay = {
  label: 'cp --sparse=always',
  command: ({ source, destination }) => ({
    program: 'cp',
    args: ['--sparse=always', source.path, destination.path],
  }),
};
