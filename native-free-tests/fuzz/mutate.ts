/** Damage to bytes and to text that were right. */

import { Buffer } from 'node:buffer';
import type { Random } from './random.js';

const oddBytes = [0, 1, 0x0a, 0x20, 0x23, 0x25, 0x2f, 0x5c, 0x7f, 0x80, 0xc3, 0xff];

/** The same bytes with some places changed, taken out, put in or doubled. */
export function damaged(random: Random, bytes: Buffer): Buffer {
  let result: Buffer = Buffer.from(bytes);
  for (let count = random.between(1, 3); count > 0; count--) result = damagedOnce(random, result);
  return result;
}

function damagedOnce(random: Random, bytes: Buffer): Buffer {
  const { length } = bytes;
  if (length === 0) return random.bytes(random.between(1, 8));
  const at = random.below(length);
  switch (random.below(8)) {
    case 0:
      bytes[at] = (bytes[at] as number) ^ (1 << random.below(8));
      return bytes;
    case 1:
      bytes[at] = random.pick(oddBytes);
      return bytes;
    case 2:
      bytes[at] = random.bits();
      return bytes;
    case 3:
      return bytes.subarray(0, at);
    case 4: {
      const end = Math.min(length, at + random.between(1, 8));
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(end)]);
    }
    case 5: {
      const more = random.bytes(random.between(1, 8));
      return Buffer.concat([bytes.subarray(0, at), more, bytes.subarray(at)]);
    }
    case 6: {
      // Numbers at edges in a place of four bytes.
      const place = Math.min(at & ~3, Math.max(0, length - 4));
      if (length >= 4) bytes.writeUInt32BE(random.edge(32), place);
      return bytes;
    }
    default: {
      const end = Math.min(length, at + random.between(1, 32));
      return Buffer.concat([bytes.subarray(0, end), bytes.subarray(at)]);
    }
  }
}

const oddTexts = [
  ...['', ' ', '\t', '\r', '\n', '\0', '\\', '\\ ', '#', '# ', ':', ',', '-', '/', '0', '-1'],
  ...['1', '18446744073709551616', '9007199254740993', '0x10', '1e3', 'NaN', '\u00a0', '\ufeff'],
  ...['\u2028', '\u0085', '\v', '\ud83d\ude00', '\ufffd', '%00', '%2F', 'dm:', 'file://', '"'],
];

/** The same text with some places changed, taken out, put in or doubled. */
export function damagedText(random: Random, text: string): string {
  let result = text;
  for (let count = random.between(1, 3); count > 0; count--) {
    const at = random.below(result.length + 1);
    const end = Math.min(result.length, at + random.between(0, 6));
    switch (random.below(4)) {
      case 0:
        result = result.slice(0, at) + result.slice(end);
        break;
      case 1:
        result = result.slice(0, end) + result.slice(at);
        break;
      default:
        result = result.slice(0, at) + random.pick(oddTexts) + result.slice(end);
    }
  }
  return result;
}

/** Where a stream is cut: pieces of up to some length, or all in one. */
export function cutUp(random: Random, bytes: Buffer): Buffer[] {
  if (random.percent(30)) return [bytes];
  const longest = random.pick([1, 3, 16, 24, 29, 100, 4096, 20_000]);
  // Byte by byte is for short streams.
  const most = bytes.length > 4000 ? Math.max(longest, 1000) : longest;
  const pieces: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = Math.min(bytes.length, at + random.between(1, most));
    pieces.push(bytes.subarray(at, end));
    at = end;
  }
  return pieces;
}
