/**
 * Locks of files between daemons. Both engines have the same, and nothing that is left behind can
 * be in the way. A lock is an abstract unix socket, named after the file's identity, which takes
 * nothing native: the kernel gives a name to one socket at a time, and takes it back when its
 * process ends, however it ends. Nor does anybody have to be able to write to the file.
 *
 *   mapperd/file/IDENTITY/writer      whoever writes, at most one
 *   mapperd/file/IDENTITY/reader/N    each of those that only read
 *   mapperd/file/IDENTITY/pid/PID     tells others who it is
 *
 * A writer takes its name and then looks for readers, a reader takes a name and then looks for a
 * writer, each by trying to take the other's names. So two that come at the same time may see each
 * other and both try again, but never does neither see the other.
 *
 * The names are those of a network namespace, and containers have their own. So where there is
 * koffi a file (no block device: udev has another use for that) is locked by flock as well, on a
 * descriptor of its own: the ring lets go of its files only some time after a process has died.
 *
 * Within a process a file may be open as often as it likes; the lock is given back with the last.
 */

import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { EAGAIN, EBUSY, errnoOf } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { fileReaders, lockTries, lockTryMilliseconds } from '../base/limits.js';
import { fileIdentity } from './file-facts.js';
import type { Flock } from './uring/flock.js';

/** A name is as long as there is room for, whatever becomes of the rest in other versions. */
const nameBytes = 108;
const listOfSockets = '/proc/net/unix';

interface Held {
  readonly names: Server[];
  /** What flock has locked; null: nothing. */
  readonly fd: number | null;
  exclusive: boolean;
  users: number;
}

export class FileLocks {
  readonly #flock: Flock | null;
  /** What this process holds, by the files' identities. */
  readonly #held = new Map<string, Held>();

  constructor(flock: Flock | null) {
    this.#flock = flock;
  }

  /**
   * Locks a file for this process, alone or with others that only read; returns what gives that
   * back. Throws MapperError: EBUSY with the holder's process id when another process has it.
   */
  take(path: string, identity: string, exclusive: boolean): () => void {
    let held = this.#held.get(identity);
    if (held === undefined) {
      held = this.#lock(path, identity, exclusive);
      this.#held.set(identity, held);
    } else if (exclusive && !held.exclusive) {
      this.#lockToWrite(path, identity, held);
    }
    const one = held;
    one.users++;
    return () => {
      if (--one.users > 0) return;
      this.#held.delete(identity);
      if (one.fd !== null) closeSync(one.fd);
      close(one.names);
    };
  }

  #lock(path: string, identity: string, exclusive: boolean): Held {
    const names = takeNames(path, identity, exclusive, false);
    try {
      return { names, fd: this.#lockFile(path, identity, exclusive), exclusive, users: 0 };
    } catch (error) {
      close(names);
      throw error;
    }
  }

  /** For what reads already; it goes on reading if it cannot write, too. */
  #lockToWrite(path: string, identity: string, held: Held): void {
    const names = takeNames(path, identity, true, true);
    if (held.fd !== null && this.#flock?.(held.fd, true) === -EAGAIN) {
      // The attempt has cost the lock to read.
      this.#flock(held.fd, false);
      close(names);
      throw lockedElsewhere(path);
    }
    held.names.push(...names);
    held.exclusive = true;
  }

  #lockFile(path: string, identity: string, exclusive: boolean): number | null {
    if (this.#flock === null || identity.startsWith('block:')) return null;
    const fd = openToLock(path, exclusive);
    let locked = false;
    try {
      if (fileIdentity(fstatSync(fd, { bigint: true })) !== identity) {
        throw new MapperError(EAGAIN, `${path} became another file while it was opened`);
      }
      const result = this.#flock(fd, exclusive);
      if (result === -EAGAIN) throw lockedElsewhere(path);
      // A file system may have no locks.
      locked = result === 0;
    } finally {
      if (!locked) closeSync(fd);
    }
    return locked ? fd : null;
  }
}

/** Network file systems want a descriptor that can do what the lock is for. */
function openToLock(path: string, exclusive: boolean): number {
  const access = exclusive ? constants.O_RDWR : constants.O_RDONLY;
  try {
    return openSync(path, access | constants.O_NONBLOCK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new MapperError(errnoOf(code), `cannot open ${path} to lock it: ${code}`);
  }
}

function lockedElsewhere(path: string): MapperError {
  return new MapperError(EBUSY, `${path} is in use by another process, which has locked it`);
}

function close(names: readonly Server[]): void {
  for (const name of names) name.close();
}

/** `reading`: this process is one of the readers. */
function takeNames(path: string, identity: string, exclusive: boolean, reading: boolean): Server[] {
  for (let tries = 1; ; tries++) {
    const names = exclusive ? lockToWrite(identity, reading) : lockToRead(identity);
    if (names !== null) {
      const own = reading ? null : takeName(`${identity}/pid/${process.pid}`);
      return own === null ? names : [...names, own];
    }
    if (tries === lockTries) throw refusal(path, identity);
    // Somebody may only have looked whether we are there.
    Atomics.wait(nobodyWakes, 0, 0, lockTryMilliseconds);
  }
}

const nobodyWakes = new Int32Array(new SharedArrayBuffer(4));

function lockToWrite(identity: string, reading: boolean): Server[] | null {
  const writer = takeName(`${identity}/writer`);
  if (writer === null) return null;
  // One of them is this process itself, which has looked for no other.
  let readers = reading ? -1 : 0;
  for (let n = 0; n < fileReaders; n++) {
    if (!isFree(`${identity}/reader/${n}`)) readers++;
  }
  if (readers <= 0) return [writer];
  writer.close();
  return null;
}

function lockToRead(identity: string): Server[] | null {
  for (let n = 0; n < fileReaders; n++) {
    const reader = takeName(`${identity}/reader/${n}`);
    if (reader === null) continue;
    if (isFree(`${identity}/writer`)) return [reader];
    reader.close();
    return null;
  }
  return null;
}

function isFree(name: string): boolean {
  const server = takeName(name);
  server?.close();
  return server !== null;
}

/** Null: it cannot be had. Node binds at once, and tells why it could not only later. */
function takeName(name: string): Server | null {
  const server = createServer((socket) => socket.destroy());
  server.on('error', () => {});
  server.listen({ path: `\0mapperd/file/${name}/`.padEnd(nameBytes, '.'), backlog: 1 });
  if (!server.listening) return null;
  // The lock alone keeps no process alive.
  return server.unref();
}

function refusal(path: string, identity: string): MapperError {
  const holders = holdersOf(identity);
  if (holders?.length === 0) {
    return new MapperError(EAGAIN, `${path} cannot be locked (--no-lock does without)`);
  }
  const who =
    holders === null || holders[0] === ''
      ? 'another process'
      : `${holders.length === 1 ? 'process' : 'processes'} ${holders.join(', ')}`;
  return new MapperError(EBUSY, `${path} is in use by ${who}`);
}

/** Process ids of those that have the file; an empty text for one that does not tell. */
function holdersOf(identity: string): string[] | null {
  const begin = `@mapperd/file/${identity}/`;
  let lines: string[];
  try {
    lines = readFileSync(listOfSockets, 'latin1').split('\n');
  } catch {
    return null;
  }
  const names = lines.filter((line) => line.includes(begin));
  const pids = names.flatMap((line) => /\/pid\/([0-9]+)\//.exec(line)?.[1] ?? []);
  if (pids.length > 0) return [...new Set(pids)];
  return names.length > 0 ? [''] : [];
}
