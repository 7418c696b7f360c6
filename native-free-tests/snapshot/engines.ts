/** The engines that scenarios run on, each with a rig of its own for every test. */

import type { Test } from 'tap';
import { messageOf } from '../../src/base/errors.js';
import { Arena } from '../../src/engine/arena.js';
import { chooseEngine } from '../../src/engine/choose.js';
import type { Engine } from '../../src/engine/engine.js';
import { ScriptedEngine } from '../backing/scripted-engine.js';
import { running } from '../contract/engine-harness.js';
import { unavailable } from '../interop/programs.js';
import { FileRig } from './file-rig.js';
import type { Rig } from './rig.js';
import { ScriptedRig } from './scripted-rig.js';

export type Scenario = (t: Test, rig: Rig) => Promise<void>;
export type Scenarios = Readonly<Record<string, Scenario>>;

const arenaBytes = 64 * 1024 * 1024;

/** The engine, or why it cannot be had here. On Linux that is an error in CI. */
async function engineOr(name: 'uring' | 'node'): Promise<Engine | string> {
  try {
    return (await chooseEngine(name, new Arena(arenaBytes))).engine;
  } catch (error) {
    const reason = messageOf(error);
    return process.platform === 'linux' ? unavailable(reason) : reason;
  }
}

/** Runs `body` on each of the real engines, in a subtest. */
export async function onRealEngines(
  t: Test,
  body: (t: Test, engine: Engine) => Promise<void>,
): Promise<void> {
  for (const name of ['uring', 'node'] as const) {
    const engine = await engineOr(name);
    const skip = typeof engine === 'string' ? engine : false;
    await t.test(`on ${name}`, { skip }, async (t) => {
      if (typeof engine !== 'string') await running(engine, () => body(t, engine));
    });
  }
}

/** Runs all scenarios on all engines. */
export async function onAllEngines(t: Test, scenarios: Scenarios): Promise<void> {
  await onRealEngines(t, async (t, engine) => {
    for (const [title, scenario] of Object.entries(scenarios)) {
      await t.test(title, (t) => play(t, scenario, () => new FileRig(engine)));
    }
  });
  await t.test('on the scripted engine', async (t) => {
    for (const [title, scenario] of Object.entries(scenarios)) {
      await t.test(title, (t) => play(t, scenario, () => new ScriptedRig(1, new ScriptedEngine())));
    }
  });
}

/** A scenario that failed leaves its rig as it is. */
async function play(t: Test, scenario: Scenario, make: () => Rig): Promise<void> {
  const rig = make();
  await scenario(t, rig);
  await rig.close();
  t.pass('nothing is left behind');
}
