/** The ways in which the daemon is run by others: nbdkit's modes, with the clients that use them. */

import { closeSync, existsSync, openSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { dirname } from 'node:path';
import t from 'tap';
import { MiB, Scratch } from './harness.js';
import {
  commandOf,
  ModeDaemon,
  mapperctl,
  onEachEngine,
  runMapperd,
  startQuietly,
  until,
} from './mode-daemon.js';
import { fail, type Output, python, requires, run, succeed } from './programs.js';
import { RawClient } from './raw-client.js';

const imageBytes = 16 * MiB;
const memory = ['--device', 'disk: 0 2048 memory'];
const quote = (word: string): string => `'${word.replaceAll("'", "'\\''")}'`;

/** A listening socket of ours, until it is passed on. */
async function listening(where: { path: string } | { port: 0; host: string }): Promise<Server> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(where, resolve));
  return server;
}

function descriptorOf(server: Server): number {
  return (server as unknown as { _handle: { fd: number } })._handle.fd;
}

onEachEngine(t, 'socket activation', ['nbdinfo', 'nbdcopy'], async (t, engine, files) => {
  const image = files.pattern('disk.img', imageBytes, 1);

  await t.test('by nbdinfo and nbdcopy, whose server it is', async (t) => {
    const size = await succeed('nbdinfo', ['--size', '--', '[', ...commandOf(engine, image), ']']);
    t.equal(size, `${imageBytes}\n`);
    files.sparse('copy.img', imageBytes);
    const source = commandOf(engine, '-r', image);
    const target = commandOf(engine, files.file('copy.img'));
    const { code, stderr } = await run('nbdcopy', ['--', '[', ...source, ']', '[', ...target, ']']);
    t.strictSame({ code, stderr }, { code: 0, stderr: '' });
    t.ok(readFileSync(image).equals(readFileSync(files.file('copy.img'))), 'copied');
  });

  await t.test('with several sockets, which outlive it', async (t) => {
    const path = files.file('passed.sock');
    const servers = [await listening({ path }), await listening({ port: 0, host: '127.0.0.1' })];
    const [, tcp] = servers as [Server, Server];
    const { port } = tcp.address() as { port: number };
    const daemon = new ModeDaemon(
      t,
      files,
      commandOf(engine, '--log-level', 'info', '--print-uri', ...memory),
      {
        environment: { LISTEN_FDS: '2', LISTEN_FDNAMES: 'one:two' },
        descriptors: servers.map(descriptorOf),
      },
    );
    // The parent's ends would accept, too. Closing a socket that has a path removes it.
    const kept = files.file('kept.sock');
    await succeed('ln', [path, kept]);
    for (const server of servers) server.close();
    await succeed('mv', [kept, path]);
    await daemon.ready();
    const uris = [`nbd+unix:///?socket=${path}`, `nbd://127.0.0.1:${port}/`];
    t.strictSame(await daemon.serving(), uris);
    t.match(daemon.stderr, '"sockets":["one","two"]');
    const lines = uris.map((uri) => `${uri}\n`).join('');
    await until('the URIs are there', () => daemon.stdout.length >= lines.length);
    t.equal(daemon.stdout, lines);
    for (const uri of uris) t.equal(await succeed('nbdinfo', ['--size', uri]), '1048576\n');
    t.match(await daemon.stop(), { code: 0 });
    t.ok(statSync(path).isSocket(), 'whoever made it removes it');
  });

  await t.test('refuses descriptors that are no sockets', async (t) => {
    const file = openSync(image, 'r');
    const around = { environment: { LISTEN_FDS: '1' }, descriptors: [file] };
    const { code, stderr } = await new ModeDaemon(t, files, commandOf(engine, image), around).ended;
    closeSync(file);
    t.equal(code, 1);
    t.match(stderr, /^mapperd: .*descriptor 3: .*wanted a listening socket\n$/);
  });
});

const throughLibnbd = `
import nbd, sys
h = nbd.NBD()
h.connect_command(sys.argv[1:])
assert h.get_size() == 16 * 1024 * 1024
h.pwrite(b"\\x55" * 65536, 4096)
h.flush()
assert h.pread(65536, 4096) == b"\\x55" * 65536
h.shutdown()
`;

onEachEngine(t, 'one client on standard input', ['nbdinfo', 'socat'], async (t, engine, files) => {
  const image = files.sparse('disk.img', imageBytes);

  await t.test('by libnbd, over a socket', async (t) => {
    await python('-c', throughLibnbd, ...commandOf(engine, '-s', image));
    t.ok(files.read('disk.img', 4096, 65_536).every((byte) => byte === 0x55));
  });

  await t.test('as inetd does it, over a socket or pipes', async (t) => {
    for (const pipes of ['', ',pipes']) {
      const socket = files.file(`inetd${pipes.length}.sock`);
      const command = commandOf(engine, '-s', image).join(' ');
      const inetd = startQuietly('socat', [`UNIX-LISTEN:${socket}`, `EXEC:"${command}"${pipes}`]);
      const ended = new Promise((resolve) => inetd.once('exit', resolve));
      await until('socat listens', () => existsSync(socket));
      const uri = `nbd+unix:///?socket=${socket}`;
      t.equal(await succeed('nbdinfo', ['--size', uri]), `${imageBytes}\n`, `size${pipes}`);
      t.equal(await ended, 0, 'and it has ended well');
    }
  });

  await t.test('ends well when the client goes away', async (t) => {
    const gone = await run('sh', ['-c', `${commandOf(engine, '-s', image).join(' ')} | cat`]);
    t.equal(gone.stdout.slice(0, 16), 'NBDMAGICIHAVEOPT');
    t.strictSame({ code: gone.code, stderr: gone.stderr }, { code: 0, stderr: '' });
  });
});

onEachEngine(t, 'a command', ['nbdinfo', 'nbdcopy', 'qemu-img'], async (t, engine, files) => {
  const image = files.pattern('disk.img', imageBytes, 2);
  const serve = (command: string, ...args: string[]): Promise<Output> =>
    runMapperd(engine, '--run', command, ...args);

  await t.test('finds the server, and its exit status is ours', async (t) => {
    const info = await serve('qemu-img info --output=json "$uri"', image);
    t.match(JSON.parse(info.stdout), { format: 'raw', 'virtual-size': imageBytes });
    t.match(info, { code: 0, stderr: '' });
    const copy = files.file('copy.img');
    await serve(`nbdcopy "$uri" - >${copy}`, image);
    t.ok(readFileSync(image).equals(readFileSync(copy)), 'served whole');
    t.match(await serve('exit 7', image), { code: 7, stdout: '', stderr: '' });
  });

  await t.test('is told to end when we are, with all that it has started', async (t) => {
    const mark = files.file('children');
    const sleeper = 'sh -c "echo \\$\\$ >>$0; sleep 1000; true"';
    const command = `${sleeper.replace('$0', mark)}; echo not reached`;
    const daemon = new ModeDaemon(t, files, commandOf(engine, '--run', command, image));
    await until('the command runs', () => existsSync(mark) && readFileSync(mark, 'utf8') !== '');
    const child = Number(readFileSync(mark, 'utf8'));
    const { code, stdout } = await daemon.stop();
    t.strictSame({ code, stdout }, { code: 143, stdout: '' });
    t.notOk(isAlive(child), 'its child has ended');
  });

  await t.test('has the signals of a terminal to itself', async (t) => {
    const [told, fifo] = [files.file('uri'), files.file('fifo')];
    await succeed('mkfifo', [fifo]);
    const command = `echo "$uri" >${told}; read line <${fifo}; exit 5`;
    const daemon = new ModeDaemon(t, files, commandOf(engine, '--run', command, image));
    const uri = (): string => (existsSync(told) ? readFileSync(told, 'utf8') : '');
    await until('the command runs', () => uri().endsWith('\n'));
    daemon.signal('SIGINT');
    daemon.signal('SIGQUIT');
    t.equal(await succeed('nbdinfo', ['--size', uri().trim()]), `${imageBytes}\n`);
    writeFileSync(fifo, 'go on\n');
    t.match(await daemon.ended, { code: 5, stdout: '' });
  });
});

/** A process that has ended may wait to be looked after for a while. */
function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'));
  } catch {
    return false;
  }
}

onEachEngine(t, 'exit with parent', ['nbdinfo'], async (t, engine, files) => {
  for (const busy of [false, true]) {
    await t.test(`ends with it, ${busy ? 'with a client' : 'idle'}`, async (t) => {
      const socket = files.file(`${busy}.sock`);
      const pidfile = files.file(`${busy}.pid`);
      const options = ['--exit-with-parent', '-U', socket, '-P', pidfile, '--control', 'none'];
      const command = commandOf(engine, ...options, ...memory)
        .map(quote)
        .join(' ');
      const parent = startQuietly('sh', ['-c', `${command} & read line </dev/zero`]);
      t.teardown(() => parent.kill('SIGKILL'));
      await until('mapperd is ready', () => existsSync(pidfile));
      const pid = Number(readFileSync(pidfile, 'utf8'));
      const client = busy ? await RawClient.ready(socket, 'disk') : null;
      t.ok(isAlive(pid), 'as long as the parent');
      parent.kill('SIGKILL');
      await until('mapperd has ended', () => !isAlive(pid));
      t.notOk(existsSync(socket) || existsSync(pidfile), 'nothing is left');
      await client?.closed();
    });
  }
});

onEachEngine(t, 'where it listens', ['nbdinfo'], async (t, engine, files) => {
  await t.test('a private socket, whose URI is printed', async (t) => {
    const options = ['-U', '-', '--print-uri', '--control', 'none'];
    const daemon = await ModeDaemon.start(t, files, commandOf(engine, ...options, ...memory));
    await until('the URI is there', () => daemon.stdout.endsWith('\n'));
    t.equal(await succeed('nbdinfo', ['--size', daemon.stdout.trim()]), '1048576\n');
    const path = new URL(daemon.stdout).searchParams.get('socket') as string;
    t.equal(statSync(path).mode & 0o777, 0o600);
    t.equal(statSync(dirname(path)).mode & 0o777, 0o700);
    t.match(await daemon.stop('SIGHUP'), { code: 0 });
    t.notOk(existsSync(dirname(path)));
  });

  await t.test('several places at once', async (t) => {
    const where = ['-U', files.file('a'), '-U', files.file('b'), '-p', '0', '-p', '0'];
    const addresses = ['-i', '127.0.0.1', '-i', '127.0.0.2', '-i', '127.0.0.3:0'];
    const args = [...where, ...addresses, '--control', 'none', ...memory];
    const daemon = await ModeDaemon.start(t, files, commandOf(engine, ...args));
    const uris = await daemon.serving();
    t.match(
      uris.map((uri) => uri.replace(/:[0-9]+/, '')),
      [
        ...[3, 1, 2, 1, 2].map((number) => `nbd://127.0.0.${number}/`),
        `nbd+unix:///?socket=${files.file('a')}`,
        `nbd+unix:///?socket=${files.file('b')}`,
      ],
    );
    for (const uri of uris) t.equal(await succeed('nbdinfo', ['--size', uri]), '1048576\n');
    t.match(await daemon.stop(), { code: 0 });
    t.notOk(existsSync(files.file('a')) || existsSync(files.file('b')));
  });

  await t.test('to some addresses only', async (t) => {
    const args = ['-p', '0', '-U', files.file('c'), '--allow', '192.0.2.0/24', ...memory];
    const control = ['--control', files.file('control')];
    const daemon = await ModeDaemon.start(t, files, commandOf(engine, ...args, ...control));
    const [tcp, unix] = (await daemon.serving()) as [string, string];
    await fail('nbdinfo', [tcp]);
    t.equal(await succeed('nbdinfo', ['--size', unix]), '1048576\n');
    await daemon.stop();
  });
});

t.test('less of the protocol', { skip: requires('nbdinfo') }, async (t) => {
  const files = new Scratch(t);
  const image = files.sparse('disk.img', imageBytes);
  const about = async (...args: string[]): Promise<[boolean, string[], string]> => {
    const command = commandOf('node', ...args, image);
    const text = await succeed('nbdinfo', ['--json', '--', '[', ...command, ']']);
    const { structured, exports } = JSON.parse(text);
    const { contexts = [], description } = exports[0];
    return [structured, contexts.slice(0, 1), description];
  };
  const all = ['base:allocation'];
  t.strictSame(await about('-D', 'of the night'), [true, all, 'of the night']);
  t.strictSame(await about('--no-sr'), [false, [], 'linear']);
  t.strictSame(await about('--no-mc'), [true, [], 'linear']);
  t.strictSame(await about('--no-eh'), [true, all, 'linear']);
  const socket = files.file('s');
  const args = ['-U', socket, '--timeout', '200ms', '--control', 'none', image];
  const daemon = await ModeDaemon.start(t, files, commandOf('node', ...args));
  const idle = await RawClient.greeted(socket);
  t.equal((await idle.closed()).length, 0, 'a client that says nothing is disconnected');
  await daemon.stop();
});

t.test('a command, whatever the engine', async (t) => {
  const files = new Scratch(t);
  const image = files.sparse('disk.img', imageBytes);
  const serve = (command: string, ...args: string[]): Promise<Output> =>
    runMapperd('node', '--run', command, ...args);

  await t.test('tells us its exit status, or its signal', async (t) => {
    t.match(await serve('kill -9 $$', image), { code: 137 });
    t.match(await serve('no-such-program', image), { code: 127 });
  });

  await t.test('is told where, by variables of its shell', async (t) => {
    const names = ['uri', 'nbd', 'unixsocket', 'port', 'exportname', 'tls'] as const;
    const command = names.map((name) => `echo "$${name}"`).join('; ');
    type Told = Record<(typeof names)[number], string>;
    const told = async (...args: string[]): Promise<Told> => {
      const { stdout, stderr, code } = await serve(`${command}; env | grep ^uri=`, ...args);
      t.strictSame({ code, stderr }, { code: 1, stderr: '' }, 'they are not exported');
      const lines = stdout.split('\n');
      return Object.fromEntries(names.map((name, at) => [name, lines[at] ?? ''])) as Told;
    };
    const usual = await told(image);
    t.match(usual.unixsocket, /^\/.*\/mapperd-\w{6}\/nbd\.sock$/);
    const uri = `nbd+unix:///?socket=${usual.unixsocket}`;
    t.match(usual, { uri, nbd: uri, port: '', exportname: '', tls: '' });
    t.notOk(existsSync(dirname(usual.unixsocket)), 'the private folder is gone');
    const tcp = await told('-i', '0.0.0.0', '-p', '0', '-e', "it's one", image);
    t.match(tcp.port, /^[1-9][0-9]*$/);
    const local = `nbd://127.0.0.1:${tcp.port}/it's%20one`;
    t.match(tcp, { uri: local, unixsocket: '', exportname: "it's one" });
    const both = await told('-p', '0', '-U', files.file('s'), image);
    t.match(both, { uri: `nbd+unix:///?socket=${files.file('s')}`, port: /^[1-9][0-9]*$/ });
  });

  await t.test('is not run when nothing can be served', async (t) => {
    const mark = files.file('mark');
    const { code, stderr } = await serve(`touch ${mark}`, files.file('missing'));
    t.equal(code, 1);
    t.match(stderr, /^mapperd: open ".*missing": ENOENT/);
    t.notOk(existsSync(mark));
  });
});

t.test('standard input that is no client is refused', async (t) => {
  const image = new Scratch(t).sparse('disk.img', imageBytes);
  const command = `${commandOf('node', '-s', image).join(' ')} </dev/null`;
  t.match(await run('sh', ['-c', command]), {
    code: 1,
    stdout: '',
    stderr: /^mapperd: standard input: found a device, wanted a socket or a pipe\n$/,
  });
});

t.test('what it can do', async (t) => {
  const config = (await runMapperd('node', '--dump-config')).stdout;
  t.match(config, /^(?:[a-z_]+=.*\n)+$/, 'lines of key=value');
  const words = /^name=mapperd\nversion=(\d+)\.(\d+)\.\d+\nversion_major=\1\nversion_minor=\2\n/;
  t.match(config, words);
  t.match(config, /^engine_uring=(yes|no)$/m);
  t.match(config, /^exit_with_parent=yes$/m);
  t.match(config, /^targets=(.* )?linear .*snapshot /m);
  t.match(await runMapperd('node', '--exit-with-parent', '--version'), { code: 0 });
  t.match((await run(process.execPath, [mapperctl, 'help'])).stdout, /^ {2}completion bash$/m);
});
