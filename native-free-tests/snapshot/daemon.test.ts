/** Snapshots as their users have them: through the daemon, over NBD, with a kill in between. */

import t from 'tap';
import { Daemon, eachEngine, MiB, Scratch, withDaemon } from '../interop/harness.js';
import { NbdDisk } from './nbd-disk.js';
import { Stamper } from './stamper.js';
import { cowSectors } from './volume.js';

const bytes = 4 * MiB;
const sectors = bytes / 512;

/** Suspends the volume, has something made, and lets it go on. */
async function quietly(daemon: Daemon, body: () => Promise<unknown>): Promise<void> {
  await daemon.call('suspend', { name: 'vol' });
  await body();
  await daemon.call('resume', { name: 'vol' });
}

eachEngine(t, 'keeps snapshots apart over NBD, and P over kill -9', [], async (t, engine) => {
  const scratch = new Scratch(t);
  const image = scratch.sparse('image', bytes);
  const state = scratch.file('state');
  const cows = ['P', 'N'].map((type) =>
    scratch.sparse(`${type}.cow`, cowSectors(sectors, 8) * 512),
  );
  const daemon = await Daemon.start({ engine, args: ['--state', state] });
  const connect = (name: string): Promise<NbdDisk> => NbdDisk.connect(daemon.socket, name);
  await daemon.call('create', { name: 'real', table: `0 ${sectors} linear ${image} 0` });
  await daemon.call('create', { name: 'vol', table: `0 ${sectors} snapshot-origin dm:real` });
  const origin = new Stamper(bytes, 200);
  const volume = await connect('vol');
  await origin.stamp(volume, 40);
  // The volume is written all the while.
  let over = false;
  const busy = (async () => {
    while (!over) await origin.stamp(volume, 1);
  })();
  for (const [i, type] of ['P', 'N'].entries()) {
    const table = `0 ${sectors} snapshot dm:real ${cows[i]} ${type} 8`;
    await quietly(daemon, () => daemon.call('create', { name: type, table }));
  }
  over = true;
  await busy;
  await origin.verify(volume);
  const disks = await Promise.all(['P', 'N'].map((name) => connect(name)));
  const [p, n] = disks as [NbdDisk, NbdDisk];
  // What they hold is some moment of those writes; from here on it is known.
  const stampers = disks.map(() => new Stamper(bytes, 201));
  await Promise.all(disks.map((disk, i) => stampers[i]?.stamp(disk, 100)));
  await Promise.all([
    origin.stamp(volume, 30),
    ...disks.map((disk, i) => stampers[i]?.stamp(disk, 30)),
  ]);
  for (const [i, disk] of disks.entries()) await stampers[i]?.verify(disk);
  await origin.verify(volume);
  await Promise.all([p.flush(), n.flush(), volume.flush()]);
  for (const disk of [p, n, volume]) disk.close();
  await daemon.kill();

  await withDaemon(t, { engine, args: ['--state', state] }, async (daemon) => {
    const [volume, p] = await Promise.all(
      ['vol', 'P'].map((name) => NbdDisk.connect(daemon.socket, name)),
    );
    await origin.verify(volume as NbdDisk);
    await stampers[0]?.verify(p as NbdDisk);
    await origin.stamp(volume as NbdDisk, 20);
    await stampers[0]?.verify(p as NbdDisk);
    t.match(await daemon.control('status', 'N'), /Invalid$/m, 'a transient one does not come back');
    for (const disk of [volume, p]) disk?.close();
  });
});
