/**
 * Regions that move on real engines and files, under fio, which writes checksums and reads them
 * back; and a daemon that is killed while they move.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import {
  Daemon,
  type EngineName,
  eachEngine,
  MiB,
  Scratch,
  sectorsOf,
  withDaemon,
} from './harness.js';
import { succeed } from './programs.js';

const bytes = 32 * MiB;
const paths = 3;
const regionSectors = 100;

function table(files: Scratch): string {
  const words = Array.from({ length: paths }, (_, i) => `${files.sparse(`${i}.img`, bytes)} 0`);
  return `0 ${sectorsOf(bytes)} switch ${paths} ${regionSectors} 0 ${words.join(' ')}`;
}

async function fio(daemon: Daemon, ...more: string[]): Promise<string> {
  return succeed(
    'fio',
    [
      '--name=job',
      '--ioengine=nbd',
      `--uri=${daemon.uri('vol')}`,
      `--size=${bytes}`,
      '--bsrange=512-64k',
      '--iodepth=32',
      '--output-format=json',
      '--verify=crc32c',
      '--verify_fatal=1',
      '--verify_state_save=0',
      ...more,
    ],
    { limitSeconds: 120 },
  );
}

function message(daemon: Daemon, ...words: string[]): Promise<string> {
  return daemon.call('message', { name: 'vol', sector: 0, words });
}

/** Waits until the move has ended and is stored; regions that it has moved. */
async function moved(daemon: Daemon): Promise<number> {
  for (;;) {
    const [state, , , count, , , generation, saved] = (await message(daemon, 'move_status')).split(
      ' ',
    );
    if (state !== 'running' && generation === saved) {
      if (state !== 'done') throw new Error(`the move is ${state}`);
      return Number(count);
    }
    await sleep(5);
  }
}

/** Everything that is on a path goes to the next one, round after round. */
async function moveRound(daemon: Daemon, round: number): Promise<number> {
  const from = round % paths;
  await message(daemon, 'move_regions', `${from}`, `${(from + 1) % paths}`);
  return moved(daemon);
}

eachEngine(t, 'regions move under fio', ['fio'], async (t, engine) => {
  const files = new Scratch(t);
  await withDaemon(t, { engine, devices: { vol: table(files) } }, async (daemon) => {
    let moving = true;
    let count = 0;
    const moves = (async () => {
      for (let round = 0; round < 6; round++) count += await moveRound(daemon, round);
    })().finally(() => {
      moving = false;
    });
    moves.catch(() => {});
    do {
      await fio(daemon, '--rw=randrw', '--do_verify=1');
    } while (moving);
    await moves;
    t.ok(count > 100, `${count} regions have moved`);
  });
});

async function killed(t: Test, engine: EngineName): Promise<void> {
  const files = new Scratch(t);
  const args = ['--state', files.file('state')];
  let daemon = await Daemon.start({ engine, args });
  await daemon.call('create', { name: 'vol', table: table(files) });
  const seed = '--randseed=1234';
  await fio(daemon, '--rw=randwrite', '--do_verify=0', seed);
  let total = 0;
  let within = 0;
  for (let round = 0; round < 5; round++) {
    const sides = [`${round % paths}`, `${(round + 1) % paths}`];
    await message(daemon, 'move_regions', ...sides, 'throttle', round % 2 === 0 ? '50' : '100');
    // The same again, so that one does not see in the data how far it came.
    const again = fio(daemon, '--rw=randwrite', '--do_verify=0', seed).catch(() => {});
    await sleep(20 + 60 * round);
    const [state, , , count] = (await message(daemon, 'move_status')).split(' ');
    total += Number(count);
    if (state === 'running') within++;
    await daemon.kill();
    await again;
    daemon = await Daemon.start({ engine, args });
    await fio(daemon, '--rw=randwrite', '--verify_only=1', seed);
  }
  t.comment(`${total} regions had moved when the daemon was killed, ${within} times in the middle`);
  t.ok(total > 0, 'regions have moved');
  t.ok(within > 0, 'the daemon was killed while they did');
  const end = await daemon.stop();
  t.equal(end.code, 0);
}

eachEngine(t, 'a daemon is killed while regions move', ['fio'], killed);
