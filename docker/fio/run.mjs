#!/usr/bin/env node
/**
 * The fio matrix: each case of the job files beside this, on each layer, against a mapperd in
 * another container. Prints the results as JSON, for `mapperctl report`; tells on standard error
 * how far it is. Makes its devices in the volume that it shares with mapperd, and removes them.
 *
 *   plain      a linear device over a file
 *   origin     the same device while it has a snapshot (transient, chunks of 4 KiB, just taken)
 *   snapshot   that snapshot
 *   switch     a router of two files, regions of 1 MiB in turn
 *
 *     run.mjs quick|full         1 s for each run | 30 s, three times
 *
 * MAPPERD_HOST (mapperd), MAPPERD_STATE (/var/lib/mapperd): where it is, and the shared volume.
 * FIO_SECONDS, FIO_ROUNDS, FIO_MIB: something else than the mode has, of each device.
 */

import { execFile } from 'node:child_process';
import { mkdir, open, rm } from 'node:fs/promises';
import { cpus, release } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const jobs = dirname(fileURLToPath(import.meta.url));
const { MAPPERD_HOST = 'mapperd', MAPPERD_STATE = '/var/lib/mapperd' } = process.env;
const folder = join(MAPPERD_STATE, 'fio');

const modes = {
  quick: { seconds: 1, rounds: 1, mebibytes: 256 },
  full: { seconds: 30, rounds: 3, mebibytes: 4096 },
};
const mode = modes[process.argv[2]];
if (mode === undefined || process.argv.length > 3) {
  process.stderr.write('usage: run.mjs quick|full\n');
  process.exit(2);
}
const seconds = Number(process.env.FIO_SECONDS ?? mode.seconds);
const rounds = Number(process.env.FIO_ROUNDS ?? mode.rounds);
const bytes = Number(process.env.FIO_MIB ?? mode.mebibytes) * 2 ** 20;
const sectors = bytes / 512;
const regionSectors = 2048;

const numbers = [1, 2, 3, 4];
const layers = ['plain', 'origin', 'snapshot', 'switch'];

const plain = (number) => `fio${number}`;
const routed = (number) => `fio${number}-switch`;
const snapshot = (number) => `fio${number}-snap`;
const uri = (device) => `nbd://${MAPPERD_HOST}/${device}`;

const deviceOf = {
  plain,
  origin: plain,
  snapshot,
  switch: routed,
};

function cases() {
  const all = [];
  for (const rw of ['randread', 'randwrite']) {
    for (const devices of [1, 4]) {
      const words = rw === 'randread' ? 'random read' : 'random write';
      const name = `vhost-scsi: ${words} 4 KiB, depth 16, ${count(2 * devices, 'job')}`;
      const section = devices === 1 ? ['--section=device1'] : [];
      const args = [...section, 'vhost-scsi.fio'];
      all.push({ name: `${name}, ${count(devices, 'device')}`, devices, args, more: { RW: rw } });
    }
  }
  for (const depth of [32, 1]) {
    for (const workers of [1, 2, 4, 8]) {
      const name = `dm-snapshot: random write 4 KiB, depth ${depth}, ${count(workers, 'worker')}`;
      const more = { DEPTH: depth, WORKERS: workers, SIZE: bytes / workers };
      all.push({ name, devices: 1, args: ['dm-snapshot.fio'], more });
    }
  }
  return all;
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}

async function mapperctl(...words) {
  return (await run('mapperctl', words)).stdout;
}

/** fio's report, from its first brace on: connections are told in front of it. */
async function fio(args, more) {
  const env = { ...process.env, RUNTIME: `${seconds}` };
  for (const [name, value] of Object.entries(more)) env[name] = `${value}`;
  const options = { cwd: jobs, env, maxBuffer: 2 ** 26 };
  const { stdout } = await run('fio', ['--output-format=json', '--eta=never', ...args], options);
  return JSON.parse(stdout.slice(stdout.search(/^\{$/m)));
}

function tell(text) {
  process.stderr.write(`${text}\n`);
}

async function makeDevices() {
  await mkdir(folder, { mode: 0o700 });
  for (const number of numbers) {
    const [file, left, right] = ['plain', 'left', 'right'].map((name) =>
      join(folder, `${name}${number}`),
    );
    for (const path of [file, left, right]) {
      const handle = await open(path, 'wx', 0o600);
      await handle.truncate(bytes);
      await handle.close();
    }
    const router = `switch 2 ${regionSectors} 0 ${left} 0 ${right} 0`;
    await mapperctl('create', plain(number), '--table', `0 ${sectors} linear ${file} 0`);
    await mapperctl('create', routed(number), '--table', `0 ${sectors} ${router}`);
    for (const device of [plain(number), routed(number)]) {
      tell(`filling ${device}`);
      await fio(['fill.fio'], { URI1: uri(device) });
    }
  }
}

/** fio has gone, but the daemon may have to notice first. */
async function removeSnapshot(number) {
  for (let tries = 1; ; tries++) {
    try {
      await mapperctl('snapshot', '--remove', snapshot(number));
      return;
    } catch (error) {
      if (tries === 20 || !/in use/.test(error.stderr)) throw error;
      await sleep(250);
    }
  }
}

/** Also what a run that was ended has left. */
async function removeDevices() {
  const there = new Set((await mapperctl('ls')).split('\n').map((line) => line.split('\t')[0]));
  for (const number of numbers) {
    if (there.has(snapshot(number))) await removeSnapshot(number);
    for (const device of [plain(number), routed(number)]) {
      if (there.has(device)) await mapperctl('remove', device);
    }
  }
  await rm(folder, { recursive: true, force: true });
}

async function runCase({ name, devices, args, more }, layer) {
  const used = numbers.slice(0, devices);
  const snapped = layer === 'origin' || layer === 'snapshot';
  if (snapped) {
    await Promise.all(
      used.map((n) => mapperctl('snapshot', plain(n), snapshot(n), '--transient', '--chunk', '4k')),
    );
  }
  // What the run before has left to be written is not this one's.
  await run('sync', ['-f', MAPPERD_STATE]);
  const uris = numbers.map((n) => [`URI${n}`, uri(deviceOf[layer](n))]);
  const report = await fio(args, { ...more, ...Object.fromEntries(uris) });
  if (snapped) await Promise.all(used.map(removeSnapshot));
  return { case: name, layer, fio: report };
}

// As the first process of a container it gets no signal that it does not ask for.
process.on('SIGTERM', () => process.exit(143));

const { version, engine, engineReason } = JSON.parse(await mapperctl('--json', 'version'));
const because = engineReason === null ? '' : ` (${engineReason})`;
await removeDevices();
await makeDevices();
const runs = [];
const all = cases();
for (const [at, one] of all.entries()) {
  for (let round = 0; round < rounds; round++) {
    for (const layer of layers) {
      tell(`${at + 1} of ${all.length}, round ${round + 1} of ${rounds}: ${one.name}, ${layer}`);
      runs.push(await runCase(one, layer));
    }
  }
}
await removeDevices();

const cpu = cpus()[0]?.model.trim() || 'unknown CPU';
const results = {
  mapperd: version,
  title: `mapperd in a container: fio's jobs of the vhost-scsi paper and the dm-snapshot series`,
  date: new Date().toISOString(),
  base: 'plain',
  notes: [
    `${cpu}, ${cpus().length} cores shared by server and client, Linux ${release()}`,
    `mapperd ${version}, engine ${engine}${because}; over TCP between two containers; devices of ` +
      `${bytes / 2 ** 20} MiB in files, through the page cache; ` +
      (rounds === 1 ? `one run of ${seconds} s` : `medians of ${rounds} runs of ${seconds} s`),
    'origin: with a transient snapshot that was taken just before; snapshot: that one; switch: ' +
      'two files, regions of 1 MiB in turn',
  ],
  runs,
};
process.stdout.write(`${JSON.stringify(results)}\n`);
