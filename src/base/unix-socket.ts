/**
 * Unix sockets with a path. A socket is made in a private folder next to its place, with mode 0600
 * and already listening, and then linked to its path: whoever finds the path finds a live socket
 * that is closed to others. Link refuses a path that is taken, so two that start at the same time
 * cannot both have it.
 *
 * A path that is taken is asked (connect): a live owner is left alone, a socket that nobody listens
 * on any more makes way. Asking and removing belong together, so whoever does it holds an abstract
 * socket named after the path meanwhile, which the kernel gives to one at a time and takes back
 * from the dead.
 */

import { createHash } from 'node:crypto';
import { lstatSync, unlinkSync } from 'node:fs';
import { chmod, link, mkdtemp, rmdir, unlink } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { basename, dirname, relative, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { EBUSY, EINVAL, errnoOf } from './errno.js';
import { MapperError, messageOf } from './errors.js';
import { probeMilliseconds, socketPathBytes } from './limits.js';

/** What stands for the socket's name while it is in its private folder: `.XXXXXX/s`. */
const hiddenNameBytes = 9;

/** A path that this process made; it removes it again only while it still is the same file. */
export class OwnedPath {
  readonly path: string;
  readonly #identity: string | null;

  constructor(path: string) {
    this.path = resolve(path);
    this.#identity = identityOf(this.path);
  }

  /** Synchronous, so that it can be done while the process exits. */
  remove(): void {
    if (this.#identity === null || identityOf(this.path) !== this.#identity) return;
    try {
      unlinkSync(this.path);
    } catch {
      // Somebody was faster, or the folder has become read-only: nothing more can be done.
    }
  }
}

function identityOf(path: string): string | null {
  const found = lstatSync(path, { throwIfNoEntry: false, bigint: true });
  return found === undefined ? null : `${found.dev}:${found.ino}`;
}

/** The path itself, or the shorter way to it from here if it is too long for a unix socket. */
export function fittingSocketPath(path: string, spare = 0): string {
  const fits = (one: string): boolean => Buffer.byteLength(one) + spare <= socketPathBytes;
  if (fits(path)) return path;
  const other = relative(process.cwd(), resolve(path));
  if (fits(other)) return other;
  const bytes = Buffer.byteLength(path) + spare;
  const text = `socket path "${path}" takes ${bytes} bytes, at most ${socketPathBytes}`;
  throw new MapperError(EINVAL, text);
}

/** Listens on `path`, mode 0600. Throws MapperError: EBUSY when a live process has it. */
export async function listenOn(server: Server, path: string): Promise<OwnedPath> {
  const longer = hiddenNameBytes - Buffer.byteLength(basename(path));
  const place = fittingSocketPath(path, Math.max(0, longer));
  try {
    const folder = await mkdtemp(`${dirname(place)}/.`);
    const hidden = `${folder}/s`;
    try {
      await listening(server, hidden);
      await chmod(hidden, 0o600);
      await linkTo(hidden, place);
    } catch (error) {
      server.close();
      throw error;
    } finally {
      await unlink(hidden).catch(() => {});
      await rmdir(folder).catch(() => {});
    }
  } catch (error) {
    if (error instanceof MapperError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    throw new MapperError(errnoOf(code), `listen on "${path}": ${messageOf(error)}`);
  }
  return new OwnedPath(place);
}

function listening(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

async function linkTo(hidden: string, path: string): Promise<void> {
  try {
    await link(hidden, path);
  } catch (error) {
    if (!isCode(error, 'EEXIST')) throw error;
    await takingOver(path, async () => {
      await removeStale(path);
      try {
        await link(hidden, path);
      } catch (again) {
        // Somebody found the path free in the moment since.
        throw isCode(again, 'EEXIST') ? inUse(path) : again;
      }
    });
  }
}

/**
 * Makes way at `path` for a new socket. Throws MapperError: EBUSY when a process listens there,
 * EINVAL when it is no socket at all.
 */
export async function removeStaleSocket(path: string): Promise<void> {
  if (identityOf(path) !== null) await takingOver(path, () => removeStale(path));
}

/** Runs `work` while nobody else takes a socket's place at that path. */
async function takingOver<T>(path: string, work: () => Promise<T>): Promise<T> {
  const full = resolve(path);
  const place = `${identityOf(dirname(full))}/${basename(full)}`;
  const name = createHash('sha256').update(place).digest('hex').slice(0, 32);
  const deadline = performance.now() + probeMilliseconds;
  for (;;) {
    const mutex = createServer();
    try {
      await listening(mutex, `\0mapperd-takeover-${name}`);
    } catch (error) {
      if (!isCode(error, 'EADDRINUSE') || performance.now() > deadline) throw error;
      await sleep(5);
      continue;
    }
    try {
      return await work();
    } finally {
      await new Promise((resolve) => mutex.close(resolve));
    }
  }
}

async function removeStale(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket()) {
    throw new MapperError(EINVAL, `"${path}" is there and is no socket: it is left alone`);
  }
  const identity = identityOf(path);
  if (await isLive(path)) throw inUse(path);
  // Another network namespace does not see who is taking over; what it put here is left alone.
  if (identityOf(path) !== identity) throw inUse(path);
  await unlink(path);
}

function inUse(path: string): MapperError {
  return new MapperError(EBUSY, `socket "${path}" is in use by another process`);
}

function isCode(error: unknown, code: string): boolean {
  return (error as NodeJS.ErrnoException).code === code;
}

async function isLive(path: string): Promise<boolean> {
  try {
    const socket = await connectTo(path);
    socket.destroy();
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // Anything else (a full backlog, no permission) may be a live owner.
    return code !== 'ECONNREFUSED' && code !== 'ENOENT';
  }
}

/** Connects, or rejects with the system's error. */
export function connectTo(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(fittingSocketPath(path));
    socket.setTimeout(probeMilliseconds, () => socket.destroy(new Error('no answer')));
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      socket.setTimeout(0);
      resolve(socket);
    });
  });
}
