import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import {
  formatAge,
  formatBytes,
  formatMicroseconds,
  parseBytes,
  parseDuration,
} from '../../src/base/sizes.js';
import { attachLines, localAddress, nbdUri, quoteShell } from '../../src/control/attach.js';
import { defaultControlPath } from '../../src/control/control-path.js';
import { makeFirstVolume } from '../../src/control/first-volume.js';
import { describeImage, deviceNumbers } from '../../src/control/image.js';
import { createLog, humanLine } from '../../src/control/log.js';
import { PidFile } from '../../src/control/pidfile.js';
import { StateDirectory } from '../../src/control/state.js';
import { takeInheritedSockets } from '../../src/daemon/activation.js';
import { optionRows } from '../../src/daemon/option-table.js';
import { watchParent } from '../../src/daemon/parent.js';
import { usageText } from '../../src/daemon/usage.js';
import { parseTable } from '../../src/device/table-text.js';
import { wholeProtocol } from '../../src/nbd/protocol-options.js';
import { parseCommandLine } from '../../src/options.js';

const directories: string[] = [];
function newDirectory(): string {
  const path = mkdtempSync(join(tmpdir(), 'mapperd-options-'));
  directories.push(path);
  return path;
}
t.teardown(() => {
  for (const path of directories) rmSync(path, { recursive: true });
});

t.test("the daemon's command line", async (t) => {
  const parse = (...args: string[]) => parseCommandLine(args);
  const tcp = (host: string, port: number) => ({ kind: 'tcp', host, port });
  const unix = (path: string) => ({ kind: 'unix', path });
  const usual = tcp('127.0.0.1', 10_809);
  const listeners = (...args: string[]): unknown => {
    const options = parse(...args);
    return typeof options === 'string' ? options : options.listeners;
  };

  t.test('without anything serves ./state everywhere', async (t) => {
    t.strictSame(parse(), {
      embedded: true,
      listeners: [usual, unix('state/nbd.sock')],
      socketNames: [],
      single: false,
      run: null,
      exitWithParent: false,
      printUri: false,
      tls: { mode: 'off', certificates: null, psk: null, verifyPeer: false },
      protocol: wholeProtocol,
      allow: [],
      user: null,
      group: null,
      readOnly: false,
      exportName: null,
      description: null,
      pidfile: null,
      engine: 'auto',
      busyPoll: 0.05,
      state: 'state',
      devices: [],
      control: null,
      controlTcp: null,
      allowPaths: [],
      lock: true,
      logLevel: 'info',
      shutdownMilliseconds: 60_000,
      image: null,
    });
    t.strictSame(listeners('-U', 's', '--port=0'), [tcp('127.0.0.1', 0), unix('s')]);
    t.strictSame(listeners('-U', 's'), [usual, unix('s')]);
    t.strictSame(listeners('-i', '::1'), [tcp('::1', 10_809), unix('state/nbd.sock')]);
  });

  t.test('-U replaces TCP unless -p or -i is there', async (t) => {
    t.strictSame(listeners('-U', 's', 'i'), [unix('s')]);
    t.strictSame(listeners('-U', '-', 'i'), [{ kind: 'private' }]);
    t.strictSame(listeners('-U', 's', '-p', '1', 'i'), [tcp('127.0.0.1', 1), unix('s')]);
    t.strictSame(listeners('-U', 's', '-i', '::1', 'i'), [tcp('::1', 10_809), unix('s')]);
    t.strictSame(listeners('i'), [usual]);
  });

  t.test('several -p, -i and -U are several places', async (t) => {
    t.strictSame(listeners('-p', '1', '-p', '2', 'i'), [tcp('127.0.0.1', 1), tcp('127.0.0.1', 2)]);
    t.strictSame(listeners('-i', '::1', '-p', '1', '-i', '0.0.0.0', '-p', '2', 'i'), [
      tcp('::1', 1),
      tcp('0.0.0.0', 1),
      tcp('::1', 2),
      tcp('0.0.0.0', 2),
    ]);
    t.strictSame(listeners('-i', '[::1]:5', '-i', '1.2.3.4:0', 'i'), [
      tcp('::1', 5),
      tcp('1.2.3.4', 0),
    ]);
    t.strictSame(listeners('-i', '[::]', '-i', '1.2.3.4:5', '-p', '6', 'i'), [
      tcp('1.2.3.4', 5),
      tcp('::', 6),
    ]);
    t.strictSame(listeners('-p', '0', '-p', '0', '-U', '-', '-U', '-', 'i'), [
      tcp('127.0.0.1', 0),
      tcp('127.0.0.1', 0),
      { kind: 'private' },
      { kind: 'private' },
    ]);
  });

  t.test('knows the short and the long words, and those of others', async (t) => {
    const short = ['-p', '5', '-i', '::', '-U', 'u', '-r', '-e', 'x', '-D', 'd', '-P', 'p'];
    const long = ['--port=5', '--ip-addr=::', '--unix=u', '--read-only', '--export-name=x'];
    const theirs = ['--port=5', '--ipaddr=::', '--unix=u', '--readonly', '--exportname=x'];
    const rest = ['--user=a', '--group=b', '--verbose', '--foreground', 'i'];
    const options = parse(...short, '-u', 'a', '-g', 'b', '-v', '-f', 'i');
    t.strictSame(parse(...long, '--description=d', '--pidfile=p', ...rest), options);
    t.strictSame(parse(...theirs, '--description=d', '--pid-file=p', ...rest), options);
    const found = { readOnly: true, exportName: 'x', description: 'd', pidfile: 'p', image: 'i' };
    t.match(options, { ...found, state: null, user: 'a', group: 'b', logLevel: 'debug' });
    t.match(parse('--export=x', '--no-fork', 'i'), { exportName: 'x' });
    t.match(parse('-s', 'i'), { single: true });
    t.strictSame(parse('--stdin', 'i'), parse('-s', 'i'));
    t.equal(parse('-V'), 'version');
    t.equal(parse('--exit-with-parent', '--version'), 'version');
    t.equal(parse('--help', '-p', '1'), 'help');
    t.equal(parse('--dump-config'), 'dump-config');
    t.match(parse('--state', 'd', '--engine=node', '--log-level=debug', '--control=none'), {
      embedded: false,
      state: 'd',
      engine: 'node',
      logLevel: 'debug',
      control: 'none',
    });
    t.match(parse('-v', '--log-level=error'), { logLevel: 'error' });
    t.match(parse('--busy-poll', '0'), { busyPoll: 0 });
    t.match(parse('--busy-poll=10000'), { busyPoll: 10 }, 'microseconds');
    t.match(parse('-e', 'a', '-e', 'b', 'i'), { exportName: 'b' }, 'the last one counts');
  });

  t.test('one client or a command is served quietly, and in private', async (t) => {
    const quiet = { control: 'none', logLevel: 'warn', embedded: false };
    t.match(parse('-s', 'i'), { ...quiet, single: true, listeners: [], run: null });
    const run = { ...quiet, run: 'qemu-img info $uri', single: false };
    t.match(parse('--run', 'qemu-img info $uri', 'i'), {
      ...run,
      listeners: [{ kind: 'private' }],
    });
    t.strictSame(listeners('--run', 'x', '-p', '5', 'i'), [tcp('127.0.0.1', 5)]);
    t.strictSame(listeners('--run', 'x', '-U', 's', 'i'), [unix('s')]);
    t.strictSame(listeners('--run', 'x'), [{ kind: 'private' }]);
    t.match(parse('-s', '-v', '--control=c', 'i'), { control: 'c', logLevel: 'debug' });
    t.match(parse('--exit-with-parent', '--print-uri', 'i'), {
      exitWithParent: true,
      printUri: true,
      control: null,
      logLevel: 'info',
    });
  });

  t.test('sockets that were passed are what is listened on', async (t) => {
    const inherited = [
      { fd: 3, name: 'a' },
      { fd: 4, name: '' },
    ];
    const fds = [
      { kind: 'fd', fd: 3 },
      { kind: 'fd', fd: 4 },
    ];
    t.match(parseCommandLine(['i'], inherited), {
      listeners: fds,
      socketNames: ['a', ''],
      control: 'none',
      logLevel: 'warn',
    });
    t.match(parseCommandLine([], inherited), { embedded: true, listeners: fds });
    const wrong = ['-p=1', '-i=::', '-U=s', '--run=x'];
    for (const word of [...wrong, '-s']) {
      const args = word.split('=');
      const name = { '-p': 'port', '-i': 'ip-addr', '-U': 'unix', '-s': 'single' }[
        args[0] as string
      ];
      const message = `--${name ?? 'run'}: found sockets that were passed in LISTEN_FDS, wanted none`;
      t.throws(() => parseCommandLine([...args, 'i'], inherited), { message: new RegExp(message) });
    }
  });

  t.test('takes what is offered of the protocol, and to whom', async (t) => {
    t.match(parse('--no-sr', '--no-eh', '--no-mc', '--timeout=500ms', 'i'), {
      protocol: {
        structuredReplies: false,
        extendedHeaders: false,
        metaContexts: false,
        handshakeMilliseconds: 500,
      },
    });
    const timeout = (text: string): unknown => {
      const options = parse('--timeout', text, 'i');
      return typeof options === 'string' ? null : options.protocol.handshakeMilliseconds;
    };
    t.strictSame(['2s', '0', '1m', '1.5', '0.1ms'].map(timeout), [2000, 0, 60_000, 1500, 1]);
    const allow = ['192.0.2.0/24', '2001:db8::7', '198.51.100.1'];
    t.match(parse('--allow', allow.slice(0, 2).join(), '--allow', allow[2] as string), { allow });
    t.match(parse('--tls=require', '--tls-certificates=c', '--tls-verify-peer', 'i'), {
      tls: { mode: 'require', certificates: 'c', psk: null, verifyPeer: true },
    });
    t.match(parse('--tls', 'on', '--tls-psk=k', 'i'), { tls: { mode: 'on', psk: 'k' } });
    t.match(parse('--tls=off', '--tls-psk=k', 'i'), { tls: { mode: 'off', psk: 'k' } });
  });

  t.test('parses devices: lines at semicolons, names with colons', async (t) => {
    const options = parse(
      '--device=a: 0 8 zero; 8 8 error',
      '--device',
      'b:c: 0 8 linear /x\\;y\\ z 0;',
      '--device=d:  0 8 zero\n8 8 error',
    );
    t.match(options, {
      devices: [
        { name: 'a', table: '0 8 zero\n8 8 error' },
        { name: 'b:c', table: '0 8 linear /x\\;y\\ z 0\n' },
        { name: 'd', table: '0 8 zero\n8 8 error' },
      ],
    });
  });

  t.test('control is a socket, TCP or both', async (t) => {
    const token = ['--control-token-file', 'token'];
    const place = (host: string, port: number) => ({ host, port });
    t.match(parse('--control', 'tcp://[::1]:5', ...token, 'i'), {
      control: 'none',
      controlTcp: { places: [place('::1', 5)], tokenFile: 'token', origins: [] },
    });
    const origins = ['https://a.example', 'http://b:8080'];
    const listed = origins.map((origin) => `--control-origin=${origin}`);
    const two = ['--control=tcp://127.0.0.1:0', '--control=c', '--control=tcp://127.0.0.1:7'];
    t.match(parse(...two, ...token, ...listed, 'i'), {
      control: 'c',
      controlTcp: { places: [place('127.0.0.1', 0), place('127.0.0.1', 7)], origins },
    });
    const allowed = ['--allow-path', '/a', '--allow-path=b', '--no-lock'];
    t.match(parse(...allowed, 'i'), { control: null, allowPaths: ['/a', 'b'], lock: false });
  });

  t.test('rejects what it cannot take, with the option and what was found', async (t) => {
    const rejects = (message: RegExp, ...args: string[]) => {
      t.throws(() => parse(...args), { code: 'EINVAL', message }, args.join(' '));
    };
    rejects(/^--port: found "65536", wanted 0 to 65535 \(mapperd --help/, '-p', '65536');
    rejects(/^--port: found "ten"/, '--port=ten');
    rejects(/^--port: found ""/, '--port=');
    rejects(/^--port: found "1", but every --ip-addr has a port/, '-p', '1', '-i', '1.2.3.4:5');
    rejects(/^--ip-addr: found "localhost", wanted a numeric address/, '-i', 'localhost');
    rejects(/^--ip-addr: found ""/, '-i', '');
    rejects(/^--ip-addr: found "", wanted 0 to 65535/, '-i', '1.2.3.4:');
    rejects(/^--ip-addr: found "\[1:5"/, '-i', '[1:5');
    rejects(/^found address ::1 with port 5 twice/, '-i', '::1', '-p', '5', '-i', '[::1]:5');
    rejects(/^found socket "s" twice, wanted it once/, '-U', 's', '-U', 's');
    rejects(/^--unix: found "", wanted a path or "-"/, '-U', '');
    rejects(/^--engine: found "aio", wanted auto, uring, node/, '--engine=aio');
    rejects(/^--log-level: found "loud"/, '--log-level=loud');
    const time = /^--busy-poll: found ".*", wanted 0 to 10000 \(microseconds\)/;
    for (const text of ['x', '-1', '10001', '50us', '1e3', '0.5'])
      rejects(time, `--busy-poll=${text}`);
    rejects(/^--tls: found "yes", wanted off, on, require/, '--tls=yes');
    rejects(/^--tls-psk: found no --tls, wanted it too/, '--tls-psk=k');
    rejects(
      /^found --tls-psk and --tls-verify-peer/,
      '--tls=on',
      '--tls-psk=k',
      '--tls-verify-peer',
    );
    rejects(/^--timeout: found duration "1h"/, '--timeout=1h');
    rejects(/^--timeout: found "36000m", wanted at most/, '--timeout=36000m');
    rejects(/^--shutdown-timeout: found duration "soon"/, '--shutdown-timeout=soon');
    rejects(/^--allow: found "1.2.3", wanted an address/, '--allow=1.2.3');
    rejects(/^--allow: found "", wanted an address/, '--allow=1.2.3.4,');
    rejects(/^--allow: found "1.2.3.4\/8", wanted no bits/, '--allow=1.2.3.4/8');
    rejects(/^found --single and --port, wanted one of them/, '-s', '-p', '1');
    rejects(/^found --single and --run/, '-s', '--run=x');
    rejects(/^found --single and --print-uri/, '-s', '--print-uri');
    rejects(/^--run: found an empty string/, '--run=');
    rejects(/^--user: found an empty string/, '-u', '');
    rejects(/^--description: found no image, wanted one/, '-D', 'x', '--state=s');
    rejects(/^--description: description has 0 bytes/, '-D', '', 'i');
    rejects(/^found 2 images, wanted one: "b"/, 'a', 'b');
    rejects(/^unknown option '--sate' \(mapperd/, '--sate=x');
    rejects(/^option '-p, --port <value>' argument missing/, '-p');
    rejects(/^option '-s, --single' does not take an argument/, '--single=yes');
    rejects(/^--device: found "a 0 8 zero", wanted 'NAME: TABLE LINE'/, '--device=a 0 8 zero');
    rejects(/^--device: device name "a\/b" has a "\/"/, '--device=a/b: 0 8 zero');
    rejects(/^--export-name: device name is empty/, '-e', '', 'x');
    rejects(/^--control: found an empty string/, '--control=');
    rejects(/^--control: found "tcp:\/\/x", wanted tcp:/, '--control=tcp://x');
    rejects(/^--control: found host "localhost", wanted a num/, '--control=tcp://localhost:5');
    rejects(/^--control: found tcp:\/\/ without --control-tok/, '--control=tcp://127.0.0.1:5');
    rejects(/^--control-token-file: found no --control tcp:/, '--control-token-file=t');
    rejects(/^--control-origin: found no --control tcp:/, '--control-origin=https://a');
    rejects(/^--control-origin: found "a", wanted one as browsers/, '--control-origin=a');
    rejects(/^--allow-path: found an empty string/, '--allow-path=');
  });

  t.test('has a help that fits, with every option', async (t) => {
    const help = usageText();
    for (const line of help.split('\n')) t.ok(line.length <= 80, line);
    for (const { name, short } of optionRows) {
      t.match(
        help,
        new RegExp(`^  ${short === undefined ? '   ' : `-${short},`} --${name}( |$)`, 'm'),
      );
    }
  });
});

t.test('sockets that were passed to the process', async (t) => {
  const take = (environment: Record<string, string>) => takeInheritedSockets(environment, 77);

  t.test('are taken out of the environment, with their names', async (t) => {
    const names = { LISTEN_FDNAMES: 'nbd::x', OTHER: '1' };
    const environment = { LISTEN_PID: '77', LISTEN_FDS: '4', ...names };
    t.strictSame(take(environment), [
      { fd: 3, name: 'nbd' },
      { fd: 4, name: '' },
      { fd: 5, name: 'x' },
      { fd: 6, name: '' },
    ]);
    t.strictSame(environment, { OTHER: '1' });
  });

  t.test('are none if they are for somebody else', async (t) => {
    t.strictSame(take({ LISTEN_PID: '78', LISTEN_FDS: '1' }), []);
    t.strictSame(take({ LISTEN_FDS: '1' }), []);
    t.strictSame(take({ LISTEN_PID: '77' }), []);
    t.strictSame(take({}), []);
  });

  t.test('are rejected if there is no sense in it', async (t) => {
    for (const count of ['0', '-1', '', 'x', '1e1', '65', '4294967297']) {
      const wrong = { code: 'EINVAL', message: `LISTEN_FDS: found "${count}", wanted 1 to 64` };
      t.throws(() => take({ LISTEN_PID: '77', LISTEN_FDS: count }), wrong);
    }
    const wrong = { message: 'LISTEN_PID: found "me", wanted a process id' };
    t.throws(() => take({ LISTEN_PID: 'me', LISTEN_FDS: '1' }), wrong);
  });
});

t.test('the parent process', async (t) => {
  const parents = [5, 5, 5, 1, 1, 5];
  const gone = await new Promise<number>((resolve) => {
    watchParent(
      () => resolve(parents.length),
      () => parents.shift() as number,
    );
    // The watch alone keeps no process alive.
    const alive = setInterval(() => parents.length < 3 && clearInterval(alive), 10);
  });
  t.equal(gone, 2, 'is missed as soon as it is another one');
});

t.test('an image', async (t) => {
  const directory = newDirectory();

  t.test('becomes a linear table over its whole sectors', async (t) => {
    const path = join(directory, 'my disk\\1.img');
    writeFileSync(path, '');
    truncateSync(path, 10_000);
    const image = await describeImage(path);
    t.match(image, { name: 'my disk\\1.img', writable: true, cutBytes: 10_000 % 512 });
    t.match(parseTable(image.table), [
      { beginSectors: 0, lengthSectors: 19, type: 'linear', args: [path, '0'] },
    ]);
  });

  t.test('may have a name that fits into no table line as it is', async (t) => {
    const path = join(directory, 'a\nb%20?c');
    writeFileSync(path, Buffer.alloc(512));
    const { table } = await describeImage(path);
    const word = parseTable(table)[0]?.args[0] ?? '';
    t.equal(decodeURIComponent(new URL(word).pathname), path);
    t.match(parseTable(table), { length: 1 });
  });

  t.test('is rejected when it is none', async (t) => {
    const small = join(directory, 'small');
    writeFileSync(small, Buffer.alloc(511));
    const folder = join(directory, 'folder');
    mkdirSync(folder);
    await t.rejects(describeImage(small), { message: /has 511 bytes, wanted at least one sector/ });
    await t.rejects(describeImage(folder), { message: /is neither a file nor a block device/ });
    await t.rejects(describeImage(join(directory, 'none')), {
      code: 'ENOENT',
      message: /^open ".*none": ENOENT/,
    });
    await t.rejects(describeImage('/dev/null'), { message: /neither a file nor a block device/ });
  });

  t.test('that is a block device is looked up by its numbers', async (t) => {
    t.same(deviceNumbers(0x0801), { major: 8, minor: 1 });
    t.same(deviceNumbers(0x10000fd01), { major: 0xfd, minor: 0x100001 });
    t.same(deviceNumbers(Number(0x0000_1000_0000_0000n)), { major: 0x1000, minor: 0 });
  });
});

t.test('the first volume', async (t) => {
  t.test('is made once, sparse and closed to others, where nothing is', async (t) => {
    const path = newDirectory();
    writeFileSync(join(path, 'lock'), '');
    const state = new StateDirectory(path);
    t.equal(await makeFirstVolume(state), true);
    const image = statSync(join(path, 'vol0.img'));
    t.equal(image.size, 2 ** 30);
    t.ok(image.blocks * 512 < 2 ** 20);
    t.equal(image.mode & 0o777, 0o600);
    const cow = statSync(join(path, 'vol0-snap.cow'));
    t.equal(cow.size, (1 + 2 ** 18 + 1025) * 4096);
    t.equal(cow.blocks, 0);
    t.equal(cow.mode & 0o777, 0o600);
    const { devices } = await state.load();
    const lengthSectors = 2 ** 21;
    const lines = devices.map(({ name, table }) => [name, parseTable(table)]);
    t.match(Object.fromEntries(lines), {
      'vol0-real': [{ lengthSectors, type: 'linear', args: [join(path, 'vol0.img'), '0'] }],
      vol0: [{ lengthSectors, type: 'snapshot-origin', args: ['dm:vol0-real'] }],
      'vol0-snap': [
        {
          lengthSectors,
          type: 'snapshot',
          args: ['dm:vol0-real', join(path, 'vol0-snap.cow'), 'P', '8'],
        },
      ],
    });
    t.match(devices.find(({ name }) => name === 'vol0-snap')?.created, /^20.*Z$/);
    t.equal(await makeFirstVolume(state), false);
    for (const { name } of devices) await state.remove(name);
    t.equal(await makeFirstVolume(state), false);
    t.same(readdirSync(path).sort(), ['lock', 'vol0-snap.cow', 'vol0.img']);
  });
});

t.test('where clients find devices', async (t) => {
  const tcp = { kind: 'tcp', host: '::1', port: 10809 } as const;
  const unix = { kind: 'unix', path: '/run/a b?.sock' } as const;
  t.equal(nbdUri(tcp, ''), 'nbd://[::1]:10809/');
  t.equal(nbdUri({ ...tcp, host: '127.0.0.1' }, 'a/ b'), 'nbd://127.0.0.1:10809/a%2F%20b');
  t.equal(nbdUri(unix, 'vol0'), 'nbd+unix:///vol0?socket=/run/a%20b%3F.sock');
  t.equal(nbdUri({ kind: 'unix', path: '' }, ''), 'nbd+unix:///', 'it has no name here');
  t.equal(nbdUri({ kind: 'unix', path: '\0a b' }, ''), 'nbd+unix:///?socket=%40a%20b');
  const keys = { mode: 'require', certificates: null, psk: '/k/keys', verifyPeer: false } as const;
  const certificates = { ...keys, certificates: '/c d', psk: null };
  t.equal(nbdUri(tcp, 'a', keys), 'nbds://[::1]:10809/a?tls-psk-file=/k/keys');
  t.equal(nbdUri(tcp, 'a', { ...keys, mode: 'on' }), 'nbd://[::1]:10809/a');
  t.equal(
    nbdUri(unix, '', certificates),
    'nbds+unix:///?socket=/run/a%20b%3F.sock&tls-certificates=/c%20d',
  );
  const local = (host: string): unknown => localAddress({ ...tcp, host });
  t.match(['0.0.0.0', '::', '10.0.0.1'].map(local), [
    { host: '127.0.0.1', port: 10_809 },
    { host: '::1' },
    { host: '10.0.0.1' },
  ]);
  const lines = attachLines('vol0', null, [tcp, unix], 'mapperctl');
  t.match(lines, '  nbd-client ::1 10809 -N vol0 /dev/nbd0');
  t.match(lines, "  nbd-client -unix '/run/a b?.sock' -N vol0 /dev/nbd0");
  t.match(lines, "  nbdinfo 'nbd://[::1]:10809/vol0'");
  t.match(lines, "  qemu-img info 'nbd+unix:///vol0?socket=/run/a%20b%3F.sock'");
  t.match(lines, '  mapperctl table vol0');
  t.notMatch(lines, 'snapshot');
  const backup = /^snap is a snapshot of it; back it up: nbdcopy 'nbd\+unix:.*' vol0\.backup$/m;
  t.match(attachLines('vol0', 'snap', [tcp, unix], 'mapperctl'), backup);
  t.match(
    attachLines('vol0', 'snap', [tcp], 'mapperctl'),
    / nbdcopy 'nbd:\/\/\[::1\]:10809\/snap'/,
  );
  t.equal(quoteShell("it's"), "'it'\\''s'");
  t.equal(defaultControlPath({ XDG_RUNTIME_DIR: '/run/user/1' }), '/run/user/1/mapperd.sock');
  t.equal(defaultControlPath({ XDG_RUNTIME_DIR: '' }), '/run/mapperd.sock');
  t.equal(defaultControlPath({}), '/run/mapperd.sock');
});

t.test('the log', async (t) => {
  const lines: string[] = [];
  const target = { write: (line: string) => lines.push(line) };

  t.test('is JSON with the level as a word', async (t) => {
    const log = createLog('info', false, target);
    log.debug({}, 'not this');
    log.warn({ device: 'a' }, 'slow');
    t.match(JSON.parse(lines.pop() ?? ''), { level: 'warn', device: 'a', msg: 'slow', time: /Z$/ });
    t.same(lines, []);
  });

  t.test('is a line for people on a terminal', async (t) => {
    createLog('debug', true, target).debug({ n: 5, path: '/a b', x: { y: 1 }, e: 'a\nb' }, 'hello');
    t.match(
      lines.pop(),
      /^\d\d:\d\d:\d\d\.\d\d\d debug hello {2}n=5 path="\/a b" x=\{"y":1\} e="a\\nb"\n$/,
    );
    t.equal(
      humanLine('{"level":"info","time":"2026-01-02T03:04:05.678Z"}'),
      '03:04:05.678 info  \n',
    );
  });
});

t.test('the pidfile', async (t) => {
  const path = join(newDirectory(), 'pid');
  const file = new PidFile(path);
  t.same(readdirSync(join(path, '..')), ['pid']);
  t.equal(statSync(path).size, `${process.pid}\n`.length);
  writeFileSync(path, '1\n');
  file.remove();
  t.ok(statSync(path).isFile(), 'another process has taken it over');
  const again = new PidFile(path);
  again.remove();
  again.remove();
  t.same(readdirSync(join(path, '..')), []);
  t.throws(() => new PidFile(join(path, 'x')), { code: 'ENOENT', message: /^write pidfile/ });
});

t.test('sizes and durations', async (t) => {
  t.equal(formatBytes(0), '0 B');
  t.equal(formatBytes(1023), '1023 B');
  t.equal(formatBytes(4096), '4.0 KiB');
  t.equal(formatBytes(1.5 * 2 ** 30), '1.5 GiB');
  t.equal(formatBytes(2 ** 53), '8.0 PiB');
  t.equal(formatMicroseconds(87.4), '87 us');
  t.equal(formatMicroseconds(1250), '1.25 ms');
  t.equal(formatMicroseconds(3_000_000), '3.00 s');
  t.equal(parseDuration('2s'), 2000);
  t.equal(parseDuration('500ms'), 500);
  t.equal(parseDuration('1.5'), 1500);
  t.equal(parseDuration('1m'), 60_000);
  t.equal(parseBytes('512'), 512);
  t.equal(parseBytes('4k'), 4096);
  t.equal(parseBytes('1.5G'), 1.5 * 2 ** 30);
  t.equal(parseBytes('2 MiB'), 2 ** 21);
  t.equal(parseBytes('8s'), 4096);
  t.equal(parseBytes('7b'), 7);
  for (const wrong of ['', 'k', '-1', '1x', '1kk', '0.3k', '9P', '1 2']) {
    t.throws(() => parseBytes(wrong), { code: 'EINVAL' }, wrong);
  }
  t.same([59_999, 60_000, 3_599_999, 3_600_000, 86_400_000, 9e8, -5].map(formatAge), [
    '59s',
    '1m',
    '59m',
    '1h 0m',
    '1d 0h',
    '10d 10h',
    '0s',
  ]);
  for (const wrong of ['', 's', '2 s', '-1s', '1h', 'one']) {
    t.throws(() => parseDuration(wrong), { code: 'EINVAL' }, wrong);
  }
});
