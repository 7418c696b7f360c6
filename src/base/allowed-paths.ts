/**
 * The paths that files may be opened at (--allow-path): what is at or beneath one of them. It is
 * the real path that counts, the one without symbolic links, and that of what was really opened:
 * the kernel tells it of a descriptor (/proc/self/fd), whatever becomes of names meanwhile. So a
 * file is opened as a place in the tree first (O_PATH, which does nothing to it), and looked at.
 */

import {
  type BigIntStats,
  closeSync,
  constants,
  fstatSync,
  openSync,
  readlinkSync,
  realpathSync,
} from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { EPERM, errnoOf } from './errno.js';
import { MapperError } from './errors.js';

/** Linux's; Node does not list it. */
const O_PATH = 0o10000000;

/** A file, or where one is to be made or removed, as long as it is held. */
export interface HeldPlace {
  /** Leads there, whatever is made of the names meanwhile. */
  readonly path: string;
  release(): void;
}

export class AllowedPaths {
  /** Real paths. */
  readonly roots: readonly string[];

  constructor(roots: readonly string[]) {
    this.roots = roots;
  }

  /** Throws MapperError for one that is not there. */
  static resolve(paths: readonly string[]): AllowedPaths {
    return new AllowedPaths(paths.map(realPathOf));
  }

  includes(real: string): boolean {
    return this.roots.some((root) => {
      return real === root || real.startsWith(root === '/' ? '/' : `${root}/`);
    });
  }

  /** What is at a path. Throws MapperError: EPERM when it is not allowed. */
  look(path: string): BigIntStats {
    const fd = this.#openFile(path);
    try {
      return fstatSync(fd, { bigint: true });
    } finally {
      closeSync(fd);
    }
  }

  /** What is there, whatever the path leads to later. Throws MapperError like `look`. */
  holdFile(path: string): HeldPlace {
    const fd = this.#openFile(path);
    return { path: `/proc/self/fd/${fd}`, release: () => closeSync(fd) };
  }

  #openFile(path: string): number {
    const fd = this.#openPlace(path, 0);
    try {
      if (!this.includes(realPathOfDescriptor(fd))) throw refused(path);
      return fd;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** Throws MapperError: EPERM when nothing may be made there. */
  holdPlace(path: string): HeldPlace {
    const full = resolve(path);
    const fd = this.#openPlace(dirname(full), constants.O_DIRECTORY);
    try {
      // A root need not be a folder: the file itself may be what is allowed.
      const real = realPathOfDescriptor(fd);
      const name = basename(full);
      if (!this.includes(real === '/' ? `/${name}` : `${real}/${name}`)) throw refused(path);
      return { path: `/proc/self/fd/${fd}/${name}`, release: () => closeSync(fd) };
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** What cannot be found is told only where it would be allowed. */
  #openPlace(path: string, flags: number): number {
    try {
      return openSync(path, O_PATH | flags);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (!this.#mayBeAllowed(path)) throw refused(path);
      throw new MapperError(errnoOf(code), `cannot open ${path}: ${code}`);
    }
  }

  #mayBeAllowed(path: string): boolean {
    const full = resolve(path);
    try {
      return this.includes(`${realpathSync(dirname(full))}/${basename(full)}`);
    } catch {
      return false;
    }
  }
}

function realPathOf(path: string): string {
  try {
    return realpathSync(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new MapperError(errnoOf(code), `--allow-path "${path}": ${code}`);
  }
}

/** Throws MapperError where the kernel does not tell. */
function realPathOfDescriptor(fd: number): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new MapperError(errnoOf(code), `look into /proc/self/fd (--allow-path): ${code}`);
  }
}

function refused(path: string): MapperError {
  return new MapperError(EPERM, `${path} is outside the paths that are allowed (--allow-path)`);
}
