/** A server that has been started and answers. */

import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../../src/base/errors.js';
import { Program } from './program.js';
import type { Address, ServedFile, ServerSpec } from './servers.js';

const readyMilliseconds = 20_000;
const retryMilliseconds = 20;
const greeting = 'NBDMAGIC';

export interface RunningServer {
  readonly spec: ServerSpec;
  readonly program: Program;
  readonly address: Address;
  readonly uri: string;
  readonly detail: string | null;
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
  const failures: string[] = [];
  const address = await newAddress(transport, socketDirectory);
  for (const command of spec.commands(file, address)) {
    const program = new Program(command);
    try {
      await ready(program, address, signal);
      const detail = spec.detail?.(program.errors, command) ?? null;
      return { spec, program, address, uri: nbdUri(address), detail };
    } catch (error) {
      await program.end();
      signal.throwIfAborted();
      failures.push(messageOf(error));
    }
  }
  throw new Error(`start ${spec.label}: ${failures.join('; ')}`);
}

export async function stopServers(servers: readonly RunningServer[]): Promise<void> {
  await Promise.all(servers.map((server) => server.program.end()));
}

export function nbdUri(address: Address): string {
  return address.kind === 'unix'
    ? `nbd+unix:///?socket=${encodeURI(address.path)}`
    : `nbd://${address.host}:${address.port}`;
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
