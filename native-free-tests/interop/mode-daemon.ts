/**
 * The daemon in its other modes: started with nothing but the options of a test, by whoever the
 * test wants to start it, and waited for until it has written its pidfile.
 */

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';
import { type EngineName, engines, Scratch } from './harness.js';
import { plainNode } from './plain-node.js';
import {
  environment,
  launch,
  type Output,
  outputOf,
  requires,
  run,
  unavailable,
} from './programs.js';

export const mapperd = fileURLToPath(new URL('../../src/mapperd.js', import.meta.url));
export const mapperctl = fileURLToPath(new URL('../../src/mapperctl.js', import.meta.url));

const lifeSeconds = 120;
const waitSeconds = 60;

/** A command line that starts the daemon, for a shell or another program. */
export function commandOf(engine: EngineName, ...args: string[]): string[] {
  return [...plainNode, mapperd, '--engine', engine, ...args];
}

/** Runs it to its end. */
export function runMapperd(engine: EngineName, ...args: string[]): Promise<Output> {
  const [program, ...rest] = commandOf(engine, ...args) as [string, ...string[]];
  return run(program, rest);
}

/** Waits for something that is to happen soon. */
export async function until(what: string, happened: () => boolean): Promise<void> {
  const deadline = Date.now() + waitSeconds * 1000;
  while (!happened()) {
    if (Date.now() > deadline) throw new Error(`not after ${waitSeconds} s: ${what}`);
    await sleep(10);
  }
}

export interface Surroundings {
  /** Variables that it finds, besides the usual ones. */
  readonly environment?: Readonly<Record<string, string>>;
  /** What it gets as descriptors from 3 on. */
  readonly descriptors?: readonly number[];
}

/** A daemon that runs; whatever it is doing, it is ended with its test. */
export class ModeDaemon {
  readonly ended: Promise<Output>;
  readonly #child: ChildProcess;
  readonly #pidfile: string;
  stdout = '';
  stderr = '';

  constructor(t: Test, files: Scratch, args: readonly string[], around: Surroundings = {}) {
    this.#pidfile = files.file(`pid-${process.hrtime.bigint()}`);
    const { environment: more = {}, descriptors = [] } = around;
    // A shell knows its process id, which stays the same behind the exec.
    const script = 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"';
    const given = descriptors.length === 0 ? 'exec "$@"' : script;
    const words = ['-c', given, 'sh', ...args, '-P', this.#pidfile];
    this.#child = spawn('/bin/sh', words, {
      env: { ...environment, ...more },
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe', ...descriptors],
    });
    const child = this.#child;
    child.stdout?.on('data', (chunk) => (this.stdout += chunk));
    child.stderr?.on('data', (chunk) => (this.stderr += chunk));
    this.ended = outputOf(child, 'mapperd', lifeSeconds);
    this.ended.catch(() => {});
    t.teardown(() => {
      if (child.exitCode === null) child.kill('SIGKILL');
    });
  }

  static async start(
    t: Test,
    files: Scratch,
    args: readonly string[],
    around: Surroundings = {},
  ): Promise<ModeDaemon> {
    const daemon = new ModeDaemon(t, files, args, around);
    await daemon.ready();
    return daemon;
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  async ready(): Promise<void> {
    await until('mapperd is ready', () => {
      if (this.#child.exitCode !== null) throw new Error(`mapperd ended: ${this.stderr}`);
      return existsSync(this.#pidfile) && readFileSync(this.#pidfile, 'utf8') !== '';
    });
  }

  /** The addresses in the line that it logs when it is ready. */
  async serving(): Promise<string[]> {
    const line = (): string | undefined =>
      this.stderr.split('\n').find((one) => one.includes('"msg":"ready"'));
    await until('mapperd has said so', () => line() !== undefined);
    return (JSON.parse(line() as string) as { serving: string[] }).serving;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<Output> {
    this.signal(signal);
    return this.ended;
  }
}

/** Why the uring engine cannot be used here, if it cannot. */
function whyNoUring(): string | false {
  const args = [mapperd, '--dump-config'];
  const { stdout } = spawnSync(process.execPath, args, { env: environment, encoding: 'utf8' });
  if (/^engine_uring=yes$/m.test(stdout)) return false;
  return unavailable(/^engine_uring_reason=(.*)$/m.exec(stdout)?.[1] ?? 'no engine');
}

const noUring = whyNoUring();

/** A test on every engine that works here; `programs` are those that it needs. */
export function onEachEngine(
  t: Test,
  title: string,
  programs: readonly string[],
  body: (t: Test, engine: EngineName, files: Scratch) => Promise<void>,
): void {
  for (const engine of engines) {
    const skip = requires(...programs) || (engine === 'uring' && noUring);
    t.test(`${title} (${engine})`, { skip }, (t) => body(t, engine, new Scratch(t)));
  }
}

/** Starts a program and says nothing of what becomes of it. */
export function startQuietly(program: string, args: readonly string[]): ChildProcess {
  const child = launch(program, args);
  child.stdin?.end();
  child.stdout?.resume();
  child.stderr?.resume();
  return child;
}
