/** What a client sends once it has its export: requests, right or wrong, a piece each. */

import { Buffer } from 'node:buffer';
import { damaged } from './mutate.js';
import type { Random } from './random.js';

const commands = [0, 0, 0, 1, 1, 1, 3, 4, 5, 6, 7, 7];
const sizes = [192 * 512, 384 * 512, 2 ** 37];
const MiB = 2 ** 20;

function offsetOf(random: Random): bigint {
  switch (random.below(8)) {
    case 0:
      return random.wide();
    case 1: {
      const around = random.pick(sizes) + random.pick([-4096, -512, -1, 0, 1, 512]);
      return BigInt(Math.max(0, around));
    }
    case 2:
      return BigInt(random.below(400 * 512));
    default:
      return BigInt(random.below(390) * 512);
  }
}

function lengthOf(random: Random, payload: boolean): number {
  if (payload)
    return random.pick([0, 1, 511, 512, 513, 4096, 8192, 20_000, 512 * random.below(50)]);
  switch (random.below(6)) {
    case 0: {
      // Reads of many MiB that succeed take their time, so they are few.
      const length = random.edge(32);
      return length > MiB && length <= 64 * MiB && !random.percent(2) ? length + 64 * MiB : length;
    }
    case 1:
      return random.below(200_000);
    case 2:
      // Beyond the largest block, for the one device that is so large.
      if (random.percent(10)) return MiB + 512 * random.below(5000);
      return random.pick([1, 512, 4096, 192 * 512, 384 * 512, 300_000, 64 * MiB + 1]);
    default:
      return 512 * random.between(1, 64);
  }
}

function flagsOf(random: Random, type: number, extended: boolean): number {
  let flags = 0;
  if (random.percent(20)) flags |= 1;
  if (type === 6 && random.percent(30)) flags |= 2;
  if (type === 0 && random.percent(20)) flags |= 4;
  if (type === 7 && random.percent(40)) flags |= 8;
  if (type === 6 && random.percent(20)) flags |= 16;
  if (type === 1 && extended && random.percent(90)) flags |= 32;
  if (random.percent(4)) flags ^= 1 << random.below(16);
  return flags;
}

/** One request; payloads hold bytes that tell their place, and none that memory is poisoned with. */
export function anyRequest(random: Random, extended: boolean): Buffer {
  const type = random.percent(96) ? random.pick(commands) : random.edge(16);
  let flags = flagsOf(random, type, extended);
  let payload: Buffer = Buffer.alloc(0);
  let length = BigInt(lengthOf(random, type === 1));
  if (type === 1) {
    payload = Buffer.alloc(Number(length), random.between(1, 200));
    if (random.percent(3)) length = BigInt(lengthOf(random, false));
  } else if (type === 3 && random.percent(95)) {
    length = 0n;
  } else if (type === 7 && extended && random.percent(40)) {
    flags |= 32;
    const ids: Buffer[] = [];
    for (let left = random.pick([0, 1, 1, 2, 3, 4]); left > 0; left--) {
      const id = Buffer.alloc(4);
      id.writeUInt32BE(random.percent(90) ? random.between(1, 3) : random.edge(32));
      ids.push(id);
    }
    const range = Buffer.alloc(8);
    range.writeBigUInt64BE(random.percent(80) ? length : random.wide());
    payload = Buffer.concat([range, ...ids]);
    length = BigInt(payload.length);
  } else if (extended && random.percent(10)) {
    length = random.percent(40) ? random.wide() : 2n ** BigInt(random.between(30, 37)) - 4096n;
  }
  const offset = type === 3 && random.percent(95) ? 0n : offsetOf(random);
  const header = Buffer.alloc(extended ? 32 : 28);
  header.writeUInt32BE(extended ? 0x21e41c71 : 0x25609513, 0);
  header.writeUInt16BE(flags & 0xffff, 4);
  header.writeUInt16BE(type & 0xffff, 6);
  header.writeUInt32BE(random.bits(), 8);
  header.writeUInt32BE(random.bits(), 12);
  header.writeBigUInt64BE(offset, 16);
  if (extended) header.writeBigUInt64BE(length, 24);
  else header.writeUInt32BE(Number(length & 0xffff_ffffn), 24);
  const request = Buffer.concat([header, payload]);
  return random.percent(2) ? damaged(random, request) : request;
}

export function anyRequests(random: Random, extended: boolean): Buffer[] {
  const pieces: Buffer[] = [];
  // Now and then more than may be under way.
  const count = random.below(300) === 0 ? 320 : random.pick([1, 1, 2, 3, 5, 8, 20]);
  for (let left = count; left > 0; left--) {
    pieces.push(anyRequest(random, extended));
  }
  if (random.percent(30)) {
    const leaving = Buffer.alloc(extended ? 32 : 28);
    leaving.writeUInt32BE(extended ? 0x21e41c71 : 0x25609513, 0);
    leaving.writeUInt16BE(2, 6);
    pieces.push(leaving);
  }
  return pieces;
}
