/** The real commands as child processes, and the few words of NBD that it takes to look at them. */

import { type ChildProcess, spawn } from 'node:child_process';
import { connect, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { plainly } from '../interop/plain-node.js';

const sources = new URL('../../src/', import.meta.url);
const script = (name: string): string => fileURLToPath(new URL(`${name}.js`, sources));

export interface LogLine {
  level: string;
  msg: string;
  [field: string]: unknown;
}

export interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface Surroundings {
  cwd?: string;
  /** XDG_RUNTIME_DIR; without it a folder that is not there, so that no test meets another. */
  runtimeDirectory?: string;
}

function start(name: string, args: readonly string[], { cwd, runtimeDirectory }: Surroundings) {
  const environment = { ...process.env, XDG_RUNTIME_DIR: runtimeDirectory ?? '/nonexistent' };
  return spawn(...plainly(process.execPath, [script(name), ...args]), { cwd, env: environment });
}

/** Gathers what a process says until it ends. */
function outcomeOf(child: ChildProcess): Promise<Outcome> {
  let stdout = '';
  let stderr = '';
  child.stdout?.setEncoding('utf8').on('data', (text) => (stdout += text));
  child.stderr?.setEncoding('utf8').on('data', (text) => (stderr += text));
  return new Promise((resolve) => {
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

/** Runs mapperctl to its end. */
export function mapperctl(
  args: readonly string[],
  input = '',
  surroundings: Surroundings = {},
): Promise<Outcome> {
  const child = start('mapperctl', args, surroundings);
  child.stdin.end(input);
  return outcomeOf(child);
}

/** A running mapperd; its log is read as it comes. */
export class DaemonProcess {
  readonly log: LogLine[] = [];
  readonly ended: Promise<Outcome>;
  readonly #child: ChildProcess;
  #heard: (() => void)[] = [];

  constructor(args: readonly string[], surroundings: Surroundings = {}) {
    const child = start('mapperd', args, surroundings);
    this.#child = child;
    let rest = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) if (line.startsWith('{')) this.log.push(JSON.parse(line));
      this.#wake();
    });
    this.ended = outcomeOf(child);
    void this.ended.then(() => this.#wake());
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** The ready line, or null if it ended without one. */
  ready(): Promise<LogLine | null> {
    return this.heard((line) => line.msg === 'ready');
  }

  async heard(wanted: (line: LogLine) => boolean): Promise<LogLine | null> {
    for (;;) {
      const line = this.log.find(wanted);
      if (line !== undefined) return line;
      if (this.#child.exitCode !== null || this.#child.signalCode !== null) return null;
      await new Promise<void>((resolve) => this.#heard.push(resolve));
    }
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Ends it well and gives its exit code. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    this.signal(signal);
    return (await this.ended).code;
  }

  #wake(): void {
    const heard = this.#heard;
    this.#heard = [];
    for (const resolve of heard) resolve();
  }
}

/** Bytes from a socket, in the portions that they are asked for. */
class Reader {
  readonly #chunks: AsyncIterator<Buffer>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(socket: Socket) {
    this.#chunks = socket[Symbol.asyncIterator]();
  }

  async take(length: number): Promise<Buffer> {
    while (this.#rest.length < length) {
      const { value, done } = await this.#chunks.next();
      if (done) throw new Error('connection ended');
      this.#rest = Buffer.concat([this.#rest, value]);
    }
    const taken = this.#rest.subarray(0, length);
    this.#rest = this.#rest.subarray(length);
    return taken;
  }
}

/** An export opened with the oldest option, EXPORT_NAME. */
export interface OpenExport {
  sizeBytes: number;
  readOnly: boolean;
  /** Sends a READ of one sector at the start; resolves to its error number. */
  readSector(): Promise<number>;
  /** The bytes there; rejects with the error number in the text. */
  read(offset: number, length: number): Promise<Buffer>;
  write(offset: number, data: Uint8Array): Promise<void>;
  close(): void;
}

export async function openExport(path: string, name: string): Promise<OpenExport> {
  const socket = connect(path);
  const reader = new Reader(socket);
  const greeting = await reader.take(18);
  if (greeting.toString('latin1', 0, 16) !== 'NBDMAGICIHAVEOPT') throw new Error('no NBD greeting');
  const option = Buffer.alloc(20 + Buffer.byteLength(name));
  option.writeUInt32BE(3, 0); // fixed newstyle, no zeroes
  option.write('IHAVEOPT', 4, 'latin1');
  option.writeUInt32BE(1, 12);
  option.writeUInt32BE(Buffer.byteLength(name), 16);
  option.write(name, 20);
  socket.write(option);
  const about = await reader.take(10);
  /** Sends a request and takes the head of its reply: the error number. */
  const ask = async (type: number, offset: number, length: number, data?: Uint8Array) => {
    const request = Buffer.alloc(28);
    request.writeUInt32BE(0x25609513, 0);
    request.writeUInt16BE(type, 6);
    request.writeBigUInt64BE(BigInt(offset), 16);
    request.writeUInt32BE(length, 24);
    socket.write(request);
    if (data !== undefined) socket.write(data);
    return (await reader.take(16)).readUInt32BE(4);
  };
  const succeed = (error: number): void => {
    if (error !== 0) throw new Error(`request failed with ${error}`);
  };
  return {
    sizeBytes: Number(about.readBigUInt64BE(0)),
    readOnly: (about.readUInt16BE(8) & 2) !== 0,
    async readSector() {
      const error = await ask(0, 0, 512);
      if (error === 0) await reader.take(512);
      return error;
    },
    async read(offset, length) {
      succeed(await ask(0, offset, length));
      return reader.take(length);
    },
    async write(offset, data) {
      succeed(await ask(1, offset, data.length, data));
    },
    close: () => socket.destroy(),
  };
}
