/** The servers that are compared: how each is started on a file and an address. */

import { fileURLToPath, pathToFileURL } from 'node:url';
import type { EngineChoice } from '../../src/engine/choose.js';
import type { Command } from './program.js';

export type Address =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

/** What a server is given to serve. */
export interface ServedFile {
  /** Absolute. */
  readonly path: string;
  /** A multiple of 1 MiB. */
  readonly bytes: number;
}

export interface ServerSpec {
  /** Its name in the tables: unique within a case. */
  readonly label: string;
  /** Ways to start it, the best first; the next is taken where one ends instead of serving. */
  commands(file: ServedFile, address: Address, directory: string): readonly Command[];
  /** The page cache as the server itself leaves it, which each of its runs starts with. */
  readonly cache: 'warm' | 'dropped';
  /** How it runs, once it serves: from its standard error and the way in which it was started. */
  detail?(errors: string, command: Command): string | null;
  /** Left out where it does not start; without it the case has failed. */
  readonly optional?: boolean;
  /** The export that is loaded; without it the default one. */
  readonly exportName?: string;
  /**
   * Makes the files that it needs beside the served one, in a new directory of its own, which goes
   * with the server. Returns those that are read and written as the served file is.
   */
  prepare?(
    file: ServedFile,
    directory: string,
    signal: AbortSignal,
  ): Promise<readonly ServedFile[]>;
  /** An export over files of no consequence: where each run has a new server, this warms it up. */
  readonly warmUp?: string;
  /** An export of which each block is written once, in random order, before anything else. */
  readonly filled?: string;
}

const mapperdPath = fileURLToPath(new URL('../../src/mapperd.js', import.meta.url));

/** mapperd with its address, its engine and `words`, without a control socket unless one is given. */
export function mapperdCommand(
  engine: EngineChoice,
  address: Address,
  words: readonly string[],
  control = 'none',
): Command {
  const place = usualPlace(address);
  // All servers of a case have its file open, one of them loaded at a time.
  const common = ['--no-lock', '--control', control, '--engine', engine];
  const args = [mapperdPath, ...place, ...common, ...words];
  return { program: process.execPath, args };
}

/** Where to listen, as mapperd and nbdkit have it. */
export function usualPlace(address: Address): string[] {
  return address.kind === 'unix'
    ? ['-U', address.path]
    : ['-i', address.host, '-p', `${address.port}`];
}

export interface MapperdParameters {
  readonly engine: EngineChoice;
  readonly label?: string;
  /** O_DIRECT. */
  readonly direct?: boolean;
  /** Table lines over the file, `\n` between them; by default one linear target. */
  table?(file: ServedFile): string;
}

export function mapperd(parameters: MapperdParameters): ServerSpec {
  const { engine, label = 'mapperd', direct = false, table } = parameters;
  return {
    label,
    cache: direct ? 'dropped' : 'warm',
    commands: (file, address) => {
      const lines = table?.(file) ?? (direct ? linearTable(file, directWord(file)) : null);
      const served =
        lines === null
          ? [file.path]
          : ['--device', `bench: ${lines.replaceAll('\n', '; ')}`, '-e', 'bench'];
      return [mapperdCommand(engine, address, served)];
    },
    detail: readyEngine,
  };
}

/** Which engine the daemon took, from its log's line "ready". */
export function readyEngine(log: string): string | null {
  const match = /^\{.*"engine":"(\w+)".*"msg":"ready"/m.exec(log);
  return match === null ? null : `engine ${match[1]}`;
}

export function linearTable(file: ServedFile, word: string): string {
  return `0 ${file.bytes / 512} linear ${word} 0`;
}

/** A backing's word for the file. */
export function fileWord(file: ServedFile): string {
  return pathToFileURL(file.path).href;
}

/** A backing's word for the file with O_DIRECT. */
export function directWord(file: ServedFile): string {
  return `${fileWord(file)}?direct=1`;
}

export interface NbdkitParameters {
  /** Parameters of the file plugin, `cache=none`. */
  readonly plugin?: readonly string[];
}

export function nbdkit({ plugin = [] }: NbdkitParameters = {}): ServerSpec {
  return {
    label: ['nbdkit', ...plugin].join(' '),
    cache: plugin.includes('cache=none') ? 'dropped' : 'warm',
    optional: plugin.length > 0,
    commands: (file, address) => {
      const place = usualPlace(address);
      return [
        { program: 'nbdkit', args: ['-f', ...place, 'file', `file=${file.path}`, ...plugin] },
      ];
    },
  };
}

export interface QemuNbdParameters {
  /** O_DIRECT, by --cache=none. */
  readonly direct?: boolean;
}

export function qemuNbd({ direct = false }: QemuNbdParameters = {}): ServerSpec {
  return {
    label: direct ? 'qemu-nbd --cache=none' : 'qemu-nbd',
    cache: direct ? 'dropped' : 'warm',
    detail: (_errors, { args }) => args.find((arg) => arg.startsWith('--aio='))?.slice(2) ?? null,
    commands: (file, address) => {
      const modes = direct
        ? [
            ['--cache=none', '--aio=io_uring'],
            ['--cache=none', '--aio=native'],
          ]
        : [[]];
      return modes.map((mode) => qemuNbdCommand('raw', file.path, address, mode));
    },
  };
}

/** qemu-nbd on an image, for up to eight clients. */
export function qemuNbdCommand(
  format: 'raw' | 'qcow2',
  path: string,
  address: Address,
  mode: readonly string[] = [],
): Command {
  const place =
    address.kind === 'unix' ? ['-k', address.path] : ['-b', address.host, '-p', `${address.port}`];
  return {
    program: 'qemu-nbd',
    args: ['-f', format, '-t', '-e', '8', ...mode, ...place, path],
  };
}
