/** The kernel as a side: each script is a boot of its own. */

import { readFileSync, writeFileSync } from 'node:fs';
import type { Test } from 'tap';
import { MiB, Scratch } from '../interop/harness.js';
import { guestProgram } from './guest-program.js';
import type { Side } from './steps.js';
import { type Disk, runKernel } from './uml.js';

/** What the disks are cut from that a script makes; almost all of it stays a hole. */
const poolBytes = 1024 * MiB;

export class KernelSide implements Side {
  readonly name = 'the kernel';
  readonly #t: Test;
  readonly #disks: readonly Disk[];
  readonly #modules: readonly string[];

  /** `disks` are files of the test's; they hold what the kernel wrote when a script has run. */
  constructor(t: Test, disks: readonly Disk[] = [], modules: readonly string[] = []) {
    this.#t = t;
    this.#disks = disks;
    this.#modules = modules;
  }

  async run(script: readonly string[]): Promise<string[]> {
    const files = new Scratch(this.#t);
    writeFileSync(files.file('program.py'), guestProgram);
    writeFileSync(files.file('steps'), `${script.join('\n')}\n`);
    const makesDisks = script.some((line) => line.startsWith('disk '));
    const pool = makesDisks ? [{ name: 'pool', path: files.sparse('pool', poolBytes) }] : [];
    const { status, output } = await runKernel({
      disks: [...this.#disks, ...pool],
      script: '/usr/bin/python3 -I program.py',
      directory: files.path,
      modules: this.#modules,
    });
    const isCut = script.includes('poweroff');
    if (status !== (isCut ? null : 0)) throw new Error(`guest program: code ${status}\n${output}`);
    return readFileSync(files.file('transcript'), 'utf8').split('\n').slice(0, -1);
  }
}
