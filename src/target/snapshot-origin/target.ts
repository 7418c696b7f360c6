/** Snapshot-origin: lets writes through when every snapshot has what they replace. See README.md. */

import { type Backing, commonFeatures, type Features } from '../../backing/backing.js';
import { MapperError } from '../../base/errors.js';
import type { ChangeMap } from '../../device/change-map.js';
import { type Io, READ, STATUS } from '../../device/io.js';
import { quoteWord } from '../../device/table-text.js';
import { checkCount, openDevice } from '../arguments.js';
import { asInKernel } from '../snapshot/arguments.js';
import { originChanges } from '../snapshot/changes.js';
import type { Origin, OriginFrontend } from '../snapshot/origin.js';
import { type SnapshotRegistry, snapshotsOf } from '../snapshot/registry.js';
import {
  REMAPPED,
  SUBMITTED,
  type Target,
  type TargetContext,
  type TargetHost,
  type TargetType,
} from '../target.js';

export const snapshotOrigin: TargetType = {
  name: 'snapshot-origin',
  version: [1, 9, 0],
  create(args, context) {
    checkCount(args, 'origin: incorrect number of arguments', 1);
    const end = context.beginSectors + context.lengthSectors;
    try {
      const backing = openDevice(context, args[0] as string, end, 'Cannot get target device');
      return new OriginTarget(backing, context);
    } catch (error) {
      throw error instanceof MapperError ? asInKernel(error) : error;
    }
  },
};

class OriginTarget implements Target, OriginFrontend {
  readonly type = snapshotOrigin;
  readonly maxIoSectors = 0;
  readonly backings: readonly Backing[];
  readonly features: Features;
  readonly #backing: Backing;
  readonly #origin: Origin;
  readonly #registry: SnapshotRegistry;
  readonly #host: TargetHost;
  /** It begins where the device and the origin do. */
  readonly #begins: boolean;

  constructor(backing: Backing, context: TargetContext) {
    this.#backing = backing;
    this.#host = context.host;
    this.#begins = context.beginSectors === 0;
    this.#registry = snapshotsOf(context.engine);
    this.#origin = this.#registry.origin(backing);
    this.backings = [backing];
    this.features = commonFeatures(this.backings);
  }

  map(io: Io): number {
    io.backing = this.#backing;
    io.backingOffset = io.offset;
    if (io.operation === READ || io.operation === STATUS) return REMAPPED;
    const wait = this.#origin.prepare(io);
    if (wait === null) return REMAPPED;
    wait.waitForOrigin(io);
    return SUBMITTED;
  }

  /** Offsets are the origin's. */
  changeMaps(): readonly ChangeMap[] {
    return this.#begins ? originChanges(this.#origin) : [];
  }

  status(): string {
    return '';
  }

  table(): string {
    return quoteWord(this.#backing.name);
  }

  resume(): void {
    this.#origin.frontends.add(this);
  }

  hold(): Promise<void> {
    return this.#host.hold();
  }

  letGo(): void {
    this.#host.letGo();
  }

  destroy(): void {
    this.#origin.frontends.delete(this);
    this.#registry.release(this.#backing);
  }
}
