/**
 * The command that is served (--run): a shell's, which finds out from variables where to connect,
 * and whose end is the daemon's. It has our standard input and output, and belongs to the same
 * group of processes, so that a terminal's signals reach it as they would without us.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { commandEndMilliseconds } from '../base/limits.js';
import { quoteShell } from '../control/attach.js';

/** The variables are the shell's own: whoever wants them further down exports them. */
export class ServedCommand {
  /** The exit status, as a shell tells it: 128 and the number, after a signal. */
  readonly ended: Promise<number>;
  readonly #child: ChildProcess;
  #told = false;
  #over = false;

  /** `ended` rejects with MapperError when it cannot be started. */
  constructor(command: string, variables: Readonly<Record<string, string>>) {
    const lines = Object.entries(variables).map(([name, value]) => `${name}=${quote(value)}`);
    const script = [...lines, command].join('\n');
    const child = spawn('/bin/sh', ['-c', script], { stdio: 'inherit' });
    this.#child = child;
    this.ended = new Promise((resolve, reject) => {
      child.once('error', (error: NodeJS.ErrnoException) => {
        this.#over = true;
        reject(new MapperError(errnoOf(error.code), `run "${command}": ${messageOf(error)}`));
      });
      child.once('exit', (code, signal) => {
        this.#over = true;
        resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal]));
      });
    });
  }

  /** Asks it to end; if it does not, it is ended. */
  terminate(): void {
    if (this.#told) return;
    this.#told = true;
    this.#signal('SIGTERM');
    setTimeout(() => this.#signal('SIGKILL'), commandEndMilliseconds).unref();
  }

  /** Synchronous, for the process's exit: it is not left alone with a server that has gone. */
  abandon(): void {
    this.#signal(this.#told ? 'SIGKILL' : 'SIGTERM');
  }

  /** To the shell and to all that it has started: a shell that is waiting does not pass it on. */
  #signal(signal: NodeJS.Signals): void {
    const { pid } = this.#child;
    if (pid === undefined || this.#over) return;
    for (const one of [pid, ...descendantsOf(pid)]) {
      try {
        process.kill(one, signal);
      } catch {
        // It has ended in the meantime.
      }
    }
  }
}

function quote(value: string): string {
  return value === '' ? "''" : quoteShell(value);
}

/** Child processes, and theirs. Where the system does not tell them, there are none. */
function descendantsOf(pid: number): number[] {
  const found: number[] = [];
  try {
    for (const task of readdirSync(`/proc/${pid}/task`)) {
      const children = readFileSync(`/proc/${pid}/task/${task}/children`, 'latin1');
      for (const word of children.split(' ').filter((word) => word !== '')) {
        found.push(Number(word), ...descendantsOf(Number(word)));
      }
    }
  } catch {
    // The process has ended, or there is no /proc.
  }
  return found;
}
