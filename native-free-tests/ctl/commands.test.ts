import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import type { EventParams, NamedStats, SnapshotInfo } from '../../src/control/messages.js';
import type { ControlClient } from '../../src/ctl/client.js';
import { parseCommand } from '../../src/ctl/command.js';
import { commands } from '../../src/ctl/commands.js';
import {
  formatDependencies,
  formatEvent,
  formatInfo,
  formatInfoColumns,
  formatList,
  formatNamedLines,
  formatSnapshots,
  formatStats,
  formatTargets,
  formatVersion,
} from '../../src/ctl/format.js';
import { commandHelp, helpText } from '../../src/ctl/help.js';
import { Counters, readCounters } from '../../src/device/counters.js';
import { FLUSH, READ, TRIM, WRITE } from '../../src/device/io.js';
import type { DeviceInfo } from '../../src/queue/commands.js';

const directory = mkdtempSync(join(tmpdir(), 'mapperd-ctl-'));
t.teardown(() => rmSync(directory, { recursive: true }));

const device = (name: string, more: Partial<DeviceInfo> = {}): DeviceInfo => ({
  name,
  state: 'ACTIVE',
  tables: 'LIVE',
  openCount: 0,
  eventNumber: 3,
  targetCount: 1,
  sizeSectors: 2_097_152,
  readOnly: false,
  inFlight: 0,
  dependencies: [],
  ...more,
});

const line = (words: string) => ({ beginSectors: 0, lengthSectors: 8, type: 'linear', words });

/** A daemon that answers by method, and remembers what it was asked. */
class FakeClient {
  readonly asked: unknown[] = [];
  readonly answers: Record<string, unknown>;
  onEvent: (event: EventParams) => void = () => {};
  readonly closed = new Promise<void>(() => {});

  constructor(answers: Record<string, unknown> = {}) {
    this.answers = answers;
  }

  async call(method: string, params: unknown): Promise<unknown> {
    this.asked.push([method, params]);
    const answer = this.answers[method];
    return typeof answer === 'function' ? answer(params, this) : (answer ?? null);
  }
}

/** What mapperctl does with these words: requests and output. */
async function run(args: string[], answers: Record<string, unknown> = {}, input = '') {
  const client = new FakeClient(answers);
  const { command, words, options } = parseCommand(args, commands);
  let output = '';
  const json = options.flag('json');
  await command?.run({
    words,
    options,
    client: client as unknown as ControlClient,
    print: (result, text) => {
      output += json ? `${JSON.stringify(result)}\n` : text;
    },
    readInput: async () => input,
    readInputBytes: async () => Buffer.from(input),
    writeOutput: () => {},
  });
  return { asked: client.asked, output };
}

t.test('command lines', async (t) => {
  t.test('options may come before and after the command', async (t) => {
    const parsed = parseCommand(['-c', '/s', '--json', 'remove', 'a', '--force', 'b'], commands);
    t.equal(parsed.command?.name, 'remove');
    t.same(parsed.words, ['a', 'b']);
    t.equal(parsed.options.text('control'), '/s');
    t.ok(parsed.options.flag('json') && parsed.options.flag('force'));
    t.equal(parseCommand(['ls', '-c', '/s'], commands).options.text('control'), '/s');
    t.equal(parseCommand(['reload', 'a'], commands).command?.name, 'load');
    t.equal(parseCommand(['-V'], commands).command, null);
  });

  t.test('words of a message are never options', async (t) => {
    const parsed = parseCommand(['message', '-c', '/s', 'a', '0', '-x', '--json', '-'], commands);
    t.same(parsed.words, ['a', '0', '-x', '--json', '-']);
    t.equal(parsed.options.flag('json'), false);
    t.equal(parsed.options.text('control'), '/s');
  });

  t.test('rejects what it does not know, with the usage', async (t) => {
    const rejects = (message: RegExp, ...args: string[]) => {
      t.throws(() => parseCommand(args, commands), { code: 'EINVAL', message });
    };
    rejects(/^unknown command "creat" \(mapperctl help/, 'creat', 'a');
    rejects(/^found 0 words, wanted: mapperctl resume NAME\.\.\.$/, 'resume');
    rejects(/^found 3 words, wanted: mapperctl rename NAME NEW_NAME$/, 'rename', 'a', 'b', 'c');
    rejects(/^unknown option '--forse'/, 'remove', 'a', '--forse');
    rejects(/^unknown option '--force'/, 'resume', 'a', '--force');
    rejects(/^found 2 words, wanted: mapperctl message/, 'message', 'a', '0');
  });

  t.test('the help names every command', async (t) => {
    const text = helpText(commands);
    for (const { name, usage, summary } of commands) {
      t.match(text, `  ${name}${usage === '' ? '' : ` ${usage}`}\n        ${summary}\n`);
    }
    const load = commands.find(({ name }) => name === 'load');
    t.match(load && commandHelp(load), /^Usage: mapperctl load NAME .*\n.*\(also: reload\)\n$/);
  });
});

t.test('create and load', async (t) => {
  t.test('take the table from --table, a file or standard input', async (t) => {
    const file = join(directory, 'table');
    writeFileSync(file, '# mine\n0 8 zero\n');
    const asked = async (...args: string[]) => (await run(args, {}, '0 8 error\n')).asked[0];
    const create = (table: string, readOnly = false) => ['create', { name: 'a', readOnly, table }];
    t.same(await asked('create', 'a', '--table', '0 8 zero'), create('0 8 zero'));
    t.same(
      await asked('create', '-r', 'a', '--table', '0 8 zero', '--table', '8 8 error'),
      create('0 8 zero\n8 8 error', true),
    );
    t.same(await asked('create', 'a', file), create('# mine\n0 8 zero\n'));
    t.same(await asked('create', 'a'), create('0 8 error\n'));
    t.same(await asked('create', 'a', '-'), create('0 8 error\n'));
    t.same(await asked('create', 'a', '--notable'), ['create', { name: 'a', readOnly: false }]);
    t.same(await asked('load', 'a', file), ['load', { name: 'a', table: '# mine\n0 8 zero\n' }]);
    t.same(await asked('reload', 'a'), ['load', { name: 'a', table: '0 8 error\n' }]);
  });

  t.test('reject two tables, and a file that is not there', async (t) => {
    const both = /^found --table and the file "f", wanted one of them$/;
    await t.rejects(run(['create', 'a', 'f', '--table', '0 8 zero']), { message: both });
    await t.rejects(run(['load', 'a', 'f', '--table', '0 8 zero']), { message: both });
    const notable = /^found --notable and a table/;
    await t.rejects(run(['create', 'a', '-n', 'f']), { message: notable });
    await t.rejects(run(['create', 'a', '-n', '--table', 'x']), { message: notable });
    await t.rejects(run(['create', 'a', join(directory, 'none')]), {
      code: 'ENOENT',
      message: /^read table file: ENOENT/,
    });
  });
});

t.test('commands that change a device say nothing', async (t) => {
  const both = await run(['suspend', 'a', 'b', '--noflush']);
  t.same(both.asked, [
    ['suspend', { name: 'a', noFlush: true }],
    ['suspend', { name: 'b', noFlush: true }],
  ]);
  t.equal(both.output, '');
  t.same((await run(['resume', 'a'])).asked, [['resume', { name: 'a' }]]);
  t.same((await run(['clear', 'a'])).asked, [['clear', { name: 'a' }]]);
  t.same((await run(['remove', '-f', 'a'])).asked, [['remove', { name: 'a', force: true }]]);
  t.same((await run(['rename', 'a', 'b'])).asked, [['rename', { name: 'a', newName: 'b' }]]);
  t.equal((await run(['resume', 'a', '--json'])).output, 'null\n');
});

t.test('message', async (t) => {
  const answers = { message: 'done' };
  const sent = await run(['message', 'a', '5', 'set x', 'y\\ z', '-1'], answers);
  t.same(sent.asked, [['message', { name: 'a', sector: 5, words: ['set', 'x', 'y z', '-1'] }]]);
  t.equal(sent.output, 'done\n');
  t.equal((await run(['message', 'a', '0', 'x'], { message: '' })).output, '');
  await t.rejects(run(['message', 'a', 'x', 'y']), {
    message: /found sector "x", wanted a number/,
  });
});

t.test('table and status', async (t) => {
  const answers = {
    table: ({ name }: { name?: string }) =>
      name === undefined
        ? [
            { name: 'b', lines: [] },
            { name: 'a', lines: [line('dm:b 0'), line('')] },
          ]
        : [line(`dm:${name} 0`)],
  };
  t.equal((await run(['table', 'a'], answers)).output, '0 8 linear dm:a 0\n');
  t.equal((await run(['table'], answers)).output, 'a: 0 8 linear dm:b 0\na: 0 8 linear\nb: \n');
  t.equal(
    (await run(['table', 'x', 'y'], answers)).output,
    'x: 0 8 linear dm:x 0\ny: 0 8 linear dm:y 0\n',
  );
  t.same((await run(['table', '--inactive', 'a'], answers)).asked, [
    ['table', { name: 'a', inactive: true }],
  ]);
  t.equal(
    (await run(['table', 'a', '--json'], answers)).output,
    `[${JSON.stringify(line('dm:a 0'))}]\n`,
  );
  t.equal((await run(['status'], { status: [] })).output, 'No devices found\n');
  t.equal(formatNamedLines([{ name: 'a', lines: [line('1 2')] }]), 'a: 0 8 linear 1 2\n');
});

t.test('info, ls, deps', async (t) => {
  const stacked = device('top', {
    state: 'SUSPENDED',
    tables: 'LIVE & INACTIVE',
    openCount: 2,
    readOnly: true,
    inFlight: 4,
    dependencies: ['a', 'b'],
  });
  t.equal(
    formatInfo([stacked, device('a', { tables: 'None', sizeSectors: 0, targetCount: 0 })]),
    [
      'Name:              top',
      'State:             SUSPENDED (READ-ONLY)',
      'Tables present:    LIVE & INACTIVE',
      'Open count:        2',
      'Event number:      3',
      'Number of targets: 1',
      'Size:              2097152 sectors (1.0 GiB)',
      'In flight:         4',
      'Stands on:         a, b',
      '',
      'Name:              a',
      'State:             ACTIVE',
      'Tables present:    None',
      'Open count:        0',
      'Event number:      3',
      'Number of targets: 0',
      'Size:              0 sectors (0 B)',
      'In flight:         0',
      '',
    ].join('\n'),
  );
  t.equal(
    formatInfoColumns([stacked, device('x', { tables: 'INACTIVE' })]),
    [
      'Name Stat Open Targ Event Sectors',
      'top  LIsr 2    1    3     2097152',
      'x    -I-w 0    1    3     2097152',
      '',
    ].join('\n'),
  );
  t.equal(formatList([device('a', { openCount: 2 })]), 'a\t(open: 2)\n');
  t.equal(formatDependencies([stacked], false), '2 dependencies\t: (a) (b)\n');
  t.equal(formatDependencies([device('a')], true), 'a: 0 dependencies\t:\n');
  for (const format of [formatInfo, formatInfoColumns, formatList, formatStats]) {
    t.equal(format([]), 'No devices found\n');
  }
  const answers = { ls: [device('b'), device('a')], info: device('b') };
  t.equal((await run(['ls'], answers)).output, 'a\t(open: 0)\nb\t(open: 0)\n');
  t.match((await run(['info', '-C'], answers)).output, /\na .*\nb /);
  t.match(JSON.parse((await run(['info', 'b', '--json'], answers)).output), { name: 'b' });
  t.same(JSON.parse((await run(['deps', '--json'], answers)).output), [
    { name: 'a', dependencies: [] },
    { name: 'b', dependencies: [] },
  ]);
});

const taken = {
  name: 's',
  origin: 'a',
  cow: '/state/s.cow',
  cowBytes: 2 ** 20,
  chunkSectors: 8,
  created: '2026-01-02T03:04:05.678Z',
  stored: true,
};

t.test('snapshot', async (t) => {
  t.test('takes one, with a path of its own folder and sizes in sectors', async (t) => {
    const plain = await run(['snapshot', 'a', 's'], { snapshot: taken });
    const flags = { transient: false, readOnly: false, wipe: false };
    t.same(plain.asked, [['snapshot', { origin: 'a', name: 's', ...flags }]]);
    t.equal(
      plain.output,
      's: snapshot of a, chunks of 4.0 KiB\nCOW: /state/s.cow (up to 1.0 MiB)\n',
    );
    const words = 'snapshot a s -t -r --chunk 64k --cow x/s --size 1G --wipe'.split(' ');
    const full = await run(words, { snapshot: { ...taken, stored: false } });
    t.same(full.asked, [
      [
        'snapshot',
        {
          origin: 'a',
          name: 's',
          transient: true,
          readOnly: true,
          wipe: true,
          chunkSectors: 128,
          cow: join(process.cwd(), 'x/s'),
          cowBytes: 2 ** 30,
        },
      ],
    ]);
    t.match(full.output, /\nnote: a is not stored, so s ends with the daemon\n$/);
  });

  t.test('removes one, with what it leaves', async (t) => {
    const removeSnapshot = { origin: 'a', notes: ['COW /x is left where it is'] };
    const removed = await run(['snapshot', '--remove', 's', '--keep-cow'], { removeSnapshot });
    t.same(removed.asked, [['removeSnapshot', { name: 's', force: false, keepCow: true }]]);
    t.equal(removed.output, 'note: COW /x is left where it is\n');
    const json = await run(['snapshot', 's', '--remove', '-f', '--json'], { removeSnapshot });
    t.same(JSON.parse(json.output), removeSnapshot);
  });

  t.test('rejects what does not go together', async (t) => {
    const rejects = (message: RegExp, ...args: string[]) =>
      t.rejects(run(['snapshot', ...args]), { code: 'EINVAL', message }, args.join(' '));
    await rejects(/^found 0 words, wanted: mapperctl snapshot ORIGIN NAME$/);
    await rejects(/^found 1 words, wanted: mapperctl snapshot ORIGIN NAME$/, 'a');
    await rejects(
      /^found 2 words, wanted: mapperctl snapshot --remove NAME$/,
      '--remove',
      'a',
      'b',
    );
    await rejects(/^found --transient and --remove: they do not/, '--remove', 'a', '-t');
    await rejects(/^found --cow and --remove/, '--remove', 'a', '--cow', '/x');
    await rejects(/^found --keep-cow and no --remove/, 'a', 's', '--keep-cow');
    await rejects(/^found size "big"/, 'a', 's', '--size', 'big');
    await rejects(
      /^--chunk: found 100 bytes, wanted a multiple of 512$/,
      'a',
      's',
      '--chunk',
      '100',
    );
  });
});

t.test('snapshots', async (t) => {
  const now = Date.parse('2026-01-02T05:14:06.000Z');
  const one: SnapshotInfo = {
    name: 's',
    origin: 'a',
    type: 'P',
    state: 'active',
    chunkSectors: 8,
    exceptions: 3,
    usedBytes: 5 * 4096,
    totalBytes: 2 ** 20,
    percent: 1.953125,
    created: taken.created,
    cow: '/state/s.cow',
  };
  const numbers = { exceptions: null, usedBytes: null, totalBytes: null, percent: null };
  const gone: SnapshotInfo = { ...one, name: 'gone', state: 'invalid', created: null, ...numbers };
  const full = { ...one, name: 'full', percent: 80 };
  t.equal(
    formatSnapshots([one, full, gone], now),
    [
      'Name Origin Type State   Chunk   Chunks Used     Size    Fill     Age    COW',
      's    a      P    active  4.0 KiB 3      20.0 KiB 1.0 MiB 1.95%    2h 10m /state/s.cow',
      'full a      P    active  4.0 KiB 3      20.0 KiB 1.0 MiB 80.00% ! 2h 10m /state/s.cow',
      'gone a      P    invalid 4.0 KiB -      -        -       -        -      /state/s.cow',
      '',
    ].join('\n'),
  );
  t.equal(formatSnapshots([], now), 'No snapshots found\n');
  const all = await run(['snapshots'], { snapshots: [one] });
  t.same(all.asked, [['snapshots', {}]]);
  t.match(all.output, /\ns .* \/state\/s\.cow\n$/);
  const json = await run(['snapshots', 'a', '--json'], { snapshots: [one] });
  t.same(json.asked, [['snapshots', { origin: 'a' }]]);
  t.same(JSON.parse(json.output), [one]);
});

t.test('merge', async (t) => {
  const merge = { origin: 'a', notes: [] };
  const begun = await run(['merge', 's'], { merge });
  t.same(begun, { asked: [['merge', { name: 's' }]], output: '' });
  const states = (...all: string[]) => {
    const left = [...all];
    return () => {
      const state = left.shift();
      const other = { name: 'b', origin: 'a', state: 'active' };
      return state === undefined ? [other] : [other, { name: 'a', origin: 'a', state }];
    };
  };
  const waited = await run(['merge', 's', '--wait'], {
    merge,
    snapshots: states('merging', 'merged'),
  });
  t.equal(waited.asked.length, 4);
  await t.rejects(
    run(['merge', 's', '-w'], { merge, snapshots: states('merging', 'merge failed') }),
    { code: 'EIO', message: /^merge into "a" has failed: merge failed$/ },
  );
});

t.test('stats', async (t) => {
  const counters = new Counters();
  for (let n = 0; n < 3; n++) counters.ended(READ, 4096, false, 100);
  counters.ended(WRITE, 2 ** 20, true, 2500);
  counters.ended(FLUSH, 0, false, 1_500_000);
  counters.ended(TRIM, 512, false, 1);
  counters.setInFlight(2);
  const stats: NamedStats[] = [{ name: 'a', ...readCounters(counters.buffer) }];
  const lines = formatStats(stats).split('\n');
  t.equal(lines[0], 'a: 2 in flight, 1 errors');
  t.match(lines[1], /^ +requests bytes +mean +p50 +p99 +max$/);
  t.match(lines[2], /^ {2}read +3 +12\.0 KiB +100 us +100 us +100 us +100 us$/);
  t.match(lines[3], /^ {2}write +1 +1\.0 MiB +2\.50 ms/);
  t.match(lines[4], /^ {2}flush +1 +1\.50 s/);
  t.match(lines[5], /^ {2}trim +1 +512 B$/);
  const run1 = await run(['stats', 'a'], { stats });
  t.same(run1.asked, [['stats', { name: 'a' }]]);
  t.same((await run(['stats'], { stats })).asked, [['stats', {}]]);
  await t.rejects(run(['stats', '--watch', 'soon'], { stats }), { code: 'EINVAL' });
});

t.test('events', async (t) => {
  const time = '2026-01-02T03:04:05.678Z';
  const events: EventParams[] = [
    { time, event: 'device', name: 'a', what: 'suspend' },
    { time, event: 'connection', what: 'open', peer: 'unix', device: null },
    { time, event: 'log', level: 'warn', fields: { n: 1 }, text: 'slow' },
  ];
  t.same(
    [
      formatEvent({ time, event: 'target', name: 's', what: 'fill', percent: 80 }),
      formatEvent({ time, event: 'target', name: 'a', what: 'merge failed' }),
    ],
    [`${time} target s fill 80%\n`, `${time} target a merge failed\n`],
  );
  t.same(events.map(formatEvent), [
    `${time} device a suspend\n`,
    `${time} connection - open unix\n`,
    `${time} log warn slow {"n":1}\n`,
  ]);
  const subscribe = (_params: unknown, client: FakeClient) => {
    setImmediate(() => {
      for (const event of events) client.onEvent(event);
    });
    return [];
  };
  const two = await run(['events', '--log', '--count', '2'], { subscribe });
  t.same(two.asked, [['subscribe', { topics: ['device', 'target', 'connection', 'log'] }]]);
  t.equal(two.output, events.slice(0, 2).map(formatEvent).join(''));
  await t.rejects(run(['events', '--count', '0']), { message: /^--count: found "0"/ });
  await t.rejects(run(['events', '--count', 'x']), { message: /^--count: found "x"/ });
});

t.test('targets and version', async (t) => {
  t.equal(formatTargets([{ name: 'linear', version: [1, 4, 0] }]), 'linear           v1.4.0\n');
  const text = formatVersion('1.2.3', {
    name: 'mapperd',
    version: '1.2.4',
    protocol: 1,
    engine: 'node',
    engineReason: 'io_uring_setup: EPERM',
    node: '20.20.2',
    pid: 5,
    state: null,
  });
  t.equal(
    text,
    [
      'mapperctl version: 1.2.3',
      'mapperd version:   1.2.4',
      'Protocol:          1',
      'Engine:            node (io_uring_setup: EPERM)',
      'Process:           5, Node 20.20.2',
      '',
    ].join('\n'),
  );
});
