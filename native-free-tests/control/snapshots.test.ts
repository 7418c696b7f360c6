/** Snapshots as the control thread makes, removes and merges them, over a queue without I/O. */

import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { EIO } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import { Catalogue } from '../../src/control/catalogue.js';
import { completeCowBytes } from '../../src/control/snapshot/cow-file.js';
import { fillPercent, parseUsage } from '../../src/control/snapshot/list.js';
import { Snapshots } from '../../src/control/snapshots.js';
import { StateDirectory, type StoredDevice } from '../../src/control/state.js';
import type { StateFiles } from '../../src/control/state-files.js';
import { stripComments } from '../../src/control/table-text.js';
import type { QueueEvent } from '../../src/queue/commands.js';
import { CrashFiles, systemError } from './crash-files.js';
import { FakeQueue } from './fake-queue.js';
import { QuietLog } from './quiet-log.js';

const directories: string[] = [];
t.teardown(() => {
  for (const path of directories) rmSync(path, { recursive: true });
});

const vol = 'vol';
const sectors = 2048;
const image = '/none/vol.img';
const plain = `0 1024 linear ${image} 0\n1024 1024 linear ${image} 4096`;
const origin = `0 ${sectors} snapshot-origin dm:vol-real`;

/** A step of the state directory fails: the one of that number, or all from it on. */
class FailingFiles implements StateFiles {
  readonly files: StateFiles;
  fail: () => boolean = () => false;

  constructor(files: StateFiles) {
    this.files = files;
  }

  #do<T>(work: () => Promise<T>): Promise<T> {
    return this.fail() ? Promise.reject(systemError('ENOSPC')) : work();
  }

  list = (path: string) => this.#do(() => this.files.list(path));
  read = (path: string) => this.#do(() => this.files.read(path));
  create = (path: string, text: string) => this.#do(() => this.files.create(path, text));
  rename = (from: string, to: string) => this.#do(() => this.files.rename(from, to));
  unlink = (path: string) => this.#do(() => this.files.unlink(path));
  syncDirectory = (path: string) => this.#do(() => this.files.syncDirectory(path));
}

/** A control thread with a state directory: tables in memory, COW files on the disk. */
class Rig {
  readonly directory = mkdtempSync(join(tmpdir(), 'mapperd-snapshots-'));
  readonly queue = new FakeQueue();
  readonly crash = new CrashFiles();
  readonly files = new FailingFiles(this.crash);
  readonly state = new StateDirectory(this.directory, this.files);
  readonly log = new QuietLog();
  readonly catalogue = new Catalogue(this.queue, this.state, this.log);
  readonly snapshots = new Snapshots(this.queue, this.catalogue, this.directory, this.log);
  /** Breaches of what must hold at every step. */
  readonly wrong: string[] = [];

  constructor() {
    directories.push(this.directory);
    this.queue.before = (command, name) => this.watch(command, name);
    this.snapshots.started();
  }

  static async make(...snapshots: string[]): Promise<Rig> {
    const rig = new Rig();
    await rig.catalogue.create({ name: 'vol', table: plain });
    for (const name of snapshots) await rig.take(name);
    return rig;
  }

  take(name: string, more = {}) {
    this.active(name);
    return this.snapshots.snapshot({ origin: 'vol', name, ...more });
  }

  active(name: string): void {
    this.queue.statuses.set(name, '24/4112 16');
  }

  cow(name: string): string {
    return join(this.directory, `${name}.cow`);
  }

  line(name: string, type = 'P', chunk = 8): string {
    return `0 ${sectors} snapshot dm:vol-real ${this.cow(name)} ${type} ${chunk}`;
  }

  mergeLine(name: string): string {
    return `0 ${sectors} snapshot-merge dm:vol-real ${this.cow(name)} P 8`;
  }

  /** What the kernel would not forgive: a snapshot that comes or goes while its origin writes. */
  watch(command: string, name: string): void {
    const isSnapshot = this.queue.devices.get(name)?.live?.includes(' snapshot dm:');
    const vol = this.queue.devices.get('vol');
    const merging = vol?.live?.includes('snapshot-merge') ?? false;
    if (command === 'remove' && isSnapshot && !vol?.suspended && !merging) {
      this.wrong.push(`${command} ${name} while the origin is in use`);
    }
  }

  /** What a restart would find. */
  async stored(): Promise<Record<string, string>> {
    const { devices } = await this.state.load();
    return Object.fromEntries(devices.map(({ name, table }) => [name, stripComments(table)]));
  }

  /** Everything that a command that fails must leave as it was. */
  async world() {
    const devices = [...this.queue.devices.values()].map(
      ({ name, live, inactive, suspended, readOnly }) => [
        name,
        live,
        inactive,
        suspended,
        readOnly,
      ],
    );
    const known = this.catalogue.all();
    const stored = await this.stored();
    return { devices: devices.sort(), known, stored, files: readdirSync(this.directory).sort() };
  }

  async merged(name = 'vol'): Promise<void> {
    this.queue.statuses.set(name, '16/4112 16');
    this.snapshots.event({ event: 'target', name, what: 'merged' });
    await this.catalogue.settled();
  }
}

/** Live tables without what is only in a file. */
function plainTables(queue: FakeQueue): Record<string, string> {
  const tables = Object.entries(queue.tables);
  return Object.fromEntries(tables.map(([name, table]) => [name, stripComments(table ?? '')]));
}

t.test('taking a snapshot', async (t) => {
  t.test('moves the table to the real device and makes a sparse COW', async (t) => {
    const rig = await Rig.make();
    const made = await rig.take('snap');
    t.match(made, { name: 'snap', origin: 'vol', cow: rig.cow('snap'), chunkSectors: 8 });
    t.equal(made.stored, true);
    const tables = { vol: origin, 'vol-real': plain, snap: rig.line('snap') };
    t.same(rig.queue.tables, tables);
    t.same(await rig.stored(), tables);
    const cow = statSync(rig.cow('snap'));
    // 256 chunks make one area full: there is another for the end of the list.
    t.equal(cow.size, (1 + 256 + 2) * 4096);
    t.equal(cow.size, made.cowBytes);
    t.equal(cow.mode & 0o777, 0o600);
    t.equal(cow.blocks, 0);
    t.equal(rig.queue.devices.get('vol')?.suspended, false);
    t.same(rig.wrong, []);
  });

  t.test('suspends the origin without a flush, and for nothing but the snapshot', async (t) => {
    const rig = await Rig.make();
    const noFlush: unknown[] = [];
    const call = rig.queue.call.bind(rig.queue);
    rig.queue.call = (command, params) => {
      if (command === 'suspend') noFlush.push(params);
      return call(command, params);
    };
    await rig.take('snap');
    t.same(noFlush, [{ name: 'vol', noFlush: true }]);
    const calls = rig.queue.calls;
    const from = calls.indexOf('suspend vol');
    t.same(calls.slice(from), ['suspend vol', 'create snap', 'resume vol']);
  });

  t.test('keeps the time in the file of the snapshot', async (t) => {
    const rig = await Rig.make();
    const { created } = await rig.take('snap', { readOnly: true });
    t.match(created, /^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
    const { devices, problems } = await rig.state.load();
    t.match(
      devices.find(({ name }) => name === 'snap'),
      { created, readOnly: true },
    );
    const again = new Catalogue(new FakeQueue(), rig.state, rig.log);
    t.same(await again.restore(devices, problems, []), []);
    t.equal(again.known('snap')?.created, created);
    t.equal(again.known('vol')?.created, undefined);
    await rig.catalogue.rename('snap', 'other');
    t.equal(rig.catalogue.known('other')?.created, created);
    t.match(
      (await rig.state.load()).devices.find(({ name }) => name === 'other'),
      { created },
    );
  });

  t.test('takes a second one over the same real device', async (t) => {
    const rig = await Rig.make('one');
    await rig.take('two', { transient: true, chunkSectors: 64 });
    t.match(rig.queue.tables, {
      vol: origin,
      one: rig.line('one'),
      two: rig.line('two', 'N', 64),
    });
    t.equal(statSync(rig.cow('two')).size, sectors * 512);
    t.same(await rig.stored(), rig.queue.tables);
  });

  t.test('uses the twin of the real device that a crash left behind', async (t) => {
    const rig = await Rig.make();
    await rig.catalogue.create({ name: 'vol-real', table: plain });
    await rig.take('snap');
    t.match(rig.queue.tables, { vol: origin, 'vol-real': plain });
    const other = await Rig.make();
    await other.catalogue.create({ name: 'vol-real', table: '0 8 zero' });
    const exists = /^device "vol-real" exists already, with a table of its own: remove it if/;
    await t.rejects(other.take('snap'), { code: 'EEXIST', message: exists });
  });

  t.test('without a state directory stores nothing, and needs a file', async (t) => {
    const rig = new Rig();
    const catalogue = new Catalogue(rig.queue, null, rig.log);
    const snapshots = new Snapshots(rig.queue, catalogue, null, rig.log);
    await catalogue.create({ name: 'vol', table: plain });
    const wanted = {
      code: 'EINVAL',
      message: /without a state directory: wanted a file \(--cow\)/,
    };
    await t.rejects(snapshots.snapshot({ origin: 'vol', name: 's' }), wanted);
    const cow = join(rig.directory, 'elsewhere');
    const made = await snapshots.snapshot({ origin: 'vol', name: 's', cow });
    t.equal(made.stored, false);
    t.match(rig.queue.tables, { s: `0 2048 snapshot dm:vol-real ${cow} P 8` });
    const { notes } = await snapshots.remove({ name: 's' });
    t.same(notes, [`COW ${cow} is left where it is`]);
    t.same(rig.queue.tables, { vol: plain });
    t.ok(existsSync(cow));
  });

  t.test('of a device of the command line is not stored', async (t) => {
    const rig = new Rig();
    const device = { name: 'vol', table: plain, readOnly: true };
    t.same(await rig.catalogue.restore([], [], [device]), []);
    t.equal((await rig.take('snap')).stored, false);
    t.same(await rig.stored(), {});
    t.equal(rig.queue.devices.get('vol-real')?.readOnly, true);
    await rig.snapshots.remove({ name: 'snap' });
    t.same(rig.queue.tables, { vol: plain });
  });

  t.test('is refused where it makes no sense', async (t) => {
    const rig = await Rig.make('snap');
    const refused = async (
      code: string,
      message: RegExp,
      origin: string,
      name = 'new',
    ): Promise<void> => {
      const before = await rig.world();
      await t.rejects(rig.snapshots.snapshot({ origin, name }), { code, message }, `${message}`);
      t.same(await rig.world(), before);
    };
    await refused('ENXIO', /^no device "none"$/, 'none');
    await refused('EEXIST', /^device "snap" exists already$/, 'vol', 'snap');
    await refused('EINVAL', /^"snap" is a snapshot itself/, 'snap');
    await refused('EINVAL', /is what "vol" has its snapshots over/, 'vol-real');
    await rig.catalogue.create({ name: 'mix', table: '0 8 snapshot-merge /o /c P 8' });
    await refused('EBUSY', /^a snapshot is being merged into "mix": take another/, 'mix');
    await rig.catalogue.create({ name: 'ram', table: '0 8 memory' });
    await refused('EINVAL', /^"ram" has its data in its own table \(memory\): put a linear/, 'ram');
    await rig.catalogue.create({ name: 'empty' });
    await refused('ENXIO', /^device "empty" has no live table$/, 'empty');
    await rig.catalogue.create({ name: 'z', table: '0 8 zero' });
    await refused('EEXIST', /^"z-real" is where the table of "z" goes$/, 'z', 'z-real');
    await rig.catalogue.load('z', '0 16 zero');
    await refused('EBUSY', /^device "z" has an inactive table/, 'z');
    await rig.catalogue.clear('z');
    await rig.catalogue.suspend('z', false);
    await refused('EBUSY', /^device "z" is suspended: resume it first$/, 'z');
  });
});

t.test('the COW', async (t) => {
  t.test('has room for every chunk, the areas and the end of the list', async (t) => {
    const chunks = (sectors: number, chunk: number, persistent = true) =>
      completeCowBytes(sectors, chunk, persistent) / (chunk * 512);
    t.equal(chunks(31, 1), 1 + 31 + 1);
    t.equal(chunks(32, 1), 1 + 32 + 2);
    t.equal(chunks(33, 1), 1 + 33 + 2);
    t.equal(chunks(2 ** 21, 8), 1 + 2 ** 18 + 1025);
    t.equal(chunks(9, 8), 1 + 2 + 1);
    t.equal(chunks(9, 8, false), 2);
  });

  t.test('may be a file of the caller, if its first chunk is empty', async (t) => {
    const rig = await Rig.make();
    const cow = join(rig.directory, 'my cow');
    writeFileSync(cow, Buffer.concat([Buffer.alloc(4096), Buffer.alloc(60_000, 'x')]));
    const made = await rig.take('snap', { cow });
    t.equal(made.cowBytes, 64_096);
    t.match(rig.queue.tables, {
      snap: `0 2048 snapshot dm:vol-real ${cow.replaceAll(' ', '\\ ')} P 8`,
    });
    const { notes } = await rig.snapshots.remove({ name: 'snap' });
    t.equal(notes.length, 1);
    t.equal(statSync(cow).size, 64_096);
  });

  t.test('is made in the size that was asked for, also of an empty file', async (t) => {
    const rig = await Rig.make();
    const cow = join(rig.directory, 'empty');
    writeFileSync(cow, '');
    const wantsSize = { code: 'EINVAL', message: /has 0 bytes, wanted a size for it \(--size\)/ };
    await t.rejects(rig.take('snap', { cow }), wantsSize);
    await rig.take('snap', { cow, cowBytes: 2 ** 20 });
    t.equal(statSync(cow).size, 2 ** 20);
    await rig.take('two', { cowBytes: 2 ** 16 });
    t.equal(statSync(rig.cow('two')).size, 2 ** 16);
    const few = /^COW ".*three.cow": 8192 bytes are too few, wanted at least 3 chunks of 4\.0 KiB$/;
    await t.rejects(rig.take('three', { cowBytes: 8192 }), { code: 'EINVAL', message: few });
    const larger = {
      code: 'EEXIST',
      message: /is there already with 1048576 bytes, wanted 2097152/,
    };
    const free = join(rig.directory, 'free');
    writeFileSync(free, Buffer.alloc(2 ** 20));
    await t.rejects(rig.take('three', { cow: free, cowBytes: 2 ** 21 }), larger);
    t.notOk(existsSync(rig.cow('three')));
  });

  t.test('that holds something is told and kept, unless it is to be wiped', async (t) => {
    const rig = await Rig.make();
    const header = Buffer.alloc(65_536, 'x');
    header.fill(0, 0, 4096);
    header.write('SnAp', 0, 'latin1');
    header.writeUInt32LE(1, 4);
    header.writeUInt32LE(1, 8);
    header.writeUInt32LE(32, 12);
    const cow = join(rig.directory, 'used');
    writeFileSync(cow, header);
    const found = /holds a valid snapshot's exceptions \(SnAp header, chunks of 32 sectors\)/;
    await t.rejects(rig.take('snap', { cow }), { code: 'EEXIST', message: found });
    const data = join(rig.directory, 'data');
    writeFileSync(data, Buffer.alloc(65_536, 'x'));
    const holdsData = { code: 'EEXIST', message: /holds data, wanted zeroes: wipe it \(--wipe\)/ };
    await t.rejects(rig.take('snap', { cow: data }), holdsData);
    t.same(readFileSync(cow), header);
    rig.queue.before = (command, name) => {
      if (command === 'create' && name === 'snap') throw new MapperError(EIO, 'no');
    };
    await t.rejects(rig.take('snap', { cow, wipe: true }), { code: 'EIO' });
    t.same(readFileSync(cow), header, 'what was wiped is back');
    rig.queue.before = () => {};
    await rig.take('snap', { cow, wipe: true });
    t.ok(readFileSync(cow).subarray(0, 4096).equals(Buffer.alloc(4096)));
    t.equal(readFileSync(cow)[4096], 'x'.charCodeAt(0));
  });

  t.test('of an earlier snapshot is not taken for a new one', async (t) => {
    const rig = await Rig.make('snap');
    t.same(await rig.snapshots.remove({ name: 'snap', keepCow: true }), {
      origin: 'vol',
      notes: [],
    });
    const kept = { code: 'EEXIST', message: /is there already, and may hold what a snapshot kept/ };
    await t.rejects(rig.take('snap'), kept);
    await rig.take('snap', { wipe: true });
    t.match(rig.queue.tables, { snap: rig.line('snap') });
  });

  t.test('is refused while a device uses it, under whatever name', async (t) => {
    const rig = await Rig.make();
    const cow = join(rig.directory, 'shared');
    writeFileSync(cow, Buffer.alloc(65_536));
    symlinkSync(cow, join(rig.directory, 'alias'));
    await rig.catalogue.create({ name: 'user', table: `0 8 linear file://${cow} 0` });
    const used = { code: 'EBUSY', message: /is in use by device "user"$/ };
    await t.rejects(rig.take('snap', { cow }), used);
    await t.rejects(rig.take('snap', { cow: join(rig.directory, 'alias'), wipe: true }), used);
    const device = { code: 'EINVAL', message: /found a device, wanted a file or block device/ };
    await t.rejects(rig.take('snap', { cow: '/dev/mapper/user' }), device);
    await t.rejects(rig.take('snap', { cow: rig.directory }), { code: /^E(INVAL|ISDIR|IO)$/ });
    await t.rejects(rig.take('snap', { cow: '/none/such' }), { code: 'ENOENT', message: /^COW "/ });
  });

  t.test('of two snapshots at once goes to one of them', async (t) => {
    const rig = await Rig.make();
    await rig.catalogue.create({ name: 'other', table: plain });
    const cow = join(rig.directory, 'one');
    writeFileSync(cow, Buffer.alloc(65_536));
    const both = await Promise.allSettled([
      rig.take('a', { cow }),
      rig.snapshots.snapshot({ origin: 'other', name: 'b', cow }),
    ]);
    t.same(
      both.map(({ status }) => status),
      ['fulfilled', 'rejected'],
    );
    t.same(Object.keys(rig.queue.tables).sort(), ['a', 'other', 'vol', 'vol-real']);
  });
});

t.test('removing a snapshot', async (t) => {
  t.test('gives the origin its table back with the last one', async (t) => {
    const rig = await Rig.make('one', 'two');
    t.same(await rig.snapshots.remove({ name: 'one' }), { origin: 'vol', notes: [] });
    t.same(rig.queue.tables, { vol: origin, 'vol-real': plain, two: rig.line('two') });
    t.same(await rig.stored(), rig.queue.tables);
    t.same(await rig.snapshots.remove({ name: 'two' }), { origin: 'vol', notes: [] });
    t.same(rig.queue.tables, { vol: plain });
    t.same(await rig.stored(), { vol: plain });
    t.same(readdirSync(rig.directory), []);
    t.equal(rig.queue.devices.get('vol')?.suspended, false);
    t.same(rig.wrong, []);
  });

  t.test('is refused while it is in use, unless by force', async (t) => {
    const rig = await Rig.make('snap');
    rig.queue.clients.set('snap', 2);
    const before = await rig.world();
    const busy = { code: 'EBUSY', message: /^device "snap" is in use \(open count 2\)$/ };
    await t.rejects(rig.snapshots.remove({ name: 'snap' }), busy);
    t.same(await rig.world(), before);
    await rig.snapshots.remove({ name: 'snap', force: true });
    t.same(rig.queue.tables, { vol: plain });
  });

  t.test('works on an invalid one, and on one that has no origin', async (t) => {
    const rig = await Rig.make('snap');
    rig.queue.statuses.set('snap', 'Invalid');
    await rig.snapshots.remove({ name: 'snap' });
    t.same(rig.queue.tables, { vol: plain });
    await rig.catalogue.create({ name: 'lone', table: `0 8 snapshot ${image} /none/cow P 8` });
    const done = await rig.snapshots.remove({ name: 'lone' });
    t.same(done, { origin: null, notes: ['COW /none/cow is left where it is'] });
    t.same(await rig.stored(), { vol: plain });
  });

  t.test('leaves what others stand on, and says so', async (t) => {
    const rig = await Rig.make('snap');
    await rig.catalogue.create({ name: 'peek', table: '0 8 linear dm:vol-real 0' });
    const { notes } = await rig.snapshots.remove({ name: 'snap' });
    t.same(notes, ['"vol" keeps "vol-real", which "peek" stands on']);
    t.same(Object.keys(rig.queue.tables).sort(), ['peek', 'vol', 'vol-real']);
    t.match(rig.queue.tables, { vol: origin });
    await rig.catalogue.remove('peek', false);
    await rig.take('again');
    rig.queue.clients.set('vol-real', 1);
    const again = await rig.snapshots.remove({ name: 'again' });
    t.match(again.notes, [/^cannot remove "vol-real": .* in use by a client$/]);
    t.same(rig.queue.tables, { vol: plain, 'vol-real': plain });
    // The next snapshot takes it for its own.
    await rig.take('third');
    t.match(rig.queue.tables, { vol: origin, 'vol-real': plain });
  });

  t.test('follows an origin and its real device that were renamed', async (t) => {
    const rig = await Rig.make('snap');
    await rig.catalogue.rename('vol', 'new');
    await rig.snapshots.snapshot({ origin: 'new', name: 'two' });
    t.match(rig.queue.tables, { two: rig.line('two'), new: origin });
    await rig.catalogue.rename('vol-real', 'new-real');
    await rig.snapshots.remove({ name: 'snap' });
    await rig.snapshots.remove({ name: 'two' });
    t.same(rig.queue.tables, { new: plain });
  });

  t.test('is refused for what is no snapshot, and for an origin half changed', async (t) => {
    const rig = await Rig.make('snap');
    const none = {
      code: 'EINVAL',
      message: /^"vol" is no snapshot, its snapshot is "snap"$/,
    };
    await t.rejects(rig.snapshots.remove({ name: 'vol' }), none);
    await t.rejects(rig.snapshots.remove({ name: 'none' }), { code: 'ENXIO' });
    await rig.catalogue.suspend('vol', false);
    await t.rejects(rig.snapshots.remove({ name: 'snap' }), {
      code: 'EBUSY',
      message: /suspended/,
    });
    t.equal(rig.queue.devices.get('vol')?.suspended, true, 'it is theirs who suspended it');
  });
});

t.test('merging a snapshot', async (t) => {
  t.test(
    'puts a merge in the place of the origin, and gives it its table at the end',
    async (t) => {
      const rig = await Rig.make('snap');
      rig.queue.calls.length = 0;
      t.same(await rig.snapshots.merge('snap'), { origin: 'vol', notes: [] });
      t.same(rig.queue.tables, { vol: rig.mergeLine('snap'), 'vol-real': plain });
      t.same(await rig.stored(), rig.queue.tables);
      const calls = rig.queue.calls;
      t.same(calls.slice(calls.indexOf('load vol')), [
        'load vol',
        'suspend vol',
        'suspend snap',
        'resume vol',
        'remove snap',
      ]);
      t.ok(existsSync(rig.cow('snap')));
      await rig.merged();
      t.same(rig.queue.tables, { vol: plain });
      t.same(await rig.stored(), { vol: plain });
      t.same(readdirSync(rig.directory), []);
    },
  );

  t.test('leaves the other snapshots where they are', async (t) => {
    const rig = await Rig.make('one', 'two', 'three');
    await rig.snapshots.merge('one');
    await rig.snapshots.remove({ name: 'two' });
    const second = { code: 'EBUSY', message: /^A snapshot is already merging\./ };
    await t.rejects(rig.snapshots.merge('three'), second);
    t.match(rig.queue.tables, { vol: rig.mergeLine('one') });
    await rig.merged();
    const tables = { vol: origin, 'vol-real': plain, three: rig.line('three') };
    t.same(rig.queue.tables, tables);
    t.same(await rig.stored(), tables);
    t.same(readdirSync(rig.directory), ['three.cow']);
  });

  t.test('is refused for a snapshot that cannot be merged', async (t) => {
    const rig = await Rig.make('snap');
    await rig.take('brief', { transient: true });
    const before = await rig.world();
    const transient = { code: 'EINVAL', message: /^Snapshot exception store does not support/ };
    await t.rejects(rig.snapshots.merge('brief'), transient);
    for (const [words, state] of [
      ['Invalid', 'invalid'],
      ['Overflow', 'overflow'],
      ['Merge failed', 'merge failed'],
      ['Unknown', 'unknown'],
    ] as const) {
      rig.queue.statuses.set('snap', words);
      const message = `snapshot "snap" is ${state}, wanted an active one`;
      await t.rejects(rig.snapshots.merge('snap'), { code: 'EINVAL', message });
    }
    rig.active('snap');
    rig.queue.clients.set('snap', 1);
    await t.rejects(rig.snapshots.merge('snap'), { code: 'EBUSY', message: /open count 1/ });
    rig.queue.clients.clear();
    await t.rejects(rig.snapshots.merge('vol'), { code: 'EINVAL', message: /is no snapshot/ });
    t.same(await rig.world(), before);
    await rig.catalogue.create({ name: 'lone', table: `0 8 snapshot ${image} /none/cow P 8` });
    await t.rejects(rig.snapshots.merge('lone'), { message: /no device is the origin of "lone"/ });
  });

  t.test('ends only what it began, and what is over', async (t) => {
    const rig = await Rig.make('snap');
    await rig.catalogue.create({ name: 'hand', table: `0 8 snapshot-merge ${image} /none/c P 8` });
    await rig.merged('hand');
    await rig.merged('none');
    await rig.snapshots.merge('snap');
    rig.queue.statuses.set('vol', '24/4112 16');
    const before = await rig.world();
    const event: QueueEvent = { event: 'target', name: 'vol', what: 'merged' };
    rig.snapshots.event(event);
    rig.snapshots.event({ ...event, what: 'merge failed' });
    rig.snapshots.event({ event: 'device', name: 'vol', what: 'resume' });
    await rig.catalogue.settled();
    t.same(await rig.world(), before);
  });

  t.test('waits with the end while somebody has the origin suspended', async (t) => {
    const rig = await Rig.make('snap');
    await rig.snapshots.merge('snap');
    await rig.catalogue.suspend('vol', false);
    await rig.merged();
    t.equal(rig.queue.devices.get('vol')?.suspended, true);
    t.match(rig.queue.tables, { vol: rig.mergeLine('snap') });
    await rig.catalogue.resume('vol');
    rig.snapshots.event({ event: 'device', name: 'vol', what: 'resume' });
    await rig.catalogue.settled();
    t.same(rig.queue.tables, { vol: plain });
  });

  t.test('does not end before the snapshot is out of the state directory', async (t) => {
    const rig = await Rig.make('snap');
    let merging = false;
    rig.files.unlink = (path) => {
      if (merging && path.endsWith('snap.table')) return Promise.reject(systemError('EIO'));
      return rig.crash.unlink(path);
    };
    merging = true;
    t.match((await rig.snapshots.merge('snap')).notes, [/^cannot remove "snap": .*told to fail$/]);
    await rig.merged();
    t.match(rig.queue.tables, { vol: rig.mergeLine('snap') });
    merging = false;
    await rig.merged();
    t.same(rig.queue.tables, { vol: plain });
    t.same(await rig.stored(), { vol: plain });
  });

  t.test('goes on after a restart, and ends when all devices are up', async (t) => {
    const rig = await Rig.make('snap');
    await rig.snapshots.merge('snap');
    const { devices, problems } = await rig.state.load();
    const queue = new FakeQueue();
    const catalogue = new Catalogue(queue, rig.state, rig.log);
    const snapshots = new Snapshots(queue, catalogue, rig.directory, rig.log);
    queue.before = (command, name) => {
      if (command !== 'create' || name !== 'vol') return;
      queue.statuses.set('vol', '16/4112 16');
      snapshots.event({ event: 'target', name: 'vol', what: 'merged' });
    };
    t.same(await catalogue.restore(devices, problems, []), []);
    t.same(plainTables(queue), { vol: rig.mergeLine('snap'), 'vol-real': plain });
    snapshots.started();
    await catalogue.settled();
    t.same(plainTables(queue), { vol: plain });
    t.same(await rig.stored(), { vol: plain });
    t.notOk(existsSync(rig.cow('snap')));
  });
});

t.test('listing snapshots', async (t) => {
  t.test('tells states, numbers and whose they are', async (t) => {
    const rig = await Rig.make('one', 'two');
    await rig.take('three', { transient: true, chunkSectors: 16 });
    rig.queue.statuses.set('two', 'Invalid');
    rig.queue.statuses.set('three', '0/2048 0');
    await rig.catalogue.create({ name: 'lone', table: `0 8 snapshot ${image} /none/cow PO 8` });
    rig.queue.statuses.set('lone', 'Overflow');
    const list = await rig.snapshots.list();
    const numbers = { exceptions: null, usedBytes: null, totalBytes: null, percent: null };
    t.match(list, [
      { name: 'lone', origin: image, type: 'PO', state: 'overflow', created: null, ...numbers },
      {
        name: 'one',
        origin: 'vol',
        type: 'P',
        state: 'active',
        chunkSectors: 8,
        exceptions: 1,
        usedBytes: 24 * 512,
        totalBytes: 4112 * 512,
        percent: 100 * (24 / 4112),
        created: /Z$/,
        cow: rig.cow('one'),
      },
      { name: 'three', type: 'N', chunkSectors: 16, exceptions: 0, percent: 0 },
      { name: 'two', state: 'invalid', ...numbers },
    ]);
    t.equal(list.length, 4);
    t.same(
      (await rig.snapshots.list('vol')).map(({ name }) => name),
      ['one', 'three', 'two'],
    );
    await t.rejects(rig.snapshots.list('none'), { code: 'ENXIO' });
    await rig.snapshots.merge('one');
    rig.queue.statuses.set('vol', '24/4112 16');
    const merging = (await rig.snapshots.list('vol')).find(({ name }) => name === 'vol');
    t.match(merging, { name: 'vol', origin: 'vol', state: 'merging', exceptions: 1 });
  });

  t.test('counts as LVM2 does', async (t) => {
    t.equal(fillPercent(16, 200, 16), 0);
    t.equal(fillPercent(24, 200, 16), 12);
    t.equal(fillPercent(200, 200, 16), 100);
    t.match(parseUsage('16/512', false), { state: 'active', metadata: 0 });
    t.match(parseUsage('16/512 16', true), { state: 'merged' });
    t.match(parseUsage('17/512 16', true), { state: 'merging' });
    t.match(parseUsage('Unknown', false), { state: 'unknown', allocated: null });
  });
});

/** Commands that change tables, each with the rig that it starts from. */
const dances: Record<string, { start: () => Promise<Rig>; run: (rig: Rig) => Promise<unknown> }> = {
  'the first snapshot': { start: () => Rig.make(), run: (rig) => rig.take('snap') },
  'a second snapshot': { start: () => Rig.make('one'), run: (rig) => rig.take('snap') },
  'removing one of two': {
    start: () => Rig.make('one', 'two'),
    run: (rig) => rig.snapshots.remove({ name: 'one' }),
  },
  'removing the last': {
    start: () => Rig.make('one'),
    run: (rig) => rig.snapshots.remove({ name: 'one' }),
  },
  'beginning a merge': {
    start: () => Rig.make('one'),
    run: (rig) => rig.snapshots.merge('one'),
  },
  'beginning a merge beside another': {
    start: () => Rig.make('one', 'two'),
    run: (rig) => rig.snapshots.merge('one'),
  },
  'ending a merge': {
    start: async () => {
      const rig = await Rig.make('one');
      await rig.snapshots.merge('one');
      return rig;
    },
    run: (rig) => rig.merged(),
  },
};

/** Fails the step of that number, of the queue or of the state directory; tells what it was. */
function failStep(rig: Rig, at: number, forGood: boolean): { failed: () => string | null } {
  let step = -1;
  let failed: string | null = null;
  const fails = (what: string): boolean => {
    step++;
    if (forGood ? step < at : step !== at) return false;
    failed ??= what;
    return true;
  };
  rig.queue.before = (command, name) => {
    rig.watch(command, name);
    // A queue that refuses everything for good is gone: nothing could be asserted.
    if (!forGood && fails(`${command} ${name}`)) throw new MapperError(EIO, 'told to fail');
  };
  rig.files.fail = () => fails('a file');
  return { failed: () => failed };
}

function mend(rig: Rig): void {
  rig.queue.before = () => {};
  rig.files.fail = () => false;
}

/** The snapshot is gone for good: what fails from here on is told instead of taken back. */
function isPastReturn({ queue }: Rig, before: Awaited<ReturnType<Rig['world']>>): boolean {
  const table = (name: unknown) => queue.devices.get(`${name}`)?.live ?? '';
  return before.devices.some(
    ([name, live]) =>
      (`${live}`.includes(' snapshot dm:') && table(name) === '') ||
      (`${live}` === origin && table(name).includes('snapshot-merge')),
  );
}

async function failEverywhere(t: Test, name: string): Promise<void> {
  const { start, run } = dances[name] as (typeof dances)[string];
  let steps = 0;
  for (; ; steps++) {
    const rig = await start();
    const before = await rig.world();
    const { failed } = failStep(rig, steps, false);
    const error: unknown = await run(rig).then(
      () => null,
      (error) => error,
    );
    mend(rig);
    const where = `${name}: step ${steps}, ${failed()}`;
    if (failed() === null) {
      t.equal(error, null, where);
      break;
    }
    t.equal(rig.queue.devices.get('vol')?.suspended, false, where);
    t.same(rig.wrong, [], where);
    const stored = await rig.stored();
    checkStored(t, stored, where);
    if (isPastReturn(rig, before) || name === 'ending a merge') continue;
    t.ok(error instanceof MapperError, where);
    t.notMatch(`${error}`, /taking back/, where);
    t.same(await rig.world(), before, where);
    // Whatever is left behind is in nobody's way.
    await run(rig);
  }
  t.ok(steps > 5, `${steps} steps`);
}

/** No stored origin can be written past a stored snapshot, and everything can be brought up. */
function checkStored(t: Test, stored: Record<string, string>, where: string): void {
  for (const [name, table] of Object.entries(stored)) {
    if (!table.includes(' snapshot dm:vol-real ')) continue;
    t.match(stored[vol], / snapshot-(origin|merge) dm:vol-real/, `${where}: ${name} and vol`);
    t.equal(stored['vol-real'], plain, `${where}: ${name} and vol-real`);
  }
  if (/dm:vol-real/.test(stored[vol] ?? '')) t.equal(stored['vol-real'], plain, where);
  t.ok(stored[vol] !== undefined, where);
}

t.test('a failure at any step leaves everything as it was', async (t) => {
  for (const name of Object.keys(dances)) {
    await t.test(name, (t) => failEverywhere(t, name));
  }
});

t.test('a state directory that fails for good never leaves an origin suspended', async (t) => {
  for (const [name, { start, run }] of Object.entries(dances)) {
    for (let at = 0; ; at++) {
      const rig = await start();
      const { failed } = failStep(rig, at, true);
      await run(rig).catch(() => {});
      mend(rig);
      if (failed() === null) break;
      const suspended = [...rig.queue.devices.values()].filter((device) => device.suspended);
      t.same(suspended, [], `${name}: from file operation ${at} on`);
      for (const { live } of rig.queue.devices.values()) {
        if (live?.includes(' snapshot dm:'))
          t.match(rig.queue.tables[vol], / snapshot-(origin|merge)/);
      }
    }
  }
});

async function crashEverywhere(t: Test, name: string): Promise<void> {
  const { start, run } = dances[name] as (typeof dances)[string];
  for (let operations = 0; ; operations++) {
    const rig = await start();
    rig.crash.operationsLeft = operations;
    await run(rig).catch(() => {});
    for (let kept = 0; kept <= rig.crash.unsynced; kept++) {
      const where = `${name}: after ${operations} operations, ${kept} unsynced kept`;
      const files = new CrashFiles(rig.crash.afterCrash(kept));
      const state = new StateDirectory(rig.directory, files);
      const { devices, problems } = await state.load();
      const tables = Object.fromEntries(
        devices.map((device: StoredDevice) => [device.name, stripComments(device.table)]),
      );
      checkStored(t, tables, where);
      const queue = new FakeQueue();
      const catalogue = new Catalogue(queue, state, rig.log);
      t.same(await catalogue.restore(devices, problems, []), [], where);
      // One COW is never used twice, and no snapshot is lost to a merge that never was.
      const users = Object.values(queue.tables).filter((table) => table?.includes('one.cow'));
      t.ok(users.length <= 1, where);
      if (name.startsWith('beginning')) t.equal(users.length, 1, where);
      const stored = await new StateDirectory(rig.directory, files).load();
      t.same(stored.devices.map((one) => one.name).sort(), Object.keys(queue.tables).sort(), where);
    }
    if (rig.crash.operationsLeft > 0) break;
  }
}

t.test('a crash at any write leaves a state that comes up, with its snapshots true', async (t) => {
  for (const name of Object.keys(dances)) {
    await t.test(name, (t) => crashEverywhere(t, name));
  }
});

t.test('a restart', async (t) => {
  const device = (name: string, table: string): StoredDevice => ({ name, table, readOnly: false });
  const cow = (type: string) => `0 8 snapshot dm:vol-real /none/c ${type} 8`;
  const up = async (failing: string, ...devices: StoredDevice[]) => {
    const queue = new FakeQueue();
    const catalogue = new Catalogue(queue, null, new QuietLog());
    queue.before = (command, name) => {
      if (command === 'create' && name === failing) throw new MapperError(EIO, 'no COW');
    };
    const problems = await catalogue.restore(devices, [], []);
    return { order: [...queue.devices.keys()], problems: problems.map(({ text }) => text) };
  };
  const vol = device('vol', '0 8 snapshot-origin dm:vol-real');
  const real = device('vol-real', '0 8 zero');

  t.test('brings an origin up after its snapshots', async (t) => {
    const { order, problems } = await up('', vol, device('z', cow('P')), real);
    t.same(problems, []);
    t.same(order, ['vol-real', 'z', 'vol']);
  });

  t.test('keeps an origin down that would be written past a snapshot', async (t) => {
    const { order, problems } = await up('z', vol, device('z', cow('P')), real);
    t.same(order, ['vol-real']);
    t.match(problems, ['no COW', /^its snapshot "z" could not be brought up, and would miss/]);
    t.same((await up('z', vol, device('z', cow('N')), real)).order, ['vol-real', 'vol']);
  });
});
