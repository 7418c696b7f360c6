/**
 * Bytes that tell where they belong: byte `position` of stream `seed` is the same wherever it is
 * made and checked. The table's length is a prime, so that a shift by any round number shows.
 */

const tableBytes = 65_521;
const tables = new Map<number, Uint8Array>();

function tableOf(seed: number): Uint8Array {
  let table = tables.get(seed);
  if (table === undefined) {
    table = new Uint8Array(tableBytes);
    const next = random(seed);
    for (let i = 0; i < tableBytes; i++) table[i] = next(256);
    tables.set(seed, table);
  }
  return table;
}

/** Fills `bytes` with the stream from `position` on. */
export function fillPattern(bytes: Uint8Array, position: number, seed: number): void {
  const table = tableOf(seed);
  let at = position % tableBytes;
  for (let i = 0; i < bytes.length; i++) {
    bytes[i] = table[at] as number;
    if (++at === tableBytes) at = 0;
  }
}

/** Index of the first byte that differs from the stream at `position`; -1 when none does. */
export function patternMismatch(bytes: Uint8Array, position: number, seed: number): number {
  const table = tableOf(seed);
  let at = position % tableBytes;
  for (let i = 0; i < bytes.length; i++) {
    if (bytes[i] !== table[at]) return i;
    if (++at === tableBytes) at = 0;
  }
  return -1;
}

/** A generator of integers from 0 up to `limit`: the same for the same seed (xorshift32). */
export function random(seed: number): (limit: number) => number {
  let state = (seed | 0) === 0 ? 0x9e3779b9 : seed | 0;
  return (limit) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return Math.floor(((state >>> 0) / 2 ** 32) * limit);
  };
}
