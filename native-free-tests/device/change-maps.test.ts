/** A device's change maps, over a target that has some, and through changes of its table. */

import t from 'tap';
import { EIO } from '../../src/base/errno.js';
import { type ChangeMap, EXTENT_DIRTY } from '../../src/device/change-map.js';
import type { Device } from '../../src/device/device.js';
import { ExtentList } from '../../src/device/extent-list.js';
import { RecordingTarget, tableOf } from './recording-target.js';
import { World } from './world.js';

class TestMap implements ChangeMap {
  name: string;
  errno = 0;
  asked = 0;

  constructor(name: string) {
    this.name = name;
  }

  extents(_offset: number, length: number, list: ExtentList): number {
    this.asked++;
    if (this.errno === 0) list.push(length, EXTENT_DIRTY);
    return this.errno;
  }
}

class MappedTarget extends RecordingTarget {
  readonly maps: ChangeMap[];

  constructor(...maps: ChangeMap[]) {
    super();
    this.maps = maps;
  }

  changeMaps(): readonly ChangeMap[] {
    return this.maps;
  }
}

async function deviceOf(target: RecordingTarget): Promise<{ world: World; device: Device }> {
  const world = new World();
  const device = await world.create('subject', '0 8 zero');
  device.live = tableOf([[8, target]]);
  return { world, device };
}

/** The errno, or 0 and all is dirty. */
function ask(map: ChangeMap | undefined): number {
  const list = new ExtentList(4);
  const errno = map?.extents(0, 4096, list) ?? -1;
  if (errno === 0 && list.bytes !== 4096) throw new Error(`${list.bytes} bytes`);
  return errno;
}

const names = (device: Device): string[] => device.changeMaps().map(({ name }) => name);

t.test('offers the maps of the one target that it is', async (t) => {
  const [a, b] = [new TestMap('a'), new TestMap('b')];
  const target = new MappedTarget(a, b);
  const { device } = await deviceOf(target);
  t.strictSame(names(device), ['a', 'b']);
  t.equal(ask(device.changeMaps()[1]), 0);
  t.equal(b.asked, 1);
  b.errno = 5;
  t.equal(ask(device.changeMaps()[1]), 5, "the map's own errors come through");
  device.live = tableOf([
    [8, target],
    [8, new RecordingTarget()],
  ]);
  t.strictSame(names(device), [], 'of a part of a device it offers none');
  device.live = tableOf([[8, new RecordingTarget()]]);
  t.strictSame(names(device), [], 'nor without any');
  device.live = null;
  t.strictSame(names(device), [], 'nor without a table');
});

t.test('goes on over a reload as long as it is the same record', async (t) => {
  const [a, b] = [new TestMap('a'), new TestMap('b')];
  const { device } = await deviceOf(new MappedTarget(a, b));
  const [keptA, keptB] = device.changeMaps();
  device.live = tableOf([[8, new MappedTarget(b)]]);
  t.equal(ask(keptA), EIO);
  t.equal(a.asked, 0, 'who is not offered is not asked');
  t.equal(ask(keptB), 0);
  device.live = tableOf([[8, new MappedTarget(new TestMap('a'))]]);
  t.equal(ask(keptA), EIO, 'one of the same name is another one');
  device.live = tableOf([[8, new RecordingTarget()]]);
  t.equal(ask(keptB), EIO);
  device.live = null;
  t.equal(ask(keptB), EIO);
});

t.test('is called what its record is called now', async (t) => {
  const a = new TestMap('a');
  const { device } = await deviceOf(new MappedTarget(a));
  const [kept] = device.changeMaps();
  a.name = 'renamed';
  t.equal(kept?.name, 'renamed');
});

t.test('fails once the device is removed', async (t) => {
  const { world, device } = await deviceOf(new MappedTarget(new TestMap('a')));
  const [kept] = device.changeMaps();
  await world.wait(world.devices.suspend('subject', true));
  t.equal(ask(kept), 0, 'while it is suspended nothing changes');
  await world.wait(world.devices.remove('subject', false));
  t.equal(ask(kept), EIO);
});
