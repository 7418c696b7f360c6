/** Starts and ends crowds of hostile clients: see crowd-program.ts. */

import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { plainly } from '../interop/plain-node.js';

const program = fileURLToPath(new URL('./crowd-program.js', import.meta.url));
const limitMilliseconds = 60_000;

export class Crowd {
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;
  #said = '';
  #heard: () => void = () => {};

  private constructor(args: readonly string[]) {
    const stdio = ['pipe', 'pipe', 'inherit'] as const;
    this.#child = spawn(...plainly(process.execPath, [program, ...args]), { stdio: [...stdio] });
    this.#child.stdout?.on('data', (text) => {
      this.#said += text;
      this.#heard();
    });
    this.#ended = new Promise((resolve) => {
      this.#child.on('close', () => {
        resolve();
        this.#heard();
      });
    });
  }

  /** Resolves when all of them are in place. `where`: a port or a path. */
  static async start(
    where: number | string,
    name: string,
    kind: string,
    count: number,
  ): Promise<Crowd> {
    const crowd = new Crowd([`${where}`, name, kind, `${count}`]);
    const deadline = Date.now() + limitMilliseconds;
    while (!crowd.#said.includes('there\n')) {
      if (crowd.#child.exitCode !== null || Date.now() > deadline) {
        crowd.kill();
        throw new Error(`a crowd of ${kind} has not come together: ${crowd.#said}`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 1000);
        crowd.#heard = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    return crowd;
  }

  /** Throws if it has ended by itself. */
  check(): void {
    const { exitCode, signalCode } = this.#child;
    if (exitCode !== null || signalCode !== null) throw new Error('a crowd has dispersed');
  }

  /** How many connections it has made, when all have gone. */
  async end(): Promise<number> {
    this.#child.stdin?.end();
    await this.#ended;
    return Number(/made (\d+)/.exec(this.#said)?.[1] ?? Number.NaN);
  }

  /** The system ends its connections as it sees fit. */
  kill(): void {
    this.#child.kill('SIGKILL');
  }
}
