/** The engine contract: listening sockets. */

import {
  chmodSync,
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { EADDRINUSE } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import { keepAliveSeconds } from '../../src/base/limits.js';
import type { EngineListener, ListenAddress, ListenSource } from '../../src/engine/engine.js';
import { Connections, connected, drive, type Harness, type Peer } from './drive.js';
import { unprivileged } from './engine-files.js';
import type { MakeEngine } from './engine-suite.js';
import { InheritedSocket } from './inherited-socket.js';

export const loopback = { kind: 'tcp', host: '127.0.0.1', port: 0 } as const;

/** A directory whose name is short enough for unix sockets. */
export function socketDirectory(t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'engine-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  return directory;
}

/** Which timer runs for a connection, and how long still: from /proc/net/tcp. */
function tcpTimer(port: number, peerPort: number): { timer: number; seconds: number } {
  const hex = (number: number): string => number.toString(16).toUpperCase().padStart(4, '0');
  const line = readFileSync('/proc/self/net/tcp', 'utf8')
    .split('\n')
    .find((text) => text.includes(`:${hex(port)} 0100007F:${hex(peerPort)} 01`));
  const match = / ([0-9A-F]{2}):([0-9A-F]{8}) /.exec(line ?? '');
  const ticks = Number.parseInt(match?.[2] ?? '', 16);
  return { timer: Number.parseInt(match?.[1] ?? '', 16), seconds: ticks / 100 };
}

export function listenerTests(t: Test, makeEngine: MakeEngine, peer: Peer): void {
  /** What `listen` said, if it was refused; a listener that was not is closed. */
  const refusal = async (io: Harness, source: ListenSource): Promise<unknown> => {
    try {
      const listener = await io.engine.listen(source, new Connections(io));
      listener.close();
      return null;
    } catch (error) {
      return error;
    }
  };

  t.test('tells the port that it was given, and the name of the peer', async (t) => {
    await drive(await makeEngine(), async (io) => {
      const { listener, socket, peer: name, peerAddress } = await connected(io, peer, loopback);
      t.match(listener.address, { kind: 'tcp', host: '127.0.0.1' });
      t.ok(listener.address.kind === 'tcp' && listener.address.port > 0, 'a real port');
      t.equal(name, peerAddress);
      socket.close();
      listener.close();
    });
  });

  t.test('listens on IPv6', async (t) => {
    await drive(await makeEngine(), async (io) => {
      let listener: EngineListener;
      const connections = new Connections(io);
      try {
        listener = await io.engine.listen({ ...loopback, host: '::1' }, connections);
      } catch (error) {
        t.type(error, MapperError);
        t.pass('there is none here');
        return;
      }
      await peer.ask(io, { verb: 'connect', address: listener.address });
      const { socket, peer: name } = await connections.next();
      t.match(name, /^\[::1\]:\d+$/);
      socket.close();
      listener.close();
    });
  });

  t.test('refuses an address that is in use', async (t) => {
    await drive(await makeEngine(), async (io) => {
      const { value: port } = await peer.ask(io, { verb: 'serve', address: loopback });
      const error = await refusal(io, { ...loopback, port });
      t.type(error, MapperError);
      t.match(error, { errno: EADDRINUSE, code: 'EADDRINUSE' });
      t.match((error as MapperError).message, `127.0.0.1:${port}`, 'the text names it');
      await peer.ask(io, { verb: 'stopServing' });
    });
  });

  t.test('refuses an address that is not numeric', async (t) => {
    await drive(await makeEngine(), async (io) => {
      for (const host of ['localhost', '', '1.2.3', '1.2.3.4.5', '::1::']) {
        t.type(await refusal(io, { ...loopback, host }), MapperError, `"${host}"`);
      }
    });
  });

  t.test('accepts no more after it is closed, but connections live on', async (t) => {
    const path = join(socketDirectory(t), 's');
    for (const address of [loopback, { kind: 'unix', path } as const]) {
      await drive(await makeEngine(), async (io) => {
        const { listener, socket, connection } = await connected(io, peer, address);
        listener.close();
        listener.close();
        await io.sleep(10);
        const { error } = await peer.answer(io, { verb: 'connect', address: listener.address });
        t.ok(error === 'ECONNREFUSED' || error === 'ENOENT', 'refused');
        const memory = io.memory(4096);
        const vector = io.engine.sendVector(1);
        vector.push(memory, 1);
        await peer.ask(io, { verb: 'write', connection, bytes: 1, pieceBytes: 1, seed: 5 });
        t.equal(await io.receive(socket, memory, 100), 1, 'receives');
        t.equal(await io.send(socket, vector), 1, 'sends');
        const read = { verb: 'read', connection, bytes: 1, seed: 5, slowly: false } as const;
        t.equal((await peer.ask(io, read)).value, 1, 'and the peer gets it');
        socket.close();
      });
    }
  });

  t.test('has TCP ask after peers that say nothing', async (t) => {
    await drive(await makeEngine(), async (io) => {
      const { listener, socket, peerAddress } = await connected(io, peer, loopback);
      const port = listener.address.kind === 'tcp' ? listener.address.port : 0;
      const peerPort = Number(peerAddress.split(':').at(-1));
      const { timer, seconds } = tcpTimer(port, peerPort);
      t.equal(timer, 2, 'the timer that runs is that of keepalive');
      t.ok(seconds > keepAliveSeconds - 60 && seconds <= keepAliveSeconds + 1, `${seconds} s`);
      socket.close();
      listener.close();
    });
  });

  t.test('tells IPv4 clients of an IPv6 socket by their IPv4 address', async (t) => {
    await drive(await makeEngine(), async (io) => {
      const connections = new Connections(io);
      let listener: EngineListener;
      try {
        listener = await io.engine.listen({ ...loopback, host: '::' }, connections);
      } catch (error) {
        t.type(error, MapperError);
        t.pass('there is none here');
        return;
      }
      const address = { ...listener.address, host: '127.0.0.1' };
      await peer.ask(io, { verb: 'connect', address });
      const { socket, peer: name } = await connections.next();
      t.match(name, /^127\.0\.0\.1:\d+$/);
      socket.close();
      listener.close();
    });
  });

  t.test('serves on a socket that it inherits, and leaves it to its owner', async (t) => {
    const path = join(socketDirectory(t), 's');
    for (const wanted of [loopback, { kind: 'unix', path } as const]) {
      const inherited = await InheritedSocket.make(t, wanted);
      const { fd, address } = inherited;
      await drive(await makeEngine(), async (io) => {
        const connections = new Connections(io);
        const listener = await io.engine.listen({ kind: 'fd', fd }, connections);
        t.same(listener.address, address, 'tells where it is');
        for (let i = 1; i <= 3; i++) {
          const { value: connection, text } = await peer.ask(io, { verb: 'connect', address });
          const { socket, peer: name } = await connections.next();
          t.equal(name, wanted.kind === 'tcp' ? text : `unix:${path}#${i}`);
          const memory = io.memory(4096);
          await peer.ask(io, { verb: 'write', connection, bytes: 1, pieceBytes: 1, seed: 5 });
          t.equal(await io.receive(socket, memory, 100), 1, 'receives');
          socket.close();
        }
        listener.close();
        listener.close();
        await io.sleep(10);
        if (wanted.kind === 'unix') t.ok(existsSync(path), 'the file is not ours');
        const { error } = await peer.answer(io, { verb: 'connect', address });
        t.equal(error, null, 'the socket still listens');
        t.equal(connections.waiting, 0, 'but not for us');
      });
      await inherited.wakeOwner();
      const target = address.kind === 'unix' ? { path } : { ...address };
      connect(target).on('error', () => {});
      await inherited.accepted();
      t.pass('the owner goes on');
    }
  });

  t.test('refuses a descriptor that is no listening socket', async (t) => {
    const file = openSync(join(socketDirectory(t), 'file'), 'w');
    await drive(await makeEngine(), async (io) => {
      for (const [fd, found] of [
        [file, /wanted a listening socket$/],
        [1_000_000, /bad file descriptor|EBADF/],
      ] as const) {
        const error = await refusal(io, { kind: 'fd', fd });
        t.type(error, MapperError);
        t.match((error as MapperError).message, `descriptor ${fd}`, 'the text names it');
        t.match((error as MapperError).message, found);
      }
    });
    closeSync(file);
    t.pass('and leaves it open');
  });

  t.test('accepts many connections', async (t) => {
    await drive(await makeEngine(), async (io) => {
      const connections = new Connections(io);
      const listener = await io.engine.listen(loopback, connections);
      const answers = await Promise.all(
        Array.from({ length: 100 }, () =>
          peer.ask(io, { verb: 'connect', address: listener.address }),
        ),
      );
      const names = new Set<string>();
      for (let i = 0; i < 100; i++) {
        const { socket, peer: name } = await connections.next();
        names.add(name);
        socket.close();
      }
      t.same(names, new Set(answers.map(({ text }) => text)), 'each once, by its name');
      listener.close();
    });
  });

  t.test('numbers the peers on a unix socket, and removes its file', async (t) => {
    const path = join(socketDirectory(t), 's');
    await drive(await makeEngine(), async (io) => {
      const connections = new Connections(io);
      const listener = await io.engine.listen({ kind: 'unix', path }, connections);
      t.same(listener.address, { kind: 'unix', path });
      t.ok(lstatSync(path).isSocket(), 'a socket');
      for (let i = 1; i <= 3; i++) {
        await peer.ask(io, { verb: 'connect', address: listener.address });
        const { socket, peer: name } = await connections.next();
        t.equal(name, `unix:${path}#${i}`);
        socket.close();
      }
      listener.close();
      t.notOk(existsSync(path), 'gone');
      const again = await io.engine.listen({ kind: 'unix', path }, connections);
      again.close();
    });
  });

  t.test('replaces a stale socket, and leaves anything else alone', async (t) => {
    const directory = socketDirectory(t);
    await drive(await makeEngine(), async (io) => {
      const stale = `${directory}/stale`;
      await peer.ask(io, { verb: 'leaveStaleSocket', path: stale });
      t.ok(lstatSync(stale).isSocket(), 'it is there');
      const { listener, socket } = await connected(io, peer, { kind: 'unix', path: stale });
      t.pass('the peer reached the new one');
      socket.close();
      listener.close();

      const live: ListenAddress = { kind: 'unix', path: `${directory}/live` };
      await peer.ask(io, { verb: 'serve', address: live });
      const error = await refusal(io, live);
      t.match(error, { errno: EADDRINUSE, code: 'EADDRINUSE' }, 'a live one');
      t.match((error as MapperError).message, live.path, 'the text names it');
      await peer.ask(io, { verb: 'connect', address: live });
      await peer.ask(io, { verb: 'stopServing' });

      const file = `${directory}/file`;
      writeFileSync(file, 'content');
      t.type(await refusal(io, { kind: 'unix', path: file }), MapperError, 'a file');
      t.ok(lstatSync(file).isFile(), 'which is still there');
      t.type(await refusal(io, { kind: 'unix', path: directory }), MapperError, 'a directory');
    });
  });

  t.test('removes only a file of its own when it is closed', async (t) => {
    const path = join(socketDirectory(t), 's');
    await drive(await makeEngine(), async (io) => {
      const listener = await io.engine.listen({ kind: 'unix', path }, new Connections(io));
      rmSync(path);
      writeFileSync(path, 'somebody else');
      listener.close();
      await io.sleep(5);
      t.ok(existsSync(path));
    });
  });

  t.test('is closed where its file cannot be removed any more', async (t) => {
    const directory = socketDirectory(t);
    const address = { kind: 'unix', path: join(directory, 's') } as const;
    await drive(await makeEngine(), async (io) => {
      const listener = await io.engine.listen(address, new Connections(io));
      chmodSync(directory, 0o555);
      unprivileged(() => listener.close());
      chmodSync(directory, 0o700);
      await io.sleep(10);
      const { error } = await peer.answer(io, { verb: 'connect', address });
      t.equal(error, 'ECONNREFUSED');
      const again = await io.engine.listen(address, new Connections(io));
      again.close();
    });
  });

  t.test('refuses paths that cannot be had', async (t) => {
    const directory = socketDirectory(t);
    chmodSync(directory, 0o755);
    mkdirSync(`${directory}/closed`, { mode: 0o700 });
    await drive(await makeEngine(), async (io) => {
      const paths = ['', `${directory}/missing/s`, `${directory}/${'s'.repeat(200)}`];
      for (const path of paths) {
        t.type(await refusal(io, { kind: 'unix', path }), MapperError, `"${path}"`);
      }
      chmodSync(`${directory}/closed`, 0);
      const path = `${directory}/closed/s`;
      const error = await unprivilegedUntil(() => refusal(io, { kind: 'unix', path }));
      t.type(error, MapperError, 'a directory without permission');
      t.match((error as MapperError).message, path, 'the text names it');
      chmodSync(`${directory}/closed`, 0o700);
    });
  });
}

/** Runs something without root's rights until its promise is settled. */
async function unprivilegedUntil<T>(action: () => Promise<T>): Promise<T> {
  const uid = unprivileged(() => process.geteuid?.());
  const before = process.geteuid?.();
  if (uid === before || uid === undefined || before === undefined) return action();
  process.seteuid?.(uid);
  try {
    return await action();
  } finally {
    process.seteuid?.(before);
  }
}
