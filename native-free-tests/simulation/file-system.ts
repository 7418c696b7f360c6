/**
 * Files and their names, as a file system with a journal keeps them: a file's bytes are durable
 * when the file was synced, names when their directory was, and of the changes of names since then
 * a crash leaves those up to some point, in their order.
 */

import { Medium } from './medium.js';
import type { Random } from './random.js';

export class Inode {
  readonly number: number;
  readonly medium: Medium;

  constructor(number: number, medium: Medium) {
    this.number = number;
    this.medium = medium;
  }
}

/** Names that come to mean other files, or none, all at once. */
type Change = readonly (readonly [path: string, file: Inode | null])[];

export class FileSystem {
  readonly #names = new Map<string, Inode>();
  readonly #durable = new Map<string, Inode>();
  /** Changes that are not durable yet. */
  #journal: Change[] = [];
  /** Changes that have left the journal. */
  #settled = 0;
  #inodes = 0;

  find(path: string): Inode | undefined {
    return this.#names.get(path);
  }

  /** Names in a directory. */
  list(directory: string): string[] {
    const prefix = `${directory}/`;
    const inside = [...this.#names.keys()].filter((path) => path.startsWith(prefix));
    return inside.map((path) => path.slice(prefix.length)).filter((name) => !name.includes('/'));
  }

  create(path: string, bytes: number): Inode {
    const inode = new Inode(++this.#inodes, new Medium(bytes));
    this.#change([[path, inode]]);
    return inode;
  }

  /** A file that has been there for ever. */
  add(path: string, bytes: number): Inode {
    const inode = this.create(path, bytes);
    inode.medium.harden();
    this.synced(this.syncPoint());
    return inode;
  }

  unlink(path: string): void {
    this.#change([[path, null]]);
  }

  rename(from: string, to: string): void {
    const inode = this.#names.get(from) ?? null;
    this.#change([
      [from, null],
      [to, inode],
    ]);
  }

  #change(change: Change): void {
    this.#journal.push(change);
    for (const [path, inode] of change) set(this.#names, path, inode);
  }

  /** What a sync that begins now makes durable. */
  syncPoint(): number {
    return this.#settled + this.#journal.length;
  }

  synced(point: number): void {
    const count = point - this.#settled;
    if (count <= 0) return;
    for (const change of this.#journal.splice(0, count)) {
      for (const [path, inode] of change) set(this.#durable, path, inode);
    }
    this.#settled = point;
  }

  /** The power has failed: of what is not durable, some is lost. */
  losePower(random: Random): void {
    const kept = random.below(this.#journal.length + 1);
    this.synced(this.#settled + kept);
    this.#settled += this.#journal.length;
    this.#journal = [];
    this.#names.clear();
    for (const [path, inode] of this.#durable) {
      this.#names.set(path, inode);
      inode.medium.losePower(random);
    }
  }

  /** The same files in the same state, for somebody who changes them while nobody changes these. */
  twin(): FileSystem {
    const twin = new FileSystem();
    const twins = new Map<Inode, Inode>();
    const twinOf = (inode: Inode): Inode => {
      const known = twins.get(inode);
      if (known !== undefined) return known;
      const made = new Inode(inode.number, inode.medium.twin());
      twins.set(inode, made);
      return made;
    };
    for (const [path, inode] of this.#names) twin.#names.set(path, twinOf(inode));
    for (const [path, inode] of this.#durable) twin.#durable.set(path, twinOf(inode));
    twin.#journal = this.#journal.map((change) =>
      change.map(([path, inode]) => [path, inode && twinOf(inode)] as const),
    );
    twin.#inodes = this.#inodes;
    return twin;
  }
}

function set(names: Map<string, Inode>, path: string, inode: Inode | null): void {
  if (inode === null) names.delete(path);
  else names.set(path, inode);
}
