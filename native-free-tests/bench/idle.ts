/** Resident memory of one server with a thousand clients that have connected and say nothing. */

import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { IdleCase } from './case.js';
import type { Conditions } from './compare.js';
import { residentMegabytes } from './proc.js';
import { commandText, Program } from './program.js';
import type { IdleResult } from './results.js';
import { detailOf, startServer, stopServers } from './running-server.js';

const clientPath = fileURLToPath(new URL('./idle-client.js', import.meta.url));
/** From the last event to the look at the memory. */
const restMilliseconds = 2000;
const connectMilliseconds = 60_000;

/** Throws if the server refuses or drops a connection. */
export async function watchIdle(
  idle: IdleCase,
  { places, signal, note }: Conditions,
): Promise<IdleResult> {
  const file = await places.file('directory');
  const server = await startServer(idle.server, file, 'unix', places.sockets, signal);
  const { address } = server;
  if (address.kind !== 'unix') throw new Error('the idle clients connect to a unix socket');
  const resident = async (): Promise<number> => {
    await sleep(restMilliseconds, null, { signal });
    return residentMegabytes(server.program.pid);
  };
  let client: Program | null = null;
  try {
    const before = await resident();
    const args = [clientPath, address.path, `${idle.connections}`];
    const limit = AbortSignal.any([signal, AbortSignal.timeout(connectMilliseconds)]);
    client = await connectedClient(args, limit);
    const during = await resident();
    note(`${idle.name}: ${during.toFixed(1)} MB with ${idle.connections} connections`);
    // It fails if any of its connections has been dropped.
    client.endInput();
    await client.finished(limit);
    const after = await resident();
    const { kind, name, title, connections, megabytesMost } = idle;
    const command = commandText(server.program.command);
    const detail = detailOf(server);
    return {
      ...{ kind, name, title, command, detail, connections },
      ...{ before, during, after, megabytesMost },
    };
  } finally {
    await client?.end();
    await stopServers([server]);
  }
}

/** A client that has said that all of its connections are made. */
async function connectedClient(args: readonly string[], signal: AbortSignal): Promise<Program> {
  let said = '';
  let connected = (): void => {};
  const all = new Promise<void>((resolve) => {
    connected = resolve;
  });
  const client = new Program({ program: process.execPath, args }, (text) => {
    said += text;
    if (said.includes('connected\n')) connected();
  });
  const ended = client.finished(signal).then(() => {
    throw client.failure();
  });
  try {
    await Promise.race([all, ended]);
  } catch (error) {
    await client.end();
    throw error;
  }
  ended.catch(() => {});
  return client;
}
