/** A server that has been started and answers. */

import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../../src/base/errors.js';
import { type Command, Program } from './program.js';
import type { Address, ServedFile, ServerSpec } from './servers.js';

const readyMilliseconds = 20_000;
const retryMilliseconds = 20;
const greeting = 'NBDMAGIC';

export interface RunningServer {
  readonly spec: ServerSpec;
  readonly program: Program;
  readonly address: Address;
  /** Of the export that is loaded. */
  readonly uri: string;
  /** For files of its own: beside the served file, and gone when it is stopped. */
  readonly directory: string;
  readonly ownFiles: readonly ServedFile[];
}

export type Transport = Address['kind'];

/** Resolves when a client can connect. Throws if no way to start it works; nothing is left then. */
export async function startServer(
  spec: ServerSpec,
  file: ServedFile,
  transport: Transport,
  socketDirectory: string,
  signal: AbortSignal,
): Promise<RunningServer> {
  const address = await newAddress(transport, socketDirectory);
  const directory = await mkdtemp(join(dirname(file.path), 'own-'));
  try {
    const ownFiles = (await spec.prepare?.(file, directory, signal)) ?? [];
    const program = await startProgram(
      spec,
      spec.commands(file, address, directory),
      address,
      signal,
    );
    const uri = nbdUri(address, spec.exportName);
    return { spec, program, address, uri, directory, ownFiles };
  } catch (error) {
    await rm(directory, { recursive: true, force: true });
    throw error;
  }
}

/** The first of the commands after which the server answers. */
async function startProgram(
  { label }: ServerSpec,
  commands: readonly Command[],
  address: Address,
  signal: AbortSignal,
): Promise<Program> {
  const failures: string[] = [];
  for (const command of commands) {
    const program = new Program(command);
    try {
      await ready(program, address, signal);
      return program;
    } catch (error) {
      await program.end();
      signal.throwIfAborted();
      failures.push(messageOf(error));
    }
  }
  throw new Error(`start ${label}: ${failures.join('; ')}`);
}

/** To be asked for at the end: a server may answer before it has said how it runs. */
export function detailOf({ spec, program }: RunningServer): string | null {
  return spec.detail?.(program.errors, program.command) ?? null;
}

export async function stopServers(servers: readonly RunningServer[]): Promise<void> {
  await Promise.all(
    servers.map(async ({ program, directory }) => {
      await program.end();
      await rm(directory, { recursive: true, force: true });
    }),
  );
}

/** Stops a server whose files nobody wants: nothing of them is written to the disk any more. */
export async function discardServer({ program, directory }: RunningServer): Promise<void> {
  await program.kill();
  await rm(directory, { recursive: true, force: true });
}

export function nbdUri(address: Address, exportName = ''): string {
  const path = exportName === '' ? '' : `/${encodeURIComponent(exportName)}`;
  return address.kind === 'unix'
    ? `nbd+unix://${path || '/'}?socket=${encodeURI(address.path)}`
    : `nbd://${address.host}:${address.port}${path}`;
}

let sockets = 0;

async function newAddress(transport: Transport, directory: string): Promise<Address> {
  if (transport === 'unix') return { kind: 'unix', path: join(directory, `${++sockets}.sock`) };
  const host = '127.0.0.1';
  const server = createServer().listen(0, host);
  await once(server, 'listening');
  const bound = server.address();
  server.close();
  await once(server, 'close');
  if (bound === null || typeof bound === 'string') throw new Error('found no free port');
  return { kind: 'tcp', host, port: bound.port };
}

async function ready(program: Program, address: Address, signal: AbortSignal): Promise<void> {
  const deadline = performance.now() + readyMilliseconds;
  while (!(await greets(address))) {
    signal.throwIfAborted();
    if (!program.running) throw program.failure();
    if (performance.now() > deadline) {
      throw new Error(`"${program.command.program}" does not answer: ${program.errors.trim()}`);
    }
    await sleep(retryMilliseconds);
  }
  // Somebody else's server on the same port is none.
  if (!program.running) throw program.failure();
}

function greets(address: Address): Promise<boolean> {
  return new Promise((resolve) => {
    const socket: Socket = connect(
      address.kind === 'unix' ? { path: address.path } : { host: address.host, port: address.port },
    );
    let text = '';
    const done = (found: boolean): void => {
      socket.destroy();
      resolve(found);
    };
    socket.setTimeout(readyMilliseconds, () => done(false));
    socket.on('error', () => done(false));
    socket.on('close', () => done(false));
    socket.on('data', (bytes) => {
      text += bytes.toString('latin1');
      if (text.length >= greeting.length) done(text.startsWith(greeting));
    });
  });
}
