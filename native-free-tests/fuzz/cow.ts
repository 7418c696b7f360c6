/**
 * Snapshots on COWs that hold anything. What is opened shows what the format says, what is refused
 * or invalid is left as it was, and what is written to a snapshot is in its COW in the same format.
 */

import { Buffer } from 'node:buffer';
import { MapperError } from '../../src/base/errors.js';
import type { Device } from '../../src/device/device.js';
import { FLUSH, READ, WRITE } from '../../src/device/io.js';
import type { DeviceRegistry } from '../../src/device/registry.js';
import type { IoClient } from '../device/io-client.js';
import { mix } from '../simulation/random.js';
import { anyCow, type ReadStore, readStore } from './cow-image.js';
import { DeviceHost } from './device-host.js';
import type { Input } from './input.js';
import { refusePoison } from './poison.js';
import { Random } from './random.js';
import { expect, reasonedRefusal, type Subject, type SubjectMaker } from './subject.js';

const originSectors = 40;
const originBytes = originSectors * 512;
const askedSizes = [1, 2, 8, 32];
const writtenByte = 0xc7;
/** Turns after which a merge hangs. */
const mergeTurns = 20_000;

/** How a COW is read; a test puts something broken in its place. */
export type ReadCow = typeof readStore;

/** Where snapshots are: an origin, a COW that holds what it is given, and an engine. */
export interface CowPlace {
  readonly devices: DeviceRegistry;
  /** As table lines name them. */
  readonly originWord: string;
  readonly cowWord: string;
  client(device: Device): IoClient;
  wait<T>(promise: Promise<T>): Promise<T>;
  putCow(image: Buffer): Promise<void>;
  storedCow(): Promise<Buffer>;
  origin(): Promise<Buffer>;
  /** Nothing is left; throws otherwise. */
  checkRest(): void;
  /** The origin is as in the beginning again. Not there: nothing may be merged into it. */
  resetOrigin?(): void;
  /** Something happens, if there is anything to happen. */
  turn?(): Promise<void>;
}

class CowCheck {
  readonly #place: CowPlace;
  readonly #read: ReadCow;

  constructor(place: CowPlace, read: ReadCow) {
    this.#place = place;
    this.#read = read;
  }

  async run(image: Buffer, random: Random): Promise<void> {
    const place = this.#place;
    const asked = random.pick(askedSizes);
    await place.putCow(image);
    const wanted = this.#read(image, asked, originSectors);
    const merges = place.resetOrigin !== undefined && wanted?.valid === true && random.percent(20);
    if (merges && wanted !== null) {
      await this.#merge(asked, wanted, image);
      place.resetOrigin?.();
      place.checkRest();
      return;
    }
    const device = await this.#open(asked);
    expect((device === null) === (wanted === null), 'refused, or not');
    if (device !== null && wanted !== null) {
      if (wanted.valid) await this.#valid(device, wanted, image, random);
      else await this.#invalid(device);
      const wasValid = this.#status !== 'Invalid';
      await place.wait(place.devices.remove('snap', true));
      const left = readStore(await place.storedCow(), wanted.chunkSectors, originSectors);
      expect(left?.valid === wasValid, () => `it was valid: ${wasValid}, its COW ${left?.valid}`);
    }
    const stored = await place.storedCow();
    const isOpen = wanted?.valid === true;
    if (!isOpen) expect(stored.equals(image), 'the COW has changed');
    expect(originContent.equals(await place.origin()), 'the origin has changed');
    refusePoison(stored, 'the COW');
    place.checkRest();
  }

  /** Null: it was refused. */
  async #open(asked: number, type = 'snapshot'): Promise<Device | null> {
    const { devices, originWord, cowWord } = this.#place;
    const line = `0 ${originSectors} ${type} ${originWord} ${cowWord} P ${asked}`;
    try {
      return await this.#place.wait(devices.create('snap', line));
    } catch (error) {
      reasonedRefusal(error);
      const says = error instanceof MapperError && /found .+/.test(error.message);
      expect(says, () => `a refusal that does not say what was found: ${(error as Error).message}`);
      return null;
    }
  }

  get #status(): string {
    return this.#place.devices.status('snap')[0]?.words ?? '';
  }

  /** All exceptions go into the origin, and the COW is empty then. */
  async #merge(asked: number, store: ReadStore, image: Buffer): Promise<void> {
    const place = this.#place;
    const { devices } = place;
    const device = await this.#open(asked, 'snapshot-merge');
    expect(device !== null, 'refused, or not');
    for (let turns = 0; ; turns++) {
      const [, used, metadata] = /^(\d+)\/\d+ (\d+)$/.exec(this.#status) ?? [];
      expect(used !== undefined, () => `status "${this.#status}" of a merge`);
      if (used === metadata) break;
      expect(turns < mergeTurns, () => `${mergeTurns} turns, and it is at "${this.#status}"`);
      await place.turn?.();
    }
    await place.wait(devices.remove('snap', true));
    const after = readStore(await place.storedCow(), store.chunkSectors, originSectors);
    expect(after?.valid === true && after.exceptions.size === 0, 'the COW is not empty');
    const wanted = contentOf(store, image);
    expect(wanted.equals(await place.origin()), 'the origin is not what the snapshot was');
  }

  async #invalid(device: Device): Promise<void> {
    expect(this.#status === 'Invalid', () => `status "${this.#status}", wanted "Invalid"`);
    const { errno } = await this.#place.wait(this.#place.client(device).run(READ, 0, 512));
    expect(errno === 5, `a read of an invalid snapshot ended with ${errno}`);
  }

  async #valid(device: Device, store: ReadStore, image: Buffer, random: Random): Promise<void> {
    const { exceptions, chunkSectors } = store;
    const records = chunkSectors * 32;
    let next = Math.max(1, ...exceptions.values()) + 1;
    if (next % (records + 1) === 1) next++;
    const area = Math.floor(exceptions.size / records);
    const used = `${next * chunkSectors}/${Math.floor(image.length / 512)}`;
    const wanted = `${used} ${(area + 2) * chunkSectors}`;
    expect(this.#status === wanted, () => `status "${this.#status}", wanted "${wanted}"`);
    await this.#compare(device, contentOf(store, image));
    await this.#write(device, store, image, random);
  }

  async #compare(device: Device, wanted: Buffer): Promise<void> {
    const client = this.#place.client(device);
    const { errno, data } = await this.#place.wait(client.run(READ, 0, originBytes));
    expect(errno === 0, `a read ended with ${errno}`);
    expect(data.equals(wanted), () => {
      const at = data.findIndex((byte, place) => byte !== wanted[place]);
      return `byte ${data[at]} at ${at}, wanted ${wanted[at]}`;
    });
  }

  /** A sector is written; if that goes well, it is in the COW, with all that was there. */
  async #write(device: Device, store: ReadStore, image: Buffer, random: Random): Promise<void> {
    const place = this.#place;
    const client = place.client(device);
    const at = 512 * random.below(originSectors);
    const data = Buffer.alloc(512, writtenByte);
    const { errno } = await place.wait(client.run(WRITE, at, 512, { data }));
    expect(errno === 0 || errno === 5, `a write ended with ${errno}`);
    const flushed = await place.wait(client.run(FLUSH, 0, 0));
    expect(flushed.errno === 0, `a flush ended with ${flushed.errno}`);
    const isFull = this.#status === 'Invalid';
    expect((errno === 0) !== isFull, `errno ${errno} with status "${this.#status}"`);
    if (isFull) return;
    const stored = await place.storedCow();
    const after = readStore(stored, store.chunkSectors, originSectors);
    expect(after?.valid === true, `its COW is ${after === null ? 'damaged' : 'invalid'}`);
    for (const [oldChunk, newChunk] of store.exceptions) {
      expect(after.exceptions.get(oldChunk) === newChunk, `exception ${oldChunk} is lost`);
    }
    const wanted = contentOf(store, image);
    wanted.fill(writtenByte, at, at + 512);
    expect(contentOf(after, stored).equals(wanted), 'the COW shows something else');
    await this.#compare(device, wanted);
  }
}

/** Each sector is full of a byte of its own, and of none that a COW has. */
export const originContent = Buffer.alloc(originBytes);
for (let at = 0; at < originBytes; at++) originContent[at] = 181 + (Math.floor(at / 512) % 16);

/** What a snapshot shows. */
function contentOf({ chunkSectors, exceptions }: ReadStore, cow: Buffer): Buffer {
  const bytes = chunkSectors * 512;
  const content = Buffer.from(originContent);
  for (const [oldChunk, newChunk] of exceptions) {
    cow.copy(content, oldChunk * bytes, newChunk * bytes, (newChunk + 1) * bytes);
  }
  return content;
}

/** `tidy` runs before each input. */
export function cowSubject(place: CowPlace, tidy: (random: Random) => void, read = readStore) {
  return {
    name: 'cow',
    generate: (random: Random) => ({
      variant: random.bits(),
      pieces: anyCow(random, originSectors),
    }),
    async check({ variant, pieces }: Input): Promise<void> {
      const random = new Random(mix(variant, 8));
      tidy(random);
      await new CowCheck(place, read).run(Buffer.concat(pieces), random);
    },
  } satisfies Subject;
}

/** `changed`: a test puts another place in this one's place. */
export function makeCowSubject(
  read: ReadCow = readStore,
  changed: (place: CowPlace) => CowPlace = (place) => place,
): Subject {
  const host = new DeviceHost();
  const origin = host.disk('/origin', originBytes);
  origin.bytes.set(originContent);
  const cow = host.disk('/cow', 512);
  host.settleDown();
  const place: CowPlace = {
    devices: host.devices,
    originWord: '/origin',
    cowWord: '/cow',
    client: (device) => host.client(device),
    wait: (promise) => host.wait(promise),
    putCow: async (image) => {
      cow.bytes = new Uint8Array(image);
    },
    storedCow: async () => Buffer.from(cow.bytes),
    origin: async () => Buffer.from(origin.bytes),
    checkRest: () => host.checkRest(),
    resetOrigin: () => origin.bytes.set(originContent),
    turn: async () => {
      if (!host.engine.turn()) await new Promise((resolve) => setImmediate(resolve));
      await null;
    },
  };
  const tidy = (random: Random): void => {
    if (random.percent(70)) host.engine.shuffle((limit) => random.below(limit));
    cow.calls.length = 0;
    origin.calls.length = 0;
  };
  return cowSubject(changed(place), tidy, read);
}

export const cow: SubjectMaker = { name: 'cow', share: 2, make: () => makeCowSubject() };
