/** The cases of snapshots and copies: how servers are started for them, and how they are shown. */

import { existsSync } from 'node:fs';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import t from 'tap';
import type { Comparison, CopyCase } from './case.js';
import type { Conditions } from './compare.js';
import { compareCopies } from './copy.js';
import { type CopyWay, copyWithCp } from './copy-ways.js';
import { Places } from './places.js';
import { commandText } from './program.js';
import { formatText, score } from './report.js';
import type { ComparisonResult, CopyResult, Measurement, Report } from './results.js';
import { discardServer, nbdUri, startServer, stopServers } from './running-server.js';
import type { Address, ServerSpec } from './servers.js';
import { snapshotCases } from './snapshot-cases.js';
import {
  mapperdSnapshots,
  nbdkitCow,
  qemuCopyBeforeWrite,
  qemuOverlay,
} from './snapshot-servers.js';
import { copyTable, footprintTable } from './tables.js';

const never = new AbortController().signal;
const unix = { kind: 'unix', path: '/tmp/s' } as const;
const file = { path: '/var/tmp/a file', bytes: 256 << 20 };

function nbdSocket(address: Address): string {
  return address.kind === 'unix' ? address.path : '';
}

function devicesOf(spec: ServerSpec): string[] {
  const args = spec.commands(file, unix, '/own')[0]?.args ?? [];
  return args.filter((_, at) => args[at - 1] === '--device');
}

t.test('servers with a snapshot', async (t) => {
  t.test('stack origin and snapshot on the file, and beside it a volume to warm up', async (t) => {
    const real = 'file:///var/tmp/a%20file';
    t.same(devicesOf(mapperdSnapshots({ engine: 'auto', loaded: 'origin', store: 'P' })), [
      `vol-real: 0 524288 linear ${real} 0`,
      'vol: 0 524288 snapshot-origin dm:vol-real',
      'vol-snap0: 0 524288 snapshot dm:vol-real file:///own/vol-snap0.cow P 8',
      'warm-real: 0 131072 linear file:///own/warm.img 0',
      'warm: 0 131072 snapshot-origin dm:warm-real',
      'warm-snap0: 0 131072 snapshot dm:warm-real file:///own/warm-snap0.cow P 8',
    ]);
    const delayed = { engine: 'auto', loaded: 'origin', delayMilliseconds: 1 } as const;
    t.equal(devicesOf(mapperdSnapshots(delayed))[0], `vol-real: 0 524288 delay ${real} 0 1`);
    t.equal(devicesOf(mapperdSnapshots({ ...delayed, snapshots: 16 })).length, 2 * 18);
    t.equal(devicesOf(mapperdSnapshots({ ...delayed, snapshots: 0 })).length, 2);
  });

  t.test('are loaded, warmed up and filled by the export that is measured', async (t) => {
    const origin = mapperdSnapshots({ engine: 'auto', loaded: 'origin' });
    t.match(origin, { exportName: 'vol', warmUp: 'warm' });
    t.notOk('filled' in origin);
    const snapshot = mapperdSnapshots({ engine: 'auto', loaded: 'snapshot', filled: true });
    t.match(snapshot, { exportName: 'vol-snap0', warmUp: 'warm-snap0', filled: 'vol-snap0' });
    t.equal(nbdUri(unix, snapshot.exportName), 'nbd+unix:///vol-snap0?socket=/tmp/s');
    t.equal(nbdUri({ kind: 'tcp', host: '::1', port: 1 }, 'a/b'), 'nbd://::1:1/a%2Fb');
    t.equal(nbdUri(unix), 'nbd+unix:///?socket=/tmp/s');
  });

  t.test('make COWs with room for all chunks and their exceptions', async (t) => {
    const own = t.testdir();
    const spec = mapperdSnapshots({ engine: 'auto', loaded: 'origin', snapshots: 2 });
    const made = (await spec.prepare?.(file, own, never)) ?? [];
    t.same(
      made.map((cow) => cow.path),
      [join(own, 'vol-snap0.cow'), join(own, 'vol-snap1.cow')],
    );
    const chunks = file.bytes / 4096;
    for (const cow of made) t.ok(cow.bytes >= 4096 * (chunks + Math.ceil(chunks / 256) + 2));
    t.same((await readdir(own)).length, 5);
  });

  t.test('take the old discipline from the environment', async (t) => {
    const [command] = mapperdSnapshots({
      engine: 'auto',
      loaded: 'origin',
      serial: true,
    }).commands(file, unix, '/own');
    t.equal(command?.program, 'env');
    t.same(command?.args.slice(0, 2), ['MAPPERD_SNAPSHOT_ORDER=serial', process.execPath]);
  });

  t.test('are started as others have it', async (t) => {
    const text = (spec: ServerSpec) => spec.commands(file, unix, '/own').map(commandText);
    t.same(text(nbdkitCow), [
      "env TMPDIR=/own nbdkit -f -U /tmp/s --filter=cow file 'file=/var/tmp/a file' " +
        'cow-block-size=4096',
    ]);
    t.same(text(qemuOverlay), ['qemu-nbd -f qcow2 -t -e 8 -k /tmp/s /own/overlay.qcow2']);
    const [args = []] = qemuCopyBeforeWrite
      .commands({ path: '/a,b', bytes: 1 }, { kind: 'tcp', host: 'h', port: 7 }, '/own')
      .map((command) => command.args);
    t.ok(args.includes('driver=file,filename=/a,,b,node-name=origin-file'));
    t.ok(args.includes('addr.type=inet,addr.host=h,addr.port=7'));
  });
});

t.test('a server has a directory of its own, which goes with it', async (t) => {
  // The paths of sockets must be short.
  const sockets = await mkdtemp(join(tmpdir(), 'mapperd-bench-test-'));
  t.teardown(() => rm(sockets, { recursive: true }));
  const served = { path: join(t.testdir({}), 'served.img'), bytes: 1 << 20 };
  const script = "require('net').createServer(s => s.end('NBDMAGIC')).listen(process.argv[1])";
  const spec: ServerSpec = {
    label: 'greeter',
    cache: 'warm',
    prepare: async (_file, directory) => {
      const path = join(directory, 'cow');
      await writeFile(path, 'x');
      return [{ path, bytes: 1 }];
    },
    commands: (_file, address) => [
      { program: process.execPath, args: ['-e', script, '--', nbdSocket(address)] },
    ],
  };
  const broken = { ...spec, commands: () => [{ program: 'false', args: [] }] };
  for (const end of [
    discardServer,
    (server: Parameters<typeof discardServer>[0]) => stopServers([server]),
  ]) {
    const server = await startServer(spec, served, 'unix', sockets, never);
    t.equal(server.ownFiles.length, 1);
    t.ok(existsSync(server.ownFiles[0]?.path ?? ''));
    await end(server);
    t.notOk(server.program.running);
  }
  await t.rejects(startServer(broken, served, 'unix', sockets, never), /start greeter/);
  t.same(await readdir(dirname(served.path)), []);
});

t.test('cases', async (t) => {
  const cases = snapshotCases('auto');
  const loadOf = (name: string) => cases.find((one) => one.name === name)?.load;

  t.test('with fresh files touch each block once', async (t) => {
    for (const one of cases) t.equal(one.fresh === true, one.load.once === true, one.name);
    t.equal(loadOf('snapshot-order-d64')?.depth, 64);
    t.equal(loadOf('snapshot-copied-origin-read')?.rw, 'randread');
    t.equal(loadOf('snapshot-exists-write')?.rw, 'randwrite');
  });

  t.test('bound the memory by 16 bytes for each chunk of each snapshot', async (t) => {
    const crowd = cases.find((one) => one.name === 'snapshot-16') as Comparison;
    t.equal(crowd.megabytesMost?.(2 ** 30), 150 + 68);
  });
});

t.test('copies', async (t) => {
  const places = await Places.open(t.testdir(), 16 << 20, never, () => {});
  t.teardown(() => places.close());
  const notes: string[] = [];
  const note = (text: string): void => void notes.push(text);
  const conditions: Conditions = {
    ...{ places, rounds: 2, seconds: 1, requests: 1 },
    ...{ signal: never, note },
  };
  const copyCase = (judged: CopyWay, other: CopyWay): CopyCase => {
    return { kind: 'copy', name: 'copy', title: '', judged, others: [{ way: other, timeMost: 2 }] };
  };
  const whole: CopyWay = {
    label: 'cp',
    command: ({ source, destination }) => ({
      program: 'cp',
      args: ['--sparse=never', '--reflink=never', source.path, destination.path],
    }),
  };

  t.test('are timed in turn, and show what they take on the disk', async (t) => {
    const result = await compareCopies(copyCase(copyWithCp, whole), conditions);
    t.equal(result.bytes, 32 << 20);
    t.equal(result.judged.seconds.length, 2);
    t.equal(result.others[0]?.ratio, result.judged.median / (result.others[0]?.median ?? 0));
    t.ok(result.judged.diskBytes < 20 << 20, 'every other MiB is a hole');
    t.ok((result.others[0]?.diskBytes ?? 0) >= 32 << 20);
    t.match(notes.at(-1), /^copy 2\/2: cp [0-9.]+ s, cp --sparse=always [0-9.]+ s$/);
    t.same(await readdir(places.scratch), []);
  });

  t.test('that differ from the source are none', async (t) => {
    const hole: CopyWay = {
      label: 'truncate',
      command: ({ source, destination }) => ({
        program: 'truncate',
        args: [`--size=${source.bytes}`, destination.path],
      }),
    };
    await t.rejects(
      compareCopies(copyCase(copyWithCp, hole), conditions),
      /copy by truncate: run "cmp"/,
    );
    t.same(await readdir(places.scratch), []);
  });
});

t.test('report', async (t) => {
  const machine = { cpu: 'x', cores: 2, memoryGigabytes: 1, kernel: 'x', fileSystem: 'x', load: 0 };
  const report: Report = {
    ...{ date: '2026-11-21', machine: { ...machine, versions: [] }, rounds: 5 },
    ...{ secondsPerRun: 3, fileBytes: 2 ** 30, results: [], missing: [] },
  };
  const measured = (longest: number, peak: number): Measurement => {
    const rest = { ios: 1, iops: 1, throughput: 1, mean: 1, p99: 1, cpu: 1 };
    return { ...rest, longest, peak };
  };
  const server = (label: string, rounds: Measurement[]) => {
    const medians = rounds[0] as Measurement;
    return { label, command: label, detail: null, rounds, medians, spread: 0 };
  };
  const crowd = (megabytesMost: number): ComparisonResult => ({
    ...{ kind: 'comparison', name: 'crowd', title: '', rate: 'iops', fresh: true, megabytesMost },
    directory: '/',
    judged: server('mapperd', [measured(4000, 120), measured(9000, 130)]),
    others: [{ ...server('plain', [measured(1000, 90)]), wanted: [], ratios: measured(4, 4 / 3) }],
    notes: [],
  });

  t.test('holds the peak of every run against the bound on memory', async (t) => {
    t.same(footprintTable([crowd(129)]).rows, [
      ['crowd', 'mapperd', '4000', '9000', '', '130.0 MB', '<= 129 MB FAIL'],
      ['', 'plain', '1000', '1000', '4.00', '90.0 MB', ''],
    ]);
    t.same(score([crowd(129)]), { met: 0, all: 1 });
    t.same(score([crowd(130)]), { met: 1, all: 1 });
    t.match(formatText({ ...report, results: [crowd(1)] }), /^with a new server .*: crowd$/m);
  });

  t.test('judges the time of a copy', async (t) => {
    const way = (label: string, median: number) => {
      const rest = { command: label, detail: null, seconds: [median], spread: 0 };
      return { ...rest, label, median, diskBytes: 2 ** 30 };
    };
    const result: CopyResult = {
      ...{ kind: 'copy', name: 'copy', title: '', bytes: 2 ** 31, judged: way('ours', 1) },
      others: [
        { ...way('slow', 1.1), ratio: 1 / 1.1, timeMost: 1 },
        { ...way('fast', 0.8), ratio: 1.25, timeMost: 1.2 },
      ],
    };
    t.same(copyTable([result]).rows, [
      ['copy', 'ours', '1.000', '0%', '1.0 GiB', ''],
      ['', 'slow', '1.100', '0%', '1.0 GiB', '0.91 (<= 1.00 pass)'],
      ['', 'fast', '0.800', '0%', '1.0 GiB', '1.25 (<= 1.20 FAIL)'],
    ]);
    t.same(score([result]), { met: 1, all: 2 });
    t.match(formatText({ ...report, results: [result] }), /^copy: medians of 5 runs, .* 2\.0 GiB/m);
  });
});
