/** A client's half of a handshake, right or wrong, as pieces: flags, then an option each. */

import { Buffer } from 'node:buffer';
import { damaged } from './mutate.js';
import type { Random } from './random.js';

/** What a generator may name. */
export interface Names {
  readonly exports: readonly string[];
  readonly contexts: readonly string[];
}

const strayNames = ['', 'gone', 'vol0\0', '\u00e9\ud83d\ude00', 'x'.repeat(4096), 'x'.repeat(4097)];
const strayQueries = ['', 'base:', 'qemu:', 'qemu:dirty-bitmap:', 'x:y', 'base', 'q'.repeat(300)];
const numbers = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
}

function sized(random: Random, text: string): Buffer {
  const bytes = Buffer.from(text);
  const length = random.percent(2) ? random.edge(32) : bytes.length;
  return Buffer.concat([u32(length), bytes]);
}

function option(random: Random, number: number, data: Buffer): Buffer {
  const length = random.percent(2) ? random.edge(32) : data.length;
  return Buffer.concat([Buffer.from('IHAVEOPT'), u32(number), u32(length), data]);
}

function nameOf(random: Random, { exports }: Names): string {
  return random.percent(85) ? random.pick(exports) : random.pick(strayNames);
}

function dataOf(random: Random, number: number, names: Names): Buffer {
  switch (number) {
    case 1:
      return Buffer.from(nameOf(random, names));
    case 6:
    case 7: {
      const types: Buffer[] = [];
      for (let left = random.pick([0, 0, 1, 3, 5]); left > 0; left--) {
        types.push(u16(random.percent(80) ? random.below(4) : random.edge(16)));
      }
      const count = random.percent(3) ? random.edge(16) : types.length;
      return Buffer.concat([sized(random, nameOf(random, names)), u16(count), ...types]);
    }
    case 9:
    case 10: {
      const queries: Buffer[] = [];
      for (let left = random.pick([0, 1, 1, 2, 3, 66]); left > 0; left--) {
        const query = random.pick(random.percent(70) ? names.contexts : strayQueries);
        queries.push(sized(random, query));
      }
      const count = random.percent(3) ? random.edge(32) : queries.length;
      return Buffer.concat([sized(random, nameOf(random, names)), u32(count), ...queries]);
    }
    default:
      return random.percent(95) ? Buffer.alloc(0) : random.bytes(random.between(1, 40));
  }
}

export function clientFlags(random: Random): Buffer {
  return u32(random.percent(90) ? 3 : random.percent(50) ? 1 : random.edge(32));
}

export function anyOption(random: Random, names: Names, tls = false): Buffer {
  let number = random.percent(95) ? random.pick(numbers) : random.edge(32);
  if (tls && random.percent(30)) number = 5;
  // Those that end a handshake come less often.
  if ((number === 1 || number === 2) && random.percent(70)) number = 7;
  const known = option(random, number, dataOf(random, number, names));
  return random.percent(6) ? damaged(random, known) : known;
}

/** Flags and any options. */
export function anyHandshake(random: Random, names: Names, tls = false): Buffer[] {
  const pieces = [clientFlags(random)];
  // Now and then more than are allowed.
  const count = random.below(1000) === 0 ? 1100 : random.pick([0, 1, 2, 3, 4, 8, 20]);
  for (let left = count; left > 0; left--) {
    pieces.push(anyOption(random, names, tls));
  }
  if (random.percent(5)) pieces.push(random.bytes(random.between(1, 64)));
  return pieces;
}

/** What ends in transmission, but for a little damage now and then. */
export function likelyHandshake(random: Random, names: Names, damage: number): Buffer[] {
  const name = random.pick(names.exports);
  const pieces = [u32(3)];
  const way = random.below(3);
  const plain = (number: number, data: Buffer): Buffer =>
    Buffer.concat([Buffer.from('IHAVEOPT'), u32(number), u32(data.length), data]);
  const text = (word: string): Buffer => Buffer.concat([u32(word.length), Buffer.from(word)]);
  if (way > 0) pieces.push(plain(way === 1 ? 8 : 11, Buffer.alloc(0)));
  if (way > 0 && random.percent(70)) {
    const queries = names.contexts.filter(() => random.percent(60)).map(text);
    pieces.push(plain(10, Buffer.concat([text(name), u32(queries.length), ...queries])));
  }
  if (way < 2 && random.percent(10)) pieces.push(plain(1, Buffer.from(name)));
  else pieces.push(plain(7, Buffer.concat([text(name), u16(0)])));
  return pieces.map((piece) => (random.percent(damage) ? damaged(random, piece) : piece));
}
