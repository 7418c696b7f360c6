/** mapperd as a side: each script has a daemon of its own; who reads it is a client not of ours. */

import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import type { Test } from 'tap';
import { ENOENT, errnoName } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import type { TableLine } from '../../src/queue/commands.js';
import { Daemon, type EngineName, Scratch } from '../interop/harness.js';
import { run } from '../interop/programs.js';
import { CMD, RawClient, type Reply, type Request } from '../interop/raw-client.js';
import { answered, digestOf, fillStream, SECTOR, type Side } from './steps.js';
import type { Disk } from './uml.js';

export class DaemonSide implements Side {
  readonly name: string;
  readonly #t: Test;
  readonly #engine: EngineName;
  readonly #disks: readonly Disk[];

  constructor(t: Test, engine: EngineName, disks: readonly Disk[] = []) {
    this.name = `mapperd (${engine})`;
    this.#t = t;
    this.#engine = engine;
    this.#disks = disks;
  }

  async run(script: readonly string[]): Promise<string[]> {
    const daemon = await Daemon.start({ engine: this.#engine });
    const performance = new Performance(daemon, new Scratch(this.#t), this.#disks);
    try {
      const transcript = await performance.carryOut(script);
      if (script.includes('poweroff')) return transcript;
      const end = await daemon.stop();
      this.#t.equal(end.code, 0, 'the daemon ends well');
      return transcript;
    } catch (error) {
      this.#t.comment(daemon.log.slice(-40));
      await daemon.kill();
      throw error;
    } finally {
      performance.close();
    }
  }
}

/** One script's run. */
class Performance {
  readonly #daemon: Daemon;
  readonly #files: Scratch;
  readonly #paths: Map<string, string>;
  readonly #devices = new Set<string>();
  readonly #exports = new Map<string, Promise<Export>>();

  constructor(daemon: Daemon, files: Scratch, disks: readonly Disk[]) {
    this.#daemon = daemon;
    this.#files = files;
    this.#paths = new Map(disks.map(({ name, path }) => [name, path]));
  }

  async carryOut(script: readonly string[]): Promise<string[]> {
    const transcript: string[] = [];
    let together: Promise<string>[] | null = null;
    for (const line of script) {
      if (line === 'poweroff') {
        if (together !== null) await someOf(together);
        await this.#daemon.kill();
        await Promise.allSettled(together ?? []);
        break;
      }
      if (line === 'together') {
        together = [];
      } else if (line === 'done') {
        transcript.push(...(await Promise.all(together ?? [])));
        together = null;
      } else if (together !== null) {
        together.push(this.#answer(line));
      } else {
        transcript.push(await this.#answer(line));
      }
    }
    return transcript;
  }

  close(): void {
    for (const one of this.#exports.values()) void one.then((open) => open.close());
  }

  async #answer(line: string): Promise<string> {
    try {
      return answered(line, await this.#result(line));
    } catch (error) {
      if (!(error instanceof MapperError)) throw error;
      return answered(line, `${error.code} [${error.message}]`);
    }
  }

  async #result(line: string): Promise<string> {
    const [, verb, name = '', rest = ''] = /^(\S+) ?(\S*) ?(.*)$/.exec(line) ?? [];
    const [a = 0, b = 0, c = 0] = rest.split(' ').map(Number);
    switch (verb) {
      case 'disk':
        this.#paths.set(name, this.#files.sparse(name, a * SECTOR));
        return 'ok';
      case 'grow':
        truncateSync(this.#path(name), a * SECTOR);
        return 'ok';
      case 'pour':
        await this.#pour(name, a, fillStream(Buffer.alloc(b * SECTOR), a, c));
        return 'ok';
      case 'poke':
        await this.#pour(name, 0, Buffer.concat([Buffer.from(rest, 'hex')], SECTOR));
        return 'ok';
      case 'create':
      case 'load':
        await this.#daemon.call(verb, { name, table: this.#table(rest) });
        this.#devices.add(name);
        return 'ok';
      case 'suspend':
      case 'resume':
        await this.#daemon.call(verb, { name });
        return 'ok';
      case 'remove':
        return this.#remove(name);
      case 'status':
      case 'table':
        return this.#lines(verb, name);
      case 'until':
        return this.#until(name, new RegExp(rest));
      case 'targets':
        return (await this.#daemon.control('targets')).trimEnd().split('\n').join('; ');
      case 'write': {
        const payload = fillStream(Buffer.alloc(b * SECTOR), a, c);
        return this.#io(name, { type: CMD.write, offset: a * SECTOR, payload });
      }
      case 'discard':
        return this.#io(name, { type: CMD.trim, offset: a * SECTOR, length: b * SECTOR });
      case 'zero':
        return this.#io(name, { type: CMD.writeZeroes, offset: a * SECTOR, length: b * SECTOR });
      case 'flush':
        return this.#io(name, { type: CMD.flush });
      case 'peek':
        return this.#peek(name, a, b);
      case 'read':
        return this.#read(name);
      default:
        throw new Error(line);
    }
  }

  #path(name: string): string {
    const path = this.#paths.get(name);
    if (path === undefined) throw new Error(`no disk "${name}"`);
    return path;
  }

  #table(text: string): string {
    const table = text.replace(/@([\w.-]+)/g, (_, name: string) => this.#path(name));
    return table.replaceAll('; ', '\n');
  }

  async #lines(verb: 'status' | 'table', name: string): Promise<string> {
    const lines = (await this.#daemon.call(verb, { name })) as TableLine[];
    const texts = lines.map((line) =>
      `${line.beginSectors} ${line.lengthSectors} ${line.type} ${line.words}`.trimEnd(),
    );
    const names = new Map([...this.#paths].map(([disk, path]) => [path, `@${disk}`]));
    return texts.join('; ').replace(/[^\s;]+/g, (word) => names.get(word) ?? word);
  }

  async #until(name: string, pattern: RegExp): Promise<string> {
    const deadline = Date.now() + 60_000;
    for (;;) {
      const status = await this.#lines('status', name);
      if (pattern.test(status)) return 'ok';
      if (Date.now() > deadline) return `stays at ${status}`;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  async #pour(name: string, sector: number, bytes: Buffer): Promise<void> {
    const file = await open(this.#path(name), 'r+');
    await file.write(bytes, 0, bytes.length, sector * SECTOR);
    await file.close();
  }

  async #remove(name: string): Promise<string> {
    await (await this.#exports.get(name))?.close();
    this.#exports.delete(name);
    await this.#daemon.untilUnused(name);
    await this.#daemon.call('remove', { name });
    this.#devices.delete(name);
    return 'ok';
  }

  /** The kernel has no node to open for a device that could not be made. */
  #mustBeThere(name: string): void {
    if (!this.#devices.has(name)) throw new MapperError(ENOENT, `no export "${name}"`);
  }

  async #request(name: string, request: Request): Promise<Reply> {
    this.#mustBeThere(name);
    let opened = this.#exports.get(name);
    if (opened === undefined) {
      opened = Export.open(this.#daemon.socket, name);
      this.#exports.set(name, opened);
    }
    return (await opened).request(request);
  }

  async #io(name: string, request: Request): Promise<string> {
    const { error } = await this.#request(name, request);
    return error === 0 ? 'ok' : errnoName(error);
  }

  async #peek(name: string, sector: number, count: number): Promise<string> {
    const [offset, length] = [sector * SECTOR, count * SECTOR];
    if (this.#paths.has(name)) {
      const bytes = readFileSync(this.#path(name));
      return digestOf(bytes.subarray(offset, offset + length));
    }
    const { error, data } = await this.#request(name, { type: CMD.read, offset, length });
    return error === 0 ? digestOf(data) : errnoName(error);
  }

  /** A device is read by libnbd's copying program. */
  async #read(name: string): Promise<string> {
    if (this.#paths.has(name)) return digestOf(readFileSync(this.#path(name)));
    this.#mustBeThere(name);
    const copy = this.#files.file('copy');
    writeFileSync(copy, '');
    const { code, stderr } = await run('nbdcopy', [this.#daemon.uri(name), copy]);
    if (code === 0) return digestOf(readFileSync(copy));
    if (/input\/output error/i.test(stderr)) return 'EIO';
    throw new Error(`nbdcopy: ${stderr}`);
  }
}

/** Resolves when a quarter of them have ended. */
async function someOf(all: readonly Promise<unknown>[]): Promise<void> {
  let left = Math.ceil(all.length / 4);
  await new Promise<void>((resolve, reject) => {
    for (const one of all) {
      one.then(() => {
        if (--left === 0) resolve();
      }, reject);
    }
  });
}

interface Waiter {
  resolve(reply: Reply): void;
  reject(error: unknown): void;
}

/** A connection on which several requests are under way. */
class Export {
  readonly #client: RawClient;
  readonly #waiting = new Map<bigint, Waiter>();
  #nextCookie = 1n;
  #reading = false;

  private constructor(client: RawClient) {
    this.#client = client;
  }

  static async open(socket: string, name: string): Promise<Export> {
    return new Export(await RawClient.ready(socket, name));
  }

  request(request: Request): Promise<Reply> {
    const cookie = this.#nextCookie++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(cookie, { resolve, reject });
      void this.#client.sendRequest({ ...request, cookie });
      if (!this.#reading) void this.#read();
    });
  }

  /** Until nobody waits any more. */
  async #read(): Promise<void> {
    this.#reading = true;
    try {
      while (this.#waiting.size > 0) {
        const reply = await this.#client.reply();
        this.#waiting.get(reply.cookie)?.resolve(reply);
        this.#waiting.delete(reply.cookie);
      }
    } catch (error) {
      for (const { reject } of this.#waiting.values()) reject(error);
      this.#waiting.clear();
    }
    this.#reading = false;
  }

  close(): void {
    this.#client.destroy();
  }
}
