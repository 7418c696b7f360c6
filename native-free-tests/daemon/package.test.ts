/** What the package has besides the programs: shell completion, and units for systemd. */

import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { serviceControlPath } from '../../src/control/control-path.js';
import { commands } from '../../src/ctl/commands.js';
import { completionCommand } from '../../src/ctl/completion.js';
import { optionRows } from '../../src/daemon/option-table.js';
import { mapperctl } from '../interop/mode-daemon.js';
import { requires, run, succeed } from '../interop/programs.js';

const folder = mkdtempSync(join(tmpdir(), 'mapperd-package-'));
t.teardown(() => rmSync(folder, { recursive: true }));

/** Completes the last word as bash would, with a daemon that has two devices. */
const script = `
source "$1"; shift
mapperctl() { printf '%s\\n' "$*" >>"$heard"; printf '%s\\t(open: 0)\\n' vol0 'my disk'; }
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
"_$1"
[[ \${#COMPREPLY[@]} -eq 0 ]] || printf '%s\\n' "\${COMPREPLY[@]}"
`;

t.test('completion for bash', { skip: requires('bash') }, async (t) => {
  const file = join(folder, 'completion');
  const heard = join(folder, 'heard');
  writeFileSync(heard, '');
  writeFileSync(file, await succeed(process.execPath, [mapperctl, 'completion', 'bash']));

  const completed = async (...words: string[]): Promise<string[]> => {
    const setting = `heard=${heard}; cd ${folder};`;
    const text = await succeed('bash', ['-c', setting + script, 'bash', file, ...words]);
    return text.split('\n').slice(0, -1);
  };

  t.test('is what bash can read, and says nothing of its own', async (t) => {
    t.strictSame(await run('bash', ['-u', file]), {
      code: 0,
      signal: null,
      stdout: '',
      stderr: '',
    });
    const registered = await succeed('bash', ['-c', `source ${file}; complete -p`]);
    t.match(registered, /^complete -F _mapperd mapperd$/m);
    t.match(registered, /^complete -F _mapperctl mapperctl$/m);
  });

  t.test('knows the options of the daemon, and what stands behind them', async (t) => {
    t.strictSame(await completed('mapperd', '--tls-'), [
      '--tls-certificates',
      '--tls-psk',
      '--tls-verify-peer',
    ]);
    t.strictSame(await completed('mapperd', '--tls', ''), ['off', 'on', 'require']);
    t.strictSame(await completed('mapperd', '--tls', '='), ['off', 'on', 'require']);
    t.strictSame(await completed('mapperd', '--tls', '=', 'r'), ['require']);
    t.strictSame(await completed('mapperd', '-r', '--engine', 'u'), ['uring']);
    t.ok((await completed('mapperd', '-u', 'no')).includes('nobody'));
    t.ok((await completed('mapperd', '--run', 'nbdi')).every((word) => word.startsWith('nbdi')));
    t.strictSame(await completed('mapperd', '-p', ''), [], 'nobody knows');
    t.strictSame(await completed('mapperd', 'comp'), ['completion'], 'an image');
    const all = await completed('mapperd', '-');
    const words = optionRows.flatMap(({ name, short }) => [
      `--${name}`,
      ...(short ? [`-${short}`] : []),
    ]);
    t.strictSame(all.sort(), words.sort());
  });

  t.test('knows every command, and its options', async (t) => {
    const names = commands.map(({ name }) => name);
    t.strictSame((await completed('mapperctl', '')).sort(), [...names, 'help'].sort());
    t.strictSame(await completed('mapperctl', '-c', 'x', 'sus'), ['suspend']);
    t.strictSame(await completed('mapperctl', 'help', 'sus'), ['suspend']);
    for (const { name, alias, options = {} } of commands) {
      for (const word of alias === undefined ? [name] : [name, alias]) {
        const wanted = ['--json', ...Object.keys(options).map((option) => `--${option}`)];
        const found = await completed('mapperctl', word, '--');
        t.strictSame(
          wanted.filter((option) => !found.includes(option)),
          [],
          word,
        );
      }
    }
  });

  t.test('asks the daemon for its devices', async (t) => {
    t.strictSame(await completed('mapperctl', 'suspend', ''), ['vol0', 'my\\ disk']);
    t.strictSame(await completed('mapperctl', '-c', '/x', 'table', 'vol0', 'my\\ d'), [
      'my\\ disk',
    ]);
    t.strictSame(readFileSync(heard, 'utf8').trim().split('\n'), ['ls', '-c /x ls']);
    t.strictSame(await completed('mapperctl', 'create', 'comp'), ['completion'], 'or a file');
    t.strictSame(await completed('mapperctl', 'snapshot', '--cow', 'comp'), ['completion']);
    t.strictSame(await completed('mapperctl', 'snapshot', '--size', ''), []);
    t.strictSame(await completed('mapperctl', 'ls', ''), []);
    t.strictSame(await completed('mapperctl', 'regions', ''), ['pack', 'unpack', 'show', 'move']);
    t.strictSame(await completed('mapperctl', 'regions', 'show', 'v'), ['vol0']);
  });

  t.test('is for bash alone', async (t) => {
    const { code, stderr } = await run(process.execPath, [mapperctl, 'completion', 'fish']);
    const text = 'mapperctl: completion: found shell "fish", wanted bash\n';
    t.strictSame({ code, stderr }, { code: 1, stderr: text });
    t.equal(completionCommand(() => []).offline?.([]), true, 'without a daemon');
  });
});

t.test('units for systemd', async (t) => {
  const units = join(process.cwd(), 'src/package/systemd');
  const service = readFileSync(join(units, 'mapperd.service'), 'utf8');

  t.test('are what systemd takes', { skip: requires('systemd-analyze') }, async (t) => {
    // The program is not installed where the tests run.
    const paths = ['mapperd.service', 'mapperd.socket'].map((name) => join(folder, name));
    writeFileSync(paths[0] as string, service.replace('/usr/bin/mapperd ', '/bin/true '));
    copyFileSync(join(units, 'mapperd.socket'), paths[1] as string);
    const found = await run('systemd-analyze', ['verify', '--man=no', ...paths]);
    t.match(found, { code: 0, stdout: '', stderr: '' });
    const security = ['security', '--offline=yes', '--threshold=20', paths[0] as string];
    t.match(await run('systemd-analyze', security), { code: 0 }, 'exposure at most 2.0');
    const calls = await succeed('systemd-analyze', ['syscall-filter', '@aio']);
    for (const call of ['setup', 'enter', 'register']) t.match(calls, `io_uring_${call}`);
  });

  t.test('have their places where the control command looks', async (t) => {
    const directory = /^RuntimeDirectory=(.*)$/m.exec(service)?.[1];
    t.match(service, / --control \$\{RUNTIME_DIRECTORY\}\/control\.sock /);
    t.equal(`/run/${directory}/control.sock`, serviceControlPath);
    t.match(service, /^Type=notify$/m);
    t.match(service, /^SystemCallFilter=@system-service @aio$/m);
  });
});
