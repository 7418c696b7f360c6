/**
 * A queue thread that does no I/O: devices are table texts in memory. It checks what the real one
 * checks (names taken, tables' grammar, devices in use), so that the control plane sees refusals.
 */

import { EBUSY, EEXIST, EINVAL, ENODEV, ENXIO } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import { switchLines } from '../../src/control/region-files.js';
import { renameInTable, tableDependencies } from '../../src/control/table-text.js';
import { Counters } from '../../src/device/counters.js';
import { READ } from '../../src/device/io.js';
import { parseTable, quoteWord } from '../../src/device/table-text.js';
import { type ExportPolicy, openPolicy } from '../../src/nbd/export-policy.js';
import type {
  CopyRequest,
  DeviceInfo,
  QueueCommand,
  QueueCommands,
  RegionsAt,
  TableLine,
} from '../../src/queue/commands.js';
import type { QueueCalls } from '../../src/queue/queue.js';
import { RegionTable } from '../../src/target/switch/region-table.js';

interface FakeDevice {
  name: string;
  live: string | null;
  inactive: string | null;
  suspended: boolean;
  readOnly: boolean;
  counters: Counters;
  policy: ExportPolicy;
  /** Of switch targets in the live table, by sector. */
  routes: Map<number, FakeRoutes>;
}

interface FakeRoutes {
  regions: RegionTable;
  readonly regionSectors: number;
}

type Handlers = {
  [C in QueueCommand]: (params: QueueCommands[C]['params']) => QueueCommands[C]['result'];
};

export class FakeQueue implements QueueCalls {
  readonly devices = new Map<string, FakeDevice>();
  /** Commands in the order in which they came: `resume a`. */
  readonly calls: string[] = [];
  /** Status words of a device's first line, where it has any. */
  /** What switch targets answer to `move_status`. */
  moveStatus = '';
  readonly statuses = new Map<string, string>();
  /** Connected clients. */
  readonly clients = new Map<string, number>();
  /** Copies that were asked for. */
  readonly copies: CopyRequest[] = [];
  /** What targets were told of their changes: device, sector, generation. */
  readonly saved: [string, number, number][] = [];
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

  /** The path of each region of the first switch target. */
  routes(name: string): number[] {
    const [routes] = this.#get(name).routes.values();
    const count = routes?.regions.regions ?? 0;
    return Array.from({ length: count }, (_, region) => routes?.regions.get(region) ?? -1);
  }

  #routesAt(name: string, sector: number): [number, FakeRoutes] {
    const { live, routes } = this.#get(name);
    const line = switchLines(live).find((one) => one.sector <= sector && sector < one.endSector);
    const found = line === undefined ? undefined : routes.get(line.sector);
    if (line === undefined || found === undefined) throw new MapperError(EINVAL, 'no regions');
    return [line.sector, found];
  }

  #regionsAt(sector: number, routes: FakeRoutes, first: number, count: number): RegionsAt {
    const { regions, regionSectors } = routes;
    return { sector, table: { ...regions.download(first, count), regionSectors } };
  }

  /** Switch targets take over from those before them. */
  #makeRoutes(device: FakeDevice): void {
    const before = device.routes;
    device.routes = new Map();
    for (const { sector, regions, paths, regionSectors } of switchLines(device.live)) {
      const old = before.get(sector);
      const taken = old?.regionSectors === regionSectors ? old.regions : undefined;
      const made = taken?.resized(regions, paths) ?? new RegionTable(regions, paths);
      device.routes.set(sector, { regions: made, regionSectors });
    }
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
    create: ({ name, table, readOnly, regions = [] }) => {
      if (this.devices.has(name)) throw new MapperError(EEXIST, `device "${name}" exists already`);
      if (table !== undefined) this.#check(table);
      const counters = new Counters();
      counters.ended(READ, 4096, false, 100);
      const device: FakeDevice = {
        name,
        live: table ?? null,
        inactive: null,
        suspended: table === undefined,
        readOnly: readOnly ?? false,
        counters,
        policy: openPolicy,
        routes: new Map(),
      };
      this.#makeRoutes(device);
      for (const { sector, table } of regions) {
        const routes = device.routes.get(sector);
        if (routes !== undefined) routes.regions = RegionTable.fromUpload(table);
      }
      this.devices.set(name, device);
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
      this.#makeRoutes(device);
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
      if (words[0] === 'set_region_mappings') {
        const { regions } = this.#routesAt(name, sector)[1];
        for (const word of words.slice(1)) {
          const [region, path] = word.split(':').map((text) => Number.parseInt(text, 16));
          if (region === undefined || path === undefined) throw new MapperError(EINVAL, word);
          regions.set(region, path);
        }
        return '';
      }
      if (words[0] === 'move_status' && this.moveStatus !== '') return this.moveStatus;
      return `${sector}: ${words.join('|')}`;
    },
    upload: ({ name, sector, table }) => {
      const routes = this.#routesAt(name, sector)[1];
      if (table.whole) routes.regions = RegionTable.fromUpload(table);
      else routes.regions.apply(table);
      return null;
    },
    download: ({ name, sector, first = 0, count }) => {
      const [at, routes] = this.#routesAt(name, sector);
      return this.#regionsAt(at, routes, first, count ?? routes.regions.regions - first);
    },
    regions: ({ name }) =>
      [...this.#get(name).routes].map(([sector, routes]) =>
        this.#regionsAt(sector, routes, 0, routes.regions.regions),
      ),
    regionsSaved: ({ name, sector, generation }) => {
      this.saved.push([name, sector, generation]);
      return null;
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
    listen: ({ address }) =>
      address.kind === 'fd' ? { kind: 'unix', path: `${address.fd}` } : address,
    policy: ({ name, policy }) => {
      this.#get(name).policy = policy;
      return null;
    },
    defaultExport: () => null,
    memory: () => ({
      ...{ arenaBytes: 2 ** 29, arenaInUseBytes: 4096, replyBytesKept: 0 },
      ...{ poolBytes: 2 ** 27, poolInUseBytes: 0, connections: 0, requests: 0, operations: 0 },
    }),
    hanging: () => ({ stage: 'nothing', devices: [] }),
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
