/**
 * The daemon as its users have it: a child process, started from its command line, reached through
 * its sockets, ended by a signal. Each test runs on every engine; each daemon has a directory of
 * its own and takes a free port, so that test files may run side by side.
 */

import type { ChildProcess } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';
import type { MethodName, Params, Results } from '../../src/control/messages.js';
import { ControlClient } from '../../src/ctl/client.js';
import type { DeviceInfo } from '../../src/queue/commands.js';
import { fillPattern } from '../contract/pattern.js';
import { launch, type Output, outputOf, requires, succeed, unavailable } from './programs.js';

export const engines = ['uring', 'node'] as const;
export type EngineName = (typeof engines)[number];

export const KiB = 1024;
export const MiB = 1024 * KiB;

const mapperd = fileURLToPath(new URL('../../src/mapperd.js', import.meta.url));
const mapperctl = fileURLToPath(new URL('../../src/mapperctl.js', import.meta.url));

/** Time limits against hangs; a machine that is busy with other things needs a few seconds. */
const startSeconds = 60;
const lifeSeconds = 280;
const stopSeconds = 60;

/** A directory of a test's own, gone with the test. */
export class Scratch {
  readonly path: string;

  constructor(t: Test) {
    this.path = mkdtempSync(join(tmpdir(), 'mapperd-interop-'));
    t.teardown(() => rmSync(this.path, { recursive: true, force: true }));
  }

  file(name: string): string {
    return join(this.path, name);
  }

  /** A file of nothing but a hole. */
  sparse(name: string, bytes: number): string {
    const path = this.file(name);
    writeFileSync(path, '');
    truncateSync(path, bytes);
    return path;
  }

  /** A part of a file. */
  read(name: string, offset: number, length: number): Buffer {
    const file = openSync(this.file(name), 'r');
    const buffer = Buffer.alloc(length);
    const count = readSync(file, buffer, 0, length, offset);
    closeSync(file);
    return buffer.subarray(0, count);
  }

  /** A file of bytes that tell where they belong; another seed makes others. */
  pattern(name: string, bytes: number, seed: number): string {
    const path = this.file(name);
    const content = Buffer.allocUnsafe(bytes);
    fillPattern(content, 0, seed);
    writeFileSync(path, content);
    return path;
  }
}

export function sameContent(a: string, b: string): boolean {
  return readFileSync(a).equals(readFileSync(b));
}

export function sectorsOf(bytes: number): number {
  return bytes / 512;
}

/** A whole file as a table. */
export function linear(path: string, bytes: number): string {
  return `0 ${sectorsOf(bytes)} linear ${path} 0`;
}

export interface DaemonSettings {
  readonly engine: EngineName;
  /** Devices of the command line: name and table. */
  readonly devices?: Readonly<Record<string, string>>;
  readonly args?: readonly string[];
}

export interface LogLine {
  readonly level: string;
  readonly msg: string;
  /** In the line "ready": the addresses. */
  readonly serving?: readonly string[];
}

/** How a daemon ended, and what it left in the file system. */
export interface End {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly left: readonly string[];
  /** Lines of standard error that are not log lines. */
  readonly stray: readonly string[];
}

/** The engine cannot run on this machine. */
class EngineMissing extends Error {}

export class Daemon {
  readonly engine: EngineName;
  readonly socket: string;
  readonly controlSocket: string;
  readonly #directory: string;
  readonly #child: ChildProcess;
  readonly #ended: Promise<Output>;
  #standardError = '';
  #port = 0;
  #terminated = false;
  #client: ControlClient | null = null;

  private constructor(settings: DaemonSettings) {
    this.engine = settings.engine;
    this.#directory = mkdtempSync(join(tmpdir(), 'mapperd-'));
    this.socket = join(this.#directory, 'nbd.sock');
    this.controlSocket = join(this.#directory, 'control.sock');
    const args = [mapperd, '-U', this.socket, '-p', '0', '--control', this.controlSocket];
    args.push('-P', this.#pidfile, '--engine', settings.engine, '--log-level', 'debug');
    for (const [name, table] of Object.entries(settings.devices ?? {})) {
      args.push('--device', `${name}: ${table.replaceAll('\n', '; ')}`);
    }
    this.#child = launch(process.execPath, [...args, ...(settings.args ?? [])], this.#directory);
    this.#child.stderr?.on('data', (chunk) => {
      this.#standardError += chunk;
    });
    this.#ended = outputOf(this.#child, 'mapperd', lifeSeconds);
    // Whoever waits for the end hears of it.
    this.#ended.catch(() => {});
  }

  get #pidfile(): string {
    return join(this.#directory, 'pid');
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  /** Resolves when clients can connect. */
  static async start(settings: DaemonSettings): Promise<Daemon> {
    const daemon = new Daemon(settings);
    try {
      await daemon.#ready();
    } catch (error) {
      daemon.#child.kill('SIGKILL');
      rmSync(daemon.#directory, { recursive: true, force: true });
      throw error;
    }
    return daemon;
  }

  async #ready(): Promise<void> {
    const deadline = Date.now() + startSeconds * 1000;
    let ended = false;
    const end = this.#ended.then(
      () => {
        ended = true;
      },
      () => {
        ended = true;
      },
    );
    while (!existsSync(this.#pidfile)) {
      await Promise.race([sleep(10), end]);
      if (ended) {
        const text = this.#standardError.trim();
        if (text.startsWith('mapperd: engine ')) throw new EngineMissing(text);
        throw new Error(`mapperd ended before it was ready: ${text}`);
      }
      if (Date.now() > deadline) throw new Error(`mapperd not ready after ${startSeconds} s`);
    }
    const pid = readFileSync(this.#pidfile, 'utf8');
    if (pid !== `${this.pid}\n`) throw new Error(`pidfile: found "${pid}", wanted ${this.pid}`);
    await this.#learnPort(deadline);
  }

  /** The line that tells the port is written at the same time as the pidfile. */
  async #learnPort(deadline: number): Promise<void> {
    while (this.#port === 0) {
      const ready = this.log.find((line) => line.msg === 'ready');
      for (const uri of ready?.serving ?? []) {
        const match = /^nbd:\/\/127\.0\.0\.1:([0-9]+)\//.exec(uri);
        if (match !== null) this.#port = Number(match[1]);
      }
      if (Date.now() > deadline) throw new Error('mapperd did not tell its port');
      if (this.#port === 0) await sleep(10);
    }
  }

  get port(): number {
    return this.#port;
  }

  /** An export, over the unix socket; without a name the default one. */
  uri(name = ''): string {
    return `nbd+unix:///${encodeURIComponent(name)}?socket=${this.socket}`;
  }

  tcpUri(name = ''): string {
    return `nbd://127.0.0.1:${this.port}/${encodeURIComponent(name)}`;
  }

  /** What the daemon has logged so far. */
  get log(): LogLine[] {
    return this.#lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
  }

  /** Whole lines only. */
  get #lines(): string[] {
    return this.#standardError.split('\n').slice(0, -1);
  }

  /** Runs mapperctl, and returns what it printed. */
  control(...words: string[]): Promise<string> {
    return succeed(process.execPath, [mapperctl, '-c', this.controlSocket, ...words]);
  }

  /** The same without a process for each, for what is asked again and again. */
  async call<M extends MethodName>(method: M, params: Params<M>): Promise<Results[M]> {
    this.#client ??= await ControlClient.connect([this.controlSocket]);
    return this.#client.call(method, params);
  }

  /** Waits until the device is as wanted. */
  async until(name: string, isWanted: (info: DeviceInfo) => boolean): Promise<void> {
    const deadline = Date.now() + startSeconds * 1000;
    for (;;) {
      const info = await this.call('info', { name });
      if (isWanted(info)) return;
      if (Date.now() > deadline) throw new Error(`${name} stays at ${JSON.stringify(info)}`);
      await sleep(5);
    }
  }

  /** Waits until no client has the device open, and nothing is in flight. */
  untilUnused(name: string): Promise<void> {
    return this.until(name, ({ openCount, inFlight }) => openCount === 0 && inFlight === 0);
  }

  /** Asks it to end. Asked a second time, it would drop what it has in hand. */
  terminate(): void {
    if (!this.#terminated) this.#child.kill('SIGTERM');
    this.#terminated = true;
  }

  /** Ends it as a crash would. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
    rmSync(this.#directory, { recursive: true, force: true });
  }

  /** Ends it by SIGTERM, if nobody has yet, and waits for that. */
  async stop(): Promise<End> {
    this.terminate();
    const limit = setTimeout(() => this.#child.kill('SIGKILL'), stopSeconds * 1000);
    const { code, signal } = await this.#ended;
    clearTimeout(limit);
    const files = [this.socket, this.controlSocket, this.#pidfile];
    const left = files.filter((path) => existsSync(path));
    rmSync(this.#directory, { recursive: true, force: true });
    const stray = this.#lines.filter((line) => !line.startsWith('{'));
    return { code, signal, left, stray };
  }
}

/**
 * Runs `body` with a daemon, then ends that by SIGTERM (unless the body did) and checks that it
 * ended well: code 0, nothing left behind, nothing on standard error but its log.
 */
export async function withDaemon(
  t: Test,
  settings: DaemonSettings,
  body: (daemon: Daemon) => Promise<void>,
): Promise<void> {
  const daemon = await Daemon.start(settings);
  try {
    await body(daemon);
  } catch (error) {
    t.comment(daemon.log.slice(-40));
    throw error;
  } finally {
    const end = await daemon.stop();
    const clean: End = { code: 0, signal: null, left: [], stray: [] };
    t.strictSame(end, clean, 'the daemon ends well on SIGTERM');
  }
}

/** A test on every engine. `programs` are those that it needs. */
export function eachEngine(
  t: Test,
  title: string,
  programs: readonly string[],
  body: (t: Test, engine: EngineName) => Promise<void>,
): void {
  const skip = requires(...programs);
  for (const engine of engines) {
    t.test(`${title} (${engine})`, { skip }, async (t) => {
      try {
        await body(t, engine);
      } catch (error) {
        if (!(error instanceof EngineMissing)) throw error;
        t.pass('this machine has no such engine', {
          skip: unavailable(error.message),
        });
      }
    });
  }
}
