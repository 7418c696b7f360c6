/**
 * A daemon that is replaced: what was answered is on the disk when it has ended, and the listening
 * sockets of socket activation go on taking clients while there is none.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import t from 'tap';
import { flag, told, withLog } from '../crash/write-log.js';
import { MiB } from './harness.js';
import { commandOf, ModeDaemon, onEachEngine, until } from './mode-daemon.js';
import { environment } from './programs.js';
import { CMD, RawClient } from './raw-client.js';

const bytes = 4 * MiB;

onEachEngine(t, 'what was answered is flushed at the end', [], async (t, engine, files) => {
  const log = files.sparse('log', 16 * MiB);
  const table = `disk: 0 ${bytes / 512} linear dm:logged 0`;
  const logged = `logged: 0 ${bytes / 512} log-writes ${files.sparse('disk', bytes)} ${log}`;
  for (const end of ['SIGTERM', 'SIGINT'] as const) {
    const socket = files.file(`${end}.sock`);
    const options = ['-U', socket, '--device', logged, '--device', table];
    const daemon = await ModeDaemon.start(t, files, commandOf(engine, ...options));
    const clients = [await RawClient.ready(socket, 'disk'), await RawClient.ready(socket, 'disk')];
    let written = 0;
    for (const client of clients) {
      for (let n = 0; n < 8; n++) {
        const payload = Buffer.alloc(4096, n + 1);
        const offset = written++ * 8192;
        const reply = await client.request({ type: CMD.write, offset, length: 4096, payload });
        t.equal(reply.error, 0);
      }
    }
    const { code } = await daemon.stop(end);
    t.equal(code, 0);
    withLog(log, ({ records }) => {
      const lines = records.map(told);
      const isWrite = ({ length }: (typeof records)[number]): boolean => length > 0;
      const isFlush = ({ flags }: (typeof records)[number]): boolean => (flags & flag.flush) !== 0n;
      t.equal(records.filter(isWrite).length, written, 'every write is in the log');
      const lastWrite = records.findLastIndex(isWrite);
      const flushes = records.slice(lastWrite).filter(isFlush);
      t.ok(flushes.length > 0, `a flush behind the last write: ${lines.slice(-4).join(', ')}`);
      t.equal(records.slice(0, lastWrite).filter(isFlush).length, 0, 'nobody else has flushed');
    });
    for (const client of clients) client.destroy();
  }
});

/** As a service manager does it: holds the socket, and starts one daemon after the other with it. */
const manager = `
  until [ -e "$0/stop" ]; do
    sleep 0.05
    rm "$0/start" 2>/dev/null || continue
    sh -c 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"' sh "$@" || exit
  done
`;

onEachEngine(t, 'a listening socket outlives its daemons', [], async (t, engine, files) => {
  const path = files.file('nbd.sock');
  const server: Server = createServer();
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
  const pidfile = files.file('pid');
  const command = commandOf(engine, '-P', pidfile, files.sparse('disk.img', bytes));
  const child = spawn('/bin/sh', ['-c', manager, files.path, ...command], {
    env: { ...environment, LISTEN_FDS: '1' },
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe', fd],
  });
  t.teardown(() => {
    if (child.exitCode === null) process.kill(-(child.pid as number), 'SIGKILL');
  });
  let said = '';
  child.stderr?.on('data', (text) => (said += text));
  // Ours would accept, too. Closing a socket that has a path removes it.
  renameSync(path, `${path}.kept`);
  server.close();
  renameSync(`${path}.kept`, path);

  const ended = once(child, 'exit');
  for (let round = 1; round <= 4; round++) {
    // From the second round on nobody serves: the connection is made all the same, and waits.
    const waiting = RawClient.ready(path, '');
    writeFileSync(files.file('start'), '');
    const client = await waiting;
    const { data } = await client.request({ type: CMD.read, offset: 0, length: 4096 });
    t.ok(data.equals(Buffer.alloc(4096, round - 1)), 'what the one before has answered');
    const payload = Buffer.alloc(4096, round);
    await client.request({ type: CMD.write, offset: 0, length: 4096, payload });
    await until('the pidfile', () => existsSync(pidfile));
    process.kill(Number(readFileSync(pidfile, 'utf8')), 'SIGTERM');
    await client.closed();
    await until('it has ended', () => !existsSync(pidfile));
  }
  writeFileSync(files.file('stop'), '');
  t.strictSame([await ended, said], [[0, null], '']);
});
