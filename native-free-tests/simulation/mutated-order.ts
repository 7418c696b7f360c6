/** Deliberate bugs that take more than a line: see mutations.ts. */

import { CommitOrder } from '../../src/target/snapshot/commit-order.js';
import type { Committable } from '../../src/target/snapshot/store.js';
import { ControlFiles } from './control-files.js';
import { type Mutation, method } from './patch.js';

/** Exceptions in a list instead of in order. */
const lists = new WeakMap<CommitOrder, Committable[]>();

function listOf(order: CommitOrder): Committable[] {
  const known = lists.get(order) ?? [];
  lists.set(order, known);
  return known;
}

export const commitsInAnyOrder: Mutation = {
  name: 'exceptions are committed as their data arrives',
  apply() {
    const { prototype } = CommitOrder;
    const before = Object.getOwnPropertyDescriptors(prototype);
    prototype.allocated = function (exception) {
      exception.arrived = false;
      exception.ok = false;
      exception.nextCommit = null;
      listOf(this).push(exception);
    };
    prototype.take = function () {
      const list = listOf(this);
      const at = list.findLastIndex(({ arrived }) => arrived);
      return at < 0 ? null : (list.splice(at, 1)[0] ?? null);
    };
    prototype.dissolve = function () {
      const arrived = listOf(this)
        .splice(0)
        .filter((one) => one.arrived);
      for (const [i, one] of arrived.entries()) one.nextCommit = arrived[i + 1] ?? null;
      return arrived[0] ?? null;
    };
    Object.defineProperty(prototype, 'ready', {
      configurable: true,
      get(this: CommitOrder) {
        return listOf(this).some(({ arrived }) => arrived);
      },
    });
    return () => {
      Object.defineProperties(prototype, before);
    };
  },
};

/** As if a file that is there were written over, where it should be replaced by a new one. */
export const writesInPlace: Mutation = method(
  'a state file is written in place',
  ControlFiles.prototype,
  'rename',
  (rename) =>
    async function (this: ControlFiles, from, to) {
      const { fileSystem } = this.engine;
      const [source, target] = [fileSystem.find(from), fileSystem.find(to)];
      if (source === undefined || target === undefined) return rename.call(this, from, to);
      const contents = source.medium.contents.slice();
      target.medium.truncate(0);
      await this.write(to, target, 0, contents);
      await this.sync(to, target);
      await this.unlink(from);
    },
);
