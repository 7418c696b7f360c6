/**
 * What every engine must do, seen through the contract alone (src/engine/engine.ts). An engine's
 * test file calls this with its name and a way to make one.
 */

import type { Test } from 'tap';
import type { Engine } from '../../src/engine/engine.js';
import { Peer } from './drive.js';
import { fileTests } from './engine-files.js';
import { listenerTests } from './engine-listeners.js';
import { socketTests } from './engine-sockets.js';
import { turnTests } from './engine-turns.js';

/** A new engine, not running, with an arena of 64 MiB. It is used for one `run` only. */
export type MakeEngine = () => Engine | Promise<Engine>;

export function engineSuite(t: Test, name: string, makeEngine: MakeEngine): void {
  const peer = new Peer();
  t.teardown(() => peer.stop());
  t.test(`${name}: turns, timers and promises`, async (t) => turnTests(t, makeEngine));
  t.test(`${name}: files`, async (t) => fileTests(t, makeEngine));
  t.test(`${name}: listeners`, async (t) => listenerTests(t, makeEngine, peer));
  t.test(`${name}: sockets`, async (t) => socketTests(t, makeEngine, peer));
}
