/**
 * A device with two tables over two files, which hold different things: whoever sees something of
 * one and something of the other has seen a mixture. Its table is changed while it is in use.
 */

import { type Loss, unseen } from './after-crash.js';
import type { Cells } from './cells.js';
import { type Asked, ClientDevice, type DeviceRules } from './device.js';
import { SimFailure } from './failure.js';
import { History } from './history.js';
import { type Job, runJob } from './jobs.js';
import { flip } from './layout.js';
import type { Check, Resolution } from './resolution.js';
import type { World } from './world.js';

export class FlipModel implements DeviceRules {
  readonly device: ClientDevice;
  job: Job | null = null;
  readonly #world: World;
  readonly #tables: readonly [string, string];
  /** The table that it has, and what the file of the other one holds. */
  #current: 0 | 1 = 0;
  #other: Cells;
  #changing = false;

  constructor(world: World, tables: readonly [string, string], contents: readonly [Cells, Cells]) {
    this.#world = world;
    this.#tables = tables;
    this.#other = contents[1];
    this.device = new ClientDevice(world, flip, new History(world.clock, contents[0]), this);
  }

  get busy(): boolean {
    return this.job !== null && !this.job.ended;
  }

  // DeviceRules.

  wrote(): void {}

  written(): void {}

  flushed(start: number): void {
    this.device.history.flushed(start);
  }

  mayFail(asked: Asked): boolean {
    return this.#world.faultTicks.flip > asked.start;
  }

  /** The other table: loaded and resumed while requests are under way. */
  change(): void {
    const world = this.#world;
    const next = this.#current === 0 ? 1 : 0;
    const { history } = this.device;
    this.#changing = true;
    const start = world.clock.tick();
    history.mayBecome(this.#other);
    const { catalogue } = world.daemon;
    const begin = async (): Promise<void> => {
      await catalogue.load(flip, this.#tables[next]);
      await catalogue.resume(flip).catch(async (error: unknown) => {
        await catalogue.clear(flip);
        throw error;
      });
    };
    this.job = runJob(world, `flip to table ${next}`, begin, {
      done: () => {
        this.#changing = false;
        // The device was suspended for it, which flushes.
        history.flushed(start);
        this.#other = history.cells;
        history.became(true);
        this.device.changed();
        this.#current = next;
      },
      undone: () => {
        this.#changing = false;
        history.became(false);
      },
    });
  }

  /**
   * What must hold under a daemon that has started anew, in which the device has that table. The
   * other file is in no table: a daemon that ends in peace does not flush what a killed one left.
   */
  resolve(table: string | null, loss: Loss): Resolution {
    const isNew = this.#isNew(table);
    const { history } = this.device;
    const next = history.next;
    const cells = isNew && next !== null ? next : history.cells;
    const checks: Check[] = [{ name: flip, cells }];
    return {
      checks,
      commit: () => {
        this.#other = unseen(this.#world.clock, loss, isNew ? history.cells : this.#other);
        if (isNew) {
          this.#current = this.#current === 0 ? 1 : 0;
        }
        this.#changing = false;
        this.job = null;
      },
    };
  }

  /** Whether a command that was cut off has come to its end all the same. */
  #isNew(table: string | null): boolean {
    const now = withoutComments(table ?? '');
    if (now === this.#tables[this.#current]) return false;
    if (this.#changing && now === this.#tables[this.#current === 0 ? 1 : 0]) return true;
    throw new SimFailure('table', `${flip} has the table ${JSON.stringify(table)}`);
  }
}

function withoutComments(text: string): string {
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return lines.join('\n');
}
