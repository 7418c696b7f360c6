/**
 * kill -9, again and again: a daemon is written to over NBD, is killed at a random moment, and the
 * next one must show everything that was answered; on one engine and the other in turn. Two kinds
 * of writers are at it, and each has an independent reader:
 *
 *   load.ts         any sectors, in order, FUA, zeroes       nbdcopy, against the journal
 *   fio-writes.ts   blocks with checksums, fsync             fio, from the state it has saved
 */

import { readFileSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';
import { random as randomFrom } from '../contract/pattern.js';
import { Daemon, type EngineName, engines, Scratch } from '../interop/harness.js';
import { requires, succeed } from '../interop/programs.js';
import { FioWrites } from './fio-writes.js';
import type { MakeScenario, Scenario } from './kill-scenarios.js';
import { Load, type Random } from './load.js';

/** Of each scenario; there are four. CRASH_SEED repeats what is chosen, not the moments. */
const { CI, CRASH_SEED } = process.env;
const roundsOfEach = CI === 'true' ? 50 : 3;
/** A round ends after that time at the latest. */
const longestMilliseconds = 2000;
/** fio is killed so long after its first write, at the latest. */
const fioMilliseconds = 120;
/** Against hangs. */
const beginMilliseconds = 60_000;

export interface ChainOptions {
  readonly files: Scratch;
  readonly seed: number;
  readonly engines: readonly EngineName[];
  readonly rounds: number;
  /** Done while no daemon runs: for tests that the checks notice. */
  readonly tamper?: (files: Scratch) => void;
}

export class Chain {
  readonly scenario: Scenario;
  readonly #options: ChainOptions;
  readonly #files: Scratch;
  readonly #random: Random;
  #writes = 0;
  #uncertain = 0;
  /** What fio wrote last. */
  #fio: FioWrites | null = null;
  #fioWrites = 0;
  #fioVerified = 0;

  constructor(options: ChainOptions, make: MakeScenario) {
    this.#options = options;
    this.#files = options.files;
    this.#random = randomFrom(options.seed);
    this.scenario = make(this.#files, this.#random);
  }

  async run(): Promise<string> {
    const { rounds, seed, tamper } = this.#options;
    let daemon = await this.#start(0);
    try {
      await this.scenario.create(daemon);
      for (let round = 1; round <= rounds; round++) {
        try {
          await this.#load(daemon, round);
          tamper?.(this.#files);
          daemon = await this.#start(round);
          await this.#check(daemon);
        } catch (error) {
          const text = error instanceof Error ? error.message : `${error}`;
          const where = `round ${round} of ${rounds}, CRASH_SEED=${seed}`;
          const after = `killed on ${this.#engine(round - 1)}, back on ${this.#engine(round)}`;
          throw new Error(`${this.scenario.name}, ${where}, ${after}: ${text}`);
        }
      }
    } finally {
      await daemon.kill();
    }
    const journal = `${this.#writes} writes answered, ${this.#uncertain} sectors uncertain`;
    const fio = `fio: ${this.#fioWrites} writes, ${this.#fioVerified} verified`;
    return `${journal}; ${fio}; ${this.scenario.report()}`;
  }

  #engine(round: number): EngineName {
    const { engines } = this.#options;
    return engines[round % engines.length] as EngineName;
  }

  #start(round: number): Promise<Daemon> {
    const engine = this.#engine(round);
    return Daemon.start({ engine, args: ['--state', this.#files.file('state')] });
  }

  /** Ends with the daemon's death. */
  async #load(daemon: Daemon, round: number): Promise<void> {
    const { scenario } = this;
    await scenario.prepare?.(daemon);
    const fio = await this.#startFio(daemon, round);
    const written = scenario.written?.() ?? scenario.subjects();
    const loads = await Promise.all(
      written.map(({ name, journal }) => Load.start(daemon.socket, name, journal, this.#random)),
    );
    let killed = false;
    const disturbance = scenario.disturb(daemon).catch((error) => {
      if (!killed) throw error;
    });
    disturbance.catch(() => {});
    const ended = [disturbance, ...loads.map((load) => load.ended)];
    await this.#moment(loads, fio !== null);
    killed = true;
    await daemon.kill();
    await Promise.all(ended);
    for (const { answered } of loads) this.#writes += answered;
    if (fio === null) return;
    this.#fioWrites += await fio.ended;
    this.#fio = fio;
  }

  /** Resolves when fio's first write has been answered; null: it does not write in this round. */
  async #startFio(daemon: Daemon, round: number): Promise<FioWrites | null> {
    const { fio } = this.scenario;
    const name = fio.writes();
    if (name === null) return null;
    const directory = this.#files.file(`fio${round}`);
    const seed = this.#options.seed + round;
    const before = await writesOf(daemon, name);
    const writes = FioWrites.start(directory, daemon.uri(name), fio.bytes, seed);
    const deadline = Date.now() + beginMilliseconds;
    for (;;) {
      if ((await writesOf(daemon, name)) > before) return writes;
      if (Date.now() > deadline) throw new Error('fio does not begin');
      await Promise.race([sleep(2), writes.ended]);
    }
  }

  /** Comes when so many writes have been answered, or a little later. */
  async #moment(loads: readonly Load[], withFio: boolean): Promise<void> {
    const { mostAnswers } = this.scenario;
    const wanted = loads.length === 0 ? 0 : this.#random(mostAnswers);
    const latest = Date.now() + longestMilliseconds;
    const answered = (): number => loads.reduce((sum, load) => sum + load.answered, 0);
    while (answered() < wanted && Date.now() < latest) await sleep(1);
    const longest = withFio ? fioMilliseconds : loads.length === 0 ? 25 : 10;
    await sleep(this.#random(longest));
  }

  async #check(daemon: Daemon): Promise<void> {
    for (const { journal } of this.scenario.subjects()) this.#uncertain += journal.uncertain;
    await this.scenario.recovered(daemon);
    for (const { name, journal } of this.scenario.subjects()) {
      const copy = this.#files.file('copy');
      rmSync(copy, { force: true });
      await succeed('nbdcopy', [daemon.uri(name), copy]);
      try {
        journal.check(readFileSync(copy));
      } catch (error) {
        throw new Error(`${name}: ${error instanceof Error ? error.message : error}`);
      }
    }
    if (this.#fio === null) return;
    this.#fioVerified += await this.#fio.verify(daemon.uri(this.scenario.fio.reads()));
  }
}

async function writesOf(daemon: Daemon, name: string): Promise<number> {
  const [stats] = await daemon.call('stats', { name });
  return stats?.writes ?? 0;
}

/** Those that this machine has. */
export async function findEngines(): Promise<EngineName[]> {
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

/** All rounds of a scenario. Each has a test file of its own, for they take minutes in CI. */
export function killAgainAndAgain(t: Test, make: MakeScenario): void {
  const title = `what was answered outlives kill -9, ${roundsOfEach} times`;
  t.test(title, { skip: requires('nbdcopy', 'fio') }, async (t) => {
    const seed = Number(CRASH_SEED ?? Date.now() % 2 ** 31);
    const options = { files: new Scratch(t), seed, engines: await findEngines() };
    const chain = new Chain({ ...options, rounds: roundsOfEach }, make);
    t.comment(`seed ${seed}, engines ${options.engines.join(', ')}`);
    const began = Date.now();
    const report = await chain.run();
    const seconds = Math.round((Date.now() - began) / 1000);
    const what = `rounds of kill -9, ${chain.scenario.name}, in ${seconds} s: ${report}`;
    t.comment(`counted: ${roundsOfEach} ${what}`);
    t.pass('everything was there');
  });
}
