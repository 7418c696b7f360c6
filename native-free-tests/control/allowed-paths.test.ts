/** What control clients may have opened (--allow-path), with links and names that change. */

import {
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { AllowedPaths } from '../../src/base/allowed-paths.js';
import { startCopy } from '../../src/control/copy.js';
import { files } from '../../src/control/files.js';
import { allowedFiles } from '../../src/control/guarded-files.js';
import { allowedPathsOf } from '../../src/daemon/allowed.js';
import type { EngineFile } from '../../src/engine/engine.js';
import { fileIdentity } from '../../src/engine/file-facts.js';
import { OptionsGuard } from '../../src/queue/file-guard.js';
import { FakeQueue } from './fake-queue.js';

/** A folder with `in`, which is allowed, and `out`, which is not; a file in each. */
function setUp(t: Test) {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), 'mapperd-allowed-')));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const at = (...names: string[]): string => join(folder, ...names);
  for (const name of ['in', 'out']) {
    mkdirSync(at(name));
    writeFileSync(at(name, 'file'), name);
  }
  return { at, allowed: AllowedPaths.resolve([at('in')]) };
}

const refused = { code: 'EPERM', message: / is outside the paths that are allowed / };

t.test('looks at what is there', async (t) => {
  const { at, allowed } = setUp(t);
  t.equal(allowed.look(at('in', 'file')).size, 2n);
  t.throws(() => allowed.look(at('out', 'file')), refused);
  t.throws(() => allowed.look(at('in', '..', 'out', 'file')), refused);
  t.throws(() => allowed.look(`${at('in')}side`), refused, 'a name that only begins like it');
  symlinkSync(at('out', 'file'), at('in', 'leads-out'));
  t.throws(() => allowed.look(at('in', 'leads-out')), refused);
  symlinkSync(at('out'), at('in', 'folder'));
  t.throws(() => allowed.look(at('in', 'folder', 'file')), refused);
  symlinkSync(at('in', 'file'), at('out', 'leads-in'));
  t.equal(allowed.look(at('out', 'leads-in')).size, 2n);
});

t.test('tells what is missing only where it would be allowed', async (t) => {
  const { at, allowed } = setUp(t);
  t.throws(() => allowed.look(at('in', 'none')), { code: 'ENOENT' });
  t.throws(() => allowed.look(at('out', 'none')), refused);
  t.throws(() => allowed.look(at('none', 'none')), refused);
  t.throws(() => AllowedPaths.resolve([at('none')]), { code: 'ENOENT', message: /^--allow-path/ });
});

t.test('a file, a link to it, and the root of all can be allowed', async (t) => {
  const { at } = setUp(t);
  symlinkSync(at('out', 'file'), at('link'));
  const one = AllowedPaths.resolve([at('link')]);
  t.equal(one.look(at('out', 'file')).size, 3n);
  t.throws(() => one.look(at('in', 'file')), refused);
  const all = AllowedPaths.resolve(['/']);
  t.equal(all.look(at('in', 'file')).size, 2n);
});

t.test('a place that is held stays where it was', async (t) => {
  const { at, allowed } = setUp(t);
  mkdirSync(at('in', 'folder'));
  const place = allowed.holdPlace(at('in', 'folder', 'made'));
  renameSync(at('in', 'folder'), at('in', 'moved'));
  symlinkSync(at('out'), at('in', 'folder'));
  writeFileSync(place.path, 'x');
  place.release();
  t.ok(existsSync(at('in', 'moved', 'made')));
  t.notOk(existsSync(at('out', 'made')));
  t.throws(() => allowed.holdPlace(at('in', 'folder', 'made')), refused);
  t.throws(() => allowed.holdPlace(at('out', 'made')), refused);
  const held = allowed.holdFile(at('in', 'file'));
  rmSync(at('in', 'file'));
  linkSync(at('out', 'file'), at('in', 'file'));
  t.equal(readFileSync(held.path, 'utf8'), 'in');
  held.release();
});

t.test('the queue thread closes what became another file meanwhile', async (t) => {
  const { at, allowed } = setUp(t);
  const guard = new OptionsGuard(allowed, null);
  const path = at('in', 'file');
  const admitted = guard.admit(path) as string;
  const opened = (real: string): EngineFile => {
    const identity = fileIdentity(lstatSync(real, { bigint: true }));
    return { path, identity, writable: true } as EngineFile;
  };
  guard.opened(opened(path), admitted)();
  t.throws(() => guard.opened(opened(at('out', 'file')), admitted), {
    code: 'EPERM',
    message: `${path} became another file while it was opened`,
  });
  t.throws(() => guard.admit(at('out', 'file')), refused);
  t.equal(new OptionsGuard(null, null).admit(at('out', 'file')), null);
});

t.test('files of snapshots are made, opened and removed where it is allowed', async (t) => {
  const { at, allowed } = setUp(t);
  const held = allowedFiles(files, allowed);
  await held.make(at('in', 'cow'), 4096);
  t.equal(await held.size(at('in', 'cow')), 4096);
  const file = await held.open(at('in', 'cow'));
  await file.write(Buffer.from('SnAp'));
  await file.close();
  t.equal(readFileSync(at('in', 'cow')).toString('latin1', 0, 4), 'SnAp');
  await held.unlink(at('in', 'cow'));
  t.notOk(existsSync(at('in', 'cow')));
  await t.rejects(held.make(at('out', 'cow'), 4096), refused);
  await t.rejects(held.open(at('out', 'file')), refused);
  await t.rejects(held.size(at('out', 'file')), refused);
  await t.rejects(held.unlink(at('out', 'file')), refused);
  t.equal(readFileSync(at('out', 'file'), 'utf8'), 'out');
  await t.rejects(held.make(at('in', 'file'), 1), { code: 'EEXIST', message: at('in', 'file') });
});

t.test('copies go to files that are allowed, and take back those that they made', async (t) => {
  const { at, allowed } = setUp(t);
  const queue = new FakeQueue();
  const request = { source: at('in', 'file'), destinations: [at('in', 'copy')] };
  await startCopy(queue, request, allowed);
  t.equal(lstatSync(at('in', 'copy')).size, 1 << 20);
  const both = { ...request, destinations: [at('in', 'second'), at('out', 'copy')] };
  await t.rejects(startCopy(queue, both, allowed), refused);
  t.notOk(existsSync(at('in', 'second')));
  t.notOk(existsSync(at('out', 'copy')));
});

t.test('the state directory and what the command line names are always allowed', async (t) => {
  const { at } = setUp(t);
  symlinkSync(at('out', 'file'), at('image'));
  writeFileSync(at('out', 'other'), '');
  mkdirSync(at('state'));
  const lines = [at('none'), at('image'), `file://${at('out', 'other')}?direct=1`];
  const table = lines.map((word, n) => `${n * 8} 8 linear ${word} 0`).join('\n');
  const device = { name: 'a', table, readOnly: false };
  const options = { allowPaths: [at('in')], state: at('state') };
  const allowed = allowedPathsOf(options, [device]);
  const roots = [at('in'), at('state'), at('out', 'file'), at('out', 'other')];
  t.same(allowed?.roots, roots);
  const broken = { ...device, table: 'no table' };
  t.same(allowedPathsOf(options, [broken])?.roots, [at('in'), at('state')]);
  t.equal(allowedPathsOf({ allowPaths: [], state: null }, [device]), null);
});
