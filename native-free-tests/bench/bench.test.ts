import fc from 'fast-check';
import t from 'tap';
import { allCases, chooseCases } from './cases.js';
import { fioArguments, parseFio } from './fio.js';
import type { Machine } from './machine.js';
import { findFileSystem } from './machine.js';
import { parseOptions } from './options.js';
import { parseCpuTicks, parseMemory } from './proc.js';
import { commandText } from './program.js';
import { formatMarkdown, formatText, score } from './report.js';
import type { ComparisonResult, IdleResult, Measurement, MemoryResult, Report } from './results.js';
import { directWord, mapperd, nbdkit, qemuNbd, readyEngine } from './servers.js';
import { flatness, median, rotate, spread } from './statistics.js';
import { comparisonTable, isMet } from './tables.js';

t.test('statistics', async (t) => {
  t.test('takes the value in the middle, or the mean of the two', async (t) => {
    t.equal(median([9, 1, 5]), 5);
    t.equal(median([4, 1, 3, 2]), 2.5);
    t.equal(median([7]), 7);
    t.throws(() => median([]), RangeError);
  });

  t.test('has as many values above the median as below it', async () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: -1e9, max: 1e9 }), { minLength: 1 }), (values) => {
        const middle = median(values);
        const below = values.filter((value) => value < middle).length;
        const above = values.filter((value) => value > middle).length;
        return 2 * below <= values.length && 2 * above <= values.length;
      }),
    );
  });

  t.test('gives the spread as a share of the median', async (t) => {
    t.equal(spread([100, 90, 120]), 0.3);
    t.equal(spread([5]), 0);
    t.equal(spread([0, 0, 3]), 0);
  });

  t.test('puts each one first in its turn', async (t) => {
    t.same(rotate(['a', 'b', 'c'], 0), ['a', 'b', 'c']);
    t.same(rotate(['a', 'b', 'c'], 4), ['b', 'c', 'a']);
    t.same(rotate([], 4), []);
  });

  t.test('tells growth from a start and from a sawtooth', async (t) => {
    const start = Array.from({ length: 40 }, (_, at) => (at < 8 ? 60 + 5 * at : 100));
    const sawtooth = Array.from({ length: 40 }, (_, at) => 80 + 5 * (at % 4));
    const leak = Array.from({ length: 40 }, (_, at) => 80 + at);
    const smallLeak = Array.from({ length: 40 }, (_, at) => 80 + at / 10);
    t.equal(flatness(start), 'flat');
    t.equal(flatness(sawtooth), 'flat');
    t.equal(flatness(smallLeak), 'flat');
    t.equal(flatness(leak), 'grows');
    t.equal(flatness([80, 200, 300]), 'too few samples');
  });
});

t.test('proc', async (t) => {
  const stat =
    '4711 (a) b (c) S 1 4711 4711 0 -1 4194304 11871 0 0 0 43 69 7 8 20 0 12 0 430122 1242 2145 ';

  t.test('adds user and system time behind a name with blanks and brackets', async (t) => {
    t.equal(parseCpuTicks(stat), 43 + 69);
    t.throws(() => parseCpuTicks('4711 (a) S 1'), /found "4711 \(a\) S 1"/);
  });

  t.test('reads resident memory in millions of bytes', async (t) => {
    const status = 'VmHWM:\t  2000 kB\nVmRSS:\t    1000 kB\nThreads:\t1\n';
    t.equal(parseMemory(status, 'VmRSS'), 1.024);
    t.equal(parseMemory(status, 'VmHWM'), 2.048);
    t.throws(() => parseMemory('Name:\tkworker\n', 'VmRSS'), /no VmRSS/);
  });
});

function fioOutput(read: object, write: object, error = 0): string {
  const json = { 'fio version': 'fio-3.33', jobs: [{ jobname: 'bench', error, read, write }] };
  const lines = 'fio: connected to NBD server\nfio: connected to NBD server\n';
  return `${lines}${JSON.stringify(json, null, 2)}\n`;
}

function direction(ios: number, mean: number, p99: number | null): object {
  const percentile = p99 === null ? {} : { percentile: { '50.000000': 1, '99.000000': p99 } };
  return {
    total_ios: ios,
    iops: ios / 2,
    bw_bytes: ios * 2048,
    lat_ns: { mean, max: 2 * mean, ...percentile },
  };
}

const noIo = direction(0, 0, null);

t.test('fio', async (t) => {
  t.test('parses the JSON behind the lines of the engine', async (t) => {
    t.same(parseFio(fioOutput(direction(1024, 80_500, 91_648), noIo)), {
      ios: 1024,
      iops: 512,
      throughput: 2,
      mean: 80.5,
      p99: 91.648,
      longest: 161,
    });
  });

  t.test('adds both directions up', async (t) => {
    const both = parseFio(
      fioOutput(direction(3000, 10_000, 50_000), direction(1000, 30_000, 9000)),
    );
    t.same(both, { ios: 4000, iops: 2000, throughput: 7.8125, mean: 15, p99: 50, longest: 60 });
  });

  t.test('rejects what is no result', async (t) => {
    t.throws(() => parseFio('fio: connect failed\n'), /found no JSON in "fio: connect failed/);
    t.throws(() => parseFio('{\n  "jobs" : [\n'), /read fio's output/);
    t.throws(() => parseFio('{\n  "jobs" : [] }\n'), /jobs/);
    t.throws(() => parseFio(fioOutput(noIo, {})), /jobs\.0\.write\.total_ios/);
    t.throws(() => parseFio(fioOutput(noIo, noIo)), /no I\/O/);
    t.throws(() => parseFio(fioOutput(direction(5, 1, 1), noIo, 5)), /error 5/);
  });

  t.test('runs for a time, or for a number of requests over all jobs', async (t) => {
    const load = { rw: 'randrw', blockBytes: 4096, depth: 16, jobs: 2 } as const;
    const timed = fioArguments(load, { seconds: 3 }, 'nbd+unix:///?socket=/s');
    t.ok(timed.includes('--runtime=3') && timed.includes('--time_based'));
    const counted = fioArguments(load, { requests: 1000 }, 'nbd+unix:///?socket=/s');
    t.ok(counted.includes(`--io_size=${500 * 4096}`));
    t.notOk(counted.includes('--time_based'));
  });

  t.test('touches a block once if it is to, and ends when there is none left', async (t) => {
    const load = { rw: 'randwrite', blockBytes: 4096, depth: 16, jobs: 1, once: true } as const;
    const args = fioArguments(load, { seconds: 3 }, 'nbd+unix:///?socket=/s');
    t.ok(args.includes('--runtime=3'));
    t.notOk(args.includes('--time_based') || args.includes('--norandommap'));
  });
});

t.test('servers', async (t) => {
  const file = { path: '/var/tmp/a file', bytes: 1 << 20 };
  const unix = { kind: 'unix', path: '/tmp/s' } as const;
  const tcp = { kind: 'tcp', host: '127.0.0.1', port: 1234 } as const;

  t.test('starts mapperd on an image, on O_DIRECT, on a table of several lines', async (t) => {
    const args = (spec: ReturnType<typeof mapperd>) =>
      spec.commands(file, unix, '/own')[0]?.args.slice(1);
    const common = ['-U', '/tmp/s', '--no-lock', '--control', 'none', '--engine', 'uring'];
    t.same(args(mapperd({ engine: 'uring' })), [...common, file.path]);
    t.equal(directWord(file), 'file:///var/tmp/a%20file?direct=1');
    t.same(args(mapperd({ engine: 'uring', direct: true })), [
      ...common,
      ...['--device', `bench: 0 2048 linear ${directWord(file)} 0`, '-e', 'bench'],
    ]);
    t.same(args(mapperd({ engine: 'uring', table: () => '0 8 zero\n8 8 error' })), [
      ...common,
      ...['--device', 'bench: 0 8 zero; 8 8 error', '-e', 'bench'],
    ]);
  });

  t.test('starts the others', async (t) => {
    const text = (spec: ReturnType<typeof nbdkit>, address: typeof unix | typeof tcp) =>
      spec.commands(file, address, '/own').map(commandText);
    t.same(text(nbdkit(), unix), ["nbdkit -f -U /tmp/s file 'file=/var/tmp/a file'"]);
    t.same(text(nbdkit({ plugin: ['cache=none'] }), tcp), [
      "nbdkit -f -i 127.0.0.1 -p 1234 file 'file=/var/tmp/a file' cache=none",
    ]);
    t.same(text(qemuNbd({ direct: true }), unix), [
      "qemu-nbd -f raw -t -e 8 --cache=none --aio=io_uring -k /tmp/s '/var/tmp/a file'",
      "qemu-nbd -f raw -t -e 8 --cache=none --aio=native -k /tmp/s '/var/tmp/a file'",
    ]);
  });

  t.test('finds the engine in the log', async (t) => {
    const log =
      '{"level":"warn","msg":"x"}\n{"level":"info","engine":"node","reason":null,"msg":"ready"}\n';
    t.equal(readyEngine(log), 'engine node');
    t.equal(readyEngine(''), null);
  });
});

t.test('machine', async (t) => {
  const mounts = [
    '22 1 254:0 / / rw,relatime - ext4 /dev/vda rw',
    '23 22 0:21 / /var/tmp rw - tmpfs tmpfs rw',
    '24 22 7:0 / /var/tmp/a\\040b rw,noatime shared:1 - xfs /dev/loop0 rw',
    '25 22 0:22 / /var/tmp rw - btrfs /dev/vdb rw',
    '',
  ].join('\n');

  t.test('finds the file system of a path', async (t) => {
    t.equal(findFileSystem(mounts, '/home/x'), 'ext4');
    t.equal(findFileSystem(mounts, '/var/tmp'), 'btrfs', 'the mount on top');
    t.equal(findFileSystem(mounts, '/var/tmp/a b/c'), 'xfs');
    t.equal(findFileSystem(mounts, '/var/tmpfile'), 'ext4');
    t.equal(findFileSystem('', '/'), null);
  });
});

t.test('options', async (t) => {
  t.test('parses', async (t) => {
    const defaults = parseOptions([]);
    t.match(defaults, { rounds: 5, seconds: 3, bytes: 2 ** 30, requests: 20_000_000, only: null });
    const given = parseOptions(['--size', '512M', '--only', 'memory,idle', '--engine', 'node']);
    t.match(given, { bytes: 2 ** 29, only: ['memory', 'idle'], engine: 'node' });
  });

  t.test('rejects', async (t) => {
    t.throws(() => parseOptions(['--rounds', '0']), /--rounds: found "0"/);
    t.throws(() => parseOptions(['--seconds', '1.5']), /--seconds: found "1.5"/);
    t.throws(() => parseOptions(['--size', '1000']), /--size: found "1000"/);
    t.throws(() => parseOptions(['--size', '8M']), /wanted 16M or more/);
    t.throws(() => parseOptions(['--engine', 'threads']), /--engine: found "threads"/);
    t.throws(() => parseOptions(['--fast']), { code: 'EINVAL' });
    t.throws(() => parseOptions(['fast']), { code: 'EINVAL' });
  });
});

t.test('cases', async (t) => {
  const cases = allCases('auto');
  const names = cases.map((one) => one.name);

  t.test('have names of their own, and servers with labels of their own', async (t) => {
    t.equal(new Set(names).size, names.length);
    for (const one of cases) {
      if (one.kind !== 'comparison') continue;
      const labels = [one.judged, ...one.others.map((other) => other.server)].map((s) => s.label);
      t.equal(new Set(labels).size, labels.length, one.name);
    }
  });

  t.test('are chosen by name, and without the extra ones otherwise', async (t) => {
    const chosen = (only: string[] | null) => chooseCases(cases, only).map((one) => one.name);
    t.same(chosen(['idle', 'randread-4k-d16-tcp']), ['randread-4k-d16-tcp', 'idle']);
    t.notOk(chosen(null).includes('randread-4k-d16-tcp'));
    t.equal(chosen(null).length, names.length - 1);
    t.throws(
      () => chosen(['idle', 'nothing', 'none']),
      /found "nothing,none", wanted some of rand/,
    );
  });
});

const machine: Machine = {
  cpu: 'Example CPU',
  cores: 2,
  memoryGigabytes: 16,
  kernel: 'Linux 6.1.0',
  fileSystem: 'ext4',
  load: 0.25,
  versions: ['mapperd 0.1.0', 'nbdkit 1.42.3', 'no qemu-nbd', 'fio 3.39'],
};

const measured = (iops: number, cpu: number): Measurement => {
  const latencies = { mean: 100, p99: 250, longest: 4000 };
  return { ios: 3 * iops, iops, throughput: iops / 256, ...latencies, cpu, peak: 90 };
};

const comparison: ComparisonResult = {
  kind: 'comparison',
  name: 'randread',
  title: 'random read',
  rate: 'iops',
  fresh: false,
  megabytesMost: null,
  directory: '/var/tmp',
  judged: {
    label: 'mapperd',
    command: 'mapperd f',
    detail: 'engine uring',
    rounds: [measured(110_000, 3), measured(120_000, 3)],
    medians: measured(115_000, 3),
    spread: 0.087,
  },
  others: [
    {
      label: 'nbdkit',
      command: 'nbdkit f',
      detail: null,
      rounds: [measured(63_923, 6.25)],
      medians: measured(63_923, 6.25),
      spread: 0,
      wanted: [
        { figure: 'iops', bound: 'at least', ratio: 1.8 },
        { figure: 'cpu', bound: 'at most', ratio: 0.5 },
      ],
      ratios: { ...measured(1.799, 0.48), throughput: 1.799, mean: 1, p99: 0.5 },
    },
  ],
  notes: ['nbdkit cache=none left out: no such parameter'],
};

const memory: MemoryResult = {
  kind: 'memory',
  name: 'memory',
  title: 'memory',
  command: 'mapperd f',
  detail: null,
  requests: 20_000_000,
  iops: 81_234.5,
  samples: [{ seconds: 0, megabytes: 80 }],
  first: 80,
  median: 95.25,
  last: 96,
  max: 151,
  flatness: 'flat',
  megabytesMost: 150,
};

const idle: IdleResult = {
  kind: 'idle',
  name: 'idle',
  title: 'idle',
  command: 'mapperd f',
  detail: null,
  connections: 1000,
  before: 80,
  during: 92,
  after: 91,
  megabytesMost: 150,
};

const report: Report = {
  date: '2026-11-21',
  machine,
  rounds: 5,
  secondsPerRun: 3,
  fileBytes: 2 ** 30,
  results: [comparison, memory, idle],
  missing: [{ name: 'randwrite-xfs', why: 'left out', reason: 'no XFS: mounting needs root' }],
};

t.test('report', async (t) => {
  t.test('marks what is met', async (t) => {
    const least = { figure: 'iops', bound: 'at least', ratio: 1.8 } as const;
    const most = { figure: 'cpu', bound: 'at most', ratio: 0.5 } as const;
    t.same(
      [1.79, 1.8, 2].map((found) => isMet(least, found)),
      [false, true, true],
    );
    t.same(
      [0.4, 0.5, 0.51].map((found) => isMet(most, found)),
      [true, true, false],
    );
    t.same(score(report.results), { met: 3, all: 5 });
  });

  t.test('does not round a figure into one that is met', async (t) => {
    const [, other] = comparisonTable([comparison]).rows;
    t.equal(other?.[7], '1.79 (>= 1.80 FAIL)');
    t.equal(other?.[8], '1.00');
    t.equal(other?.[10], '0.48 (<= 0.50 pass)');
  });

  t.test('shows tables, machine and what is missing, as text', async (t) => {
    const text = formatText(report);
    t.match(text, /^2026-11-21: Example CPU, 2 cores .*, 16 GB, Linux 6\.1\.0, ext4, load 0\.25$/m);
    t.match(text, /^mapperd 0\.1\.0, nbdkit 1\.42\.3, no qemu-nbd, fio 3\.39$/m);
    t.match(text, /^medians of 5 runs of 3 s; .* 1\.0 GiB open/m);
    t.match(text, /^randread +mapperd \(engine uring\) +115,000 IOPS +9% +100\.0 +250\.0 +3\.00$/m);
    t.match(text, /^ +nbdkit +63,923 IOPS +0% +100\.0 +250\.0 +6\.25 +1\.79 .* pass\)$/m);
    t.match(text, /^memory +20,000,000 +81,235 .* 151\.0 MB +<= 150 MB FAIL +flat$/m);
    t.match(text, /^idle +1000 .* 92\.0 MB .* <= 150 MB pass$/m);
    t.match(text, /^randread: nbdkit cache=none left out: no such parameter$/m);
    t.match(text, /^randwrite-xfs left out: no XFS: mounting needs root$/m);
    t.match(text, /^3 of 5 wanted figures are met$/m);
  });

  t.test('writes Markdown tables with as many cells in each row', async (t) => {
    const markdown = formatMarkdown(report);
    const tables = markdown.split('\n\n').filter((part) => part.startsWith('|'));
    t.equal(tables.length, 3);
    for (const table of tables) {
      const counts = table
        .trim()
        .split('\n')
        .map((line) => line.split('|').length);
      t.equal(new Set(counts).size, 1, table);
    }
    t.match(markdown, /^\| randread \| mapperd \(engine uring\) \| 115,000 IOPS \|/m);
    t.match(markdown, /^- 3 of 5 wanted figures are met$/m);
  });

  t.test('shows what there is when all is missing', async (t) => {
    const text = formatText({ ...report, results: [] });
    t.notMatch(text, /IOPS|MB/);
    t.match(text, /left out[\s\S]*0 of 0/);
  });
});
