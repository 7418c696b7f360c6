/**
 * One daemon for a state directory. The lock is a unix socket in it, `lock`, that the daemon
 * listens on while it lives and that tells its process id to whoever connects. The kernel ends it
 * with the process, however that ends, so a lock left behind is known from a lock that is held; and
 * unlike a process id in a file, it works between containers that share the directory.
 */

import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { EBUSY } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { probeMilliseconds } from '../base/limits.js';
import { connectTo, listenOn, type OwnedPath } from '../base/unix-socket.js';

export class StateLock {
  readonly #server: Server;
  readonly #path: OwnedPath;

  /** Throws MapperError: EBUSY when another daemon has the directory. */
  static async take(directory: string): Promise<StateLock> {
    const server = createServer((socket) => {
      socket.on('error', () => {});
      socket.end(`${process.pid}\n`);
    });
    const path = join(directory, 'lock');
    try {
      return new StateLock(server, await listenOn(server, path));
    } catch (error) {
      if (!(error instanceof MapperError) || error.errno !== EBUSY) throw error;
      const holder = await holderOf(path);
      throw new MapperError(EBUSY, `state directory "${directory}" is in use by ${holder}`);
    }
  }

  private constructor(server: Server, path: OwnedPath) {
    this.#server = server;
    this.#path = path;
    // The lock alone keeps no process alive.
    server.unref();
  }

  release(): void {
    this.#path.remove();
    this.#server.close();
  }
}

async function holderOf(path: string): Promise<string> {
  try {
    const socket = await connectTo(path);
    socket.setEncoding('utf8').setTimeout(probeMilliseconds, () => socket.destroy());
    let text = '';
    for await (const chunk of socket) {
      text += chunk;
      if (text.length > 32) break;
    }
    if (/^[0-9]+\n$/.test(text)) return `process ${text.trim()}`;
  } catch {
    // It ended between the two questions, or does not speak.
  }
  return 'another process';
}
