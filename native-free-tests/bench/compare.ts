/**
 * One comparison. Either all servers of the case are started on the one file and stay, and in each
 * round each of them in turn is loaded while the others are idle; or, in a fresh case, each run has
 * a server of its own. Another one goes first in every round.
 */

import { messageOf } from '../../src/base/errors.js';
import type { Comparison } from './case.js';
import { type Contender, conclude } from './conclude.js';
import { type FioResult, type Length, type Load, runFio } from './fio.js';
import type { Places } from './places.js';
import { cpuSeconds, peakMegabytes } from './proc.js';
import type { ComparisonResult, Measurement } from './results.js';
import {
  discardServer,
  nbdUri,
  type RunningServer,
  startServer,
  stopServers,
} from './running-server.js';
import type { ServedFile } from './servers.js';
import { rotate } from './statistics.js';
import { type Order, settle } from './test-file.js';

/** What a case is run with. */
export interface Conditions {
  readonly places: Places;
  readonly rounds: number;
  readonly seconds: number;
  readonly requests: number;
  readonly signal: AbortSignal;
  note(text: string): void;
}

/** Before a server's figures count it is loaded this long: code is compiled, buffers are made. */
const warmUp: Length = { seconds: 1 };

/** Throws if a server or fio fails; nothing is left running then. */
export async function compare(
  comparison: Comparison,
  conditions: Conditions,
): Promise<ComparisonResult> {
  const file = await conditions.places.file(comparison.place);
  // Large and small folios in the page cache differ in speed: whatever other cases have left there
  // goes, and the first warming reads all of it anew in the same way.
  await settle(file, 'dropped', conditions.signal);
  const run = new ComparisonRun(comparison, conditions, file);
  await (comparison.fresh === true ? run.withFreshServers() : run.withLastingServers());
  return conclude(comparison, file, run.contenders, run.notes);
}

class ComparisonRun {
  readonly contenders: Contender[] = [];
  /** Servers that could not be had. */
  readonly notes: string[] = [];
  readonly #comparison: Comparison;
  readonly #conditions: Conditions;
  readonly #file: ServedFile;

  constructor(comparison: Comparison, conditions: Conditions, file: ServedFile) {
    this.#comparison = comparison;
    this.#conditions = conditions;
    this.#file = file;
  }

  /** How files are read into the page cache: as the load itself would. */
  get #order(): Order {
    return this.#comparison.load.rw.startsWith('rand') ? 'backwards' : 'forwards';
  }

  async withLastingServers(): Promise<void> {
    const { signal, seconds } = this.#conditions;
    const running = new Map<Contender, RunningServer>();
    try {
      for (const contender of this.#everybody()) {
        try {
          const server = await this.#start(contender);
          running.set(contender, server);
          this.contenders.push(contender);
        } catch (error) {
          const { label, optional } = contender.spec;
          if (optional !== true || signal.aborted) throw error;
          this.notes.push(`${label} left out: ${messageOf(error)}`);
        }
      }
      for (const server of running.values()) await this.#fill(server);
      for (const server of running.values()) await this.#measure(server, warmUp);
      await this.#playRounds((contender) => {
        const server = running.get(contender) as RunningServer;
        return this.#measure(server, { seconds });
      });
    } finally {
      await stopServers([...running.values()]);
    }
  }

  async withFreshServers(): Promise<void> {
    this.contenders.push(...this.#everybody());
    await this.#playRounds(async (contender) => {
      const server = await this.#start(contender);
      try {
        const { spec, address } = server;
        if (spec.warmUp !== undefined) {
          await this.#load(server, this.#comparison.load, warmUp, nbdUri(address, spec.warmUp));
        }
        return await this.#measure(server, { seconds: this.#conditions.seconds });
      } finally {
        await discardServer(server);
      }
    });
  }

  #everybody(): Contender[] {
    const { judged, others } = this.#comparison;
    const specs = [judged, ...others.map((other) => other.server)];
    return specs.map((spec) => ({ spec, server: null, rounds: [] }));
  }

  async #start(contender: Contender): Promise<RunningServer> {
    const { places, signal } = this.#conditions;
    const { transport } = this.#comparison;
    const file = this.#file;
    const server = await startServer(contender.spec, file, transport, places.sockets, signal);
    contender.server = server;
    return server;
  }

  async #playRounds(measure: (contender: Contender) => Promise<Measurement>): Promise<void> {
    const { rounds, note } = this.#conditions;
    const { name, rate } = this.#comparison;
    for (let round = 0; round < rounds; round++) {
      const told: string[] = [];
      for (const contender of rotate(this.contenders, round)) {
        const measured = await measure(contender);
        contender.rounds.push(measured);
        const speed = Math.round(measured[rate]);
        told.push(`${contender.spec.label} ${speed} (${measured.cpu.toFixed(2)} us)`);
      }
      note(`${name} ${round + 1}/${rounds}: ${told.join(', ')}`);
    }
  }

  /** The files are then read into the page cache anew, as if nobody had written them just now. */
  async #fill(server: RunningServer): Promise<void> {
    const { spec, address, ownFiles } = server;
    if (spec.filled === undefined) return;
    const blockBytes = 4096;
    const load: Load = { rw: 'randwrite', blockBytes, depth: 16, jobs: 1, once: true };
    const requests = this.#file.bytes / blockBytes;
    this.#conditions.note(`${this.#comparison.name}: filling ${spec.label}`);
    await this.#load(server, load, { requests }, nbdUri(address, spec.filled));
    for (const file of [this.#file, ...ownFiles]) {
      await settle(file, 'dropped', this.#conditions.signal);
    }
  }

  async #measure(server: RunningServer, length: Length): Promise<Measurement> {
    const { pid } = server.program;
    // What a fresh server has made by itself is empty.
    const own = this.#comparison.fresh === true ? [] : server.ownFiles;
    for (const file of [this.#file, ...own]) {
      await settle(file, server.spec.cache, this.#conditions.signal, this.#order);
    }
    const before = await cpuSeconds(pid);
    const { load } = this.#comparison;
    const found = await this.#load(server, load, length, server.uri);
    const cpu = (((await cpuSeconds(pid)) - before) / found.ios) * 1e6;
    return { ...found, cpu, peak: await peakMegabytes(pid) };
  }

  async #load(server: RunningServer, load: Load, length: Length, uri: string): Promise<FioResult> {
    const { signal } = this.#conditions;
    try {
      return await runFio(load, length, uri, signal);
    } catch (error) {
      signal.throwIfAborted();
      const cause = server.program.running ? error : server.program.failure();
      const { name } = this.#comparison;
      throw new Error(`${name} on ${server.spec.label}: ${messageOf(cause)}`);
    }
  }
}
