/**
 * Outside programs: whether they are here, and running them. Each runs in a process group of its
 * own with a time limit that only guards against hangs; when the limit has passed, or when this
 * process ends, the whole group is ended, so that nothing stays behind.
 */

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';
import { plainly } from './plain-node.js';

const { CI, PATH = '' } = process.env;

/** In CI nothing is skipped for want of a program. */
const inCi = CI === 'true';

/** libnbd's module belongs to the Python that Debian ships, whatever else is in the path. */
const debianPython = '/usr/bin/python3';

const searchPath = [...PATH.split(':').filter((folder) => folder !== ''), '/usr/sbin', '/sbin'];

/** The environment less what tap puts into it for the processes that it starts. */
export const environment: NodeJS.ProcessEnv = {
  ...process.env,
  PATH: searchPath.join(':'),
  LC_ALL: 'C',
};
for (const name of Object.keys(environment)) {
  if (/^(NODE_OPTIONS|TAP|_?TAP_.*|_TAPJS_.*)$/.test(name)) delete environment[name];
}

export interface RunOptions {
  readonly input?: string;
  readonly directory?: string;
  readonly limitSeconds?: number;
}

export interface Output {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

const started = new Set<ChildProcess>();

function endGroup(child: ChildProcess): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // It has just ended by itself.
  }
}

process.on('exit', () => {
  for (const child of started) endGroup(child);
});
for (const [signal, number] of [
  ['SIGINT', 2],
  ['SIGTERM', 15],
  ['SIGHUP', 1],
] as const) {
  process.once(signal, () => process.exit(128 + number));
}

/** Starts a program in the background; it is ended with this process at the latest. */
export function launch(program: string, args: readonly string[], directory?: string): ChildProcess {
  const child = spawn(...plainly(program, args), {
    env: environment,
    detached: true,
    stdio: ['pipe', 'pipe', 'pipe'],
    ...(directory === undefined ? {} : { cwd: directory }),
  });
  started.add(child);
  child.once('exit', () => started.delete(child));
  // Whoever does not read its input is no fault.
  child.stdin.on('error', () => {});
  return child;
}

/** What a child says until it has ended. Rejects when it cannot start or the limit has passed. */
export function outputOf(child: ChildProcess, what: string, limitSeconds: number): Promise<Output> {
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout?.on('data', (chunk: Buffer) => stdout.push(chunk));
  child.stderr?.on('data', (chunk: Buffer) => stderr.push(chunk));
  return new Promise((resolve, reject) => {
    const limit = setTimeout(() => {
      endGroup(child);
      const said = Buffer.concat([...stdout, ...stderr]).toString();
      reject(new Error(`${what}: not ended after ${limitSeconds} s; it said:\n${said}`));
    }, limitSeconds * 1000);
    child.once('error', (error) => {
      clearTimeout(limit);
      reject(new Error(`${what}: ${error.message}`));
    });
    child.once('close', (code, signal) => {
      clearTimeout(limit);
      const text = (chunks: Buffer[]): string => Buffer.concat(chunks).toString();
      resolve({ code, signal, stdout: text(stdout), stderr: text(stderr) });
    });
  });
}

/** Runs a program to its end, however it ends. */
export function run(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Output> {
  const child = launch(program, args, options.directory);
  child.stdin?.end(options.input ?? '');
  return outputOf(child, commandText(program, args), options.limitSeconds ?? 60);
}

/** Runs a program that is to succeed, and returns what it printed. */
export async function succeed(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<string> {
  const output = await run(program, args, options);
  if (output.code !== 0) throw new Error(`${commandText(program, args)}: ${describe(output)}`);
  return output.stdout;
}

/** Runs a program that is to fail, and returns what it complained of. */
export async function fail(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<string> {
  const output = await run(program, args, options);
  if (output.code === 0 || output.code === null) {
    throw new Error(`${commandText(program, args)}: wanted a failure, ${describe(output)}`);
  }
  return output.stderr;
}

/** Runs the Python that has libnbd. */
export function python(...args: string[]): Promise<string> {
  return succeed(debianPython, ['-I', ...args]);
}

function commandText(program: string, args: readonly string[]): string {
  const words = args.map((word) => (word.includes('\n') ? '(script)' : word));
  return [program, ...words].join(' ');
}

function describe({ code, signal, stdout, stderr }: Output): string {
  return `ended with ${signal ?? `code ${code}`}\n${stdout}${stderr}`;
}

/**
 * False when all the programs are here, else why to skip (tap's `skip` option takes both). In CI a
 * program that is missing is an error. `python3-libnbd` stands for libnbd's Python module.
 */
export function requires(...programs: string[]): string | false {
  const missing = programs.filter((program) => !isHere(program));
  if (missing.length === 0) return false;
  const text = `${missing.join(', ')} not installed`;
  if (inCi) throw new Error(`${text}: CI must have what the tests need`);
  return text;
}

function isHere(program: string): boolean {
  if (program === 'python3-libnbd') {
    return spawnSync(debianPython, ['-I', '-c', 'import nbd'], { env: environment }).status === 0;
  }
  return searchPath.some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Why a test that needs something of the machine itself is skipped; in CI it is an error. */
export function unavailable(text: string): string {
  if (inCi) throw new Error(`${text}: CI must have what the tests need`);
  return text;
}
