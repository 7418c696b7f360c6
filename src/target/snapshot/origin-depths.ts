/**
 * How deep that is which a snapshot still has from its origin: one layer deeper than the origin
 * says, and nothing where that has nothing. The origin's answer goes into a list of its own, since
 * the client's may hold extents already, which the new ones would become one with.
 */

import type { Backing } from '../../backing/backing.js';
import { extentsPerReply } from '../../base/limits.js';
import { ExtentList } from '../../device/extent-list.js';
import { type Io, type IoOwner, type IoPool, STATUS } from '../../device/io.js';

export class OriginDepths implements IoOwner {
  readonly #ios: IoPool;
  /** Lists that are not in use. */
  readonly #lists: ExtentList[] = [];

  constructor(ios: IoPool) {
    this.#ios = ios;
  }

  /** Takes a STATUS, with FLAG_DEPTH, of a range that is the origin's; it ends here. */
  submit(io: Io, origin: Backing): void {
    const child = this.#ios.take(STATUS, io.offset, io.length, this);
    child.flags = io.flags;
    child.parent = io;
    child.backingOffset = io.offset;
    child.extents = this.#lists.pop() ?? new ExtentList(extentsPerReply);
    origin.submit(child);
  }

  finished(child: Io): void {
    const io = child.parent as Io;
    const found = child.extents as ExtentList;
    const { error } = child;
    for (let i = 0; i < found.count && error === 0; i++) {
      const depth = found.flags[i] as number;
      const length = found.lengths[i] as number;
      if (!(io.extents as ExtentList).push(length, depth === 0 ? 0 : depth + 1)) break;
    }
    this.#ios.give(child);
    found.clear();
    this.#lists.push(found);
    io.complete(error);
  }
}
