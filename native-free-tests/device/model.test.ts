/**
 * Devices over devices under random schedules: requests that overlap, end in any order and fail now
 * and then, while tables are loaded, suspended and resumed. Every table of a device has the same
 * layout, cut into other targets, so that one model of the disks holds throughout.
 *
 *   top   96 sectors, striped in chunks of 4 over mid and /c
 *   mid  100 sectors of low, from 14 on
 *   low  128 sectors, /a and /b
 */

import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import t from 'tap';
import { EIO } from '../../src/base/errno.js';
import type { Device } from '../../src/device/device.js';
import { EXTENT_HOLE, EXTENT_ZERO } from '../../src/device/extent-list.js';
import {
  FLAG_FUA,
  FLAG_HOLES_OK,
  FLAG_NO_HOLE,
  FLUSH,
  READ,
  STATUS,
  TRIM,
  WRITE,
  ZERO,
} from '../../src/device/io.js';
import { random } from '../contract/pattern.js';
import { type Ended, pattern } from './io-client.js';
import { SectorModel, sectorBytes, stamped } from './sector-model.js';
import { World } from './world.js';

const names = ['low', 'mid', 'top'] as const;
type Name = (typeof names)[number];

const tables: Record<Name, readonly string[]> = {
  low: [
    '0 64 linear /a 0\n64 64 linear /b 0',
    '0 10 linear /a 0\n10 54 striped 1 6 /a 10\n64 64 delay /b 0 1',
    '0 64 delay /a 0 0 /a 0 2\n64 30 linear file:///b?direct=1 0\n94 34 linear /b 30',
  ],
  mid: [
    '0 100 linear dm:low 14',
    '0 50 linear dm:low 14\n50 50 delay dm:low 64 1',
    '0 99 linear /dev/mapper/low 14\n99 1 linear dm:low 113',
  ],
  top: [
    '0 96 striped 2 4 dm:mid 10 /c 0',
    '0 48 striped 2 4 dm:mid 10 /c 0\n48 48 striped 2 4 dm:mid 34 /c 24',
    '0 8 striped 2 4 dm:mid 10 /c 0\n8 88 striped 2 4 dm:mid 14 /c 4',
  ],
};
const sizes: Record<Name, number> = { low: 128, mid: 100, top: 96 };

/** The disk's sector beneath a device's. */
function beneath(name: Name, sector: number): string {
  if (name === 'low') return sector < 64 ? `/a ${sector}` : `/b ${sector - 64}`;
  if (name === 'mid') return beneath('low', sector + 14);
  const chunk = Math.floor(sector / 4);
  const inside = Math.floor(chunk / 2) * 4 + (sector % 4);
  return chunk % 2 === 0 ? beneath('mid', 10 + inside) : `/c ${inside}`;
}

const operations = [READ, READ, WRITE, WRITE, WRITE, ZERO, TRIM, STATUS, FLUSH] as const;

interface Request {
  readonly kind: 'request';
  readonly operation: (typeof operations)[number];
  readonly name: Name;
  readonly at: number;
  readonly count: number;
  readonly flags: number;
}
interface Command {
  readonly kind: 'load' | 'suspend' | 'resume' | 'clear';
  readonly name: Name;
  readonly which: number;
}
interface Turns {
  readonly kind: 'turns';
  readonly count: number;
}
type Step = Request | Command | Turns;

const anyName = fc.constantFrom(...names);
const request: fc.Arbitrary<Request> = fc.record({
  kind: fc.constant('request' as const),
  operation: fc.constantFrom(...operations),
  name: anyName,
  at: fc.nat(),
  count: fc.integer({ min: 1, max: 40 }),
  flags: fc.constantFrom(0, 0, FLAG_FUA, FLAG_NO_HOLE, FLAG_HOLES_OK, FLAG_HOLES_OK),
});
const command: fc.Arbitrary<Command> = fc.record({
  kind: fc.constantFrom('load', 'suspend', 'suspend', 'resume', 'resume', 'resume', 'clear'),
  name: anyName,
  which: fc.nat(2),
});
const turns: fc.Arbitrary<Turns> = fc.record({
  kind: fc.constant('turns' as const),
  count: fc.integer({ min: 1, max: 12 }),
});
const step: fc.Arbitrary<Step> = fc.oneof(
  { arbitrary: request, weight: 6 },
  { arbitrary: command, weight: 2 },
  { arbitrary: turns, weight: 3 },
);

class Run extends World {
  readonly model = new SectorModel();
  readonly #next: (limit: number) => number;
  readonly #devices = new Map<Name, Device>();
  readonly #commands: Promise<unknown>[] = [];
  #stamps = 0;
  sent = 0;
  ended = 0;
  faults = true;

  constructor(seed: number) {
    super(8 * 2 ** 20);
    this.#next = random(seed);
    this.engine.shuffle(this.#next);
    for (const path of ['/a', '/b', '/c']) {
      const disk = this.disk(path, 64);
      disk.canZero = this.#next(2) === 0;
      disk.canTrim = this.#next(4) !== 0;
      disk.script = ({ what, length }) => {
        if (!this.faults || this.#next(20) !== 0) return undefined;
        if (what !== 'read' && what !== 'write') return -EIO;
        return this.#next(2) === 0 ? -EIO : sectorBytes * (1 + this.#next(length / sectorBytes));
      };
    }
  }

  async begin(): Promise<void> {
    this.faults = false;
    for (const name of names) this.#devices.set(name, await this.create(name, tables[name][0]));
    this.faults = true;
  }

  async carryOut(step: Step): Promise<void> {
    if (step.kind === 'request') {
      this.request(step);
    } else if (step.kind === 'turns') {
      for (let i = 0; i < step.count; i++) {
        this.engine.turn();
        await this.settle();
      }
    } else {
      this.#command(step);
      if (step.which === 0) await this.settle();
    }
  }

  /** Commands are not waited for: they queue up, and a suspend may wait for another's resume. */
  #command({ kind, name, which }: Command): void {
    const { devices } = this;
    const started =
      kind === 'load'
        ? devices.load(name, tables[name][which] as string)
        : kind === 'suspend'
          ? devices.suspend(name, which === 1)
          : devices[kind](name);
    const flushFailed = (error: unknown): void => {
      if (!(error instanceof Error) || !error.message.startsWith('cannot flush')) throw error;
    };
    this.#commands.push(started.catch(flushFailed));
  }

  request({ operation, name, at, count, flags }: Omit<Request, 'kind'>): void {
    const first = operation === FLUSH ? 0 : at % sizes[name];
    const sectors = operation === FLUSH ? 0 : Math.min(count, sizes[name] - first);
    const under = Array.from({ length: sectors }, (_, i) => beneath(name, first + i));
    const ended = this.#watch(operation, under);
    const data: { data?: Buffer } = {};
    if (operation === WRITE) {
      data.data = Buffer.concat(under.map(() => stamped(this.#stamps)));
    }
    this.sent++;
    const extras = { flags, ...data, ...(operation === READ ? { capacity: 16 } : {}) };
    const mayFail = this.faults;
    const client = this.client(this.#devices.get(name) as Device);
    client.send(operation, first * sectorBytes, sectors * sectorBytes, extras, (result) => {
      this.ended++;
      if (result.errno !== 0 && (result.errno !== EIO || !mayFail)) {
        throw new Error(`errno ${result.errno}`);
      }
      ended(result);
    });
  }

  /** Tells the model; returns what is to be done when it has ended. */
  #watch(operation: Request['operation'], under: string[]): (ended: Ended) => void {
    if (operation === FLUSH) return () => {};
    if (operation === READ || operation === STATUS) {
      const check = this.model.read(under);
      if (operation === READ) {
        return (ended) => check(ended.errno === 0 ? shown(ended) : Buffer.alloc(0));
      }
      return () => check(Buffer.alloc(0));
    }
    const stamp = operation === WRITE ? ++this.#stamps : 0;
    const done = this.model.write(under, stamp);
    // A TRIM leaves what it likes.
    return ({ errno }) => done(errno !== 0 || operation === TRIM);
  }

  /** Ends everything, and looks at every sector of every device. */
  async end(): Promise<void> {
    this.faults = false;
    for (const name of names) this.#commands.push(this.devices.resume(name));
    await this.wait(Promise.all(this.#commands));
    while (this.engine.turn()) await this.settle();
    if (this.ended !== this.sent) throw new Error(`${this.ended} of ${this.sent} have ended`);
    for (const name of names) {
      for (const flags of [0, FLAG_HOLES_OK]) {
        this.request({ operation: READ, name, at: 0, count: sizes[name], flags });
        while (this.engine.turn());
      }
      await this.#checkStatus(name);
      const { inFlight } = this.devices.info(name);
      if (inFlight !== 0) throw new Error(`${inFlight} are in flight`);
    }
    if (this.ended !== this.sent) throw new Error('a last read has not ended');
    await this.wait(this.devices.shutdown());
    if (this.descriptors !== 0) throw new Error(`${this.descriptors} descriptors are open`);
    this.atRest();
  }

  /** At rest, what STATUS takes for zeroes is zeroes. */
  async #checkStatus(name: Name): Promise<void> {
    const client = this.client(this.#devices.get(name) as Device);
    const bytes = sizes[name] * sectorBytes;
    const { data } = await this.wait(client.run(READ, 0, bytes));
    let at = 0;
    while (at < bytes) {
      const { extents } = await this.wait(client.run(STATUS, at, bytes - at, { capacity: 4 }));
      const total = extents.reduce((sum, [length]) => sum + length, 0);
      if (total === 0 || total > bytes - at) throw new Error(`extents of ${total} bytes`);
      checkExtents(data.subarray(at, at + total), extents, name);
      at += total;
    }
  }
}

/** What a client sees: what it is told to be a hole is not sent. A write may have filled it since. */
function shown({ data, extents }: Ended): Buffer {
  let at = 0;
  for (const [length, flags] of extents) {
    if ((flags & EXTENT_HOLE) !== 0) data.fill(0, at, at + length);
    at += length;
  }
  if (extents.length > 0 && at !== data.length) throw new Error(`${at} of ${data.length} bytes`);
  return data;
}

/** What extents say of the data they come with is true. */
function checkExtents(data: Buffer, extents: Ended['extents'], name: Name): void {
  let at = 0;
  for (const [length, flags] of extents) {
    const part = data.subarray(at, at + length);
    if ((flags & EXTENT_ZERO) !== 0 && part.some((byte) => byte !== 0)) {
      throw new Error(`${name} has data in an extent of zeroes at ${at}`);
    }
    at += length;
  }
  if (extents.length > 0 && at !== data.length) throw new Error(`${at} of ${data.length} bytes`);
}

t.test('keeps every sector through any schedule', async (t) => {
  let requests = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 20, maxLength: 120, size: 'max' }),
      fc.integer(),
      async (steps, seed) => {
        const run = new Run(seed);
        await run.begin();
        for (const step of steps) await run.carryOut(step);
        await run.end();
        requests += run.sent;
      },
    ),
    { numRuns: 60 },
  );
  t.ok(requests > 1000, `${requests} requests`);
});

t.test('has an oracle that notices', async (t) => {
  t.test('a sector that was lost', async (t) => {
    const run = new Run(1);
    await run.begin();
    run.faults = false;
    run.request({ operation: WRITE, name: 'top', at: 3, count: 20, flags: 0 });
    while (run.engine.turn());
    run.engine.disks.get('/c')?.bytes.fill(0);
    await t.rejects(run.end(), { message: /^\/c 0 reads as 0, wanted one of 1$/ });
  });
  t.test('data of another place', async (t) => {
    const run = new Run(1);
    await run.begin();
    run.engine.disks.get('/a')?.bytes.set(pattern(1000, 5), 20 * sectorBytes);
    await t.rejects(run.end(), { message: /^a sector torn|reads as/ });
  });
});
