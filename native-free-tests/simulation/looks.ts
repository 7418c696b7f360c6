/** A look at everything, when nothing is under way. */

import { outcome } from './clock.js';
import { readAll } from './requests.js';
import type { Stage } from './stage.js';

export async function lookAtAll(stage: Stage): Promise<void> {
  const { world } = stage;
  const { daemon, engine, family } = world;
  world.faults.rules = [];
  await stage.resumeAll();
  await world.quiet();
  await world.connectAll();
  for (const device of world.devices) readAll(stage, device);
  await world.until('all is read', () => world.inFlight === 0);
  for (const device of world.devices) await stage.endLost(device);
  family.look();
  for (const { name } of family.snapshots.values()) {
    const [line] = await outcome(engine, `status ${name}`, daemon.call('status', { name }));
    family.checkStatus(name, line?.words ?? '');
  }
}
