/** Export policies in the control thread: their lines in files, their storage, the method. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import { EIO, ENOSPC } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import { tableBytes } from '../../src/base/limits.js';
import { Catalogue } from '../../src/control/catalogue.js';
import { controlMethods } from '../../src/control/commands.js';
import { formatPolicy, takePolicy } from '../../src/control/export-text.js';
import { Exports } from '../../src/control/exports.js';
import type { NamedExport, Topic } from '../../src/control/messages.js';
import { Regions } from '../../src/control/regions.js';
import { Rpc } from '../../src/control/rpc.js';
import { Snapshots } from '../../src/control/snapshots.js';
import { StateDirectory } from '../../src/control/state.js';
import { formatTableFile, parseTableFile } from '../../src/control/state-text.js';
import { stripComments } from '../../src/control/table-text.js';
import { type ExportPolicy, openPolicy } from '../../src/nbd/export-policy.js';
import { CrashFiles, systemError } from './crash-files.js';
import { FakeQueue } from './fake-queue.js';
import { QuietLog } from './quiet-log.js';
import { someVersion as version } from './some-version.js';

const zero = '0 8 zero';
const image = '0 2048 linear /none/vol.img 0';
const real: ExportPolicy = { ...openPolicy, hidden: true, readOnly: true };
const policy = (changes: Partial<ExportPolicy>): ExportPolicy => ({ ...openPolicy, ...changes });

const anyPolicy: fc.Arbitrary<ExportPolicy> = fc.record({
  readOnly: fc.boolean(),
  description: fc.option(
    fc
      .string({ unit: 'grapheme', minLength: 1, maxLength: 60 })
      .filter((text) => text === text.trim() && !/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}]/u.test(text)),
  ),
  hidden: fc.boolean(),
  allow: fc.array(fc.oneof(fc.ipV4(), fc.ipV6(), fc.constant('fd00::/8')), { maxLength: 64 }),
  connections: fc.option(fc.integer({ min: 1, max: 1024 })),
});

t.test('lines about an export', async (t) => {
  t.test('parses what it made, among the lines of a table', async () => {
    fc.assert(
      fc.property(anyPolicy, fc.nat(4), (said, at) => {
        const lines = ['# mapperd table of a', '# read-only', '', zero];
        lines.splice(at, 0, ...formatPolicy(said));
        const taken = takePolicy(lines);
        const found = taken.policy ?? openPolicy;
        const rest = taken.lines.filter((line) => line !== '');
        return (
          JSON.stringify(found) === JSON.stringify(said) &&
          taken.lines.length === lines.length &&
          rest.join('\n') === `# mapperd table of a\n# read-only\n${zero}`
        );
      }),
    );
  });

  t.test('writes the words of the grammar', async (t) => {
    t.same(formatPolicy(openPolicy), []);
    const all = policy({
      readOnly: true,
      description: 'the mail, since 2019',
      hidden: true,
      allow: ['192.0.2.7', '2001:db8::/32'],
      connections: 4,
    });
    t.same(formatPolicy(all), [
      '# export read-only',
      '# export hidden',
      '# export description the mail, since 2019',
      '# export allow 192.0.2.7 2001:db8::/32',
      '# export connections 4',
    ]);
  });

  t.test('are taken by hand-written files too, wherever they stand', async (t) => {
    const text = `#export   hidden\r\n\n${zero}\n  # export allow 10.0.0.0/8\t::1  \n# exports\n`;
    const { policy: found, table } = parseTableFile(Buffer.from(text));
    t.same(found, policy({ hidden: true, allow: ['10.0.0.0/8', '::1'] }));
    t.equal(table, `\n\n${zero}\n\n# exports\n`, 'lines keep their numbers');
  });

  t.test('rejects words that are not known, by name and line', async (t) => {
    const rejects = (line: string, message: RegExp): void => {
      const file = Buffer.from(`# mapperd table of a\n# export hidden\n${line}\n${zero}\n`);
      t.throws(() => parseTableFile(file), { code: 'EINVAL', message }, line);
    };
    rejects('# export readonly', /^line 3: export: found "readonly", wanted read-only, hidden, /);
    rejects('# export', /^line 3: export: found "", wanted read-only/);
    rejects('# export Hidden', /found "Hidden"/);
    rejects('# export hidden', /found "hidden" twice, wanted it once/);
    rejects('# export read-only yes', /found "yes" behind a word that says it all/);
    rejects('# export description', /description has 0 bytes, wanted 1 to 1024/);
    rejects(`# export description ${'ü'.repeat(513)}`, /has 1026 bytes/);
    rejects('# export allow', /found no address/);
    rejects('# export allow 10.0.0.0/8, ::1', /found "10.0.0.0\/8,", wanted an address/);
    rejects('# export allow 10.0.0.1/8', /wanted no bits behind the first 8/);
    rejects(`# export allow${' ::1'.repeat(65)}`, /found 65 addresses, wanted at most 64/);
    rejects('# export connections', /found "" connections, wanted 1 to 1024/);
    rejects('# export connections 0', /found "0" connections/);
    rejects('# export connections 1025', /found "1025" connections/);
    rejects('# export connections 4 5', /found "4 5" connections/);
  });

  t.test('take nothing from the room for the table', async (t) => {
    const line = '0 8 linear /x 0\n';
    const table = line.repeat(Math.floor((tableBytes - 100) / line.length));
    const blocks = Array.from({ length: 64 }, (_, i) => `2001:db8:1111:2222:3333:4444:5555:${i}`);
    const said = policy({ description: 'x'.repeat(1024), allow: blocks, connections: 1000 });
    const file = formatTableFile('a', { table, readOnly: true, policy: said });
    t.ok(Buffer.byteLength(file) > tableBytes);
    const parsed = parseTableFile(Buffer.from(file));
    t.same(parsed.policy, said);
    t.equal(stripComments(parsed.table), table.trim());
    t.throws(() => parseTableFile(Buffer.from(file + line.repeat(10))), /at most 1048576/);
  });
});

function setUp() {
  const queue = new FakeQueue();
  const files = new CrashFiles();
  const state = new StateDirectory('/s', files);
  const log = new QuietLog();
  const catalogue = new Catalogue(queue, state, log);
  const exports = new Exports(catalogue);
  const heard = (): Record<string, ExportPolicy> =>
    Object.fromEntries([...queue.devices.values()].map(({ name, policy }) => [name, policy]));
  /** What a restart would find. */
  const stored = async (): Promise<Record<string, ExportPolicy>> => {
    const { devices, problems } = await new StateDirectory('/s', files).load();
    t.same(problems, []);
    return Object.fromEntries(devices.map(({ name, policy = openPolicy }) => [name, policy]));
  };
  return { queue, files, state, log, catalogue, exports, heard, stored };
}

t.test('a change', async (t) => {
  t.test('is stored before it counts, and says what is so then', async (t) => {
    const { queue, catalogue, exports, heard, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    let before: unknown;
    queue.before = async (command) => {
      if (command === 'policy') before = await stored();
    };
    const found = await exports.change({ name: 'a', hidden: true, connections: 4 });
    const wanted = policy({ hidden: true, connections: 4 });
    t.same(found, { name: 'a', ...wanted, clients: 0, stored: true });
    t.same(before, { a: wanted });
    t.same(heard(), { a: wanted });
    await exports.change({ name: 'a', connections: null, description: 'mine' });
    t.same(await stored(), { a: policy({ hidden: true, description: 'mine' }) });
    t.same(heard(), await stored());
    await exports.change({ name: 'a', hidden: false, description: null });
    t.same(await stored(), { a: openPolicy });
  });

  t.test('of nothing asks and writes nothing', async (t) => {
    const { queue, catalogue, exports, files } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    queue.calls.length = 0;
    files.operationsLeft = 0;
    t.match(await exports.change({ name: 'a' }), { name: 'a', hidden: false });
    t.same(queue.calls, []);
    await t.rejects(exports.change({ name: 'b' }), { code: 'ENXIO' });
    await t.rejects(exports.change({ name: 'b', hidden: true }), { code: 'ENXIO' });
  });

  t.test('that cannot be stored changes nothing', async (t) => {
    for (let operations = 0; operations < 3; operations++) {
      const { catalogue, exports, files, heard, stored } = setUp();
      await catalogue.create({ name: 'a', table: zero });
      await exports.change({ name: 'a', hidden: true });
      files.operationsLeft = operations;
      await t.rejects(exports.change({ name: 'a', hidden: false }), { code: 'EIO' });
      files.operationsLeft = Number.POSITIVE_INFINITY;
      t.same(heard(), { a: policy({ hidden: true }) }, `after ${operations}`);
      t.match(exports.named('a'), { hidden: true });
      // What follows writes what holds.
      await exports.change({ name: 'a', connections: 1 });
      t.same(await stored(), { a: policy({ hidden: true, connections: 1 }) });
    }
  });

  t.test('whose last step fails is taken back in the file', async (t) => {
    const { catalogue, exports, files, heard, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    const { syncDirectory } = files;
    files.syncDirectory = async () => {
      files.syncDirectory = syncDirectory;
      throw systemError('EIO');
    };
    await t.rejects(exports.change({ name: 'a', hidden: true }), { code: 'EIO' });
    t.same(await stored(), { a: openPolicy });
    t.same(heard(), { a: openPolicy });
  });

  t.test('that the queue refuses is taken back', async (t) => {
    const { queue, catalogue, exports, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    queue.before = (command) => {
      if (command === 'policy') throw new MapperError(EIO, 'no');
    };
    await t.rejects(exports.change({ name: 'a', hidden: true }), { message: 'no' });
    t.same(await stored(), { a: openPolicy });
    t.match(exports.named('a'), { hidden: false });
  });

  t.test('of a device without a table is stored with its first one', async (t) => {
    const { catalogue, exports, stored } = setUp();
    await catalogue.create({ name: 'a' });
    t.match(await exports.change({ name: 'a', hidden: true }), { stored: false });
    t.same(await stored(), {});
    await catalogue.load('a', zero);
    await catalogue.resume('a');
    t.same(await stored(), { a: policy({ hidden: true }) });
    t.match(exports.named('a'), { stored: true });
  });
});

t.test('a policy', async (t) => {
  t.test('stays with a device that is renamed, and goes with one that is removed', async (t) => {
    const { catalogue, exports, stored, heard } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    await catalogue.create({ name: 'b', table: '0 8 linear dm:a 0' });
    await exports.change({ name: 'a', hidden: true });
    await exports.change({ name: 'b', readOnly: true });
    await catalogue.rename('a', 'c');
    const wanted = { c: policy({ hidden: true }), b: policy({ readOnly: true }) };
    t.same(await stored(), wanted);
    t.same(heard(), wanted);
    await catalogue.remove('b', false);
    await catalogue.create({ name: 'b', table: zero });
    t.same(await stored(), { c: policy({ hidden: true }), b: openPolicy });
    t.match(exports.named('b'), { readOnly: false });
  });

  t.test('stays over a table that is loaded and resumed', async (t) => {
    const { catalogue, exports, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    await exports.change({ name: 'a', description: 'it' });
    await catalogue.load('a', `# export hidden\n0 16 error`);
    await catalogue.resume('a');
    t.same(await stored(), { a: policy({ description: 'it' }) }, 'a table cannot say one');
  });

  t.test('is back after a restart, before anybody can see the device', async (t) => {
    const { state, catalogue, exports, log } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    await exports.change({ name: 'a', allow: ['10.0.0.0/8'], hidden: true });
    const queue = new FakeQueue();
    const again = new Catalogue(queue, state, log);
    const { devices, problems } = await state.load();
    const given = { name: 'line', table: zero, readOnly: false };
    t.same(await again.restore(devices, problems, [given]), []);
    t.same(queue.devices.get('a')?.policy, policy({ allow: ['10.0.0.0/8'], hidden: true }));
    t.same(queue.calls, ['create a', 'policy a', 'create line']);
    t.match(new Exports(again).named('a'), { hidden: true, stored: true });
  });

  t.test('of a device of the command line lives in memory', async (t) => {
    const { state, log } = setUp();
    const queue = new FakeQueue();
    const catalogue = new Catalogue(queue, state, log);
    await catalogue.restore([], [], [{ name: 'line', table: zero, readOnly: false }]);
    const exports = new Exports(catalogue);
    t.match(await exports.change({ name: 'line', hidden: true }), { hidden: true, stored: false });
    t.same(queue.devices.get('line')?.policy, policy({ hidden: true }));
    t.same((await state.load()).devices, []);
  });

  t.test('that cannot be read keeps the device down rather than open', async (t) => {
    const { files, state, log } = setUp();
    await files.create('/s/a.table', [Buffer.from(`# export alow 10.0.0.0/8\n${zero}\n`)]);
    const { devices, problems } = await state.load();
    t.same(devices, []);
    const text = /^line 1: export: found "alow", wanted/;
    t.match(problems, [{ file: 'a.table', name: 'a', text }]);
    const catalogue = new Catalogue(new FakeQueue(), state, log);
    await catalogue.restore(devices, problems, []);
    await t.rejects(catalogue.create({ name: 'a', table: zero }), { code: 'EEXIST' });
  });

  t.test('comes back with a device that cannot be removed', async (t) => {
    const { catalogue, exports, files, heard, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    await exports.change({ name: 'a', hidden: true });
    files.operationsLeft = 0;
    await t.rejects(catalogue.remove('a', false), /the device was put back/);
    files.operationsLeft = Number.POSITIVE_INFINITY;
    t.same(heard(), { a: policy({ hidden: true }) });
    t.same(await stored(), heard());
  });
});

t.test('snapshots', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'mapperd-exports-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const withSnapshots = async () => {
    const all = setUp();
    const snapshots = new Snapshots(all.queue, all.catalogue, directory, all.log);
    snapshots.started();
    await all.catalogue.create({ name: 'vol', table: image });
    const take = (name: string) => {
      all.queue.statuses.set(name, '24/4112 16');
      return snapshots.snapshot({ origin: 'vol', name });
    };
    return { ...all, snapshots, take };
  };

  t.test('hide the real device from the start, and leave the origin as it was', async (t) => {
    const { queue, snapshots, exports, take, heard, stored } = await withSnapshots();
    await exports.change({ name: 'vol', description: 'it', connections: 4 });
    const own = policy({ description: 'it', connections: 4 });
    const seen: unknown[] = [];
    queue.before = (command, name) => {
      const there = queue.devices.get('vol-real')?.policy.hidden;
      if (name !== 'vol-real' && there === false) seen.push(command);
    };
    await take('one');
    t.same(seen, [], 'nobody sees it before it is hidden');
    const wanted = { vol: own, 'vol-real': real, one: openPolicy };
    t.same(heard(), wanted);
    t.same(await stored(), wanted);
    await take('two');
    await snapshots.remove({ name: 'one' });
    t.same(heard(), { vol: own, 'vol-real': real, two: openPolicy });
    await snapshots.remove({ name: 'two' });
    t.same(heard(), { vol: own });
    t.same(await stored(), { vol: own });
  });

  t.test('are for the addresses of their origin, as the real device is', async (t) => {
    const { snapshots, exports, take, heard, stored } = await withSnapshots();
    await exports.change({ name: 'vol', allow: ['10.0.0.0/8'], readOnly: true });
    await take('one');
    const lan = { allow: ['10.0.0.0/8'] };
    t.same(heard(), {
      vol: policy({ ...lan, readOnly: true }),
      'vol-real': { ...real, ...lan },
      one: policy(lan),
    });
    // The data of the origin are in the real device: it follows. A snapshot has its own life.
    const few = { allow: ['10.1.0.0/16'] };
    await exports.change({ name: 'vol', ...few });
    t.match(heard(), { vol: few, 'vol-real': { ...real, ...few }, one: lan });
    t.same(await stored(), heard());
    await exports.change({ name: 'vol-real', hidden: false, readOnly: false });
    await exports.change({ name: 'vol', connections: 1 });
    t.same(heard()['vol-real'], policy(few), 'what its owner says of it stays');
    await snapshots.remove({ name: 'one' });
    t.same(Object.keys(heard()), ['vol']);
  });

  t.test('keep both policies when one of them cannot be stored', async (t) => {
    const { queue, exports, take, heard, stored, snapshots } = await withSnapshots();
    await take('one');
    const before = heard();
    queue.before = (command, name) => {
      if (command === 'policy' && name === 'vol') throw new MapperError(ENOSPC, 'full');
    };
    await t.rejects(exports.change({ name: 'vol', allow: ['10.0.0.0/8'] }), { code: 'ENOSPC' });
    t.same(heard(), before);
    t.same(await stored(), before);
    queue.before = () => {};
    await snapshots.remove({ name: 'one' });
  });

  t.test('hide a twin of the real device that was left by a crash', async (t) => {
    const { catalogue, take, heard, snapshots } = await withSnapshots();
    await catalogue.create({ name: 'vol-real', table: image });
    await take('one');
    t.same(heard()['vol-real'], real);
    await snapshots.remove({ name: 'one' });
  });

  t.test('are as they were when taking one fails', async (t) => {
    const { queue, catalogue, take, heard, stored } = await withSnapshots();
    await catalogue.create({ name: 'vol-real', table: image });
    const before = heard();
    queue.before = (command, name) => {
      if (command === 'create' && name === 'one') throw new MapperError(ENOSPC, 'full');
    };
    await t.rejects(take('one'), { code: 'ENOSPC' });
    t.same(heard(), before);
    t.same(await stored(), before);
  });

  t.test('that are removed as devices are told what they leave behind', async (t) => {
    const { queue, snapshots, take, heard } = await withSnapshots();
    await take('one');
    await take('two');
    const cow = (name: string): string => `COW ${join(directory, name)}.cow is left where it is`;
    t.same(await snapshots.unmake('one', false), { notes: [cow('one')] });
    t.same(await snapshots.unmake('two', false), {
      notes: [
        '"vol" still is an origin, and stands on "vol-real": ' +
          '"snapshot --remove vol" gives it its table back',
        cow('two'),
      ],
    });
    t.same(Object.keys(heard()).sort(), ['vol', 'vol-real']);
    t.same(await snapshots.remove({ name: 'vol' }), { origin: 'vol', notes: [] });
    t.same(queue.tables, { vol: image });
    t.equal(await snapshots.unmake('vol', false), null);
  });

  t.test('that are there still keep an origin from getting its table back', async (t) => {
    const { catalogue, snapshots, queue } = await withSnapshots();
    const over = '0 2048 snapshot-origin dm:vol-real';
    await catalogue.create({ name: 'vol-real', table: image });
    await catalogue.load('vol', over);
    await catalogue.resume('vol');
    const cow = '/none/c';
    await catalogue.create({ name: 's', table: `0 2048 snapshot dm:vol-real ${cow} P 8` });
    await t.rejects(snapshots.remove({ name: 'vol' }), {
      code: 'EINVAL',
      message: '"vol" is no snapshot, its snapshot is "s"',
    });
    await catalogue.remove('s', false);
    await catalogue.create({ name: 'other', table: '0 8 linear dm:vol-real 0' });
    await t.rejects(snapshots.remove({ name: 'vol' }), {
      code: 'EINVAL',
      message: '"vol" is no snapshot; "vol" keeps "vol-real", which "other" stands on',
    });
    await catalogue.remove('other', false);
    await catalogue.suspend('vol', false);
    await t.rejects(snapshots.remove({ name: 'vol' }), { code: 'EBUSY', message: /suspended/ });
    await catalogue.resume('vol');
    await snapshots.remove({ name: 'vol' });
    t.same(queue.tables, { vol: image });
  });
});

t.test('the method', async (t) => {
  const { queue, catalogue, log } = setUp();
  const snapshots = new Snapshots(queue, catalogue, null, log);
  const regions = new Regions(queue, catalogue, log);
  const rpc = new Rpc(controlMethods({ queue, catalogue, snapshots, regions, version }), log);
  const client = {
    topics: new Set<Topic>(),
    receive: async (): Promise<never> => {
      throw new Error('no frames here');
    },
    attach: () => {},
  };
  const call = async (method: string, params: unknown): Promise<unknown> => {
    const request = JSON.stringify({ jsonrpc: '2.0', id: 1, method, params });
    const { result, error } = JSON.parse((await rpc.answer(request, client)) ?? '');
    return result === undefined ? error : result;
  };
  await catalogue.create({ name: 'a', table: zero });
  await catalogue.create({ name: 'b', table: zero });
  const open: NamedExport = {
    name: 'a',
    ...openPolicy,
    allow: [],
    clients: 0,
    stored: true,
  };

  t.test('tells one export, or all', async (t) => {
    t.same(await call('export', { name: 'a' }), open);
    queue.devices.get('b')?.counters.setConnections(3);
    t.same(await call('export', {}), [open, { ...open, name: 'b', clients: 3 }]);
  });

  t.test('changes what is given', async (t) => {
    const allow = ['10.0.0.0/8'];
    const change = { readOnly: true, description: 'x', hidden: true, allow, connections: 1 };
    t.same(await call('export', { name: 'a', ...change }), { ...open, ...change });
    const back = { readOnly: false, description: null, hidden: false, allow: [] };
    t.same(await call('export', { name: 'a', ...back }), { ...open, connections: 1 });
    t.same(await call('export', { name: 'a', connections: null }), open);
  });

  t.test('is in what info and ls tell', async (t) => {
    const { name: _, stored: _kept, ...facts } = open;
    t.match(await call('info', { name: 'a' }), { name: 'a', export: facts });
    const ls = (await call('ls', {})) as { name: string; export: unknown }[];
    t.same(
      ls.map((one) => one.export),
      [facts, { ...facts, clients: 3 }],
    );
  });

  t.test('rejects parameters that do not fit', async (t) => {
    const rejects = async (params: object, message: RegExp): Promise<void> => {
      t.match(await call('export', params), { code: -32602, message });
    };
    await rejects({ name: 'a', readonly: true }, /^export: readonly: unknown key$/);
    await rejects({ hidden: true }, /^export: name is missing: a change is for one device$/);
    await rejects({ name: 'a', description: '' }, /description has 0 bytes/);
    await rejects({ name: 'a', description: 'a\nb' }, /description has a control character/);
    await rejects({ name: 'a', description: ' a' }, /begins or ends with a blank/);
    await rejects({ name: 'a', allow: 'all' }, /^export: allow: wanted Array/);
    await rejects({ name: 'a', allow: ['::1', 'all'] }, /found "all", wanted an address/);
    await rejects({ name: 'a', connections: 0 }, /found "0" connections, wanted 1 to 1024/);
    await rejects({ name: 'a', connections: 1.5 }, /found "1.5" connections/);
    const none = { code: -32000, message: 'export c: no device "c"', data: { code: 'ENXIO' } };
    t.match(await call('export', { name: 'c', hidden: true }), none);
    t.match(await call('export', { name: 'c' }), none);
    t.same(await call('export', { name: 'a' }), open);
  });

  t.test('remove answers null for a device that leaves nothing behind', async (t) => {
    t.equal(await call('remove', { name: 'a' }), null);
  });
});
