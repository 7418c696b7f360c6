import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { isPlain, largestLike, partsBeneath } from '../../src/bench/beneath.js';
import { figuresOf, parseFioOutput } from '../../src/bench/fio-output.js';
import { fioArguments, loadsOf, type Place } from '../../src/bench/loads.js';
import { plotSvg } from '../../src/bench/plot.js';
import { requireFio } from '../../src/bench/programs.js';
import { formatComparison } from '../../src/bench/report.js';
import { compare, median, parseResults, type Results } from '../../src/bench/results.js';
import { exportUri } from '../../src/ctl/bench.js';
import type { ControlClient } from '../../src/ctl/client.js';
import { parseCommand } from '../../src/ctl/command.js';
import { commands } from '../../src/ctl/commands.js';
import { parseTable } from '../../src/device/table-text.js';
import type { TableLine } from '../../src/queue/commands.js';
import { linear, MiB, Scratch, withDaemon } from '../interop/harness.js';
import { fail, launch, outputOf, requires } from '../interop/programs.js';

const never = new AbortController().signal;

interface Numbers {
  readonly iops?: number;
  readonly mean?: number;
  readonly ios?: number;
}

const direction = ({ iops = 0, mean = 0, ios = 0 }: Numbers) => ({
  total_ios: ios,
  iops,
  bw_bytes: iops * 4096,
  lat_ns: { mean: mean * 1000, percentile: { '99.000000': mean * 2000 } },
});

const job = (read: Numbers, write: Numbers = {}, error = 0) => ({
  jobname: 'bench',
  error,
  read: direction(read),
  write: direction(write),
  usr_cpu: 1.5,
});

const fio = (...jobs: ReturnType<typeof job>[]) => ({ 'fio version': 'fio-3.33', jobs });

const results = (runs: readonly (readonly [string, string, number, number])[]): Results => ({
  mapperd: '0.1.0',
  title: 'a <title> & more',
  date: '2026-11-21T12:00:00.000Z',
  base: 'raw',
  notes: ['one note'],
  runs: runs.map(([name, layer, iops, mean]) => ({
    case: name,
    layer,
    fio: fio(job({ iops, mean, ios: 100 })),
  })),
});

const twoLayers = results([
  ['randread', 'raw', 100_000, 100],
  ['randread', 'nbd', 25_000, 400],
  ['randread', 'raw', 120_000, 90],
  ['randread', 'nbd', 25_000, 400],
  ['randread', 'raw', 1_000, 9_000],
  ['randread', 'nbd', 26_000, 380],
  ['read', 'nbd', 5_000, 2_000],
]);

t.test("reads fio's report behind what else it says", (t) => {
  const json = JSON.stringify(fio(job({ iops: 10, mean: 5, ios: 1 })), null, 1);
  const text = `fio: connected\n${json}`;
  const report = parseFioOutput(text);
  t.equal(report['fio version'], 'fio-3.33');
  t.equal((report.jobs[0] as { usr_cpu?: number }).usr_cpu, 1.5, 'all of it is kept');
  t.throws(() => parseFioOutput('no engine\n'), { message: /found no JSON in "no engine"/ });
  t.throws(() => parseFioOutput('{\n"jobs": ['), { message: /^read fio's report: / });
  t.throws(() => parseFioOutput('{\n"jobs": []}'), { message: /fio version/ });
  t.end();
});

t.test('adds up jobs and directions', (t) => {
  const one = job({ iops: 1000, mean: 10, ios: 300 }, { iops: 500, mean: 40, ios: 100 });
  const figures = figuresOf(fio(one, job({ iops: 100, mean: 20, ios: 100 })));
  t.strictSame(figures, { iops: 1600, throughput: 6.25, mean: 18, p99: 80 });
  t.throws(() => figuresOf(fio(job({}))), { message: 'fio: no I/O was done' });
  t.throws(() => figuresOf(fio(one, job({}, {}, 5))), {
    message: 'fio: job "bench" ended with error 5',
  });
  t.end();
});

t.test('compares medians with the base of each case', (t) => {
  const { groups } = compare(twoLayers);
  t.match(groups, [
    {
      title: 'randread',
      rows: [
        { layer: 'raw', iops: 100_000, mean: 100, iopsRatio: 1, meanRatio: 1 },
        { layer: 'nbd', iops: 25_000, mean: 400, iopsRatio: 0.25, meanRatio: 4 },
      ],
    },
    { title: 'read', rows: [{ layer: 'nbd', iops: 5_000, iopsRatio: null, meanRatio: null }] },
  ]);
  t.equal(median([3, 1]), 2);
  const odd = compare({
    ...results([
      ['idle', 'raw', 0, 0],
      ['idle', 'nbd', 10, 10],
    ]),
    title: 'a\x1b[2Jb',
  });
  t.match(odd, { title: 'a?[2Jb', groups: [{ rows: [{}, { iopsRatio: null, meanRatio: null }] }] });
  t.match(plotSvg(odd), '10 (-)', 'and it can be plotted');
  t.end();
});

t.test('parses what was kept, and rejects what was not', (t) => {
  t.strictSame(parseResults(JSON.stringify(twoLayers)), twoLayers);
  t.throws(() => parseResults('nothing'), { code: 'EINVAL', message: /^read results: / });
  t.throws(() => parseResults('{"runs":[{}]}'), { code: 'EINVAL', message: /mapperd: found/ });
  t.end();
});

t.test('shows a comparison as a table with bars', (t) => {
  const lines = formatComparison(compare(twoLayers)).split('\n');
  t.equal(lines[0], 'a <title> & more, 2026-11-21T12:00:00.000Z');
  t.match(lines.find((line) => line.startsWith('  raw')) ?? '', /100,000 +1\.00 .*\|#{20}\|$/);
  const nbd = lines.filter((line) => line.startsWith('  nbd'));
  t.match(nbd[0] ?? '', /25,000 +0\.25 +97\.7 +400 us +4\.00 +\+300 us +800 us +\|#{5} {15}\|$/);
  t.match(nbd[1] ?? '', /5,000 +- +19\.5 +2\.00 ms +- +4\.00 ms +\|#{20}\|$/, 'without a base');
  t.end();
});

/** The rectangles of a picture: x, y, width, fill. */
function rectangles(svg: string): { x: number; y: number; width: number; fill: string }[] {
  const found = svg.matchAll(/<rect x="(\S+)" y="(\S+)" width="(\S+)" height="\S+" fill="(\S+)"/g);
  return [...found].map(([, x, y, width, fill]) => ({
    x: Number(x),
    y: Number(y),
    width: Number(width),
    fill: fill as string,
  }));
}

t.test('plots a bar for each ratio', (t) => {
  const svg = plotSvg(compare(twoLayers));
  const bars = rectangles(svg);
  t.equal(bars.length, 4, 'two panels, two layers; no bar without a base');
  const [rawIops, rawMean, nbdIops, nbdMean] = bars as [
    (typeof bars)[0],
    (typeof bars)[0],
    (typeof bars)[0],
    (typeof bars)[0],
  ];
  t.equal(nbdIops.width, rawIops.width / 4);
  t.equal(nbdMean.width, rawMean.width * 4);
  t.equal(rawIops.y, rawMean.y);
  t.not(rawIops.fill, nbdIops.fill);
  t.match(svg, '<title>a &lt;title&gt; &amp; more</title>');
  t.match(svg, '5,000 (-)');
  t.end();
});

t.test('a plot is well-formed, and stays in its frame', (t) => {
  const many = Array.from({ length: 12 }, (_, at) =>
    ['raw', 'a', 'b', 'c', 'd', 'e', 'f', 'g'].map(
      (layer, i) => [`case ${at}`, layer, 1000 / (i + 1), 10 * (i + 1) ** 3] as const,
    ),
  ).flat();
  const svg = plotSvg(compare({ ...results(many), notes: ['many words '.repeat(40)] }));
  const open: string[] = [];
  for (const [, slash, name, self] of svg.matchAll(/<(\/?)([a-z]+)[^<>]*?(\/?)>/g)) {
    if (slash === '/') t.equal(open.pop(), name);
    else if (self !== '/') open.push(name as string);
  }
  t.strictSame(open, []);
  const [, width, height] = /width="([0-9.]+)" height="([0-9.]+)"/.exec(svg) ?? [];
  for (const bar of rectangles(svg)) {
    if (bar.x + bar.width > Number(width) || bar.y > Number(height)) t.fail('a bar is outside');
  }
  t.equal(rectangles(svg).length, 2 * many.length);
  t.end();
});

t.test('makes fio command lines', (t) => {
  const files: Place = {
    kind: 'files',
    paths: ['/a:b', '/c'],
    direct: true,
    offsetBytes: 4096,
    lengthBytes: MiB,
    engine: 'io_uring',
  };
  const [latency, , sequential] = loadsOf('read');
  const args = fioArguments(latency as never, files, 500);
  for (const wanted of [
    '--filename=/a\\:b:/c',
    '--offset=4096',
    `--size=${2 * MiB}`,
    '--direct=1',
    '--allow_file_create=0',
    '--rw=randread',
    '--iodepth=1',
    '--runtime=500ms',
    '--readonly',
  ]) {
    t.ok(args.includes(wanted), wanted);
  }
  const place: Place = { kind: 'export', uri: 'nbd://here/v', lengthBytes: MiB };
  t.match(fioArguments(sequential as never, place, 1000), ['--name=bench', '--ioengine=nbd']);
  for (const load of loadsOf('write')) {
    t.notOk(fioArguments(load, place, 1000).includes('--readonly'), load.name);
  }
  t.end();
});

/** Tables by name, as the daemon tells them. */
function tables(texts: Readonly<Record<string, string>>) {
  return async (name: string): Promise<TableLine[]> =>
    parseTable(texts[name] as string).map(({ beginSectors, lengthSectors, type, args }) => ({
      beginSectors,
      lengthSectors,
      type,
      words: args.join(' '),
    })) as TableLine[];
}

t.test('finds the files beneath a device', async (t) => {
  const tableOf = tables({
    plain: '0 1000 linear /a 8',
    direct: '0 1000 linear file:///a%20b?direct=1 0',
    origin: '0 1000 snapshot-origin dm:plain',
    part: '0 100 linear dm:plain 500',
    striped: '0 2000 striped 2 8 /a 0 /b 0',
    routed: '0 1000 switch 3 8 0 /a 0 /b 0 /c 16',
    joined: '0 100 linear /a 0\n100 900 linear /b 0',
    memory: '0 8 memory',
  });
  const beneath = async (name: string) => partsBeneath(name, tableOf);
  const file = (path: string, offsetSectors: number, lengthSectors: number, direct = false) => ({
    path,
    direct,
    offsetSectors,
    lengthSectors,
  });
  t.strictSame((await beneath('origin')).parts, [file('/a', 8, 1000)]);
  t.strictSame((await beneath('part')).parts, [file('/a', 508, 100)]);
  t.strictSame((await beneath('direct')).parts, [file('/a b', 0, 1000, true)]);
  t.strictSame((await beneath('memory')).parts, []);
  t.equal(largestLike((await beneath('memory')).parts), null);
  const striped = await beneath('striped');
  t.match(largestLike(striped.parts), { paths: ['/a', '/b'], lengthSectors: 1000 });
  t.match(largestLike((await beneath('routed')).parts), { paths: ['/a', '/b'] });
  t.match(largestLike((await beneath('joined')).parts), { paths: ['/b'], lengthSectors: 900 });
  t.ok(isPlain(striped));
  t.notOk(isPlain(await beneath('origin')), 'an origin has snapshots to think of');
});

t.test('makes the URI of an export of the same server', (t) => {
  t.equal(exportUri('nbd://localhost:1/', 'a b'), 'nbd://localhost:1/a%20b');
  t.equal(exportUri('nbd+unix:///?socket=/s', 'v'), 'nbd+unix:///v?socket=/s');
  t.equal(exportUri('nbds://h', 'v'), 'nbds://h/v');
  t.throws(() => exportUri('http://h/', 'v'), { code: 'EINVAL' });
  t.end();
});

/** Runs mapperctl's command without a daemon. */
async function offline(...args: string[]): Promise<string> {
  const { command, words, options } = parseCommand(args, commands);
  let output = '';
  await command?.run({
    words,
    options,
    client: { call: async () => null } as unknown as ControlClient,
    print: (_result, text) => {
      output += text;
    },
    readInput: async () => JSON.stringify(twoLayers),
    readInputBytes: async () => Buffer.of(),
    writeOutput: () => {},
  });
  return output;
}

t.test('shows kept results again', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'mapperd-bench-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const svg = join(directory, 'plot.svg');
  const kept = join(directory, 'results.json');
  writeFileSync(kept, JSON.stringify(twoLayers));
  t.match(await offline('report', kept, '--svg', svg), 'a <title> & more');
  t.match(readFileSync(svg, 'utf8'), /^<svg [\s\S]*<\/svg>\n$/);
  t.match(await offline('report', '-'), 'randread');
  await t.rejects(offline('report', join(directory, 'none')), { code: 'ENOENT' });
  await t.rejects(offline('report', kept, '--svg', join(directory, 'no', 'x')), { code: 'ENOENT' });
});

t.test('rejects options that make no sense, before anything is made', async (t) => {
  const rejects = async (args: string[], message: RegExp): Promise<void> => {
    await t.rejects(offline('bench', ...args), { code: 'EINVAL', message }, args.join(' '));
  };
  await rejects(['--destroy-data'], /found no device/);
  await rejects(['--time', '10ms'], /--time: found "10ms"/);
  await rejects(['--rounds', '0'], /--rounds: found "0"/);
  await rejects(['--size', '4k'], /--size: found "4k"/);
});

t.test('says what is missing', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'mapperd-bench-'));
  const { PATH } = process.env;
  t.teardown(() => {
    Object.assign(process.env, { PATH });
    rmSync(directory, { recursive: true });
  });
  Object.assign(process.env, { PATH: directory });
  await t.rejects(requireFio(never), { code: 'ENOENT', message: /^fio is not installed/ });
  writeFileSync(join(directory, 'fio'), '#!/bin/sh\nexit 1\n');
  chmodSync(join(directory, 'fio'), 0o755);
  await t.rejects(requireFio(never), { message: /^fio has no nbd engine: wanted/ });
});

const mapperctl = fileURLToPath(new URL('../../src/mapperctl.js', import.meta.url));
const bytes = 8 * MiB;

t.test('measures a real device', { skip: requires('fio') }, async (t) => {
  const files = new Scratch(t);
  const disk = files.pattern('disk.img', bytes, 7);
  const before = readFileSync(disk);
  const devices = { disk: linear(disk, bytes) };
  const work = join(files.path, 'work');
  const quick = ['--time', '100ms', '--rounds', '1', '--size', '4M', '--directory', files.path];
  await withDaemon(t, { engine: 'node', devices }, async (daemon) => {
    const left = (): string[] => readdirSync(files.path).filter((name) => /bench/.test(name));
    const names = async (): Promise<string[]> =>
      (await daemon.call('ls', {})).map(({ name }) => name).sort();

    await t.test('reads the device, writes to a snapshot: no data changes', async (t) => {
      const [svg, kept] = [`${work}.svg`, `${work}.json`];
      const text = await daemon.control(
        'bench',
        'disk',
        '--write',
        ...quick,
        '--svg',
        svg,
        '--save',
        kept,
      );
      t.match(text, 'mapperd, device disk, the first 4.0 MiB of it');
      t.equal(text.match(/^ {2}(raw|nbd) /gm)?.length, 12, 'six loads on two layers');
      t.match(readFileSync(svg, 'utf8'), '</svg>');
      t.match(await daemon.control('report', kept), /^mapperd, device disk/);
      t.ok(readFileSync(disk).equals(before));
      t.strictSame(await names(), ['disk']);
      t.strictSame(left(), []);
    });

    await t.test('without a device: scratch ones, which are removed', async (t) => {
      const text = await daemon.control('--json', 'bench', '--buffered', ...quick);
      const { groups } = JSON.parse(text) as { groups: { rows: { layer: string }[] }[] };
      t.equal(groups.length, 3);
      t.match(groups[0]?.rows, [{ layer: 'raw' }, { layer: 'nbd' }]);
      t.strictSame(await names(), ['disk']);
      t.strictSame(left(), []);
    });

    await t.test('interrupted, it removes them all the same', async (t) => {
      const args = [mapperctl, '-c', daemon.controlSocket, 'bench', '--time', '60s'];
      const child = launch(process.execPath, [...args, '--size', '4M', '--directory', files.path]);
      const ended = outputOf(child, 'bench', 60);
      while (!(await names()).some((name) => name.startsWith('bench-'))) await sleep(10);
      child.kill('SIGINT');
      const { code, stderr } = await ended;
      t.equal(code, 1);
      t.equal(stderr, 'mapperctl: interrupted\n');
      t.strictSame(await names(), ['disk']);
      t.strictSame(left(), []);
    });

    await t.test('does not wait for a device that is suspended', async (t) => {
      await daemon.control('suspend', 'disk');
      const args = [mapperctl, '-c', daemon.controlSocket, 'bench', 'disk', ...quick];
      t.match(await fail(process.execPath, args), 'device "disk" is suspended: resume it first');
      await daemon.control('resume', 'disk');
    });

    await t.test('writes to the device itself only if nobody else is on its file', async (t) => {
      const args = [mapperctl, '-c', daemon.controlSocket, 'bench', 'disk', '--destroy-data'];
      await daemon.control('create', 'other', '--table', `0 8 linear ${disk} 0`);
      const refusal = await fail(process.execPath, [...args, ...quick]);
      t.match(refusal, /shares ".*disk\.img" with device "other"/);
      t.ok(readFileSync(disk).equals(before));
      await daemon.control('remove', 'other');
      const text = await daemon.control('bench', 'disk', '--destroy-data', ...quick);
      t.match(text, 'random write, 4 KiB, depth 1');
      t.notOk(readFileSync(disk).equals(before));
      t.strictSame(await names(), ['disk']);
    });
  });
});
