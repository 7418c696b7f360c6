/**
 * What the target suite needs of the world, so that it runs on every engine. `wait` is the only
 * place where the engine works: a harness over a real one runs it until the promise settles and
 * stops it again, the fake one goes from event to event without letting time pass.
 */

import type { Backing } from '../../src/backing/backing.js';
import type { Log } from '../../src/base/log.js';
import type { CopyEngine } from '../../src/copy/engine.js';
import type { IoPool } from '../../src/device/io.js';
import type { Engine } from '../../src/engine/engine.js';
import type { TargetContext } from '../../src/target/target.js';

export interface TargetHarness {
  readonly engine: Engine;
  readonly ios: IoPool;
  readonly copies: CopyEngine;
  /** Makes a file of zeroes and returns the word that opens it. */
  makeBacking(name: string, sectors: number): string;
  /** As in TargetContext. The harness closes what it opened. */
  openBacking(word: string, sectorsNeeded: number): Backing;
  wait<T>(promise: Promise<T>): Promise<T>;
  close(): void | Promise<void>;
}

export const silent: Log = {
  debug() {},
  info() {},
  warn() {},
  error() {},
};

/** What a target in that place of a device is made from. */
export function contextAt(
  harness: TargetHarness,
  beginSectors: number,
  lengthSectors: number,
  log = silent,
): TargetContext {
  return {
    deviceName: 'subject',
    beginSectors,
    lengthSectors,
    engine: harness.engine,
    ios: harness.ios,
    copies: harness.copies,
    log,
    restored: false,
    host: { name: 'subject', hold: async () => {}, letGo() {}, event() {} },
    openBacking: (word, sectorsNeeded) => harness.openBacking(word, sectorsNeeded),
  };
}
