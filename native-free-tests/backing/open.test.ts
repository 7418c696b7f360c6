import t from 'tap';
import { deviceNamed } from '../../src/backing/device.js';
import { dependencies, parseFileWord } from '../../src/backing/open.js';
import { EACCES } from '../../src/base/errno.js';
import { stackDepth } from '../../src/base/limits.js';
import { READ, TRIM, WRITE } from '../../src/device/io.js';
import { pattern } from '../device/io-client.js';
import { World } from '../device/world.js';

t.test('takes paths and file URIs apart', async (t) => {
  const words: [string, string, boolean][] = [
    ['/dev/sda', '/dev/sda', false],
    ['/a path/with?direct=1', '/a path/with?direct=1', false],
    ['file:///srv/disk.img', '/srv/disk.img', false],
    ['file:///srv/disk.img?direct=1', '/srv/disk.img', true],
    ['file:///srv/disk.img?direct=0', '/srv/disk.img', false],
    ['file:///a%20b/%C3%A4%3F', '/a b/ä?', false],
  ];
  for (const [word, path, direct] of words) t.same(parseFileWord(word), { path, direct }, word);
});

t.test('rejects words that name no file', async (t) => {
  const words: [string, RegExp][] = [
    ['disk.img', /^found "disk.img", wanted an absolute path/],
    ['', /^found "", wanted an absolute path/],
    ['nbd://host/x', /wanted an absolute path/],
    ['file:disk.img', /^found "file:disk.img", wanted file:\/\/\/path/],
    ['file:/srv/disk.img', /wanted file:\/\/\/path/],
    ['file://host/srv/disk.img', /wanted file:\/\/\/path/],
    ['file:///srv/disk.img#1', /wanted file:\/\/\/path/],
    ['file:///srv/disk.img?cache=none', /^"cache" unknown in "file:/],
    ['file:///srv/disk.img?direct=yes', /^direct=yes in "file:.*", wanted 0 or 1$/],
    ['file:///srv/disk.img?direct', /^direct= in "file:.*", wanted 0 or 1$/],
    ['file:///srv/%zz', /^bad percent-encoding in "file:/],
    ['file:///srv/%ff', /^bad percent-encoding in "file:/],
    ['file://[/x', /is not a URI|wanted file:/],
  ];
  for (const [word, message] of words) {
    t.throws(() => parseFileWord(word), { name: 'MapperError', code: 'EINVAL', message }, word);
  }
});

t.test('knows the two ways of naming a device', async (t) => {
  t.equal(deviceNamed('dm:a b'), 'a b');
  t.equal(deviceNamed('/dev/mapper/a/b'), 'a/b');
  t.equal(deviceNamed('dm:'), '');
  t.equal(deviceNamed('/dev/mapperx'), null);
  t.equal(deviceNamed('file:///dev/mapper/a'), null);
});

t.test('opens a file once for all tables that use it in the same way', async (t) => {
  const world = new World();
  const disk = world.disk('/disk', 1000);
  const line = '0 100 linear /disk 0';
  await world.create('a', `${line}\n100 100 linear /disk 300`);
  t.equal(disk.descriptors, 1, 'twice in one table');
  await world.create('b', line);
  t.equal(disk.descriptors, 1, 'in two tables');
  await world.create('r', line, true);
  t.equal(disk.descriptors, 2, 'one more that cannot write');
  await world.create('d', '0 100 linear file:///disk?direct=1 0');
  t.equal(disk.descriptors, 4, 'one more past the page cache, and its buffered twin');
  await world.wait(world.devices.remove('a', false));
  t.equal(disk.descriptors, 4, 'b has it still');
  await world.wait(world.devices.remove('b', false));
  t.equal(disk.descriptors, 3);
  await world.wait(world.devices.remove('d', false));
  await world.wait(world.devices.remove('r', false));
  t.equal(disk.descriptors, 0);
  world.atRest();
});

t.test('shares what it knows of holes between all ways to a file', async (t) => {
  const world = new World();
  const disk = world.disk('/disk', 1000);
  world.engine.disks.set('/link', disk);
  const one = world.client(await world.create('one', '0 1000 linear /disk 0'));
  const two = world.client(await world.create('two', '0 1000 linear /link 0'));
  const three = world.client(await world.create('three', '0 1000 linear file:///disk?direct=1 0'));
  t.equal(disk.descriptors, 3, 'the link is the same file, opened once');
  const read = { flags: 8, capacity: 16 };
  for (const client of [one, two, three]) {
    await world.wait(one.run(TRIM, 0, 8192));
    t.ok((await world.wait(three.run(READ, 0, 4096, read))).allZero);
    const data = pattern(4096, 1);
    await world.wait(client.run(WRITE, 0, 4096, { data }));
    const found = await world.wait(two.run(READ, 0, 4096, read));
    t.notOk(found.allZero, 'a write through any of them is known to all');
    t.ok(found.data.equals(data));
  }
  world.atRest();
});

t.test('closes everything when a table cannot be made', async (t) => {
  const world = new World();
  const disk = world.disk('/disk', 100);
  const small = world.disk('/small', 10);
  const rejects = async (table: string, error: object): Promise<void> => {
    await t.rejects(world.create('a', table), {
      name: 'MapperError',
      ...error,
    });
    t.equal(disk.descriptors + small.descriptors, 0);
    t.equal(world.devices.find('a'), undefined, 'and there is no such device');
  };
  await rejects('0 50 linear /disk 0\n50 50 linear /nowhere 0', {
    code: 'ENOENT',
    message: /^line 2: linear: .*cannot open \/nowhere/,
  });
  await rejects('0 50 linear /disk 0\n50 50 linear /small 0', {
    message: /line 2: linear: .*device too small for target: \/small has 10 sectors, wanted 50/,
  });
  await rejects('0 50 linear /disk 51', {
    message: /\/disk has 100 sectors, wanted 101/,
  });
  await rejects('0 50 linear /disk 0\n50 50 nonsense', {
    message: 'line 2: nonsense: unknown target type',
  });
  await rejects('0 50 linear dm:nobody 0', {
    code: 'ENODEV',
    message: /no device "nobody"/,
  });
  disk.openErrno = ({ writable }) => (writable ? EACCES : 0);
  await rejects('0 50 linear /disk 0', { code: 'EACCES' });
  await world.create('r', '0 50 linear /disk 0', true);
  t.equal(disk.descriptors, 1, 'a device that only reads opens it to read');
  world.atRest();
});

t.test('gives back the first descriptor when the second cannot be had', async (t) => {
  const world = new World();
  const disk = world.disk('/disk', 100);
  disk.openErrno = ({ direct }) => (direct ? 0 : EACCES);
  const table = '0 50 linear file:///disk?direct=1 0';
  await t.rejects(world.create('a', table), { code: 'EACCES' });
  t.equal(disk.descriptors, 0);
  disk.openErrno = () => 0;
  await world.create('a', table);
  t.equal(disk.descriptors, 2);
  await world.wait(world.devices.remove('a', false));
  t.equal(disk.descriptors, 0);
});

t.test('stacks devices', async (t) => {
  const world = new World();
  world.disk('/disk', 1000);
  const bottom = await world.create('bottom', '0 1000 linear /disk 0');
  const middle = await world.create('middle', '0 500 linear dm:bottom 100');
  const top = await world.create(
    'top',
    '0 100 linear /dev/mapper/middle 50\n100 9 linear dm:bottom 0',
  );
  t.same(
    dependencies(top).map(({ name }) => name),
    ['middle', 'bottom'],
  );
  t.same(dependencies(middle), [bottom]);
  t.equal(bottom.users.size, 2);
  const data = pattern(512, 1);
  await world.wait(world.client(top).run(WRITE, 99 * 512, 512, { data }));
  const found = await world.wait(world.client(bottom).run(READ, 249 * 512, 512));
  t.ok(found.data.equals(data));
  await world.wait(world.devices.remove('top', false));
  t.equal(bottom.users.size, 1);
  await world.wait(world.devices.remove('middle', false));
  t.equal(bottom.users.size, 0);
  world.atRest();
});

t.test('refuses devices that would stand on themselves', async (t) => {
  const world = new World();
  world.disk('/disk', 1000);
  const refused = {
    code: 'EBUSY',
    message: /"a" would stand on itself through "/,
  };
  await world.create('a', '0 100 linear /disk 0');
  await world.create('b', '0 100 linear dm:a 0');
  await world.create('c', '0 50 linear /disk 0\n50 50 linear dm:b 0');
  for (const name of ['a', 'b', 'c']) {
    const table = `0 10 linear dm:${name} 0`;
    await t.rejects(world.wait(world.devices.load('a', table)), refused, name);
  }
  t.equal(world.devices.info('a').tables, 'LIVE');
  await world.create('d', '0 100 linear /disk 0');
  await world.wait(world.devices.load('d', '0 10 linear dm:c 0'));
  await t.rejects(
    world.wait(world.devices.load('a', '0 10 linear dm:d 0')),
    refused,
    'through a table that is not live yet',
  );
  await world.wait(world.devices.clear('d'));
  await world.wait(world.devices.load('a', '0 10 linear dm:d 0'));
  t.equal(world.devices.info('a').tables, 'LIVE & INACTIVE', 'the other way round is no circle');
});

t.test('refuses a circle that two loads would make together', async (t) => {
  const world = new World();
  world.disk('/disk', 1000);
  await world.create('a', '0 100 linear /disk 0');
  await world.create('b', '0 100 linear /disk 0');
  const loads = Promise.allSettled([
    world.devices.load('a', '0 10 linear dm:b 0'),
    world.devices.load('b', '0 10 linear dm:a 0'),
  ]);
  const failed = (await world.wait(loads)).filter(({ status }) => status === 'rejected');
  t.equal(failed.length, 1);
  t.match(failed[0], { reason: { code: 'EBUSY' } });
});

t.test('refuses to stack too high, whichever end is built first', async (t) => {
  const height = stackDepth + 1;
  const text = `${height} devices over one another, at most ${stackDepth}`;
  const refused = { code: 'EINVAL', message: new RegExp(text) };
  await t.test('from the bottom', async (t) => {
    const world = new World();
    await world.create('d1', '0 10 zero');
    for (let i = 2; i <= stackDepth; i++) await world.create(`d${i}`, `0 10 linear dm:d${i - 1} 0`);
    await t.rejects(world.create('top', `0 10 linear dm:d${stackDepth} 0`), refused);
  });
  await t.test('from the top', async (t) => {
    const world = new World();
    await world.create('d1', '0 10 zero');
    for (let i = 2; i <= stackDepth; i++) {
      await world.create(`d${i}`, '0 10 zero');
      await world.wait(world.devices.load(`d${i - 1}`, `0 10 linear dm:d${i} 0`));
      await world.wait(world.devices.resume(`d${i - 1}`));
    }
    await world.create('low', '0 10 zero');
    const load = world.devices.load(`d${stackDepth}`, '0 10 linear dm:low 0');
    await t.rejects(world.wait(load), refused);
  });
  await t.test('with many ways from top to bottom', async (t) => {
    const world = new World();
    const width = 12;
    for (let level = 0; level < stackDepth; level++) {
      for (let i = 0; i < width; i++) {
        const lines = Array.from({ length: width }, (_, k) =>
          level === 0 ? `${k} 1 zero` : `${k} 1 linear dm:l${level - 1}n${k} 0`,
        );
        await world.create(`l${level}n${i}`, lines.join('\n'));
      }
    }
    await t.rejects(world.create('top', `0 1 linear dm:l${stackDepth - 1}n0 0`), refused);
  });
});
