/**
 * fio with its nbd engine: everything it writes carries a checksum and is read back. The same load
 * goes on while tables are changed below it, which a client must notice only as a pause.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { type Daemon, eachEngine, linear, MiB, Scratch, sectorsOf, withDaemon } from './harness.js';
import { run, succeed } from './programs.js';

interface Direction {
  total_ios: number;
  io_bytes: number;
}

interface Job {
  error: number;
  read: Direction;
  write: Direction;
  trim: Direction;
}

const jobs = 4;
const jobBytes = 8 * MiB;
const bytes = jobs * jobBytes;

/** Four jobs, each with a part of the device to itself. */
function options(uri: string, ...more: string[]): string[] {
  return [
    '--name=job',
    '--ioengine=nbd',
    `--uri=${uri}`,
    `--numjobs=${jobs}`,
    `--size=${jobBytes}`,
    `--offset_increment=${jobBytes}`,
    '--iodepth=32',
    '--group_reporting=1',
    '--output-format=json',
    ...more,
  ];
}

// Without the last, files of its state are left where the tests run.
const verify = ['--verify=crc32c', '--verify_fatal=1', '--do_verify=1', '--verify_state_save=0'];

async function fio(uri: string, ...more: string[]): Promise<Job> {
  const text = await succeed('fio', options(uri, ...more), {
    limitSeconds: 120,
  });
  return jobOf(text);
}

/** fio may say something in front of its report. */
function jobOf(text: string): Job {
  const report = JSON.parse(text.slice(text.indexOf('{'))) as { jobs: Job[] };
  const [job] = report.jobs;
  if (job === undefined || report.jobs.length !== 1) throw new Error(`fio reported ${text}`);
  return job;
}

function makeDevices(files: Scratch): Record<string, string> {
  const stripes = ['a', 'b', 'c', 'd'].map((name) => files.sparse(`${name}.img`, jobBytes));
  const striped = stripes.map((path) => `${path} 0`).join(' ');
  const direct = files.sparse('direct.img', bytes);
  return {
    disk: linear(files.sparse('disk.img', bytes), bytes),
    memory: `0 ${sectorsOf(bytes)} memory`,
    striped: `0 ${sectorsOf(bytes)} striped 4 128 ${striped}`,
    direct: `0 ${sectorsOf(bytes)} linear file://${direct}?direct=1 0`,
  };
}

eachEngine(t, 'fio', ['fio'], async (t, engine) => {
  const files = new Scratch(t);
  await withDaemon(t, { engine, devices: makeDevices(files) }, async (daemon) => {
    for (const name of ['disk', 'memory', 'striped', 'direct']) {
      await t.test(`random reads and writes, verified: ${name}`, async (t) => {
        const uri = name === 'memory' ? daemon.tcpUri(name) : daemon.uri(name);
        const job = await fio(uri, '--rw=randrw', '--bs=4k', ...verify);
        t.equal(job.error, 0);
        t.ok(job.write.total_ios > 0, 'it wrote');
        t.ok(job.read.total_ios >= bytes / 4096, 'it read all and what it wrote');
      });
    }
    await t.test('blocks of mixed sizes, unaligned, verified', async (t) => {
      const job = await fio(
        daemon.uri('striped'),
        '--rw=randwrite',
        '--bsrange=512-96k',
        ...verify,
      );
      t.equal(job.error, 0);
    });
    await t.test('128 KiB one after the other, verified', async (t) => {
      for (const name of ['disk', 'direct', 'striped']) {
        const job = await fio(daemon.uri(name), '--rw=write', '--bs=128k', ...verify);
        t.match(job, { error: 0, write: { io_bytes: bytes }, read: { io_bytes: bytes } }, name);
      }
    });
    await t.test('syncs between writes', async (t) => {
      const job = await fio(
        daemon.uri('disk'),
        '--rw=randwrite',
        '--bs=16k',
        '--fsync=8',
        ...verify,
      );
      t.equal(job.error, 0);
    });
    await t.test('random trims', async (t) => {
      const job = await fio(daemon.tcpUri('memory'), '--rw=randtrim', '--bs=64k');
      t.match(job, { error: 0, trim: { io_bytes: bytes } }, 'memory');
      const output = await run('fio', options(daemon.uri('disk'), '--rw=randtrim', '--bs=64k'));
      if (engine === 'uring') {
        t.match(jobOf(output.stdout), { error: 0, trim: { io_bytes: bytes } }, 'a file');
      } else {
        t.not(output.code, 0, 'a file under the node engine, which does not offer it');
      }
    });
  });
});

/** Tables that map alike, in other ways: pieces, a device below, and a stripe of one. */
function alike(path: string): string[] {
  const sectors = sectorsOf(bytes);
  const third = 20_488;
  return [
    `0 ${third} linear ${path} 0\n${third} ${sectors - third} linear ${path} ${third}`,
    `0 ${sectors} linear dm:below 0`,
    `0 ${sectors} striped 1 8 ${path} 0`,
    `0 ${sectors} linear /dev/mapper/below 0`,
    `0 ${sectors} linear file://${path}?direct=1 0`,
    `0 8 linear ${path} 0\n8 ${sectors - 8} linear dm:below 8`,
    linear(path, bytes),
  ];
}

eachEngine(t, 'tables changed under load', ['fio'], async (t, engine) => {
  const files = new Scratch(t);
  const path = files.sparse('disk.img', bytes);
  const tables = alike(path);
  const load = (daemon: Daemon, round: number): Promise<unknown> =>
    daemon.call('load', {
      name: 'disk',
      table: tables[round % tables.length] as string,
    });
  const devices = { below: linear(path, bytes), disk: linear(path, bytes) };
  await withDaemon(t, { engine, devices }, async (daemon) => {
    await t.test('load and resume', async (t) => {
      await underLoad(t, daemon, 100, async (round) => {
        await load(daemon, round);
        await daemon.call('resume', { name: 'disk' });
      });
    });
    await t.test('suspend, load and resume, by mapperctl', async (t) => {
      await underLoad(t, daemon, 4, async (round) => {
        await daemon.control('suspend', 'disk');
        const table = tables[round % tables.length] as string;
        await daemon.control('load', 'disk', '--table', table);
        await daemon.control('resume', 'disk');
      });
    });
    await t.test('suspend and resume, both devices', async (t) => {
      const table = `0 ${sectorsOf(bytes)} linear dm:below 0`;
      await daemon.call('load', { name: 'disk', table });
      await daemon.call('resume', { name: 'disk' });
      await underLoad(t, daemon, 100, async () => {
        await daemon.call('suspend', { name: 'disk', noFlush: true });
        await daemon.call('suspend', { name: 'below' });
        await daemon.call('resume', { name: 'below' });
        await daemon.call('resume', { name: 'disk' });
      });
    });
  });
});

/** Makes that many changes while fio runs on "disk", again and again until they are made. */
async function underLoad(
  t: Test,
  daemon: Daemon,
  rounds: number,
  change: (round: number) => Promise<void>,
): Promise<void> {
  let changing = true;
  const changes = (async () => {
    for (let round = 0; round < rounds; round++) {
      await change(round);
      // The requests that waited get their turn.
      await sleep(10);
    }
  })().finally(() => {
    changing = false;
  });
  // Heard of below, when fio has ended.
  changes.catch(() => {});
  do {
    const job = await fio(daemon.uri('disk'), '--rw=randrw', '--bs=4k', ...verify);
    t.equal(job.error, 0);
  } while (changing);
  await changes;
}
