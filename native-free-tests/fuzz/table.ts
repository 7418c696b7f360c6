/**
 * Tables of all targets on devices that are there: made, asked for their text, loaded again from
 * it, sent messages and I/O, and removed. Nothing may be left of them.
 */

import { Buffer } from 'node:buffer';
import type { Device } from '../../src/device/device.js';
import { FLUSH, type Operation, READ, STATUS, TRIM, WRITE, ZERO } from '../../src/device/io.js';
import type { TableLine } from '../../src/queue/commands.js';
import {
  decodeSections,
  type RegionSection,
  unpackEntries,
} from '../../src/target/switch/upload-format.js';
import { pattern } from '../device/io-client.js';
import { mix } from '../simulation/random.js';
import { DeviceHost } from './device-host.js';
import type { Input } from './input.js';
import { damagedText } from './mutate.js';
import { refusePoison } from './poison.js';
import { Random } from './random.js';
import { anySection } from './region-sections.js';
import { checkedRefusal, expect, refusalOf, type Subject, type SubjectMaker } from './subject.js';
import { anyTable, damagedMessage } from './table-lines.js';

const diskBytes = 256 * 512;
const operations: readonly Operation[] = [READ, READ, WRITE, WRITE, TRIM, ZERO, STATUS, FLUSH];

function textOf(lines: readonly TableLine[]): string {
  const texts = lines.map(({ beginSectors, lengthSectors, type, words }) => {
    const begin = `${beginSectors} ${lengthSectors} ${type}`;
    return words === '' ? begin : `${begin} ${words}`;
  });
  return texts.join('\n');
}

/** None of bytes that are no sections. */
function sectionsOf(bytes: Buffer): RegionSection[] {
  let sections: RegionSection[] = [];
  refusalOf(() => {
    sections = decodeSections(bytes);
  });
  return sections;
}

/** Refused or not, with the result. Anything else that is thrown goes on. */
async function tried<T>(work: Promise<T>): Promise<{ value: T } | null> {
  try {
    return { value: await work };
  } catch (error) {
    checkedRefusal(error);
    return null;
  }
}

class TableCheck {
  readonly #host: DeviceHost;
  readonly #random: Random;

  constructor(host: DeviceHost, random: Random) {
    this.#host = host;
    this.#random = random;
  }

  async run(text: string, messages: readonly (readonly string[])[]): Promise<void> {
    const host = this.#host;
    const made = await tried(host.wait(host.devices.create('subject', text)));
    if (made !== null) {
      // Two tables cannot merge one snapshot, as in the kernel.
      if (!text.includes('snapshot-merge')) await this.#loadAgain();
      await this.#regions();
      for (const words of messages) {
        const sector = this.#random.below(120);
        await tried(host.wait(host.devices.message('subject', sector, words)));
        await this.#io(made.value);
      }
      await this.#io(made.value);
      for (const { words } of host.devices.status('subject')) {
        expect(!words.includes('undefined') && !words.includes('NaN'), `status "${words}"`);
      }
      if (this.#random.percent(30)) {
        await tried(host.wait(host.devices.suspend('subject', this.#random.percent(30))));
        await tried(host.wait(host.devices.resume('subject')));
      }
      await host.wait(host.devices.remove('subject', true));
    }
    expect(host.devices.find('subject') === undefined, 'it is still there');
    for (const [path, disk] of host.engine.disks) refusePoison(disk.bytes, path);
    host.checkRest();
    host.engine.arena.checkZeroes();
  }

  /** A device's own text makes the same device. */
  async #loadAgain(): Promise<void> {
    const { devices } = this.#host;
    const text = textOf(devices.table('subject', false));
    await this.#host.wait(devices.load('subject', text));
    const loaded = textOf(devices.table('subject', true));
    if (this.#random.percent(50)) {
      // A last flush may fail.
      if ((await tried(this.#host.wait(devices.resume('subject')))) === null) return;
      const live = textOf(devices.table('subject', false));
      expect(live === text, () => `loaded "${text}", it is "${live}"`);
    } else {
      expect(loaded.length > 0, 'nothing was loaded');
      await this.#host.wait(devices.clear('subject'));
    }
  }

  /** A table of regions is put into a target, if there is one that it fits. */
  async #regions(): Promise<void> {
    const random = this.#random;
    const { devices } = this.#host;
    const line = devices.table('subject', false).find(({ type }) => type === 'switch');
    if (line === undefined && random.percent(90)) return;
    const [paths = 1, regionSectors = 8] = line?.words.split(' ').map(Number) ?? [];
    const regions = Math.ceil((line?.lengthSectors ?? 80) / regionSectors);
    const sector = line?.beginSectors ?? 0;
    const wishes = random.percent(80) ? { paths, regionSectors, regions, sector } : {};
    for (const { table } of sectionsOf(Buffer.concat(anySection(random, wishes)))) {
      const done = await tried(this.#host.wait(devices.upload('subject', sector, table)));
      if (done === null) continue;
      const { first, count } = table;
      const found = devices.download('subject', sector, 0).table;
      const all = unpackEntries(found);
      const wanted = unpackEntries(table);
      expect(found.regions === regions, `${found.regions} regions, wanted ${regions}`);
      for (let at = 0; at < count; at++) {
        const [path, right] = [all[first + at], wanted[at]];
        expect(path === right, `region ${first + at} is on path ${path}, wanted ${right}`);
      }
    }
  }

  async #io(device: Device): Promise<void> {
    const random = this.#random;
    const client = this.#host.client(device);
    const size = device.sizeBytes;
    for (let left = random.below(4); left > 0; left--) {
      const operation = random.pick(operations);
      const offset = operation === FLUSH ? 0 : 512 * random.below(Math.min(size / 512, 400));
      const most = Math.min(size - offset, 32 * 512);
      const length = operation === FLUSH ? 0 : 512 * random.between(1, most / 512);
      const extras = operation === WRITE ? { data: pattern(length, random.below(200)) } : {};
      const { errno, data } = await this.#host.wait(client.run(operation, offset, length, extras));
      expect(errno >= 0 && errno < 200, `errno ${errno}`);
      if (operation === READ && errno === 0) refusePoison(data, 'what was read');
    }
  }
}

/** Pieces: the table's text, then messages. */
export function tableSubject(host: DeviceHost, clear: () => void): Subject {
  return {
    name: 'table',
    generate(random) {
      const text = anyTable(random);
      const pieces = [Buffer.from(random.percent(10) ? damagedText(random, text) : text)];
      for (let left = random.pick([0, 0, 1, 2, 4]); left > 0; left--) {
        pieces.push(Buffer.from(damagedMessage(random).join(' ')));
      }
      return { variant: random.bits(), pieces };
    },
    async check({ variant, pieces }: Input): Promise<void> {
      clear();
      const random = new Random(mix(variant, 7));
      if (random.percent(50)) host.engine.shuffle((limit) => random.below(limit));
      const [text = '', ...messages] = pieces.map((piece) => piece.toString('utf8'));
      const words = messages.map((message) => message.split(' '));
      await new TableCheck(host, random).run(text, words);
    },
  };
}

/** `meanwhile` is called before each input. */
export async function makeTableSubject(
  meanwhile: (host: DeviceHost) => void = () => {},
): Promise<Subject> {
  const host = new DeviceHost();
  const disks = ['/a', '/b', '/c'].map((path) => host.disk(path, diskBytes));
  disks.push(host.disk('/tiny', 700), host.disk('/base', diskBytes));
  await host.wait(host.devices.create('base', '0 256 linear /base 0'));
  host.settleDown();
  return tableSubject(host, () => {
    meanwhile(host);
    for (const disk of disks) {
      disk.bytes.fill(0);
      disk.allocated.fill(0);
      disk.calls.length = 0;
    }
  });
}

export const table: SubjectMaker = { name: 'table', share: 3, make: () => makeTableSubject() };
