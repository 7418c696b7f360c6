/** Standard input and output as a connection, in a process of their own. */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Duplex } from 'node:stream';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { requires } from '../interop/programs.js';
import { GateClient, Inbox, key, user } from './rig.js';

const child = fileURLToPath(new URL('./stdio-child.js', import.meta.url));
const peer = `${JSON.stringify({ name: 'stdin', host: null, secure: false })}\n`;
const securePeer = peer.replace('false', 'true');

/** As `sh` would have it. */
const inShell = (words: string): string => `'${process.execPath}' '${child}' ${words}`;

interface Ended {
  readonly code: number | null;
  readonly stderr: string;
}

function endOf(process: ChildProcess): Promise<Ended> {
  let stderr = '';
  process.stderr?.on('data', (chunk) => {
    stderr += chunk;
  });
  return new Promise((resolve) => process.once('close', (code) => resolve({ code, stderr })));
}

const gone = { code: 0, stderr: 'the client has gone\n' };

async function talk(t: Test, wire: Duplex, wanted: string): Promise<void> {
  const inbox = new Inbox(wire);
  const big = 'x'.repeat(3_000_000);
  wire.end(`hello ${big}`);
  const all = String(await inbox.rest());
  t.equal(all.slice(0, wanted.length + 6), `${wanted}hello `);
  t.equal(all.length, wanted.length + 6 + big.length, 'and all that was sent comes back');
}

t.test('serves a socket each way, and resolves when the client has gone', async (t) => {
  // What Node calls pipes are sockets.
  const process_ = spawn(process.execPath, [child, 'off'], { stdio: 'pipe' });
  const ended = endOf(process_);
  await talk(t, Duplex.from({ readable: process_.stdout, writable: process_.stdin }), peer);
  t.strictSame(await ended, gone);
});

t.test('serves one socket both ways', async (t) => {
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  const client = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
  const [ours] = (await once(server, 'connection')) as [Socket];
  const process_ = spawn(process.execPath, [child, 'off'], { stdio: [ours, ours, 'pipe'] });
  ours.destroy();
  server.close();
  const ended = endOf(process_);
  await talk(t, client, peer);
  t.strictSame(await ended, gone);
});

t.test('serves pipes', async (t) => {
  const process_ = spawn('sh', ['-c', `cat | ${inShell('off')} | cat`], { stdio: 'pipe' });
  const ended = endOf(process_);
  await talk(t, Duplex.from({ readable: process_.stdout, writable: process_.stdin }), peer);
  t.strictSame(await ended, gone);
});

t.test('begins tls on pipes and sockets', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'mapperd-gate-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const psk = join(folder, 'keys.psk');
  writeFileSync(psk, `${user}:${key.toString('hex')}\n`, { mode: 0o600 });
  for (const line of [inShell(`require ${psk}`), `cat | ${inShell(`require ${psk}`)} | cat`]) {
    const process_ = spawn('sh', ['-c', line], { stdio: 'pipe' });
    const ended = endOf(process_);
    const { stdin, stdout } = process_;
    const wire = new GateClient(Duplex.from({ readable: stdout, writable: stdin }) as Socket);
    await wire.inbox.take(18);
    wire.socket.write(Buffer.from([0, 0, 0, 3]));
    const { socket } = await wire.starttls();
    await talk(t, socket, securePeer);
    t.strictSame(await ended, gone);
  }
});

t.test('ends when its client is gone without a word', async (t) => {
  const process_ = spawn(process.execPath, [child, 'off'], { stdio: 'pipe' });
  const ended = endOf(process_);
  const inbox = new Inbox(process_.stdout as never);
  await inbox.take(peer.length);
  process_.stdin.destroy();
  process_.stdout.destroy();
  t.strictSame(await ended, gone);
});

t.test('refuses files, devices and nothing at all', async (t) => {
  const attempts: [string, RegExp][] = [
    [`< '${child}'`, /standard input: found a file, wanted a socket or a pipe/],
    ['< /dev/null', /standard input: found a device/],
    ['<&-', /standard input: found /],
    ['> /dev/null', /standard output: found a device/],
  ];
  const ends = attempts.map(([redirection]) =>
    endOf(spawn('sh', ['-c', `${inShell('off')} ${redirection}`], { stdio: 'pipe' })),
  );
  for (const [index, { code, stderr }] of (await Promise.all(ends)).entries()) {
    t.equal(code, 1);
    t.match(stderr, attempts[index]?.[1] as RegExp);
  }
});

t.test('refuses a terminal', { skip: requires('script') }, async (t) => {
  const process_ = spawn('script', ['-qefc', inShell('off'), '/dev/null'], { stdio: 'pipe' });
  let said = '';
  process_.stdout.on('data', (chunk) => {
    said += chunk;
  });
  t.equal((await endOf(process_)).code, 1);
  t.match(said, /standard input: found a terminal, wanted a socket or a pipe/);
});
