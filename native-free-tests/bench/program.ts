/**
 * Programs that the benchmark runs: servers, fio, mount. They are in process groups of their own,
 * so that a Ctrl-C reaches the benchmark only, which then ends them in the right order, by their
 * process ids.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { atExit } from './at-exit.js';

export interface Command {
  readonly program: string;
  readonly args: readonly string[];
}

/** A server flushes a gigabyte before it ends. */
const endMilliseconds = 30_000;
/** Of what a program writes to stderr, this much is kept: its beginning and its end. */
const keptCharacters = 8192;

/** As one would type it. */
export function commandText({ program, args }: Command): string {
  const quote = (word: string) =>
    /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
  return [program, ...args].map(quote).join(' ');
}

export class Program {
  readonly command: Command;
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;
  #running = true;
  #outcome = '';
  #errors = '';

  /** Starts it. What it cannot do is told by `finished`. */
  constructor(command: Command, takeOutput?: (text: string) => void) {
    this.command = command;
    const { PATH } = process.env;
    const child = spawn(command.program, command.args, {
      detached: true,
      stdio: ['pipe', takeOutput === undefined ? 'ignore' : 'pipe', 'pipe'],
      // mkfs and losetup are not on everybody's path.
      env: { ...process.env, PATH: `${PATH}:/usr/sbin:/sbin`, LC_ALL: 'C' },
    });
    this.#child = child;
    const left = atExit(() => void child.kill('SIGKILL'));
    this.#ended = new Promise((resolve) => {
      const ended = (outcome: string): void => {
        if (!this.#running) return;
        this.#running = false;
        this.#outcome = outcome;
        left.callOff();
        resolve();
      };
      child.on('error', (error) => {
        // Also told when a signal could not be sent; then the process is still there.
        if (child.pid === undefined) ended(error.message);
      });
      child.on('close', (code, signal) => ended(code === 0 ? '' : `exit ${code ?? signal}`));
    });
    child.stdin?.on('error', () => {});
    child.stdout?.setEncoding('utf8').on('data', (text: string) => takeOutput?.(text));
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      const all = this.#errors + text;
      const half = keptCharacters / 2;
      this.#errors = all.length <= keptCharacters ? all : all.slice(0, half) + all.slice(-half);
    });
  }

  /** Throws if it could not be started. */
  get pid(): number {
    if (this.#child.pid === undefined) throw this.failure();
    return this.#child.pid;
  }

  get running(): boolean {
    return this.#running;
  }

  get errors(): string {
    return this.#errors;
  }

  /** Why it ended, with what it said. */
  failure(): Error {
    const said = this.#errors.trim().split('\n').slice(-3).join('; ');
    const parts = [this.#outcome || 'ended too early', said].filter((text) => text !== '');
    return new Error(`run "${this.command.program}": ${parts.join(': ')}`);
  }

  /** Throws unless it ends by itself and well. If `signal` aborts, it is ended first. */
  async finished(signal: AbortSignal): Promise<void> {
    const abort = (): void => void this.end();
    signal.addEventListener('abort', abort);
    try {
      if (signal.aborted) abort();
      await this.#ended;
    } finally {
      signal.removeEventListener('abort', abort);
    }
    signal.throwIfAborted();
    if (this.#outcome !== '') throw this.failure();
  }

  /** Closes its standard input, which is how the idle client is told to end. */
  endInput(): void {
    this.#child.stdin?.end();
  }

  /** Resolves when the process is gone; it is killed if it takes too long. */
  async end(): Promise<void> {
    if (!this.#running) return;
    this.#child.kill('SIGTERM');
    const timer = new AbortController();
    const late = sleep(endMilliseconds, true, { signal: timer.signal }).catch(() => false);
    if (await Promise.race([this.#ended.then(() => false), late])) this.#child.kill('SIGKILL');
    timer.abort();
    await this.#ended;
  }

  /** Ends it at once, for a server whose work is thrown away: it need not write it to the disk. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }
}

/** Runs a program to its end; returns its standard output. Throws if it fails or takes longer. */
export async function run(
  program: string,
  args: readonly string[],
  signal: AbortSignal,
  seconds = 120,
): Promise<string> {
  let output = '';
  const running = new Program({ program, args }, (text) => {
    output += text;
  });
  running.endInput();
  const limit = AbortSignal.timeout(seconds * 1000);
  try {
    await running.finished(AbortSignal.any([signal, limit]));
  } catch (error) {
    signal.throwIfAborted();
    if (limit.aborted) throw new Error(`run "${program}": not done after ${seconds} s`);
    throw error;
  }
  return output;
}
