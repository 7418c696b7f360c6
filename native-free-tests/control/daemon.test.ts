/** The daemon and its control command, whole, on each engine that works here. */

import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { signalRepeatMilliseconds } from '../../src/base/limits.js';
import { DaemonProcess, mapperctl, openExport, type Surroundings } from './daemon-process.js';

const running = new Set<DaemonProcess>();
const directories: string[] = [];
t.teardown(async () => {
  for (const daemon of running) daemon.signal('SIGKILL');
  await Promise.all([...running].map((daemon) => daemon.ended));
  for (const path of directories) rmSync(path, { recursive: true });
});

function newDirectory(): string {
  const path = mkdtempSync(join(tmpdir(), 'mapperd-daemon-'));
  directories.push(path);
  return path;
}

function startDaemon(args: string[], surroundings: Surroundings = {}): DaemonProcess {
  const daemon = new DaemonProcess(args, surroundings);
  running.add(daemon);
  void daemon.ended.then(() => running.delete(daemon));
  return daemon;
}

/** A daemon of its own on unix sockets in a folder of its own. */
class Setting {
  readonly directory = newDirectory();
  readonly control = join(this.directory, 'c');
  readonly socket = join(this.directory, 'n');
  readonly state = join(this.directory, 'state');
  readonly pidfile = join(this.directory, 'pid');
  readonly #engine: string;

  constructor(engine: string) {
    this.#engine = engine;
  }

  get args(): string[] {
    return ['--engine', this.#engine, '-U', this.socket, '--control', this.control];
  }

  start(...args: string[]): DaemonProcess {
    return startDaemon([...this.args, ...args]);
  }

  /** A sparse file of that many sectors. */
  file(name: string, sectors: number): string {
    const path = join(this.directory, name);
    writeFileSync(path, '');
    truncateSync(path, sectors * 512);
    return path;
  }

  /** mapperctl's output; the test fails if it does. */
  async ctl(t: Test, args: string[], input?: string): Promise<string> {
    const { code, stdout, stderr } = await mapperctl(['-c', this.control, ...args], input);
    t.same({ code, stderr }, { code: 0, stderr: '' }, `mapperctl ${args.join(' ')}`);
    return stdout;
  }

  /** What mapperctl says when it fails. */
  async refused(t: Test, ...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await mapperctl(['-c', this.control, ...args]);
    t.same({ code, stdout }, { code: 1, stdout: '' }, `mapperctl ${args.join(' ')}`);
    return stderr;
  }
}

async function sizeOf(socket: string, name: string): Promise<number> {
  const opened = await openExport(socket, name);
  opened.close();
  return opened.sizeBytes;
}

async function lifecycle(t: Test, engine: string): Promise<void> {
  const setting = new Setting(engine);
  const { state, socket, pidfile, control } = setting;
  const disk = setting.file('disk', 64);
  let daemon = setting.start('--state', state, '-P', pidfile);
  t.match(await daemon.ready(), { engine, control, serving: [/^nbd\+unix:\/\/\/\?socket=/] });
  t.equal(readFileSync(pidfile, 'utf8'), `${daemon.pid}\n`);
  for (const path of [socket, control]) t.equal(statSync(path).mode & 0o777, 0o600);

  t.test('creates, stacks, loads, suspends, resumes', async (t) => {
    await setting.ctl(t, ['create', 'a', '--table', `0 64 linear ${disk} 0`]);
    await setting.ctl(t, ['create', 'b'], '# over a\n0 32 linear dm:a 0\n32 32 zero\n');
    await setting.ctl(t, ['create', 'ro', '-r', '--table', '0 8 zero']);
    await setting.ctl(t, ['create', 'empty', '--notable']);
    t.equal(await setting.ctl(t, ['table', 'b']), '0 32 linear dm:a 0\n32 32 zero\n');
    t.match(await setting.ctl(t, ['info', 'empty']), /Tables present: +None/);
    t.equal(await setting.ctl(t, ['deps', 'b']), '1 dependencies\t: (a)\n');
    await setting.ctl(t, [
      'load',
      'a',
      '--table',
      `0 32 linear ${disk} 32`,
      '--table',
      '32 32 zero',
    ]);
    t.match(await setting.ctl(t, ['info', 'a']), /Tables present: +LIVE & INACTIVE/);
    await setting.ctl(t, ['suspend', 'a']);
    t.match(await setting.ctl(t, ['info', '-C', 'a']), /^a +LIs[wr] /m);
    await setting.ctl(t, ['resume', 'a']);
    t.equal(await setting.ctl(t, ['table', 'a']), `0 32 linear ${disk} 32\n32 32 zero\n`);
    t.match(readFileSync(join(state, 'a.table'), 'utf8'), `0 32 linear ${disk} 32\n32 32 zero\n`);
    t.notOk(existsSync(join(state, 'empty.table')));
  });

  t.test('serves them, and counts', async (t) => {
    const opened = await openExport(socket, 'b');
    t.match(opened, { sizeBytes: 64 * 512, readOnly: false });
    t.equal(await opened.readSector(), 0);
    t.match(JSON.parse(await setting.ctl(t, ['stats', 'b', '--json'])), [
      { name: 'b', reads: 1, readBytes: 512, inFlight: 0 },
    ]);
    const ro = await openExport(socket, 'ro');
    t.equal(ro.readOnly, true);
    t.match(await setting.refused(t, 'remove', 'b'), /^mapperctl: remove b: .*in use/);
    opened.close();
    ro.close();
  });

  t.test('refuses what cannot be, with the reason', async (t) => {
    t.match(
      await setting.refused(t, 'remove', 'a'),
      /^mapperctl: remove a: device "a" is in use by device "b"\n$/,
    );
    t.match(
      await setting.refused(t, 'create', 'x', '--table', '0 8 linear /none/such 0'),
      /^mapperctl: create x: line 1: linear: .*\n$/,
    );
    t.match(
      await setting.refused(t, 'load', 'a', '--table', '0 64 linear dm:b 0'),
      /stand on itself/,
    );
    t.match(await setting.refused(t, 'rename', 'a', 'b'), /^mapperctl: rename a: .*"b".*exists/);
    t.match(
      await setting.refused(t, 'resume', 'none'),
      'mapperctl: resume none: no device "none"\n',
    );
    t.match(await setting.refused(t, 'table', 'a/b'), /has a "\/"/);
    t.match(await setting.refused(t, 'frobnicate'), /^mapperctl: unknown command "frobnicate"/);
    t.same(readdirSync(state).sort(), ['a.table', 'b.table', 'lock', 'ro.table']);
  });

  t.test('renames, and the tables above follow', async (t) => {
    await setting.ctl(t, ['rename', 'a', 'my disk']);
    t.equal(await setting.ctl(t, ['table', 'b']), '0 32 linear dm:my\\ disk 0\n32 32 zero\n');
    t.match(readFileSync(join(state, 'b.table'), 'utf8'), '0 32 linear dm:my\\ disk 0\n');
  });

  t.test('tells subscribers what happens', async (t) => {
    const events = mapperctl(['-c', control, 'events', '--count', '2', '--json']);
    // Suspending twice is as good as once, so it can be done until it has been heard.
    let heard: Awaited<typeof events> | null = null;
    void events.then((outcome) => {
      heard = outcome;
    });
    while (heard === null) await mapperctl(['-c', control, 'suspend', 'ro']);
    const { code, stdout } = await events;
    t.equal(code, 0);
    for (const line of stdout.trim().split('\n')) {
      t.match(JSON.parse(line), { event: 'device', name: 'ro', what: 'suspend', time: String });
    }
    await setting.ctl(t, ['resume', 'ro']);
  });

  const expected = [
    'b: 0 32 linear dm:my\\ disk 0',
    'b: 32 32 zero',
    `my disk: 0 32 linear ${disk} 32`,
    'my disk: 32 32 zero',
    'ro: 0 8 zero',
    '',
  ].join('\n');

  t.test('ends well and brings every device back', async (t) => {
    t.equal(await daemon.stop(), 0);
    t.same(readdirSync(state).sort(), ['b.table', 'my%20disk.table', 'ro.table']);
    t.same(readdirSync(setting.directory).sort(), ['disk', 'state']);
    daemon = setting.start('--state', state);
    await daemon.ready();
    t.equal(await setting.ctl(t, ['table']), expected);
    t.match(await setting.ctl(t, ['info', 'ro']), 'State:             ACTIVE (READ-ONLY)');
  });

  t.test('brings them back after SIGKILL, over what was left behind', async (t) => {
    daemon.signal('SIGKILL');
    await daemon.ended;
    t.ok(existsSync(socket) && existsSync(control));
    writeFileSync(join(state, '.tmp-1-1'), '0 8 ze');
    writeFileSync(join(state, 'broken.table'), '# read-only\n0 8\n');
    writeFileSync(join(state, 'over.table'), '0 8 linear dm:broken 0\n');
    daemon = setting.start('--state', state);
    await daemon.ready();
    t.equal(await setting.ctl(t, ['table']), expected);
    t.match(
      daemon.log.filter(({ level }) => level === 'error').map(({ file, msg }) => `${file}: ${msg}`),
      [
        `${state}/broken.table: line 2: found 2 words, wanted: <first sector>`,
        `${state}/over.table: stands on "broken", which could not be brought up`,
      ],
    );
    await setting.ctl(t, ['remove', 'broken', 'over', 'b', 'ro', 'my disk']);
    t.equal(await setting.ctl(t, ['ls']), 'No devices found\n');
    t.same(readdirSync(state), ['lock']);
  });

  t.test('refuses a second daemon on its state, its control socket, its socket', async (t) => {
    const other = new Setting(engine);
    const failure = async (...args: string[]): Promise<string> => {
      const { code, stderr } = await startDaemon(['--engine', engine, ...args]).ended;
      t.equal(code, 1);
      return stderr.split('\n').at(-2) ?? '';
    };
    t.equal(
      await failure('-U', other.socket, '--control', other.control, '--state', state),
      `mapperd: state directory "${state}" is in use by process ${daemon.pid}`,
    );
    t.match(
      await failure('-U', other.socket, '--control', control, '--state', other.state),
      `mapperd: control socket: socket "${control}" is in use by another process`,
    );
    t.match(
      await failure('-U', socket, '--control', other.control, '--state', other.state),
      `mapperd: socket "${socket}" is in use by another process`,
    );
    t.same(readdirSync(other.directory), ['state']);
    t.same(readdirSync(other.state), []);
    t.equal(await setting.ctl(t, ['ls']), 'No devices found\n');
    t.equal(await daemon.stop('SIGINT'), 0);
  });
}

async function snapshots(t: Test, engine: string): Promise<void> {
  const setting = new Setting(engine);
  const { state, socket } = setting;
  const sectors = 8192;
  const plain = `0 ${sectors} linear ${setting.file('disk', sectors)} 0\n`;
  let daemon = setting.start('--state', state);
  await daemon.ready();
  const ctl = (t: Test, line: string) => setting.ctl(t, line.split(' '));
  const states = async (t: Test) => {
    const all = JSON.parse(await ctl(t, 'snapshots --json')) as { name: string; state: string }[];
    return Object.fromEntries(all.map(({ name, state }) => [name, state]));
  };
  await setting.ctl(t, ['create', 'vol', '--table', plain]);
  const size = 65_536;
  const old = Buffer.alloc(size, 'old');
  const newer = Buffer.alloc(size, 'newer');
  const newest = Buffer.alloc(size, 'newest');
  /** What a device has at an offset, if that is one of the three. */
  const contents = async (name: string, offset = 4096): Promise<string> => {
    const opened = await openExport(socket, name);
    const bytes = await opened.read(offset, size).finally(() => opened.close());
    const known = Object.entries({ old, newer, newest }).find(([, data]) => data.equals(bytes));
    return known?.[0] ?? 'something else';
  };
  // Connected all the time: snapshots come and go beneath it.
  const client = await openExport(socket, 'vol');
  await client.write(4096, old);

  t.test('keep what their origin had, under a connected client', async (t) => {
    t.match(
      await ctl(t, 'snapshot vol first'),
      /^first: snapshot of vol, chunks of 4\.0 KiB\nCOW: /,
    );
    await client.write(4096, newer);
    await ctl(t, 'snapshot vol brief --transient --chunk 16k');
    await client.write(4096, newest);
    t.equal(await contents('first'), 'old');
    t.equal(await contents('brief'), 'newer');
    t.ok((await client.read(4096, size)).equals(newest));
    t.equal(await ctl(t, 'table vol'), `0 ${sectors} snapshot-origin dm:vol-real\n`);
    t.equal(await ctl(t, 'table vol-real'), plain);
    const [brief, first] = JSON.parse(await ctl(t, 'snapshots vol --json'));
    t.match(first, { name: 'first', origin: 'vol', type: 'P', state: 'active', exceptions: 16 });
    t.match(brief, { name: 'brief', type: 'N', chunkSectors: 32, exceptions: 5, created: /Z$/ });
    t.match(await ctl(t, 'info first'), /Snapshot taken: +20/);
  });

  t.test('warn when they fill up, and end invalid', async (t) => {
    await ctl(t, 'snapshot vol tiny --transient --size 40k');
    await client.write(2 ** 21, Buffer.alloc(8 * 4096, 1));
    t.match(await daemon.heard((line) => line.msg === 'the COW of a snapshot fills up'), {
      level: 'warn',
      device: 'tiny',
      percent: 80,
    });
    await client.write(2 ** 20, newest);
    t.match(await daemon.heard((line) => /^snapshot is invalid/.test(line.msg)), {
      level: 'warn',
      device: 'tiny',
    });
    t.match(await states(t), { tiny: 'invalid' });
    await ctl(t, 'snapshot --remove tiny');
    t.notOk(existsSync(join(state, 'tiny.cow')));
  });

  t.test('are refused with the reason', async (t) => {
    const used = await openExport(socket, 'brief');
    const busy = /^mapperctl: remove brief: device "brief" is in use \(open count 1\)\n$/;
    t.match(await setting.refused(t, 'snapshot', '--remove', 'brief'), busy);
    used.close();
    const again = /^mapperctl: snapshot first: device "first" exists already\n$/;
    t.match(await setting.refused(t, 'snapshot', 'vol', 'first'), again);
    const nested = /^mapperctl: snapshot x: "first" is a snapshot itself, wanted a volume\n$/;
    t.match(await setting.refused(t, 'snapshot', 'first', 'x'), nested);
    const transient = /^mapperctl: merge brief: Snapshot exception store does not support/;
    t.match(await setting.refused(t, 'merge', 'brief'), transient);
  });

  t.test('come back after SIGKILL, the transient one invalid', async (t) => {
    client.close();
    daemon.signal('SIGKILL');
    await daemon.ended;
    daemon = setting.start('--state', state);
    await daemon.ready();
    t.same(await states(t), { first: 'active', brief: 'invalid' });
    t.equal(await contents('first'), 'old');
    t.equal(await contents('vol'), 'newest');
    await ctl(t, 'snapshot --remove brief');
  });

  t.test('are merged and removed, and their origin is as it was', async (t) => {
    await ctl(t, 'snapshot vol other');
    await ctl(t, 'merge first --wait');
    t.equal(await contents('vol'), 'old');
    t.equal(await contents('other'), 'newest');
    t.same(await states(t), { other: 'active' });
    await ctl(t, 'merge other --wait');
    t.equal(await contents('vol'), 'newest');
    t.equal(await ctl(t, 'table vol'), plain);
    const kept = await ctl(t, 'snapshot vol last --chunk 4k --size 1M');
    t.match(kept, /last\.cow \(up to 1\.0 MiB\)\n$/);
    await ctl(t, 'snapshot --remove last --keep-cow');
    t.equal(await ctl(t, 'table'), `vol: ${plain}`);
    t.same(readdirSync(state).sort(), ['last.cow', 'lock', 'vol.table']);
    t.equal(statSync(join(state, 'last.cow')).size, 2 ** 20);
  });

  await t.test('ends', async (t) => {
    t.equal(await daemon.stop(), 0);
  });
}

async function images(t: Test, engine: string): Promise<void> {
  t.test('serves an image as the default export, and writes nothing', async (t) => {
    const setting = new Setting(engine);
    const image = setting.file('disk 1.img', 16);
    truncateSync(image, 16 * 512 + 100);
    const daemon = setting.start('-r', image);
    await daemon.ready();
    t.match(daemon.log[0], { level: 'warn', bytes: 100, msg: /no whole number of sectors/ });
    for (const name of ['', 'disk 1.img']) {
      const opened = await openExport(setting.socket, name);
      t.match(opened, { sizeBytes: 16 * 512, readOnly: true });
      opened.close();
    }
    await setting.ctl(t, ['create', 'other', '--table', '0 8 zero']);
    t.match(await setting.ctl(t, ['info', 'other']), 'READ-ONLY');
    t.equal(await daemon.stop('SIGQUIT'), 0);
    t.same(readdirSync(setting.directory), ['disk 1.img']);
  });

  t.test('makes the devices of the command line in the order of their stacking', async (t) => {
    const setting = new Setting(engine);
    const image = setting.file('i', 8);
    const daemon = setting.start(
      '-e',
      'base',
      '--device=top: 0 8 linear dm:mid 0; 8 8 zero',
      '--device=mid: 0 8 linear dm:base 0',
      '--state',
      setting.state,
      image,
    );
    await daemon.ready();
    t.equal(
      await setting.ctl(t, ['deps']),
      [
        'base: 0 dependencies\t:\n',
        'mid: 1 dependencies\t: (base)\n',
        'top: 1 dependencies\t: (mid)\n',
      ].join(''),
    );
    t.equal(await sizeOf(setting.socket, ''), 4096);
    t.equal(await daemon.stop(), 0);
    t.same(readdirSync(setting.state), []);
  });

  t.test('ends at once at a second signal, and takes a doubled one for one', async (t) => {
    const setting = new Setting(engine);
    const image = setting.file('i', 8);
    const daemon = setting.start(`--device=slow: 0 8 delay ${image} 0 600000`);
    await daemon.ready();
    const opened = await openExport(setting.socket, 'slow');
    const reading = opened.readSector().catch(() => -1);
    for (let seen = ''; !/^In flight: +1$/m.test(seen); ) {
      seen = (await mapperctl(['-c', setting.control, 'info', 'slow'])).stdout;
    }
    daemon.signal('SIGTERM');
    daemon.signal('SIGINT');
    await daemon.heard(({ msg }) => msg === 'ending');
    await new Promise((resolve) => setTimeout(resolve, signalRepeatMilliseconds + 50));
    t.equal(daemon.log.filter(({ msg }) => msg === 'ending').length, 1);
    t.equal(await daemon.stop(), 1);
    t.match(daemon.log.at(-1), { level: 'warn', msg: /^second signal/ });
    await reading;
    t.same(readdirSync(setting.directory), ['i']);
  });
}

async function failures(t: Test): Promise<void> {
  const setting = new Setting('node');
  const fails = async (message: RegExp, ...args: string[]) => {
    const { code, stderr, stdout } = await setting.start(...args).ended;
    t.equal(code, 1);
    t.equal(stdout, '');
    t.match(stderr, message);
    t.equal(stderr.split('\n').length, 2);
  };
  await fails(/^mapperd: open ".*none": ENOENT/, join(setting.directory, 'none'));
  await fails(/^mapperd: ".*tiny" has 0 bytes/, setting.file('tiny', 0));
  await fails(/^mapperd: device "a": line 1: linear: /, '--device=a: 0 8 linear /none/such 0');
  await fails(
    /^mapperd: device "a": stands on "b", which is not there/,
    '--device=a: 0 8 linear dm:b 0',
  );
  await fails(
    /^mapperd: device "a" is given twice/,
    '--device=a: 0 8 zero',
    '--device=a: 0 8 zero',
  );
  await fails(/^mapperd: --port: found "x"/, '-p', 'x');
  await fails(/^mapperd: unknown option '--nonsense'/, '--nonsense');
  await fails(/^mapperd: make state directory ".*": ENOENT/, '--state', '/none/such');
  await fails(/^mapperd: write pidfile/, '-P', '/none/such', '--device=a: 0 8 zero');
  const blocked = setting.file('blocked', 1);
  await fails(
    /^mapperd: control socket: ".*" is there and is no socket/,
    '--control',
    blocked,
    '--device=a: 0 8 zero',
  );
  t.same(readdirSync(setting.directory).sort(), ['blocked', 'tiny']);
}

async function embedded(t: Test): Promise<void> {
  const runtimeDirectory = newDirectory();
  const [one, two] = [newDirectory(), newDirectory()];
  const start = (cwd: string) => startDaemon(['-p', '0'], { cwd, runtimeDirectory });
  const first = start(one);
  const ready = await first.ready();
  t.match(ready, {
    serving: [
      /^nbd:\/\/127\.0\.0\.1:[1-9]\d*\/$/,
      /^nbd\+unix:\/\/\/\?socket=.*\/state\/nbd\.sock$/,
    ],
    control: join(runtimeDirectory, 'mapperd.sock'),
  });
  for (const name of ['vol0', 'vol0-snap', '']) {
    t.equal(await sizeOf(join(one, 'state/nbd.sock'), name), 2 ** 30, name);
  }
  // The default control socket is taken: the second one has its own next to its volumes.
  const second = start(two);
  t.match(await second.ready(), { control: join(two, 'state/control.sock') });
  const version = async (cwd: string, runtime: string): Promise<unknown> => {
    const surroundings = { cwd, runtimeDirectory: runtime };
    const { stdout } = await mapperctl(['version', '--json'], '', surroundings);
    return (JSON.parse(stdout) as { pid: number }).pid;
  };
  t.equal(await version('/', runtimeDirectory), first.pid);
  t.equal(await version(two, '/nonexistent'), second.pid);
  const none = await mapperctl(['ls'], '', { cwd: '/' });
  t.match(none, {
    code: 1,
    stderr:
      'mapperctl: no daemon answers at "/nonexistent/mapperd.sock" (ENOENT) ' +
      'or "state/control.sock" (ENOENT) or "/run/mapperd/control.sock" (ENOENT)\n',
  });
  t.equal(await first.stop(), 0);
  t.equal(await second.stop(), 0);
  t.match(
    (await first.ended).stdout,
    /^vol0 is at nbd:\/\/127\.0\.0\.1:\d+\/vol0\n {2}nbd-client /,
  );
  t.match(
    (await first.ended).stdout,
    /\nvol0-snap is a snapshot of it; back it up: nbdcopy 'nbd\+unix:\/\/\/vol0-snap\?socket=\S+ vol0\.backup\n/,
  );
  t.match((await second.ended).stdout, / -c \S+\/state\/control\.sock table vol0\n$/);
  t.same(readdirSync(join(one, 'state')).sort(), [
    'vol0-real.table',
    'vol0-snap.cow',
    'vol0-snap.table',
    'vol0.img',
    'vol0.table',
  ]);
  t.same(readdirSync(runtimeDirectory), []);
  // A directory that is somebody's already is served as it is.
  const third = newDirectory();
  mkdirSync(join(third, 'state'));
  writeFileSync(join(third, 'state/mine.img'), 'x');
  const empty = start(third);
  await empty.ready();
  t.match(empty.log, [{ level: 'warn', msg: /^no devices/ }]);
  t.equal(await empty.stop(), 0);
  t.equal((await empty.ended).stdout, '');
}

/** Why an engine cannot be had here; null if it can. */
async function whyNot(engine: string): Promise<string | null> {
  const setting = new Setting(engine);
  const daemon = setting.start('--device=a: 0 8 zero');
  if ((await daemon.ready()) !== null) {
    await daemon.stop();
    return null;
  }
  return (await daemon.ended).stderr.trim();
}

for (const engine of ['uring', 'node']) {
  t.test(`on the ${engine} engine`, async (t) => {
    const reason = await whyNot(engine);
    if (reason !== null && engine === 'uring') {
      t.comment(`skipped: ${reason}`);
      return;
    }
    t.equal(reason, null);
    await t.test('a daemon with a state directory', (t) => lifecycle(t, engine));
    await t.test('snapshots of a device in use', (t) => snapshots(t, engine));
    await t.test('a daemon with an image or devices', (t) => images(t, engine));
  });
}

t.test('a daemon started with nothing', embedded);
t.test('a daemon that cannot start ends with one line', failures);

t.test('the commands tell their version and usage without a daemon', async (t) => {
  const outcome = (args: string[]) => new DaemonProcess(args).ended;
  t.match(await outcome(['--version']), { code: 0, stdout: /^mapperd \d+\.\d+\.\d+\n$/ });
  t.match(await outcome(['--help']), {
    code: 0,
    stdout: /^Usage: mapperd \[options\] \[IMAGE\]\n/,
  });
  t.match(await mapperctl(['-V']), { code: 0, stdout: /^mapperctl \d+\.\d+\.\d+\n$/ });
  t.match(await mapperctl(['help']), { code: 0, stdout: /^Usage: mapperctl / });
  t.match(await mapperctl(['help', 'create']), {
    code: 0,
    stdout: /^Usage: mapperctl create NAME/,
  });
  t.match(await mapperctl(['create', '--help']), { code: 0, stdout: /^Usage: mapperctl create/ });
  t.match(await mapperctl([]), { code: 1, stderr: /^mapperctl: no command given/ });
});
