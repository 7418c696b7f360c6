/** The program that brings an export and the kernel's driver together. */

import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';
import { EIO, ENOENT, errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { attachMilliseconds } from '../base/limits.js';
import type { ListenAddress } from '../engine/engine.js';

export interface ClientRequest {
  readonly address: ListenAddress;
  readonly exportName: string;
  readonly node: string;
  readonly blockBytes: number;
  readonly connections: number;
  /** Null: requests may take as long as they like. */
  readonly timeoutSeconds: number | null;
  readonly readOnly: boolean;
}

/** In the words of nbd-client(8). */
export function clientArguments(request: ClientRequest): string[] {
  const { address, exportName, node, blockBytes, connections, timeoutSeconds } = request;
  const where =
    address.kind === 'unix' ? ['-unix', address.path] : [address.host, `${address.port}`];
  const args = [...where, node, '-N', exportName, '-b', `${blockBytes}`, '-C', `${connections}`];
  if (timeoutSeconds !== null) args.push('-t', `${timeoutSeconds}`);
  if (request.readOnly) args.push('-R');
  return args;
}

/** Throws MapperError ENOENT when it is not installed. */
export function findClient(searchPath: string): string {
  // An ordinary user's path leaves out where it is.
  for (const folder of [...searchPath.split(':'), '/usr/sbin', '/sbin']) {
    const path = join(folder, 'nbd-client');
    try {
      accessSync(path, constants.X_OK);
      if (folder !== '') return path;
    } catch {
      // Not in this one.
    }
  }
  const advice = 'Debian: apt-get install nbd-client';
  throw new MapperError(ENOENT, `nbd-client is not installed (${advice})`);
}

/** Runs it to its end. Throws MapperError with what it complains of. */
export function runClient(path: string, args: readonly string[]): Promise<void> {
  const child = spawn(path, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  const hear = (chunk: Buffer): void => {
    said += chunk.toString();
  };
  child.stdout.on('data', hear);
  child.stderr.on('data', hear);
  const limit = setTimeout(() => child.kill('SIGKILL'), attachMilliseconds);
  return new Promise((resolve, reject) => {
    child.once('error', (error: NodeJS.ErrnoException) => {
      clearTimeout(limit);
      reject(new MapperError(errnoOf(error.code), `run "${path}": ${messageOf(error)}`));
    });
    child.once('close', (code, signal) => {
      clearTimeout(limit);
      if (code === 0) resolve();
      else reject(new MapperError(EIO, `nbd-client: ${complaint(said, signal)}`));
    });
  });
}

/** Among what it says for its own comfort, the line that tells what is wrong. */
function complaint(said: string, signal: NodeJS.Signals | null): string {
  if (signal !== null) return `ended by ${signal} after ${attachMilliseconds} ms`;
  const lines = said
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && line !== 'Exiting.');
  const line = lines.find((one) => /^(E|Error): /.test(one)) ?? lines.at(-1) ?? 'no reason given';
  return line.replace(/^(E|Error): /, '').replace(/[.!]+$/, '');
}
