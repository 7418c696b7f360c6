import t from 'tap';
import { regionMessages, runsOf } from '../../src/ctl/region-text.js';
import { unpackEntries } from '../../src/target/switch/upload-format.js';
import type { FigureRow } from './case.js';
import { allCases, chooseCases } from './cases.js';
import { fioArguments } from './fio.js';
import { ramsayLayout, ramsayRegions, randomLayout, tableOf } from './layouts.js';
import { formatMarkdown, formatText, score } from './report.js';
import type { FiguresResult, Report } from './results.js';
import { switchServer, switchTable } from './switch-servers.js';
import { figuresTable } from './tables.js';

t.test('layouts', async (t) => {
  const layout = ramsayLayout(4, 1);
  const table = tableOf(layout, 4, 128);

  t.test('is the one of which there were figures', async (t) => {
    const lengths = new Map<number, number>();
    let runs = 0;
    for (const { first, last } of runsOf(table)) {
      const length = last - first + 1;
      lengths.set(length, (lengths.get(length) ?? 0) + 1);
      runs++;
    }
    t.equal(runs, 998_768);
    t.equal(layout.length, ramsayRegions);
    t.same(
      [1, 2, 5, 10].map((length) => lengths.get(length)),
      [786_432, 157_286, 31_457, 15_729],
    );
    t.equal(table.slots.byteLength, 384 * 1024);
    t.ok(layout.every((path) => path < 4));
  });

  t.test('comes to about a thousand messages of a page', async (t) => {
    const messages = [...regionMessages(table, 4096)];
    t.ok(messages.length > 900 && messages.length < 1100, `${messages.length}`);
    t.ok(messages.every((message) => message.length <= 4096));
  });

  t.test('is the same for the same seed, and another for another', async (t) => {
    const isSame = (seed: number): boolean => {
      return ramsayLayout(4, seed).every((path, region) => path === layout[region]);
    };
    t.equal(isSame(1), true);
    t.equal(isSame(2), false);
    const random = randomLayout(1000, 3, 1);
    t.same(new Set(random), new Set([0, 1, 2]));
    t.same([...unpackEntries(tableOf(random, 3, 8))], [...random]);
  });
});

t.test('cases', async (t) => {
  t.test('of switch are there by name', async (t) => {
    const wanted = ['switch-lookup', 'switch-lookup-size', 'switch-upload', 'switch-upload-load'];
    wanted.push('switch-memory');
    t.same(
      chooseCases(allCases('auto'), wanted).map((one) => one.name),
      wanted,
    );
  });

  t.test('serve a device of a state directory, with a control socket', async (t) => {
    t.equal(switchTable(4, 8, ['/a', '/b']), '0 32 switch 2 8 0 /a 0 /b 0');
    const spec = switchServer({ engine: 'node', label: 'x', devices: () => [] });
    const address = { kind: 'unix', path: '/tmp/s' } as const;
    const [command] = spec.commands({ path: '/f', bytes: 1 }, address, '/own');
    t.match(command?.args.join(' '), /--control \/own\/c\.sock --engine node --state \/own\/state/);
    t.equal(spec.exportName, 'vol');
  });

  t.test('load a part of an export', async (t) => {
    const load = {
      rw: 'randread',
      blockBytes: 4096,
      depth: 1,
      jobs: 1,
      areaBytes: 65_536,
    } as const;
    t.ok(fioArguments(load, { seconds: 1 }, 'nbd://h').includes('--size=65536'));
  });
});

t.test('figures', async (t) => {
  const row = (what: string, met: boolean | null): FigureRow => {
    return { what, found: '9 ms', wanted: met === null ? '' : '<= 10 ms', met };
  };
  const rows = [row('a', true), row('b', false), row('c', null)];
  const figures: FiguresResult = { kind: 'figures', name: 'upload', title: '', rows };

  t.test('are counted where something is wanted of them', async (t) => {
    t.same(score([figures]), { met: 1, all: 2 });
  });

  t.test('have a table of their own', async (t) => {
    t.same(figuresTable([figures]).rows, [
      ['upload', 'a', '9 ms', '<= 10 ms pass'],
      ['', 'b', '9 ms', '<= 10 ms FAIL'],
      ['', 'c', '9 ms', ''],
    ]);
    const machine = {
      ...{ cpu: '', cores: 2, memoryGigabytes: 16, kernel: '', fileSystem: '', load: 0 },
      versions: [],
    };
    const report: Report = {
      ...{ date: '2026-11-21', machine, rounds: 1, secondsPerRun: 1, fileBytes: 1 },
      ...{ results: [figures], missing: [] },
    };
    t.match(formatText(report), /^upload +a +9 ms +<= 10 ms pass$/m);
    t.match(formatMarkdown(report), /^\| upload \| a \| 9 ms \| <= 10 ms pass \|$/m);
  });
});
