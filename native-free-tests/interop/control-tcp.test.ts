/** Control over TCP and the paths that its clients may have opened, with the commands themselves. */

import { existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { ControlClient } from '../../src/ctl/client.js';
import { MiB } from './harness.js';
import { commandOf, ModeDaemon, mapperctl, onEachEngine, runMapperd } from './mode-daemon.js';
import { fail, succeed } from './programs.js';

const token = 'bYk2Xb0v2gG8q5yC0n1sQ4l7w9z3d6f8';
const bytes = 4 * MiB;

/** The line that tells where control is. */
function controlOf(daemon: ModeDaemon): string {
  const line = daemon.stderr.split('\n').find((one) => one.includes('"msg":"ready"')) ?? '{}';
  return (JSON.parse(line) as { controlTcp: string[] }).controlTcp[0] as string;
}

onEachEngine(t, 'control over TCP', [], async (t, engine, files) => {
  const tokenFile = files.file('token');
  writeFileSync(tokenFile, `${token}\n`, { mode: 0o600 });
  const memory = ['--device', 'disk: 0 2048 memory', '-U', files.file('nbd.sock')];
  const tcp = ['--control', 'tcp://127.0.0.1:0'];

  await t.test('with a token, beside the unix socket or without it', async (t) => {
    const path = files.file('control.sock');
    const more = [...memory, ...tcp, '--control-token-file', tokenFile, '--control', path];
    const daemon = await ModeDaemon.start(t, files, commandOf(engine, ...more));
    await daemon.serving();
    const where = controlOf(daemon);
    const over = (...words: string[]): string[] => [mapperctl, '-c', where, ...words];
    const shown = ['--token-file', tokenFile];
    t.match(await succeed(process.execPath, over(...shown, 'ls')), /^disk\b/);
    t.match(await succeed(process.execPath, [mapperctl, '-c', path, 'ls']), /^disk\b/);
    t.match(await fail(process.execPath, over('ls')), /refuses: found no token/);
    const wrong = files.file('wrong');
    writeFileSync(wrong, token.toUpperCase(), { mode: 0o600 });
    const said = await fail(process.execPath, over('--token-file', wrong, 'ls'));
    t.match(said, /^mapperctl: the daemon at "tcp:.*" refuses: found a wrong token/);
    await daemon.stop();
    t.notOk(daemon.stderr.includes(token), 'the log does not have it');
  });

  await t.test('is refused without a good token file', async (t) => {
    const refused = async (...more: string[]): Promise<string> => {
      const { code, stderr } = await runMapperd(engine, ...memory, ...more);
      t.equal(code, 1);
      return stderr;
    };
    t.match(await refused(...tcp), /found tcp:\/\/ without --control-token-file/);
    const open = files.file('open');
    writeFileSync(open, token, { mode: 0o644 });
    t.match(await refused(...tcp, '--control-token-file', open), /mode 0644.*wanted 0600/);
    t.match(await refused(...tcp, '--control-token-file', files.file('none')), /not found/);
    t.match(await refused('--control-token-file', tokenFile), /found no --control tcp:/);
  });
});

onEachEngine(t, 'allowed paths', [], async (t, engine, files) => {
  for (const name of ['in', 'out', 'state']) mkdirSync(files.file(name));
  const image = files.sparse('out/image.img', bytes);
  const inside = files.sparse('in/disk.img', bytes);
  const outside = files.sparse('out/disk.img', bytes);
  symlinkSync(outside, files.file('in/link.img'));
  const path = files.file('control.sock');
  const options = [
    ...['-U', files.file('nbd.sock'), '--control', path, '--state', files.file('state')],
    ...['--allow-path', files.file('in'), image],
  ];
  let daemon = await ModeDaemon.start(t, files, commandOf(engine, ...options));
  let client = await ControlClient.connect([path]);
  const linear = (file: string): string => `0 8192 linear ${file} 0`;

  await t.test('hold for tables, snapshots and copies', async (t) => {
    const done = { name: 'vol', table: linear(inside) };
    await client.call('create', done);
    await client.call('create', { name: 'first', table: linear(image) });
    const refused = async (what: string, work: Promise<unknown>): Promise<void> => {
      const text = / is outside the paths that are allowed \(--allow-path\)$/;
      await t.rejects(work, { errno: 1, message: text }, what);
    };
    const outsiders = [
      ...[outside, files.file('in/link.img'), files.file('in/../out/disk.img')],
      ...[`file://${outside}?direct=1`, '/etc/passwd', '/etc/there-is-no-such-file'],
    ];
    for (const file of outsiders) {
      await refused(file, client.call('create', { name: 'bad', table: linear(file) }));
    }
    await refused('load', client.call('load', { name: 'vol', table: linear(outside) }));
    const snapshot = (name: string, more: object): Promise<unknown> =>
      client.call('snapshot', { origin: 'vol', name, ...more });
    await refused('a COW that is made', snapshot('bad', { cow: files.file('out/new.cow') }));
    await refused('a COW that is there', snapshot('bad', { cow: outside, wipe: true }));
    await snapshot('snap', {});
    await snapshot('other', { cow: files.file('in/new.cow') });
    const copy = (source: string, destination: string): Promise<unknown> =>
      client.call('copy', { source, destinations: [destination] });
    await refused('a source', copy(outside, files.file('in/copy.img')));
    await refused('a copy that is made', copy('dm:vol', files.file('out/copy.img')));
    await refused('a copy into what is there', copy('dm:vol', files.file('in/link.img')));
    await copy('dm:vol', files.file('in/copy.img'));
    t.notOk(existsSync(files.file('out/copy.img')));
    t.notOk(existsSync(files.file('out/new.cow')));
    await client.close();
  });

  await t.test('hold for what a client has put into the state directory', async (t) => {
    await daemon.stop();
    writeFileSync(files.file('state/sly.table'), `0 8192 linear ${outside} 0\n`);
    daemon = await ModeDaemon.start(t, files, commandOf(engine, ...options));
    await daemon.serving();
    client = await ControlClient.connect([path]);
    const names = (await client.call('ls', {})).map(({ name }) => name);
    t.strictSame(names.sort(), ['first', 'image.img', 'other', 'snap', 'vol', 'vol-real']);
    t.match(daemon.stderr, /sly\.table.*outside the paths/);
    await client.close();
    await daemon.stop();
  });

  const { code, stderr } = await runMapperd(engine, '--allow-path', files.file('none'), image);
  t.equal(code, 1);
  t.match(stderr, /^mapperd: --allow-path ".*none": ENOENT/);
});
