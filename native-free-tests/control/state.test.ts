import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import { EIO } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import { decodeName, deviceOfTableFile, tableFileName } from '../../src/control/names.js';
import { restore } from '../../src/control/restore.js';
import { StateDirectory, type StoredDevice } from '../../src/control/state.js';
import { stateFiles } from '../../src/control/state-files.js';
import { formatTableFile, parseTableFile } from '../../src/control/state-text.js';
import { renameInTable, stripComments, tableDependencies } from '../../src/control/table-text.js';
import { CrashFiles, systemError } from './crash-files.js';

const zero = (name: string): StoredDevice => ({ name, table: '0 8 zero', readOnly: false });
const over = (name: string, ...beneath: string[]): StoredDevice => ({
  name,
  table: beneath.map((one, at) => `${8 * at} 8 linear dm:${one} 0`).join('\n'),
  readOnly: false,
});
const directories: string[] = [];
function newDirectory(): string {
  const path = mkdtempSync(join(tmpdir(), 'mapperd-state-'));
  directories.push(path);
  return path;
}
t.teardown(() => {
  for (const path of directories) rmSync(path, { recursive: true });
});

/** Loaded devices without what is only in the file: header and comments. */
function plain(devices: readonly StoredDevice[]): StoredDevice[] {
  return devices.map((device) => ({ ...device, table: stripComments(device.table) }));
}

t.test('names', async (t) => {
  t.test('gives each name a file of its own, and finds the name in it', async () => {
    const name = fc
      .string({ unit: 'grapheme', minLength: 1, maxLength: 12 })
      .filter((text) => !/[/\p{Cc}\p{Cs}]/u.test(text));
    fc.assert(
      fc.property(name, (name) => {
        const file = tableFileName(name);
        return !/^\.|\//.test(file) && deviceOfTableFile(file) === name;
      }),
    );
  });

  t.test('writes awkward characters as percent and two digits', async (t) => {
    t.equal(tableFileName('my vol'), 'my%20vol.table');
    t.equal(tableFileName('..'), '%2E..table');
    t.equal(tableFileName('50%'), '50%25.table');
    t.equal(tableFileName('größe-1'), 'größe-1.table');
  });

  t.test('rejects files that no name has', async (t) => {
    for (const encoded of ['', 'my vol', '%2e.', '%61', '%zz', '%2F', '%00', 'x'.repeat(128)]) {
      t.equal(decodeName(encoded), null, encoded);
    }
    t.equal(deviceOfTableFile('.hidden.table'), null);
    t.equal(deviceOfTableFile('vol0.img'), null);
  });
});

t.test('table text', async (t) => {
  t.test('finds the devices that a table stands on, both ways to name them', async (t) => {
    const text = '# over\n0 8 linear dm:a 0\n8 8 striped 2 8 /dev/mapper/b\\ c 0 dm:a 8\n';
    t.same(tableDependencies(text), ['a', 'b c']);
  });

  t.test('renames words that are the device, and nothing else', async (t) => {
    const text = '0 8 linear dm:a 0\n8 8 linear   dm:ab 0\n16 8 linear /dev/mapper/a 0';
    const renamed = '0 8 linear dm:x\\ y 0\n8 8 linear   dm:ab 0\n16 8 linear /dev/mapper/x\\ y 0';
    t.equal(renameInTable(text, 'a', 'x y'), renamed);
    t.equal(renameInTable(renamed, 'x y', 'a'), text);
  });

  t.test('parses a file that it made', async (t) => {
    const stored = { table: '0 8 zero\n8 8 error', readOnly: true };
    const parsed = parseTableFile(Buffer.from(formatTableFile('v', stored, 'old name')));
    t.equal(parsed.readOnly, true);
    t.equal(parsed.formerly, 'old name');
    t.equal(stripComments(parsed.table), stored.table);
  });

  t.test('keeps the time of a snapshot, if it is one', async (t) => {
    const created = '2026-11-21T13:19:25.132Z';
    const stored = { table: '0 8 zero', readOnly: false, created };
    t.match(parseTableFile(Buffer.from(formatTableFile('v', stored))), { created });
    for (const time of ['yesterday', '2026-13-41T00:00:00Z', `${created} or so`]) {
      const parsed = parseTableFile(Buffer.from(`# created ${time}\n0 8 zero\n`));
      t.notOk('created' in parsed, time);
    }
  });

  t.test('takes directives from the head only', async (t) => {
    const parsed = parseTableFile(Buffer.from('0 8 zero\n# read-only\n# formerly x\n'));
    t.match(parsed, { readOnly: false, formerly: null });
    t.equal(parseTableFile(Buffer.from('#read-only\r\n0 8 zero\n')).readOnly, true);
  });

  t.test('rejects bytes that are no text, with the line', async (t) => {
    t.throws(() => parseTableFile(Buffer.from([0x30, 0xff])), /not UTF-8/);
    t.throws(() => parseTableFile(Buffer.from('0 8 zero\n\0\0')), /^line 2: control character/);
    t.throws(
      () => parseTableFile(Buffer.from('# formerly %2F\n')),
      /line 1: "%2F" is not a device/,
    );
    t.throws(() => parseTableFile(Buffer.alloc(2 ** 20 + 1, 32)), /has 1048577 bytes, at most/);
  });
});

t.test('state directory on a disk', async (t) => {
  t.test('brings back what was written, replaced, renamed and not removed', async (t) => {
    const path = newDirectory();
    const state = new StateDirectory(path);
    await state.write(zero('a'));
    await state.write({ ...zero('my vol'), readOnly: true });
    await state.write(zero('gone'));
    await state.write({ ...zero('a'), table: '0 16 error' });
    await state.remove('gone');
    await state.rename({ ...zero('a'), table: '0 16 error' }, 'b', []);
    const { devices, problems } = await new StateDirectory(path).load();
    t.same(problems, []);
    t.same(plain(devices), [
      { name: 'b', table: '0 16 error', readOnly: false },
      { name: 'my vol', table: '0 8 zero', readOnly: true },
    ]);
    t.same(readdirSync(path).sort(), ['b.table', 'my%20vol.table']);
    t.match(readFileSync(join(path, 'b.table'), 'utf8'), /^# mapperd table of b\n0 16 error\n$/);
  });

  t.test('reports broken files by name, removes temporary ones, loads the others', async (t) => {
    const path = newDirectory();
    writeFileSync(join(path, '.tmp-1-1'), '0 8 ze');
    writeFileSync(join(path, 'bad name.table'), '0 8 zero\n');
    writeFileSync(join(path, 'nul.table'), '0 8 zero\n\0\n');
    writeFileSync(join(path, 'good.table'), '# by hand\n\n0 8 zero\n');
    writeFileSync(join(path, 'vol0.img'), '');
    const { devices, problems } = await new StateDirectory(path).load();
    t.same(plain(devices), [zero('good')]);
    t.match(problems, [
      { file: 'bad name.table', name: null },
      { file: 'nul.table', name: 'nul', text: 'line 2: control character in the text' },
    ]);
    t.equal(problems.length, 2);
    t.notOk(readdirSync(path).includes('.tmp-1-1'));
  });

  t.test('says what failed when the directory is not there', async (t) => {
    const state = new StateDirectory(join(newDirectory(), 'none'));
    await t.rejects(state.write(zero('a')), {
      code: 'ENOENT',
      message: /^store the table of "a": /,
    });
    await t.rejects(state.load(), { code: 'ENOENT', message: /^read the state directory: / });
  });
});

t.test('rename', async (t) => {
  t.test('rewrites the tables above', async (t) => {
    const files = new CrashFiles();
    const state = new StateDirectory('/s', files);
    for (const device of [zero('a'), over('b', 'a')]) await state.write(device);
    await state.rename(zero('a'), 'c', [{ before: over('b', 'a'), after: over('b', 'c') }]);
    const { devices } = await state.load();
    t.same(plain(devices), [over('b', 'c'), zero('c')]);
  });

  t.test('undoes everything when a table above cannot be written', async (t) => {
    let creates = 0;
    const files = new CrashFiles();
    const failing = Object.assign(Object.create(files) as CrashFiles, {
      create: async (path: string, text: string) => {
        if (++creates === 4) throw systemError('ENOSPC');
        await files.create(path, text);
      },
      list: () => files.list(),
      read: (path: string) => files.read(path),
      rename: (from: string, to: string) => files.rename(from, to),
      unlink: (path: string) => files.unlink(path),
      syncDirectory: () => files.syncDirectory(),
    });
    const state = new StateDirectory('/s', failing);
    for (const device of [zero('a'), over('b', 'a')]) await state.write(device);
    const renaming = state.rename(zero('a'), 'c', [
      { before: over('b', 'a'), after: over('b', 'c') },
    ]);
    await t.rejects(renaming, { code: 'ENOSPC' });
    t.same(files.names, ['a.table', 'b.table']);
    const { devices } = await state.load();
    t.same(plain(devices), [zero('a'), over('b', 'a')]);
  });

  t.test('does not follow a note whose old device is there', async (t) => {
    const names = new Map([
      ['a.table', formatTableFile('a', zero('a'))],
      ['b.table', formatTableFile('b', over('b', 'a'))],
      ['c.table', formatTableFile('c', zero('c'), 'a')],
    ]);
    const { devices } = await new StateDirectory('/s', new CrashFiles(names)).load();
    t.same(plain(devices), [zero('a'), over('b', 'a'), zero('c')]);
  });
});

/** What the directory must hold after some commands; devices by name. */
type Model = ReadonlyMap<string, StoredDevice>;
type Command =
  | { kind: 'write'; device: StoredDevice }
  | { kind: 'remove'; at: number }
  | { kind: 'rename'; at: number; to: string };

/** The command is left out if a device would stand on itself: no table like that becomes live. */
function afterwards(model: Model, command: Command): Model {
  const next = changed(model, command);
  const stands = ({ name, table }: StoredDevice) => tableDependencies(table).includes(name);
  return [...next.values()].some(stands) ? model : next;
}

function changed(model: Model, command: Command): Model {
  const next = new Map(model);
  if (command.kind === 'write') return next.set(command.device.name, command.device);
  const device = [...model.values()][command.at % Math.max(1, model.size)];
  if (device === undefined) return model;
  if (command.kind === 'remove') {
    next.delete(device.name);
    return next;
  }
  if (model.has(command.to)) return model;
  next.delete(device.name);
  next.set(command.to, { ...device, name: command.to });
  for (const [name, other] of next) {
    next.set(name, { ...other, table: renameInTable(other.table, device.name, command.to) });
  }
  return next;
}

/** Asks the directory for what leads from one model to the other. */
async function carryOut(state: StateDirectory, from: Model, to: Model, command: Command) {
  if (from === to) return;
  if (command.kind === 'write') return state.write(command.device);
  const name = [...from.keys()].find((one) => !to.has(one)) as string;
  if (command.kind === 'remove') return state.remove(name);
  const above = [...from.values()].flatMap((before) => {
    const after = to.get(before.name);
    return after === undefined || after.table === before.table ? [] : [{ before, after }];
  });
  await state.rename(from.get(name) as StoredDevice, command.to, above);
}

/** The same text for the same devices. */
function fingerprint(devices: Iterable<StoredDevice>): string {
  const rows = [...devices].map(({ name, table, readOnly }) => [name, table, readOnly]);
  return JSON.stringify(rows.sort((a, b) => (String(a[0]) < String(b[0]) ? -1 : 1)));
}

t.test('a power cut at any point leaves the state before or after', async () => {
  const name = fc.constantFrom('a', 'b', 'c', 'd e');
  const device = fc.record({
    name,
    readOnly: fc.boolean(),
    table: fc.oneof(
      fc.constant('0 8 zero'),
      name.map((one) => `0 8 linear dm:${one.replace(' ', '\\ ')} 0`),
    ),
  });
  const at = fc.nat(3);
  const command: fc.Arbitrary<Command> = fc.oneof(
    device.map((device) => ({ kind: 'write' as const, device })),
    at.map((at) => ({ kind: 'remove' as const, at })),
    fc.record({ kind: fc.constant('rename' as const), at, to: name }),
  );
  const stack: Command[] = [zero('a'), over('b', 'a'), over('d e', 'a', 'b')].map((device) => ({
    kind: 'write',
    device,
  }));
  await fc.assert(
    fc.asyncProperty(
      fc.array(command, { maxLength: 4 }),
      command,
      fc.nat(16),
      fc.nat(16),
      async (before, last, operations, kept) => {
        const files = new CrashFiles();
        const state = new StateDirectory('/s', files);
        let model: Model = new Map();
        for (const one of [...stack, ...before]) {
          const next = afterwards(model, one);
          await carryOut(state, model, next, one);
          model = next;
        }
        const next = afterwards(model, last);
        files.operationsLeft = operations;
        const done = await carryOut(state, model, next, last).then(
          () => true,
          () => false,
        );
        const left = files.afterCrash(kept % (files.unsynced + 1));
        const { devices, problems } = await new StateDirectory('/s', new CrashFiles(left)).load();
        if (problems.length > 0) return false;
        const found = fingerprint(plain(devices));
        const isNew = found === fingerprint(next.values());
        return isNew || (!done && found === fingerprint(model.values()));
      },
    ),
    { numRuns: 2000 },
  );
});

t.test('restore', async (t) => {
  const up = async (devices: readonly StoredDevice[], failing: readonly string[] = []) => {
    const order: string[] = [];
    const problems = await restore(
      devices,
      () => false,
      async ({ name }) => {
        if (failing.includes(name)) throw new MapperError(EIO, 'line 1: linear: no such file');
        order.push(name);
      },
    );
    return { order, problems: problems.map(({ file, text }) => `${file}: ${text}`) };
  };

  t.test('makes devices after those that they stand on', async (t) => {
    const { order, problems } = await up([over('c', 'b', 'a'), over('b', 'a'), zero('a')]);
    t.same(order, ['a', 'b', 'c']);
    t.same(problems, []);
  });

  t.test('leaves out only what stands on a broken device', async (t) => {
    const devices = [over('top', 'mid'), over('mid', 'bad'), zero('bad'), zero('good')];
    const { order, problems } = await up(devices, ['bad']);
    t.same(order, ['good']);
    t.same(problems, [
      'bad.table: line 1: linear: no such file',
      'mid.table: stands on "bad", which could not be brought up',
      'top.table: stands on "mid", which could not be brought up',
    ]);
  });

  t.test('reports a table that is none by its line, and what is missing by name', async (t) => {
    const broken = { ...zero('a'), table: '# mapperd table of a\n\n0 8' };
    const { order, problems } = await up([broken, over('b', 'a'), over('c', 'nowhere')]);
    t.same(order, []);
    t.match(problems[0], /^a\.table: line 3: found 2 words/);
    t.equal(problems[1], 'b.table: stands on "a", which could not be brought up');
    t.equal(problems[2], 'c.table: stands on "nowhere", which is not there');
  });

  t.test('reports a cycle once for each device on it', async (t) => {
    const devices = [over('a', 'b'), over('b', 'c'), over('c', 'a'), over('d', 'a'), zero('e')];
    const { order, problems } = await up([...devices, over('self', 'self')]);
    t.same(order, ['e']);
    t.same(problems.sort(), [
      'a.table: stands on itself: a -> b -> c -> a',
      'b.table: stands on itself: a -> b -> c -> a',
      'c.table: stands on itself: a -> b -> c -> a',
      'd.table: stands on "a", which could not be brought up',
      'self.table: stands on itself: self -> self',
    ]);
  });

  t.test('brings up any graph without cycles whole, and of any other what it can', async () => {
    const edges = fc.array(fc.tuple(fc.nat(7), fc.nat(7)), { maxLength: 14 });
    await fc.assert(
      fc.asyncProperty(edges, async (edges) => {
        const beneath = Array.from({ length: 8 }, (_, n) =>
          edges.filter(([from]) => from === n).map(([, to]) => `${to}`),
        );
        const devices = beneath.map((names, n) =>
          names.length === 0 ? zero(`${n}`) : over(`${n}`, ...names),
        );
        const { order, problems } = await up(devices);
        // The oracle: what can be made at all, by making whatever is possible until nothing is.
        const possible = new Set<string>();
        for (let grown = true; grown; ) {
          grown = false;
          for (const [n, names] of beneath.entries()) {
            if (possible.has(`${n}`) || !names.every((name) => possible.has(name))) continue;
            grown = true;
            possible.add(`${n}`);
          }
        }
        if (order.length + problems.length !== 8) return false;
        const made = new Set<string>();
        for (const name of order) {
          if (!beneath[Number(name)]?.every((one) => made.has(one))) return false;
          made.add(name);
        }
        return made.size === possible.size;
      }),
    );
  });
});

t.test('a file that is there already is not written over by its temporary name', async (t) => {
  const path = join(newDirectory(), 'x');
  await stateFiles.create(path, 'one');
  await t.rejects(stateFiles.create(path, 'two'), { code: 'EEXIST' });
  t.equal(readFileSync(path, 'utf8'), 'one');
});
