/** A control plane over a queue thread that is made up, without any file. */

import { EINVAL, ENOENT } from '../../src/base/errno.js';
import { MapperError, messageOf } from '../../src/base/errors.js';
import type { Log } from '../../src/base/log.js';
import { Catalogue } from '../../src/control/catalogue.js';
import { controlMethods, type Subscriber } from '../../src/control/commands.js';
import type { Files } from '../../src/control/files.js';
import { Regions } from '../../src/control/regions.js';
import { Rpc, type RpcMethod } from '../../src/control/rpc.js';
import { Snapshots } from '../../src/control/snapshots.js';
import type { QueueCommand, QueueCommands } from '../../src/queue/commands.js';
import { FakeQueue } from '../control/fake-queue.js';
import { someVersion as version } from '../control/some-version.js';

const nothing = (): Promise<never> => Promise.reject(new MapperError(ENOENT, 'found no file'));

/** A file system with nothing in it, in which nothing can be made. */
const noFiles: Files = {
  list: nothing,
  read: nothing,
  create: nothing,
  rename: nothing,
  unlink: nothing,
  syncDirectory: nothing,
  identity: async () => null,
  size: nothing,
  make: nothing,
  open: nothing,
};

/** Tables that are there before anybody asks. */
const tables: readonly (readonly [string, string])[] = [
  ['vol0', '0 96 linear /a 0\n96 160 switch 3 8 0 /a 0 /b 0 /c 8'],
  ['vol1', '0 128 linear dm:vol0 8'],
];

/** Tables that its code is not made for it refuses, as the real one refuses them. */
class RefusingQueue extends FakeQueue {
  override async call<C extends QueueCommand>(
    command: C,
    params: QueueCommands[C]['params'],
  ): Promise<QueueCommands[C]['result']> {
    try {
      return await super.call(command, params);
    } catch (error) {
      throw error instanceof MapperError ? error : new MapperError(EINVAL, messageOf(error));
    }
  }
}

export interface ControlWorld {
  readonly rpc: Rpc<Subscriber>;
  /** What was logged as an error of the daemon's own. */
  readonly faults: string[];
}

export async function makeControlWorld(): Promise<ControlWorld> {
  const faults: string[] = [];
  const fault = (fields: object, text: string): void => {
    const { err } = fields as { err?: Error };
    faults.push(err === undefined ? text : `${text}: ${err.stack}`);
  };
  const log: Log = { debug() {}, info() {}, warn() {}, error: fault };
  const queue = new RefusingQueue();
  const catalogue = new Catalogue(queue, null, log);
  const snapshots = new Snapshots(queue, catalogue, null, log, noFiles);
  const regions = new Regions(queue, catalogue, log);
  for (const [name, table] of tables) await catalogue.create({ name, table });
  const methods = controlMethods({ queue, catalogue, snapshots, regions, version });
  // A copy makes its destinations, wherever a word that was changed a little has them.
  const copy = methods.get('copy') as RpcMethod<Subscriber>;
  methods.set('copy', { ...copy, handle: () => ({ id: 1 }) });
  return { rpc: new Rpc(methods, log), faults };
}
