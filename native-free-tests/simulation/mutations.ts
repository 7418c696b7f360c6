/**
 * Deliberate bugs, each of which the simulator must notice. Each replaces a method of a class by
 * one that does not do what it should, for as long as a run takes, and nothing of it is ever
 * shipped.
 */

import type { Backing } from '../../src/backing/backing.js';
import { DeviceBacking } from '../../src/backing/device.js';
import { FileBacking } from '../../src/backing/file.js';
import { HoleCache } from '../../src/backing/hole-cache.js';
import { StateDirectory } from '../../src/control/state.js';
import { CopyEngine } from '../../src/copy/engine.js';
import type { CopyJob } from '../../src/copy/job.js';
import { AwaitedIo } from '../../src/device/awaited-io.js';
import { Device } from '../../src/device/device.js';
import { FLAG_FUA, FLUSH, type Io, READ, WRITE } from '../../src/device/io.js';
import { DeviceRegistry } from '../../src/device/registry.js';
import { FlushAll } from '../../src/device/split.js';
import { Table } from '../../src/device/table.js';
import { Origin } from '../../src/target/snapshot/origin.js';
import { PendingException } from '../../src/target/snapshot/pending.js';
import { PersistentStore } from '../../src/target/snapshot/persistent-store.js';
import { Snapshot } from '../../src/target/snapshot/snapshot.js';
import { PersistentMerge } from '../../src/target/snapshot/store-merge.js';
import { TrackedIos } from '../../src/target/snapshot/tracked-ios.js';
import { BatchCopy } from '../../src/target/switch/batch-copy.js';
import { MovingWrites } from '../../src/target/switch/moving-writes.js';
import { ControlFiles } from './control-files.js';
import { foundMutations } from './found-mutations.js';
import { commitsInAnyOrder, writesInPlace } from './mutated-order.js';
import { type Mutation, method, patch } from './patch.js';

/** FileBacking.submit, but for some Ios, of which it only says that they are done. */
function filesSkip(name: string, skipped: (io: Io) => boolean): Mutation {
  return method(name, FileBacking.prototype, 'submit', (submit) => {
    return function (this: FileBacking, io) {
      if (skipped(io)) io.complete(0);
      else submit.call(this, io);
    };
  });
}

/** Nobody's request: the flush of a copy, of a suspend. */
function isOwn(io: Io): boolean {
  const { operation, owner } = io;
  return operation === FLUSH && (owner instanceof AwaitedIo || owner.constructor === Object);
}

const none = Promise.resolve();

export const mutations: readonly Mutation[] = [
  ...foundMutations,
  method('a flush is answered before it is carried out', Device.prototype, 'submit', (submit) => {
    return function (this: Device, io) {
      if (io.operation === FLUSH) io.complete(0);
      else submit.call(this, io);
    };
  }),
  method('a flush leaves one of several backings out', FlushAll.prototype, 'start', (start) => {
    return function (this: FlushAll, io, table) {
      const flushBackings = table.flushBackings.slice(1);
      start.call(this, io, Object.create(table, { flushBackings: { value: flushBackings } }));
    };
  }),
  method('FUA is not passed on', FileBacking.prototype, 'submit', (submit) => {
    return function (this: FileBacking, io) {
      io.flags &= ~FLAG_FUA;
      submit.call(this, io);
    };
  }),
  filesSkip(
    'exceptions are committed without the flush before',
    (io) => io.operation === FLUSH && io.owner instanceof PersistentStore,
  ),
  method('exceptions are committed before the copy', CopyEngine.prototype, 'start', (start) => {
    return function (this: CopyEngine, job) {
      const { owner } = job;
      if (owner instanceof PendingException) job.owner = { copied() {} };
      start.call(this, job);
      if (owner instanceof PendingException) owner.copied({ ok: true } as CopyJob);
    };
  }),
  method('writes to an origin overtake reads', TrackedIos.prototype, 'await', (wait) => {
    return function (this: TrackedIos, first, last, waiter) {
      return waiter instanceof PendingException ? 0 : wait.call(this, first, last, waiter);
    };
  }),
  method('a merge overtakes writes to the COW', TrackedIos.prototype, 'await', (wait) => {
    return function (this: TrackedIos, first, last, waiter) {
      return waiter instanceof PendingException ? wait.call(this, first, last, waiter) : 0;
    };
  }),
  filesSkip(
    'the next area is not made zeroes',
    (io) => io.operation === WRITE && io.memory === 0 && io.owner instanceof PersistentStore,
  ),
  method(
    'an origin is written before the exception is there',
    PendingException.prototype,
    'waitForOrigin',
    () => (io) => {
      io.progress = 0;
      (io.backing as Backing).submit(io);
    },
  ),
  method('only one of several snapshots copies', Snapshot.prototype, 'copyOut', (copyOut) => {
    return function (this: Snapshot, from, to) {
      return this.origin.snapshots[0] === this ? copyOut.call(this, from, to) : null;
    };
  }),
  method('a snapshot is taken while writes are on their way', Origin.prototype, 'holdAll', () => {
    return async () => () => {};
  }),
  filesSkip(
    'the mark of an invalid snapshot is not written',
    (io) => io.operation === WRITE && io.backingOffset === 0 && io.owner instanceof PersistentStore,
  ),
  commitsInAnyOrder,
  {
    name: 'a merge clears exceptions before it copies',
    apply() {
      const forget = PersistentMerge.prototype.forget;
      const undo = [
        patch(PersistentMerge.prototype, 'forget', () => () => none),
        patch(PersistentMerge.prototype, 'lastRuns', (lastRuns) => {
          return async function (this: PersistentMerge, most) {
            const runs = await lastRuns.call(this, most);
            const count = runs.reduce((sum, run) => sum + run.count, 0);
            if (count > 0) await forget.call(this, count);
            return runs;
          };
        }),
      ];
      return () => {
        for (const one of undo) one();
      };
    },
  },
  method('a merge does not flush its origin', DeviceBacking.prototype, 'submit', (submit) => {
    return function (this: DeviceBacking, io) {
      if (isOwn(io)) io.complete(0);
      else submit.call(this, io);
    };
  }),
  filesSkip('a move does not flush the new path', isOwn),
  method('regions are moved before they are copied', BatchCopy.prototype, 'run', () => () => none),
  method(
    'moved regions are written on one side alone',
    MovingWrites.prototype,
    'submit',
    (submit) => {
      return function (this: MovingWrites, io) {
        submit.call(this, io, null, 0);
      };
    },
  ),
  method('a table is swapped half by half', Device.prototype, 'resume', (resume) => {
    return async function (this: Device) {
      const { live, inactive } = this;
      const halves = live?.slots.length === 2 && inactive?.slots.length === 2;
      if (halves && live.slots[0]?.end === inactive.slots[0]?.end) {
        const slots = [...inactive.slots.slice(0, 1), ...live.slots.slice(1)];
        this.live = new Table(slots, live.backings);
        this.generation++;
        await new Promise<void>((resolve) => {
          this.flush().then(resolve, resolve);
        });
      }
      return resume.call(this);
    };
  }),
  method('a table is live before it is stored', StateDirectory.prototype, 'write', (write) => {
    return function (this: StateDirectory, device) {
      void write.call(this, device);
      return none;
    };
  }),
  writesInPlace,
  method('a state file is not synced', ControlFiles.prototype, 'sync', () => () => none),
  method('the state directory is not synced', ControlFiles.prototype, 'syncDirectory', () => {
    return () => none;
  }),
  method('known holes are not forgotten', HoleCache.prototype, 'forget', () => () => {}),
  method('short transfers are taken for whole ones', FileBacking.prototype, 'ended', (ended) => {
    return function (this: FileBacking, io, result) {
      const transfers = io.operation === READ || io.operation === WRITE;
      const short = transfers && result > 0 && result < io.length - io.progress;
      ended.call(this, io, short ? io.length - io.progress : result);
    };
  }),
  method(
    'a transient snapshot survives its daemon',
    DeviceRegistry.prototype,
    'create',
    (create) => {
      return function (this: DeviceRegistry, name, table, readOnly, _restored, regions) {
        return create.call(this, name, table, readOnly, false, regions);
      };
    },
  ),
];
