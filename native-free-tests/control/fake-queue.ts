/**
 * A queue thread that does no I/O: devices are table texts in memory. It checks what the real one
 * checks (names taken, tables' grammar, devices in use), so that the control plane sees refusals.
 */

import { EBUSY, EEXIST, ENODEV, ENXIO } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import { renameInTable, tableDependencies } from '../../src/control/table-text.js';
import { Counters } from '../../src/device/counters.js';
import { READ } from '../../src/device/io.js';
import { parseTable, quoteWord } from '../../src/device/table-text.js';
import type {
  CopyRequest,
  DeviceInfo,
  QueueCommand,
  QueueCommands,
  TableLine,
} from '../../src/queue/commands.js';
import type { QueueCalls } from '../../src/queue/queue.js';

interface FakeDevice {
  name: string;
  live: string | null;
  inactive: string | null;
  suspended: boolean;
  readOnly: boolean;
  counters: Counters;
}

type Handlers = {
  [C in QueueCommand]: (params: QueueCommands[C]['params']) => QueueCommands[C]['result'];
};

export class FakeQueue implements QueueCalls {
  readonly devices = new Map<string, FakeDevice>();
  /** Commands in the order in which they came: `resume a`. */
  readonly calls: string[] = [];
  /** Status words of a device's first line, where it has any. */
  readonly statuses = new Map<string, string>();
  /** Connected clients. */
  readonly clients = new Map<string, number>();
  /** Copies that were asked for. */
  readonly copies: CopyRequest[] = [];
  /** Asked before a command is carried out: may throw, or wait. */
  before: (command: QueueCommand, name: string) => Promise<void> | void = () => {};

  async call<C extends QueueCommand>(
    command: C,
    params: QueueCommands[C]['params'],
  ): Promise<QueueCommands[C]['result']> {
    const name = 'name' in params ? (params.name ?? '') : '';
    this.calls.push(`${command} ${name}`.trim());
    await this.before(command, name);
    // As far away as another thread.
    await new Promise((resolve) => setImmediate(resolve));
    return (this.#handlers[command] as (params: unknown) => QueueCommands[C]['result'])(params);
  }

  /** Name and live table of each device. */
  get tables(): Record<string, string | null> {
    return Object.fromEntries([...this.devices.values()].map(({ name, live }) => [name, live]));
  }

  #get(name: string): FakeDevice {
    const device = this.devices.get(name);
    if (device === undefined) throw new MapperError(ENXIO, `no device "${name}"`);
    return device;
  }

  /** Devices that stand on one. */
  #users(name: string): FakeDevice[] {
    const stands = (table: string | null) =>
      table !== null && tableDependencies(table).includes(name);
    return [...this.devices.values()].filter(
      ({ live, inactive }) => stands(live) || stands(inactive),
    );
  }

  #check(table: string): void {
    for (const name of tableDependencies(table)) {
      if (!this.devices.has(name)) throw new MapperError(ENODEV, `no device "${name}"`);
    }
  }

  #info({ name, live, inactive, suspended, readOnly }: FakeDevice): DeviceInfo {
    const slots = [...(live === null ? [] : ['LIVE']), ...(inactive === null ? [] : ['INACTIVE'])];
    const lines = live === null ? [] : parseTable(live);
    return {
      name,
      state: suspended ? 'SUSPENDED' : 'ACTIVE',
      tables: (slots.join(' & ') || 'None') as DeviceInfo['tables'],
      openCount: this.#users(name).length + (this.clients.get(name) ?? 0),
      eventNumber: 0,
      targetCount: lines.length,
      sizeSectors: lines.reduce((sum, line) => sum + line.lengthSectors, 0),
      readOnly,
      inFlight: 0,
      dependencies: live === null ? [] : tableDependencies(live),
    };
  }

  readonly #handlers: Handlers = {
    create: ({ name, table, readOnly }) => {
      if (this.devices.has(name)) throw new MapperError(EEXIST, `device "${name}" exists already`);
      if (table !== undefined) this.#check(table);
      const counters = new Counters();
      counters.ended(READ, 4096, false, 100);
      this.devices.set(name, {
        name,
        live: table ?? null,
        inactive: null,
        suspended: table === undefined,
        readOnly: readOnly ?? false,
        counters,
      });
      return { counters: counters.buffer };
    },
    load: ({ name, table }) => {
      const device = this.#get(name);
      this.#check(table);
      device.inactive = table;
      return null;
    },
    clear: ({ name }) => {
      this.#get(name).inactive = null;
      return null;
    },
    suspend: ({ name }) => {
      this.#get(name).suspended = true;
      return null;
    },
    resume: ({ name }) => {
      const device = this.#get(name);
      device.live = device.inactive ?? device.live;
      device.inactive = null;
      device.suspended = false;
      return null;
    },
    remove: ({ name, force }) => {
      this.#get(name);
      const [above] = this.#users(name);
      if (above !== undefined && !force) {
        throw new MapperError(EBUSY, `device "${name}" is in use by device "${above.name}"`);
      }
      if ((this.clients.get(name) ?? 0) > 0 && !force) {
        throw new MapperError(EBUSY, `device "${name}" is in use by a client`);
      }
      this.devices.delete(name);
      return null;
    },
    rename: ({ name, newName }) => {
      const device = this.#get(name);
      if (this.devices.has(newName)) {
        throw new MapperError(EEXIST, `device "${newName}" exists already`);
      }
      this.devices.delete(name);
      device.name = newName;
      this.devices.set(newName, device);
      for (const one of this.devices.values()) {
        if (one.live !== null) one.live = renameInTable(one.live, name, newName);
        if (one.inactive !== null) one.inactive = renameInTable(one.inactive, name, newName);
      }
      return null;
    },
    table: ({ name, inactive }) => {
      const device = this.#get(name);
      return linesOf(inactive ? device.inactive : device.live);
    },
    status: ({ name }) => {
      const words = this.statuses.get(name) ?? '';
      return linesOf(this.#get(name).live).map((line) => ({ ...line, words }));
    },
    info: ({ name }) => this.#info(this.#get(name)),
    message: ({ name, sector, words }) => {
      this.#get(name);
      return `${sector}: ${words.join('|')}`;
    },
    ls: () => [...this.devices.values()].map((device) => this.#info(device)),
    targets: () => [{ name: 'zero', version: [1, 2, 0] }],
    backingSize: () => 1 << 20,
    copy: (request) => {
      this.copies.push(request);
      return { id: this.copies.length };
    },
    jobs: () => [],
    job: ({ id }) => {
      throw new MapperError(ENXIO, `no copy ${id}`);
    },
    cancel: ({ id }) => {
      throw new MapperError(ENXIO, `no copy ${id}`);
    },
    listen: ({ address }) => address,
    defaultExport: () => null,
    shutdown: () => null,
  };
}

function linesOf(table: string | null): TableLine[] {
  return (table === null ? [] : parseTable(table)).map((line) => ({
    beginSectors: line.beginSectors,
    lengthSectors: line.lengthSectors,
    type: line.type,
    words: line.args.map(quoteWord).join(' '),
  }));
}
