import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import type { ControlClient } from '../../src/ctl/client.js';
import { parseCommand } from '../../src/ctl/command.js';
import { commands } from '../../src/ctl/commands.js';
import { formatMoved, parseMoveStatus } from '../../src/ctl/region-move.js';
import { parseRegionText, pathLines, regionMessages, runsOf } from '../../src/ctl/region-text.js';
import type { RegionUpload } from '../../src/queue/commands.js';
import { entryBits } from '../../src/target/switch/region-table.js';
import {
  decodeRegions,
  encodeRegions,
  packEntries,
  unpackEntries,
} from '../../src/target/switch/upload-format.js';

const directory = mkdtempSync(join(tmpdir(), 'mapperd-ctl-regions-'));
t.teardown(() => rmSync(directory, { recursive: true }));
const file = (name: string): string => join(directory, name);

function tableOf(entries: readonly number[], paths: number, more: Partial<RegionUpload> = {}) {
  const bits = entryBits(paths);
  const count = entries.length;
  const about = { whole: true, regions: count, regionSectors: 8, paths, bits, first: 0, count };
  return { ...about, slots: packEntries(entries, bits), ...more };
}

const bytesOf = (table: RegionUpload): Buffer => Buffer.concat(encodeRegions({ sector: 0, table }));

/** What one has the commands do, against a daemon that answers as it is told. */
async function run(
  args: string[],
  answers: { messages?: string[]; table?: RegionUpload } = {},
  input: Uint8Array = Buffer.of(),
) {
  const asked: unknown[] = [];
  const { command, words, options } = parseCommand(args, commands);
  let output = '';
  const written: Uint8Array[] = [];
  const json = options.flag('json');
  const client = {
    call: async (method: string, params: unknown) => {
      asked.push([method, params]);
      return answers.messages?.shift() ?? '';
    },
    upload: async (params: unknown, bytes: Uint8Array) => {
      asked.push(['upload', params, bytes]);
      const { whole, first, count } = decodeRegions(bytes).table;
      return { sector: 0, whole, first, count, stored: true };
    },
    download: async (params: unknown) => {
      asked.push(['download', params]);
      const table = answers.table ?? tableOf([0], 1);
      const { slots: _, ...about } = table;
      const bytes = bytesOf(table);
      return { about: { ...about, sector: 0, bytes: bytes.length }, bytes };
    },
  };
  const call = {
    words,
    options,
    client: client as unknown as ControlClient,
    print: (result: unknown, text: string) => {
      output += json ? `${JSON.stringify(result)}\n` : text;
    },
    readInput: async () => Buffer.from(input).toString(),
    readInputBytes: async () => input,
    writeOutput: (bytes: Uint8Array) => {
      written.push(bytes);
    },
  };
  await command?.run(call);
  return { asked, output, written: Buffer.concat(written), offline: command?.offline?.(words) };
}

const tables = fc.integer({ min: 1, max: 40 }).chain((paths) =>
  fc
    .array(fc.tuple(fc.nat(paths - 1), fc.integer({ min: 1, max: 9 })), {
      minLength: 1,
      maxLength: 40,
    })
    .map((runs) => {
      const entries = runs.flatMap(([path, length]) => new Array<number>(length).fill(path));
      return { paths, entries };
    }),
);

t.test('text', async (t) => {
  t.test('of messages and of paths says all of a table', async () => {
    fc.assert(
      fc.property(tables, fc.integer({ min: 40, max: 200 }), ({ paths, entries }, most) => {
        const table = tableOf(entries, paths);
        const shape = { paths, regionSectors: 8, regions: entries.length, first: null };
        const messages = [...regionMessages(table, most)];
        if (messages.some((message) => message.length > most)) return false;
        const texts = [messages.join('\n'), [...pathLines(table)].join('\n')];
        return texts.every((text) => {
          const parsed = parseRegionText(`# made\n\n${text}\n`, shape);
          return `${unpackEntries(parsed)}` === `${entries}` && parsed.whole;
        });
      }),
    );
  });

  t.test('has as many runs as there are', async () => {
    fc.assert(
      fc.property(tables, ({ paths, entries }) => {
        const runs = [...runsOf(tableOf(entries, paths))];
        const wanted = entries.filter((path, at) => at === 0 || path !== entries[at - 1]).length;
        const back = runs.flatMap(({ first, last, path }) =>
          new Array<number>(last - first + 1).fill(path),
        );
        return runs.length === wanted && `${back}` === `${entries}`;
      }),
    );
  });

  t.test('is written like this', async (t) => {
    const table = tableOf([2, 0, 0, 0, 0, 1, 2], 3);
    t.same([...regionMessages(table, 100)], ['set_region_mappings 0:2 :0 R1,3 :1 :2']);
    t.same(
      [...regionMessages(table, 32)],
      ['set_region_mappings 0:2 :0 R1,3', 'set_region_mappings 5:1 :2'],
    );
    const part = { ...table, whole: false, first: 17, regions: 100 };
    t.same([...regionMessages(part, 40)], ['set_region_mappings 11:2 :0 R1,3 :1 :2']);
  });

  t.test('of words leaves the rest as a new target has it', async (t) => {
    const shape = { paths: 3, regionSectors: 8, regions: 8, first: null };
    const parsed = parseRegionText('set_region_mappings 1:2 R2,1\n5:0\n', shape);
    t.same([...unpackEntries(parsed)], [0, 2, 0, 0, 1, 0, 0, 1]);
  });

  t.test('that is wrong is told with its line', async (t) => {
    const shape = { paths: 3, regionSectors: 8, regions: 4, first: null };
    const wrong = (text: string, message: RegExp, more = {}): void => {
      t.throws(() => parseRegionText(text, { ...shape, ...more }), { code: 'EINVAL', message });
    };
    wrong('0\n1\n3\n2\n', /^line 3: found "3", wanted a path from 0 to 2$/);
    wrong('0\n\n0:1\n', /^line 3: found "0:1", wanted a path/);
    wrong('0\n1\n', /^found 2 paths, the table has 4 regions$/);
    wrong('0\n1\n', /^found 2 paths from region 3 on, the table has 4 regions$/, { first: 3 });
    wrong('0:1\n9:1\n', /^line 2: invalid set_region_mappings region number: 9 >= 4$/);
    wrong('0:1 :x\n', /^line 1: invalid set_region_mappings argument: ':x'$/);
    wrong('0:1\n', /^words do not say how many regions there are/, { regions: null });
    wrong('0:1\n', /^words say themselves/, { first: 2 });
  });
});

t.test('regions pack and unpack', async (t) => {
  const shape = ['--paths', '3', '--region-size', '4k'];

  t.test('need no daemon, and give back what they got', async (t) => {
    writeFileSync(file('text'), '0\n2\n2\n1\n');
    const packed = await run(['regions', 'pack', file('text'), file('bin'), ...shape]);
    t.equal(packed.output, `${file('bin')}: 4 regions of 4.0 KiB over 3 paths\n`);
    t.equal(packed.offline, true);
    t.same(readFileSync(file('bin')), bytesOf(tableOf([0, 2, 2, 1], 3)));
    const lines = await run(['regions', 'unpack', file('bin'), '-', '--lines']);
    t.equal(lines.written.toString(), '0\n2\n2\n1\n');
    t.equal(lines.output, '');
    const words = await run(['regions', 'unpack', file('bin'), '-']);
    t.equal(words.written.toString(), 'set_region_mappings 0:0 :2 R1,1 :1\n');
    const again = await run(
      ['regions', 'pack', '-', '-', ...shape, '--regions', '4'],
      {},
      words.written,
    );
    t.same(again.written, readFileSync(file('bin')));
  });

  t.test('make segments', async (t) => {
    const args = ['regions', 'pack', '-', '-', ...shape, '--regions', '9', '--first', '7'];
    const { written } = await run(args, {}, Buffer.from('1\n2\n'));
    t.match(decodeRegions(written).table, { whole: false, regions: 9, first: 7, count: 2 });
  });

  t.test('refuse wrong options and files', async (t) => {
    const wrong = async (message: RegExp, ...args: string[]): Promise<void> => {
      await t.rejects(run(['regions', ...args]), { code: /EINVAL|ENOENT/, message });
    };
    await wrong(/^wanted --paths and --region-size/, 'pack', file('text'), file('x'));
    await wrong(/^--paths: found "0", wanted a number from 1/, 'pack', '-', '-', '--paths', '0');
    const size = ['--paths', '3', '--region-size', '100b'];
    await wrong(/^--region-size: found "100b", wanted sectors/, 'pack', '-', '-', ...size);
    await wrong(/^read ".*none": ENOENT/, 'unpack', file('none'), '-');
    await wrong(/^read ".*text": region table has 8 bytes/, 'unpack', file('text'), '-');
    await wrong(/^found --lines, wanted: mapperctl regions pack/, 'pack', 'a', 'b', '--lines');
    await wrong(/^found 1 words, wanted: mapperctl regions pack IN OUT/, 'pack');
    await wrong(/^found "fold", wanted pack, unpack, show, move$/, 'fold');
  });
});

t.test('upload and download', async (t) => {
  const table = tableOf([0, 2, 2, 1], 3);
  writeFileSync(file('table'), bytesOf(table));

  t.test('pass bytes and options on', async (t) => {
    const up = await run(['upload', 'vol', file('table'), '--sector', '64']);
    t.same(up.asked, [['upload', { name: 'vol', sector: 64 }, bytesOf(table)]]);
    t.equal(up.output, 'vol: all 4 regions uploaded, 72 B\n');
    const piped = await run(['upload', 'vol', '-'], {}, bytesOf(table));
    t.same(piped.asked, [['upload', { name: 'vol' }, bytesOf(table)]]);
    const down = await run(['download', 'vol', file('out'), '--first', '1', '--count', '2'], {
      table,
    });
    t.same(down.asked, [['download', { name: 'vol', first: 1, count: 2 }]]);
    t.same(readFileSync(file('out')), bytesOf(table));
    t.same((await run(['download', 'vol', '-'], { table })).written, bytesOf(table));
  });

  t.test('put a table elsewhere as a segment', async (t) => {
    const part = { ...table, whole: false, regions: 100, first: 50 };
    const { output } = await run(['upload', 'vol', '-', '--first', '7'], {}, bytesOf(part));
    t.equal(output, 'vol: regions 7 to 10 uploaded, 72 B\n');
    await t.rejects(run(['upload', 'vol', '-', '--first', 'x'], {}, bytesOf(part)), {
      message: /^--first: found "x", wanted a number/,
    });
    await t.rejects(run(['upload', 'vol', '-', '--first', '7'], {}, Buffer.from('x')), {
      message: /^read "-": region table has 1 bytes/,
    });
  });
});

t.test('regions show', async (t) => {
  t.test('tells shares and the first runs', async (t) => {
    const table = tableOf(
      Array.from({ length: 100 }, (_, region) => (region < 50 ? 0 : region % 2)),
      4,
    );
    const { output, asked } = await run(['regions', 'show', 'vol'], { table });
    t.same(asked, [['download', { name: 'vol' }]]);
    const lines = output.trimEnd().split('\n');
    t.same(lines.slice(0, 6), [
      'vol: 100 regions of 4.0 KiB over 4 paths',
      'path 0: 75 regions, 75.00 %',
      'path 1: 25 regions, 25.00 %',
      '50 runs:',
      '0-50 on path 0',
      '51 on path 1',
    ]);
    t.equal(lines.at(-1), '... 30 more (--from and --to show all of a part)');
    t.equal(lines.length, 4 + 20 + 1);
    const raw = JSON.parse((await run(['regions', 'show', 'vol', '--json'], { table })).output);
    t.match(raw, { regions: 100, paths: 4, runCount: 50, runs: [{ first: 0, last: 50, path: 0 }] });
    t.same(raw.shares, [
      { path: 0, regions: 75 },
      { path: 1, regions: 25 },
    ]);
  });

  t.test('asks for the part that is wanted', async (t) => {
    const asked = async (...words: string[]) =>
      (await run(['regions', 'show', 'vol', ...words])).asked;
    t.same(await asked('--from', '5', '--to', '9'), [
      ['download', { name: 'vol', first: 5, count: 5 }],
    ]);
    t.same(await asked('--from', '5'), [['download', { name: 'vol', first: 5 }]]);
    t.same(await asked('--to', '0'), [['download', { name: 'vol', count: 1 }]]);
    await t.rejects(asked('--from', '5', '--to', '4'), { message: /^--to: found "4", wanted/ });
  });
});

t.test('regions move', async (t) => {
  const words = ['regions', 'move', 'vol', '--from', '0', '--to', '2'];

  t.test('waits until all is moved and stored', async (t) => {
    const messages = ['8', 'running 0 2 3 8 12288 5 4', 'done 0 2 8 8 32768 9 8'];
    messages.push('done 0 2 8 8 32768 9 9');
    const { asked, output } = await run([...words, '0-3', '9', '--throttle', '30'], { messages });
    const move = ['move_regions', '0', '2', '0-3', '9', 'throttle', '30'];
    t.same(asked[0], ['message', { name: 'vol', sector: 0, words: move }]);
    t.equal(asked.length, 4);
    t.equal(output, 'vol: 8 of 8 regions moved from path 0 to path 2 (32.0 KiB)\n');
  });

  t.test('fails when the move has, and when somebody has ended it', async (t) => {
    const end = (status: string) => run(words, { messages: ['8', status] });
    await t.rejects(end('failed 0 2 3 8 12288 5 5 no space left'), {
      message: 'vol: 3 of 8 regions moved from path 0 to path 2 (12.0 KiB): no space left',
    });
    await t.rejects(end('cancelled 0 2 3 8 12288 5 5'), { code: 'ECANCELED' });
  });

  t.test('goes on without us, and is cancelled', async (t) => {
    const started = await run([...words, '--background'], { messages: ['8'] });
    t.equal(started.output, 'vol: moving 8 regions\n');
    const messages = ['', 'cancelled 0 2 3 8 12288 5 5'];
    const { asked, output } = await run(['regions', 'move', 'vol', '--cancel'], { messages });
    t.match(asked, [
      ['message', { words: ['move_cancel'] }],
      ['message', { words: ['move_status'] }],
    ]);
    t.match(output, /^vol: 3 of 8 regions moved .*, cancelled\n$/);
  });

  t.test('refuses half of a request', async (t) => {
    await t.rejects(run(['regions', 'move', 'vol', '--from', '0']), { message: /--to PATH$/ });
    await t.rejects(run([...words, '--cancel']), { message: /^found --cancel and what to move/ });
    await t.rejects(run([...words, '--throttle', '0']), { message: /^--throttle: found "0"/ });
  });

  t.test('reads every status, and nothing else', async (t) => {
    const idle = parseMoveStatus('idle - - 0 0 0 3 3');
    t.match(idle, { state: 'idle', from: null, stored: true, error: null });
    t.equal(formatMoved(idle), 'nothing was ever moved');
    t.throws(() => parseMoveStatus(''), /^found "", wanted the status of a move/);
  });
});
