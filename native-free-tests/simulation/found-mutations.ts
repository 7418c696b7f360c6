/** Bugs that the simulator has found, put in again: see mutations.ts. */

import { AwaitedIo } from '../../src/device/awaited-io.js';
import { Device } from '../../src/device/device.js';
import { PersistentStore } from '../../src/target/snapshot/persistent-store.js';
import { ControlFiles } from './control-files.js';
import { type Mutation, method, patch } from './patch.js';

const none = Promise.resolve();

/** Those that have been read, and so synced once. */
const read = new WeakSet<ControlFiles>();

export const foundMutations: readonly Mutation[] = [
  method(
    'what a killed daemon has left in the state directory is not made durable',
    ControlFiles.prototype,
    'syncDirectory',
    (sync) =>
      function (this: ControlFiles, directory) {
        if (read.has(this)) return sync.call(this, directory);
        read.add(this);
        return none;
      },
  ),
  {
    name: 'what a killed daemon has left in a COW is not made durable',
    apply() {
      let opening = false;
      const undo = [
        patch(PersistentStore.prototype, 'open', (open) => {
          return function (this: PersistentStore, found) {
            // The flush comes first, before anything is waited for.
            opening = true;
            const opened = open.call(this, found);
            opening = false;
            return opened;
          };
        }),
        patch(AwaitedIo.prototype, 'flush', (flush) => {
          return function (this: AwaitedIo, backing) {
            return opening ? Promise.resolve(0) : flush.call(this, backing);
          };
        }),
      ];
      return () => {
        for (const one of undo) one();
      };
    },
  },
  method(
    'what was suspended without a flush is removed without one',
    Device.prototype,
    'suspend',
    (suspend) =>
      async function (this: Device, noFlush) {
        if (!this.suspended) await suspend.call(this, noFlush);
      },
  ),
  method(
    'an origin is written before its snapshot is invalid for good',
    PersistentStore.prototype,
    'idle',
    (idle) =>
      async function (this: PersistentStore) {
        if (this.valid) await idle.call(this);
      },
  ),
];
