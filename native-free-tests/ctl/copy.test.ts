import t from 'tap';
import type { ControlClient } from '../../src/ctl/client.js';
import { parseCommand } from '../../src/ctl/command.js';
import { commands } from '../../src/ctl/commands.js';
import { formatBar, formatCopied, formatJobs } from '../../src/ctl/copy.js';
import type { CopyJobInfo } from '../../src/queue/commands.js';

const GiB = 2 ** 30;

const job = (more: Partial<CopyJobInfo> = {}): CopyJobInfo => ({
  id: 3,
  source: 'dm:vol0',
  destinations: ['/backup'],
  state: 'running',
  error: null,
  totalBytes: 2 * GiB,
  doneBytes: GiB / 2,
  skippedBytes: 0,
  offloadedBytes: 0,
  methods: [],
  throttlePercent: 100,
  started: '2026-11-21T12:00:00.000Z',
  milliseconds: 500,
  bytesPerSecond: GiB,
  secondsLeft: 1.5,
  ...more,
});

const done = job({
  state: 'done',
  doneBytes: 2 * GiB,
  skippedBytes: GiB,
  milliseconds: 2000,
  secondsLeft: null,
  methods: ['copy_file_range', 'read and write'],
});

/** Runs mapperctl's command against answers given one after the other for each method. */
async function run(args: string[], answers: Record<string, unknown[]>) {
  const asked: [string, unknown][] = [];
  const call = async (method: string, params: unknown): Promise<unknown> => {
    asked.push([method, params]);
    return answers[method]?.shift() ?? null;
  };
  const { command, words, options } = parseCommand(args, commands);
  let output = '';
  const json = options.flag('json');
  const running = command?.run({
    words,
    options,
    client: { call } as unknown as ControlClient,
    print: (result, text) => {
      output += json ? `${JSON.stringify(result)}\n` : text;
    },
    readInput: async () => '',
    readInputBytes: async () => Buffer.of(),
    writeOutput: () => {},
  });
  let error: Error | null = null;
  await running?.catch((thrown: Error) => {
    error = thrown;
  });
  return { asked, output, error: error as Error | null };
}

t.test('asks for a copy and waits for its end', async (t) => {
  const answers = { copy: [{ id: 3 }], job: [job(), done] };
  const { asked, output, error } = await run(['copy', 'dm:vol0', '/backup'], answers);
  t.equal(error, null);
  t.same(asked[0], ['copy', { source: 'dm:vol0', destinations: ['/backup'] }]);
  t.match(asked.slice(1), [
    ['job', { id: 3 }],
    ['job', { id: 3 }],
  ]);
  const how = 'by copy_file_range, read and write';
  t.equal(output, `copied 2.0 GiB in 2.00 s, 1.0 GiB/s; 1.0 GiB of it holes and zeroes; ${how}\n`);
});

t.test('resolves paths, and passes every option on', async (t) => {
  const words = ['copy', 'a.img', 'file:///b', 'dir/c', '--offset', '4k', '--to-offset', '1M'];
  words.push('--length', '2G', '--throttle', '30%', '--zeroes', '--no-holes', '--no-offload');
  const answers = { copy: [{ id: 7 }] };
  const { asked, output } = await run([...words, '--flush', '--background'], answers);
  t.same(asked, [
    [
      'copy',
      {
        source: `${process.cwd()}/a.img`,
        destinations: ['file:///b', `${process.cwd()}/dir/c`],
        sourceOffset: 4096,
        destinationOffset: 2 ** 20,
        length: 2 ** 31,
        throttlePercent: 30,
        zeroes: true,
        noHoles: true,
        noOffload: true,
        flush: true,
      },
    ],
  ]);
  t.equal(output, '7\n');
});

t.test('rejects wrong options', async (t) => {
  const wrong = async (message: RegExp, ...options: string[]): Promise<void> => {
    const { asked, error } = await run(['copy', '/a', '/b', ...options], {});
    t.match(error, { code: 'EINVAL', message });
    t.same(asked, []);
  };
  await wrong(/^--throttle: found "0", wanted 1 to 100 per cent$/, '--throttle', '0');
  await wrong(/^--throttle: found "fast"/, '--throttle', 'fast');
  await wrong(/^found size "big"/, '--length', 'big');
  t.throws(() => parseCommand(['copy', '/a'], commands), { code: 'EINVAL' });
  t.match(await run(['cancel', 'x'], {}), { error: { message: /^found "x", wanted a copy's/ } });
});

t.test('fails when the copy has, with the reason', async (t) => {
  const failed = job({ state: 'failed', error: 'write to /backup failed: ENOSPC' });
  const answers = { copy: [{ id: 3 }], job: [failed] };
  t.match(await run(['copy', 'dm:vol0', '/backup'], answers), {
    error: { message: 'copy 3: write to /backup failed: ENOSPC' },
    output: '',
  });
  const cancelled = { copy: [{ id: 3 }], job: [job({ state: 'cancelled' })] };
  t.match(await run(['--json', 'copy', 'dm:vol0', '/backup'], cancelled), {
    error: { message: 'copy 3 was cancelled after 512.0 MiB of 2.0 GiB', code: 'ECANCELED' },
    output: `${JSON.stringify(job({ state: 'cancelled' }))}\n`,
  });
});

t.test('lists and cancels copies', async (t) => {
  const failed = job({ id: 4, state: 'failed', error: 'no', secondsLeft: null });
  const { output } = await run(['jobs'], { jobs: [[job(), failed]] });
  t.equal(output, formatJobs([job(), failed]));
  t.equal(
    output,
    '3  running  25 %  2.0 GiB  1.0 GiB/s  2 s left  dm:vol0 -> /backup\n' +
      '4  failed  25 %  2.0 GiB  1.0 GiB/s  dm:vol0 -> /backup (no)\n',
  );
  t.equal((await run(['jobs'], { jobs: [[]] })).output, 'No copies\n');
  const { asked } = await run(['cancel', '3', '4'], {});
  t.same(asked, [
    ['cancel', { id: 3 }],
    ['cancel', { id: 4 }],
  ]);
});

t.test('draws the bar', async (t) => {
  const bar = '[######                  ]  25 %  512.0 MiB of 2.0 GiB  1.0 GiB/s  2 s left';
  t.equal(formatBar(job()), bar);
  t.match(formatBar(job({ secondsLeft: 125 })), /2 min 5 s left$/);
  t.match(formatBar(job({ secondsLeft: 7300 })), /2 h 1 min left$/);
  t.match(formatBar(job({ secondsLeft: null })), /GiB\/s$/);
  t.equal(formatBar(job({ state: 'waiting' })), 'waits for other copies');
  const empty = job({ totalBytes: 0, doneBytes: 0, milliseconds: 0, bytesPerSecond: 0 });
  t.match(formatBar(empty), /100 %/);
  t.equal(formatCopied(empty), 'copied 0 B in 0.00 s\n');
});
