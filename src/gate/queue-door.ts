/**
 * The way from the gate into the queue: a unix socket that the queue listens on, in a folder that
 * is open to this user only. Whoever connects there says first whom it brings, and is believed.
 */

import { chownSync, mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { fittingSocketPath } from '../base/unix-socket.js';
import { type Preamble, packPreamble } from '../nbd/piped.js';
import type { QueueCalls } from '../queue/queue.js';

const socketName = 'queue.sock';

export class QueueDoor {
  readonly #folder: string;
  readonly #path: string;

  private constructor(folder: string) {
    this.#folder = folder;
    this.#path = join(folder, socketName);
  }

  /** `parent` is the folder that the private one is made in. Throws MapperError. */
  static async open(queue: QueueCalls, parent = tmpdir()): Promise<QueueDoor> {
    // mkdtemp puts six characters behind it, and the socket's name follows.
    const prefix = fittingSocketPath(join(parent, 'mapperd-'), 6 + 1 + socketName.length);
    const door = new QueueDoor(makeFolder(prefix));
    try {
      const address = { kind: 'unix', path: door.#path } as const;
      await queue.call('listen', { address, piped: true });
      return door;
    } catch (error) {
      door.removeTraces();
      throw error;
    }
  }

  /** The gate goes on as another user. */
  giveTo(uid: number, gid: number): void {
    chownSync(this.#folder, uid, gid);
    chownSync(this.#path, uid, gid);
  }

  /** A connection that may be written to at once; a failure to connect is its 'error'. */
  bring(preamble: Preamble): Socket {
    const socket = connect({ path: this.#path, allowHalfOpen: true });
    socket.on('error', () => {});
    socket.write(packPreamble(preamble));
    return socket;
  }

  /** Synchronous, for the process's exit. */
  removeTraces(): void {
    try {
      rmSync(this.#folder, { recursive: true, force: true });
    } catch {
      // As another user we may only empty it.
    }
  }
}

function makeFolder(prefix: string): string {
  try {
    return mkdtempSync(prefix);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new MapperError(errnoOf(code), `make folder "${prefix}...": ${messageOf(error)}`);
  }
}
