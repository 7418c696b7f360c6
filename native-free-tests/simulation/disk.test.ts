/** The simulated disk and file system: what a crash leaves of them, and what it may not. */

import t from 'tap';
import { FileSystem } from './file-system.js';
import { Medium } from './medium.js';
import { Random } from './random.js';
import { readStamp, sectorBytes, stamp } from './stamps.js';

function sector(value: number): Uint8Array {
  const words = new Int32Array(sectorBytes / 4);
  stamp(words, 0, 1, value);
  return new Uint8Array(words.buffer);
}

/** One that has had that size for ever. */
function disk(bytes: number): Medium {
  const medium = new Medium(bytes);
  medium.harden();
  return medium;
}

/** The stamp of a sector as it is now. */
function at(medium: Medium, number: number): number {
  const bytes = new Uint8Array(sectorBytes);
  medium.read(number * sectorBytes, sectorBytes, bytes, 0);
  return readStamp(new Int32Array(bytes.buffer), 0);
}

/** Writes a sector; the write has been answered. */
function write(medium: Medium, number: number, value: number): number {
  const version = medium.apply(number * sectorBytes, sectorBytes, sector(value), 0);
  medium.answered(version);
  return version;
}

/** All that sectors 0 and 1 were found to be after many power cuts: `1 2`, `0 2`... */
function left(make: () => Medium): string[] {
  const found = new Set<string>();
  for (let seed = 0; seed < 300; seed++) {
    const medium = make();
    medium.losePower(new Random(seed));
    found.add(`${at(medium, 0)} ${at(medium, 1)}`);
  }
  return [...found].sort();
}

t.test('loses, keeps and tears what was not flushed', async (t) => {
  const found = left(() => {
    const medium = disk(4096);
    write(medium, 0, 1);
    write(medium, 1, 2);
    return medium;
  });
  t.strictSame(found, ['0 0', '0 2', '1 0', '1 2']);
});

t.test('finds any version of a sector since the last that was flushed', async (t) => {
  const found = left(() => {
    const medium = disk(4096);
    write(medium, 0, 1);
    medium.flushed(medium.flushPoint());
    write(medium, 0, 2);
    write(medium, 0, 3);
    return medium;
  });
  t.strictSame(found, ['1 0', '2 0', '3 0']);
});

t.test('a flush is for what was answered before it began', async (t) => {
  const found = left(() => {
    const medium = disk(4096);
    write(medium, 0, 1);
    const version = medium.apply(sectorBytes, sectorBytes, sector(2), 0);
    const point = medium.flushPoint();
    medium.answered(version);
    write(medium, 0, 3);
    medium.flushed(point);
    return medium;
  });
  t.strictSame(found, ['1 0', '1 2', '3 0', '3 2']);
});

t.test('FUA is for its own write, and for nothing else', async (t) => {
  const found = left(() => {
    const medium = disk(4096);
    write(medium, 0, 1);
    medium.written(write(medium, 1, 2), 0);
    return medium;
  });
  t.strictSame(found, ['0 2', '1 2']);
});

t.test('a hole that is lost holds what it held, and its space', async (t) => {
  let holes = 0;
  let kept = 0;
  for (let seed = 0; seed < 100; seed++) {
    const medium = disk(8192);
    write(medium, 0, 1);
    medium.allocate(0, 4096);
    medium.harden();
    medium.release(0, 4096);
    medium.answered(medium.apply(0, 4096, null, 0));
    t.equal(medium.extentEnd(0), -8192);
    medium.losePower(new Random(seed));
    if (at(medium, 0) === 1) {
      kept++;
      t.equal(medium.extentEnd(0), 4096);
    } else {
      holes++;
      t.equal(medium.extentEnd(0), -8192);
    }
  }
  t.ok(holes > 0 && kept > 0, `${holes} were kept, ${kept} lost`);
});

t.test('a twin loses its own power', async (t) => {
  const fileSystem = new FileSystem();
  const { medium } = fileSystem.add('/a', 4096);
  write(medium, 0, 1);
  let lost = 0;
  for (let seed = 0; seed < 50; seed++) {
    const twin = fileSystem.twin();
    twin.losePower(new Random(seed));
    const other = twin.find('/a')?.medium as Medium;
    if (at(other, 0) === 0) lost++;
    write(other, 0, 7);
    t.equal(at(medium, 0), 1);
  }
  t.ok(lost > 0 && lost < 50, `${lost} of 50`);
});

t.test('names are lost from some point on, unless their directory was synced', async (t) => {
  const found = new Set<string>();
  for (let seed = 0; seed < 200; seed++) {
    const fileSystem = new FileSystem();
    fileSystem.add('/d/old', 0);
    fileSystem.create('/d/new', 0);
    fileSystem.synced(fileSystem.syncPoint());
    fileSystem.rename('/d/new', '/d/old');
    fileSystem.create('/d/other', 0);
    fileSystem.losePower(new Random(seed));
    const old = fileSystem.find('/d/old')?.number;
    found.add(`${fileSystem.list('/d').sort().join(' ')} ${old}`);
  }
  t.strictSame([...found].sort(), ['new old 1', 'old 2', 'old other 2']);
});

t.test('a size that was not synced may be found, or the one before', async (t) => {
  const sizes = new Set<number>();
  for (let seed = 0; seed < 50; seed++) {
    const medium = new Medium(0);
    medium.truncate(5000);
    medium.losePower(new Random(seed));
    sizes.add(medium.size);
  }
  t.strictSame([...sizes].sort(), [0, 5000]);
});
