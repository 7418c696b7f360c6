import t from 'tap';
import type { NamedExport } from '../../src/control/messages.js';
import type { ControlClient } from '../../src/ctl/client.js';
import { parseCommand } from '../../src/ctl/command.js';
import { commands } from '../../src/ctl/commands.js';
import { formatExport, formatExports, formatInfo, formatList } from '../../src/ctl/format.js';
import type { DeviceInfo } from '../../src/queue/commands.js';

const open: NamedExport = {
  name: 'vol0',
  readOnly: false,
  description: null,
  hidden: false,
  allow: [],
  connections: null,
  clients: 0,
  stored: true,
};
const shut: NamedExport = {
  name: 'mail',
  readOnly: true,
  description: 'the mail',
  hidden: true,
  allow: ['10.0.0.0/8', '::1'],
  connections: 4,
  clients: 2,
  stored: false,
};

/** What mapperctl asks for with these words, and prints. */
async function run(args: string[], answer: unknown = open) {
  const asked: unknown[] = [];
  const { command, words, options } = parseCommand(args, commands);
  let output = '';
  await command?.run({
    words,
    options,
    client: {
      call: async (method: string, params: unknown) => {
        asked.push([method, params]);
        return answer;
      },
    } as unknown as ControlClient,
    print: (result, text) => {
      output += options.flag('json') ? `${JSON.stringify(result)}\n` : text;
    },
    readInput: async () => '',
    readInputBytes: async () => Buffer.of(),
    writeOutput: () => {},
  });
  return { asked, output };
}

t.test('export', async (t) => {
  const asks = async (...args: string[]): Promise<unknown> =>
    (await run(['export', ...args])).asked;

  t.test('changes what options say, and nothing else', async (t) => {
    const change = (params: object) => [['export', { name: 'vol0', ...params }]];
    t.same(await asks('vol0'), change({}));
    t.same(await asks('vol0', '--read-only', '--hidden'), change({ readOnly: true, hidden: true }));
    t.same(await asks('vol0', '-r'), change({ readOnly: true }));
    t.same(
      await asks('--read-write', 'vol0', '--listed'),
      change({ readOnly: false, hidden: false }),
    );
    t.same(
      await asks('vol0', '-w', '-D', ' the mail '),
      change({ readOnly: false, description: 'the mail' }),
    );
    t.same(await asks('vol0', '--description', ''), change({ description: null }));
    t.same(await asks('vol0', '--connections', '4'), change({ connections: 4 }));
    t.same(await asks('vol0', '--connections', 'any'), change({ connections: null }));
  });

  t.test('takes addresses with commas, and several times', async (t) => {
    const change = (...allow: string[]) => [['export', { name: 'vol0', allow }]];
    t.same(await asks('vol0', '--allow', '10.0.0.0/8,::1'), change('10.0.0.0/8', '::1'));
    t.same(
      await asks('vol0', '--allow', '10.0.0.1, 10.0.0.2', '--allow', '::1'),
      change('10.0.0.1', '10.0.0.2', '::1'),
    );
    t.same(await asks('vol0', '--allow', 'all'), change());
  });

  t.test('rejects what does not go together, and what is no number', async (t) => {
    const rejects = (message: RegExp, ...args: string[]) =>
      t.rejects(run(['export', ...args]), { code: 'EINVAL', message });
    await rejects(/^found --read-only and --read-write, wanted one of them$/, 'vol0', '-r', '-w');
    await rejects(/^found --hidden and --listed/, 'vol0', '--hidden', '--listed');
    await rejects(/^--allow: found "all" among addresses/, 'vol0', '--allow', 'all,::1');
    await rejects(
      /^--connections: found "many", wanted a number or "any"$/,
      'vol0',
      '--connections',
      'many',
    );
    await rejects(/^found a change and no name/, '--hidden');
    t.throws(
      () => parseCommand(['export', 'a', 'b'], commands),
      /^found 2 words, wanted: mapperctl export/,
    );
  });

  t.test('prints one export in full', async (t) => {
    t.equal((await run(['export', 'vol0'])).output, formatExport(open));
    t.equal(
      formatExport(open),
      [
        'Name:              vol0',
        'Export:            listed',
        'Access:            as the device allows',
        'Description:       the kinds of its targets',
        'Allowed:           all',
        'Connections:       0',
        'Kept:              in the state directory\n',
      ].join('\n'),
    );
    t.equal(
      formatExport(shut),
      [
        'Name:              mail',
        'Export:            hidden',
        'Access:            read-only',
        'Description:       the mail',
        'Allowed:           10.0.0.0/8, ::1',
        'Connections:       2 of at most 4',
        'Kept:              until the daemon ends\n',
      ].join('\n'),
    );
    t.equal((await run(['export', 'vol0', '--json'])).output, `${JSON.stringify(open)}\n`);
  });

  t.test('prints all of them in lines', async (t) => {
    const { asked, output } = await run(['export'], [shut, open]);
    t.same(asked, [['export', {}]]);
    t.equal(
      output,
      [
        'Name Export Access Conns Max Allowed        Description',
        'mail hidden ro     2     4   10.0.0.0/8,::1 the mail',
        'vol0 listed -      0     -   all            -\n',
      ].join('\n'),
    );
    t.equal(formatExports([]), 'No devices found\n');
  });
});

const device = (name: string, one: NamedExport): DeviceInfo & { export: NamedExport } => ({
  name,
  state: 'ACTIVE',
  tables: 'LIVE',
  openCount: 2,
  eventNumber: 0,
  targetCount: 1,
  sizeSectors: 8,
  readOnly: false,
  inFlight: 0,
  dependencies: [],
  export: one,
});

t.test('info tells what is not as for any export, and ls what is hidden', async (t) => {
  t.match(formatInfo([device('a', open)]), /\nIn flight: {9}0\nConnections: {7}0\n$/);
  const lines = [
    'In flight:         0',
    'Export:            hidden, read-only',
    'Description:       the mail',
    'Allowed:           10.0.0.0/8, ::1',
    'Connections:       2 of at most 4\n',
  ];
  t.ok(formatInfo([device('a', shut)]).endsWith(lines.join('\n')));
  const list = 'a\t(open: 2)\nb\t(open: 2, hidden)\n';
  t.equal(formatList([device('a', open), device('b', shut)]), list);
});

t.test('remove tells what a snapshot leaves behind', async (t) => {
  t.equal((await run(['remove', 'a', 'b'], null)).output, '');
  const notes = ['COW /s/a.cow is left where it is'];
  t.equal((await run(['remove', 'a'], { notes })).output, `note: ${notes[0]}\n`);
  t.equal(
    (await run(['remove', 'a', '--json'], { notes })).output,
    `{"notes":${JSON.stringify(notes)}}\n`,
  );
});
