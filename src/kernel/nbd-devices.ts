/**
 * The kernel's nbd devices, as its files tell them:
 *
 *   /sys/module/nbd               there while the driver is
 *   /sys/block/nbdX/pid           there while the device is attached: the process that did it
 *   /sys/block/nbdX/size          in sectors of 512 bytes, whatever its block size
 *   /sys/block/nbdX/dev           major:minor; nbdX/nbdXpN/dev that of a partition
 *   /sys/block/nbdX/holders       what has been built on it (device mapper, RAID)
 *   /proc/self/mountinfo          third word: major:minor, fifth: where it is mounted
 *   /proc/swaps                   first word: the node
 */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { EINVAL } from '../base/errno.js';
import { MapperError } from '../base/errors.js';

export interface NbdDevice {
  readonly index: number;
  /** `/dev/nbd0` */
  readonly node: string;
  /** Who attached it; null: nobody has. */
  readonly pid: number | null;
  readonly sizeBytes: number;
}

export class NbdDevices {
  readonly #root: string;

  /** `root`: what / is; tests have it elsewhere. */
  constructor(root = '/') {
    this.#root = root;
  }

  /** Whether the kernel has its nbd driver. */
  get supported(): boolean {
    return existsSync(this.#path('sys/module/nbd'));
  }

  /** In the order of their numbers. */
  list(): NbdDevice[] {
    const indexes: number[] = [];
    for (const name of this.#names('sys/block')) {
      const match = /^nbd([0-9]+)$/.exec(name);
      if (match !== null) indexes.push(Number(match[1]));
    }
    return indexes.sort((a, b) => a - b).map((index) => this.get(index) as NbdDevice);
  }

  /** Null: there is no device of that number. */
  get(index: number): NbdDevice | null {
    const folder = `sys/block/nbd${index}`;
    if (!existsSync(this.#path(folder))) return null;
    const pid = this.#text(`${folder}/pid`);
    return {
      index,
      node: `/dev/nbd${index}`,
      pid: pid === null ? null : Number(pid),
      sizeBytes: Number(this.#text(`${folder}/size`) ?? 0) * 512,
    };
  }

  /** Whether programs find it where they look for it; in a container it may be missing. */
  hasNode({ node }: NbdDevice): boolean {
    return existsSync(this.#path(node));
  }

  /** What the device and its partitions are used for, in words; empty: for nothing that is known. */
  users({ index }: NbdDevice): string[] {
    const name = `nbd${index}`;
    const partitions = this.#names(`sys/block/${name}`)
      .filter((one) => new RegExp(`^${name}p[0-9]+$`).test(one))
      .map((one) => ({ name: one, folder: `sys/block/${name}/${one}` }));
    const parts = [{ name, folder: `sys/block/${name}` }, ...partitions];
    const mounts = this.#lines('proc/self/mountinfo').map((line) => line.split(' '));
    const swaps = this.#lines('proc/swaps').map((line) => line.split(/\s/)[0]);
    const users: string[] = [];
    for (const part of parts) {
      const numbers = this.#text(`${part.folder}/dev`);
      for (const [, , device, , where = ''] of mounts) {
        if (numbers !== null && device === numbers) users.push(`mounted at "${unescaped(where)}"`);
      }
      if (swaps.includes(`/dev/${part.name}`)) users.push('used for swapping');
      users.push(...this.#names(`${part.folder}/holders`).map((one) => `used by ${one}`));
    }
    return users;
  }

  #path(path: string): string {
    return join(this.#root, path);
  }

  #names(folder: string): string[] {
    try {
      return readdirSync(this.#path(folder));
    } catch {
      return [];
    }
  }

  /** Without the line's end; null: there is no such file. */
  #text(path: string): string | null {
    try {
      return readFileSync(this.#path(path), 'utf8').trim();
    } catch {
      return null;
    }
  }

  #lines(path: string): string[] {
    return (this.#text(path) ?? '').split('\n');
  }
}

/** Blanks and their like are in octal in the mount table. */
function unescaped(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_all, octal) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
}

/** Whether a word means a device of the kernel's, not one of the daemon's. */
export function isNode(word: string): boolean {
  return word.startsWith('/dev/');
}

/** The number in `/dev/nbd7`. Throws MapperError EINVAL. */
export function indexOf(word: string): number {
  const match = /^\/dev\/nbd([0-9]{1,4})$/.exec(word);
  if (match !== null) return Number(match[1]);
  throw new MapperError(EINVAL, `found "${word}", wanted a whole device, as "/dev/nbd0"`);
}
