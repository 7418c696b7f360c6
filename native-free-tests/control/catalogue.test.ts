import t from 'tap';
import { EIO, ENOSPC } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import { Catalogue } from '../../src/control/catalogue.js';
import { StateDirectory, type Store, type StoredDevice } from '../../src/control/state.js';
import { stripComments } from '../../src/control/table-text.js';
import { CrashFiles } from './crash-files.js';
import { FakeQueue } from './fake-queue.js';
import { QuietLog } from './quiet-log.js';

const zero = '0 8 zero';
const error = '0 16 error';
const overA = '0 8 linear dm:a 0';

/** A state directory that can be told to refuse. */
class FussyStore implements Store {
  readonly state: StateDirectory;
  refuse: (operation: 'write' | 'remove' | 'rename', name: string) => boolean = () => false;

  constructor(state: StateDirectory) {
    this.state = state;
  }

  async write(device: StoredDevice): Promise<void> {
    this.#check('write', device.name);
    await this.state.write(device);
  }

  async remove(name: string): Promise<void> {
    this.#check('remove', name);
    await this.state.remove(name);
  }

  hasRegions(name: string): boolean {
    return this.state.hasRegions(name);
  }

  readRegions(name: string): Promise<Uint8Array> {
    return this.state.readRegions(name);
  }

  async writeRegions(name: string, contents: readonly Uint8Array[]): Promise<void> {
    this.#check('write', name);
    await this.state.writeRegions(name, contents);
  }

  removeRegions(name: string): Promise<void> {
    return this.state.removeRegions(name);
  }

  async rename(...args: Parameters<Store['rename']>): Promise<void> {
    this.#check('rename', args[0].name);
    await this.state.rename(...args);
  }

  #check(operation: 'write' | 'remove' | 'rename', name: string): void {
    if (this.refuse(operation, name)) throw new MapperError(ENOSPC, `${operation} ${name}: full`);
  }
}

function setUp() {
  const queue = new FakeQueue();
  const state = new StateDirectory('/s', new CrashFiles());
  const store = new FussyStore(state);
  const log = new QuietLog();
  const catalogue = new Catalogue(queue, store, log);
  /** What a restart would find. */
  const stored = async (): Promise<Record<string, string>> => {
    const { devices } = await state.load();
    return Object.fromEntries(devices.map(({ name, table }) => [name, stripComments(table)]));
  };
  return { queue, state, store, log, catalogue, stored };
}

t.test('create', async (t) => {
  t.test('stores a device with a table, not one without', async (t) => {
    const { queue, catalogue, stored } = setUp();
    await catalogue.create({ name: 'a', table: `# by me\n\n  ${zero}  \n` });
    await catalogue.create({ name: 'b' });
    t.same(await stored(), { a: zero });
    t.same(Object.keys(queue.tables), ['a', 'b']);
    t.ok(catalogue.counters('b') instanceof SharedArrayBuffer);
    t.equal(catalogue.counters('c'), null);
  });

  t.test('is refused by the queue, and nothing is stored', async (t) => {
    const { catalogue, stored } = setUp();
    await t.rejects(catalogue.create({ name: 'a', table: '0 8' }), /line 1: found 2 words/);
    await catalogue.create({ name: 'b', table: zero });
    await t.rejects(catalogue.create({ name: 'b', table: error }), { code: 'EEXIST' });
    t.same(await stored(), { b: zero });
    t.same(catalogue.names(), ['b']);
  });

  t.test('is undone when it cannot be stored', async (t) => {
    const { queue, store, catalogue, stored } = setUp();
    store.refuse = (operation) => operation === 'write';
    await t.rejects(catalogue.create({ name: 'a', table: zero }), { code: 'ENOSPC' });
    t.same(queue.tables, {});
    t.same(catalogue.names(), []);
    store.refuse = () => false;
    await catalogue.create({ name: 'a', table: error });
    t.same(await stored(), { a: error });
  });
});

t.test('load and resume', async (t) => {
  t.test('stores the loaded table with the resume', async (t) => {
    const { catalogue, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    await catalogue.load('a', error);
    t.same(await stored(), { a: zero });
    await catalogue.suspend('a', false);
    await catalogue.resume('a');
    t.same(await stored(), { a: error });
    await catalogue.resume('a');
    t.same(await stored(), { a: error });
  });

  t.test('forgets a table that was cleared', async (t) => {
    const { catalogue, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    await catalogue.load('a', error);
    await catalogue.clear('a');
    await catalogue.resume('a');
    t.same(await stored(), { a: zero });
  });

  t.test('stores a device made without a table at its first resume', async (t) => {
    const { catalogue, state } = setUp();
    await catalogue.create({ name: 'a', readOnly: true });
    await catalogue.load('a', zero);
    await catalogue.resume('a');
    const { devices } = await state.load();
    t.match(devices, [{ name: 'a', readOnly: true }]);
  });

  t.test('does not resume what it cannot store', async (t) => {
    const { queue, store, catalogue, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    await catalogue.load('a', error);
    store.refuse = (operation) => operation === 'write';
    await t.rejects(catalogue.resume('a'), { code: 'ENOSPC' });
    t.equal(queue.calls.includes('resume a'), false);
    t.same(queue.tables, { a: zero });
    store.refuse = () => false;
    await catalogue.resume('a');
    t.same(await stored(), { a: error });
  });

  t.test('has the table on disk before the queue swaps it in', async (t) => {
    const { queue, catalogue, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    await catalogue.load('a', error);
    let seen = {};
    queue.before = async (command) => {
      if (command === 'resume') seen = await stored();
    };
    await catalogue.resume('a');
    t.same(seen, { a: error });
  });

  t.test('puts the old file back when the queue refuses', async (t) => {
    const { queue, catalogue, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    await catalogue.load('a', error);
    await catalogue.create({ name: 'b' });
    await catalogue.load('b', error);
    queue.before = (command) => {
      if (command === 'resume') throw new MapperError(EIO, 'no');
    };
    await t.rejects(catalogue.resume('a'), { code: 'EIO' });
    await t.rejects(catalogue.resume('b'), { code: 'EIO' });
    t.same(await stored(), { a: zero });
    queue.before = () => {};
    await catalogue.resume('a');
    await catalogue.resume('b');
    t.same(await stored(), { a: error, b: error });
  });
});

t.test('remove', async (t) => {
  t.test('removes the file; a device in use keeps both', async (t) => {
    const { queue, catalogue, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    await catalogue.create({ name: 'b', table: overA });
    await t.rejects(catalogue.remove('a', false), { code: 'EBUSY' });
    t.same(await stored(), { a: zero, b: overA });
    await catalogue.remove('b', false);
    await catalogue.remove('a', false);
    t.same(await stored(), {});
    t.same(queue.tables, {});
    await t.rejects(catalogue.remove('a', false), { code: 'ENXIO' });
  });

  t.test('puts the device back when its file cannot be removed', async (t) => {
    const { queue, store, catalogue, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    store.refuse = (operation) => operation === 'remove';
    await t.rejects(catalogue.remove('a', false), { message: /full; the device was put back$/ });
    t.same(queue.tables, { a: zero });
    queue.before = (command) => {
      if (command === 'create') throw new MapperError(EIO, 'not again');
    };
    const gone = /full; the device is gone until the next start \(not again\)$/;
    await t.rejects(catalogue.remove('a', false), { message: gone });
    t.same(await stored(), { a: zero });
  });
});

t.test('rename', async (t) => {
  t.test('reaches a file that holds what is about to be swapped in', async (t) => {
    const { catalogue, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    await catalogue.create({ name: 'top', table: zero });
    // The first half of a swap; what lies beneath is renamed before the second.
    await catalogue.exclusively(['top'], async (steps) => {
      await steps.load('top', overA);
      await steps.fileAhead('top');
      t.same(await stored(), { a: zero, top: overA });
      await catalogue.rename('a', 'x');
      t.same(await stored(), { x: zero, top: '0 8 linear dm:x 0' });
      await steps.resume('top');
    });
    t.same(await stored(), { x: zero, top: '0 8 linear dm:x 0' });
    t.match(catalogue.known('top'), { live: '0 8 linear dm:x 0', inactive: null });
  });

  t.test('of a device that is about to get another table keeps that in its file', async (t) => {
    const { catalogue, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    await catalogue.load('a', error);
    await catalogue.exclusively([], async (steps) => {
      await steps.fileAhead('a');
      await steps.rename('a', 'x');
      t.same(await stored(), { x: error });
      await steps.resume('x');
    });
    t.same(await stored(), { x: error });
  });

  t.test('knows which table a file holds that could not be written', async (t) => {
    const { catalogue, store, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    await catalogue.create({ name: 'top', table: overA });
    await catalogue.load('top', error);
    store.refuse = (operation) => operation === 'write';
    await t.rejects(catalogue.resume('top'), { code: 'ENOSPC' });
    store.refuse = () => false;
    await catalogue.rename('a', 'x');
    t.same(await stored(), { x: zero, top: '0 8 linear dm:x 0' });
  });

  t.test('takes the tables above along, live and inactive', async (t) => {
    const { queue, catalogue, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    await catalogue.create({ name: 'b', table: overA });
    await catalogue.create({ name: 'c', table: zero });
    await catalogue.load('c', '0 8 linear /dev/mapper/a 0');
    await catalogue.rename('a', 'x');
    t.same(await stored(), { x: zero, b: '0 8 linear dm:x 0', c: zero });
    await catalogue.resume('c');
    t.match(await stored(), { c: '0 8 linear /dev/mapper/x 0' });
    t.same(catalogue.names(), ['b', 'c', 'x']);
    t.match(queue.tables, { c: '0 8 linear /dev/mapper/x 0' });
    await t.rejects(catalogue.rename('x', 'b'), { code: 'EEXIST' });
    await t.rejects(catalogue.rename('none', 'y'), { code: 'ENXIO' });
  });

  t.test('is undone when it cannot be stored', async (t) => {
    const { queue, store, catalogue, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    await catalogue.create({ name: 'b', table: overA });
    store.refuse = (operation) => operation === 'rename';
    await t.rejects(catalogue.rename('a', 'x'), { code: 'ENOSPC' });
    t.same(queue.tables, { a: zero, b: overA });
    t.same(catalogue.names(), ['a', 'b']);
    t.same(await stored(), { a: zero, b: overA });
  });

  t.test('reaches a table that is being loaded meanwhile', async (t) => {
    const { queue, catalogue, stored } = setUp();
    await catalogue.create({ name: 'a', table: zero });
    await catalogue.create({ name: 'b', table: zero });
    let loaded = (): void => {};
    // The queue has carried out the load when the rename comes, but its answer is late.
    const call = queue.call.bind(queue);
    queue.call = async (command, params) => {
      const result = await call(command, params);
      if (command === 'load') await new Promise<void>((resolve) => (loaded = resolve));
      return result;
    };
    const loading = catalogue.load('b', overA);
    await new Promise((resolve) => setTimeout(resolve, 10));
    await catalogue.rename('a', 'x');
    loaded();
    await loading;
    await catalogue.resume('b');
    t.same(await stored(), { x: zero, b: '0 8 linear dm:x 0' });
  });
});

t.test('commands on one device follow one another, on others they do not wait', async (t) => {
  const { queue, catalogue } = setUp();
  await catalogue.create({ name: 'a', table: zero });
  await catalogue.create({ name: 'b', table: zero });
  let release = (): void => {};
  const held = new Promise<void>((resolve) => (release = resolve));
  queue.before = (command, name) => (command === 'suspend' && name === 'a' ? held : undefined);
  const onA = Promise.all([catalogue.suspend('a', false), catalogue.resume('a')]);
  await catalogue.suspend('b', false);
  await catalogue.resume('b');
  t.notOk(queue.calls.includes('resume a'));
  release();
  await onA;
  await catalogue.settled();
  t.same(queue.calls.slice(2), ['suspend a', 'suspend b', 'resume b', 'resume a']);
});

t.test('restart', async (t) => {
  const stored = (name: string, table: string): StoredDevice => ({ name, table, readOnly: false });

  t.test('keeps a file that was not brought up until it is removed', async (t) => {
    const { catalogue, state, stored: onDisk } = setUp();
    await state.write(stored('bad', '0 8'));
    await state.write(stored('b', '0 8 linear dm:bad 0'));
    const { devices, problems } = await state.load();
    const all = await catalogue.restore(devices, problems, []);
    t.same(
      all.map(({ file, text }) => [file, text]),
      [
        ['bad.table', 'line 2: found 2 words, wanted: <first sector> <sectors> <target type> ...'],
        ['b.table', 'stands on "bad", which could not be brought up'],
      ],
    );
    const refused = { code: 'EEXIST', message: /was not brought up \(line 2: .*remove the device/ };
    await t.rejects(catalogue.create({ name: 'bad', table: zero }), refused);
    await catalogue.create({ name: 'c', table: zero });
    await t.rejects(catalogue.rename('c', 'bad'), refused);
    t.same(Object.keys(await onDisk()), ['b', 'bad', 'c']);
    await catalogue.remove('bad', false);
    await catalogue.create({ name: 'bad', table: zero });
    t.match(await onDisk(), { bad: zero });
  });

  t.test('never stores devices of the command line, but what stands on them', async (t) => {
    const { catalogue, stored: onDisk } = setUp();
    t.same(await catalogue.restore([stored('b', overA)], [], [stored('a', zero)]), []);
    await catalogue.load('a', error);
    await catalogue.resume('a');
    await catalogue.load('b', '0 4 linear dm:a 0');
    await catalogue.resume('b');
    t.same(await onDisk(), { b: '0 4 linear dm:a 0' });
    await catalogue.rename('a', 'x');
    t.same(await onDisk(), { b: '0 4 linear dm:x 0' });
    await catalogue.remove('b', false);
    await catalogue.remove('x', false);
    t.same(await onDisk(), {});
  });

  t.test('refuses a device both stored and on the command line', async (t) => {
    const { catalogue } = setUp();
    const both = catalogue.restore([stored('a', zero)], [], [stored('a', zero)]);
    await t.rejects(both, { code: 'EEXIST' });
  });

  t.test('without a store nothing is written', async (t) => {
    const queue = new FakeQueue();
    const catalogue = new Catalogue(queue, null, new QuietLog(), true);
    await catalogue.create({ name: 'a', table: zero });
    await catalogue.load('a', error);
    await catalogue.resume('a');
    await catalogue.rename('a', 'b');
    t.equal(queue.devices.get('b')?.readOnly, true);
    await catalogue.remove('b', false);
    t.same(queue.tables, {});
  });
});
