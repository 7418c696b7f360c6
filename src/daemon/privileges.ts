/**
 * Another user for the daemon (--user, --group). It begins as root, because only root can bind some
 * sockets, and works as that user from the start in everything else: files are opened with the
 * user's rights from the first one on, so that what works at the start works later, too.
 *
 *   root --assume--> user for the time being <--raised--> root again, to bind --drop--> user
 *
 * The system's calls change single threads; the C library has all threads of the process change
 * together, the queue's among them, and each of these functions returns when they have.
 */

import { spawnSync } from 'node:child_process';
import { chownSync, readFileSync } from 'node:fs';
import { EINVAL, ENOSYS, EPERM, errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';

/** `name` is null for a user that is known by its number only, and has no further groups. */
export interface Account {
  readonly name: string | null;
  readonly uid: number;
  readonly gid: number;
}

/** The calls that there are only on systems with users. */
interface UserCalls {
  geteuid(): number;
  getegid(): number;
  seteuid(id: number): void;
  setegid(id: number): void;
  setuid(id: number): void;
  setgid(id: number): void;
  setgroups(ids: readonly number[]): void;
  initgroups(user: string, group: number): void;
}

export class Privileges {
  readonly account: Account;
  readonly #calls: UserCalls;
  #dropped = false;

  /**
   * Finds out who is meant. Null: it is so already, and nothing is to be done. Throws MapperError:
   * EINVAL when there is no such user or group, EPERM when this process may not become it.
   */
  static resolve(user: string | null, group: string | null): Privileges | null {
    if (user === null && group === null) return null;
    const calls = process as Partial<UserCalls>;
    if (calls.geteuid === undefined || calls.getegid === undefined) {
      throw new MapperError(ENOSYS, '--user: this system has no users');
    }
    const [uid, gid] = [calls.geteuid(), calls.getegid()];
    const account = accountOf(user, group, uid);
    if (uid === account.uid && gid === account.gid && uid !== 0) return null;
    if (uid !== 0) {
      const wanted = `uid ${account.uid}, gid ${account.gid}`;
      const text = `become ${wanted}: found uid ${uid}, gid ${gid}, wanted root, who alone may`;
      throw new MapperError(EPERM, text);
    }
    return new Privileges(account, calls as UserCalls);
  }

  private constructor(account: Account, calls: UserCalls) {
    this.account = account;
    this.#calls = calls;
  }

  /** What is opened from now on is opened as the user. */
  assume(): void {
    if (this.#dropped) return;
    const { uid, gid } = this.account;
    this.#setGroups();
    this.#calls.setegid(gid);
    this.#calls.seteuid(uid);
  }

  /** Does something as root, in between. */
  async raised<T>(work: () => Promise<T>): Promise<T> {
    this.#raise();
    try {
      return await work();
    } finally {
      this.assume();
    }
  }

  /** From now on there is no way back. */
  drop(): void {
    const { uid, gid } = this.account;
    this.#raise();
    this.#setGroups();
    this.#calls.setgid(gid);
    this.#calls.setuid(uid);
    this.#dropped = true;
    if (uid === 0) return;
    try {
      this.#calls.seteuid(0);
    } catch {
      return;
    }
    throw new MapperError(EPERM, `become uid ${uid}: root can be had back, wanted for good`);
  }

  /** The process is about to exit: what was made as root can be removed if there is a way back. */
  raiseToExit(): void {
    if (!this.#dropped) this.#raise();
  }

  /** Something that was made as root becomes the user's. Throws MapperError. */
  give(path: string): void {
    const { uid, gid } = this.account;
    try {
      chownSync(path, uid, gid);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      throw new MapperError(errnoOf(code), `give "${path}" to uid ${uid}: ${messageOf(error)}`);
    }
  }

  #raise(): void {
    this.#calls.seteuid(0);
    this.#calls.setegid(0);
  }

  #setGroups(): void {
    // Only root can, and it is the same each time.
    if (this.#calls.geteuid() !== 0) return;
    const { name, gid } = this.account;
    if (name === null) this.#calls.setgroups([gid]);
    else this.#calls.initgroups(name, gid);
  }
}

function accountOf(user: string | null, group: string | null, self: number): Account {
  const gid = group === null ? null : groupOf(group);
  if (user === null) return { name: null, uid: self, gid: gid as number };
  const [name, , uid, ownGid] = entryOf('passwd', user) ?? [];
  if (name !== undefined) return { name, uid: Number(uid), gid: gid ?? Number(ownGid) };
  const number = idOf(user);
  if (number === null) throw unknown('--user', user, 'a user');
  if (gid === null) {
    const text = `--user: found ${user}, who is in no group, wanted --group too`;
    throw new MapperError(EINVAL, text);
  }
  return { name: null, uid: number, gid };
}

function groupOf(group: string): number {
  const [, , gid] = entryOf('group', group) ?? [];
  const number = gid === undefined ? idOf(group) : Number(gid);
  if (number === null) throw unknown('--group', group, 'a group');
  return number;
}

/** The largest number means "no change" to the system's calls. */
function idOf(text: string): number | null {
  const number = /^[0-9]{1,10}$/.test(text) ? Number(text) : Number.NaN;
  return number < 2 ** 32 - 1 ? number : null;
}

function unknown(option: string, found: string, wanted: string): MapperError {
  return new MapperError(EINVAL, `${option}: found "${found}", wanted ${wanted} of this system`);
}

/**
 * The fields of a user's or group's entry, looked up by name or number wherever the system keeps
 * them; where there is no getent, that is a file.
 */
function entryOf(database: 'passwd' | 'group', key: string): string[] | null {
  // It would be taken for an option, and no name begins with one.
  if (key.startsWith('-')) return null;
  const { error, status, stdout } = spawnSync('getent', [database, key], { encoding: 'utf8' });
  if (error === undefined && status === 0) return stdout.split('\n', 1)[0]?.split(':') ?? null;
  if (error === undefined) return null;
  const entries = readFileSync(`/etc/${database}`, 'utf8').split('\n');
  const fields = entries.map((line) => line.split(':'));
  const named = fields.find(([name]) => name === key);
  return named ?? fields.find(([, , number]) => number === key) ?? null;
}
