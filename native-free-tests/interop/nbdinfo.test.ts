/** What clients can find out: nbdinfo, nbd-client -l, qemu-nbd --list. */

import t, { type Test } from 'tap';
import {
  type Daemon,
  type EngineName,
  eachEngine,
  linear,
  MiB,
  Scratch,
  sectorsOf,
  withDaemon,
} from './harness.js';
import { fail, run, succeed } from './programs.js';

interface NbdinfoExport {
  'export-name': string;
  description: string;
  contexts: string[];
  'export-size': number;
  block_size_minimum: number;
  block_size_preferred: number;
  block_size_maximum: number;
  [key: string]: unknown;
}

interface Nbdinfo {
  protocol: string;
  TLS: boolean;
  structured: boolean;
  exports: NbdinfoExport[];
}

interface Extent {
  offset: number;
  length: number;
  type: number;
  description: string;
}

const fileBytes = 16 * MiB;

/** What an export over a file answers to `nbdinfo --can`. The node engine has no fallocate. */
function abilities(engine: EngineName): Record<string, boolean> {
  const native = engine === 'uring';
  return {
    connect: true,
    read: true,
    write: true,
    zero: true,
    flush: true,
    fua: true,
    'multi-conn': true,
    cache: true,
    df: true,
    'structured-reply': true,
    trim: native,
    'fast-zero': native,
  };
}

/** Whether nbdinfo says yes (exit code 0) or no (2). */
async function asks(question: string, word: string, uri: string): Promise<boolean> {
  const { code, stderr } = await run('nbdinfo', [question, word, uri]);
  if (code !== 0 && code !== 2) throw new Error(`nbdinfo ${question} ${word}: ${code} ${stderr}`);
  return code === 0;
}

async function found(uri: string, can: readonly string[]): Promise<Record<string, boolean>> {
  const answers: Record<string, boolean> = {};
  for (const word of can) answers[word] = await asks('--can', word, uri);
  return answers;
}

async function map(uri: string): Promise<Extent[]> {
  return JSON.parse(await succeed('nbdinfo', ['--map', '--json', uri]));
}

function devices(files: Scratch): Record<string, string> {
  const holes = files.sparse('holes.img', fileBytes);
  const sectors = sectorsOf(fileBytes);
  return {
    disk: linear(files.pattern('disk.img', fileBytes, 1), fileBytes),
    holes: linear(holes, fileBytes),
    'with blank': `0 ${sectors} memory`,
    größe: '0 8 zero',
    mixed: `0 8 linear ${holes} 0\n8 8 zero\n16 8 error\n24 8 memory`,
  };
}

eachEngine(t, 'nbdinfo', ['nbdinfo'], async (t, engine) => {
  const files = new Scratch(t);
  await withDaemon(t, { engine, devices: devices(files) }, async (daemon) => {
    await t.test('lists every device', async (t) => listsAll(t, daemon));
    await t.test('describes one export', async (t) => describesOne(t, daemon));
    await t.test('tells what an export can do', async (t) => {
      const can = abilities(engine);
      t.strictSame(await found(daemon.uri('disk'), Object.keys(can)), can, 'a file');
      const memory = { ...can, trim: true, 'fast-zero': true };
      t.strictSame(await found(daemon.uri('with blank'), Object.keys(can)), memory, 'memory');
      const least = { trim: true, 'fast-zero': true };
      t.strictSame(await found(daemon.uri('größe'), Object.keys(least)), least, 'zero');
      const mixed = {
        trim: engine === 'uring',
        'fast-zero': engine === 'uring',
      };
      t.strictSame(await found(daemon.uri('mixed'), Object.keys(mixed)), mixed, 'several targets');
    });
    await t.test('tells what an export is', async (t) => {
      const uri = daemon.uri('with blank');
      for (const word of ['read-only', 'rotational', 'tls']) {
        t.equal(await asks('--is', word, uri), false, word);
      }
    });
    await t.test('tells the size', async (t) => {
      t.equal(await succeed('nbdinfo', ['--size', daemon.uri('disk')]), `${fileBytes}\n`);
      t.equal(await succeed('nbdinfo', ['--size', daemon.tcpUri('größe')]), '4096\n');
    });
    await t.test('maps data and holes', async (t) => mapsExtents(t, daemon));
    await t.test('gets told of an export that does not exist', async (t) => {
      t.match(await fail('nbdinfo', [daemon.uri('nosuch')]), /No such file or directory/);
      t.match(await fail('nbdinfo', [daemon.uri()]), /No such file or directory/, 'no default');
    });
  });
});

async function listsAll(t: Test, daemon: Daemon): Promise<void> {
  const all: Nbdinfo = JSON.parse(await succeed('nbdinfo', ['--list', '--json', daemon.uri()]));
  const names = all.exports.map((one) => one['export-name']).sort();
  t.strictSame(names, ['disk', 'größe', 'holes', 'mixed', 'with blank']);
  t.match(all, { protocol: 'newstyle-fixed', TLS: false, structured: true });
  t.match(await succeed('nbdinfo', ['--list', daemon.uri()]), /export="with blank":/);
}

async function describesOne(t: Test, daemon: Daemon): Promise<void> {
  const uri = daemon.uri('mixed');
  const info: Nbdinfo = JSON.parse(await succeed('nbdinfo', ['--json', '--no-content', uri]));
  t.match(info.exports, [
    {
      'export-name': 'mixed',
      description: 'linear, zero, error, memory',
      contexts: ['base:allocation', 'qemu:allocation-depth'],
      'export-size': 32 * 512,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 64 * MiB,
    },
  ]);
}

async function mapsExtents(t: Test, daemon: Daemon): Promise<void> {
  const data = { offset: 0, length: fileBytes, type: 0, description: 'data' };
  const hole = {
    offset: 0,
    length: fileBytes,
    type: 3,
    description: 'hole,zero',
  };
  t.strictSame(await map(daemon.uri('disk')), [data]);
  // Without SEEK_HOLE everything is data, which is always a safe answer.
  const honest = daemon.engine === 'uring' ? hole : data;
  t.strictSame(await map(daemon.uri('holes')), [honest]);
  t.strictSame(await map(daemon.tcpUri('with blank')), [hole]);
  const totals = await succeed('nbdinfo', ['--map', '--totals', daemon.uri('with blank')]);
  t.match(totals, /^\s*16777216\s+100\.0%\s+3 hole,zero\s*$/);
  const zeroAt = daemon.engine === 'uring' ? 0 : 4096;
  t.match(await map(daemon.uri('mixed')), [
    ...(zeroAt === 0 ? [] : [{ offset: 0, length: 4096, type: 0 }]),
    { offset: zeroAt, length: 8192 - zeroAt, type: 3 },
    { offset: 8192, length: 4096, type: 0 },
    { offset: 12288, length: 4096, type: 3 },
  ]);
}

eachEngine(t, 'default export', ['nbdinfo'], async (t, engine) => {
  const files = new Scratch(t);
  const image = files.pattern('an image.raw', fileBytes, 2);
  const canonical = async (daemon: Daemon): Promise<[string, number]> => {
    const text = await succeed('nbdinfo', ['--json', '--no-content', daemon.uri()]);
    const [one] = (JSON.parse(text) as Nbdinfo).exports;
    return [one?.['export-name'] ?? '', one?.['export-size'] ?? 0];
  };
  await t.test('is the image, under the name of its file', async (t) => {
    const small = { small: '0 8 memory' };
    await withDaemon(t, { engine, devices: small, args: [image] }, async (daemon) => {
      t.strictSame(await canonical(daemon), ['an image.raw', fileBytes]);
      const size = await succeed('nbdinfo', ['--size', daemon.uri('an image.raw')]);
      t.equal(size, `${fileBytes}\n`);
    });
  });
  await t.test('is the image, under another name', async (t) => {
    await withDaemon(t, { engine, args: ['-e', 'root', image] }, async (daemon) => {
      t.strictSame(await canonical(daemon), ['root', fileBytes]);
      await fail('nbdinfo', [daemon.uri('an image.raw')]);
    });
  });
  await t.test('is the device that is named', async (t) => {
    const two = { one: '0 8 memory', two: '0 16 memory' };
    await withDaemon(t, { engine, devices: two, args: ['-e', 'two'] }, async (daemon) => {
      t.strictSame(await canonical(daemon), ['two', 8192]);
    });
  });
  await t.test('is the only device', async (t) => {
    await withDaemon(t, { engine, devices: { one: '0 8 memory' } }, async (daemon) => {
      t.strictSame(await canonical(daemon), ['one', 4096]);
    });
  });
});

eachEngine(t, 'read-only export', ['nbdinfo', 'nbdcopy'], async (t, engine) => {
  const files = new Scratch(t);
  const image = files.pattern('disk.img', fileBytes, 3);
  await withDaemon(t, { engine, args: ['-r', image] }, async (daemon) => {
    t.equal(await asks('--is', 'read-only', daemon.uri()), true);
    const none = { write: false, zero: false, trim: false, 'fast-zero': false };
    const answers = await found(daemon.uri(), [...Object.keys(none), 'flush', 'multi-conn']);
    t.strictSame(answers, { ...none, flush: true, 'multi-conn': true });
    t.match(await fail('nbdcopy', [image, daemon.uri()]), /read-only/);
  });
});

eachEngine(t, 'other lists', ['nbd-client', 'qemu-nbd'], async (t, engine) => {
  const files = new Scratch(t);
  await withDaemon(t, { engine, devices: devices(files) }, async (daemon) => {
    await t.test('nbd-client -l', async (t) => {
      const lines = ['disk: linear', 'holes: linear', 'mixed: linear, zero, error, memory'];
      const overTcp = await succeed('nbd-client', ['-l', '127.0.0.1', `${daemon.port}`]);
      const overUnix = await succeed('nbd-client', ['-l', '-unix', daemon.socket]);
      for (const line of lines) {
        t.ok(overTcp.split('\n').includes(line), `${line} over tcp`);
        t.ok(overUnix.split('\n').includes(line), `${line} over unix`);
      }
    });
    await t.test('qemu-nbd --list', async (t) => {
      const text = await succeed('qemu-nbd', ['--list', '-k', daemon.socket]);
      t.match(text, /^exports available: 5$/m);
      const flags = /export: 'with blank'\n(?: .*\n)*? {2}flags: (0x[0-9a-f]+)/.exec(text)?.[1];
      // All but read-only, rotational, resize and payload of BLOCK_STATUS.
      t.equal(flags, '0xded');
      t.match(text, /export: 'größe'\n {2}description: zero\n {2}size: {2}4096\n/);
      t.match(text, /contexts: 2\n {3}base:allocation\n {3}qemu:allocation-depth\n/);
    });
  });
});
