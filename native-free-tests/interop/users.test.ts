/** Another user for the daemon, and what the service manager is told: outsiders look at both. */

import { chmodSync, chownSync, existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import t, { type Test } from 'tap';
import { program } from '../../src/daemon/notify.js';
import { MiB, Scratch } from './harness.js';
import {
  commandOf,
  ModeDaemon,
  mapperctl,
  mapperd,
  onEachEngine,
  runMapperd,
  until,
} from './mode-daemon.js';
import { launch, requires, run, succeed } from './programs.js';

const nobody = 65_534;
const imageBytes = 4 * MiB;
const notRoot = process.geteuid?.() === 0 ? false : 'only root can become another user';

/** What the threads of a process say of themselves, each answer once. */
function threadsOf(pid: number, field: 'Uid' | 'Gid' | 'Groups'): string[] {
  const all = readdirSync(`/proc/${pid}/task`).map((task) => {
    const status = readFileSync(`/proc/${pid}/task/${task}/status`, 'latin1');
    const found = new RegExp(`^${field}:[ \\t]*(.*)$`, 'm').exec(status)?.[1] ?? 'nothing';
    return found.trim().split(/\s+/).join(' ');
  });
  return [...new Set(all)];
}

const asNobody = ['--reuid=65534', '--regid=65534', '--clear-groups'];

/** A folder that others can look into, with a file for everybody there is. */
function publicFiles(files: Scratch): { own: string; readable: string; secret: string } {
  chmodSync(files.path, 0o755);
  const own = files.pattern('own.img', imageBytes, 1);
  const readable = files.pattern('readable.img', imageBytes, 2);
  const secret = files.pattern('secret.img', imageBytes, 3);
  chownSync(own, nobody, nobody);
  chmodSync(own, 0o600);
  chmodSync(readable, 0o644);
  chmodSync(secret, 0o600);
  return { own, readable, secret };
}

onEachEngine(t, 'another user', ['nbdinfo', 'setpriv'], async (t, engine, files) => {
  if (notRoot !== false) return void t.pass(notRoot, { skip: notRoot });
  const { own, readable, secret } = publicFiles(files);
  const [socket, control, state] = [files.file('nbd'), files.file('control'), files.file('state')];
  const places = ['-U', socket, '--control', control, '--state', state];
  const command = commandOf(engine, '-u', 'nobody', ...places, own);
  const ctl = (...words: string[]): string[] => [mapperctl, '-c', control, ...words];
  const linear = `0 ${imageBytes / 512} linear`;

  await t.test('has all threads, the sockets and the state directory', async (t) => {
    const daemon = await ModeDaemon.start(t, files, command);
    const { pid } = daemon;
    const id = `${nobody} ${nobody} ${nobody} ${nobody}`;
    await until('it has changed', () => daemon.stderr.includes('"msg":"ready"'));
    t.strictSame(threadsOf(pid, 'Uid'), [id]);
    const gid = (await succeed('id', ['-g', 'nobody'])).trim();
    t.strictSame(threadsOf(pid, 'Gid'), [`${gid} ${gid} ${gid} ${gid}`]);
    t.strictSame(threadsOf(pid, 'Groups'), [(await succeed('id', ['-G', 'nobody'])).trim()]);
    t.match(daemon.stderr, `"uid":${nobody},"gid":${gid}`);
    for (const path of [socket, control]) {
      t.match(statSync(path), { uid: nobody, mode: 0o140_600 }, path);
    }
    t.match(statSync(state), { uid: nobody, mode: 0o040_700 });
    const uri = `nbd+unix:///?socket=${socket}`;
    t.equal(await succeed('setpriv', [...asNobody, 'nbdinfo', '--size', uri]), `${imageBytes}\n`);

    await succeed(
      process.execPath,
      ctl('create', 'kept', '--table', `${linear} ${readable} 0`, '-r'),
    );
    t.match(statSync(join(state, 'kept.table')), { uid: nobody });
    await succeed(process.execPath, ctl('snapshot', 'own.img', 'snap', '--transient'));
    const refused = ctl('create', 'refused', '--table', `${linear} ${secret} 0`);
    t.match(await run(process.execPath, refused), { code: 1, stderr: /EACCES/ });
    t.match(await daemon.stop(), { code: 0 });
    t.match(threadsLeft(pid), []);
  });

  await t.test('finds it all again, over what it could not remove', async (t) => {
    t.ok(existsSync(socket), 'the folder is not its own');
    const daemon = await ModeDaemon.start(t, files, command);
    const info = await succeed('nbdinfo', ['--size', `nbd+unix:///kept?socket=${socket}`]);
    t.equal(info, `${imageBytes}\n`);
    t.match(await daemon.stop(), { code: 0 });
  });
});

function threadsLeft(pid: number): string[] {
  return existsSync(`/proc/${pid}/task`) ? threadsOf(pid, 'Uid') : [];
}

t.test('a user or group', { skip: notRoot || requires('nbdinfo', 'setpriv') }, async (t) => {
  const files = new Scratch(t);
  const { readable, secret } = publicFiles(files);
  const groups = 'grep -E "^(Uid|Gid|Groups)" /proc/self/status';
  const told = async (t: Test, ...args: string[]): Promise<string[]> => {
    const output = await runMapperd('node', '--run', groups, ...args, readable);
    t.match(output, { code: 0 });
    return output.stdout
      .trimEnd()
      .split('\n')
      .map((line) => line.split(/\s+/).slice(1).join(' ').trim());
  };
  const four = (id: number): string => `${id} ${id} ${id} ${id}`;

  await t.test('may be a number that nobody has, or a group alone', async (t) => {
    const numbers = await told(t, '-u', '12345', '-g', '54321');
    t.strictSame(numbers, [four(12_345), four(54_321), '54321']);
    t.strictSame(await told(t, '--group=54321'), [four(0), four(54_321), '54321']);
  });

  await t.test('leaves no private folder behind', async (t) => {
    const command = 'echo "$unixsocket"; ls -ld "$(dirname "$unixsocket")"';
    const { code, stdout } = await runMapperd('node', '-u', 'nobody', '--run', command, readable);
    t.equal(code, 0);
    const [socket = '', folder = ''] = stdout.split('\n');
    t.match(folder, /^drwx------ +\d+ nobody /);
    // A folder that is nobody's own, and not as /tmp is, keeps it, empty.
    t.equal(
      existsSync(dirname(socket)),
      (statSync(dirname(dirname(socket))).mode & 0o1002) !== 0o1002,
    );
    t.notOk(existsSync(socket));
  });

  await t.test('opens the image as it will open all else', async (t) => {
    const uri = '-s "$uri"'.replace('-s', '--is read-only');
    const isReadOnly = (...args: string[]) =>
      runMapperd('node', '--run', `nbdinfo ${uri}`, ...args);
    t.match(await isReadOnly('-u', 'nobody', readable), { code: 0, stderr: /served read-only/ });
    t.match(await isReadOnly(readable), { code: 2 });
    const refused = await runMapperd('node', '-u', 'nobody', '--run', 'true', secret);
    t.match(refused, { code: 1, stderr: /^mapperd: device "secret\.img": .*EACCES\n$/m });
  });

  await t.test('is refused when there is none, or when we may not', async (t) => {
    const failure = async (...args: string[]): Promise<string> => {
      const { code, stderr } = await runMapperd('node', ...args, '--run', 'true', readable);
      t.equal(code, 1);
      return stderr;
    };
    t.equal(
      await failure('-u', 'no-such-user'),
      'mapperd: --user: found "no-such-user", wanted a user of this system\n',
    );
    t.match(await failure('-g', 'no:group'), /^mapperd: --group: found "no:group", wanted a group/);
    t.match(await failure('-u', '12345'), /^mapperd: --user: found 12345, who is in no group/);
    const isReachable = ['test', '-r', mapperd];
    if ((await run('setpriv', [...asNobody, ...isReachable])).code !== 0) return;
    const start = (...args: string[]) =>
      run('setpriv', [...asNobody, ...commandOf('node', ...args, '--run', 'true', readable)]);
    t.match(await start('-u', 'root'), { code: 1, stderr: /wanted root, who alone may\n$/ });
    t.match(await start('-u', 'nobody'), { code: 0 });
  });
});

/** Prints who sent each message, and its lines; descriptors that come are closed, as an answer. */
const manager = `
import array, json, os, socket, struct, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
s.bind(sys.argv[1].replace("@", "\\0", 1))
print("bound", flush=True)
while True:
    data, ancillary, _, _ = s.recvmsg(4096, 1024)
    for _, kind, d in ancillary:
        if kind == socket.SCM_RIGHTS:
            for fd in array.array("i", d):
                os.close(fd)
    pid = [struct.unpack("iii", d)[0] for _, kind, d in ancillary if kind == socket.SCM_CREDENTIALS]
    print(json.dumps({"pid": pid[0], "lines": data.decode().split("\\n")}), flush=True)
    if b"STOPPING=1" in data:
        break
`;

class Manager {
  said = '';

  static async at(t: Test, path: string): Promise<Manager> {
    const heard = new Manager();
    const child = launch('/usr/bin/python3', ['-I', '-c', manager, path]);
    child.stdout?.on('data', (chunk) => (heard.said += chunk));
    t.teardown(() => child.kill('SIGKILL'));
    await until('the manager listens', () => heard.said.startsWith('bound\n'));
    return heard;
  }

  get messages(): { pid: number; lines: string[] }[] {
    const lines = this.said.split('\n').slice(1, -1);
    return lines.map((line) => JSON.parse(line));
  }
}

t.test('the service manager', { skip: requires('python3-libnbd') }, async (t) => {
  const files = new Scratch(t);

  await t.test('is told by ourselves when we serve and when we end', async (t) => {
    for (const path of [files.file('notify'), `@mapperd-test-${process.pid}`]) {
      const heard = await Manager.at(t, path);
      const args = ['-U', files.file('s'), '--control', 'none', '--device', 'a: 0 8 zero'];
      const around = { environment: { NOTIFY_SOCKET: path } };
      const daemon = await ModeDaemon.start(t, files, commandOf('node', ...args), around);
      await until('the manager is told', () => heard.messages.length === 1);
      await daemon.stop();
      await until('the manager is told of the end', () => heard.messages.length === 2);
      const { pid } = daemon;
      const status = `STATUS=serving at nbd+unix:///?socket=${files.file('s')}`;
      t.strictSame(heard.messages, [
        { pid, lines: [status, 'READY=1'] },
        { pid, lines: ['STATUS=finishing what is in flight', 'STOPPING=1'] },
      ]);
    }
  });

  await t.test('may be away', async (t) => {
    const args = ['-U', files.file('t'), '--control', 'none', '--device', 'a: 0 8 zero'];
    const around = { environment: { NOTIFY_SOCKET: files.file('nobody') } };
    const daemon = await ModeDaemon.start(t, files, commandOf('node', ...args), around);
    t.match(await daemon.stop(), { code: 0, stderr: /service manager cannot be told/ });
  });

  await t.test(
    'is told by a program where we cannot',
    { skip: requires('systemd-notify') },
    async (t) => {
      const path = files.file('by-program');
      const heard = await Manager.at(t, path);
      await program(path)('STATUS=two words\nREADY=1');
      const [message] = heard.messages;
      t.ok(message?.lines.includes('STATUS=two words'));
      t.ok(message?.lines.includes('READY=1'));
      t.ok(message?.lines.includes(`MAINPID=${process.pid}`));
      await t.rejects(async () => program(files.file('nobody'))('READY=1'));
    },
  );
});
