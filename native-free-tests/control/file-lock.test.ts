/** Locks of files between daemons. Two FileLocks stand for two processes: they share nothing. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { lstatSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { fileReaders } from '../../src/base/limits.js';
import { fileIdentity } from '../../src/engine/file-facts.js';
import { FileLocks } from '../../src/engine/file-lock.js';
import { loadFlock } from '../../src/engine/uring/flock.js';
import { requires } from '../interop/programs.js';

let files = 0;
/** An identity that nobody else has, nor another run of this. */
const fresh = (): string => `test:${process.pid}:${files++}`;

t.test('a file that is written is for one process', async (t) => {
  const [one, two] = [new FileLocks(null), new FileLocks(null)];
  const file = fresh();
  const release = one.take('/a', file, true);
  const inUse = { code: 'EBUSY', message: `/a is in use by process ${process.pid}` };
  t.throws(() => two.take('/a', file, true), inUse);
  t.throws(() => two.take('/a', file, false), inUse);
  two.take('/b', fresh(), true)();
  release();
  const second = two.take('/a', file, true);
  t.throws(() => one.take('/a', file, false), inUse);
  second();
});

t.test('a file that is read is for all who read', async (t) => {
  const [one, two, three] = [new FileLocks(null), new FileLocks(null), new FileLocks(null)];
  const file = fresh();
  const first = one.take('/a', file, false);
  const second = two.take('/a', file, false);
  t.throws(() => three.take('/a', file, true), { code: 'EBUSY' });
  first();
  t.throws(() => three.take('/a', file, true), { code: 'EBUSY' });
  second();
  const written = three.take('/a', file, true);
  t.throws(() => one.take('/a', file, false), { code: 'EBUSY' });
  written();
});

t.test('within a process a file is locked once, until its last user has gone', async (t) => {
  const [one, two] = [new FileLocks(null), new FileLocks(null)];
  const file = fresh();
  const users = [true, false, true, false].map((write) => one.take('/a', file, write));
  for (const release of users) {
    t.throws(() => two.take('/a', file, false), { code: 'EBUSY' });
    release();
  }
  two.take('/a', file, true)();
});

t.test('a reader becomes a writer if it is alone, and otherwise goes on reading', async (t) => {
  const [one, two] = [new FileLocks(null), new FileLocks(null)];
  const file = fresh();
  const reads = one.take('/a', file, false);
  const other = two.take('/a', file, false);
  t.throws(() => one.take('/a', file, true), { code: 'EBUSY' });
  new FileLocks(null).take('/a', file, false)();
  other();
  const writes = one.take('/a', file, true);
  t.throws(() => two.take('/a', file, false), { code: 'EBUSY' });
  writes();
  reads();
  two.take('/a', file, true)();
});

t.test('as many read as there are places', async (t) => {
  const file = fresh();
  const held = Array.from({ length: fileReaders }, () =>
    new FileLocks(null).take('/a', file, false),
  );
  t.throws(() => new FileLocks(null).take('/a', file, false), { code: 'EBUSY' });
  held[3]?.();
  held[3] = new FileLocks(null).take('/a', file, false);
  for (const release of held) release();
  new FileLocks(null).take('/a', file, true)();
});

t.test('what a killed process had is free at once, and its pid is told before', async (t) => {
  const file = fresh();
  const module = fileURLToPath(new URL('../../src/engine/file-lock.js', import.meta.url));
  const program = `
    import { FileLocks } from ${JSON.stringify(module)};
    new FileLocks(null).take('/a', process.argv[1], true);
    process.stdout.write('locked');
    setInterval(() => {}, 1e6);
  `;
  const { NODE_OPTIONS: _hooks, ...env } = process.env;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program, file], { env });
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  const locks = new FileLocks(null);
  t.throws(() => locks.take('/a', file, false), {
    code: 'EBUSY',
    message: `/a is in use by process ${child.pid}`,
  });
  child.kill('SIGKILL');
  await once(child, 'exit');
  locks.take('/a', file, true)();
});

t.test('a file is locked by flock as well', { skip: requires('flock') }, async (t) => {
  const flock = await loadFlock();
  if (flock === null) {
    t.pass('without koffi there is no flock');
    return;
  }
  const folder = mkdtempSync(join(tmpdir(), 'mapperd-lock-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'file');
  writeFileSync(path, '');
  const file = fileIdentity(lstatSync(path, { bigint: true }));
  /** Another program, which has other names or none, as one in a container. */
  const outside = async (how: 'shared' | 'exclusive'): Promise<(() => Promise<void>) | null> => {
    const child = spawn('flock', [`--${how}`, '--nonblock', path, 'sh', '-c', 'echo; exec cat']);
    t.teardown(() => child.kill('SIGKILL'));
    const ended = once(child, 'close');
    const locked = await Promise.race([once(child.stdout, 'data').then(() => true), ended]);
    return locked === true
      ? async () => {
          child.stdin.end();
          await ended;
        }
      : null;
  };
  const locks = new FileLocks(flock);
  const locked = {
    code: 'EBUSY',
    message: `${path} is in use by another process, which has locked it`,
  };

  const read = locks.take(path, file, false);
  t.equal(await outside('exclusive'), null);
  const reader = await outside('shared');
  t.throws(() => locks.take(path, file, true), locked);
  t.throws(() => new FileLocks(null).take(path, file, true), { code: 'EBUSY' }, 'it still reads');
  await reader?.();
  t.equal(await outside('exclusive'), null, 'to flock, too');
  const written = locks.take(path, file, true);
  t.equal(await outside('shared'), null);
  written();
  t.equal(await outside('shared'), null);
  read();
  const writer = await outside('exclusive');
  t.throws(() => locks.take(path, file, false), locked);
  t.throws(() => locks.take(path, file, true), locked);
  new FileLocks(null).take(path, file, true)();
  await writer?.();
  locks.take(path, file, true)();
  t.throws(() => locks.take(path, 'test:another', true), { message: /became another file/ });
  const none = { code: 'ENOENT', message: /^cannot open .* to lock it: ENOENT$/ };
  t.throws(() => locks.take(`${path}x`, file, true), none);
});
