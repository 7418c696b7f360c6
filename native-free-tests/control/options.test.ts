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
import { attachLines, nbdUri, quoteShell } from '../../src/control/attach.js';
import { defaultControlPath } from '../../src/control/control-path.js';
import { makeFirstVolume } from '../../src/control/first-volume.js';
import { describeImage, deviceNumbers } from '../../src/control/image.js';
import { createLog, humanLine } from '../../src/control/log.js';
import { PidFile } from '../../src/control/pidfile.js';
import { StateDirectory } from '../../src/control/state.js';
import { parseTable } from '../../src/device/table-text.js';
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

  t.test('without anything serves ./state everywhere', async (t) => {
    t.match(parse(), {
      embedded: true,
      tcp: { host: '127.0.0.1', port: 10809 },
      unix: null,
      readOnly: false,
      exportName: null,
      pidfile: null,
      engine: 'auto',
      state: 'state',
      devices: [],
      control: null,
      logLevel: 'info',
      image: null,
    });
    t.match(parse('-U', 'sock', '--port=0'), { embedded: true, unix: 'sock', tcp: { port: 0 } });
    t.match(parse('-U', 'sock'), { embedded: true, tcp: { port: 10809 } });
  });

  t.test('-U replaces TCP unless -p or -i is there', async (t) => {
    t.match(parse('-U', 's', 'disk.img'), { embedded: false, unix: 's', tcp: null });
    t.match(parse('-U', 's', '-p', '1', 'disk.img'), { tcp: { host: '127.0.0.1', port: 1 } });
    t.match(parse('-U', 's', '-i', '::1', 'disk.img'), { tcp: { host: '::1', port: 10809 } });
    t.match(parse('disk.img'), { unix: null, tcp: { host: '127.0.0.1', port: 10809 } });
  });

  t.test('knows the short and the long words', async (t) => {
    const short = parse('-p', '5', '-i', '::', '-U', 'u', '-r', '-e', 'x', '-P', 'p', 'i');
    const long = parse(
      '--port=5',
      '--ip-addr=::',
      '--unix=u',
      '--read-only',
      '--export-name=x',
      '--pidfile=p',
      'i',
    );
    t.same(short, long);
    t.match(long, { readOnly: true, exportName: 'x', pidfile: 'p', image: 'i', state: null });
    t.equal(parse('-V'), 'version');
    t.equal(parse('--help', '-p', '1'), 'help');
    t.match(parse('--state', 'd', '--engine=node', '--log-level=debug', '--control=none'), {
      embedded: false,
      state: 'd',
      engine: 'node',
      logLevel: 'debug',
      control: 'none',
    });
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

  t.test('rejects what it cannot take, with the option and what was found', async (t) => {
    const rejects = (message: RegExp, ...args: string[]) => {
      t.throws(() => parse(...args), { code: 'EINVAL', message }, args.join(' '));
    };
    rejects(/^--port: found "65536", wanted 0 to 65535 \(mapperd --help/, '-p', '65536');
    rejects(/^--port: found "ten"/, '--port=ten');
    rejects(/^--port: found ""/, '--port=');
    rejects(/^--engine: found "aio", wanted auto, uring, node/, '--engine=aio');
    rejects(/^--log-level: found "loud"/, '--log-level=loud');
    rejects(/^found 2 images, wanted one: "b"/, 'a', 'b');
    rejects(/^unknown option '--sate' \(mapperd/, '--sate=x');
    rejects(/^option '-p, --port <value>' argument missing/, '-p');
    rejects(/^--device: found "a 0 8 zero", wanted 'NAME: TABLE LINE'/, '--device=a 0 8 zero');
    rejects(/^--device: device name "a\/b" has a "\/"/, '--device=a/b: 0 8 zero');
    rejects(/^--export-name: device name is empty/, '-e', '', 'x');
    rejects(/^--unix: found "-", wanted a path/, '-U', '-');
    rejects(/^--control: found an empty string/, '--control=');
  });
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
