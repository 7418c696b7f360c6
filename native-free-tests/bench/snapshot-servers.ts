/**
 * Servers with a snapshot: mapperd's origin or snapshot, and what others have for the purpose. Each
 * has its COW, overlay or target image in a directory of its own, on the served file's file system,
 * made anew whenever it is started.
 */

import { join } from 'node:path';
import type { EngineChoice } from '../../src/engine/choose.js';
import { run } from './program.js';
import {
  type Address,
  fileWord,
  mapperdCommand,
  qemuNbdCommand,
  readyEngine,
  type ServedFile,
  type ServerSpec,
  usualPlace,
} from './servers.js';
import { makeHole } from './test-file.js';

const MiB = 1 << 20;
const chunkSectors = 8;

export interface SnapshotParameters {
  readonly engine: EngineChoice;
  readonly label?: string;
  /** What is loaded: the volume that snapshots were taken of, or the first snapshot. */
  readonly loaded: 'origin' | 'snapshot';
  /** Transient or persistent, as the table line has it. */
  readonly store?: 'N' | 'P';
  /** With none, the volume is a linear device. */
  readonly snapshots?: number;
  /** All chunks have been copied, or written to, before it is measured. */
  readonly filled?: boolean;
  /** Each read and write of the origin takes this long. */
  readonly delayMilliseconds?: number;
  /** Copies one chunk at a time and completes them in order, as the kernel once did. */
  readonly serial?: boolean;
}

/**
 * mapperd with `vol`, an origin over the served file, and its snapshots; and with a small volume of
 * the same kind, `warm`, over files of its own.
 */
export function mapperdSnapshots(parameters: SnapshotParameters): ServerSpec {
  const { engine, label = 'mapperd', loaded, store = 'N', snapshots = 1 } = parameters;
  const { filled = false, delayMilliseconds = 0, serial = false } = parameters;
  const loadedOf = (volume: string): string =>
    loaded === 'origin' ? volume : snapshotName(volume, 0);
  const cows = (volume: string, origin: ServedFile, directory: string): ServedFile[] =>
    Array.from({ length: snapshots }, (_, at) => ({
      path: join(directory, `${snapshotName(volume, at)}.cow`),
      bytes: cowBytes(origin),
    }));
  return {
    label,
    cache: 'warm',
    detail: readyEngine,
    exportName: loadedOf('vol'),
    warmUp: loadedOf('warm'),
    ...(filled ? { filled: loadedOf('vol') } : {}),
    prepare: async (file, directory) => {
      const warm = warmFile(file, directory);
      const own = cows('vol', file, directory);
      for (const made of [...own, warm, ...cows('warm', warm, directory)]) await makeHole(made);
      return own;
    },
    commands: (file, address, directory) => {
      const devices = (volume: string, origin: ServedFile, milliseconds: number): string[] =>
        deviceLines(volume, origin, cows(volume, origin, directory), store, milliseconds);
      const lines = [
        ...devices('vol', file, delayMilliseconds),
        ...devices('warm', warmFile(file, directory), 0),
      ];
      const words = lines.flatMap((line) => ['--device', line]);
      const command = mapperdCommand(engine, address, words);
      if (!serial) return [command];
      const args = ['MAPPERD_SNAPSHOT_ORDER=serial', command.program, ...command.args];
      return [{ program: 'env', args }];
    },
  };
}

function snapshotName(volume: string, at: number): string {
  return `${volume}-snap${at}`;
}

/** Sparse: its pages cost nothing until it is loaded. */
function warmFile(file: ServedFile, directory: string): ServedFile {
  const bytes = Math.max(16, Math.floor(file.bytes / MiB / 4)) * MiB;
  return { path: join(directory, 'warm.img'), bytes };
}

/** Room for all chunks, and for an area of exceptions for each 256 of them. */
function cowBytes(origin: ServedFile): number {
  return origin.bytes + Math.ceil(origin.bytes / 128 / MiB) * MiB + MiB;
}

function deviceLines(
  volume: string,
  origin: ServedFile,
  cows: readonly ServedFile[],
  store: 'N' | 'P',
  milliseconds: number,
): string[] {
  const range = `0 ${origin.bytes / 512}`;
  const place = `${fileWord(origin)} 0`;
  const plain = `${range} ${milliseconds > 0 ? `delay ${place} ${milliseconds}` : `linear ${place}`}`;
  if (cows.length === 0) return [`${volume}: ${plain}`];
  const real = `${volume}-real`;
  return [
    `${real}: ${plain}`,
    `${volume}: ${range} snapshot-origin dm:${real}`,
    ...cows.map((cow, at) => {
      const words = `dm:${real} ${fileWord(cow)} ${store} ${chunkSectors}`;
      return `${snapshotName(volume, at)}: ${range} snapshot ${words}`;
    }),
  ];
}

/** A raw origin; what is about to be overwritten is copied to a qcow2 image first. */
export const qemuCopyBeforeWrite: ServerSpec = {
  label: 'qemu copy-before-write',
  cache: 'warm',
  exportName: 'vol',
  prepare: async ({ bytes }, directory, signal) => {
    const args = ['create', '-q', '-f', 'qcow2', targetPath(directory), `${bytes}`];
    await run('qemu-img', args, signal);
    return [];
  },
  commands: (file, address, directory) => {
    const nodes = [
      `driver=file,filename=${optionValue(file.path)},node-name=origin-file`,
      'driver=raw,file=origin-file,node-name=origin',
      `driver=file,filename=${optionValue(targetPath(directory))},node-name=target-file`,
      'driver=qcow2,file=target-file,node-name=target',
      'driver=copy-before-write,file=origin,target=target,node-name=filter',
    ];
    const args = [
      ...nodes.flatMap((node) => ['--blockdev', node]),
      ...['--nbd-server', qemuPlace(address)],
      ...['--export', 'type=nbd,id=export,node-name=filter,name=vol,writable=on'],
    ];
    return [{ program: 'qemu-storage-daemon', args }];
  },
};

function targetPath(directory: string): string {
  return join(directory, 'target.qcow2');
}

/** A comma ends a value, unless there are two. */
function optionValue(text: string): string {
  return text.replaceAll(',', ',,');
}

function qemuPlace(address: Address): string {
  return address.kind === 'unix'
    ? `addr.type=unix,addr.path=${optionValue(address.path)}`
    : `addr.type=inet,addr.host=${address.host},addr.port=${address.port}`;
}

/** Its overlay is a file that it makes and unlinks at once. */
export const nbdkitCow: ServerSpec = {
  label: 'nbdkit --filter=cow',
  cache: 'warm',
  commands: (file, address, directory) => {
    const words = ['--filter=cow', 'file', `file=${file.path}`, 'cow-block-size=4096'];
    const args = [`TMPDIR=${directory}`, 'nbdkit', '-f', ...usualPlace(address), ...words];
    return [{ program: 'env', args }];
  },
};

export const qemuOverlay: ServerSpec = {
  label: 'qemu-nbd qcow2 overlay',
  cache: 'warm',
  prepare: async (file, directory, signal) => {
    const backing = ['-b', file.path, '-F', 'raw'];
    const args = ['create', '-q', '-f', 'qcow2', ...backing, overlayPath(directory)];
    await run('qemu-img', args, signal);
    return [];
  },
  commands: (_file, address, directory) => [
    qemuNbdCommand('qcow2', overlayPath(directory), address),
  ],
};

function overlayPath(directory: string): string {
  return join(directory, 'overlay.qcow2');
}
