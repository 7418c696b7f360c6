/**
 * Blocks of IP addresses as people write them: one address, or the bits that all of a block share:
 *
 *   192.0.2.7   192.0.2.0/24   2001:db8::7   2001:db8::/32
 *
 * An IPv4-mapped IPv6 address (`::ffff:192.0.2.7`, as a socket for both families names a peer) is
 * the IPv4 address in it, in a block too. Otherwise the families are apart: `::/0` has no IPv4
 * address in it.
 */

import { EINVAL } from './errno.js';
import { MapperError } from './errors.js';

/** The bytes of an address, 4 or 16 of them. */
export type Address = readonly number[];

export interface AddressBlock {
  readonly address: Address;
  /** How many of its bits the block's addresses share. */
  readonly bits: number;
}

const mappedPrefix: Address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/** A numeric address, with or without IPv6's zone, which is left out; null for any other text. */
export function parseAddress(text: string): Address | null {
  const address = parseEither(text.replace(/(:.*)%.+$/, '$1'));
  return address !== null && isMapped(address) ? address.slice(12) : address;
}

/** Throws MapperError with what is wrong. */
export function parseAddressBlock(text: string): AddressBlock {
  const [, addressText = '', bitsText] = /^([^/]*)(?:\/([0-9]{1,3}))?$/.exec(text) ?? [];
  const address = parseEither(addressText);
  if (address === null) {
    const wanted = 'an address, or a block as 192.0.2.0/24 or 2001:db8::/32';
    throw new MapperError(EINVAL, `found "${text}", wanted ${wanted}`);
  }
  const bitsMax = address.length * 8;
  const bits = bitsText === undefined ? bitsMax : Number(bitsText);
  if (bits > bitsMax) throw new MapperError(EINVAL, `found "${text}", wanted at most /${bitsMax}`);
  // Whoever writes this may mean the block or the one address.
  if (address.some((byte, at) => (byte & ~maskOf(bits, at)) !== 0)) {
    throw new MapperError(EINVAL, `found "${text}", wanted no bits behind the first ${bits}`);
  }
  if (!isMapped(address) || bits < 96) return { address, bits };
  return { address: address.slice(12), bits: bits - 96 };
}

export function isInBlock(address: Address, block: AddressBlock): boolean {
  return (
    address.length === block.address.length &&
    address.every((byte, at) => ((byte ^ (block.address[at] ?? 0)) & maskOf(block.bits, at)) === 0)
  );
}

/** The bits of the byte at `at` that belong to the first `bits` of all. */
function maskOf(bits: number, at: number): number {
  const here = Math.min(8, Math.max(0, bits - 8 * at));
  return (0xff << (8 - here)) & 0xff;
}

function isMapped(address: Address): boolean {
  return address.length === 16 && mappedPrefix.every((byte, at) => address[at] === byte);
}

function parseEither(text: string): Address | null {
  return text.includes(':') ? parseIpv6(text) : parseIpv4(text);
}

function parseIpv4(text: string): number[] | null {
  const words = text.split('.');
  // A leading zero is octal to some and decimal to others.
  if (words.length !== 4 || !words.every((word) => /^(0|[1-9][0-9]{0,2})$/.test(word))) return null;
  const bytes = words.map(Number);
  return bytes.every((byte) => byte <= 255) ? bytes : null;
}

/** Groups of 16 bits; `::` stands for one or more groups of zeroes. */
function parseIpv6(text: string): number[] | null {
  const [left = '', right, ...more] = text.split('::');
  if (more.length > 0) return null;
  const before = parseGroups(left, right === undefined);
  const after = right === undefined ? [] : parseGroups(right, true);
  if (before === null || after === null) return null;
  const gap = 16 - before.length - after.length;
  if (right === undefined ? gap !== 0 : gap < 2) return null;
  return [...before, ...new Array<number>(gap).fill(0), ...after];
}

/** `isLast`: the address ends here, so the last 32 bits may be written as IPv4. */
function parseGroups(text: string, isLast: boolean): number[] | null {
  if (text === '') return [];
  const bytes: number[] = [];
  const words = text.split(':');
  for (const [at, word] of words.entries()) {
    const isFour = isLast && at === words.length - 1 && word.includes('.');
    const parsed = isFour ? parseIpv4(word) : parseGroup(word);
    if (parsed === null) return null;
    bytes.push(...parsed);
  }
  return bytes;
}

function parseGroup(word: string): number[] | null {
  if (!/^[0-9a-f]{1,4}$/i.test(word)) return null;
  const group = Number.parseInt(word, 16);
  return [group >> 8, group & 0xff];
}
