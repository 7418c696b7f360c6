/**
 * kill -9, again and again: a daemon is written to over NBD, is killed at a random moment, and the
 * next one must show everything that was answered, as nbdcopy reads it; on one engine and the other
 * in turn.
 */

import { readFileSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';
import { random as randomFrom } from '../contract/pattern.js';
import { Daemon, type EngineName, engines, Scratch } from '../interop/harness.js';
import { requires, succeed } from '../interop/programs.js';
import type { MakeScenario, Scenario } from './kill-scenarios.js';
import { Load, type Random } from './load.js';

/** Of each scenario; there are four. */
const { CI } = process.env;
const rounds = CI === 'true' ? 50 : 3;
/** A round ends after that time at the latest. */
const longestMilliseconds = 2000;

class Chain {
  readonly #files: Scratch;
  readonly #random: Random;
  readonly #engines: readonly EngineName[];
  readonly scenario: Scenario;
  #writes = 0;
  #uncertain = 0;

  constructor(
    files: Scratch,
    random: Random,
    available: readonly EngineName[],
    make: MakeScenario,
  ) {
    this.#files = files;
    this.#random = random;
    this.#engines = available;
    this.scenario = make(files, random);
  }

  async run(): Promise<string> {
    let daemon = await this.#start(0);
    try {
      await this.scenario.create(daemon);
      for (let round = 1; round <= rounds; round++) {
        await this.#load(daemon);
        daemon = await this.#start(round);
        await this.#check(daemon);
      }
    } finally {
      await daemon.kill();
    }
    return `${this.#writes} writes answered, ${this.#uncertain} sectors uncertain, ${this.scenario.report()}`;
  }

  #start(round: number): Promise<Daemon> {
    const engine = this.#engines[round % this.#engines.length] as EngineName;
    return Daemon.start({ engine, args: ['--state', this.#files.file('state')] });
  }

  /** Ends with the daemon's death. */
  async #load(daemon: Daemon): Promise<void> {
    const { scenario } = this;
    await scenario.prepare?.(daemon);
    const written = scenario.written?.() ?? scenario.subjects();
    const loads = await Promise.all(
      written.map(({ name, journal }) => Load.start(daemon.socket, name, journal, this.#random)),
    );
    let killed = false;
    const disturbance = scenario.disturb(daemon).catch((error) => {
      if (!killed) throw error;
    });
    disturbance.catch(() => {});
    await this.#moment(loads);
    killed = true;
    await daemon.kill();
    await Promise.all([disturbance, ...loads.map((load) => load.ended)]);
    for (const { answered } of loads) this.#writes += answered;
  }

  /** Comes when so many writes have been answered, or a little later. */
  async #moment(loads: readonly Load[]): Promise<void> {
    const { mostAnswers } = this.scenario;
    const wanted = loads.length === 0 ? 0 : this.#random(mostAnswers);
    const latest = Date.now() + longestMilliseconds;
    const answered = (): number => loads.reduce((sum, load) => sum + load.answered, 0);
    while (answered() < wanted && Date.now() < latest) await sleep(1);
    await sleep(this.#random(loads.length === 0 ? 25 : 10));
  }

  async #check(daemon: Daemon): Promise<void> {
    await this.scenario.recovered(daemon);
    for (const { name, journal } of this.scenario.subjects()) {
      const copy = this.#files.file('copy');
      rmSync(copy, { force: true });
      await succeed('nbdcopy', [daemon.uri(name), copy]);
      this.#uncertain += journal.uncertain;
      try {
        journal.check(readFileSync(copy));
      } catch (error) {
        throw new Error(`${name}: ${error instanceof Error ? error.message : error}`);
      }
    }
  }
}

/** Those that this machine has. */
async function findEngines(): Promise<EngineName[]> {
  const found: EngineName[] = [];
  for (const engine of engines) {
    const daemon = await Daemon.start({ engine }).catch((error: Error) => error);
    if (daemon instanceof Daemon) {
      found.push(engine);
      await daemon.stop();
    } else if (!/engine/.test(daemon.message)) {
      throw daemon;
    }
  }
  return found;
}

/** All rounds of a scenario. Each has a test file of its own, for they take a minute in CI. */
export function killAgainAndAgain(t: Test, make: MakeScenario): void {
  const title = `what was answered outlives kill -9, ${rounds} times`;
  t.test(title, { skip: requires('nbdcopy') }, async (t) => {
    const available = await findEngines();
    const seed = Date.now() % 2 ** 31;
    t.comment(`seed ${seed}, engines ${available.join(', ')}`);
    const chain = new Chain(new Scratch(t), randomFrom(seed), available, make);
    t.comment(`${chain.scenario.name}: ${await chain.run()}`);
    t.pass('everything was there');
  });
}
